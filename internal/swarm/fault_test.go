package swarm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

func TestAnOriginThatIsDownAndComesBack(t *testing.T) {
	a := packed(t, 30, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		var all []*fetching
		for _, name := range names(5) {
			f.start(name)
		}
		var once sync.Once // it fails after the first pieces
		s.hold = func(string, int64) {
			if s.sum() > 1<<20 {
				once.Do(func() { s.set(func() { s.down = errors.New("connection refused") }) })
			}
		}
		for _, name := range names(5) {
			src := s
			if name == "web-5" {
				src = nil
			}
			all = append(all, f.get(name).persist(t.Context(), f.get(name).job(a, src)))
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		for _, name := range names(5) {
			state := f.get(name).swarm.Progress(a.ref.Digest).State
			if !strings.Contains(state, "connection refused") {
				t.Errorf("%s says %q", name, state)
			}
		}
		time.Sleep(10 * time.Minute)
		s.set(func() { s.down = nil })
		back := time.Now()
		wait(t, a, all...)
		if took := time.Since(back); took > 15*time.Second {
			t.Errorf("it took %v to notice that the origin is back", took)
		}
		payload(t, s, a.index.PayloadSize())
		if s.failed > 350 {
			t.Errorf("the origin was tried %d times in ten minutes", s.failed)
		}
		// After the first failures one host at a time tries, and not often.
		for i := 20; i < len(s.at); i++ {
			if early := s.at[i].Sub(s.at[i-5]); early < time.Second {
				t.Errorf("five tries within %v", early)
				break
			}
		}
	})
}

func TestAnOriginThatBreaksOffReads(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, cut: 300 << 10}
		defer f.close()
		wait(t, a, spread(t, f, s, 3)...)
		atMost(t, s, a.index.PayloadSize()*3/2+budgetLeast)
	})
}

// budgetLeast is the least that may leave the origin twice.
const budgetLeast = 4 << 20

func TestAnOriginWhoseBytesAreNotTheIndexs(t *testing.T) {
	a := packed(t, 60, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		piece := a.index.Piece(a.index.Len() / 2)
		s.corrupt = func(off int64, data []byte) {
			if at := piece.Offset - off; at >= 0 && at < int64(len(data)) {
				data[at] ^= 1
			}
		}
		var all []*fetching
		for _, name := range names(3) {
			h := f.start(name)
			all = append(all, h.persist(t.Context(), h.job(a, s)))
		}
		time.Sleep(8 * time.Second)
		synctest.Wait()
		state := f.get("web-1").swarm.Progress(a.ref.Digest).State
		for _, word := range []string{"the origin's bytes are not those of the index", "expected sha256:", "s3://bucket/key"} {
			if !strings.Contains(state, word) {
				t.Errorf("%q does not say %q", state, word)
			}
		}
		time.Sleep(5 * time.Minute)
		atMost(t, s, a.index.PayloadSize()*3/2+budgetLeast)
		s.set(func() { s.corrupt = nil }) // somebody uploads the right archive
		wait(t, a, all...)
		for _, name := range names(3) {
			if n := len(f.get(name).swarm.Suspects()); n > 0 {
				t.Errorf("%s suspects %d hosts for what the origin did", name, n)
			}
		}
	})
}

func TestASpentBudgetIsSaidAndStopsAStampede(t *testing.T) {
	a := foreign(t, 8<<20, 5)
	for name, s := range map[string]*source{ // bytes leave, and nothing comes of them
		"wrong bytes":                   {a: a, corrupt: func(_ int64, data []byte) { data[len(data)-1] ^= 1; data[0] ^= 1 }},
		"reads that end before a piece": {a: a, cut: 200 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFleet(t, "web-1")
				defer f.close()
				for _, name := range names(4) {
					h := f.start(name)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					h.persist(ctx, h.job(a, s))
				}
				said := ""
				for range 20 * 60 {
					time.Sleep(time.Second)
					synctest.Wait()
					for _, name := range names(4) {
						if state := f.get(name).swarm.Progress(a.ref.Digest).State; strings.HasPrefix(state, "waiting for origin, budget spent: ") {
							said = state
						}
					}
				}
				if !strings.Contains(said, "bytes left it for a bundle of 8388608; the last failure: ") || !strings.Contains(said, "cannot read s3://bucket/key: ") {
					t.Errorf("of the budget is said %q", said)
				}
				if got, most := s.sum(), int64(8+4+20)<<20; got > most {
					t.Errorf("%d bytes left an origin that is useless, more than %d", got, most)
				}
			})
		})
	}
}

