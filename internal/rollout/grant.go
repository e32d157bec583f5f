package rollout

import (
	"slices"
)

// grant lets hosts of the deployment under way change, as many as the window
// allows: first those that are down already, then healthy ones. It says whether
// only the leader's own host is left, which is last.
func (g *group) grant(t *turn) (leaderNext bool) {
	d := g.Active
	if d == nil || !d.Opened || d.ended() || g.still() != "" || d.BakeBy > 0 || g.outage(t, d) > 0 || g.refusalsHold(d) {
		return false
	}
	failed := d.count(func(r *row) bool { return r.Status == rowFailed })
	back := len(g.back(d))
	flying := d.count(func(r *row) bool { return g.flying(r) }) + back
	down := g.down(t, d) + back
	budget := d.Policy.Budget(d.N + back)
	w := d.Waves[d.Wave]
	window := max(1, min(d.B, max(1, d.U))-failed)
	if d.Policy.OneAtATime {
		window = 1
	}
	most := d.most(d.N + back)
	others, brokenLeft := 0, false
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if r.Status != rowPending || r.Wave != d.Wave || g.healthy(t, h) {
			if r.Broken && r.Wave == d.Wave && r.Status.inFlight() {
				brokenLeft = true
			}
			continue
		}
		switch g.may(t, d, h) {
		case yes:
			brokenLeft = true
			others++
			if flying < min(window, most) && g.zoneBroken(w, d) {
				g.give(t, d, r, h)
				flying++
			}
		case leaderFirst:
			brokenLeft, leaderNext = true, true
		}
	}
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if brokenLeft || r.Status != rowPending || r.Wave != d.Wave || !g.healthy(t, h) {
			continue
		}
		if flying >= most || down >= budget || down-failed >= most || !g.zoneRoom(t, w, d) {
			break
		}
		switch g.may(t, d, h) {
		case yes:
			others++
			g.give(t, d, r, h)
			flying++
			down++
		case leaderFirst:
			leaderNext = true
		}
	}
	if flying == 0 && !leaderNext {
		leaderNext = g.pullForward(t, d)
	}
	return leaderNext && others == 0
}

// back lists the members that came back to the group in the middle of what an
// earlier deployment granted them, and that d does not count: they were none of
// its N when it was planned, or left it. Until they are known to be healthy, or
// have failed, each is one more host of N and one that is down.
func (g *group) back(d *deployment) []MemberInfo {
	var out []MemberInfo
	for _, mem := range g.Members {
		h := g.host(mem.Host)
		if h == nil || h.Grant == nil && !h.Settle {
			continue
		}
		if r := d.row(mem.Host); r == nil || r.Out {
			out = append(out, mem)
		}
	}
	return out
}

// most is how many of n hosts may be in flight, or down for another reason than
// that they failed, at once. Failures use the budget for good; if they filled this
// too, nothing could ever be granted again and there would be no verdict.
func (d *deployment) most(n int) int {
	most := n
	if d.Policy.OneAtATime {
		most = 1
	}
	if d.Policy.MaxUnavailable.Set {
		most = min(most, max(1, d.Policy.MaxUnavailable.Of(n)))
	}
	return most
}

// handOver notes since when nothing but the leader's own host is left to be
// changed; leadership should leave it before.
func (g *group) handOver(t *turn, leaderNext bool) {
	switch {
	case !leaderNext:
		g.Handover = 0
	case g.Handover == 0:
		g.Handover = max(1, t.now)
	}
}

// pullForward takes a host of a later wave that is down already, when nothing in
// the wave under way can move because that host uses the budget. It says whether
// leadership must move first.
func (g *group) pullForward(t *turn, d *deployment) (leaderNext bool) {
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if r.Status != rowPending || r.Wave <= d.Wave || g.healthy(t, h) {
			continue
		}
		switch g.may(t, d, h) {
		case yes:
			r.Wave = d.Wave
			g.give(t, d, r, h)
			return false
		case leaderFirst:
			leaderNext = true
		}
	}
	return leaderNext
}

// flying says whether a row's host is between a grant and a verdict, be it of an
// earlier deployment that was superseded.
func (g *group) flying(r *row) bool {
	h := g.host(r.Host)
	return r.Status.inFlight() || (h != nil && !r.Out && (h.Grant != nil || h.Settle))
}

// zoneRoom says whether one more healthy host of the wave's zone may go down.
func (g *group) zoneRoom(t *turn, w wave, d *deployment) bool {
	if !w.Zonal {
		return true
	}
	back, budget := g.zoneBudget(w, d)
	return back+d.count(func(r *row) bool { return r.Zone == w.Zone && g.isDown(t, r) }) < budget
}

