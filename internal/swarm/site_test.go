package swarm

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
		if l.towards(home, "a") != nil || l.towards(home, "c") != nil || l.towards(home, "d") != nil {
			t.Error("a limit where there is none")
		}
		if got := l.towards(home, "b").Limit(); got != (4<<20)/plan.Gateways {
			t.Errorf("before anything is drawn: %v bytes a second", got)
		}
		l.drawn(map[string]int{"b": 2})
		limit := l.towards(home, "b")
		if limit.Limit() != 2<<20 || limit != l.towards(home, "b") {
			t.Errorf("of two gateways: %v bytes a second", limit.Limit())
		}
		begin, data := time.Now(), make([]byte, 1<<20)
		for range 9 {
			if err := h.swarm.sendPiece(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), data, limit); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("9 MiB, of which the first is free, at 2 MiB/s took %v", took)
		}
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
	if a, b := count("a"), count("b"); a != plan.UploadsMax || b != plan.UploadsMax {
		t.Errorf("%d and %d requests are served at a time", a, b)
	}
	if rest := count("c") + count("d") + count("e"); rest != uploadsMax-2*plan.UploadsMax {
		t.Errorf("%d more", rest)
	}
	s.release("a")
	if s.take("b") || !s.take("a") {
		t.Error("a slot that was given back is another bundle's")
	}
}
