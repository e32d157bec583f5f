package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// next is the spec of the following epoch, with the named hosts as voters.
func (f *fleet) next(voters ...string) SetSpec {
	spec := f.spec
	spec.Epoch++
	spec.Voters = nil
	for _, name := range voters {
		h := f.hosts[name]
		if h == nil {
			h = f.add(name)
		}
		spec.Voters = append(spec.Voters, Voter{Host: name, Storage: h.storage})
	}
	return spec
}

// die ends all hosts; nothing of them answers any more.
func (f *fleet) die() {
	for _, h := range f.hosts {
		f.net.stop(h.name)
	}
	f.end()
}

// missing fails if a host lacks one of the commands.
func (h *host) missing(commands ...string) {
	h.fleet.t.Helper()
	for _, c := range commands {
		if h.count(c) == 0 {
			h.fleet.t.Errorf("%s lost %q", h.name, c)
		}
	}
}

// commands submits a numbered series.
func (h *host) commands(prefix string, n int) (all []string) {
	h.fleet.t.Helper()
	for i := range n {
		c := fmt.Sprint(prefix, i)
		h.insist(c)
		all = append(all, c)
	}
	return all
}

func TestRecoveryFromLostQuorum(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		acked := f.hosts["o1"].commands("a", 20)
		f.agree("a19")
		f.die()
		survivor := f.hosts["v2"]
		f.spec = f.next("v2", "v4", "v5")
		f.run("v2", "v4", "v5", "o1")
		f.hosts["o1"].insist("after")
		names := []string{"v2", "v4", "v5", "o1"}
		f.agree("after", names...)
		for _, name := range names {
			f.hosts[name].missing(acked...)
		}
		lines := survivor.lines()
		var last, at uint64
		for _, line := range lines {
			fmt.Sscan(line, &at)
			if at < last {
				t.Errorf("index %d after %d", at, last)
			}
			last = at
		}
		if want := IndexOf(2, 1); last <= want {
			t.Errorf("index %d of the new epoch is not above %d", last, want)
		}
		if st := survivor.set.Status(); st.Epoch != 2 || !st.Quorum || len(st.Problems) != 0 {
			t.Errorf("%+v", st)
		}
		// Everything goes on after restarts, of the founder too, and with one away.
		f.die()
		f.run("v2", "v5", "o1")
		f.hosts["o1"].insist("again")
		f.run("v4")
		f.agree("again", names...)
	})
}

// The terms of an epoch are above those of the one before, so that a command
// of an old leader is never taken for one of the new.
func TestTermsRiseOverEpochs(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		for i := range 3 {
			old := f.leader()
			old.insist(fmt.Sprint("a", i))
			old.crash()
			f.leader(old.name)
			f.run(old.name)
		}
		term := f.leader().set.Status().Term
		f.leader().insist("b")
		f.agree("b")
		f.die()
		f.spec = f.next("v1")
		f.run("v1")
		if now := f.leader().set.Status().Term; now <= term {
			t.Errorf("term %d of the new epoch, %d before", now, term)
		}
	})
}

