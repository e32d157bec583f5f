package swarm

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// placed starts n hosts in sites a and b by turns.
func placed(f *fleet, n int, own bool) []*host {
	var all []*host
	for _, name := range names(n) {
		all = append(all, f.start(name, func(o *Options) {
			o.Site = func(host string) Site {
				if strings.HasPrefix(host, "web-") && (host[len(host)-1]-'0')%2 == 1 {
					return Site{Name: "a", Own: own}
				}
				return Site{Name: "b", Own: own}
			}
		}))
	}
	return all
}

func TestTheOriginIsReadOnceForAllSitesOrOnceForEach(t *testing.T) {
	a := packed(t, 30, 200<<10)
	for copies, own := range map[int64]bool{1: false, 2: true} {
		t.Run(fmt.Sprint("own origin ", own), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-1"), &source{a: a}
				defer f.close()
				var all []*fetching
				for _, h := range placed(f, 6, own) {
					all = append(all, h.fetch(t.Context(), h.job(a, s)))
				}
				wait(t, a, all...)
				payload(t, s, copies*a.index.PayloadSize())
				if int64(s.indexes) != copies {
					t.Errorf("the index was read %d times", s.indexes)
				}
			})
		})
	}
}

func TestASiteWithoutRouteGetsItsBytesFromTheOther(t *testing.T) {
	a := packed(t, 30, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		var all []*fetching
		for i, h := range placed(f, 6, false) {
			if i%2 == 0 {
				all = append(all, h.fetch(t.Context(), h.job(a, s)))
			} else {
				all = append(all, h.fetch(t.Context(), h.job(a, nil)))
			}
		}
		wait(t, a, all...)
		payload(t, s, a.index.PayloadSize())
	})
}

// TestAGatewayThatDoesNotFetchKeepsNothingBack has a member that is a gateway of its site and never begins. Its share waited for as long as a busy one is given, and
// where hosts are slow the others gave up before that.
func TestAGatewayThatDoesNotFetchKeepsNothingBack(t *testing.T) {
	a := packed(t, 30, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-2"), &source{a: a}
		defer f.close()
		all := placed(f, 4, false) // web-1 and web-3 are in one site, web-2 and web-4 in the other
		wait(t, a, all[1].fetch(t.Context(), all[1].job(a, s)))
		begin := time.Now()
		wait(t, a, all[0].fetch(t.Context(), all[0].job(a, nil)))
		if took := time.Since(begin); took >= time.Second { // of the bubble's clock; a request is late after a quarter of it at least, and a gateway after four times that
			t.Errorf("it took %v", took)
		}
	})
}

// TestAHostThatBeginsLateIsHeardAtOnce has a host that listened to another before that one had heard of the bundle.
func TestAHostThatBeginsLateIsHeardAtOnce(t *testing.T) {
	a := packed(t, 30, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-2"), &source{a: a, delay: 100 * time.Millisecond}
		defer f.close()
		early, late := f.start("web-1"), f.start("web-2")
		waiting := early.fetch(t.Context(), early.job(a, nil))
		time.Sleep(newsAliveAt / 4) // of the bubble's clock
		bringing := late.fetch(t.Context(), late.job(a, s))
		time.Sleep(newsAliveAt / 2) // and that is before the next sign of life
		if p := early.swarm.Progress(a.ref.Digest); p.HavePieces == 0 {
			t.Errorf("nothing of what the other brings is here: %+v", p)
		}
		wait(t, a, bringing, waiting)
	})
}

func TestALargeGroupListensToFewAndReadsTheOriginOnce(t *testing.T) {
	a := foreign(t, 3<<20, 9)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, delay: 20 * time.Millisecond}
		defer f.close()
		var hosts []*host
		for _, name := range names(plan.MeshMax + 15) {
			hosts = append(hosts, f.start(name))
		}
		var all []*fetching
		for _, h := range hosts {
			all = append(all, h.fetch(t.Context(), h.job(a, s)))
		}
		wait(t, a, all...)
		payload(t, s, a.index.PayloadSize())
		for _, h := range hosts {
			if n := h.swarm.Progress(a.ref.Digest).Peers; n < 10 || n > 24 {
				t.Errorf("%s listens to %d hosts", h.name, n)
			}
		}
	})
}

