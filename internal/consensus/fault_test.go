package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// problem waits until a host reports a problem that contains text.
func (h *host) problem(text string) {
	h.fleet.t.Helper()
	until(h.fleet.t, fmt.Sprintf("%s reports %q", h.name, text), func() bool {
		return strings.Contains(strings.Join(h.set.Status().Problems, "\n"), text)
	})
}

// A leader whose disk hangs would lead forever if raft were left waiting.
func TestStalledLeaderIsFenced(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		old := f.leader()
		gate := make(chan struct{})
		old.c.store.inject(func() error {
			<-gate
			return nil
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := old.set.Lead(ctx, old.set.Status().Term, []byte("hangs")); !errors.Is(err, ErrUnknown) {
			t.Errorf("led with a hanging disk: %v", err)
		}
		<-old.done
		if !errors.Is(old.err, ErrFailed) || !errors.Is(old.err, errStalled) {
			t.Errorf("run ended with %v", old.err)
		}
		if st := old.set.Status(); st.Leading || !strings.Contains(st.Failed, "stalled") {
			t.Errorf("%+v", st)
		}
		if now := f.leader(old.name); now == old {
			t.Error("it still leads")
		}
		f.hosts["o1"].insist("after")
		close(gate)
		old.stop()
		f.run(old.name)
		f.agree("after")
	})
}

func TestFailedStoreStopsOnlyThatHost(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		bad := f.follower()
		bad.c.store.inject(func() error { return errors.New("no space left on device") })
		f.hosts["o1"].insist("after")
		<-bad.done
		if !errors.Is(bad.err, ErrFailed) || !strings.Contains(bad.err.Error(), "no space left") {
			t.Errorf("run ended with %v", bad.err)
		}
		bad.stop()
		f.hosts["o1"].insist("still")
		f.run(bad.name)
		f.agree("still")
	})
}

func TestStoreFailsAtStart(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		for n := range 8 { // at every write of the birth
			h := f.hosts["v1"]
			if err := h.open(f.spec); err != nil {
				t.Fatal(err)
			}
			left := n
			h.c.store.inject(func() error {
				if left--; left < 0 {
					return errors.New("input/output error")
				}
				return nil
			})
			h.launch()
			for ended := false; !ended; {
				h.submit("push") // enough writes to reach the faulty one
				select {
				case <-h.done:
					ended = true
				default:
				}
			}
			if h.err == nil {
				t.Errorf("failure at write %d went unnoticed", n)
			}
			h.stop()
		}
		f.run()
		f.hosts["v1"].insist("works")
	})
}

// A voter that lost its disk and kept its name has forgotten what it promised.
func TestWipedVoterWithNewStorageObserves(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		f.agree("before")
		h := f.follower()
		h.crash()
		os.RemoveAll(filepath.Join(f.dir, h.name))
		h.storage = "new-disk"
		f.run(h.name)
		if st := h.set.Status(); st.Role != RoleObserver {
			t.Errorf("%+v", st)
		}
		h.problem("its storage id is new-disk")
		f.hosts["o1"].insist("after")
		f.agree("after")
	})
}

// The same under the old storage id: only the others can tell.
func TestWipedVoterWithOldStorageIsRefused(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		// Committed on the leader and one follower only.
		leader := f.leader()
		wiped := f.follower()
		var cut *host
		for _, h := range f.hosts {
			if h != leader && h != wiped {
				cut = h
			}
		}
		leader.mustSubmit("before")
		f.agree("before")
		f.net.split([]string{cut.name}, []string{leader.name, wiped.name})
		leader.insist("precious")
		f.agree("precious", leader.name, wiped.name)
		leader.crash()
		wiped.crash()
		f.net.heal()
		os.RemoveAll(filepath.Join(f.dir, wiped.name))
		f.run(wiped.name)
		wiped.problem("lost or restored from a backup")
		cut.problem("lost or restored from a backup")
		for _, h := range []*host{wiped, cut} {
			until(t, h.name+" has no quorum without the only copy", func() bool {
				st := h.set.Status()
				return !st.Leading && !st.Quorum
			})
		}
		f.run(leader.name)
		f.agree("precious", leader.name, cut.name)
		cut.insist("after")
		f.agree("after", leader.name, cut.name)
	})
}

