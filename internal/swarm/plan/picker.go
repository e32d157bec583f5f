package plan

import (
	"cmp"
	"math/bits"
	"slices"
	"time"
)

// Figures of asking peers.
const (
	PeerRunMax = 256 << 10   // bytes a host asks of a peer at once, but one piece at least,
	peerRunMin = 64 << 10    // and where little is missing, no more than this or
	peerRuns   = 8           // one in so many parts of what each of the others, or of allMax, would send if it came from all alike
	againAfter = time.Second // on its way for so long (or againTimes what requests take lately), a piece is asked of a second peer when nothing else is left to ask
	againTimes = 3
	againMin   = 250 * time.Millisecond
	againMax   = 5 * time.Second
	bringTimes = 4               // what another host is to bring from another site is waited for so many times as long
	bringMax   = 8 * time.Second // and at most: less than an exchange without progress lasts
	slowTimes  = 4               // a peer that takes so many times longer than the faster half
	slowMin    = 200 * time.Millisecond
	timedFew   = 8                // peers: too few for the first of them to have been compared with most
	slowFor    = 15 * time.Second // is asked for so long only for what others do not have
	waysMax    = 2                // requests for one piece at a time
)

// Want is one request to a peer: Count neighbouring pieces from From on.
type Want struct {
	Host  string
	From  int
	Count int
	since time.Duration
}

// Picker is what one host knows of the pieces of one bundle. It costs a look at each idle piece to pick one, and nothing to wait.
type Picker struct {
	sizes      []int64
	missing    words
	idle       words           // missing, and on its way from nowhere
	nearby     words           // at a peer of the own site
	rarity     []uint16        // how many peers have a piece, but for those that are asked last,
	distant    []uint16        // and of these
	ways       map[int]way     // pieces on their way
	peers      []*source       // by name
	busy       map[string]*int // requests under way by host, also to peers that were dropped
	began      []time.Duration // of each of them
	orphans    int             // idle pieces that no peer has
	swarm      int             // other hosts in the exchange
	wanted     int64           // bytes that were missing at first
	self       uint64          // this host in the draw
	draws      int             // counts changes of the peers among whom is drawn
	brought    int             // pieces that this host was the first to have
	fresh      []arrival       // that peers brought, and nobody waited for long enough
	older      []arrival       // the same, for longer
	opened     words           // pieces that were waited for long enough,
	openedLong words           // and for much longer
	announced  words           // pieces that are waited for so, or were
	now        time.Duration
	turn       uint64
	pace       float64         // nanoseconds a byte of any peer took lately
	due        []time.Duration // when a piece that only other sites have is everybody's; 0 while it is not such a one; nil without far peers
	blind      bool            // for tests: rarity counts for nothing
}

// way is how a piece comes here.
type way struct {
	count int
	host  string // of the first request; "" for the origin
	since time.Duration
}

// source is one peer.
type source struct {
	bringing
	host  string
	far   bool  // of another site
	last  bool  // it is asked only for what the others do not have: it is far, or slow
	ours  words // of a far one's pieces, those that this host brings to the own site
	have  words
	may   words // of those, what Pick may ask for now
	busy  *int  // requests under way
	load  int64
	pace  float64       // nanoseconds a byte took lately; 0 for unknown
	took  time.Duration // its last request
	timed time.Duration // when that ended; 0 once the peer was called slow for it
	slow  time.Duration // until then it is last
}

// NewPicker starts with the pieces that are here already. seed, different on every host, makes hosts that know the same begin elsewhere.
func NewPicker(sizes []int64, have Bits, seed uint64) *Picker {
	n := len(sizes)
	p := &Picker{sizes: sizes, missing: newWords(n), idle: newWords(n), nearby: newWords(n), opened: newWords(n), openedLong: newWords(n), announced: newWords(n), rarity: make([]uint16, n), distant: make([]uint16, n), ways: map[int]way{}, busy: map[string]*int{}, turn: seed | 1}
	for i := range n {
		if !have.Has(i) {
			p.missing.set(i)
			p.idle.set(i)
			p.orphans++
			p.wanted += sizes[i]
		}
	}
	return p
}

