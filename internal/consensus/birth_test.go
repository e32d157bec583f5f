package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// wipe removes the raft directory of a host that does not run, and with all
// set what tells that it was there, too.
func (h *host) wipe(all bool) {
	h.fleet.t.Helper()
	dir := filepath.Join(h.fleet.dir, h.name)
	if !all {
		dir = filepath.Join(dir, "raft")
	}
	if err := os.RemoveAll(dir); err != nil {
		h.fleet.t.Fatal(err)
	}
}

// patiently submits while a founder waits for voters of the epoch before.
func (h *host) patiently(command string) {
	h.fleet.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_, err := h.set.Submit(ctx, []byte(command))
	for errors.Is(err, ErrUnknown) {
		_, err = h.set.Submit(ctx, []byte(command))
	}
	if err != nil {
		h.fleet.t.Fatalf("%s: %v; %q", h.name, err, h.set.Status().Problems)
	}
}

// two crashes the whole set but v3, and gives the names of those two.
func (f *fleet) two() []string {
	f.hosts["v1"].crash()
	f.hosts["v2"].crash()
	return []string{"v1", "v2"}
}

// neverFounded fails if a host leads, goes on having a quorum, or has another state.
func (f *fleet) neverFounded(before []string, names ...string) {
	f.t.Helper()
	for _, name := range names {
		h := f.hosts[name]
		until(f.t, name+" has no quorum", func() bool {
			st := h.set.Status()
			return !st.Leading && !st.Quorum
		})
		if lines := h.lines(); len(lines) != 0 && fmt.Sprint(lines) != fmt.Sprint(before) {
			f.t.Errorf("%s has %q, not %q", name, lines, before)
		}
	}
}

// Two of three voters without their raft directory must not found the set again.
func TestTwoWipedVotersFoundNothing(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].commands("a", 5)
		f.agree("a4")
		before := f.hosts["o1"].lines()
		for _, name := range f.two() {
			f.hosts[name].wipe(false)
		}
		f.run("v1", "v2")
		for _, name := range []string{"v1", "v2"} {
			f.hosts[name].problem("its raft store was lost; it only observes")
			f.hosts[name].problem("gitopsd host init")
			f.hosts[name].problem("with epoch 2")
			if st := f.hosts[name].set.Status(); st.Role != RoleObserver {
				t.Errorf("%+v", st)
			}
			f.hosts["v3"].problem(name + " refused: " + name + "/disk-" + name + " lost its raft store")
			f.hosts["o1"].problem(name + " refused: " + name + "/disk-" + name + " lost its raft store")
		}
		f.agree("a4") // they follow the one that has the truth
		f.neverFounded(before, f.names()...)
		// And once more after a restart of all, and with the new epoch everything is there.
		f.die()
		f.run()
		f.hosts["v1"].problem("its raft store was lost")
		f.neverFounded(before, f.names()...) // v3 cannot know any more what was committed
		f.die()
		for _, name := range []string{"v1", "v2"} {
			f.hosts[name].storage = "new-" + name
		}
		f.spec = f.next("v1", "v2", "v3")
		f.run()
		f.hosts["o1"].patiently("b")
		f.agree("b")
		f.hosts["v1"].missing("a0", "a4")
		for _, name := range f.names() {
			if st := f.hosts[name].set.Status(); strings.Contains(strings.Join(st.Problems, "\n"), "lost") {
				t.Errorf("%s: %q", name, st.Problems)
			}
		}
	})
}

// The same with the markers gone, too: the third voter knows.
func TestTwoWipedVotersWithoutMarkersAreToldByTheThird(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].commands("a", 5)
		f.agree("a4")
		before := f.hosts["o1"].lines()
		for _, name := range f.two() {
			f.hosts[name].wipe(true)
		}
		f.run("v1", "v2")
		for _, name := range []string{"v1", "v2"} {
			h := f.hosts[name]
			h.problem("lost or restored from a backup")
			<-h.done
			if !errors.Is(h.err, ErrFailed) || !errors.Is(h.err, errLost) {
				t.Errorf("run ended with %v", h.err)
			}
			f.hosts["v3"].problem(name + "/disk-" + name)
		}
		f.neverFounded(before, f.names()...)
		for _, name := range []string{"v1", "v2"} { // as the agent does with a set that stopped
			f.hosts[name].move(f.spec)
			f.hosts[name].problem("it only observes")
		}
		f.agree("a4")
		f.neverFounded(before, f.names()...)
	})
}

