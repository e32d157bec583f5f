package plan

import (
	"cmp"
	"math/bits"
	"slices"
	"time"
)

// Figures of asking peers.
const (
	PeerRunMax = 256 << 10   // bytes a host asks of a peer at once, but one piece at least
	PeerAsks   = 2           // requests under way to one peer
	againAfter = time.Second // on its way for so long, a piece is asked of a second peer when nothing else is left to ask
	waysMax    = 2           // requests for one piece at a time
)

// Want is one request to a peer: Count neighbouring pieces from From on.
type Want struct {
	Host  string
	From  int
	Count int
}

// Picker is what one host knows of the pieces of one bundle. It costs a look at each idle piece to pick one, and nothing to wait.
type Picker struct {
	sizes   []int64
	missing words
	idle    words // missing, and on its way from nowhere
	rarity  []uint16
	ways    map[int]way    // pieces on their way
	peers   []*source      // by name
	busy    map[string]int // requests under way by host, also to peers that were dropped
	orphans int            // idle pieces that no peer has
	turn    uint64
}

// way is how a piece comes here.
type way struct {
	count int
	host  string // of the first request; "" for the origin
	since time.Duration
}

// source is one peer.
type source struct {
	host string
	have words
	load int64
}

// NewPicker starts with the pieces that are here already. seed, different on every host, makes hosts that know the same begin elsewhere.
func NewPicker(sizes []int64, have Bits, seed uint64) *Picker {
	n := len(sizes)
	p := &Picker{sizes: sizes, missing: newWords(n), idle: newWords(n), rarity: make([]uint16, n), ways: map[int]way{}, busy: map[string]int{}, turn: seed | 1}
	for i := range n {
		if !have.Has(i) {
			p.missing.set(i)
			p.idle.set(i)
			p.orphans++
		}
	}
	return p
}

// Orphans is how many missing pieces are neither on their way nor at any peer: what must come from the origin.
func (p *Picker) Orphans() int { return p.orphans }

// Seen returns the pieces that peers have.
func (p *Picker) Seen() Bits {
	seen := NewBits(len(p.sizes))
	for i, n := range p.rarity {
		if n > 0 {
			seen.Set(i)
		}
	}
	return seen
}

// SetPeer replaces what a peer has; a new one is added.
func (p *Picker) SetPeer(host string, have Bits) {
	s := p.peer(host)
	if s == nil {
		s = &source{host: host, have: newWords(len(p.sizes))}
		at, _ := slices.BinarySearchFunc(p.peers, host, bySource)
		p.peers = slices.Insert(p.peers, at, s)
	}
	p.change(s, wordsOf(have, len(p.sizes)))
}

// AddPieces notes that a known peer has more; pieces that do not exist are ignored.
func (p *Picker) AddPieces(host string, pieces []int) {
	s := p.peer(host)
	if s == nil {
		return
	}
	for _, i := range pieces {
		if i >= 0 && i < len(p.sizes) && !s.have.has(i) {
			s.have.set(i)
			p.common(i, +1)
		}
	}
}

// DropPeer forgets a peer. Requests to it stay on their way until they are released.
func (p *Picker) DropPeer(host string) {
	s := p.peer(host)
	if s == nil {
		return
	}
	p.change(s, newWords(len(p.sizes)))
	at, _ := slices.BinarySearchFunc(p.peers, host, bySource)
	p.peers = slices.Delete(p.peers, at, at+1)
}

// change gives a peer another set of pieces.
func (p *Picker) change(s *source, have words) {
	for k, now := range have {
		for diff := now ^ s.have[k]; diff != 0; diff &= diff - 1 {
			by := -1
			if now&(diff&-diff) != 0 {
				by = +1
			}
			p.common(k<<6+bits.TrailingZeros64(diff), by)
		}
	}
	s.have = have
}

// common makes a piece more or less common.
func (p *Picker) common(i, by int) {
	if p.orphan(i) {
		p.orphans--
	}
	p.rarity[i] = uint16(int(p.rarity[i]) + by)
	if p.orphan(i) {
		p.orphans++
	}
}

func (p *Picker) orphan(i int) bool { return p.idle.has(i) && p.rarity[i] == 0 }

// setIdle moves a piece into or out of the set of idle pieces.
func (p *Picker) setIdle(i int, idle bool) {
	if p.orphan(i) {
		p.orphans--
	}
	if idle {
		p.idle.set(i)
	} else {
		p.idle.clear(i)
	}
	if p.orphan(i) {
		p.orphans++
	}
}

// Got notes that a piece is here.
func (p *Picker) Got(i int) {
	p.missing.clear(i)
	p.setIdle(i, false)
}

// Lost notes that a piece is not here, and whether that is new.
func (p *Picker) Lost(i int) bool {
	if p.missing.has(i) {
		return false
	}
	p.missing.set(i)
	p.setIdle(i, p.ways[i].count == 0)
	return true
}

// Hold notes that pieces are on their way from the origin.
func (p *Picker) Hold(pieces []int, now time.Duration) {
	for _, i := range pieces {
		p.depart(i, "", now)
	}
}

