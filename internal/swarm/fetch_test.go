package swarm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// spread starts n hosts that share one origin and fetches everywhere.
func spread(t *testing.T, f *fleet, s *source, n int) []*fetching {
	for _, name := range names(n) {
		f.start(name)
	}
	return spreadOn(t, f, s)
}

// spreadOn fetches on all hosts there are.
func spreadOn(t *testing.T, f *fleet, s *source) []*fetching {
	var all []*fetching
	for _, name := range f.names() {
		h := f.get(name)
		all = append(all, h.fetch(t.Context(), h.job(s.a, s)))
	}
	return all
}

// payload checks what left the origin.
func payload(t *testing.T, s *source, want int64) {
	t.Helper()
	if got := s.sum(); got != want {
		t.Errorf("%d bytes left the origin, expected %d (%.2f copies): %v", got, want, float64(got)/float64(len(s.a.data)), s.byHost)
	}
}

// atMost checks that no more than one copy left the origin, where a peer may have given some.
func atMost(t *testing.T, s *source, want int64) {
	t.Helper()
	if got := s.sum(); got > want {
		t.Errorf("%d bytes left the origin, more than %d (%.2f copies): %v", got, want, float64(got)/float64(len(s.a.data)), s.byHost)
	}
}

func TestOneCopyLeavesTheOriginForFiveHosts(t *testing.T) {
	a := packed(t, 40, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		wait(t, a, spread(t, f, s, 5)...)
		payload(t, s, a.index.PayloadSize())
		if s.indexes != 1 {
			t.Errorf("the index was read %d times", s.indexes)
		}
		var origin, peers int64
		for _, name := range f.names() {
			p := f.get(name).swarm.Progress(a.ref.Digest)
			origin, peers = origin+p.FromOrigin, peers+p.FromPeers
			if len(p.Suspects)+len(f.get(name).swarm.Suspects()) > 0 {
				t.Errorf("%s suspects %v", name, p.Suspects)
			}
		}
		if origin != s.sum() || peers != 4*a.index.PayloadSize() {
			t.Errorf("hosts count %d from the origin and %d from peers", origin, peers)
		}
	})
}

func TestAHostAloneFetchesWithoutADealer(t *testing.T) {
	a := packed(t, 3, 100<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, ""), &source{a: a}
		defer f.close()
		begin := time.Now()
		wait(t, a, spread(t, f, s, 1)...)
		if took := time.Since(begin); took > 0 {
			t.Errorf("it waited %v for nothing", took)
		}
		payload(t, s, a.index.PayloadSize())
	})
}

func TestATinyBundleIsEverywhereWithoutAWait(t *testing.T) {
	a := packed(t, 2, 4<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-3"), &source{a: a}
		defer f.close()
		begin := time.Now()
		wait(t, a, spread(t, f, s, 5)...)
		if took := time.Since(begin); took > 20*time.Millisecond {
			t.Errorf("%v were spent waiting", took)
		}
		payload(t, s, a.index.PayloadSize())
	})
}

func TestAHostWithoutRouteFinishes(t *testing.T) {
	a := packed(t, 20, 200<<10)
	for _, size := range []int64{a.ref.Size, 0} {
		bubble(t, func(t *testing.T) {
			f, s := newFleet(t, "web-1"), &source{a: a}
			defer f.close()
			for _, name := range names(3) {
				f.start(name)
			}
			far := f.get("web-3").job(a, nil)
			far.Ref.Size = size
			all := []*fetching{f.get("web-3").fetch(t.Context(), far)}
			for _, name := range names(2) {
				job := f.get(name).job(a, s)
				job.Ref.Size = size
				all = append(all, f.get(name).fetch(t.Context(), job))
			}
			wait(t, a, all...)
			payload(t, s, a.index.PayloadSize())
			if n := s.byHost["web-3"]; n > 0 {
				t.Errorf("the host without a route read %d bytes", n)
			}
		})
	}
}

