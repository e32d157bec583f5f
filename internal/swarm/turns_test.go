package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// line is one dealer's desk and a clock.
type line struct {
	t    *testing.T
	desk desk
	now  time.Time
}

func newLine(t *testing.T) *line { return &line{t: t, desk: newDesk(), now: time.Unix(1e9, 0)} }

func bundleOf(n int) scoutKey {
	return scoutKey{bundle.DigestOf([32]byte{byte(n), byte(n >> 8), 1}), ""}
}

// asks says whether it is a host's turn at a bundle now.
func (l *line) asks(host string, key scoutKey, q leaseRequest) bool {
	q.Version, q.Host = leaseVersion, host
	return l.desk.scout(key, q, l.now).Yes
}

// pass lets hosts ask every second for so long, and says who had the turn at the end, and whether it was the first of them all the time.
func (l *line) pass(howLong time.Duration, read func() int64, hosts ...string) (last string, always bool) {
	always = true
	for end := l.now.Add(howLong); l.now.Before(end); l.now = l.now.Add(time.Second) {
		for _, h := range hosts {
			q := leaseRequest{}
			if read != nil && h == hosts[0] {
				q.Read = read()
			}
			if l.asks(h, bundleOf(1), q) {
				last, always = h, always && h == hosts[0]
			}
		}
	}
	return last, always
}

func TestATurnEndsWithoutProgress(t *testing.T) {
	l := newLine(t)
	if last, always := l.pass(scoutIdle-time.Second, nil, "evil", "web-1"); last != "evil" || !always {
		t.Errorf("before its time is up %s reads", last)
	}
	l.now = l.now.Add(2 * time.Second)
	if l.asks("evil", bundleOf(1), leaseRequest{}) || !l.asks("web-1", bundleOf(1), leaseRequest{}) {
		t.Error("the turn of a host that holds it does not end")
	}
	if l.asks("evil", bundleOf(1), leaseRequest{GiveUp: true, Read: 1 << 50}); !l.asks("web-1", bundleOf(1), leaseRequest{}) {
		t.Error("a host gives up another's turn")
	}
	l.now = l.now.Add(indexLease) // web-1 is gone
	if !l.asks("web-2", bundleOf(1), leaseRequest{}) || l.asks("evil", bundleOf(1), leaseRequest{}) {
		t.Error("who wasted its turn is not last in line")
	}
}

func TestATurnLastsWithProgressButNotForEver(t *testing.T) {
	l := newLine(t)
	read := int64(0)
	slow := func() int64 { read += scoutStep; return read }
	if last, always := l.pass(scoutMax-time.Second, slow, "web-1", "web-2"); last != "web-1" || !always {
		t.Errorf("after %d bytes %s reads", read, last)
	}
	if last, _ := l.pass(3*time.Second, slow, "web-1", "web-2"); last != "web-2" {
		t.Errorf("a host that always says it gets on is never followed by another: %s reads", last)
	}
	alone := newLine(t)
	if last, _ := alone.pass(2*scoutMax, nil, "web-1"); last != "web-1" {
		t.Error("a host that nobody waits for loses its turn")
	}
}

// TestAPinnedIndexIsNotWaitedForFromOneHostAlone: its route may lead nowhere, and it finds out late. Each time that costs the index once more, so it takes twice as long.
func TestAPinnedIndexIsNotWaitedForFromOneHostAlone(t *testing.T) {
	l, pinned := newLine(t), leaseRequest{Pinned: true}
	hosts := []string{"web-1", "web-2", "web-3", "web-4"}
	var granted []time.Duration
	begun := l.now
	for ; l.now.Sub(begun) < 3*time.Second; l.now = l.now.Add(10 * time.Millisecond) {
		for len(granted) < len(hosts) && l.asks(hosts[len(granted)], bundleOf(1), pinned) {
			granted = append(granted, l.now.Sub(begun))
		}
	}
	want := []time.Duration{0, indexPatient, 3 * indexPatient, 7 * indexPatient}
	if !slices.Equal(granted, want) {
		t.Errorf("turns began after %v, want %v", granted, want)
	}
	l.asks("web-1", bundleOf(1), leaseRequest{GiveUp: true, Failed: "x"})
	l.asks("web-2", bundleOf(1), leaseRequest{Done: true})
	if l.asks("web-5", bundleOf(1), pinned) {
		t.Error("who has no turn ends that of another")
	}
	l.asks("web-4", bundleOf(1), leaseRequest{Done: true})
	if l.now = l.now.Add(indexLease - time.Second); l.asks("web-5", bundleOf(1), pinned) {
		t.Error("an index that is here is read again")
	}
}

