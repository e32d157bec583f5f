package rollout

import "slices"

// outdated says whether a host should be brought to what the group runs: it
// joined late, was left out, came back, or lost what it had.
func (g *group) outdated(h *host) bool {
	if _, member := g.member(h.Name); !member {
		return false
	}
	return h.Known && h.Grant == nil && !h.Settle && !g.runs(h, g.Running) && !(g.Mixed && h.Touched) &&
		(h.TriedOn != g.Running.SpecHash || h.Tries < catchUpTries)
}

// catchUp brings hosts that are behind to the last good spec, one at a time,
// while no deployment is under way, and within the group's budget. Hosts that are
// still in the middle of a deployment that ended use its window. A rollback that
// nothing more can be granted in waits for hosts that it leaves alone and that are
// down: these are brought to what it goes back to. It says whether only the
// leader's own host is left.
func (g *group) catchUp(t *turn) (leaderNext bool) {
	if g.CatchUp != nil {
		g.judgeCatchUp(t)
	}
	if g.CatchUp != nil || g.still() != "" || g.Blocked || g.Running.SpecHash == "" || !g.rests(g.Active) {
		return false
	}
	n, flying, down := g.between(t)
	probe := &deployment{Spec: g.Running, Policy: g.Desired.Policy}
	if flying >= min(max(1, probe.Policy.Budget(n)), probe.most(n)) {
		return false
	}
	for _, h := range g.Hosts {
		if !g.outdated(h) || (g.healthy(t, h) && len(down) >= probe.Policy.Budget(n)) || (g.Active != nil && !g.inTheWay(t, h)) {
			continue
		}
		creator := "autoscaling" // CodeDeploy's word for a host that joined
		if h.Running.SpecHash != "" {
			creator = "CodeDeployAutoUpdate"
		}
		switch g.may(t, probe, h) {
		case no:
			continue
		case leaderFirst:
			leaderNext = true
			continue
		}
		d := g.newDeployment(t, KindCatchUp, creator, g.Running, g.Desired.Policy)
		mem, _ := g.member(h.Name)
		d.Rows = []*row{{Host: h.Name, Zone: mem.Zone, Status: rowPending, Broken: !g.healthy(t, h)}}
		d.Waves, d.N, d.B, d.Opened, d.Planned = []wave{{Hosts: 1}}, 1, 1, true, true
		d.Status, d.Signers = StateInProgress, g.RunSigners
		d.Reason = sentence("%s is behind and is brought to what the group runs", h.Name)
		g.CatchUp = d
		g.give(t, d, d.Rows[0], h)
		return false
	}
	return leaderNext
}

// between counts the members that are not dead, for the budget while no deployment
// is under way, and those of them that are between a grant and a verdict, and names
// those that are down.
func (g *group) between(t *turn) (n, flying int, down []string) {
	for _, mem := range g.Members {
		if gone, dead := t.m.deadFor(mem.Host); dead && gone >= g.Desired.Policy.deadAfter() {
			continue
		}
		n++
		h := g.host(mem.Host)
		if h.Grant != nil || h.Settle {
			flying++
		}
		if !g.healthy(t, h) {
			down = append(down, mem.Host)
		}
	}
	return n, flying, down
}

// keptBehind says for which hosts healthy ones that are behind are not caught up:
// they use the budget, as one does that failed and is not tried again by itself;
// "" when nothing is kept so.
func (g *group) keptBehind(t *turn) string {
	n, _, down := g.between(t)
	p := g.Desired.Policy
	if g.Active != nil || g.CatchUp != nil || g.still() != "" || g.Blocked || len(down) == 0 || len(down) < p.Budget(n) {
		return ""
	}
	return sentence("N=%d m=%d B=%d: %s%s not known to be healthy, so no other host may be taken down", n, p.Minimum(n), p.Budget(n), list(down), isOrAre(len(down)))
}

// kept says whether a host is one of those: healthy, behind, and refusing nothing.
func (g *group) kept(t *turn, h *host) bool {
	r, _ := readyOf(h, g.Running.SpecHash)
	return h != nil && g.Running.SpecHash != "" && r.Refused == "" && g.outdated(h) && g.healthy(t, h)
}

