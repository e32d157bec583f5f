package plan

import (
	"fmt"
	"math/bits"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func always(int) func(string) int { return func(string) int { return PeerAsks } }

// model is what a Picker should know, kept the slow way.
type model struct {
	p     *Picker
	now   time.Duration
	sizes []int64
	have  map[int]bool
	peers map[string]map[int]bool
	ways  map[int]int
	asks  []Want
	holds [][]int
}

// rarity counts the peers that have a piece and are not asked last.
func (m *model) rarity(i int) int {
	n := 0
	for host, has := range m.peers {
		if has[i] && !m.p.peer(host).last {
			n++
		}
	}
	return n
}

// seen says whether any peer has a piece.
func (m *model) seen(i int) bool {
	for _, has := range m.peers {
		if has[i] {
			return true
		}
	}
	return false
}

func (m *model) busy(host string) int {
	n := 0
	for _, w := range m.asks {
		if w.Host == host {
			n++
		}
	}
	return n
}

// check compares what can be counted.
func (m *model) check(t *rapid.T, p *Picker) {
	orphans := 0
	for i := range m.sizes {
		if !m.have[i] && m.ways[i] == 0 && !m.seen(i) {
			orphans++
		}
		if got := p.Seen().Has(i); got != m.seen(i) {
			t.Fatalf("piece %d seen: %v", i, got)
		}
	}
	if p.Orphans() != orphans {
		t.Fatalf("%d orphans, expected %d", p.Orphans(), orphans)
	}
}

func genPieces(t *rapid.T, n int) (Bits, map[int]bool) {
	b, m := NewBits(n), map[int]bool{}
	for i := range n {
		if rapid.Bool().Draw(t, "has") {
			b.Set(i)
			m[i] = true
		}
	}
	return b, m
}

func TestPickerKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 150).Draw(t, "pieces")
		m := &model{have: map[int]bool{}, peers: map[string]map[int]bool{}, ways: map[int]int{}}
		for range n {
			m.sizes = append(m.sizes, int64(rapid.IntRange(1, 200<<10).Draw(t, "size")))
		}
		here, have := genPieces(t, n)
		m.have = have
		p := NewPicker(m.sizes, here, rapid.Uint64().Draw(t, "seed"))
		now := time.Duration(0)
		m.p = p
		host := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.check(t, p) },
			"peer": func(t *rapid.T) {
				b, has := genPieces(t, n)
				name := host.Draw(t, "host")
				p.SetPeer(name, b)
				m.peers[name] = has
			},
			"drop": func(t *rapid.T) {
				name := host.Draw(t, "host")
				p.DropPeer(name)
				delete(m.peers, name)
			},
			"add": func(t *rapid.T) {
				name, i := host.Draw(t, "host"), rapid.IntRange(-2, n+2).Draw(t, "piece")
				p.AddPieces(name, []int{i})
				if has := m.peers[name]; has != nil && i >= 0 && i < n {
					has[i] = true
				}
			},
			"pick": func(t *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond
				m.now = now
				if w, ok := p.Pick(now, always(0)); ok {
					m.picked(t, w)
				} else {
					m.unpicked(t)
				}
			},
			"release": func(t *rapid.T) {
				if len(m.asks) == 0 {
					t.Skip()
				}
				k := rapid.IntRange(0, len(m.asks)-1).Draw(t, "ask")
				w := m.asks[k]
				m.asks = append(m.asks[:k:k], m.asks[k+1:]...)
				for i := w.From; i < w.From+w.Count; i++ {
					m.ways[i]--
					if rapid.Bool().Draw(t, "arrived") {
						p.Got(i)
						m.have[i] = true
					}
				}
				p.Release(w, 100, now)
			},
			"lose": func(t *rapid.T) {
				i := rapid.IntRange(0, n-1).Draw(t, "piece")
				if p.Lost(i) != m.have[i] {
					t.Fatal("lost what was not here, or not lost")
				}
				delete(m.have, i)
			},
			"hold": func(t *rapid.T) {
				i := rapid.IntRange(0, n-1).Draw(t, "piece")
				p.Hold([]int{i}, now)
				m.ways[i]++
				m.holds = append(m.holds, []int{i})
			},
			"unhold": func(t *rapid.T) {
				if len(m.holds) == 0 {
					t.Skip()
				}
				p.Unhold(m.holds[0])
				m.ways[m.holds[0][0]]--
				m.holds = m.holds[1:]
			},
		})
	})
}

