package plan

import (
	"slices"
	"time"
)

// dealer is the one that deals to a host.
func (s *sim) dealer(h *simHost) *Dealer {
	if s.c.own {
		return s.dealers[h.site]
	}
	return s.dealers[0]
}

// partial says whether a host sees only a part of the swarm.
func (s *sim) partial(h *simHost) bool { return len(h.graph)+1 < s.swarm(h) }

// swarm counts the members that a host knows.
func (s *sim) swarm(h *simHost) int {
	if s.c.own {
		return s.living[h.site]
	}
	n := 0
	for _, living := range s.living {
		n += living
	}
	return n
}

// ask asks the dealer, if there is need and no question under way or planned.
func (s *sim) ask(h *simHost) {
	if !h.route || h.asking || h.dead || h.done > 0 {
		return
	}
	if h.picker.Orphans() == 0 && (!s.partial(h) || s.now-h.asked < ReportEvery(s.c.hosts)) {
		return
	}
	h.asking = true
	h.asked = s.now
	hosts := s.swarm(h)
	r := Request{Host: h.name, Have: slices.Clone(h.have), Seen: h.picker.Seen(), Holding: slices.Concat(h.holding...), Failed: h.failed, Read: h.read, Rate: h.lastRate,
		Hosts: hosts, Partial: s.partial(h)}
	h.failed, h.held = "", len(h.holding)
	s.after(farDelay, func() {
		s.out.asks++
		lease := s.dealer(h).Deal(r, s.now)
		s.after(farDelay, func() { s.answer(h, lease) })
	})
}

// answer takes the dealer's answer.
func (s *sim) answer(h *simHost, lease Lease) {
	if h.dead || h.done > 0 {
		s.abandon(h, lease)
		return
	}
	h.askTimer++
	if len(lease.Pieces) == 0 && h.held != len(h.holding) {
		h.asking = false
		s.ask(h)
		return
	}
	if len(lease.Pieces) == 0 {
		version := h.askTimer
		h.waiting = true
		s.after(max(lease.Retry, 50*time.Millisecond), func() { s.askAgain(h, version) })
		return
	}
	s.leases++
	if s.fatal[s.leases] {
		s.after(time.Duration(s.r.Float64()*2*float64(originDelay+time.Duration(float64(s.c.pieceBytes)/s.c.link*1e9))), func() { s.die(h) })
	}
	h.holding = append(h.holding, lease.Pieces)
	h.picker.Hold(lease.Pieces, s.now)
	s.out.flows++
	f := &flow{to: h, lease: lease.Pieces, bytes: s.sizes[lease.Pieces[0]], began: s.now, deadline: s.now + lease.For, seq: s.out.flows}
	if h.blocked {
		s.after(blockedFor, func() { s.fail(f, "no route") })
	} else {
		s.after(originDelay, func() { s.pour(&s.origin, f, func() bool { return false }) })
	}
	s.after(lease.For, func() { s.expire(f) })
	h.asking = false
	s.ask(h)
}

// abandon is a lease that nobody takes: its time runs out.
func (s *sim) abandon(*simHost, Lease) {}

// askAgain ends a wait.
func (s *sim) askAgain(h *simHost, version int) {
	if h.askTimer == version && h.waiting {
		h.asking, h.waiting = false, false
		s.ask(h)
	}
}

// next lets the piece of a lease that comes after one that left the origin follow it.
func (s *sim) next(f *flow) (left int) {
	left = f.lease[f.sent]
	if f.sent++; f.sent < len(f.lease) && !f.over {
		f.bytes = s.sizes[f.lease[f.sent]]
		s.pour(&s.origin, f, func() bool { return false })
	}
	return left
}

// landed keeps a piece of a lease, and ends that with its last.
func (s *sim) landed(f *flow, piece int) {
	h := f.to
	if f.over || h.dead {
		return
	}
	s.egress += s.sizes[piece]
	f.read += s.sizes[piece]
	s.keep(h, piece)
	if piece != f.lease[len(f.lease)-1] {
		s.wonder(h)
		return
	}
	f.over = true
	h.lastRate = max(1, int64(float64(f.read)/(s.now-f.began).Seconds()))
	s.endLease(f)
}