// TestARenewalBeginsNoTurn: it comes from a host whose turn was passed on, and that still reads.
func TestARenewalBeginsNoTurn(t *testing.T) {
	l, pinned := newLine(t), leaseRequest{Pinned: true}
	l.asks("web-1", bundleOf(1), pinned)
	l.now = l.now.Add(indexPatient)
	l.asks("web-2", bundleOf(1), pinned)
	l.asks("web-2", bundleOf(1), leaseRequest{GiveUp: true, Failed: "reset"})
	l.now = l.now.Add(2 * time.Second)
	if l.asks("web-1", bundleOf(1), leaseRequest{Renew: true}) {
		t.Error("it takes the turn again")
	}
	if !l.asks("web-2", bundleOf(1), pinned) {
		t.Error("the next cannot read")
	}
	if !l.asks("web-2", bundleOf(1), leaseRequest{Renew: true}) {
		t.Error("who has the turn cannot renew it")
	}
	l.asks("web-2", bundleOf(1), leaseRequest{Done: true})
	if l.asks("web-2", bundleOf(1), leaseRequest{Renew: true}); l.asks("web-3", bundleOf(1), pinned) {
		t.Error("a late renewal lets it be read again")
	}
}

// TestAnArchiveIsReadByOneHostAlone: whoever claims that git pins its index only says so of itself.
func TestAnArchiveIsReadByOneHostAlone(t *testing.T) {
	for _, q := range []leaseRequest{{}, {Pinned: true}} {
		l := newLine(t)
		if !l.asks("web-1", bundleOf(1), leaseRequest{Pinned: !q.Pinned}) {
			t.Fatal("nobody reads it")
		}
		if l.now = l.now.Add(indexLease - time.Second); l.asks("web-2", bundleOf(1), q) {
			t.Errorf("another host reads it beside the first: pinned %v", q.Pinned)
		}
	}
}

// TestHostsWithoutARouteAreSoonFollowed: the origin rests when it gave bytes for nothing, or gave nothing to several.
func TestHostsWithoutARouteAreSoonFollowed(t *testing.T) {
	for _, c := range []struct {
		read int64
		want []time.Duration // from one turn to the next
	}{
		{0, []time.Duration{indexSoon, indexSoon, indexSoon, indexRest, 2 * indexRest}},
		{1, []time.Duration{indexRest, 2 * indexRest, 4 * indexRest}},
	} {
		l := newLine(t)
		var got []time.Duration
		last := l.now
		for i := 0; len(got) <= len(c.want) && l.now.Sub(last) < time.Minute; l.now = l.now.Add(10 * time.Millisecond) {
			host := fmt.Sprintf("web-%d", i)
			if l.asks(host, bundleOf(1), leaseRequest{Pinned: true}) {
				got, last, i = append(got, l.now.Sub(last)), l.now, i+1
				l.asks(host, bundleOf(1), leaseRequest{GiveUp: true, Failed: "no route", Read: c.read, Of: 1 << 30})
			}
		}
		if got = got[1:]; !slices.Equal(got, c.want) {
			t.Errorf("%d bytes read: turns follow each other after %v, want %v", c.read, got, c.want)
		}
	}
}