func TestALinkBetweenSitesIsSharedByTheGateways(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		h := f.start("web-1")
		home := Site{Name: "a", Links: map[string]int64{"b": 4 << 20, "c": 0}}
		l := &h.swarm.links
		enter := func(digest bundle.Digest, to string) *rate.Limiter {
			t.Helper()
			limit, leave, ok := l.enter(digest, home, to)
			if !ok {
				t.Fatal("no way to ", to)
			}
			leave()
			return limit
		}
		for _, to := range []string{"a", "c", "d"} {
			if enter("one", to) != nil {
				t.Errorf("a limit towards %s, where there is none", to)
			}
		}
		if got := enter("one", "b").Limit(); got != (4<<20)/plan.Gateways {
			t.Errorf("before anything is drawn: %v bytes a second", got)
		}
		l.drawn("one", map[string][]string{"b": {"web-1", "web-2"}})
		limit := enter("one", "b")
		if limit.Limit() != 2<<20 || limit != enter("one", "b") {
			t.Errorf("of two gateways: %v bytes a second", limit.Limit())
		}
		shared := func(want rate.Limit, when string) {
			t.Helper()
			if got := enter("one", "b"); got != limit || got.Limit() != want {
				t.Errorf("%s: %v bytes a second, want %v", when, got.Limit(), want)
			}
		}
		l.drawn("two", map[string][]string{"b": {"web-3"}})
		shared(1<<20, "beside another bundle")
		l.drawn("three", map[string][]string{"c": {"web-3"}})
		shared(1<<20, "beside one that goes elsewhere")
		l.over("two")
		l.over("two, which is not known")
		shared(2<<20, "after the other")
		enter("four", "b")
		shared(1<<20, "beside one that is complete here, and asked for")
		time.Sleep(linkFresh)
		shared(2<<20, "long after that")
		for n := range 100 {
			l.drawn(bundle.Digest(fmt.Sprint(n)), map[string][]string{"b": {"web-1", "web-2"}})
		}
		shared(LinkMin/2, "beside a hundred")
		for n := range 100 {
			l.over(bundle.Digest(fmt.Sprint(n)))
		}
		enter("one", "b")
		begin, data := time.Now(), make([]byte, 1<<20)
		for range 9 {
			if err := h.swarm.sendPiece(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), data, limit); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("9 MiB, of which the first is free, at 2 MiB/s took %v", took)
		}
		home.Links = map[string]int64{"b": 1 << 20}
		if got := enter("one", "b"); got != limit || got.Limit() != 512<<10 || got.Burst() != 256<<10 {
			t.Errorf("after a new commit: %v bytes a second, %d at once", got.Limit(), got.Burst())
		}
	})
}

// TestTwoBundlesShareALink between sites: together they used to take twice its rate.
func TestTwoBundlesShareALink(t *testing.T) {
	const limit = 1 << 20
	bundles := []*archive{foreign(t, 3<<20, 11), foreign(t, 3<<20, 12)}
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		for _, name := range names(2) {
			f.start(name, func(o *Options) {
				o.Site = func(host string) Site {
					if host == "web-1" {
						return Site{Name: "a", Links: map[string]int64{"b": limit}}
					}
					return Site{Name: "b"} // and so is who asks: connections prove nothing here
				}
			})
		}
		begin := time.Now()
		var all []*fetching
		for _, a := range bundles {
			f.get("web-1").fetch(t.Context(), f.get("web-1").job(a, &source{a: a}))
			all = append(all, f.get("web-2").persist(t.Context(), f.get("web-2").job(a, nil)))
		}
		for i, a := range bundles {
			wait(t, a, all[i])
		}
		took := time.Since(begin)
		if sum := 2 * 3 << 20; took < time.Duration(sum-limit)*time.Second/limit || took > 2*time.Duration(sum)*time.Second/limit {
			t.Errorf("%d bytes at %d a second took %v", sum, limit, took)
		}
	})
}

func TestAnotherSiteIsAskedOnlyOnceTheOwnWasHeard(t *testing.T) {
	onlyTheOwnSiteIsAsked(t, func(w http.ResponseWriter) http.ResponseWriter {
		time.Sleep(hearFirst / 2)
		return w
	})
}

// TestThePiecesOfTheOwnSiteAreWaitedFor when a host has told of its index, and not yet of what it has: another site was asked in between, and the origin read.
func TestThePiecesOfTheOwnSiteAreWaitedFor(t *testing.T) {
	onlyTheOwnSiteIsAsked(t, func(w http.ResponseWriter) http.ResponseWriter {
		return &halting{ResponseWriter: w, at: len(newsMagic) + 5 + sha256.Size, pause: hearFirst / 2}
	})
}