// picked checks a request.
func (m *model) picked(t *rapid.T, w Want) {
	var size int64
	again := m.ways[w.From] > 0
	for i := w.From; i < w.From+w.Count; i++ {
		if m.have[i] || !m.peers[w.Host][i] {
			t.Fatalf("asked %s for piece %d", w.Host, i)
		}
		if m.ways[i] > 0 && (w.Count > 1 || m.ways[i] >= waysMax) {
			t.Fatalf("piece %d is on its way already", i)
		}
		m.ways[i]++
		size += m.sizes[i]
	}
	if w.Count > 1 && size > PeerRunMax {
		t.Fatalf("asked for %d bytes at once", size)
	}
	if m.busy(w.Host) >= PeerAsks {
		t.Fatalf("%s has %d requests already", w.Host, m.busy(w.Host))
	}
	for i := range m.sizes {
		if m.have[i] || m.ways[i] > 0 || !m.available(i) {
			continue
		}
		if again {
			t.Fatalf("piece %d was asked for again while %d is idle", w.From, i)
		}
		if m.rarity(i) < m.rarity(w.From) {
			t.Fatalf("piece %d (at %d peers) was preferred to %d (at %d)", w.From, m.rarity(w.From), i, m.rarity(i))
		}
	}
	m.asks = append(m.asks, w)
}

// available says whether a peer with a free request has the piece, and is to be asked for it at once.
func (m *model) available(i int) bool {
	for host, has := range m.peers {
		s := m.p.peer(host)
		if has[i] && m.busy(host) < PeerAsks && (!s.last || m.rarity(i) == 0) && (s.direct == nil || s.direct.has(i)) {
			return true
		}
	}
	return false
}

// unpicked checks that there was nothing.
func (m *model) unpicked(t *rapid.T) {
	if m.p.full(m.now) {
		return
	}
	for i := range m.sizes {
		if !m.have[i] && m.ways[i] == 0 && m.available(i) {
			t.Fatalf("piece %d was not asked for", i)
		}
	}
}

func TestHostsThatKnowTheSameBeginElsewhere(t *testing.T) {
	sizes := make([]int64, 64)
	for i := range sizes {
		sizes[i] = PeerRunMax
	}
	all := NewBits(64)
	for i := range 64 {
		all.Set(i)
	}
	first := map[int]int{}
	for host := range 64 {
		p := NewPicker(sizes, nil, uint64(host)*0x9e3779b97f4a7c15+1)
		p.SetPeer("seed", all)
		w, _ := p.Pick(0, always(0))
		first[w.From]++
	}
	if len(first) < 24 {
		t.Errorf("64 hosts begin with only %d different pieces", len(first))
	}
}

func TestTheLeastLoadedPeerIsAsked(t *testing.T) {
	sizes := []int64{1 << 20, 1 << 20, 1 << 20, 1 << 20}
	p := NewPicker(sizes, nil, 1)
	for _, host := range []string{"a", "b"} {
		p.SetPeer(host, Bits{15})
	}
	asked := map[string]int{}
	for range 4 {
		w, ok := p.Pick(0, always(0))
		if !ok {
			t.Fatal("nothing to ask")
		}
		asked[w.Host]++
	}
	if asked["a"] != 2 || asked["b"] != 2 {
		t.Errorf("asked %v", asked)
	}
	if _, ok := p.Pick(0, always(0)); ok {
		t.Error("both are busy")
	}
}

func TestAPieceOnItsWayForLongIsAskedOfAnother(t *testing.T) {
	p := NewPicker([]int64{100}, nil, 1)
	p.SetPeer("a", Bits{1})
	w, _ := p.Pick(0, always(0))
	p.SetPeer("b", Bits{1})
	if _, ok := p.Pick(againAfter-1, always(0)); ok {
		t.Error("too early")
	}
	again, ok := p.Pick(againAfter, always(0))
	if !ok || again.Host == w.Host {
		t.Errorf("got %+v", again)
	}
	p.SetPeer("c", Bits{1})
	if _, ok := p.Pick(time.Hour, always(0)); ok {
		t.Error("a third")
	}
}

