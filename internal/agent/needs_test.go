package agent

import (
	"maps"
	"slices"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// TestNeeders: a host that is behind needs what its group runs, also where git asks for that in another group alone.
func TestNeeders(t *testing.T) {
	w := simpleWorld(commitA, "web")
	w.State.Groups[0].Revision.Digest = "sha256:one"
	views := []rollout.GroupView{
		{Desired: rollout.Spec{Digest: "sha256:two"}, Running: rollout.Spec{Digest: "sha256:one"}, CatchUp: &rollout.DeploymentView{Digest: "sha256:three"}, Members: []rollout.MemberInfo{{Host: "db-1"}}},
		{Desired: rollout.Spec{Digest: "sha256:two"}, Members: []rollout.MemberInfo{{Host: "app-1"}}},
	}
	got := needers(w, views)
	for digest, want := range map[bundle.Digest][]string{"sha256:one": {"db-1", "web-1", "web-2"}, "sha256:two": {"app-1", "db-1"}, "sha256:three": {"db-1"}} {
		if !slices.Equal(got[digest], want) {
			t.Errorf("%s is needed by %v, want %v", digest, got[digest], want)
		}
	}
	if got := needers(nil, nil); len(got) != 0 {
		t.Errorf("without a commit %v are known", slices.Collect(maps.Keys(got)))
	}
}
