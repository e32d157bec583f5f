package agent

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/rollout"
)

func TestVerify(t *testing.T) {
	voter := hostFile(t, "role: db")
	o := newOrigin(t, "hosts/web-1.yaml", hostFile(t, "role: web"), "hosts/db-1.yaml", voter, "coordinators/web.yaml", setFile("db-1", voter), "shop/group.yaml", groupFile("01WEBSITE0", "a"))
	f := newSource(t, o, t.TempDir())
	v := &verifier{repo: f.repo, world: f.current}
	spec := rollout.Spec{Commit: o.intro, SpecHash: "?"}
	if got := v.verify("01WEBSITE0", spec, ""); got.OK || !got.Wait {
		t.Errorf("without a world: %+v", got)
	}
	f.syncs(t)
	g, ok := f.current().group("01WEBSITE0")
	if !ok {
		t.Fatalf("problems %v", f.current().Problems)
	}
	old := rollout.Spec{Commit: o.intro, SpecHash: g.SpecHash}
	newer := o.commit("shop/group.yaml", groupFile("01WEBSITE0", "b"))
	next := old
	next.Commit = newer
	if got := v.verify("01WEBSITE0", next, ""); got.OK || !got.Wait || !strings.Contains(got.Reason, "not in this host's verified history yet") {
		t.Errorf("a commit that has not come: %+v", got)
	}
	f.syncs(t)
	if got := v.verify("01WEBSITE0", next, ""); got.OK || got.Wait || !strings.Contains(got.Reason, "the grant says") {
		t.Errorf("a wrong hash: %+v", got)
	}
	g, _ = f.current().group("01WEBSITE0")
	next.SpecHash = g.SpecHash
	for name, c := range map[string]struct {
		spec     rollout.Spec
		lastGood string
		ok       bool
		reason   string
	}{
		"the newest":               {next, "", true, ""},
		"the newest after the old": {next, old.Commit, true, ""},
		"the same again":           {next, newer, true, ""},
		"an ancestor":              {old, "", true, ""},
		"what ran last":            {old, old.Commit, true, ""},
		"older than what ran last": {old, newer, false, "is older than"},
		"last ran elsewhere":       {next, strings.Repeat("1", 40), true, ""},
	} {
		if got := v.verify("01WEBSITE0", c.spec, c.lastGood); got.OK != c.ok || got.Wait || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := v.verify("01NOSUCH00", next, ""); got.OK || got.Wait || !strings.Contains(got.Reason, "no group with id") {
		t.Errorf("an unknown group: %+v", got)
	}
}

func TestVerifierCacheIsBounded(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	commits := []string{o.intro}
	for range 2 * commitsCached {
		commits = append(commits, o.commit("fleet.yaml", "name: again"+string(rune('a'+len(commits)))+"\n"))
	}
	f.syncs(t)
	v := &verifier{repo: f.repo, world: f.current}
	for range 2 {
		for _, commit := range commits {
			if _, err := v.state(commit); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(v.order) != commitsCached || len(v.states) != commitsCached {
		t.Errorf("%d states are kept, %d in order", len(v.states), len(v.order))
	}
}