func TestBits(t *testing.T) {
	b := NewBits(10)
	b.Set(-1)
	b.Set(100)
	b.Set(9)
	if b.Has(-1) || b.Has(100) || !b.Has(9) || b.Count() != 1 {
		t.Errorf("got %v", b)
	}
	b.Or(Bits{1, 0, 255})
	if !b.Has(0) || len(b) != 2 {
		t.Errorf("got %v", b)
	}
	b.Clear(9)
	b.Clear(1000)
	if b.Has(9) {
		t.Error("still there")
	}
	for n := 1; n < 200; n++ {
		all := make(Bits, 40)
		for i := range all {
			all[i] = 255
		}
		sum := 0
		for _, w := range wordsOf(all, n) {
			sum += bits.OnesCount64(w)
		}
		if sum != n {
			t.Fatalf("%d of %d", sum, n)
		}
	}
}

// BenchmarkPick takes a whole bundle of 2,048 pieces from 15 peers, and Deal the same for one dealer of 16 hosts.
func BenchmarkPick(b *testing.B) {
	sizes := make([]int64, 2048)
	all := NewBits(len(sizes))
	for i := range sizes {
		sizes[i] = 128 << 10
		all.Set(i)
	}
	for b.Loop() {
		p := NewPicker(sizes, nil, 7)
		for k := range 15 {
			p.SetPeer(fmt.Sprint(k), all)
		}
		for {
			w, ok := p.Pick(0, always(0))
			if !ok {
				break
			}
			for i := w.From; i < w.From+w.Count; i++ {
				p.Got(i)
			}
			p.Release(w, 1, 0)
		}
	}
}

func BenchmarkDeal(b *testing.B) {
	sizes := make([]int64, 2048)
	for i := range sizes {
		sizes[i] = 128 << 10
	}
	for b.Loop() {
		d, have, now := NewDealer(sizes), NewBits(2048), time.Duration(0)
		for n := 0; have.Count() < 2048; n++ {
			now += time.Millisecond
			lease := d.Deal(Request{Host: fmt.Sprint(n % 16), Have: have, Hosts: 16}, now)
			for _, i := range lease.Pieces {
				have.Set(i)
			}
		}
	}
}

// a picker of n pieces of one run each.
func emptyPicker(n int) *Picker {
	sizes := make([]int64, n)
	for i := range sizes {
		sizes[i] = PeerRunMax
	}
	return NewPicker(sizes, nil, 1)
}

func bitsOf(pieces ...int) Bits {
	b := NewBits(slices.Max(pieces) + 1)
	for _, i := range pieces {
		b.Set(i)
	}
	return b
}

func TestAnotherSiteIsAskedOnlyForWhatTheOwnOneLacks(t *testing.T) {
	p := emptyPicker(4)
	p.SetPeer("near", bitsOf(0, 1))
	p.SetFarPeer("far", bitsOf(0, 1, 2, 3), Share{Slot: 0, Of: 2})
	first, _ := p.Pick(0, always(0))
	if first.Host != "far" || first.From != 2 {
		t.Errorf("first %+v, expected piece 2, which is this host's to bring", first)
	}
	for range 2 {
		if w, ok := p.Pick(0, always(0)); !ok || w.Host != "near" {
			t.Errorf("then %+v", w)
		}
	}
	due := bringTimes * p.overdue()
	if w, ok := p.Pick(againAfter-1, always(0)); ok {
		t.Errorf("%+v is another host's to bring", w)
	}
	if w, ok := p.Pick(due, always(0)); !ok || w.Host != "far" || w.From != 3 {
		t.Errorf("piece 3 is due, got %+v", w)
	}
	if p.Orphans() != 0 || p.Seen().Count() != 4 {
		t.Errorf("%d orphans, sees %v", p.Orphans(), p.Seen())
	}
	p.SetPeer("far", bitsOf(3)) // it moved
	if p.rarity[3] != 1 || p.distant[3] != 0 {
		t.Errorf("rarity %v, distant %v", p.rarity, p.distant)
	}
}

// only allows one request, of one peer.
func only(host string) func(string) int {
	return func(h string) int {
		if h == host {
			return 1
		}
		return 0
	}
}