// Nobody but an observer is left that knows better.
func TestTwoWipedVotersAreHeldBackByAnObserver(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].commands("a", 5)
		f.agree("a4")
		before := f.hosts["o1"].lines()
		o := f.hosts["o1"]
		until(t, "the observer knows all voters", func() bool {
			known := 0
			for _, v := range f.spec.Voters {
				if l, err := o.c.store.known(o.set.id, v); err == nil && l != nil {
					known++
				}
			}
			return known == 3
		})
		for _, name := range f.two() {
			f.hosts[name].wipe(true)
		}
		f.hosts["v3"].crash()
		f.run("v1", "v2")
		f.hosts["o1"].problem("v1/disk-v1 has store")
		f.hosts["o1"].problem("v2/disk-v2 has store")
		if fmt.Sprint(f.hosts["o1"].lines()) != fmt.Sprint(before) {
			t.Errorf("the observer dropped its state: %q", f.hosts["o1"].lines())
		}
		f.run("v3")
		f.hosts["v1"].problem("lost or restored from a backup")
		f.hosts["v2"].problem("lost or restored from a backup")
		f.neverFounded(before, "v3", "o1")
		f.hosts["o1"].missing("a0", "a4")
	})
}

// What two wiped voters made of the set while nobody could tell them is not
// carried into the next epoch in place of the truth.
func TestHistoryOfLostStoresIsNotAdopted(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().commands("a", 3)
		f.agree("a2")
		for _, name := range f.two() {
			f.hosts[name].wipe(true)
		}
		f.hosts["v3"].crash()
		f.run("v1", "v2")
		f.leader().commands("false", 50)
		f.run("v3")
		for _, name := range []string{"v1", "v2"} {
			f.hosts[name].problem("lost or restored from a backup")
			<-f.hosts[name].done
		}
		f.die()
		f.hosts["v1"].storage, f.hosts["v2"].storage = "new-v1", "new-v2"
		f.spec = f.next("v1", "v2", "v3")
		f.run()
		f.hosts["v1"].patiently("b")
		f.agree("b")
		f.hosts["v2"].missing("a0", "a2")
		if n := f.hosts["v2"].count("false0"); n != 0 {
			t.Error("the false history was adopted")
		}
	})
}

// One wiped voter follows the set, and works for it, as an observer.
func TestOneWipedVoterObserves(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		f.agree("before")
		h := f.follower()
		h.crash()
		h.wipe(false)
		f.run(h.name)
		f.agree("before", h.name)
		h.insist("from the wiped")
		f.agree("from the wiped")
		until(t, "it sees the leader", func() bool {
			st := h.set.Status()
			return st.Role == RoleObserver && st.Quorum && st.Leader != ""
		})
		h.problem("its raft store was lost")
		f.leader().problem(h.name + "/disk-" + h.name + " lost its raft store")
	})
}

// An older copy of the store is no better than none.
func TestOlderCopyOfTheStoreObserves(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		h := f.hosts["v1"]
		f.run()
		h.mustSubmit("a")
		f.end()
		path := filepath.Join(f.dir, "v1", "raft", storeFile)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f.run()
		h.insist("b")
		f.end()
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		f.run()
		h.problem("restored from a backup")
		if st := h.set.Status(); st.Role != RoleObserver {
			t.Errorf("%+v", st)
		}
	})
}

// A store from before there were markers gets one.
func TestMarkerIsMadeForOldStores(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		h := f.hosts["v1"]
		f.run()
		h.mustSubmit("a")
		f.end()
		marker := h.marker()
		if err := os.Remove(marker); err != nil {
			t.Fatal(err)
		}
		f.run()
		h.insist("b")
		f.end()
		if _, err := os.Stat(marker); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(marker, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.start(f.spec); err == nil || !strings.Contains(err.Error(), marker) {
			t.Errorf("with a damaged marker: %v", err)
		}
	})
}