func TestWrongClusterIsRefused(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run("v1", "v2", "v3")
		f.leader().mustSubmit("a")
		other := f.spec
		other.Introduction = "another repository"
		if err := f.hosts["o1"].start(other); err != nil {
			t.Fatal(err)
		}
		f.hosts["o1"].problem("refused: set web of o1 is cluster")
		f.hosts["o1"].stop()
		newer := f.spec
		newer.Epoch = 1
		newer.Voters = newer.Voters[:2]
		o2 := f.add("o2")
		if err := o2.start(newer); err != nil {
			t.Fatal(err)
		}
		o2.problem("refused: set web of o2 is cluster")
		if n := len(o2.lines()); n != 0 {
			t.Errorf("%d lines came", n)
		}
	})
}

// What stands between a stray connection and raft.
func TestGreetingsAreChecked(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().mustSubmit("a")
		v1, v2 := f.hosts["v1"].set, f.hosts["v2"].set
		good := hello{cluster: v1.id, set: "web", epoch: 1, from: v2.self, to: v1.self, life: v2.life()}
		try := func(as, protocol string, change func(*hello)) string {
			h := good
			change(&h)
			conn, err := f.net.nodes["v2"].dialAs(as, "v1", protocol)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := writeFrame(conn, frameHello, h.encode()); err != nil {
				t.Fatal(err)
			}
			kind, body, err := readFrame(conn, helloMax)
			if err != nil {
				t.Fatal(err)
			}
			if kind == frameWelcome {
				return ""
			}
			return string(body)
		}
		for _, c := range []struct {
			as, protocol, want string
			change             func(*hello)
		}{
			{"v2", ProtocolRaft, "", func(h *hello) {}},
			{"v3", ProtocolRaft, "v3 says it is v2", func(h *hello) {}},
			{"v2", ProtocolRaft, "set web of v2 is cluster", func(h *hello) { h.cluster[0]++ }},
			{"v2", ProtocolRaft, "set api is not known", func(h *hello) { h.cluster[0]++; h.set = "api" }},
			{"v2", ProtocolRaft, "this is v1/disk-v1, not v1/other", func(h *hello) { h.to.Storage = "other" }},
			{"v2", ProtocolRaft, "is no voter", func(h *hello) { h.from.Storage = "other" }},
			{"o1", ProtocolRaft, "is no voter", func(h *hello) { h.from = Voter{"o1", "disk-o1"} }},
			{"o1", ProtocolObserve, "", func(h *hello) { h.from = Voter{"o1", "disk-o1"} }},
			{"v2", ProtocolRaft, "lost or restored", func(h *hello) { h.life.starts = 0 }},
			{"v2", ProtocolRaft, "lost or restored", func(h *hello) { h.life.birth++ }},
		} {
			got := try(c.as, c.protocol, c.change)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%s by %s: %q, wanted %q", c.protocol, c.as, got, c.want)
			}
		}
		// An observer cannot submit as somebody else.
		conn, _ := f.net.nodes["o1"].dialAs("o1", "v1", ProtocolObserve)
		defer conn.Close()
		h := good
		h.from = Voter{"o1", "disk-o1"}
		writeFrame(conn, frameHello, h.encode())
		readFrame(conn, helloMax)
		go writeFrame(conn, frameSubmit, submission{id: 1, from: "v2", timeout: time.Second, command: []byte("forged")}.encode())
		for {
			if _, _, err := readFrame(conn, frameMax); err != nil {
				break
			}
		}
		f.hosts["o1"].insist("end")
		f.agree("end")
		if n := f.hosts["v1"].count("forged"); n != 0 {
			t.Error("a forged submission was applied")
		}
	})
}

func TestVotersAreWriteOnce(t *testing.T) {
	virtual(t, 3, 0, func(t *testing.T, f *fleet) {
		f.run()
		f.leader().mustSubmit("before")
		f.agree("before")
		f.end()
		changed := f.spec
		changed.Voters = changed.Voters[:1]
		for _, h := range f.hosts {
			if err := h.start(changed); err != nil {
				t.Fatal(err)
			}
		}
		f.hosts["v1"].problem("the list v1/disk-v1 under the same epoch is ignored: to change the voters, commit that list in coordinators/web.yaml with epoch 2, one more than now")
		f.hosts["v2"].insist("after")
		f.agree("after")
		f.end()
		nothing, far, other, otherNext := f.spec, f.spec, f.spec, f.next("v1")
		nothing.Epoch, far.Epoch, other.Introduction, otherNext.Introduction = 0, epochMax+1, "other", "other"
		for _, spec := range []SetSpec{nothing, far, other, otherNext} {
			if err := f.hosts["v1"].start(spec); err == nil {
				t.Errorf("opened %+v", spec)
			}
		}
	})
}