// Unhold notes that they are not any more, whether they arrived or not.
func (p *Picker) Unhold(pieces []int) {
	for _, i := range pieces {
		p.arrive(i)
	}
}

// Release ends a request that Pick returned, whether its pieces arrived or not.
func (p *Picker) Release(w Want, bytes int64) {
	for i := w.From; i < w.From+w.Count; i++ {
		p.arrive(i)
	}
	if p.busy[w.Host]--; p.busy[w.Host] <= 0 {
		delete(p.busy, w.Host)
	}
	if s := p.peer(w.Host); s != nil {
		s.load += bytes
	}
}

func (p *Picker) depart(i int, host string, now time.Duration) {
	w := p.ways[i]
	if w.count == 0 {
		w.host, w.since = host, now
	}
	w.count++
	p.ways[i] = w
	p.setIdle(i, false)
}

func (p *Picker) arrive(i int) {
	w := p.ways[i]
	if w.count--; w.count > 0 {
		p.ways[i] = w
		return
	}
	delete(p.ways, i)
	p.setIdle(i, p.missing.has(i))
}

// Pick chooses what to ask next, and counts it as on its way: the rarest idle piece that a peer with a free request has, from the least busy of those peers. asks
// says how many requests a peer may have under way now; 0 leaves it alone. ok is false when there is nothing to ask.
func (p *Picker) Pick(now time.Duration, asks func(host string) int) (w Want, ok bool) {
	p.turn = p.turn*6364136223846793005 + 1442695040888963407
	able := make([]*source, 0, len(p.peers))
	union := newWords(len(p.sizes))
	for _, s := range p.peers {
		if p.busy[s.host] < asks(s.host) {
			able = append(able, s)
			for k, h := range s.have {
				union[k] |= h
			}
		}
	}
	if len(able) == 0 {
		return Want{}, false
	}
	if i := p.rarest(union); i >= 0 {
		return p.take(p.leastBusy(able, i, ""), i, now), true
	}
	return p.again(now, able)
}

// rarest finds the rarest idle piece of a set, starting somewhere else each time; -1 for none.
func (p *Picker) rarest(of words) int {
	best, start, turned := -1, int((p.turn>>33)%uint64(len(of))), int(p.turn>>20)&63
	for k := range of {
		word := start + k
		if word >= len(of) {
			word -= len(of)
		}
		for w := bits.RotateLeft64(p.idle[word]&of[word], -turned); w != 0; w &= w - 1 {
			i := word<<6 + (bits.TrailingZeros64(w)+turned)&63
			if best < 0 || p.rarity[i] < p.rarity[best] {
				best = i
			}
			if p.rarity[best] <= 1 {
				return best
			}
		}
	}
	return best
}

// leastBusy finds the peer to ask for piece i, other than one; nil for none.
func (p *Picker) leastBusy(able []*source, i int, other string) *source {
	var best *source
	least, start := 0, int((p.turn>>40)%uint64(len(able)))
	for k := range able {
		s := able[(start+k)%len(able)]
		if s.host == other || !s.have.has(i) {
			continue
		}
		if busy := p.busy[s.host]; best == nil || busy < least || busy == least && s.load < best.load {
			best, least = s, busy
		}
	}
	return best
}

// take makes a request of a piece and those idle ones after it that the peer has and that are no more common.
func (p *Picker) take(s *source, i int, now time.Duration) Want {
	w := Want{Host: s.host, From: i, Count: 1}
	size := p.sizes[i]
	for n := i + 1; n < len(p.sizes) && p.idle.has(n) && s.have.has(n) && p.rarity[n] <= p.rarity[i] && size+p.sizes[n] <= PeerRunMax; n++ {
		w.Count, size = w.Count+1, size+p.sizes[n]
	}
	for n := i; n < i+w.Count; n++ {
		p.depart(n, s.host, now)
	}
	p.busy[s.host]++
	return w
}

// again asks a second peer for the piece that is on its way for longest.
func (p *Picker) again(now time.Duration, able []*source) (Want, bool) {
	best := -1
	var from *source
	for i, w := range p.ways {
		if w.count >= waysMax || !p.missing.has(i) || now-w.since < againAfter {
			continue
		}
		if best >= 0 && (w.since > p.ways[best].since || w.since == p.ways[best].since && i > best) {
			continue
		}
		if s := p.leastBusy(able, i, w.host); s != nil {
			best, from = i, s
		}
	}
	if best < 0 {
		return Want{}, false
	}
	p.depart(best, from.host, now)
	p.busy[from.host]++
	return Want{Host: from.host, From: best, Count: 1}, true
}

func bySource(s *source, host string) int { return cmp.Compare(s.host, host) }

// peer finds a peer; nil if it is unknown.
func (p *Picker) peer(host string) *source {
	at, ok := slices.BinarySearchFunc(p.peers, host, bySource)
	if !ok {
		return nil
	}
	return p.peers[at]
}