// onlyTheOwnSiteIsAsked fetches what a host of the own site has, whose news go out by way of slow, and one of another site too.
func onlyTheOwnSiteIsAsked(t *testing.T, slow func(http.ResponseWriter) http.ResponseWriter) {
	t.Helper()
	a := packed(t, 10, 200<<10)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		near := f.liar(t, "web-3", a, func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/news") {
				w = slow(w)
			}
			honest.ServeHTTP(w, r)
		})
		far := f.liar(t, "web-2", a, func(w http.ResponseWriter, r *http.Request, honest http.Handler) { honest.ServeHTTP(w, r) })
		at := &movable{sites: map[string]Site{"web-1": {Name: "a"}, "web-2": {Name: "b"}, "web-3": {Name: "a"}}}
		h, src := f.start("web-1", func(o *Options) { o.Site = at.of }), &source{a: a}
		wait(t, a, h.fetch(t.Context(), h.job(a, src)))
		if near.Load() == 0 || far.Load() != 0 || src.payload != 0 {
			t.Errorf("%d requests went to the own site and %d to the other, %d bytes left the origin", near.Load(), far.Load(), src.payload)
		}
	})
}

// halting pauses after so many bytes, which it sends.
type halting struct {
	http.ResponseWriter
	at    int
	pause time.Duration
}

func (h *halting) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *halting) Write(p []byte) (n int, err error) {
	if h.at < len(p) && h.at > 0 {
		if n, err = h.ResponseWriter.Write(p[:h.at]); err == nil {
			err = http.NewResponseController(h.ResponseWriter).Flush()
		}
		if err != nil {
			return n, err
		}
		time.Sleep(h.pause)
		p = p[h.at:]
	}
	h.at = 0
	more, err := h.ResponseWriter.Write(p)
	return n + more, err
}

func TestALinkServesFewAtATime(t *testing.T) {
	l, home := newLinks(), Site{Name: "a", Links: map[string]int64{"b": LinkMin, "c": LinkMin}}
	var leaves []func()
	for range linkUploads {
		_, leave, ok := l.enter("one", home, "b")
		if !ok {
			t.Fatal("turned away too early")
		}
		leaves = append(leaves, leave)
	}
	if _, _, ok := l.enter("one", home, "b"); ok {
		t.Error("one too many")
	}
	for _, way := range []struct {
		digest bundle.Digest
		to     string
	}{{"two", "b"}, {"one", "c"}, {"one", "a"}} {
		if _, _, ok := l.enter(way.digest, home, way.to); !ok {
			t.Errorf("%s to %s is turned away", way.digest, way.to)
		}
	}
	leaves[0]()
	if _, _, ok := l.enter("one", home, "b"); !ok {
		t.Error("a slot that was given back is taken")
	}
	for n := range 2 * linksMax {
		l.drawn(bundle.Digest(fmt.Sprint(n)), map[string][]string{"b": {"web-1"}})
	}
	if len(l.bundles) != linksMax {
		t.Errorf("%d bundles are remembered", len(l.bundles))
	}
}

// movable is sites that change while hosts run.
type movable struct {
	mu    sync.Mutex
	sites map[string]Site
}

func (m *movable) of(host string) Site {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sites[host]
}

func (m *movable) move(host string, to Site) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sites[host] = to
}

func TestAHostThatMovesToAnotherSiteExchangesThere(t *testing.T) {
	a := packed(t, 10, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		at := &movable{sites: map[string]Site{"web-1": {Name: "a", Own: true}, "web-2": {Name: "b", Own: true}}}
		var hosts []*host
		for _, name := range names(2) {
			hosts = append(hosts, f.start(name, func(o *Options) { o.Site = at.of }))
		}
		here := hosts[0].fetch(t.Context(), hosts[0].job(a, s))
		wait(t, a, here)
		apart := hosts[1].fetch(t.Context(), hosts[1].job(a, nil)) // no route of its own
		<-apart.done
		if p := hosts[1].swarm.Progress(a.ref.Digest); apart.err == nil || p.FromPeers > 0 {
			t.Fatalf("a site that reads for itself got bytes from another: %+v (%v)", p, apart.err)
		}
		moving := hosts[1].fetch(t.Context(), hosts[1].job(a, nil))
		time.Sleep(stallMax / 2)
		at.move("web-2", Site{Name: "a", Own: true})
		wait(t, a, moving)
		payload(t, s, a.index.PayloadSize())
	})
}