func TestTheDealerDiesInTheMiddle(t *testing.T) {
	a := packed(t, 60, 200<<10)
	for _, replaced := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			f, s := newFleet(t, "leader"), &source{a: a, delay: 200 * time.Millisecond}
			defer f.close()
			f.start("leader") // it deals, and has no part in the bundle
			var all []*fetching
			for _, name := range names(4) {
				h := f.start(name)
				all = append(all, h.fetch(t.Context(), h.job(a, s)))
			}
			for s.sum() < a.ref.Size/4 {
				time.Sleep(10 * time.Millisecond)
			}
			f.get("leader").halt()
			if replaced {
				time.Sleep(time.Second)
				f.lead("web-2")
			}
			died := time.Now()
			wait(t, a, all...)
			payload(t, s, a.index.PayloadSize())
			if took := time.Since(died); took > dealerPatience+10*time.Second || !replaced && took < dealerPatience {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestANewDealerHearsWhatIsBeingRead(t *testing.T) {
	a := packed(t, 60, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "leader-0"), &source{a: a, delay: 1500 * time.Millisecond}
		defer f.close()
		for _, name := range []string{"leader-0", "leader-1", "leader-2"} {
			f.start(name)
		}
		var all []*fetching
		for _, name := range names(4) {
			h := f.start(name)
			all = append(all, h.fetch(t.Context(), h.job(a, s)))
		}
		// Every host reads, and none asks: hosts ask again after whole seconds, and what the old dealer deals in the very moment of the change the new one cannot
		// know of, so that a piece may then leave twice, as the budget allows.
		time.Sleep(1100 * time.Millisecond)
		for _, next := range []string{"leader-1", "leader-2"} {
			f.lead(next)
			time.Sleep(1700 * time.Millisecond)
		}
		wait(t, a, all...)
		payload(t, s, a.index.PayloadSize())
	})
}

func TestNoLeaderAtAll(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, ""), &source{a: a}
		defer f.close()
		all := spread(t, f, s, 4)
		time.Sleep(time.Second)
		synctest.Wait()
		if state := f.get("web-2").swarm.Progress(a.ref.Digest).State; !strings.Contains(state, "waiting for the coordinator set's leader") {
			t.Errorf("got %q", state)
		}
		wait(t, a, all...)
		payload(t, s, a.index.PayloadSize())
	})
}

func TestARendezvousThatIsDeadIsLeftOut(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, ""), &source{a: a}
		defer f.close()
		alive := f.names
		var all []*fetching
		for _, name := range names(2) {
			h := f.start(name)
			job := h.job(a, s)
			job.Members = func() []string { return append(alive(), "gone-1", "gone-2", "gone-3", "gone-4", "gone-5", "gone-6") }
			all = append(all, h.persist(t.Context(), job))
		}
		wait(t, a, all...)
		payload(t, s, a.index.PayloadSize())
	})
}

func TestALeaseHolderIsKilled(t *testing.T) {
	a := packed(t, 60, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, delay: 50 * time.Millisecond}
		defer f.close()
		ctx, cancel := context.WithCancel(t.Context())
		held, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		s.hold = func(host string, _ int64) {
			if host == "web-4" && s.sum() > 1<<20 {
				once.Do(func() { close(held) })
				<-release
			}
		}
		var all []*fetching
		var killed *fetching
		for _, name := range names(4) {
			h := f.start(name)
			if name == "web-4" {
				killed = h.fetch(ctx, h.job(a, s))
				continue
			}
			all = append(all, h.fetch(t.Context(), h.job(a, s)))
		}
		<-held
		cancel()
		close(release)
		<-killed.done
		f.get("web-4").halt()
		s.mu.Lock()
		alone := s.byHost["web-4"]
		s.mu.Unlock()
		wait(t, a, all...)
		atMost(t, s, a.index.PayloadSize()+alone)
	})
}

func TestAHolderDiesBeforeItCouldShare(t *testing.T) {
	a := packed(t, 4, 100<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		f.start("web-1")
		h := f.start("web-3", func(o *Options) { o.Upload = 1 }) // it will not get rid of a piece
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
		h.halt()
		next := f.start("web-2")
		wait(t, a, next.persist(t.Context(), next.job(a, s)))
		payload(t, s, 2*a.index.PayloadSize())
	})
}

// unpinned asks without a pinned index and without a size.
func unpinned(h *host, a *archive, s *source) Job {
	job := h.job(a, s)
	job.IndexDigest, job.Ref.Size = "", 0
	return job
}