// timed lets a peer bring one run.
func timed(t *testing.T, p *Picker, host string, now *time.Duration, took time.Duration) {
	t.Helper()
	w, ok := p.Pick(*now, only(host))
	if !ok {
		t.Fatalf("%s is not asked", host)
	}
	*now += took
	p.Got(w.From)
	p.Release(w, PeerRunMax, *now)
}

func TestASlowPeerIsAskedOnlyForWhatOthersLack(t *testing.T) {
	const fast, slow = 20 * time.Millisecond, time.Second
	type request struct {
		host string
		took time.Duration
	}
	for name, order := range map[string][]request{
		"fast first":        {{"fast", fast}, {"fast", fast}, {"slow", slow}},
		"slow first":        {{"slow", slow}, {"slow", slow}, {"slow", slow}, {"fast", fast}},
		"slow first, alone": {{"slow", slow}, {"fast", fast}},
		"by turns":          {{"slow", slow}, {"third", fast}, {"fast", fast}},
	} {
		p := emptyPicker(40)
		for _, host := range []string{"fast", "slow", "third"} {
			p.SetPeer(host, bitsOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19))
		}
		now := time.Duration(0)
		for _, r := range order {
			timed(t, p, r.host, &now, r.took)
		}
		if w, ok := p.Pick(now, only("slow")); ok {
			t.Errorf("%s: the slow peer is asked for %+v, which others have", name, w)
		}
		p.AddPieces("slow", []int{30})
		now += openTimes * p.overdue() // if another host is drawn to take it first
		if w, ok := p.Pick(now, only("slow")); !ok || w.From != 30 {
			t.Errorf("%s: only the slow one has piece 30, got %+v", name, w)
		} else {
			p.Got(30)
			p.Release(w, 0, now)
		}
		now += slowFor
		timed(t, p, "fast", &now, 0)
		if w, ok := p.Pick(now, only("slow")); !ok || w.From == 30 {
			t.Errorf("%s: it is not given another chance: %+v %v", name, w, ok)
		}
	}
}

// TestOneHostTakesAPieceFromASlowPeer: it would send each to all, one after the other, while the others wait for the next.
func TestOneHostTakesAPieceFromASlowPeer(t *testing.T) {
	const pieces = 40
	names := []string{"a", "b", "c", "d", "slow"}
	var brought []int
	for i := 20; i < pieces-10; i++ {
		brought = append(brought, i)
	}
	taken := map[int]int{}
	for _, self := range names[:4] {
		p, now := emptyPicker(pieces), time.Duration(0)
		p.SetSwarm(self, 4)
		for _, host := range names {
			if host != self {
				p.SetPeer(host, bitsOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19))
			}
		}
		for _, host := range names[:4] {
			if host != self {
				timed(t, p, host, &now, 20*time.Millisecond)
			}
		}
		timed(t, p, "slow", &now, 300*time.Millisecond)
		other := names[0]
		if other == self {
			other = names[1]
		}
		busy, ok := p.Pick(now, only(other)) // something is on its way
		if !ok {
			t.Fatal("nothing is asked of a fast peer")
		}
		for i := range 20 {
			p.Got(i)
		}
		for _, i := range brought {
			p.AddPieces("slow", []int{i})
			if w, ok := p.Pick(now, only("slow")); ok {
				now += 300 * time.Millisecond
				p.Got(w.From)
				p.Release(w, PeerRunMax, now)
				taken[w.From]++
			} else {
				p.AddPieces(other, []int{i})
			}
		}
		var left []int // that others are to take
		for i := pieces - 10; i < pieces; i++ {
			p.AddPieces("slow", []int{i})
			if w, ok := p.Pick(now, only("slow")); ok {
				p.Got(w.From)
				p.Release(w, 0, now)
			} else {
				left = append(left, i)
			}
		}
		long := slowTimes * openTimes * p.overdue()
		if w, ok := p.Pick(now+long/2, only("slow")); ok {
			t.Errorf("%s asks the slow peer for %+v too early", self, w)
		}
		if _, ok := p.Pick(now+long, only("slow")); !ok {
			t.Errorf("%s waits for others to take %v for ever", self, left)
		}
		p.Release(busy, 0, now)
	}
	for _, i := range brought {
		if taken[i] != 1 {
			t.Errorf("piece %d is asked of the slow peer %d times", i, taken[i])
		}
	}
}