// TestHostsWhoseOriginNeverAnswersDelayNobody: with packets that are dropped on the way a host waits for many seconds before it knows that it has no route.
func TestHostsWhoseOriginNeverAnswersDelayNobody(t *testing.T) {
	for name, job := range map[string]func(h *host, a *archive, s *source) Job{
		"pinned":   func(h *host, a *archive, s *source) Job { return h.job(a, s) },
		"unpinned": unpinned,
	} {
		t.Run(name, func(t *testing.T) {
			a := packed(t, 20, 200<<10)
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-1"), &source{a: a}
				defer f.close()
				begun := time.Now()
				var all []*fetching
				for i, n := range names(4) {
					h := f.start(n)
					j := job(h, a, s)
					if i < 2 {
						j.Origin = silent{j.Origin}
					}
					all = append(all, h.persist(t.Context(), j))
					time.Sleep(10 * time.Millisecond) // so that those ask first
				}
				wait(t, a, all...)
				limit := 5 * time.Second
				if name == "unpinned" { // the archive is read by one host at a time
					limit += 2 * originIdle
				}
				if took := time.Since(begun); took > limit { // of the bubble's clock
					t.Errorf("it took %v", took)
				}
				if name == "pinned" {
					payload(t, s, a.index.PayloadSize())
				}
			})
		})
	}
}

// silent is an origin that never answers.
type silent struct{ Origin }

func (silent) Size(ctx context.Context) (int64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (silent) ReadIndex(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) ReadRange(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestOneHostHoldsFewTurnsAndOpensFewLines(t *testing.T) {
	l := newLine(t)
	granted := 0
	for range 100 {
		granted = 0
		for i := range dealingsMax {
			if l.asks("evil", bundleOf(i), leaseRequest{}) {
				granted++
			}
		}
		if granted > scoutsHeld {
			t.Fatalf("one host reads %d bundles at a time, want at most %d", granted, scoutsHeld)
		}
		l.now = l.now.Add(3 * time.Second)
	}
	if granted == 0 || len(l.desk.scouts) > scoutsOpened {
		t.Errorf("%d turns, %d lines of one host", granted, len(l.desk.scouts))
	}
	if !l.asks("web-1", bundleOf(1000), leaseRequest{}) {
		t.Error("one host keeps others from reading another bundle")
	}
}

func TestWhoHasWhatItReadHoldsNoTurn(t *testing.T) {
	l := newLine(t)
	for i := range 2 * scoutsHeld {
		if !l.asks("web-1", bundleOf(i), leaseRequest{}) {
			t.Fatalf("it has no turn at bundle %d", i)
		}
		l.asks("web-1", bundleOf(i), leaseRequest{Done: true})
		if l.asks("web-2", bundleOf(i), leaseRequest{}) {
			t.Fatalf("bundle %d is read again, although a host has it", i)
		}
	}
	l.now = l.now.Add(indexLease)
	if !l.asks("web-2", bundleOf(0), leaseRequest{}) {
		t.Error("nobody reads what the host that had it has lost")
	}
}

// TestABundleComesAlthoughAMemberHoldsItsTurn: by claiming it again and again, or by giving it up with invented losses.
func TestABundleComesAlthoughAMemberHoldsItsTurn(t *testing.T) {
	a := packed(t, 5, 100<<10)
	for _, giveUp := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			f, s := newFleet(t, "web-1"), &source{a: a}
			defer f.close()
			var hosts []*host
			for _, n := range names(3) {
				hosts = append(hosts, f.start(n))
			}
			c := &http.Client{Transport: f.start("evil").client}
			say := func(q leaseRequest) {
				q.Version, q.Host = leaseVersion, "evil"
				body, _ := json.Marshal(q)
				if resp, err := c.Post("http://web-1/v1/swarm/"+a.ref.Digest.Hex()+"/lease", "application/json", bytes.NewReader(body)); err == nil {
					resp.Body.Close()
				}
			}
			say(leaseRequest{})
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					if giveUp {
						say(leaseRequest{GiveUp: true, Failed: "x", Read: 1 << 50, Of: 1})
					}
					say(leaseRequest{})
					select {
					case <-stop:
						return
					case <-time.After(2 * time.Second):
					}
				}
			}()
			begun := time.Now()
			var all []*fetching
			for _, h := range hosts {
				all = append(all, h.persist(t.Context(), h.job(a, s)))
			}
			wait(t, a, all...)
			if took := time.Since(begun); took > indexRestOut+2*scoutIdle { // of the bubble's clock
				t.Errorf("it took %v", took)
			}
			close(stop)
			<-stopped
		})
	}
}