// The voters that were thought dead come back and still think it is epoch 1.
func TestOldEpochIsNotHeard(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].insist("before")
		f.agree("before")
		f.die()
		old := f.spec
		f.spec = f.next("v1", "v4", "v5")
		f.run("v1", "v4", "v5", "o1", "o2")
		f.hosts["o1"].insist("new")
		f.agree("new", "v1", "v4", "v5", "o1", "o2")
		for _, name := range []string{"v2", "v3"} {
			if err := f.hosts[name].start(old); err != nil {
				t.Fatal(err)
			}
		}
		f.hosts["v2"].problem("refused: set web of v2 is cluster")
		f.hosts["v3"].problem("in epoch 2 with voters [v1/disk-v1 v4/disk-v4 v5/disk-v5]")
		// They are a majority of the old voters, and among themselves they are a set.
		f.hosts["v2"].insist("stale")
		f.hosts["o1"].insist("newer")
		f.agree("newer", "v1", "v4", "v5", "o1", "o2")
		for _, name := range []string{"v1", "v4", "v5", "o1", "o2"} {
			if f.hosts[name].count("stale") != 0 {
				t.Errorf("%s heard the old epoch", name)
			}
		}
		if err := f.hosts["v1"].c.store.flush(time.Second); err != nil {
			t.Fatal(err)
		}
		f.hosts["v1"].stop()
		if err := f.hosts["v1"].start(old); err == nil || !strings.Contains(err.Error(), "older than epoch 2") {
			t.Errorf("it went back: %v", err)
		}
		f.run("v1")
		// At last they see the commit, and follow as observers.
		for _, name := range []string{"v2", "v3"} {
			f.hosts[name].move(f.spec)
		}
		f.agree("newer")
		if f.hosts["v2"].count("stale") != 0 {
			t.Error("what the old epoch did alone came over")
		}
	})
}

// While old voters are there their word is waited for: raising the epoch of a
// healthy set loses nothing, even with voters that never had its state.
func TestEpochOfAHealthySet(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].insist("a")
		f.agree("a")
		spec := f.next("o1", "v4", "v5")
		f.net.split([]string{"o1"}, []string{"v1", "v2", "v3"}) // it misses what follows
		f.leader().insist("b")
		f.agree("b", "v1", "v2", "v3")
		f.net.heal()
		f.spec = spec
		f.hosts["o1"].move(spec)
		f.run("v4", "v5")
		f.hosts["v4"].problem("for a while it waits for voters of the epoch before: v1/disk-v1 (cannot greet voter v1: v1 refused")
		f.leader("v4", "v5", "o1").insist("c") // the old epoch still lives
		for _, name := range []string{"v1", "v2"} {
			f.hosts[name].move(spec)
		}
		f.leader("v3")
		f.hosts["v3"].move(spec)
		f.hosts["v3"].insist("d")
		f.agree("d")
		f.hosts["v5"].missing("a", "b", "c")
	})
}

// An observer's state counts: all that had more is lost.
func TestObserverBringsItsState(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		acked := f.hosts["o1"].commands("a", 10)
		f.agree("a9")
		for _, name := range []string{"v1", "v2", "v3"} {
			f.hosts[name].crash()
		}
		f.spec = f.next("o1", "v4", "v5")
		f.hosts["o1"].move(f.spec)
		f.hosts["o1"].stop() // it is durable before anybody heard of it
		f.run("o1", "v4", "v5")
		f.hosts["v5"].insist("b")
		f.agree("b", "o1", "v4", "v5")
		f.hosts["v4"].missing(acked...)
	})
}

// The most advanced state wins, whoever has it; uncommitted entries of a
// deposed leader do not beat committed ones of a later term.
func TestMostAdvancedStateWins(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		old := f.leader()
		old.insist("a")
		f.agree("a")
		var others []string
		for _, name := range f.names() {
			if name != old.name {
				others = append(others, name)
			}
		}
		f.net.split([]string{old.name}, others)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for i := range 3 { // in the log of the deposed leader alone
			old.set.Submit(ctx, []byte(fmt.Sprint("tail", i)))
		}
		now := f.leader(old.name)
		now.insist("b")
		var third string
		for _, name := range others {
			if name != now.name {
				third = name
			}
		}
		f.agree("b", now.name, third)
		f.die()
		f.net.heal()
		f.spec = f.next(old.name, third)
		f.run(old.name, third)
		f.hosts[third].insist("c")
		f.agree("c", old.name, third)
		f.hosts[old.name].missing("a", "b")
		for i := range 3 {
			if n := f.hosts[old.name].count(fmt.Sprint("tail", i)); n != 0 {
				t.Errorf("tail%d is there", i)
			}
		}
	})
}

