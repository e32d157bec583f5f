package agent

import (
	"slices"
	"testing"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/gossip"
)

// TestWhoSharesABundle: a host that joins is ahead of gossip. It used to be alone then, and read from the origin what all others had.
func TestWhoSharesABundle(t *testing.T) {
	groups := []desired.Group{
		{ID: "a", Members: []desired.HostName{"web-1", "web-2", "web-3"}, Revision: desired.Revision{Digest: "sha256:one"}},
		{ID: "b", Members: []desired.HostName{"db-1"}, Revision: desired.Revision{Digest: "sha256:one"}},
		{ID: "c", Members: []desired.HostName{"app-1"}, Revision: desired.Revision{Digest: "sha256:two"}},
	}
	self := gossip.Member{Name: "web-1", State: gossip.Alive}
	heard := []gossip.Member{self, {Name: "web-2", State: gossip.Dead}, {Name: "web-3", State: gossip.Suspect}, {Name: "app-1", State: gossip.Alive}}
	for _, c := range []struct {
		name  string
		heard []gossip.Member
		early bool
		want  []string
	}{
		{"gossip has told of others", heard, false, []string{"web-1", "web-3"}},
		{"what gossip tells counts from the first moment", heard, true, []string{"web-1", "web-3"}},
		{"gossip has told of nobody yet", []gossip.Member{self}, true, []string{"db-1", "web-1", "web-2", "web-3"}},
		{"gossip tells of nobody", []gossip.Member{self}, false, []string{"web-1"}},
		{"gossip knows the only other host as dead", heard[:2], true, []string{"web-1"}},
	} {
		got := sharers(groups, groups[0], "web-1", c.heard, c.early)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v share the bundle, want %v", c.name, got, c.want)
		}
	}
}
