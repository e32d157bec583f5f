package rollout

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain keeps rapid from leaving files of failures in testdata; a failing
// case prints its seed.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// reference is CodeDeploy's arithmetic written down a second time, as plainly as
// its documentation has it, and without a line of the code under test.
func reference(n, m, b int, one bool, fails func(host int) bool) (status string, attempted, succeeded, failed int) {
	if b <= 0 {
		return "Failed", 0, 0, 0
	}
	var flying []int
	next := 1
	for {
		for next <= n && len(flying) < b-failed && (!one || len(flying) == 0) {
			flying = append(flying, next)
			next++
			attempted++
		}
		if len(flying) == 0 {
			break
		}
		if fails(flying[0]) {
			failed++
		} else {
			succeeded++
		}
		flying = flying[1:]
		if failed >= b && next <= n {
			for _, h := range flying { // in flight: they finish
				if fails(h) {
					failed++
				} else {
					succeeded++
				}
			}
			return "Failed", attempted, succeeded, failed
		}
	}
	if succeeded >= max(1, m) {
		return "Succeeded", attempted, succeeded, failed
	}
	return "Failed", attempted, succeeded, failed
}

// TestEveryOutcomeOfSmallFleets plays every policy over every pattern of
// failures of one to four hosts.
func TestEveryOutcomeOfSmallFleets(t *testing.T) {
	most := 4
	if testing.Short() {
		most = 3
	}
	cases := 0
	for n := 1; n <= most; n++ {
		var policies []Policy
		for v := 0; v <= n+1; v++ {
			policies = append(policies, count(v))
		}
		for v := 0; v <= 99; v += 9 {
			policies = append(policies, percent(v))
		}
		policies = append(policies, Policy{OneAtATime: true}, Policy{HalfAtATime: true})
		for _, p := range policies {
			for pattern := range 1 << n {
				cases++
				var fail []int
				for h := 1; h <= n; h++ {
					if pattern>>(h-1)&1 == 1 {
						fail = append(fail, h)
					}
				}
				got, err := Simulate(SimulateOptions{Hosts: n, Policy: p, Fail: fail})
				if err != nil {
					t.Fatal(err)
				}
				m, b := p.Minimum(n), p.Budget(n)
				if p.HalfAtATime && n == 1 {
					m = 0
				}
				status, attempted, succeeded, failed := reference(n, m, b, p.OneAtATime, func(h int) bool { return pattern>>(h-1)&1 == 1 })
				want := fmt.Sprint(status, attempted, succeeded, failed, n-attempted)
				if have := fmt.Sprint(got.Status, got.Attempted, got.Succeeded, got.Failed, got.Skipped); have != want {
					t.Errorf("N=%d %+v fail=%v: got %s (%s), want %s", n, p.MinimumHealthy, fail, have, got.Reason, want)
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}
