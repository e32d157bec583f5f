package plan

import (
	"fmt"
	"os"
	"testing"
)

// fleet is three sites on links of 20 Mbit/s, with an origin twice as fast as one link, and 64 MiB for each host. 2 % of the hosts have a tenth of the link, 1 % die,
// half of those while they read from the origin or just after, and 10 % have no route to it.
func fleet(hosts int, seed uint64) simConfig {
	return simConfig{hosts: hosts, sites: 3, pieces: 256, pieceBytes: 256 << 10, link: 20e6 / 8, origin: 40e6 / 8, stragglers: 0.02, dying: 0.01, routeless: 0.10, seed: seed}
}

// ownOrigins lets each site read a copy, each over a route as fast as the one above.
func ownOrigins(c simConfig) simConfig {
	c.own, c.origin = true, c.origin*float64(c.sites)
	return c
}

// faultless is a fleet in which nothing goes wrong.
func faultless(c simConfig) simConfig {
	c.stragglers, c.dying, c.routeless = 0, 0, 0
	return c
}

// check holds a fleet to its bounds, and says which it misses.
func (r simResult) check(c simConfig, p99 float64) error {
	copies := 1.0
	if c.own {
		copies = float64(c.sites)
	}
	switch {
	case r.unfinished > 0:
		return fmt.Errorf("%d live hosts have not got everything", r.unfinished)
	case r.p99 > p99:
		return fmt.Errorf("99%% of the hosts took %.3f times the floor, at most %.2f are allowed", r.p99, p99)
	case r.egress > 1.01*copies+r.lost+r.expired || r.expired > 0.03*copies:
		return fmt.Errorf("%.3f copies left the origin, of which %.3f died with their holders and %.3f were read too slowly", r.egress, r.lost, r.expired)
	case (r.mostUp > RequestsMax || r.mostAfter > allMax) && c.hosts > allMax:
		return fmt.Errorf("a host served %d requests at a time, and %d when it was done", r.mostUp, r.mostAfter)
	}
	return nil
}

// row is a line of the table in docs/explanation/distribution.md.
func (r simResult) row(name string) string {
	return fmt.Sprintf("| %s | %.2f / %.2f / %.2f | %.3f | %.3f + %.3f | %.1f |", name, r.p50, r.p99, r.last, r.egress, r.lost, r.expired, r.far)
}

func TestAThousandHosts(t *testing.T) {
	t.Parallel()
	hosts := 1000
	if raceEnabled {
		hosts = 300
	}
	c := fleet(hosts, 1)
	r := simulate(c)
	t.Log(r.row(fmt.Sprint(hosts, " hosts")))
	if err := r.check(c, 1.3); err != nil {
		t.Error(err)
	}
}

// small is a group on links of 100 Mbit/s that gets 64 MiB from an origin as fast as one link.
func small(hosts int, routeless float64) simConfig {
	return simConfig{hosts: hosts, sites: 1, pieces: 512, pieceBytes: 128 << 10, link: 100e6 / 8, origin: 100e6 / 8, routeless: routeless, seed: 1}
}

// TestAllHostsSendAsMuchHoweverFewRead: hosts without a route to the origin pass on what others read, and a group in which only one host has a route takes hardly longer.
func TestAllHostsSendAsMuchHoweverFewRead(t *testing.T) {
	t.Parallel()
	for _, hosts := range []int{4, 8, 16} {
		all := simulate(small(hosts, 0))
		half := simulate(small(hosts, 0.5))
		one := simulate(small(hosts, 1-1/float64(hosts)))
		c := small(hosts, 0)
		c.blocked = 0.5
		blocked := simulate(c)
		t.Logf("%d hosts: %.3f of the floor where all read, %.3f where half do and %.3f where the others try, %.3f where one does; who sends most sends %.2f, %.2f and %.2f of the mean",
			hosts, all.last, half.last, blocked.last, one.last, all.mostSent, half.mostSent, one.mostSent)
		if half.last > 1.1*all.last || blocked.last > 1.1*all.last || one.last > 1.3*all.last {
			t.Errorf("%d hosts: %.3f, %.3f, %.3f and %.3f of the floor", hosts, all.last, half.last, blocked.last, one.last)
		}
		if half.mostSent > 1.2 || one.mostSent > 1.6 {
			t.Errorf("%d hosts: one sends %.2f and %.2f of the mean", hosts, half.mostSent, one.mostSent)
		}
		if all.egress != 1 || half.egress != 1 || one.egress != 1 {
			t.Errorf("%d hosts: %.3f, %.3f and %.3f copies left the origin", hosts, all.egress, half.egress, one.egress)
		}
	}
}

