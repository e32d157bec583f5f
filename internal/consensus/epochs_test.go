package consensus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Epoch after epoch with other survivors: whatever one of the new voters had
// applied is the beginning of what all apply from then on, and the old voters
// that come back too late are not heard.
func TestEpochsAtRandom(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3, 4, DefaultTiming())
				defer f.end()
				f.run()
				w := &wanderer{t: t, fleet: f, rand: rand.New(rand.NewPCG(seed, 1))}
				for round := range 4 {
					w.round(round)
				}
			})
		})
	}
}

type wanderer struct {
	t     *testing.T
	fleet *fleet
	rand  *rand.Rand
}

// round works for a while, loses all voters but one, and recovers.
func (w *wanderer) round(round int) {
	f := w.fleet
	var voters []string
	for _, v := range f.spec.Voters {
		voters = append(voters, v.Host)
	}
	w.rand.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	survivor, lost := voters[0], voters[1:]
	var others []string
	for _, name := range f.names() {
		if !slices.Contains(voters, name) {
			others = append(others, name)
		}
	}
	w.rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	f.leader()
	first := fmt.Sprint("first", round)
	f.hosts[others[0]].insist(first)
	f.agree(first)
	if w.rand.IntN(2) == 0 { // the survivor, and perhaps one that is new, fall behind
		f.net.split([]string{survivor, others[w.rand.IntN(2)]}, slices.Concat(lost, others[2:]))
		f.leader(survivor).insist(fmt.Sprint("second", round))
	} else {
		f.leader().insist(fmt.Sprint("second", round))
	}
	if w.rand.IntN(2) == 0 {
		<-time.After(time.Second)
	}
	for _, name := range lost {
		f.hosts[name].crash()
	}
	f.net.heal()
	old := f.spec
	f.spec = f.next(survivor, others[0], others[1])
	known := w.move(survivor, others)
	alive := append([]string{survivor}, others...)
	f.leader()
	after := fmt.Sprint("after", round)
	f.hosts[others[len(others)-1]].insist(after)
	f.agree(after, alive...)
	lines := f.hosts[survivor].lines()
	for name, had := range known {
		if len(had) > len(lines) || !slices.Equal(had, lines[:len(had)]) {
			w.t.Errorf("round %d: %s had %q, now there is %q", round, name, had, lines)
		}
	}
	w.stragglers(old, lost, fmt.Sprint("stale", round), alive)
	f.agree(after)
}

// move brings all that live into the new epoch, the survivor over a crash at
// times, and returns what each new voter had then.
func (w *wanderer) move(survivor string, others []string) map[string][]string {
	f := w.fleet
	known := map[string][]string{}
	w.rand.Shuffle(len(others)-2, func(i, j int) { others[i+2], others[j+2] = others[j+2], others[i+2] })
	for i, name := range append([]string{survivor}, others...) {
		h := f.hosts[name]
		if name == survivor && w.rand.IntN(2) == 0 {
			known[name] = h.lines()
			h.crash()
			f.run(name)
			continue
		}
		h.cancel()
		<-h.done
		if i < 3 {
			known[name] = h.lines()
		}
		h.move(f.spec)
	}
	return known
}

// stragglers lets the lost voters live on in the old epoch, where they are a
// majority, and then see the new one.
func (w *wanderer) stragglers(old SetSpec, lost []string, command string, alive []string) {
	f := w.fleet
	for _, name := range lost {
		if err := f.hosts[name].start(old); err != nil {
			w.t.Fatal(err)
		}
	}
	until(w.t, "the old epoch has a leader", func() bool {
		return slices.ContainsFunc(lost, func(name string) bool { return f.hosts[name].set.Status().Leading })
	})
	f.hosts[lost[0]].insist(command)
	<-time.After(10 * time.Second)
	for _, name := range lost {
		f.hosts[name].move(f.spec)
	}
	f.hosts[lost[1]].insist("end of " + command)
	f.agree("end of " + command)
	for _, name := range f.names() {
		if f.hosts[name].count(command) != 0 {
			w.t.Errorf("%s heard %q of epoch %d", name, command, old.Epoch)
		}
	}
}