// SetSwarm notes this host's name, and how many other hosts are in the exchange, whether this one listens to them or not.
func (p *Picker) SetSwarm(self string, others int) { p.self, p.swarm = draw(self), others }

// Orphans is how many missing pieces are neither on their way nor at any peer: what must come from the origin.
func (p *Picker) Orphans() int { return p.orphans }

// Seen returns the pieces that peers have.
func (p *Picker) Seen() Bits {
	seen := NewBits(len(p.sizes))
	for i, n := range p.rarity {
		if n > 0 || p.distant[i] > 0 {
			seen.Set(i)
		}
	}
	return seen
}

// SetPeer replaces what a peer of the own site has; a new one is added.
func (p *Picker) SetPeer(host string, have Bits) { p.setPeer(host, have, false) }

// SetFarPeer does so for a peer of another site. It is asked only for what no peer of the own site has. Of the hosts of the own site that ask there, each fetches its
// share first, and other pieces only once they are due for long.
func (p *Picker) SetFarPeer(host string, have Bits, share Share) {
	p.setPeer(host, have, true)
	s := p.peer(host)
	s.ours = newWords(len(p.sizes))
	for i := range p.sizes {
		if share.Has(i) {
			s.ours.set(i)
		}
	}
	if p.due == nil {
		p.due = make([]time.Duration, len(p.sizes))
	}
}

func (p *Picker) setPeer(host string, have Bits, far bool) {
	s := p.peer(host)
	if s != nil && s.far != far {
		p.DropPeer(host)
		s = nil
	}
	if s == nil {
		n := len(p.sizes)
		s = &source{bringing: bringing{id: draw(host)}, host: host, far: far, last: far, busy: p.busyWith(host), have: newWords(n), may: newWords(n)}
		p.draws++
		at, _ := slices.BinarySearchFunc(p.peers, host, bySource)
		p.peers = slices.Insert(p.peers, at, s)
	}
	now := wordsOf(have, len(p.sizes))
	for k, w := range now {
		for w &^= s.have[k]; w != 0; w &= w - 1 {
			p.told(s, k<<6+bits.TrailingZeros64(w))
		}
	}
	p.change(s, now)
}

