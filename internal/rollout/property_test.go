package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawPolicy draws how a group rolls out.
func drawPolicy(t *rapid.T, n int) Policy {
	p := Policy{}
	switch rapid.IntRange(0, 4).Draw(t, "config") {
	case 0:
		p.OneAtATime = true
	case 1:
		p.HalfAtATime = true
	case 2:
		p.MinimumHealthy = Minimum{Type: HostCount}
	case 3:
		p.MinimumHealthy = Minimum{Type: HostCount, Value: rapid.IntRange(0, n).Draw(t, "minimum")}
	case 4:
		p.MinimumHealthy = Minimum{Type: FleetPercent, Value: rapid.IntRange(0, 99).Draw(t, "percent")}
	}
	if rapid.Bool().Draw(t, "waves") {
		p.Waves = []Wave{{Hosts: 1, Bake: time.Duration(rapid.IntRange(0, 20).Draw(t, "bake")) * time.Second}, {Percent: 50}, {Rest: true}}
	}
	if rapid.Bool().Draw(t, "rollback") {
		p.AutoRollback = []RollbackEvent{RollbackOnFailure, RollbackOnRequest}
	}
	p.Checks = rapid.IntRange(0, 1).Draw(t, "checks")
	p.Unreachable = rapid.SampledFrom([]Unreachable{UnreachableSkip, UnreachableWait, UnreachableFail}).Draw(t, "unreachable")
	p.Supersede = rapid.SampledFrom([]Supersede{SupersedeFastForward, SupersedeQueue, SupersedeCancel}).Draw(t, "supersede")
	p.MaxUnreachable = Limit{Set: true, Percent: true, Value: 50}
	return p
}

// TestFleetInvariants lets anything happen to a small fleet and checks after
// every entry what must always hold, then stops the faults and wants a verdict.
func TestFleetInvariants(t *testing.T) {
	reached := map[string]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(rt, "hosts")
		voters := min(n, rapid.SampledFrom([]int{1, 3}).Draw(rt, "voters"))
		f := newFleet(rt, n, voters, drawPolicy(rt, n))
		if n > 2 && rapid.Bool().Draw(rt, "late joiner") {
			f.joined = n - 1
		}
		for _, what := range f.live(f.target, f.happen, f.heal) {
			reached[what] = true
		}
	})
	tellReached(t, reached)
}

// live takes a fleet through a deployment, everything that may happen, and the
// end of all faults, and names the deployments that ended.
func (f *fleet) live(target func(name string, attempt int), happen, heal func()) []string {
	target("A", 0)
	if rapid.Bool().Draw(f.t, "settled") {
		heal()
		f.calm = false
	}
	for range rapid.IntRange(0, 100).Draw(f.t, "steps") * 4 {
		happen()
	}
	heal()
	f.truth()
	return f.summary()
}

// tellReached logs which deployments ended in any fleet, and wants one that succeeded.
func tellReached(t *testing.T, reached map[string]bool) {
	t.Helper()
	t.Logf("deployments that ended: %s", strings.Join(slices.Sorted(maps.Keys(reached)), ", "))
	if !reached["forward Succeeded"] {
		t.Error("no deployment of any fleet ever succeeded")
	}
}

// happen draws one thing.
func (f *fleet) happen() {
	t := f.t
	h := f.hosts[rapid.IntRange(0, len(f.hosts)-1).Draw(t, "host")]
	switch what := rapid.IntRange(0, 99).Draw(t, "what"); {
	case what < 35:
		f.round()
	case what < 40:
		h.sync()
	case what < 45:
		if len(f.net) > 0 {
			i := rapid.IntRange(0, len(f.net)-1).Draw(t, "message")
			f.deliver(i, rapid.IntRange(0, 9).Draw(t, "twice") == 0)
		}
	case what < 48:
		if len(f.net) > 0 { // lost
			f.net = f.net[1:]
		}
	case what < 68:
		h.step()
	case what < 74:
		h.poll()
	case what < 84:
		f.pass(time.Duration(rapid.IntRange(1, 70).Draw(t, "seconds")) * time.Second)
	case what < 87:
		f.seen()
	case what < 90:
		h.up = !h.up
	case what < 93:
		h.crash(rapid.Bool().Draw(t, "reboot"))
	case what < 95:
		if v := f.voters[rapid.IntRange(0, len(f.voters)-1).Draw(t, "voter")]; f.host(v).up {
			f.lead(v)
		}
	case what < 97:
		if f.host(f.leader).up {
			f.joined = len(f.hosts)
			f.target(rapid.SampledFrom([]string{"A", "B", "C", "D"}).Draw(t, "spec"), rapid.IntRange(0, 1).Draw(t, "attempt"))
		}
	case what < 98:
		h.sick = !h.sick
	case what < 99:
		f.ops++
		verb := rapid.SampledFrom([]Verb{VerbStop, VerbPause, VerbResume, VerbRetry, VerbSkip}).Draw(t, "verb")
		f.skips = f.skips || verb == VerbSkip
		f.commit(h.name, Operator{Group: "web", ID: fmt.Sprint("op", f.ops), Verb: verb, Actor: "anna"})
		if verb == VerbStop && rapid.Bool().Draw(t, "again") {
			f.commit(h.name, Operator{Group: "web", ID: fmt.Sprint("op", f.ops, "again"), Verb: VerbRetry, Actor: "anna"})
		}
	default:
		snap, err := f.twin.Snapshot()
		if err != nil {
			f.fatalf("%v", err)
		}
		f.twin = NewMachine()
		if err := f.twin.Restore(snap); err != nil {
			f.fatalf("%v", err)
		}
	}
}
