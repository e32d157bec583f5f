package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// virtual runs a test in a bubble: its time passes only when all sleep, and it
// fails if a goroutine outlives it.
func virtual(t *testing.T, voters, observers int, test func(t *testing.T, f *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, voters, observers, DefaultTiming())
		defer f.end()
		test(t, f)
	})
}

func TestSubmitFromAnywhere(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		leader := f.leader()
		var last uint64
		for i, name := range f.names() {
			r := f.hosts[name].mustSubmit(fmt.Sprint("c", i))
			if r.Index <= last {
				t.Errorf("index %d after %d", r.Index, last)
			}
			last = r.Index
		}
		f.agree("c4")
		for i, name := range f.names() {
			if line := leader.lines()[i]; !strings.HasSuffix(line, fmt.Sprintf(" %s c%d", name, i)) {
				t.Errorf("line %d is %q, submitted by %s", i, line, name)
			}
		}
		for _, name := range f.names() {
			h := f.hosts[name]
			until(t, "same view on "+name, func() bool { // hosts that started earlier may have asked one that knew nothing of the set yet
				st := h.set.Status()
				return len(st.Problems) == 0 && st.Leader == leader.name && st.Quorum && st.Applied == last && st.Term == leader.set.Status().Term
			})
			st := h.set.Status()
			if voter := strings.HasPrefix(name, "v"); (st.Role == RoleVoter) != voter || (st.StreamedFrom == "") != voter {
				t.Errorf("%s: %+v", name, st)
			}
			if st.Failed != "" || st.Leading != (h == leader) {
				t.Errorf("%s: %+v", name, st)
			}
			if _, sum, err := h.set.Hash(); err != nil {
				t.Error(err)
			} else if _, want, _ := leader.set.Hash(); sum != want {
				t.Errorf("hash of %s differs", name)
			}
		}
	})
}

// A voter that was about to start when an observer asked it leaves no complaint
// behind once the observer follows another.
func TestPassingRefusalsPass(t *testing.T) {
	virtual(t, 5, 1, func(t *testing.T, f *fleet) {
		f.run("o1")
		o := f.hosts["o1"].set
		if err := f.hosts["v1"].open(f.spec); err != nil { // it can be reached, and does not run
			t.Fatal(err)
		}
		if _, err := o.dial(t.Context(), f.spec.Voters[0], ProtocolObserve, hello{follow: true}); !errors.Is(err, errStarting) {
			t.Error(err)
		}
		o.note("v1", &refusal{peer: "v1", reason: "not at the moment", passing: true})
		o.note("v2", &refusal{peer: "v2", reason: "lost for good"}) // which is not up, so that it cannot say anything else
		f.run("v3", "v4", "v5")
		until(t, "o1 follows", func() bool { return o.Status().StreamedFrom != "" })
		if p := o.Status().Problems; !slices.Equal(p, []string{"v2 refused: lost for good"}) {
			t.Error(p)
		}
		f.hosts["v1"].launch()
		f.leader().mustSubmit("a")
		f.agree("a", "v1", "v3", "v4", "v5", "o1")
	})
}

// Nor does one that did not know the set, or its epoch: one of the two had yet to see a commit.
func TestRefusalsForWantOfACommitPass(t *testing.T) {
	for _, c := range []struct {
		name, says string
		epoch      uint64 // that v1 has the set open in; 0: in none
	}{
		{"of the set", "set web is not known here", 0},
		{"of its epoch", "in epoch 1, here it is", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			virtual(t, 3, 1, func(t *testing.T, f *fleet) {
				f.run("o1")
				v1, o := f.hosts["v1"], f.hosts["o1"].set
				if err := v1.process(); err != nil {
					t.Fatal(err)
				}
				defer v1.c.Close()
				defer f.net.stop("v1")
				if later := f.spec; c.epoch > 0 {
					later.Epoch = c.epoch
					if _, err := v1.c.Open(later, newNotes()); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := o.dial(t.Context(), f.spec.Voters[0], ProtocolObserve, hello{follow: true}); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Error(err)
				}
				f.run("v2", "v3")
				until(t, "o1 follows", func() bool { return o.Status().StreamedFrom != "" })
				if p := o.Status().Problems; len(p) > 0 {
					t.Error(p)
				}
			})
		})
	}
}

