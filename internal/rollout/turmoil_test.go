package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// turmoil is what people do to a group while it rolls out: hosts leave and join,
// the policy and the set's limit change, the group is suspended, leaves git and
// comes back, and hosts are restored from backups or replaced by other machines.
type turmoil struct {
	*fleet
	storage map[string]int // machines that had a host's name before
	away    map[string]bool
	suspend bool
	backups map[string]backup
	spec    string
	attempt int
	places  int // of hosts in flight in the set; 0 = no limit
}

// backup is a host as it was.
type backup struct {
	disk    []byte
	running Spec
	whole   bool
	ended   *EvApplied
	last    Token
}

func (w *turmoil) target(name string, attempt int) {
	w.specs[name], w.spec, w.attempt = true, name, attempt
	t := Target{Group: "web", Folder: "shop/web", Spec: specOf(name), Attempt: attempt, Policy: w.policy, Suspend: w.suspend, SetInFlight: w.places}
	for i, h := range w.hosts {
		if !w.away[h.name] {
			t.Members = append(t.Members, MemberInfo{Host: h.name, Storage: fmt.Sprint("s", w.storage[h.name]), Zone: fmt.Sprint("z", i%2), Tags: map[string]string{"odd": fmt.Sprint(i % 2)}})
		}
	}
	if t, needed := w.m.TargetNeeded(t); needed {
		w.commit(w.leader, t)
	}
}

func (w *turmoil) drawPolicy() {
	t, n := w.t, len(w.hosts)
	p := drawPolicy(t, n)
	switch rapid.IntRange(0, 3).Draw(t, "shape") {
	case 0:
		p.Waves, p.Zonal = nil, &Zonal{FirstMonitor: time.Duration(rapid.IntRange(-1, 20).Draw(t, "first")) * time.Second,
			Monitor: time.Duration(rapid.IntRange(0, 20).Draw(t, "monitor")) * time.Second, PerZone: Minimum{Type: HostCount, Value: rapid.IntRange(0, 2).Draw(t, "zone")}}
	case 1:
		p.Waves = []Wave{{Tag: "odd=1", Bake: 5 * time.Second}, {Rest: true}}
	case 2:
		p.MaxUnavailable = Limit{Set: true, Value: 1}
	}
	w.policy, w.places = p, rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "places")
	w.most = max(w.most, 1, p.Budget(n))
	if p.OneAtATime {
		w.most = max(w.most, 1)
	}
}

func (w *turmoil) happen() {
	t := w.t
	h := w.hosts[rapid.IntRange(0, len(w.hosts)-1).Draw(t, "whose")]
	leads := w.host(w.leader).up
	switch what := rapid.IntRange(0, 99).Draw(t, "turmoil"); {
	case what < 3:
		if leads {
			w.away[h.name] = !w.away[h.name]
			w.returns(h)
			w.target(w.spec, w.attempt)
		}
	case what < 4:
		if leads {
			w.drawPolicy()
			w.target(w.spec, w.attempt)
		}
	case what < 6:
		if leads {
			w.target(rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "spec"), rapid.IntRange(0, 1).Draw(t, "attempt"))
		}
	case what < 7:
		if leads {
			w.suspend = !w.suspend && rapid.Bool().Draw(t, "suspend")
			w.target(w.spec, w.attempt)
		}
	case what < 8:
		if o, needed := w.m.OrphanNeeded("web"); needed && leads && rapid.Bool().Draw(t, "orphan") {
			w.commit(w.leader, o)
		}
	case what < 9:
		if h.apply == nil {
			w.backups[h.name] = backup{h.disk, h.running, h.whole, h.ended, h.last}
		}
	case what < 10:
		if b, ok := w.backups[h.name]; ok && rapid.Bool().Draw(t, "restore") {
			h.apply, h.unsure = nil, true
			h.disk, h.running, h.whole, h.ended, h.last = b.disk, b.running, b.whole, b.ended, b.last
			clear(h.hooks) // of what the machine did since then nothing is left
			h.up = true
			h.crash(true)
		}
	case what < 12:
		h.sick = !h.sick
		h.poll()
	case what < 13:
		if leads && h.name != w.leader {
			w.replace(h)
		}
	case what < 14:
		w.ops++
		w.commit(h.name, Operator{Group: "web", ID: fmt.Sprint("op", w.ops), Verb: rapid.SampledFrom([]Verb{VerbStop, VerbRetry}).Draw(t, "verb"), Actor: "anna"})
	default:
		w.fleet.happen()
	}
}

// replace gives another machine the name of a host; what the one before still had to say nobody hears.
func (w *turmoil) replace(h *simHost) {
	w.storage[h.name]++
	delete(w.backups, h.name)
	delete(w.back, h.name)
	w.net = slices.DeleteFunc(w.net, func(m message) bool { return m.from == h.name })
	h.disk, h.running, h.whole, h.ended, h.apply, h.last = nil, Spec{}, false, nil, nil, Token{}
	h.sick, h.unsure, h.up = false, false, true
	clear(h.hooks)
	h.crash(true)
	w.target(w.spec, w.attempt)
}

// returns notes what a host that comes back to the group is in the middle of.
func (w *turmoil) returns(h *simHost) {
	if w.away[h.name] {
		return
	}
	delete(w.back, h.name)
	for _, a := range w.m.Assignments(h.name) {
		if a.Grant != nil {
			w.back[h.name] = a.Grant.Token
		}
	}
	if h.apply != nil {
		w.back[h.name] = h.apply.grant.Token
	}
}

func (w *turmoil) heal() {
	w.calm = true
	for _, h := range w.hosts {
		h.up = true
	}
	for _, h := range w.hosts {
		if w.away[h.name] {
			w.away[h.name] = false
			w.returns(h)
		}
	}
	w.suspend = false
	w.target(w.spec, w.attempt)
	w.fleet.heal()
}

func TestFleetTurmoil(t *testing.T) {
	reached := map[string]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(rt, "hosts")
		w := &turmoil{storage: map[string]int{}, away: map[string]bool{}, backups: map[string]backup{}}
		w.fleet = newFleet(rt, n, min(n, rapid.SampledFrom([]int{1, 3}).Draw(rt, "voters")), Policy{})
		w.drawPolicy()
		w.retarget, w.gone, w.back = w.target, w.away, map[string]Token{}
		for _, what := range w.live(w.target, w.happen, w.heal) {
			reached[what] = true
		}
	})
	tellReached(t, reached)
}