func TestNoOriginReachable(t *testing.T) {
	a := packed(t, 2, 10<<10)
	for n := 1; n <= 3; n += 2 {
		bubble(t, func(t *testing.T) {
			f := newFleet(t, "web-1")
			defer f.close()
			var all []*fetching
			for _, name := range names(n) {
				f.start(name)
			}
			for _, name := range names(n) {
				all = append(all, f.get(name).fetch(t.Context(), f.get(name).job(a, nil)))
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if state := f.get("web-1").swarm.Progress(a.ref.Digest).State; !strings.HasPrefix(state, "no origin reachable: ") {
				t.Errorf("while it waits: %q", state)
			}
			for _, g := range all {
				<-g.done
				if g.err == nil || !strings.Contains(g.err.Error(), "no origin reachable: ") || !strings.Contains(g.err.Error(), "s3://bucket/key") {
					t.Errorf("%d hosts: got %v", n, g.err)
				}
			}
		})
	}
}

// TestHostsThatHaveNotAnsweredYetAreNotCalledDead looks at an exchange that has only begun.
func TestHostsThatHaveNotAnsweredYetAreNotCalledDead(t *testing.T) {
	x := &exchange{peers: map[string]*peer{"web-2": {}, "web-3": {heard: true}}}
	if says := x.hearsay("s3://bucket/key"); !strings.Contains(says, "of those it asks for the bundle, 1 have not answered yet") {
		t.Error(says)
	}
	x.peers["web-2"].heard = true
	if says := x.hearsay("s3://bucket/key"); !strings.HasPrefix(says, "no origin reachable: ") {
		t.Error(says)
	}
}

func TestALateJoinerCostsTheOriginNothing(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-2"), &source{a: a}
		defer f.close()
		wait(t, a, spread(t, f, s, 3)...)
		time.Sleep(time.Hour)
		late := f.start("web-4")
		wait(t, a, late.fetch(t.Context(), late.job(a, s)))
		payload(t, s, a.index.PayloadSize())
		f.lead("web-5") // a dealer that never heard of the bundle
		later := f.start("web-5")
		wait(t, a, later.fetch(t.Context(), later.job(a, s)))
		payload(t, s, a.index.PayloadSize())
	})
}

func TestMembersThatAppearAndLeave(t *testing.T) {
	a := packed(t, 30, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, delay: 50 * time.Millisecond}
		defer f.close()
		all := spread(t, f, s, 3)
		time.Sleep(300 * time.Millisecond)
		late := f.start("web-4")
		all = append(all, late.fetch(t.Context(), late.job(a, nil)))
		time.Sleep(300 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		brief := f.start("web-5")
		left := brief.fetch(ctx, brief.job(a, nil))
		time.Sleep(200 * time.Millisecond)
		cancel()
		<-left.done
		brief.halt()
		if left.err != nil && !errors.Is(left.err, context.Canceled) {
			t.Errorf("got %v", left.err)
		}
		wait(t, a, all...)
		payload(t, s, a.index.PayloadSize())
	})
}

func TestTwoBundlesAtOnce(t *testing.T) {
	a, b := packed(t, 21, 200<<10), foreign(t, 3<<20, 7)
	bubble(t, func(t *testing.T) {
		f, s1, s2 := newFleet(t, "web-1"), &source{a: a}, &source{a: b}
		defer f.close()
		first := spread(t, f, s1, 4)
		var second []*fetching
		for _, name := range names(4) {
			second = append(second, f.get(name).fetch(t.Context(), f.get(name).job(b, s2)))
		}
		wait(t, a, first...)
		wait(t, b, second...)
		payload(t, s1, a.index.PayloadSize())
		payload(t, s2, b.index.PayloadSize())
	})
}

func TestMoreBundlesThanAreFetchedAtOnceTakeTurns(t *testing.T) {
	var all []*archive
	for i := range fetchesMax + 4 {
		all = append(all, foreign(t, 300<<10, byte(i)))
	}
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		h := f.start("web-1")
		f.start("web-2")
		var gs []*fetching
		for _, a := range all {
			gs = append(gs, h.fetch(t.Context(), h.job(a, &source{a: a, delay: 300 * time.Millisecond})))
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		turns := 0
		for _, a := range all {
			if strings.Contains(h.swarm.Progress(a.ref.Digest).State, "waiting for a turn") {
				turns++
			}
		}
		if turns != 4 {
			t.Errorf("%d bundles wait for their turn", turns)
		}
		for i, g := range gs {
			wait(t, all[i], g)
		}
	})
}