// TestWhoAsksFirstMayHaveNoRoute: where half of the hosts cannot read, it hardly matters which, though they find out after a second only. When the first lease was all
// that was dealt before anything landed, one group in five waited two seconds.
func TestWhoAsksFirstMayHaveNoRoute(t *testing.T) {
	t.Parallel()
	for _, hosts := range []int{4, 8, 16} {
		for seed := range uint64(160 / hosts) {
			c := small(hosts, 0)
			c.blocked, c.seed = 0.5, seed+1
			if r := simulate(c); r.last > 1.3 || r.egress != 1 {
				t.Errorf("%d hosts, seed %d: %.3f of the floor, %.3f copies left the origin", hosts, c.seed, r.last, r.egress)
			}
		}
	}
}

func TestASimulationIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	c := fleet(150, 5)
	if a, b := simulate(c), simulate(c); a != b {
		t.Errorf("%+v\n%+v", a, b)
	}
}

func TestEachSiteReadsACopyOfItsOwn(t *testing.T) {
	t.Parallel()
	c := ownOrigins(fleet(300, 2))
	r := simulate(c)
	if err := r.check(c, 1.3); err != nil {
		t.Error(err)
	}
	if r.egress < 3 || r.far > 0 {
		t.Errorf("%.3f copies left the origin, %.3f went between sites", r.egress, r.far)
	}
}

// TestAFleetThatReadsInOrderMissesItsBounds takes rarest-first out: pieces are asked for in the order of the file.
func TestAFleetThatReadsInOrderMissesItsBounds(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("needs a thousand hosts, and too long with the race detector")
	}
	c := fleet(1000, 1)
	c.blind = true
	if err := simulate(c).check(c, 1.3); err == nil {
		t.Error("it keeps them")
	} else {
		t.Log(err)
	}
}

// TestAFleetThatDealsNothingAgainMissesItsBounds lets leases that ran out stay with their holders.
func TestAFleetThatDealsNothingAgainMissesItsBounds(t *testing.T) {
	t.Parallel()
	c := fleet(300, 1)
	if err := simulate(c).check(c, 1.3); err != nil {
		t.Error("with it:", err)
	}
	c.forever = true
	if err := simulate(c).check(c, 1.3); err == nil {
		t.Error("it keeps them")
	} else {
		t.Log(err)
	}
}

// TestLargeFleets prints the table of docs/explanation/distribution.md.
func TestLargeFleets(t *testing.T) {
	if os.Getenv("GITOPSD_SOAK") == "" {
		t.Skip("takes minutes: set GITOPSD_SOAK=1")
	}
	for _, one := range []struct {
		name string
		c    simConfig
		p99  float64
		miss bool // its bounds
	}{
		{"1,000 hosts, nothing goes wrong", faultless(fleet(1000, 1)), 1.3, false},
		{"1,000 hosts", fleet(1000, 1), 1.3, false},
		{"1,000 hosts, another seed", fleet(1000, 2), 1.3, false},
		{"1,000 hosts, a third seed", fleet(1000, 3), 1.3, false},
		{"1,000 hosts, `origin: own`", ownOrigins(fleet(1000, 1)), 1.3, false},
		{"5,000 hosts", fleet(5000, 1), 1.4, false},
		{"5,000 hosts, another seed", fleet(5000, 2), 1.4, false},
		{"1,000 hosts, in order of the file", func() simConfig { c := fleet(1000, 1); c.blind = true; return c }(), 1.3, true},
	} {
		t.Run(one.name, func(t *testing.T) {
			r := simulate(one.c)
			t.Log(r.row(one.name))
			if err := r.check(one.c, one.p99); (err != nil) != one.miss {
				t.Error(err)
			}
		})
	}
}
