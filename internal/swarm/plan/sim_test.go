package plan

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// simConfig is a fleet and what goes wrong in it.
type simConfig struct {
	hosts, sites int
	pieces       int
	pieceBytes   int64
	link         float64 // bytes in a second of a host, each way
	origin       float64 // of the origin, all readers together
	stragglers   float64 // share of hosts with a tenth of the link
	dying        float64 // share of hosts that die between the start and the floor
	routeless    float64 // share of hosts without a route to the origin
	blocked      float64 // share of hosts whose reads from the origin fail after blockedFor
	own          bool    // each site reads the origin for itself
	seed         uint64
	blind        bool // rarest-first is switched off
	forever      bool // leases that run out are not dealt again
}

// What the network and the membership do; all else is the code's.
const (
	nearDelay   = 500 * time.Microsecond // one way, within a site
	farDelay    = 10 * time.Millisecond  // one way, between sites
	originDelay = 40 * time.Millisecond  // of a read, until its first byte
	blockedFor  = time.Second            // of a read that fails, with what the client tries again
	buryAfter   = 8 * time.Second        // a dead host is a member for so long
	simEnd      = 10 * time.Minute
)

// simResult is what came of it. Times are multiples of the floor.
type simResult struct {
	floor                      time.Duration
	p50, p99, last             float64 // of live hosts with the full link
	slowest                    float64 // of stragglers
	unfinished                 int     // live hosts
	egress, lost, far, expired float64 // multiples of the bundle: what left the origin; of it, only dead hosts had; what went between sites
	asks, flows, turns         int     // questions to dealers, requests to peers, of them turned away
	mostUp, mostAfter          int     // requests served by one host at a time, before and after it was done
	mostSent                   float64 // bytes that one host sent to others, as a multiple of the mean
}

// simHost is one host.
type simHost struct {
	id       int
	name     string
	site     int
	rate     float64
	slow     bool
	route    bool
	blocked  bool
	dead     bool
	done     time.Duration
	have     Bits
	count    int
	picker   *Picker
	graph    []*simEdge // who it listens to
	told     []*simEdge // who listens to it
	edges    map[string]*simEdge
	busy     int
	serving  int
	up       pipe
	sent     int64 // bytes, to other hosts
	downFree time.Duration
	fresh    []int // not told yet
	telling  bool
	waking   time.Duration // when it looks again; 0: not planned

	holding  [][]int
	asking   bool // a question is on its way, or
	waiting  bool // the next is planned
	held     int  // leases when it asked last
	askTimer int  // version of the planned question
	asked    time.Duration
	failed   string
	read     int64 // from the origin, as told
	lastRate int64
}

// simEdge is one direction of a pair.
type simEdge struct {
	from, to *simHost // to listens to from
	far      bool
	share    Share
	dropped  bool // what it says counts for nothing now
	patience Patience
}

// flow is one request of one host to another, or to the origin.
type flow struct {
	to       *simHost
	edge     *simEdge // nil for the origin
	want     Want
	lease    []int
	sent     int   // of its pieces
	read     int64 // bytes of it that landed
	bytes    int64
	began    time.Duration
	deadline time.Duration
	finish   float64 // virtual
	over     bool
	seq      int
}

// pipe shares a rate evenly among the flows in it.
type pipe struct {
	rate    float64
	virtual float64 // bytes that each flow in it was given since ever
	at      time.Duration
	flows   flowHeap
	version int
}

type flowHeap []*flow