// endLease lets the host ask again.
func (s *sim) endLease(f *flow) {
	h := f.to
	h.holding = slices.DeleteFunc(h.holding, func(run []int) bool { return run[0] == f.lease[0] })
	h.picker.Unhold(f.lease)
	h.read += f.read
	if h.waiting {
		h.asking, h.waiting = false, false
	}
	s.wonder(h)
}

// fail ends a lease of which nothing came.
func (s *sim) fail(f *flow, why string) {
	if !f.over && !f.to.dead {
		f.over, f.to.failed = true, why
		s.endLease(f)
	}
}

// expire gives up a lease that took too long. What came of the piece on its way is lost.
func (s *sim) expire(f *flow) {
	h := f.to
	if f.over || h.dead {
		return
	}
	f.over = true
	part := min(f.bytes, int64(max(0, (s.now-f.began-originDelay).Seconds())*h.rate))
	if h.blocked {
		part = 0
	}
	s.egress += part
	s.expired += part
	f.read += part
	h.failed = "it gave too little"
	h.lastRate = max(1, int64(float64(f.read)/(s.now-f.began).Seconds()))
	s.endLease(f)
}

// die ends a host without a word. What only it had, or was reading, is lost.
func (s *sim) die(h *simHost) {
	if h.dead {
		return
	}
	if h.done == 0 {
		s.left--
	}
	h.dead = true
	for i := range s.sizes {
		if h.have.Has(i) {
			if s.copies[i]--; s.copies[i] == 0 {
				s.lost += s.sizes[i]
			}
		}
	}
	for _, run := range h.holding {
		for _, i := range run {
			if !h.have.Has(i) { // the others were not on their way yet
				s.egress += s.sizes[i]
				s.lost += s.sizes[i]
				break
			}
		}
	}
	for _, f := range h.up.flows {
		s.after(PeerIdle, func() { s.conclude(f, 0, func(p *Patience) { p.Strike(Strikes, s.now) }) })
	}
	s.after(buryAfter, func() { s.bury(h) })
}

// bury ends a dead host's membership. The graph is drawn anew for those whom that can concern: the agents do so for all, which changes nothing for the others.
func (s *sim) bury(h *simHost) {
	s.members[h.id].Name = ""
	s.living[h.site]--
	all := s.gates[h.name] || s.living[h.site] <= MeshMax
	for _, other := range s.hosts {
		switch {
		case other.dead || other.done > 0:
		case all || other.edges[h.name] != nil || h.edges[other.name] != nil:
			s.connect(other)
		default:
			other.picker.SetSwarm(other.name, s.swarm(other)-1)
		}
	}
}

// result sums up.
func (s *sim) result() simResult {
	out := s.out
	out.floor = s.floor
	var times []float64
	var sent, most int64
	for _, h := range s.hosts {
		sent, most = sent+h.sent, max(most, h.sent)
		took := float64(h.done) / float64(s.floor)
		switch {
		case h.dead:
		case h.done == 0:
			out.unfinished++
			if !h.slow {
				times = append(times, float64(s.now)/float64(s.floor))
			}
		case h.slow:
			out.slowest = max(out.slowest, took)
		default:
			times = append(times, took)
		}
	}
	slices.Sort(times)
	out.p50, out.p99, out.last = times[len(times)/2], times[(len(times)*99+99)/100-1], times[len(times)-1]
	out.egress, out.lost, out.far = float64(s.egress)/float64(s.total), float64(s.lost)/float64(s.total), float64(s.farSum)/float64(s.total)
	out.expired = float64(s.expired) / float64(s.total)
	out.mostSent = float64(most) * float64(len(s.hosts)) / float64(max(sent, 1))
	return out
}