func TestNewVotersOfflineAtFirst(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].insist("a")
		f.agree("a")
		f.die()
		f.spec = f.next("v1", "v4", "v5")
		f.run("v1", "o1")
		f.hosts["v1"].problem("waits for v4/disk-v4 (cannot reach voter v4: connection refused), v5/disk-v5")
		f.hosts["o1"].problem("v1 refused: coordinator set web: epoch 2 has not begun")
		<-time.After(10 * time.Minute)
		if st := f.hosts["v1"].set.Status(); st.Quorum || st.Leader != "" {
			t.Errorf("%+v", st)
		}
		f.run("v5")
		f.hosts["v1"].problem("waits for v4/disk-v4 (cannot reach voter v4: connection refused);")
		f.run("v4")
		f.hosts["o1"].insist("b")
		f.agree("b", "v1", "v4", "v5", "o1")
		f.hosts["v4"].missing("a")
	})
}

func TestPartitionWhileAdopting(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].insist("a")
		f.agree("a")
		f.die()
		f.spec = f.next("v3", "v4", "v5")
		f.net.split([]string{"v3"}, []string{"v4", "v5"}) // the founder, and the only state
		f.run("v3", "v4", "v5", "o1")
		f.hosts["v3"].problem("waits for v4")
		<-time.After(5 * time.Minute)
		f.net.heal()
		f.net.split([]string{"v4"}, []string{"v5"})
		f.hosts["o1"].insist("b")
		f.net.heal()
		f.agree("b", "v3", "v4", "v5", "o1")
		f.hosts["v5"].missing("a")
	})
}

// The founder goes on after the answers, and goes away before anybody has its
// state: the next epoch has all there was.
func TestEpochAfterEpoch(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].insist("a")
		f.agree("a")
		f.die()
		f.spec = f.next("v3", "v4", "v5")
		f.run("v3", "v4", "v5", "o1")
		f.hosts["o1"].insist("b")
		f.agree("b", "v3", "v4", "v5", "o1")
		f.die()
		f.spec = f.next("v4", "v6", "v7")
		f.run("v4", "v6", "v7", "o1")
		f.hosts["o1"].insist("c")
		f.agree("c", "v4", "v6", "v7", "o1")
		f.die()
		f.spec = f.next("v2", "v6") // v2 was away for epochs 2 and 3
		f.run("v2", "v6", "o1")
		f.hosts["v2"].problem("its epoch went from 1 to 4")
		f.hosts["o1"].insist("d")
		f.agree("d", "v2", "v6", "o1")
		f.hosts["v2"].missing("a", "b", "c")
		if st := f.hosts["v2"].set.Status(); st.Applied>>epochShift != 3 {
			t.Errorf("%+v", st)
		}
	})
}

// An epoch that never began is passed over.
func TestEpochThatNeverBegan(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().insist("a")
		f.agree("a")
		f.die()
		f.spec = f.next("v1", "v8", "v9")
		f.run("v1", "v9")
		f.hosts["v1"].problem("list others under epoch 3 if they are lost for good")
		f.spec = f.next("v9", "w1")
		f.hosts["v9"].move(f.spec)
		f.run("w1")
		// v1 is no voter any more, but all that is known of epoch 1 is there.
		<-time.After(5 * time.Second)
		f.hosts["v1"].move(f.spec)
		f.hosts["w1"].insist("b")
		f.agree("b", "v1", "v9", "w1")
		f.hosts["w1"].missing("a")
	})
}

// A voter that was wiped has nothing to bring, and spoils nothing.
func TestWipedVoterOfNewEpoch(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().insist("a")
		f.agree("a")
		f.die()
		os.RemoveAll(filepath.Join(f.dir, "v1"))
		f.spec = f.next("v1", "v2", "v4")
		f.run("v1", "v2", "v4") // the founder is the one without state
		f.hosts["v4"].insist("b")
		f.agree("b", "v1", "v2", "v4")
		f.hosts["v1"].missing("a")
		// A founder that loses its disk later must not begin the epoch again.
		f.hosts["v1"].crash()
		os.RemoveAll(filepath.Join(f.dir, "v1"))
		f.hosts["v2"].insist("c")
		f.run("v1")
		f.hosts["v1"].problem("epoch 2 of set web has begun already")
		f.hosts["v2"].insist("d")
		f.agree("d", "v2", "v4")
		if n := len(f.hosts["v1"].lines()); n != 0 {
			t.Errorf("%d lines", n)
		}
	})
}