func TestABundleWithoutPinnedIndex(t *testing.T) {
	for name, a := range map[string]*archive{"foreign": foreign(t, 3<<20+17, 2), "our own": packed(t, 15, 200<<10)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-2"), &source{a: a}
				defer f.close()
				var all []*fetching
				for _, name := range names(5) {
					h := f.start(name)
					src := s
					if name == "web-1" || name == "web-4" {
						src = nil
					}
					all = append(all, h.fetch(t.Context(), unpinned(h, a, src)))
				}
				wait(t, a, all...)
				payload(t, s, a.ref.Size)
				if s.indexes > 0 {
					t.Error("an index that nobody pinned was read")
				}
			})
		})
	}
}

func TestAScoutFailsInTheMiddle(t *testing.T) {
	a := foreign(t, 4<<20, 6)
	for _, how := range []string{"killed", "cut", "hangs"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-1"), &source{a: a}
				defer f.close()
				first := make(chan string, 1)
				var once sync.Once
				stuck := make(chan struct{})
				s.hold = func(host string, _ int64) {
					once.Do(func() {
						first <- host
						if how == "hangs" || how == "killed" {
							<-stuck
						}
					})
				}
				if how == "cut" {
					s.cut = 1 << 20
				}
				running := map[string]*fetching{}
				stop := map[string]context.CancelFunc{}
				for _, name := range names(4) {
					h := f.start(name)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					running[name], stop[name] = h.persist(ctx, unpinned(h, a, s)), cancel
				}
				scout := <-first
				time.Sleep(3 * time.Second)
				s.set(func() { s.cut = 0 })
				if how == "killed" {
					stop[scout]()
					close(stuck)
					<-running[scout].done
					if scout != "web-1" { // which deals
						f.get(scout).halt()
					}
					delete(running, scout)
				}
				if how == "hangs" {
					time.AfterFunc(time.Minute, func() { close(stuck) })
				}
				for _, g := range running {
					wait(t, a, g)
				}
				atMost(t, s, 2*a.ref.Size)
			})
		})
	}
}

func TestAScoutWhoseArchiveIsAnother(t *testing.T) {
	a, b := foreign(t, 1<<20, 1), foreign(t, 1<<20, 2)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: b}
		defer f.close()
		h := f.start("web-1")
		job := unpinned(h, a, nil)
		job.Origin = route{s, "web-1"}
		err := h.swarm.Fetch(t.Context(), job)
		if err == nil || !strings.Contains(err.Error(), b.ref.Digest.Short()) || !strings.Contains(err.Error(), a.ref.Digest.Short()) {
			t.Errorf("got %v", err)
		}
		if got := s.sum(); got > 5*b.ref.Size {
			t.Errorf("%d bytes left the origin in ten seconds", got)
		}
	})
}

func TestASizeTheCommitHasWrong(t *testing.T) {
	a := packed(t, 5, 100<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		h := f.start("web-1")
		job := h.job(a, s)
		job.Ref.Size += 5
		if err := h.swarm.Fetch(t.Context(), job); err == nil || !strings.Contains(err.Error(), "bytes, the commit of") {
			t.Errorf("got %v", err)
		}
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
	})
}

func TestAPartialOfAnotherSizeGoes(t *testing.T) {
	a := packed(t, 5, 100<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		h := f.start("web-1")
		if _, err := h.store.Begin(bundle.Ref{Digest: a.ref.Digest, Size: 12345, Type: a.ref.Type}); err != nil {
			t.Fatal(err)
		}
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
	})
}

// What rots while a bundle is on its way is found when the fetch goes on after a restart, and when it is not, by whoever unpacks it. Only that is fetched again.
func TestPiecesThatRotOnDiskAreFetchedAgain(t *testing.T) {
	for _, restarts := range []bool{true, false} {
		t.Run(fmt.Sprintf("restarts %v", restarts), func(t *testing.T) {
			a := packed(t, 20, 200<<10)
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-1"), &source{a: a, delay: 100 * time.Millisecond}
				defer f.close()
				h := f.start("web-1")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				g := h.fetch(ctx, h.job(a, s))
				for h.swarm.Progress(a.ref.Digest).Have < a.ref.Size/2 {
					time.Sleep(10 * time.Millisecond)
				}
				if restarts {
					cancel()
					<-g.done
					h.halt()
					h.rot(t, a)
					h = f.start("web-1")
				} else {
					h.rot(t, a)
					<-g.done
					if err := h.store.Unpack(t.Context(), a.ref.Digest, t.TempDir()); !errors.Is(err, store.ErrMismatch) {
						t.Fatalf("rot was unpacked: %v", err)
					}
				}
				wait(t, a, h.fetch(t.Context(), h.job(a, s)))
				if got := s.sum(); got <= a.index.PayloadSize() || got > a.index.PayloadSize()+2<<20 {
					t.Errorf("%d bytes left the origin", got)
				}
			})
		})
	}
}