// Who still looks for a voter tells what the last answer was, however long its round through the others takes.
func TestRefusalsStayWhileNoOtherVoterAnswers(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.net.mute = map[string]bool{"v2": true, "v3": true}
		f.run("o1")
		v1, o := f.hosts["v1"], f.hosts["o1"].set
		if err := v1.process(); err != nil {
			t.Fatal(err)
		}
		defer v1.c.Close()
		defer f.net.stop("v1")
		until(t, "v1 is asked", func() bool { return len(o.Status().Problems) > 0 })
		for range 60 {
			time.Sleep(time.Second)
			if p := o.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "not known here") {
				t.Fatalf("%v", p)
			}
		}
	})
}

// One that cannot be reached any more says nothing, so what it said before goes, for who still looks too; what lasts, as that it lost its store, stays.
func TestRefusalsOfVotersThatWentPass(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run("o1")
		v1, o := f.hosts["v1"], f.hosts["o1"].set
		if err := v1.process(); err != nil {
			t.Fatal(err)
		}
		defer v1.c.Close()
		until(t, "v1 is asked", func() bool { return len(o.Status().Problems) > 0 })
		o.note("v2", &refusal{peer: "v2", reason: "lost for good"})
		f.net.stop("v1")
		until(t, "v1's word is gone", func() bool { return slices.Equal(o.Status().Problems, []string{"v2 refused: lost for good"}) })
	})
}

// A voter that has no more reason to ask another learns nothing of it any more, so what that one said goes by itself.
func TestRefusalsOfVotersThatAreNotAskedAgainPass(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		v := f.follower().set
		other := f.names()[slices.IndexFunc(f.names(), func(n string) bool { return n != v.self.Host && n != f.leader().name })]
		v.note(other, &refusal{peer: other, reason: "not known here", passing: true})
		if p := v.Status().Problems; len(p) != 1 {
			t.Errorf("at first: %v", p)
		}
		time.Sleep(v.passingFor() + time.Second)
		if p := v.Status().Problems; len(p) > 0 {
			t.Errorf("later: %v", p)
		}
		v.note(other, &refusal{peer: other, reason: "it lost its store"})
		time.Sleep(v.passingFor() + time.Second)
		if p := v.Status().Problems; len(p) != 1 {
			t.Errorf("of one that lasts: %v", p)
		}
	})
}

func TestSoleVoter(t *testing.T) {
	virtual(t, 1, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("a")
		f.hosts["v1"].mustSubmit("b")
		f.agree("b")
		f.end()
		f.run()
		f.agree("b")
		f.hosts["o1"].insist("c")
		f.agree("c")
	})
}

// What a stop ends is nothing to warn an operator of.
func TestAStopWarnsOfNothing(t *testing.T) {
	virtual(t, 1, 1, func(t *testing.T, f *fleet) {
		var said bytes.Buffer
		f.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
		f.run("v1")
		f.hosts["v1"].mustSubmit("a")
		said.Reset()
		f.end()
		if said.Len() > 0 {
			t.Error(said.String())
		}
	})
}

func TestLeaderCrash(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		old := f.leader()
		f.hosts["o1"].mustSubmit("before")
		old.crash()
		at := time.Now()
		f.hosts["o1"].insist("after")
		if took := time.Since(at); took > 12*time.Second { // virtual time
			t.Errorf("a new leader took %v", took)
		}
		rest := slices.DeleteFunc(f.names(), func(n string) bool { return n == old.name })
		f.agree("after", rest...)
		f.run(old.name)
		f.agree("after")
		if n := old.count("before"); n != 1 {
			t.Errorf("%d times before", n)
		}
	})
}