func (h flowHeap) Len() int { return len(h) }
func (h flowHeap) Less(i, j int) bool {
	return h[i].finish < h[j].finish || h[i].finish == h[j].finish && h[i].seq < h[j].seq
}
func (h flowHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *flowHeap) Push(x any)   { *h = append(*h, x.(*flow)) }
func (h *flowHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (p *pipe) advance(now time.Duration) {
	if n := len(p.flows); n > 0 {
		p.virtual += (now - p.at).Seconds() * p.rate / float64(n)
	}
	p.at = now
}

// next is when the first flow has left it.
func (p *pipe) next() time.Duration {
	return p.at + time.Duration(max(0, p.flows[0].finish-p.virtual)*float64(len(p.flows))/p.rate*1e9) + 1
}

// simEvent is something that happens at a time.
type simEvent struct {
	at  time.Duration
	seq int
	do  func()
}

type simQueue []simEvent

func (q simQueue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *simQueue) push(e simEvent) {
	*q = append(*q, e)
	for i := len(*q) - 1; i > 0 && q.less(i, (i-1)/2); i = (i - 1) / 2 {
		(*q)[i], (*q)[(i-1)/2] = (*q)[(i-1)/2], (*q)[i]
	}
}

func (q *simQueue) pop() simEvent {
	old := *q
	first, n := old[0], len(old)-1
	old[0] = old[n]
	old[n] = simEvent{}
	*q = old[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			return first
		}
		if c+1 < n && q.less(c+1, c) {
			c++
		}
		if !q.less(c, i) {
			return first
		}
		old[i], old[c] = old[c], old[i]
		i = c
	}
}

// sim runs Dealers, Pickers, Patience and Neighbours of a fleet in virtual time, as the agents do.
type sim struct {
	c       simConfig
	r       *rand.Rand
	now     time.Duration
	seq     int
	queue   simQueue
	hosts   []*simHost
	byName  map[string]*simHost
	members []Host
	living  []int           // members of each site,
	gates   map[string]bool // and those that ever were gateways
	sizes   []int64
	total   int64
	copies  []int // of each piece, at live hosts
	dealers []*Dealer
	origin  pipe
	leases  int          // dealt
	fatal   map[int]bool // the holders of those die
	left    int          // live hosts that are not done
	floor   time.Duration
	out     simResult
	egress  int64
	lost    int64
	farSum  int64
	expired int64
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	s.queue.push(simEvent{s.now + d, s.seq, do})
}

// simulate runs a fleet until every live host is done.
func simulate(c simConfig) simResult {
	s := &sim{c: c, r: rand.New(rand.NewPCG(c.seed, 1)), byName: map[string]*simHost{}, living: make([]int, c.sites), gates: map[string]bool{}, copies: make([]int, c.pieces), fatal: map[int]bool{}}
	for range c.pieces {
		s.sizes = append(s.sizes, c.pieceBytes)
		s.total += c.pieceBytes
	}
	s.floor = time.Duration(float64(s.total) / c.link * 1e9)
	s.origin = pipe{rate: c.origin}
	s.populate()
	for _, h := range s.hosts {
		s.connect(h)
	}
	for _, h := range s.hosts {
		s.after(nearDelay*3, func() { s.wonder(h) })
	}
	for len(s.queue) > 0 && s.left > 0 && s.now < simEnd {
		e := s.queue.pop()
		s.now = e.at
		e.do()
	}
	return s.result()
}

// populate makes the hosts and decides who dies when.
func (s *sim) populate() {
	realms := 1
	if s.c.own {
		realms = s.c.sites
	}
	for range realms {
		d := NewDealer(s.sizes)
		d.forever = s.c.forever
		s.dealers = append(s.dealers, d)
	}
	for i := range s.c.hosts {
		h := &simHost{id: i, name: fmt.Sprintf("host-%04d", i), site: i % s.c.sites, rate: s.c.link, route: true, have: NewBits(s.c.pieces), edges: map[string]*simEdge{}}
		h.picker = NewPicker(s.sizes, h.have, mix(s.c.seed+uint64(i)))
		h.picker.blind = s.c.blind
		s.hosts = append(s.hosts, h)
		s.byName[h.name] = h
		s.members = append(s.members, Host{h.name, fmt.Sprint("site-", h.site)})
		s.living[h.site]++
	}
	order := s.r.Perm(s.c.hosts)
	take := func(share float64) []int {
		n := int(share*float64(s.c.hosts) + 0.5)
		part := order[:n]
		order = order[n:]
		return part
	}
	for _, i := range take(s.c.stragglers) {
		s.hosts[i].slow, s.hosts[i].rate = true, s.c.link/10
	}
	doomed := take(s.c.dying)
	for _, i := range doomed[:len(doomed)/2] {
		s.after(time.Duration(s.r.Float64()*float64(s.floor)), func() { s.die(s.hosts[i]) })
	}
	for range doomed[len(doomed)/2:] { // half of them are those that hold certain leases
		s.fatal[s.r.IntN(s.c.pieces/2)] = true
	}
	for _, i := range take(s.c.routeless) {
		s.hosts[i].route = false
	}
	for _, i := range take(s.c.blocked) {
		s.hosts[i].blocked = true
	}
	for _, h := range s.hosts {
		h.up.rate = h.rate
	}
	s.left = len(s.hosts)
}