func TestInventedDealingsPushNoOtherOut(t *testing.T) {
	d, now := newDesk(), time.Unix(1e9, 0)
	real := foreign(t, 9000, 200)
	key := dealingKey{real.ref.Digest, real.index.Digest(), ""}
	d.open(real.ref.Digest, real.index, "", "web-1", now)
	for i := range 3 * dealingsMax {
		now = now.Add(time.Millisecond)
		d.open(bundleOf(i).digest, real.index, "", "evil", now)
	}
	if d.find(key, "web-1", now) == nil {
		t.Error("one host's inventions push another's dealing out")
	}
	if n := len(d.dealings); n != openedMax+1 {
		t.Errorf("%d dealings are kept, want the real one and %d", n, openedMax)
	}
	// Who brings what others use cannot let it be dropped by inventing more.
	d.open(bundleOf(1000).digest, real.index, "", "evil", now)
	if d.find(dealingKey{bundleOf(1000).digest, real.index.Digest(), ""}, "web-2", now) == nil {
		t.Fatal("it is not dealt")
	}
	for i := range 3 * dealingsMax {
		now = now.Add(time.Millisecond)
		d.open(bundleOf(i).digest, real.index, "", "evil", now)
	}
	if d.find(dealingKey{bundleOf(1000).digest, real.index.Digest(), ""}, "web-2", now) == nil {
		t.Error("a dealing that others use is dropped with its bringer's inventions")
	}
}

// TestNothingIsDealtToAHostWithoutAGroupThatHasTheBundle: neither a turn, nor room for what it brings.
func TestNothingIsDealtToAHostWithoutAGroupThatHasTheBundle(t *testing.T) {
	a := packed(t, 5, 100<<10)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		h := f.start("web-1", func(o *Options) {
			o.Needs = func(host string, digest bundle.Digest) bool { return host == "web-2" || digest != a.ref.Digest }
		})
		c := &http.Client{Transport: f.start("evil").client}
		post := func(digest bundle.Digest, what string, body []byte) int {
			resp, err := c.Post("http://web-1/v1/swarm/"+digest.Hex()+"/"+what, "application/json", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			return resp.StatusCode
		}
		ask := func(host string) []byte {
			body, _ := json.Marshal(leaseRequest{Version: leaseVersion, Host: host})
			return body
		}
		if code := post(a.ref.Digest, "lease", ask("evil")); code != http.StatusForbidden {
			t.Errorf("a stranger's question for a turn: %d", code)
		}
		if code := post(a.ref.Digest, "dealing", a.index.Encode()); code != http.StatusForbidden {
			t.Errorf("a stranger's index: %d", code)
		}
		if code := post(a.ref.Digest, "lease", ask("web-2")); code != http.StatusOK {
			t.Errorf("a host of the group: %d", code)
		}
		if code := post(bundleOf(1).digest, "dealing", a.index.Encode()); code != http.StatusOK {
			t.Errorf("a bundle of which nothing is known: %d", code)
		}
		if n := len(h.swarm.desk.dealings); n != 1 {
			t.Errorf("%d dealings, want one", n)
		}
	})
}