func TestRestartOfAll(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		for i := range 20 {
			f.hosts["o1"].mustSubmit(fmt.Sprint("c", i))
		}
		f.agree("c19")
		before := f.hosts["v1"].lines()
		f.end()
		f.run()
		f.agree("c19")
		if after := f.hosts["o2"].lines(); !slices.Equal(before, after) {
			t.Errorf("%q became %q", before, after)
		}
		f.hosts["o2"].insist("more")
		f.agree("more")
	})
}

func TestPartition(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		old := f.leader()
		old.mustSubmit("before")
		f.agree("before")
		term := old.set.Status().Term
		minority := []string{old.name, "o1"}
		majority := slices.DeleteFunc(f.names(), func(n string) bool { return slices.Contains(minority, n) })
		f.net.split(minority, majority)
		until(t, "the minority knows", func() bool {
			return !old.set.Status().Quorum && !old.set.Status().Leading && !f.hosts["o1"].set.Status().Quorum
		})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := f.hosts["o1"].set.Submit(ctx, []byte("lost")); !errors.Is(err, ErrNoLeader) {
			t.Errorf("submitted without quorum: %v", err)
		}
		if _, err := old.set.Lead(ctx, term, []byte("stale")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("led without quorum: %v", err)
		}
		f.hosts["o2"].insist("during")
		f.agree("during", majority...)
		if n := f.hosts["o1"].count("during"); n != 0 {
			t.Error("it crossed the partition")
		}
		f.net.heal()
		f.agree("during")
		f.hosts["o1"].insist("after")
		f.agree("after")
		if n := old.count("lost") + old.count("stale"); n != 0 {
			t.Error("a refused command was applied")
		}
	})
}

// An observer that reaches only a voter of the minority looks for another.
func TestStrandedObserver(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		from := f.hosts["o1"].set.Status().StreamedFrom
		rest := slices.DeleteFunc([]string{"v1", "v2", "v3"}, func(n string) bool { return n == from })
		f.net.split([]string{from}, rest)
		f.hosts[rest[0]].insist("during")
		f.agree("during", "o1", rest[0], rest[1])
	})
}

func TestLeadIsFenced(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		old := f.leader()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		term := old.set.Status().Term
		if _, err := old.set.Lead(ctx, term, []byte("mine")); err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []uint64{0, term - 1, term + 1} {
			if _, err := old.set.Lead(ctx, wrong, []byte("wrong")); !errors.Is(err, ErrNotLeader) {
				t.Errorf("term %d: %v", wrong, err)
			}
		}
		if _, err := f.follower().set.Lead(ctx, term, []byte("wrong")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("follower: %v", err)
		}
		// An entry that a goroutine of an older term put into the log does nothing.
		e := envelope{kind: kindCommands, commands: []command{{fence: term - 1, from: old.name, data: []byte("wrong")}, {fence: term, from: old.name, data: []byte("right")}}}
		if err := old.set.voting().raft.Apply(e.encode(), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		f.agree("right")
		if n := old.count("wrong"); n != 0 {
			t.Errorf("%d fenced commands were applied", n)
		}
		if err := old.set.TransferLeadership(ctx, "v9"); err == nil {
			t.Error("handed over to a stranger")
		}
		heir := f.follower()
		if err := old.set.TransferLeadership(ctx, heir.name); err != nil {
			t.Fatal(err)
		}
		if now := f.leader(old.name); now != heir {
			t.Errorf("%s leads, not %s", now.name, heir.name)
		}
		if _, err := old.set.Lead(ctx, term, []byte("wrong")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("deposed: %v", err)
		}
	})
}