// connect draws a host's neighbours among the members, and drops those that are none any more.
func (s *sim) connect(h *simHost) {
	members := s.members
	if s.c.own {
		members = slices.DeleteFunc(slices.Clone(members), func(m Host) bool { return m.Site != s.members[h.id].Site })
	}
	g := Neighbours(s.members[h.id], slices.DeleteFunc(slices.Clone(members), func(m Host) bool { return m.Name == "" }), s.c.seed)
	for _, gateways := range g.Out {
		for _, name := range gateways {
			s.gates[name] = true
		}
	}
	h.picker.SetSwarm(h.name, s.swarm(h)-1)
	wanted := map[string]bool{}
	for k, name := range slices.Concat(g.Near, slices.Sorted(maps.Keys(g.Far))) {
		wanted[name] = true
		if e := h.edges[name]; e != nil {
			e.share = g.Far[name]
			continue
		}
		peer := s.byName[name]
		e := &simEdge{from: peer, to: h, far: k >= len(g.Near), share: g.Far[name]}
		h.edges[name] = e
		h.graph = append(h.graph, e)
		peer.told = append(peer.told, e)
		s.after(2*e.delay(), func() {
			if !peer.dead && h.edges[name] == e {
				e.place()
				s.wonder(h)
			}
		})
	}
	for k := len(h.graph) - 1; k >= 0; k-- {
		if e := h.graph[k]; !wanted[e.from.name] {
			delete(h.edges, e.from.name)
			h.graph = slices.Delete(h.graph, k, k+1)
			e.from.told = slices.DeleteFunc(e.from.told, func(t *simEdge) bool { return t == e })
			h.picker.DropPeer(e.from.name)
		}
	}
}

func (e *simEdge) delay() time.Duration {
	if e.far {
		return farDelay
	}
	return nearDelay
}

// place brings the picker up to date with all that the peer has.
func (e *simEdge) place() {
	if e.far {
		e.to.picker.SetFarPeer(e.from.name, e.from.have, e.share)
	} else {
		e.to.picker.SetPeer(e.from.name, e.from.have)
	}
}

// wonder lets a host look what it can ask of whom.
func (s *sim) wonder(h *simHost) {
	if h.dead || h.done > 0 {
		return
	}
	for {
		w, ok := h.picker.Pick(s.now, func(host string) int {
			if e := h.edges[host]; e != nil {
				return e.patience.Asks(s.now)
			}
			return 0
		})
		if !ok {
			break
		}
		s.request(h, w)
	}
	s.ask(h)
	if h.waking == 0 { // the agents' own tick
		h.waking = s.now + 250*time.Millisecond
		s.after(250*time.Millisecond, func() {
			h.waking = 0
			for _, e := range h.graph {
				if e.dropped && e.patience.Counts(s.now) {
					e.dropped = false
					e.place()
				}
			}
			s.wonder(h)
		})
	}
}

// request sends a request to a peer.
func (s *sim) request(h *simHost, w Want) {
	h.busy++
	s.out.flows++
	f := &flow{to: h, edge: h.edges[w.Host], want: w, began: s.now, seq: s.out.flows}
	for i := w.From; i < w.From+w.Count; i++ {
		f.bytes += s.sizes[i]
	}
	peer := f.edge.from
	s.after(2*f.edge.delay(), func() { // there and back
		switch {
		case peer.dead:
			s.after(PeerIdle, func() { s.conclude(f, 0, func(p *Patience) { p.Strike(Strikes, s.now) }) })
		case peer.serving >= s.uploads(peer):
			s.out.turns++
			s.conclude(f, 0, func(p *Patience) { p.TurnedAway(s.now) })
		default:
			peer.serving++
			if peer.done == 0 {
				s.out.mostUp = max(s.out.mostUp, peer.serving)
			} else {
				s.out.mostAfter = max(s.out.mostAfter, peer.serving)
			}
			s.pour(&peer.up, f, func() bool { return peer.dead })
		}
	})
}