func TestASecondFetchJoinsTheFirst(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, delay: 100 * time.Millisecond}
		defer f.close()
		h := f.start("web-1")
		ctx, cancel := context.WithCancel(t.Context())
		first := h.fetch(ctx, h.job(a, nil)) // no route of its own: the second brings it
		synctest.Wait()
		second := h.fetch(t.Context(), h.job(a, s))
		time.Sleep(250 * time.Millisecond)
		cancel()
		<-first.done
		if !errors.Is(first.err, context.Canceled) {
			t.Errorf("the first caller left with %v", first.err)
		}
		third := h.fetch(t.Context(), h.job(a, nil))
		wait(t, a, second, third)
		payload(t, s, a.index.PayloadSize())
	})
}

func TestAFetchOfAnotherIndexWaitsForTheFirst(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, delay: 100 * time.Millisecond}
		defer f.close()
		h := f.start("web-1")
		other := h.job(a, s)
		other.IndexDigest = bundle.DigestBytes([]byte("another"))
		ctx, cancel := context.WithCancel(t.Context())
		wrong := h.fetch(ctx, other)
		synctest.Wait()
		right := h.fetch(t.Context(), h.job(a, s))
		time.Sleep(100 * time.Millisecond)
		cancel()
		<-wrong.done
		wait(t, a, right)
	})
}

func TestARestartGoesOnFromTheBitmap(t *testing.T) {
	a := packed(t, 40, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, delay: 100 * time.Millisecond}
		defer f.close()
		h := f.start("web-1")
		ctx, cancel := context.WithCancel(t.Context())
		g := h.fetch(ctx, h.job(a, s))
		for h.swarm.Progress(a.ref.Digest).Have < a.ref.Size/2 {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		<-g.done
		h.halt()
		before := s.sum()
		h = f.start("web-1")
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
		if again := s.sum() - a.index.PayloadSize(); before < a.ref.Size/2 || again > 4*runLargest {
			t.Errorf("%d bytes had left before the restart, %d were read twice", before, again)
		}
	})
}

// runLargest is the most one lease can cost again.
const runLargest = 1 << 20

func TestPiecesOfEarlierBundlesAreNotFetched(t *testing.T) {
	a, b := packed(t, 20, 600<<10), packed(t, 22, 600<<10)
	bubble(t, func(t *testing.T) {
		f, s1, s2 := newFleet(t, "web-1"), &source{a: a}, &source{a: b}
		defer f.close()
		wait(t, a, spread(t, f, s1, 2)...)
		wait(t, b, spreadOn(t, f, s2)...)
		p1, p2 := f.get("web-1").swarm.Progress(b.ref.Digest), f.get("web-2").swarm.Progress(b.ref.Digest)
		if s2.sum() > b.ref.Size/4 || p1.Reused < b.ref.Size/2 || p2.Reused != p1.Reused {
			t.Errorf("%d bytes of %d left the origin, %d and %d were reused", s2.sum(), b.ref.Size, p1.Reused, p2.Reused)
		}
		payload(t, s2, b.index.PayloadSize()-p1.Reused)
	})
}

// TestIndexIsToldBeforeEarlierBundlesAreCopied: whoever had the index first copied what it had of earlier bundles before the others heard of it, and only then did they.
func TestIndexIsToldBeforeEarlierBundlesAreCopied(t *testing.T) {
	a, b := packed(t, 20, 600<<10), packed(t, 22, 600<<10)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		var mu sync.Mutex
		var first map[string]time.Time // sync of a host's bundle
		f.disk = &durable.Disk{Hook: func(op durable.Op) error {
			host, _, _ := strings.Cut(strings.TrimPrefix(op.Path, f.dir+"/"), "/")
			mu.Lock()
			slow := first != nil && op.Kind == "sync" && filepath.Base(op.Path) == "data"
			if slow && first[host].IsZero() {
				first[host] = time.Now()
			}
			mu.Unlock()
			if slow {
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		}}
		defer f.close()
		wait(t, a, spread(t, f, &source{a: a}, 2)...)
		first = map[string]time.Time{}
		wait(t, b, spreadOn(t, f, &source{a: b})...)
		apart := first["web-1"].Sub(first["web-2"]).Abs()
		if len(first) != 2 || apart > time.Second {
			t.Errorf("the hosts began %v apart to copy what they have: %v", apart, first)
		}
	})
}

