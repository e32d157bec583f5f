package rollout

import (
	"strings"
	"testing"
)

// TestWhoComesBackCounts: hosts that come back to the group in the middle of an
// earlier deployment use every bound on hosts that are down at once.
func TestWhoComesBackCounts(t *testing.T) {
	for name, policy := range map[string]Policy{
		"one at a time":   {OneAtATime: true},
		"half at a time":  {HalfAtATime: true},
		"percent":         percent(60),
		"of a zone":       {Zonal: &Zonal{PerZone: Minimum{Type: FleetPercent, Value: 60}}},
		"max unavailable": {MaxUnavailable: Limit{Set: true, Value: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConvo(t)
			c.play("lead h9 voters=h9\ntarget A hosts=h1/a,h2/a,h3/a,h4/a,h5/a config=AllAtOnce\nhello all boot=1 runs=A")
			c.groups["web"].Policy.MaxUnavailable = Limit{Set: true, Value: 2} // h1 and h2
			c.play("target B\nready all for=B\naccept h1 h2\nstopping h1 h2")
			c.groups["web"].Policy = policy
			c.play("target C hosts=h3/a,h4/a,h5/a\ntick 30s\nready h3 h4 h5 for=C\ntarget hosts=h1/a,h2/a,h3/a,h4/a,h5/a")
			if said := c.play("done h3"); strings.Contains(said, "grant") {
				t.Errorf("while h1 and h2 are down: %s", said)
			}
			if said := c.play("done h1\ndone h2"); !strings.Contains(said, "grant") {
				t.Errorf("nothing is granted although h1 and h2 are back: %s", said)
			}
		})
	}
}