// A marker says in which form it is written. One from before that is read as
// ever, and one of a later form is refused, also one of an earlier epoch: it may
// say more than is understood.
func TestMarkerHasAVersion(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		h := f.hosts["v1"]
		f.run()
		h.mustSubmit("a")
		f.end()
		path := h.marker()
		text, err := os.ReadFile(path)
		const version = `{"version":1,`
		if err != nil || !strings.HasPrefix(string(text), version) {
			t.Fatalf("%s %v", text, err)
		}
		write := func(path, begin string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(strings.Replace(string(text), version, begin, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(path, "{")
		f.run()
		h.insist("b")
		f.end()
		earlier := path[:len(path)-clusterDigits] + strings.Repeat("0", clusterDigits)
		for _, one := range []string{path, earlier} {
			write(one, `{"version":2,`)
			if err := h.start(f.spec); err == nil || !strings.Contains(err.Error(), one+": another gitopsd wrote it: it has version 2, this one knows version 1") {
				t.Errorf("with a marker of version 2: %v", err)
			}
			write(path, version)
		}
		write(path[:len(path)-clusterDigits]+"a-"+strings.Repeat("0", clusterDigits), `{"version":2,`) // of another set
		if err := os.Remove(earlier); err != nil {
			t.Fatal(err)
		}
		f.run()
		h.insist("c")
	})
}

func (h *host) marker() string {
	h.fleet.t.Helper()
	found, _ := filepath.Glob(filepath.Join(h.fleet.dir, h.name, markerPrefix+h.fleet.spec.Name+"-*"))
	if len(found) != 1 {
		h.fleet.t.Fatalf("markers %q", found)
	}
	return found[0]
}

// Power is cut at every step of a first start: afterwards the host votes, since
// it never had anything to forget, and if it is wiped then it does not if and
// only if it may have voted.
func TestCutAroundTheMarker(t *testing.T) {
	for _, wipe := range []bool{false, true} {
		cut := true
		for n := 1; cut && n < 100; n++ {
			virtual(t, 1, 0, func(t *testing.T, f *fleet) {
				h := f.hosts["v1"]
				faults := &durable.Faults{}
				faults.CutAt(n, n%2 == 0)
				f.prepare = func(c *Consensus) {
					c.disk = &durable.Disk{Hook: faults.Hook}
					c.store.inject(func() error { return faults.Hook(durable.Op{Kind: "bolt"}) })
				}
				err := h.start(f.spec)
				f.prepare = nil
				if err == nil {
					until(t, "it is cut or works", func() bool {
						select {
						case <-h.done:
							return true
						default:
							return h.set.Status().Leading
						}
					})
					h.crash()
				}
				cut = faults.Cut()
				found, _ := filepath.Glob(filepath.Join(f.dir, "v1", markerPrefix+"*"))
				marked := len(found) > 0
				if !cut && !marked {
					t.Error("it voted without a marker")
				}
				if wipe {
					h.wipe(false)
				}
				f.run()
				if wipe && marked {
					h.problem("its raft store was lost")
					return
				}
				h.insist("works")
			})
		}
	}
}

// A voter that starts long after the others is no lost one.
func TestLateVoterIsFed(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run("v1", "v2", "o1")
		f.hosts["o1"].commands("a", 5)
		f.run("v3")
		f.agree("a4")
		until(t, "nothing is said of it", func() bool { return len(f.hosts["v3"].set.Status().Problems) == 0 })
		if st := f.hosts["v3"].set.Status(); st.Role != RoleVoter {
			t.Errorf("%+v", st)
		}
		f.hosts["v1"].crash()
		f.hosts["o1"].insist("b")
		f.agree("b", "v2", "v3", "o1")
	})
}

// An observer never goes back, whoever asks it to.
func TestObserverNeverGoesBack(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].commands("a", 5)
		f.agree("a4")
		s := f.hosts["o1"].set
		index, term, _ := s.rep.applied()
		u := &uplink{set: s, peer: f.spec.Voters[1], follow: true}
		for _, st := range []state{{applied: index - 1, term: term}, {applied: index + 9, term: term - 1}} {
			st.machine = []byte(`{}`)
			var stale *staleError
			if err := u.snapshot(st.encode()); !errors.As(err, &stale) {
				t.Errorf("%+v: %v", st, err)
			}
		}
		f.hosts["o1"].problem("v2/disk-v2 offers the state of entry")
		f.hosts["o1"].missing("a4")
		f.hosts["o1"].insist("b")
		f.agree("b")
	})
}

func TestForgot(t *testing.T) {
	known := life{birth: 7, starts: 3, run: 30, term: 9}
	for _, c := range []struct {
		name string
		now  life
		want bool
	}{
		{"the same", known, false},
		{"a greeting of the same run that was overtaken", life{7, 3, 30, 8}, false},
		{"a later term", life{7, 3, 30, 10}, false},
		{"a new start", life{7, 4, 40, 9}, false},
		{"another store", life{8, 4, 40, 10}, true},
		{"fewer starts", life{7, 2, 20, 9}, true},
		{"a backup, started as often", life{7, 3, 31, 10}, true},
		{"a backup, started more often", life{7, 5, 50, 8}, true},
	} {
		if got := c.now.forgot(known); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Two greetings of one voter may overtake each other: the older one is no sign
// that its store was lost, and does not take back what is known of it.
func TestGreetingsOvertakeEachOther(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().mustSubmit("a")
		f.agree("a")
		late := f.hosts["v2"].set
		h := hello{cluster: late.id, set: "web", epoch: 1, from: late.self, to: f.hosts["v1"].set.self, life: late.life()}
		st := f.hosts["v1"].c.store
		before, err := st.known(late.id, late.self)
		if err != nil || before == nil || before.term == 0 {
			t.Fatalf("%v, %v", before, err)
		}
		h.life.term = before.term - 1
		conn, err := f.net.nodes["v2"].dialAs("v2", "v1", ProtocolObserve)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := late.shake(conn, f.hosts["v1"].set.self, ProtocolObserve, h); err != nil {
			t.Error(err)
		}
		if after, err := st.known(late.id, late.self); err != nil || *after != *before {
			t.Errorf("%v became %v, %v", *before, after, err)
		}
		if failed := late.Status().Failed; failed != "" {
			t.Error(failed)
		}
	})
}