func TestObserverCatchesUpBySnapshot(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.tune = func(c *raft.Config) {
			c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 8, 4, time.Second
		}
		f.run("v1", "v2", "o1")
		for i := range 40 {
			f.hosts["v1"].mustSubmit(fmt.Sprint("c", i))
		}
		f.agree("c39", "v1", "v2", "o1")
		for _, name := range []string{"v1", "v2"} {
			v := f.hosts[name].set.voting()
			until(t, "a snapshot", func() bool {
				first, _ := (&setStore{store: f.hosts[name].c.store, id: v.set.id}).FirstIndex()
				return first > 8
			})
		}
		f.run("v3", "o2") // a voter without log, and an observer
		f.agree("c39")
		for _, name := range f.names() { // from snapshots on disk
			f.hosts[name].stop()
			f.run(name)
		}
		f.agree("c39")
		if floor := f.hosts["v1"].set.rep.floor; floor == 0 {
			t.Error("v1 did not start from a snapshot")
		}
		f.hosts["o1"].insist("end") // the leader may be changing just now
		f.agree("end")
	})
}

func TestObserverResumesByIndex(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		o := f.hosts["o1"]
		o.mustSubmit("one")
		f.agree("one")
		f.net.split([]string{"o1"}, []string{"v1", "v2", "v3"})
		until(t, "o1 is alone", func() bool { return o.set.Status().StreamedFrom == "" })
		f.hosts["v1"].insist("two")
		f.hosts["v2"].insist("three")
		f.net.heal()
		f.agree("three")
		for _, name := range []string{"v1", "v2", "v3"} {
			if f.hosts[name].set.rep.cached != nil {
				t.Errorf("%s made a snapshot for an observer that needed two entries", name)
			}
		}
	})
}

func TestReachable(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		leader := f.leader()
		names := f.names()
		heard := func(name string) bool {
			at, ok := leader.set.Reachable()[name]
			return ok && time.Since(at) < 3*f.timing.Keepalive
		}
		until(t, "all are heard of", func() bool { return !slices.ContainsFunc(names, func(n string) bool { return !heard(n) }) })
		f.hosts["o1"].crash()
		until(t, "o1 grows old", func() bool { return !heard("o1") })
		until(t, "o2 stays young", func() bool { return heard("o2") })
		if n := len(f.hosts["o2"].set.Reachable()); n != 0 {
			t.Errorf("an observer tells of %d hosts", n)
		}
	})
}

func TestChangedIsCoalesced(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		f.run()
		h := f.leader()
		for i := range 5 {
			h.mustSubmit(fmt.Sprint(i))
		}
		synctest.Wait()
		<-h.set.Changed()
		select {
		case <-h.set.Changed():
			t.Error("a second signal without a change")
		default:
		}
	})
}

func TestBatching(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		h := f.leader()
		h.mustSubmit("first")
		first, _, _ := h.set.rep.applied()
		const n = 400
		at := time.Now()
		done := make(chan error, n)
		for i := range n {
			go func() {
				<-time.After(time.Duration(i) * 10 * time.Millisecond)
				_, err := h.submit(fmt.Sprint("c", i))
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		last, _, _ := h.set.rep.applied()
		bound := uint64(time.Since(at)/f.timing.Batch) + burstMax + 1
		if entries := last - first; entries > bound {
			t.Errorf("%d submissions became %d entries, at most %d were due", n, entries, bound)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := h.set.Submit(ctx, make([]byte, commandMax+1)); err == nil {
			t.Error("a command too large was accepted")
		}
	})
}

// Followers and observers learn of a commit at once, not with raft's next
// message. In virtual time only waiting for timers takes any.
func TestCommitsArePrompt(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("warm")
		f.agree("warm")
		<-time.After(time.Minute)
		for i := range 50 {
			at := time.Now()
			r := f.hosts["o1"].mustSubmit(fmt.Sprint(i))
			for name, h := range f.hosts {
				for {
					index, _, next := h.set.rep.applied()
					if IndexOf(1, index) >= r.Index {
						break
					}
					<-next
				}
				if took := time.Since(at); took > 20*time.Millisecond {
					t.Errorf("%s learnt of submission %d after %v", name, i, took)
				}
			}
			<-time.After(time.Second)
		}
	})
}