// TestMissingPiecesComeWhileOthersAreCopied: copying a large bundle takes longer than fetching the few pieces that changed.
func TestMissingPiecesComeWhileOthersAreCopied(t *testing.T) {
	a, b := packed(t, 20, 600<<10), packed(t, 22, 600<<10)
	bubble(t, func(t *testing.T) {
		f, next := newFleet(t, "web-1"), &source{a: b}
		var second atomic.Bool
		f.disk = &durable.Disk{Hook: func(op durable.Op) error {
			if second.Load() && (op.Kind == "writeback" || op.Kind == "sync" && filepath.Base(op.Path) == "data") {
				for begin := time.Now(); next.sum() == 0; time.Sleep(50 * time.Millisecond) {
					if time.Since(begin) > 5*time.Second {
						return errors.New("nothing is fetched while this disk is busy")
					}
				}
			}
			return nil
		}}
		defer f.close()
		wait(t, a, spread(t, f, &source{a: a}, 1)...)
		var reusable int64
		for i, j := range bundle.Reuse(b.index, a.index) {
			if j >= 0 {
				reusable += int64(b.index.Piece(i).Size)
			}
		}
		second.Store(true)
		wait(t, b, spreadOn(t, f, next)...)
		if p := f.get("web-1").swarm.Progress(b.ref.Digest); p.Reused != reusable {
			t.Errorf("%d bytes reused, want %d", p.Reused, reusable)
		}
		payload(t, next, b.index.PayloadSize()-reusable)
	})
}

// TestWhatCannotBeCopiedIsFetched: an earlier bundle rotted on the disk.
func TestWhatCannotBeCopiedIsFetched(t *testing.T) {
	a, b := packed(t, 20, 600<<10), packed(t, 22, 600<<10)
	bubble(t, func(t *testing.T) {
		f, next := newFleet(t, "web-1"), &source{a: b}
		defer f.close()
		wait(t, a, spread(t, f, &source{a: a}, 2)...)
		old, ok := f.get("web-1").store.Lookup(a.ref.Digest)
		if !ok {
			t.Fatal("the earlier bundle is not there")
		}
		data, err := os.ReadFile(old.Path)
		if err != nil {
			t.Fatal(err)
		}
		var rotten int64 // bytes of a piece that is the same in both
		for i, j := range bundle.Reuse(b.index, a.index) {
			if j >= 0 {
				rotten = int64(b.index.Piece(i).Size)
				data[a.index.Piece(j).Offset] ^= 1
				break
			}
		}
		if err := os.WriteFile(old.Path, data, 0o600); err != nil || rotten == 0 {
			t.Fatal(err, rotten)
		}
		wait(t, b, spreadOn(t, f, next)...)
		p1, p2 := f.get("web-1").swarm.Progress(b.ref.Digest), f.get("web-2").swarm.Progress(b.ref.Digest)
		if p1.Reused+rotten != p2.Reused {
			t.Errorf("%d and %d bytes reused, want %d less on the first", p1.Reused, p2.Reused, rotten)
		}
		payload(t, next, b.index.PayloadSize()-p2.Reused)
	})
}