// zoneBudget is how many hosts of the wave's zone may be down at once, with those
// that came back to it.
func (g *group) zoneBudget(w wave, d *deployment) (back, budget int) {
	for _, mem := range g.back(d) {
		if mem.Zone == w.Zone {
			back++
		}
	}
	size := back + d.count(func(r *row) bool { return r.Zone == w.Zone && !r.Out })
	return back, size - d.Policy.Zonal.PerZone.Of(size)
}

// zoneShut says whether the minimum of the wave's zone, with those that failed
// there, lets no healthy host go down any more, while one has its turn there.
func (g *group) zoneShut(d *deployment) bool {
	w := d.Waves[d.Wave]
	turn := d.count(func(r *row) bool { return r.Wave == d.Wave && r.Status == rowPending })
	left := d.count(func(r *row) bool { return r.Zone == w.Zone && !r.Out && r.Status != rowFailed })
	return w.Zonal && turn > 0 && w.ZoneM >= left
}

// zoneBroken bounds how many broken hosts of a zone are tried at once.
func (g *group) zoneBroken(w wave, d *deployment) bool {
	if !w.Zonal {
		return true
	}
	back, budget := g.zoneBudget(w, d)
	return back+d.count(func(r *row) bool { return r.Zone == w.Zone && g.flying(r) }) < max(1, budget)
}

type may int

const (
	no may = iota
	yes
	leaderFirst // it could, but leadership should leave its host before
)

// may says whether a host could be granted now, the budget aside.
func (g *group) may(t *turn, d *deployment, h *host) may {
	s := &t.m.s
	if t.full() || h == nil || !h.Known || h.Grant != nil || h.Settle || t.busy[h.Name] || h.NotUntil > t.now || t.m.isDead(h.Name) {
		return no
	}
	if r, ok := h.readyFor(d.Spec.SpecHash); !ok || r.Refused != "" {
		return no
	}
	if slices.Contains(s.Voters, h.Name) && t.voters >= max(1, (len(s.Voters)-1)/2) {
		return no
	}
	if h.Name == s.Leader && t.m.otherVoter() != "" && (g.Handover == 0 || t.now-g.Handover < d.Policy.handoverWait()) {
		return leaderFirst
	}
	return yes
}

// give makes the grant. Its sequence rises with every grant of the set, so that
// a host can tell old from new although commands share a raft index.
func (g *group) give(t *turn, d *deployment, r *row, h *host) {
	s := &t.m.s
	s.GrantSeq++
	g.Used = true
	h.Grant = &Grant{
		Token: Token{Epoch: s.Epoch, Index: s.Index, Seq: s.GrantSeq}, Group: g.ID, Deployment: d.ID, Host: h.Name,
		Kind: d.Kind, Creator: d.Creator, Attempt: 1, Spec: d.Spec,
	}
	r.Status, r.Token, r.Reason = rowGranted, h.Grant.Token, ""
	if d.Granted == 0 {
		d.Granted = max(1, t.now)
	}
	d.Leader, d.Term = s.Leader, s.Term
	t.busy[h.Name] = true
	t.inFlight++
	if slices.Contains(s.Voters, h.Name) {
		t.voters++
	}
}

// otherVoter returns a live voter beside the leader, best one whose own host is
// not waiting for a grant; "" when the leader stands alone.
func (m *Machine) otherVoter() string {
	found := ""
	for _, v := range m.s.Voters {
		if v == m.s.Leader || m.isDead(v) {
			continue
		}
		if !m.awaited(v) {
			return v
		}
		if found == "" {
			found = v
		}
	}
	return found
}

// awaited says whether a host has a turn to come, or is in the middle of one.
func (m *Machine) awaited(host string) bool {
	for _, g := range m.s.Groups {
		if h := g.host(host); h != nil && (h.Grant != nil || h.Settle) {
			return true
		}
		if r := g.Active.row(host); r != nil && !r.Status.over() {
			return true
		}
	}
	return false
}

// Needs tells the leader what the state needs of it.
func (m *Machine) Needs() Needs {
	var n Needs
	for _, g := range m.s.Groups {
		if g.Frozen != "" || g.TargetVersion == 0 {
			continue
		}
		if g.timed() || slices.ContainsFunc(g.Hosts, func(h *host) bool { return m.expected(g, h) }) {
			n.Tick = true
		}
		if g.Handover > 0 {
			n.Handover = m.otherVoter()
		}
	}
	return n
}

// timed says whether anything in the group waits for time to pass.
func (g *group) timed() bool {
	if (g.Active != nil && g.still() == "") || g.CatchUp != nil {
		return true
	}
	return slices.ContainsFunc(g.Hosts, func(h *host) bool {
		return h.Settle || (g.still() == "" && !g.Blocked && g.Running.SpecHash != "" && g.outdated(h))
	})
}
