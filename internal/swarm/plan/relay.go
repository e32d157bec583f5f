package plan

import "time"

// Figures of relaying.
const (
	relayFrom  = 16              // pieces that somebody brought; before that nobody can be said to bring more than others
	copiesPart = 4               // how often a piece leaves its bringer is kept in quarters
	openMax    = 6 * time.Second // at most: less than an exchange without progress lasts
	openTimes  = 2               // a piece that nobody passed on for so many times as long as a request that is overdue is asked of its bringer by all, of a slow one after slowTimes as long
)

// In a small swarm everybody hears everybody, and a piece is asked of the host that brought it, by all, the moment it tells of it. Where all bring as much, that is the
// best there is. Where few do, since the others have no route to the origin, their uplinks are full while those of the others idle. So a piece leaves its bringer only as
// often as lets all hosts send as much: n hosts send each piece n-1 times, evenly each of them (n-1)/n of the bundle, and one that brought the part f of the bundle
// sends its pieces (n-1)/(n*f) times. Who takes them first is drawn by hash, alike on all hosts; the others wait until one of those has it, but not for
// long. BitTorrent's super-seeding (BEP 16) does this for a single seed.

// bringing is what a Picker knows of a peer's part in that.
type bringing struct {
	id     uint64  // of the draw
	pieces int     // that nobody else was known to have when the peer told of them
	rank   []uint8 // how many hosts are drawn before this one to take a piece; nil before it was asked for
	of     int     // the draw that rank belongs to
	copies int     // quarters; those for which
	direct words   // says what this host takes at once; nil for everything
}

// arrival is a piece that a peer was the first to have.
type arrival struct {
	piece int
	at    time.Duration
}

// draw names a host in the draw of who takes a piece first.
func draw(host string) uint64 {
	h := uint64(0)
	for _, c := range []byte(host) {
		h = mix(h ^ uint64(c))
	}
	return h
}

// unseen says whether a missing piece is at no peer yet.
func (p *Picker) unseen(i int) bool { return p.missing.has(i) && p.rarity[i] == 0 && p.distant[i] == 0 }

// told notes a piece that a peer has, as it tells of it.
func (p *Picker) told(s *source, i int) {
	if p.unseen(i) && !p.announced.has(i) { // a peer may take back what it told, and tell it again
		s.pieces++
		p.await(i)
	}
}

// await begins to wait for others to pass a piece on.
func (p *Picker) await(i int) {
	p.announced.set(i)
	p.fresh = append(p.fresh, arrival{i, p.now})
	p.older = append(p.older, arrival{i, p.now})
}

// open notes the pieces that were waited for so long, and returns the others.
func (p *Picker) open(opened words, waiting []arrival, long time.Duration) []arrival {
	for len(waiting) > 0 && p.now-waiting[0].at >= long {
		opened.set(waiting[0].piece)
		waiting = waiting[1:]
	}
	return waiting
}

// relay says for every peer what is asked of it at once, and whether that is less than everything of any. Pieces that were waited for long enough are open to all.
func (p *Picker) relay(now time.Duration) (restrained bool) {
	p.now = now
	long := openTimes * p.overdue()
	p.fresh, p.older = p.open(p.opened, p.fresh, long), p.open(p.openedLong, p.older, min(slowTimes*long, openMax))
	total, even := p.brought, p.swarm <= allMax
	for _, s := range p.peers {
		total += s.pieces
		even = even && !s.far
	}
	others := len(p.peers)
	for _, s := range p.peers {
		switch {
		case even && s.last: // slow: what it sends twice is not sent by anybody else meanwhile
			p.restrain(s, copiesPart)
		case even && total >= relayFrom:
			p.restrain(s, max(copiesPart*total*others/((others+1)*max(s.pieces, 1)), copiesPart))
		default:
			s.direct, s.copies = nil, 0
		}
		restrained = restrained || s.direct != nil
	}
	return restrained
}

// restrain computes what is asked of a peer at once, whose pieces are to leave it so often.
func (p *Picker) restrain(s *source, copies int) {
	if copies >= copiesPart*len(p.peers) {
		s.direct, s.copies = nil, 0
		return
	}
	if s.direct != nil && s.copies == copies && s.of == p.draws {
		return
	}
	if s.rank == nil || s.of != p.draws {
		p.drawRanks(s)
	}
	s.copies, s.direct = copies, newWords(len(p.sizes))
	for i, rank := range s.rank {
		part := int(mix(s.id+uint64(i)) % copiesPart) // of four pieces, so many leave once more as there are quarters
		if copiesPart*int(rank)+part < copies {
			s.direct.set(i)
		}
	}
}

// drawRanks draws how many hosts come before this one in taking each piece of a peer.
func (p *Picker) drawRanks(s *source) {
	s.rank, s.of = make([]uint8, len(p.sizes)), p.draws
	for i := range s.rank {
		salt := uint64(i) * 0x9e3779b97f4a7c15
		mine := mix(p.self ^ salt)
		for _, other := range p.peers {
			if other != s && !other.last && mix(other.id^salt) < mine {
				s.rank[i]++
			}
		}
	}
}

// mayAsk says which of 64 pieces are asked of a peer: at first those it is to be asked for at once, late also those that were waited for long enough, or any if nothing is
// on its way. A slow one takes long with each: what it alone has is waited for longer.
func (p *Picker) mayAsk(s *source, k int, late bool) uint64 {
	idle := len(p.began) == 0
	switch {
	case s.direct == nil || late && idle && !s.last:
		return s.have[k]
	case late && (idle || !s.last):
		return s.have[k] & (s.direct[k] | p.opened[k])
	case late:
		return s.have[k] & (s.direct[k] | p.openedLong[k])
	default:
		return s.have[k] & s.direct[k]
	}
}