// TestAllThatIsCopiedRotted: the earlier bundle has every piece of the new one, and lost them all on the disk. That says nothing of the
// new one's index.
func TestAllThatIsCopiedRotted(t *testing.T) {
	a, b := foreign(t, 6<<20, 3), foreign(t, 4<<20, 3)
	bubble(t, func(t *testing.T) {
		f, next := newFleet(t, "web-1"), &source{a: b}
		defer f.close()
		wait(t, a, spread(t, f, &source{a: a}, 1)...)
		old, ok := f.get("web-1").store.Lookup(a.ref.Digest)
		if !ok {
			t.Fatal("the earlier bundle is not there")
		}
		if err := os.WriteFile(old.Path, make([]byte, a.ref.Size), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, j := range bundle.Reuse(b.index, a.index) {
			if j < 0 {
				t.Fatal("it has not every piece")
			}
		}
		wait(t, b, spreadOn(t, f, next)...)
		payload(t, next, b.ref.Size)
	})
}

func TestLimitsOfUploadAndDownload(t *testing.T) {
	a := foreign(t, 6<<20, 3)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		h := f.start("web-1", func(o *Options) { o.Upload, o.Download = 1<<20, 2<<20 })
		begin := time.Now()
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
		if took := time.Since(begin); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("6 MiB at 2 MiB/s took %v", took)
		}
		slow := f.start("web-2")
		begin = time.Now()
		wait(t, a, slow.fetch(t.Context(), slow.job(a, s)))
		if took := time.Since(begin); took < 4*time.Second || took > 9*time.Second {
			t.Errorf("6 MiB at 1 MiB/s from a peer took %v", took)
		}
		payload(t, s, a.index.PayloadSize())
	})
}

func TestAThirtiethOfALimitIsSlowAndNoStall(t *testing.T) {
	a := foreign(t, 2<<20, 4)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		h := f.start("web-1", func(o *Options) { o.Upload = 32 << 10 })
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
		slow := f.start("web-2", func(o *Options) { o.Download = 24 << 10 })
		wait(t, a, slow.persist(t.Context(), slow.job(a, s)))
		payload(t, s, a.index.PayloadSize())
	})
}

func TestFetchRefusesNonsense(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		h := f.start("web-1")
		a := foreign(t, 10<<10, 1)
		for name, change := range map[string]func(*Job){
			"digest": func(j *Job) { j.Ref.Digest = "sha256:12" },
			"size":   func(j *Job) { j.Ref.Size = -1 },
			"huge":   func(j *Job) { j.Ref.Size = bundle.MaxArchiveBytes + 1 },
			"type":   func(j *Job) { j.Ref.Type = "rar" },
		} {
			job := h.job(a, &source{a: a})
			change(&job)
			if err := h.swarm.Fetch(t.Context(), job); err == nil || !strings.HasPrefix(err.Error(), "cannot ") {
				t.Errorf("%s: got %v", name, err)
			}
		}
		job := Job{Ref: a.ref, IndexDigest: a.index.Digest(), Origin: route{&source{a: a}, "web-1"}} // nothing but what it needs
		if err := h.swarm.Fetch(t.Context(), job); err != nil {
			t.Error(err)
		}
		h.check(t, a)
	})
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "")
		defer f.close()
		h := f.start("web-1")
		for name, change := range map[string]func(*Options){
			"host": func(o *Options) { o.Host = "" }, "store": func(o *Options) { o.Store = nil }, "listener": func(o *Options) { o.Listener = nil },
			"client": func(o *Options) { o.Client = nil }, "upload": func(o *Options) { o.Upload = -1 },
		} {
			o := h.swarm.o
			change(&o)
			if _, err := New(o); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
}

// TestACallerWhoKnowsBetterIsHeard: of two who want the same bundle one has it from a commit that mistyped where it is. Whoever came first, the other's place is tried
// once that one has failed.
func TestACallerWhoKnowsBetterIsHeard(t *testing.T) {
	a := packed(t, 10, 200<<10)
	for _, wrongFirst := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			f, right, wrong := newFleet(t, "web-1"), &source{a: a}, &source{a: a, down: errors.New("no such key")}
			defer f.close()
			h := f.start("web-1")
			jobs := []Job{h.job(a, right), h.job(a, wrong)}
			if wrongFirst {
				slices.Reverse(jobs)
			}
			began := time.Now()
			first := h.fetch(t.Context(), jobs[0])
			time.Sleep(time.Millisecond)
			second := h.fetch(t.Context(), jobs[1])
			wait(t, a, first, second)
			if took := time.Since(began); took > stallMax/2 {
				t.Errorf("wrong first: %v: it took %v", wrongFirst, took)
			}
		})
	}
}