// Whatever happens to leaders, no answered command is lost and none that was
// said not to be applied is; only those of unknown outcome may be either.
func TestNothingAnsweredIsLost(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		f.leader()
		var mu sync.Mutex
		outcome := map[string]error{}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, name := range []string{"o1", "o2"} {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					command := fmt.Sprint(name, "-", i)
					short, done := context.WithTimeout(context.Background(), 700*time.Millisecond)
					_, err := f.hosts[name].set.Submit(short, []byte(command))
					done()
					mu.Lock()
					outcome[command] = err
					mu.Unlock()
					<-time.After(50 * time.Millisecond)
				}
			})
		}
		for range 4 {
			leader := f.leader()
			leader.crash()
			<-time.After(10 * time.Second)
			f.run(leader.name)
			<-time.After(10 * time.Second)
		}
		cancel()
		wg.Wait()
		f.hosts["o1"].insist("end")
		f.agree("end")
		unknown := 0
		for command, err := range outcome {
			n := f.hosts["o2"].count(command)
			switch {
			case err == nil && n != 1, errors.Is(err, ErrUnknown) && n > 1, err != nil && !errors.Is(err, ErrUnknown) && n != 0:
				t.Errorf("%s: %d times, and the answer was %v", command, n, err)
			case errors.Is(err, ErrUnknown):
				unknown++
			}
		}
		t.Logf("%d commands, %d of unknown outcome", len(outcome), unknown)
	})
}

func TestUnknownVersionStopsTheReplica(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		f.agree("before")
		leader := f.leader()
		e := envelope{kind: kindCommands}.encode()
		e[0] = envelopeVersion + 1
		leader.set.voting().raft.Apply(e, time.Second)
		stopped := func() (n int) {
			for _, v := range f.spec.Voters {
				select {
				case <-f.hosts[v.Host].done:
					n++
				default:
				}
			}
			return n
		}
		until(t, "a majority stops", func() bool { return stopped() >= 2 }) // the last is never told that it was committed
		for _, v := range f.spec.Voters {
			if st := f.hosts[v.Host].set.Status(); st.Leading || st.Failed != "" && !strings.Contains(st.Failed, "version 2") {
				t.Errorf("%s: %+v", v.Host, st)
			}
		}
	})
}

func TestPanickingMachineStopsTheReplica(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		f.run()
		h := f.leader()
		if _, err := h.submit("panic"); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
		<-h.done
		if !errors.Is(h.err, ErrFailed) || !strings.Contains(h.err.Error(), "as told") {
			t.Error(h.err)
		}
	})
}

// Replicas compare their states every checkEvery entries.
func TestDivergenceIsReported(t *testing.T) {
	virtual(t, 3, 2, func(t *testing.T, f *fleet) {
		f.run()
		leader := f.leader()
		voter, observer := f.follower(), f.hosts["o1"]
		for _, h := range []*host{voter, observer} {
			h.set.View(func(m Machine) { m.(*notes).bad = true })
		}
		leader.mustSubmit("wrong there")
		f.agreeCount("wrong there")
		for _, h := range []*host{voter, observer} {
			h.set.View(func(m Machine) { m.(*notes).bad = false })
		}
		for i := range checkEvery {
			leader.mustSubmit(fmt.Sprint(i))
		}
		for _, h := range []*host{voter, observer} {
			h.problem("history differs")
		}
		f.hosts["o2"].insist("end")
		f.agree("end", leader.name, "o1", "o2") // the observer took a fresh snapshot
		if problems := leader.set.Status().Problems; len(problems) > 0 {
			t.Errorf("%q", problems)
		}
	})
}

// agreeCount waits until every host applied a command, right or wrong.
func (f *fleet) agreeCount(command string) {
	f.t.Helper()
	for _, h := range f.hosts {
		until(f.t, h.name+" applies "+command, func() bool { return h.count(command) > 0 })
	}
}

func TestRunIsForOnce(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		f.run()
		h := f.leader()
		if err := h.set.Run(context.Background()); err == nil {
			t.Error("it ran twice at once")
		}
		if _, err := h.c.Open(f.spec, newNotes()); err == nil {
			t.Error("it was opened twice")
		}
		f.end()
		if _, err := h.c.Open(f.spec, newNotes()); err == nil {
			t.Error("it was opened after Close")
		}
		synctest.Wait()
	})
}