// uploads is how many requests a host serves at a time. One that has everything knows of those only that listen to it.
func (s *sim) uploads(h *simHost) int {
	others := s.swarm(h) - 1
	if h.done > 0 {
		others = 0
		for _, e := range h.told {
			if !e.to.dead && e.to.done == 0 {
				others++
			}
		}
	}
	all, _ := Flows(others)
	return all
}

// pour puts a flow into a pipe.
func (s *sim) pour(p *pipe, f *flow, dead func() bool) {
	p.advance(s.now)
	f.finish = p.virtual + float64(f.bytes)
	heap.Push(&p.flows, f)
	s.watch(p, dead)
}

// watch plans the next end of a flow in a pipe.
func (s *sim) watch(p *pipe, dead func() bool) {
	p.version++
	if len(p.flows) == 0 {
		return
	}
	version := p.version
	s.after(p.next()-s.now, func() {
		if p.version != version || dead() {
			return
		}
		p.advance(s.now)
		f := heap.Pop(&p.flows).(*flow)
		s.watch(p, dead)
		s.drain(f)
	})
}

// drain lets a flow that left its source through its receiver's link.
func (s *sim) drain(f *flow) {
	h, piece := f.to, 0
	took := time.Duration(float64(f.bytes) / h.rate * 1e9)
	h.downFree = max(s.now, max(h.downFree, f.began)+took)
	if f.edge == nil {
		piece = s.next(f)
	}
	s.after(h.downFree-s.now, func() {
		if f.edge != nil {
			f.edge.from.serving--
			if f.edge.from.dead {
				s.after(PeerIdle, func() { s.conclude(f, 0, func(p *Patience) { p.Strike(Strikes, s.now) }) })
				return
			}
			f.edge.from.sent += f.bytes
			if f.edge.far {
				s.farSum += f.bytes
			}
			s.conclude(f, f.bytes, (*Patience).Good)
			return
		}
		s.landed(f, piece)
	})
}

// conclude ends a request to a peer.
func (s *sim) conclude(f *flow, got int64, judge func(*Patience)) {
	h, e := f.to, f.edge
	if h.dead || f.over {
		return
	}
	f.over = true
	if got > 0 {
		for i := f.want.From; i < f.want.From+f.want.Count; i++ {
			s.keep(h, i)
		}
	}
	h.picker.Release(f.want, got, s.now)
	h.busy--
	judge(&e.patience)
	if h.edges[e.from.name] == e && !e.patience.Counts(s.now) {
		h.picker.DropPeer(e.from.name)
		e.dropped = true
	}
	s.wonder(h)
}

// keep notes a piece that is here, and plans to tell.
func (s *sim) keep(h *simHost, i int) {
	if h.have.Has(i) {
		return
	}
	h.have.Set(i)
	h.count++
	s.copies[i]++
	h.picker.Got(i)
	h.fresh = append(h.fresh, i)
	if h.count == s.c.pieces {
		h.done = s.now
		s.left--
	}
	if !h.telling {
		h.telling = true
		s.tell(h)
	}
}

// tell sends the news, and gathers those that follow for a while.
func (s *sim) tell(h *simHost) {
	if h.dead || len(h.fresh) == 0 {
		h.telling = false
		return
	}
	fresh := h.fresh
	h.fresh = nil
	for _, far := range []bool{false, true} {
		delay := nearDelay
		if far {
			delay = farDelay
		}
		told := slices.DeleteFunc(slices.Clone(h.told), func(e *simEdge) bool { return e.far != far })
		if len(told) == 0 {
			continue
		}
		s.after(delay, func() {
			for _, e := range told {
				if to := e.to; !to.dead && to.done == 0 && to.edges[h.name] == e {
					to.picker.AddPieces(h.name, fresh)
					s.wonder(to)
				}
			}
		})
	}
	s.after(NewsGap(len(h.graph)), func() { s.tell(h) })
}