// A founder that was cut off before anybody voted for it began nothing: a
// voter of the epoch before that comes back then still counts with what it has.
func TestFounderThatWasNeverElected(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().insist("a")
		f.agree("a")
		f.leader().set.TransferLeadership(context.Background(), "v2")
		until(t, "v2 leads", func() bool { return f.hosts["v2"].set.Status().Leading })
		f.net.split([]string{"v1"}, []string{"v2", "v3"})
		f.hosts["v2"].insist("b")
		f.die()
		f.net.heal()
		f.spec = f.next("v1", "v4")
		faults := &durable.Faults{}
		faults.Observe(func(_ int, op durable.Op) {
			if op.Kind == "rename" && strings.HasSuffix(op.Path, snapshotSuffix) {
				f.net.split([]string{"v1"}, []string{"v4"})
			}
		})
		f.prepare = func(c *Consensus) { c.disk = &durable.Disk{Hook: faults.Hook} }
		f.run("v1")
		f.prepare = nil
		f.run("v4")
		until(t, "the founder has what it found", func() bool { return f.hosts["v1"].count("a") > 0 })
		f.hosts["v4"].problem("epoch 2 has not reached this host yet, v1/disk-v1 begins it")
		f.die()
		f.net.heal()
		f.spec = f.next("v1", "v2")
		f.run("v1", "v2")
		f.hosts["v1"].insist("c")
		f.agree("c", "v1", "v2")
		f.hosts["v1"].missing("a", "b")
	})
}

// Whoever knows of a leader, but not yet of the state, must not take its
// emptiness for the state.
func TestNoQuorumWithoutState(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].insist("a")
		f.agree("a")
		f.die()
		f.spec = f.next("v1", "v4", "v5")
		names := []string{"v1", "v4", "v5", "o1"}
		f.prepare = func(c *Consensus) { // a disk that takes its time for the snapshot
			c.disk = &durable.Disk{Hook: func(op durable.Op) error {
				if strings.HasSuffix(op.Path, snapshotSuffix) {
					<-time.After(300 * time.Millisecond)
				}
				return nil
			}}
		}
		f.run(names...)
		until(t, "all have a leader", func() bool {
			all := true
			for _, name := range names {
				st := f.hosts[name].set.Status()
				if st.Quorum && f.hosts[name].count("a") == 0 {
					t.Fatalf("%s is empty and says %+v", name, st)
				}
				all = all && st.Quorum
			}
			return all
		})
	})
}

func TestAllLost(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["v1"].insist("a")
		f.die()
		f.spec = f.next("v2", "v3")
		f.run("v2", "v3")
		f.hosts["v3"].insist("b")
		f.hosts["v2"].problem("epoch 2 began empty")
		f.agree("b", "v2", "v3")
	})
}

// A new voter that claims what it does not have keeps the epoch from
// beginning, and is named; it cannot make others adopt anything malformed.
func TestLyingVoter(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().insist("a")
		f.agree("a")
		f.die()
		f.spec = f.next("v1", "v4")
		for _, lie := range []struct {
			carried
			want string
		}{
			{carried{at: position{epoch: 1, term: 99, index: 99}, machine: []byte("nonsense")}, "cannot take over its state: cannot go on from entry 0: cannot restore a snapshot"},
			{carried{at: position{epoch: 2, term: 1, index: 1}, machine: []byte("{}")}, "it offers the impossible state of epoch 2"},
			{carried{at: position{epoch: 1, term: 1 << 63, index: 1}, machine: []byte("{}")}, "impossible"},
		} {
			if err := f.hosts["v4"].open(f.spec); err != nil {
				t.Fatal(err)
			}
			if err := f.hosts["v4"].set.keepCarried(&lie.carried); err != nil {
				t.Fatal(err)
			}
			f.hosts["v4"].launch()
			f.run("v1")
			f.hosts["v1"].problem(lie.want)
			f.die()
		}
		os.RemoveAll(filepath.Join(f.dir, "v4", "raft", "carried"))
		f.run("v1", "v4")
		f.hosts["v4"].insist("b")
		f.agree("b", "v1", "v4")
		f.hosts["v4"].missing("a")
	})
}