// rests says whether no host of a deployment is on its way, and none of another
// may be meanwhile but by a rollback's leave.
func (g *group) rests(d *deployment) bool {
	return d == nil || d.Kind == KindRollback && d.Opened && !slices.ContainsFunc(d.Rows, g.flying)
}

// inTheWay says whether a host uses the budget of the rollback under way, which
// does nothing about it.
func (g *group) inTheWay(t *turn, h *host) bool {
	r := g.Active.row(h.Name)
	return r != nil && r.Status == rowBehind && !r.Out && g.isDown(t, r)
}

// hopeless says whether a host that a rollback leaves alone is down and stays so:
// it was tried as often as hosts are by themselves.
func (g *group) hopeless(t *turn, d *deployment, r *row) bool {
	h := g.host(r.Host)
	return d.Kind == KindRollback && r.Status == rowBehind && !r.Out && h != nil && h.Known && !h.Whole && h.Grant == nil &&
		h.TriedOn == d.Spec.SpecHash && h.Tries >= catchUpTries && !t.m.isDead(h.Name)
}

func (g *group) judgeCatchUp(t *turn) {
	d := g.CatchUp
	r := d.Rows[0]
	h := g.host(r.Host)
	if h == nil {
		r.Status, r.Reason = rowBehind, "left the group"
	} else if h.strays(r) {
		r.Status, r.Reason = rowBehind, strayed
	} else if r.Status.inFlight() && g.cutOff(t, d, h) {
		r.Status, r.Reason = rowBehind, leftInTheMiddle
	} else if gone, dead := t.m.deadFor(r.Host); dead && gone >= d.Policy.deadAfter() && r.Status.inFlight() {
		r.Status, r.Reason = rowLost, "unreachable in the middle"
	}
	switch r.Status {
	case rowPending: // the grant was spent and changed nothing: as if it had not been
		g.CatchUp = nil
		return
	case rowSucceeded:
		d.Status, d.Reason = StateSucceeded, sentence("%s runs what the group runs", r.Host)
		h.Tries, h.TriedOn = 0, ""
	case rowFailed, rowUnavailable, rowBehind, rowLost:
		d.Status, d.ErrorCode, d.Reason = StateFailed, "HEALTH_CONSTRAINTS", sentence("%s %s", r.Host, r.Reason)
		if h != nil {
			if h.TriedOn != d.Spec.SpecHash {
				h.TriedOn, h.Tries = d.Spec.SpecHash, 0
			}
			h.Tries++
			h.NotUntil = t.now + catchUpBackoff
			h.Touched = false
		}
	default:
		return
	}
	d.EndTime = t.at
	g.CatchUp = nil
	g.archive(d)
}

// prune forgets Ready for specs nobody asks for.
func (g *group) prune() {
	wanted := g.prepare()
	for _, h := range g.Hosts {
		if len(h.Ready) > 0 {
			h.Ready = slices.DeleteFunc(h.Ready, func(r standing) bool {
				return !slices.ContainsFunc(wanted, func(s Spec) bool { return s.SpecHash == r.SpecHash })
			})
		}
	}
}

// archive puts an ended deployment into the history and keeps that within its bounds.
func (g *group) archive(d *deployment) {
	g.History = append(g.History, d)
	if len(g.History) > maxHistory {
		g.History = slices.Delete(g.History, 0, len(g.History)-maxHistory)
	}
	rows, logs := 0, 0
	for i := len(g.History) - 1; i >= 0; i-- {
		d := g.History[i]
		if d.Thin {
			continue
		}
		rows += len(d.Rows)
		logs += d.logBytes()
		if i < len(g.History)-1 && (rows > maxHistoryRows || logs > maxHistoryLogs) {
			d.thin()
		}
	}
}

// thin keeps of an old deployment its verdict and the hosts that failed.
func (d *deployment) thin() {
	d.Thin = true
	d.Rows = slices.DeleteFunc(d.Rows, func(r *row) bool { return r.Status != rowFailed && !r.Status.inFlight() })
	for _, r := range d.Rows {
		r.Events = nil
	}
}