// TestAPieceIsWaitedForOnceHoweverOftenItIsTold: a peer may take back what it told, and tell it again.
func TestAPieceIsWaitedForOnceHoweverOftenItIsTold(t *testing.T) {
	p := emptyPicker(64)
	p.SetSwarm("me", 4)
	for range 10 {
		p.SetPeer("liar", bitsOf(1, 2, 3))
		p.SetPeer("liar", nil)
	}
	if len(p.fresh) != 3 || len(p.older) != 3 || p.peer("liar").pieces != 3 {
		t.Errorf("%d and %d wait, %d count as brought", len(p.fresh), len(p.older), p.peer("liar").pieces)
	}
}

// TestALostPieceIsAskedOfASlowPeer: one that was copied from an earlier bundle, and had rotted there.
func TestALostPieceIsAskedOfASlowPeer(t *testing.T) {
	p, now := emptyPicker(40), time.Duration(0)
	p.SetSwarm("me", 4)
	for i := 20; i < 40; i++ {
		p.Got(i)
	}
	for _, host := range []string{"a", "b", "slow"} {
		p.SetPeer(host, bitsOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19))
	}
	p.AddPieces("slow", []int{30, 31, 32, 33, 34, 35})
	for _, host := range []string{"a", "b"} {
		timed(t, p, host, &now, 20*time.Millisecond)
	}
	timed(t, p, "slow", &now, 300*time.Millisecond)
	for i := range 20 {
		p.Got(i)
	}
	for i := 30; i < 36; i++ {
		p.Lost(i)
	}
	asked := 0
	for end := now + openMax; now <= end; now += 50 * time.Millisecond {
		for w, ok := p.Pick(now, always(0)); ok; w, ok = p.Pick(now, always(0)) {
			asked += w.Count
			for i := w.From; i < w.From+w.Count; i++ {
				p.Got(i)
			}
			p.Release(w, 0, now)
		}
	}
	if asked != 6 {
		t.Errorf("%d of 6 were asked for", asked)
	}
}

func TestWhereMostAreSlowNobodyIs(t *testing.T) {
	p, now := emptyPicker(40), time.Duration(0)
	for _, host := range []string{"a", "b", "c", "fast"} {
		p.SetPeer(host, bitsOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19))
	}
	timed(t, p, "fast", &now, 20*time.Millisecond)
	for _, host := range []string{"a", "b", "c"} {
		timed(t, p, host, &now, time.Second)
	}
	for _, host := range []string{"a", "b", "c"} { // also the one that was first compared with the fast one alone
		timed(t, p, host, &now, time.Second)
	}
}

func TestRequestsThatAreOverdueMakeRoom(t *testing.T) {
	p := emptyPicker(40)
	all := make([]int, 40)
	for i := range all {
		all[i] = i
	}
	for k := range 20 {
		p.SetPeer(fmt.Sprint("peer-", k), bitsOf(all...))
	}
	count := func(now time.Duration) (n int) {
		for {
			if _, ok := p.Pick(now, always(0)); !ok {
				return n
			}
			n++
		}
	}
	if n := count(0); n != RequestsMax {
		t.Errorf("%d requests at once", n)
	}
	if n := count(againAfter); n != RequestsMax {
		t.Errorf("%d more once those are overdue", n)
	}
	if n := count(3 * againAfter); n != 0 {
		t.Errorf("%d more without end", n)
	}
}

func TestPatience(t *testing.T) {
	var p Patience
	if p.Asks(0) != PeerAsks || !p.Counts(0) {
		t.Error("a stranger is not trusted")
	}
	now := time.Duration(0)
	for now < busyMax {
		p.TurnedAway(now)
		if p.Asks(now) != 0 || !p.Counts(now) {
			t.Fatal("a busy peer is asked at once, or not believed")
		}
		now = p.Resume()
	}
	for range Strikes {
		p.TurnedAway(now)
	}
	if p.Counts(now) || p.Asks(p.Resume()) != 1 {
		t.Error("one that is busy without end is believed")
	}
	p.Good()
	if p.Asks(p.Resume()) != PeerAsks {
		t.Error("one that is well again is not trusted")
	}
}