// AddPieces notes that a known peer has more; pieces that do not exist are ignored.
func (p *Picker) AddPieces(host string, pieces []int) {
	s := p.peer(host)
	if s == nil {
		return
	}
	for _, i := range pieces {
		if i >= 0 && i < len(p.sizes) && !s.have.has(i) {
			p.told(s, i)
			s.have.set(i)
			p.common(s, i, +1)
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
	p.draws++
	at, _ := slices.BinarySearchFunc(p.peers, host, bySource)
	p.peers = slices.Delete(p.peers, at, at+1)
	if *s.busy == 0 {
		delete(p.busy, host)
	}
}

// busyWith counts the requests under way to a host.
func (p *Picker) busyWith(host string) *int {
	if p.busy[host] == nil {
		p.busy[host] = new(int)
	}
	return p.busy[host]
}

// change gives a peer another set of pieces.
func (p *Picker) change(s *source, have words) {
	for k, now := range have {
		for diff := now ^ s.have[k]; diff != 0; diff &= diff - 1 {
			by := -1
			if now&(diff&-diff) != 0 {
				by = +1
			}
			p.common(s, k<<6+bits.TrailingZeros64(diff), by)
		}
	}
	s.have = have
}

// common makes a piece more or less common.
func (p *Picker) common(s *source, i, by int) {
	if p.orphan(i) {
		p.orphans--
	}
	if s.last {
		p.distant[i] = uint16(int(p.distant[i]) + by)
	} else {
		p.rarity[i] = uint16(int(p.rarity[i]) + by)
		if p.rarity[i] > 0 {
			p.nearby.set(i)
		} else {
			p.nearby.clear(i)
		}
	}
	if p.orphan(i) {
		p.orphans++
	}
}

func (p *Picker) orphan(i int) bool { return p.idle.has(i) && p.rarity[i] == 0 && p.distant[i] == 0 }

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
	if p.unseen(i) {
		p.brought++
	}
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
	p.await(i)
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
func (p *Picker) Release(w Want, bytes int64, now time.Duration) {
	for i := w.From; i < w.From+w.Count; i++ {
		p.arrive(i)
	}
	if at := slices.Index(p.began, w.since); at >= 0 {
		p.began = slices.Delete(p.began, at, at+1)
	}
	n, s := p.busyWith(w.Host), p.peer(w.Host)
	if *n--; *n <= 0 && s == nil {
		delete(p.busy, w.Host)
	}
	if s != nil {
		s.load += bytes
		p.clock(s, bytes, now-w.since, now)
	}
}

// clock notes how long a peer took.
func (p *Picker) clock(s *source, bytes int64, took, now time.Duration) {
	if bytes <= 0 {
		return
	}
	pace := float64(max(took, 0)) / float64(bytes)
	s.pace, s.took, s.timed = smooth(s.pace, pace, 2), took, now
	p.pace = smooth(p.pace, pace, 16)
	p.judge(s, now)
}

// judge leaves a peer alone for a while that takes much longer than most, which is what the faster half of the peers keeps to. While few were timed, those before are
// judged again with it, so that it does not matter who was timed first; later that would only shuffle peers in large swarms.
func (p *Picker) judge(it *source, now time.Duration) {
	paces := make([]float64, 0, len(p.peers))
	for _, s := range p.peers {
		if s.pace > 0 && !s.far {
			paces = append(paces, s.pace)
		}
	}
	if len(paces) < 2 {
		return
	}
	slices.Sort(paces)
	most := slowTimes * paces[(len(paces)-1)/2]
	for _, s := range p.peers {
		switch {
		case s.far || s != it && len(paces) > timedFew:
		case s.pace <= most:
			p.rank(s, false)
		case s.took > slowMin && s.timed > 0 && now-s.timed < slowFor:
			s.slow, s.timed = now+slowFor, 0
			p.rank(s, true)
		}
	}
}

// rank puts a peer among those that are asked last, or takes it out of them.
func (p *Picker) rank(s *source, last bool) {
	if s.last != last {
		have := s.have
		p.change(s, newWords(len(p.sizes)))
		s.last = last
		p.draws++
		p.change(s, have)
	}
}

// smooth moves a mean by one part in n.
func smooth(mean, value float64, n int) float64 {
	if mean == 0 {
		return value
	}
	return mean + (value-mean)/float64(n)
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

// Pick chooses what to ask next, and counts it as on its way: the rarest idle piece that a peer with a free request has, from the least busy of those peers; what no peer of the own site has comes first. asks
// says how many requests a peer may have under way now; 0 leaves it alone. ok is false when there is nothing to ask.
func (p *Picker) Pick(now time.Duration, asks func(host string) int) (w Want, ok bool) {
	if p.full(now) {
		return Want{}, false
	}
	_, each := Flows(max(p.swarm, len(p.peers)))
	p.turn = p.turn*6364136223846793005 + 1442695040888963407
	able := make([]*source, 0, len(p.peers))
	for _, s := range p.peers {
		if !s.far && s.last && now >= s.slow {
			p.rank(s, false)
		}
		if *s.busy < min(asks(s.host), each) {
			able = append(able, s)
		}
	}
	if len(able) == 0 {
		return Want{}, false
	}
	restrained := p.relay(now)
	for _, late := range []bool{false, true} {
		if late && !restrained {
			break
		}
		union, least := p.askable(able, late)
		if i := p.rarest(union, least); i >= 0 {
			return p.take(p.leastBusy(able, i, "", p.rarity[i] == 0), i, now), true
		}
	}
	return p.again(now, able)
}

// askable gathers what may be asked of any of these peers, and says at how many of those that are asked first a piece is that cannot be rarer.
func (p *Picker) askable(able []*source, late bool) (union words, least uint16) {
	union, least = newWords(len(p.sizes)), 1
	for _, s := range able {
		if s.last {
			least = 0
		}
		for k := range s.may {
			s.may[k] = p.mayAsk(s, k, late)
			if s.last {
				s.may[k] &= p.bring(s, k)
			}
			union[k] |= s.may[k]
		}
	}
	return union, least
}

// bring says which of 64 pieces this host is to fetch from another site now: those of its share that no peer of the own site has, and others that are due.
func (p *Picker) bring(s *source, k int) uint64 {
	if !s.far {
		return ^p.nearby[k]
	}
	want := s.have[k] & s.ours[k] &^ p.nearby[k]
	for others := s.have[k] & p.idle[k] &^ s.ours[k] &^ p.nearby[k]; others != 0; others &= others - 1 {
		i := k<<6 + bits.TrailingZeros64(others)
		switch {
		case p.due[i] == 0:
			p.due[i] = p.now + min(bringTimes*p.overdue(), bringMax)
		case p.now >= p.due[i]:
			want |= others & -others
		}
	}
	return want
}

// rarest finds the rarest idle piece of a set, starting somewhere else each time; -1 for none. None of them is at fewer peers than least.
func (p *Picker) rarest(of words, least uint16) int {
	best, start, turned := -1, int((p.turn>>33)%uint64(len(of))), int(p.turn>>20)&63
	if p.blind {
		start, turned = 0, 0
	}
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
			if p.rarity[best] <= least || p.blind {
				return best
			}
		}
	}
	return best
}

// leastBusy finds the peer to ask for piece i, among those asked first or last, other than one; nil for none.
func (p *Picker) leastBusy(able []*source, i int, other string, last bool) *source {
	var best *source
	least, start := 0, int((p.turn>>40)%uint64(len(able)))
	for k := range able {
		s := able[(start+k)%len(able)]
		if s.last != last || s.host == other || !s.may.has(i) {
			continue
		}
		if busy := *s.busy; best == nil || busy < least || busy == least && s.load < best.load {
			best, least = s, busy
		}
	}
	return best
}

// take makes a request of a piece and those idle ones after it that the peer has and that are no more common.
func (p *Picker) take(s *source, i int, now time.Duration) Want {
	w := Want{Host: s.host, From: i, Count: 1, since: now}
	size, most := p.sizes[i], p.runBytes()
	for n := i + 1; n < len(p.sizes) && p.idle.has(n) && s.may.has(n) && p.rarity[n] <= p.rarity[i] && size+p.sizes[n] <= most; n++ {
		w.Count, size = w.Count+1, size+p.sizes[n]
	}
	for n := i; n < i+w.Count; n++ {
		p.depart(n, s.host, now)
	}
	p.count(s, now)
	return w
}

// runBytes is how many bytes are asked of a peer at once. Of a change of a few MiB each host has only some pieces to pass on, and should soon.
func (p *Picker) runBytes() int64 {
	return min(max(p.wanted/int64(peerRuns*min(max(p.swarm, 1), allMax)), peerRunMin), PeerRunMax)
}

// count notes a request that begins.
func (p *Picker) count(s *source, now time.Duration) {
	*s.busy++
	p.began = append(p.began, now)
}

// overdue is how long a request may take before it is not waited for alone.
func (p *Picker) overdue() time.Duration {
	if p.pace == 0 {
		return againAfter
	}
	return min(max(time.Duration(againTimes*p.pace*PeerRunMax), againMin), againMax)
}

// full says whether enough requests are under way. Those that are overdue make room for as many.
func (p *Picker) full(now time.Duration) bool {
	late := 0
	for _, since := range p.began {
		if now-since >= p.overdue() {
			late++
		}
	}
	all, _ := Flows(max(p.swarm, len(p.peers)))
	return len(p.began)-late >= all || len(p.began) >= 2*all
}

// again asks a second peer for the piece that is on its way for longest.
func (p *Picker) again(now time.Duration, able []*source) (Want, bool) {
	best := -1
	var from *source
	for _, s := range able {
		copy(s.may, s.have)
	}
	for i, w := range p.ways {
		if w.count >= waysMax || !p.missing.has(i) || now-w.since < p.overdue() {
			continue
		}
		if best >= 0 && (w.since > p.ways[best].since || w.since == p.ways[best].since && i > best) {
			continue
		}
		s := p.leastBusy(able, i, w.host, false)
		if s == nil {
			s = p.leastBusy(able, i, w.host, true)
		}
		if s != nil {
			best, from = i, s
		}
	}
	if best < 0 {
		return Want{}, false
	}
	p.depart(best, from.host, now)
	p.count(from, now)
	return Want{Host: from.host, From: best, Count: 1, since: now}, true
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