func TestNewRefusesNonsense(t *testing.T) {
	good := Options{Host: "a", Storage: "1", Dir: t.TempDir(), Streams: newNetwork().start("a")}
	for _, change := range []func(*Options){
		func(o *Options) { o.Host = "" },
		func(o *Options) { o.Host = "a/b" },
		func(o *Options) { o.Streams = nil },
		func(o *Options) { o.Timing = Timing{Heartbeat: time.Second} },
		func(o *Options) { o.Timing = DefaultTiming(); o.Timing.Lease = time.Hour },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	c, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, spec := range []SetSpec{
		{}, {Name: "a", Epoch: 1}, {Name: "a", Voters: []Voter{{"a", "1"}}}, {Name: "a", Epoch: 1, Voters: []Voter{{"a", ""}}},
		{Name: "a", Epoch: 1, Voters: []Voter{{"a", "1"}, {"a", "2"}}}, {Name: "a\n", Epoch: 1, Voters: []Voter{{"a", "1"}}},
	} {
		if _, err := c.Open(spec, newNotes()); err == nil {
			t.Errorf("%+v was opened", spec)
		}
	}
}

// Sets share a store and nothing else.
func TestSetsFailAlone(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		f.run()
		h := f.leader()
		spec := f.spec
		spec.Name = "api"
		other, err := h.c.Open(spec, newNotes())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var ended error
		var wg sync.WaitGroup
		wg.Go(func() { ended = other.Run(ctx) })
		if r, err := other.Submit(ctx, []byte("there")); err != nil || string(r.Response) != "did there" {
			t.Error(r, err)
		}
		h.mustSubmit("here")
		if n := h.count("there"); n != 0 {
			t.Error("a command of one set reached another")
		}
		h.submit("panic")
		<-h.done
		if _, err := other.Submit(ctx, []byte("still")); err != nil {
			t.Errorf("the other set: %v", err)
		}
		cancel()
		wg.Wait()
		if ended != nil {
			t.Error(ended)
		}
	})
}

func TestFastTimingInRealTime(t *testing.T) {
	f := newFleet(t, 3, 2, FastTiming())
	defer f.end()
	f.run()
	f.hosts["o1"].mustSubmit("before")
	f.agree("before")
	f.leader().crash()
	f.hosts["o2"].insist("after")
	for _, h := range f.hosts {
		if h.cancel != nil {
			f.agree("after", h.name)
		}
	}
}

func TestSameRefusalIsLoggedOnce(t *testing.T) {
	virtual(t, 1, 0, func(t *testing.T, f *fleet) {
		f.run()
		c := f.hosts["v1"].c
		for _, step := range []struct {
			text string
			wait time.Duration
			want bool
		}{{"a", 0, true}, {"a", time.Second, false}, {"b", 0, true}, {"a", refusalPause, true}} {
			<-time.After(step.wait)
			if got := c.unheard(step.text); got != step.want {
				t.Errorf("%q after %v: %v", step.text, step.wait, got)
			}
		}
		for i := range 2 * refusalsMax {
			c.unheard(fmt.Sprint(i))
		}
		if n := len(c.told); n > refusalsMax {
			t.Errorf("%d refusals are remembered", n)
		}
	})
}

// A voter whose disk was full for a while goes on in the same process once there
// is room, and not before; any other failure of the store lasts.
func TestStoreComesBackAfterAFullDisk(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause error
		back  bool
	}{{"full", syscall.ENOSPC, true}, {"broken", syscall.EIO, false}} {
		t.Run(c.name, func(t *testing.T) {
			virtual(t, 3, 1, func(t *testing.T, f *fleet) {
				f.run()
				f.hosts["o1"].mustSubmit("before")
				h := f.follower()
				h.c.store.inject(func() error { return c.cause })
				f.hosts["o1"].insist("while it fails")
				<-h.done
				if _, err := h.c.Open(f.spec, newNotes()); err == nil {
					t.Fatal("it was opened while the disk fails")
				}
				h.c.store.inject(nil)
				machine := newNotes()
				set, err := h.c.Open(f.spec, machine)
				if !c.back {
					if !errors.Is(err, c.cause) {
						t.Errorf("after a broken disk: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				h.cancel()
				h.set, h.machine, h.err = set, machine, nil
				h.launch()
				f.hosts["o1"].insist("after")
				f.agree("after")
			})
		})
	}
}