func TestInASmallSwarmEachPeerIsAskedOnce(t *testing.T) {
	for _, swarm := range []struct{ others, all, each int }{{1, 8, 2}, {3, 8, 2}, {4, 8, 2}, {5, 8, 1}, {7, 8, 1}, {15, 15, 1}, {16, 16, 1}, {17, 8, 2}, {199, 8, 2}, {200, 7, 2}, {400, 6, 2}, {999, 5, 2}, {4999, 4, 2}, {hostsMax, 4, 2}} {
		if all, each := Flows(swarm.others); all != swarm.all || each != swarm.each {
			t.Errorf("with %d others: %d requests, %d to one", swarm.others, all, each)
		}
	}
	p := emptyPicker(40)
	for k := range 7 {
		var own []int
		for i := range 5 {
			own = append(own, 5*k+i)
		}
		p.SetPeer(fmt.Sprint("peer-", k), bitsOf(own...))
	}
	asked := map[string]int{}
	for {
		w, ok := p.Pick(0, always(0))
		if !ok {
			break
		}
		asked[w.Host]++
	}
	if len(asked) != 7 {
		t.Errorf("%v", asked)
	}
	for host, n := range asked {
		if n != 1 {
			t.Errorf("%s is asked %d times at once", host, n)
		}
	}
}

// TestAPieceLeavesItsBringerOnlyAsOftenAsIsEven: one of four others brings everything. This host asks it for a part at once, and for the rest when nobody else got it for long.
func TestAPieceLeavesItsBringerOnlyAsOftenAsIsEven(t *testing.T) {
	const pieces = 400
	sizes := slices.Repeat([]int64{PeerRunMax}, pieces)
	p := NewPicker(sizes, NewBits(pieces), 1)
	p.SetSwarm("self", 4)
	for _, host := range []string{"a", "b", "c", "d"} {
		p.SetPeer(host, NewBits(pieces))
	}
	p.AddPieces("a", seq(pieces))
	asked := map[int]bool{}
	ask := func(now time.Duration) (n int) {
		for {
			w, ok := p.Pick(now, always(2))
			if !ok {
				return n
			}
			if w.Host != "a" || asked[w.From] {
				t.Fatalf("asked %s for %d", w.Host, w.From)
			}
			asked[w.From] = true
			n++
			p.Got(w.From)
			if len(asked) > 1 { // the first stays under way
				p.Release(w, PeerRunMax, now+10*time.Millisecond)
			}
		}
	}
	if n := ask(0); n < pieces/8 || n > pieces/2 {
		t.Errorf("asks for %d of %d pieces at once, want about one in four", n, pieces)
	}
	for i := range pieces { // one that another host passes on is asked of that
		if !asked[i] {
			p.AddPieces("b", []int{i})
			w, ok := p.Pick(0, always(2))
			if !ok || w.Host != "b" || w.From != i {
				t.Errorf("asks for %+v, %v; want piece %d of b", w, ok, i)
			}
			asked[i] = true
			p.Got(i)
			p.Release(w, PeerRunMax, 10*time.Millisecond)
			break
		}
	}
	ask(time.Minute)
	if len(asked) != pieces {
		t.Errorf("asked for %d of %d pieces when nobody passed them on", len(asked), pieces)
	}
}

func seq(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// Of a few MiB little is asked of a peer at once, of much as much as one may.
func TestHowMuchIsAskedAtOnce(t *testing.T) {
	for _, c := range []struct{ pieces, others, want int }{{100, 7, 2}, {2000, 7, 8}, {2000, 3, 8}, {2000, 999, 8}, {400, 999, 3}} {
		sizes := make([]int64, c.pieces)
		all := NewBits(c.pieces)
		for i := range sizes {
			sizes[i] = 32 << 10
			all.Set(i)
		}
		p := NewPicker(sizes, NewBits(c.pieces), 1)
		p.SetSwarm("web-0", c.others)
		p.SetPeer("web-1", all)
		most := 0
		for {
			w, ok := p.Pick(0, func(string) int { return 2 })
			if !ok {
				break
			}
			most = max(most, w.Count)
		}
		if most != c.want {
			t.Errorf("%d pieces of 32 KiB, %d others: %d at once, want %d", c.pieces, c.others, most, c.want)
		}
	}
}