// A state in doubt is for when there is no other.
func TestDoubtfulStateIsLast(t *testing.T) {
	sound := &offer{at: position{1, 2, 3}}
	far := &offer{at: position{1, 5, 9}, doubt: true}
	none := &offer{}
	for _, c := range []struct {
		a, b *offer
	}{{sound, far}, {far, none}, {sound, none}, {&offer{at: position{2, 1, 1}}, sound}, {&offer{at: position{1, 3, 1}}, sound}, {&offer{at: position{1, 2, 4}}, sound}} {
		if !c.a.better(c.b) || c.b.better(c.a) {
			t.Errorf("%+v should be better than %+v", c.a, c.b)
		}
	}
}

// Power is cut before each durable step of leaving and adopting, on the founder
// and on the survivor, and every time the new epoch comes up with everything.
func TestCutWhileChangingEpoch(t *testing.T) {
	for _, victim := range []string{"v4", "v5"} { // v4 is the founder, v5 has the state
		t.Run(victim, func(t *testing.T) {
			cut := true
			for n := 1; cut; n++ {
				virtual(t, 0, 0, func(t *testing.T, f *fleet) { cut = cutWhileChangingEpoch(t, f, victim, n) })
				if n > 100 {
					t.Fatal("it never ends")
				}
			}
		})
	}
}

// cutWhileChangingEpoch tells whether there was an n-th step.
func cutWhileChangingEpoch(t *testing.T, f *fleet, victim string, n int) bool {
	f.spec = f.next("v5", "v6", "v7")
	f.spec.Epoch = 1
	f.run("v5", "v6", "v7")
	f.leader().insist("a")
	f.agree("a", "v5")
	f.die()
	f.spec = f.next("v4", "v5", "v9")
	others := slices.DeleteFunc([]string{"v4", "v5", "v9"}, func(name string) bool { return name == victim })
	f.run(others...)
	faults := &durable.Faults{}
	faults.CutAt(n, n%2 == 0)
	h := f.hosts[victim]
	f.prepare = func(c *Consensus) {
		c.disk = &durable.Disk{Hook: faults.Hook}
		c.store.inject(func() error { return faults.Hook(durable.Op{Kind: "bolt"}) })
	}
	err := h.start(f.spec)
	f.prepare = nil
	if err == nil {
		deadline := time.Now().Add(2 * time.Minute)
		for !faults.Cut() && h.count("a") == 0 && time.Now().Before(deadline) {
			<-time.After(10 * time.Millisecond)
		}
		h.crash()
	} else if !errors.Is(err, durable.ErrCut) {
		t.Fatal(err)
	}
	f.run(victim)
	f.hosts["v9"].insist("b")
	f.agree("b", "v4", "v5", "v9")
	for _, name := range []string{"v4", "v5", "v9"} {
		f.hosts[name].missing("a")
	}
	return faults.Cut()
}

// TestASnapshotThatCannotBeRestoredIsNamedOnce: the machine says itself what it cannot do.
func TestASnapshotThatCannotBeRestoredIsNamedOnce(t *testing.T) {
	err := newReplica(newNotes(), 1, false).restore(state{applied: 7, machine: []byte("nonsense")})
	if err == nil || !strings.Contains(err.Error(), "entry 7: cannot restore a snapshot") || strings.Count(err.Error(), "cannot restore") != 1 {
		t.Errorf("%v", err)
	}
}