// TestRotUnderACompleteBundleIsNeverServedAndComesBackFromPeers: web-3 hears only web-2, whose first piece rotted; web-2 gets it from web-1.
func TestRotUnderACompleteBundleIsNeverServedAndComesBackFromPeers(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		wait(t, a, spread(t, f, s, 2)...)
		rotten, asks := f.get("web-2"), f.start("web-3")
		rotten.rotIn(t, "complete", a)
		job := asks.job(a, nil)
		job.Members = func() []string { return []string{"web-2", "web-3"} }
		g := asks.persist(t.Context(), job)
		for len(rotten.store.Suspects()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		if have := asks.swarm.Progress(a.ref.Digest).Have; have >= a.ref.Size {
			t.Error("web-3 has a piece that nobody could give it")
		}
		if err := rotten.store.Recheck(t.Context(), a.ref.Digest); !errors.Is(err, store.ErrMismatch) {
			t.Fatalf("%v", err)
		}
		before := rotten.swarm.Progress(a.ref.Digest).FromPeers
		wait(t, a, rotten.persist(t.Context(), rotten.job(a, nil)), g)
		if got := rotten.swarm.Progress(a.ref.Digest).FromPeers - before; got != int64(a.index.Piece(0).Size) {
			t.Errorf("%d bytes were fetched again, the piece has %d", got, a.index.Piece(0).Size)
		}
		payload(t, s, a.index.PayloadSize())
	})
}

func TestOneHostIsCutOffFromTheOthers(t *testing.T) {
	a := packed(t, 20, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		all := spread(t, f, s, 2)
		alone := f.start("web-3")
		job := alone.job(a, s)
		job.Members = func() []string { return []string{"web-3"} }
		job.Dealer = func() string { return "" }
		all = append(all, alone.fetch(t.Context(), job))
		wait(t, a, all...)
		atMost(t, s, 2*a.index.PayloadSize())
	})
}

// A host that told what it has and then vanished without a word, as one that lost its power does, holds the others up for seconds, not until membership hears of it.
func TestAHolderThatVanishesIsMissedSoon(t *testing.T) {
	a := packed(t, 10, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		begin := time.Now()
		f.liar(t, "gone", a, func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/news") && time.Since(begin) < time.Second { // who calls it again hears nothing
				ctx, cancel := context.WithTimeout(r.Context(), time.Second)
				defer cancel()
				honest.ServeHTTP(w, r.WithContext(ctx))
			}
			<-r.Context().Done()
		})
		var all []*fetching
		for _, name := range names(3) {
			h := f.start(name)
			all = append(all, h.fetch(t.Context(), h.job(a, s)))
		}
		wait(t, a, all...)
		if took := time.Since(begin); took > 9*time.Second {
			t.Errorf("it took %v until the others had everything", took)
		}
		payload(t, s, a.index.PayloadSize())
	})
}

// A lease may end while the dealer, asked before, answers that enough is on its way: the host asks again at once then, and does not sit that answer out.
func TestALeaseThatEndsDuringAQuestionIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &exchange{started: time.Now().Add(-time.Minute), picker: plan.NewPicker([]int64{1, 1}, plan.NewBits(2), 1)}
		begin := time.Now()
		x.waitLease(t.Context(), 1, time.Second)
		if waited := time.Since(begin); waited > 0 {
			t.Errorf("it waits for %v although its lease is over", waited)
		}
		x.waitLease(t.Context(), 0, time.Second)
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("it waits for %v, want a second", waited)
		}
	})
}

// A disk that takes longer to keep what came than a fetch may stand still.
func TestASlowDiskIsNoStall(t *testing.T) {
	a, b := packed(t, 8, 150<<10), packed(t, 12, 150<<10)
	bubble(t, func(t *testing.T) {
		f, sa, sb := newFleet(t, "web-1"), &source{a: a}, &source{a: b}
		defer f.close()
		var armed atomic.Bool // asked while pieces are copied, and while others are written
		f.disk = &durable.Disk{Hook: func(op durable.Op) error {
			if op.Kind == "sync" && filepath.Base(op.Path) == "data" && armed.CompareAndSwap(true, false) {
				time.Sleep(15 * time.Second)
			}
			return nil
		}}
		h := f.start("web-1")
		wait(t, a, h.fetch(t.Context(), h.job(a, sa)))
		armed.Store(true)
		g := h.fetch(t.Context(), h.job(b, sb))
		<-g.done
		if g.err != nil {
			t.Errorf("%v (%d bytes came)", g.err, sb.sum())
		}
	})
}