// TestADealerThatIsBehindDealsNothing: it counts what it deals among other hosts than its own commit will have, and all of it would be read twice.
func TestADealerThatIsBehindDealsNothing(t *testing.T) {
	a := packed(t, 10, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		before, after := Site{Name: "a", Own: true}, Site{Name: "a"}
		behind := &movable{sites: map[string]Site{"web-1": before, "web-2": before}}
		dealer := f.start("web-1", func(o *Options) { o.Site = behind.of })
		ahead := f.start("web-2", func(o *Options) { o.Site = func(string) Site { return after } })
		first := ahead.fetch(t.Context(), ahead.job(a, s))
		time.Sleep(dealerPatience / 2)
		if state := ahead.swarm.Progress(a.ref.Digest).State; !strings.Contains(state, "reads its own copy") {
			t.Errorf("the host that waits says %q", state)
		}
		payload(t, s, 0)
		behind.move("web-1", after)
		behind.move("web-2", after)
		wait(t, a, first)
		wait(t, a, dealer.fetch(t.Context(), dealer.job(a, s)))
		payload(t, s, a.index.PayloadSize())
	})
}

func TestNeighboursAreDrawnAgainWhenThisHostMoves(t *testing.T) {
	a := packed(t, 10, 200<<10)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		at := &movable{sites: map[string]Site{"web-1": {Name: "a"}, "web-2": {Name: "b"}}}
		var hosts []*host
		for _, name := range names(2) {
			hosts = append(hosts, f.start(name, func(o *Options) { o.Site = at.of }))
		}
		moving := hosts[1].fetch(t.Context(), hosts[1].job(a, nil))
		far := func() bool {
			hosts[1].swarm.mu.Lock()
			x := hosts[1].swarm.exchanges[a.ref.Digest]
			hosts[1].swarm.mu.Unlock()
			x.mu.Lock()
			defer x.mu.Unlock()
			p := x.peers["web-1"]
			return p != nil && p.far
		}
		time.Sleep(time.Second)
		if !far() {
			t.Error("a host of another site is not taken for one")
		}
		at.move("web-2", Site{Name: "a"}) // all the others stay where they were
		time.Sleep(time.Second)
		if far() {
			t.Error("a host of the own site is taken for one of another")
		}
		<-moving.done
	})
}

func TestABundleDoesNotTakeAllUploads(t *testing.T) {
	s := slots{taken: map[bundle.Digest]int{}}
	count := func(d bundle.Digest) (n int) {
		for s.take(d) {
			n++
		}
		return n
	}
	if a, b := count("a"), count("b"); a != plan.RequestsMax || b != plan.RequestsMax {
		t.Errorf("%d and %d requests are served at a time", a, b)
	}
	if rest := count("c") + count("d") + count("e"); rest != uploadsMax-2*plan.RequestsMax {
		t.Errorf("%d more", rest)
	}
	s.release("a")
	if s.take("b") || !s.take("a") {
		t.Error("a slot that was given back is another bundle's")
	}
}

// TestALeaderThatRefusesIsReplaced, although it lives and may be first by rendezvous: it may be behind by a commit for long.
func TestALeaderThatRefusesIsReplaced(t *testing.T) {
	members := []string{"host-0", "host-1", "host-2"}
	for k := range 20 {
		s := &Swarm{}
		s.o.Host = "host-1"
		x := &exchange{s: s, digest: bundle.Digest(fmt.Sprint("sha256:", k)), desk: deskView{avoid: map[string]time.Time{}},
			jobs: []*Job{{Members: func() []string { return members }, Dealer: func() string { return "host-0" }}}}
		start := time.Unix(1000, 0)
		now, host := start, "host-0"
		for ; host == "host-0" && now.Sub(start) < time.Minute; now = now.Add(askPauseMax) {
			if host = x.dealerHost(now); host == "host-0" {
				x.answered(host, false, now)
			}
		}
		if took := now.Sub(start); took > dealerPatience+3*askPauseMax {
			t.Errorf("bundle %d: the leader is asked for %v", k, took)
		}
	}
}
