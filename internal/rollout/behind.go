package rollout

import (
	"fmt"
	"strings"
)

// strayed says whether a host whose row says that it got d's spec does not run
// it any more: its data directory was wiped, or came from a backup.
func (g *group) strayed(d *deployment, r *row, h *host) bool {
	return d != nil && r != nil && h != nil && (r.Status == rowSucceeded || r.Status == rowUnavailable) &&
		h.Known && h.Grant == nil && !h.Settle && !g.runs(h, d.Spec)
}

// standing shows a member as it stands now: in the deployment that status speaks
// of, in a catch-up after it, or behind both.
func (m *Machine) standing(g *group, main *deployment, name, keptBehind string) HostView {
	h := g.host(name)
	whyBehind := func(d *deployment) string {
		if keptBehind != "" && g.kept(m.turn(), h) {
			return joined(g.whyBehind(d, h), keptBehind)
		}
		return g.whyBehind(d, h)
	}
	d, r := main, main.row(name)
	if cr := g.CatchUp.row(name); cr != nil {
		d, r = g.CatchUp, cr
	} else if r == nil || r.Status == rowBehind || g.strayed(d, r, h) {
		if last, lr := g.lastCatchUp(name, main); lr != nil {
			d, r = last, lr
		}
	}
	if g.strayed(d, r, h) {
		v := m.hostView(g, nil, nil, name)
		v.Status, v.Wave, v.Reason = "Behind", r.Wave+1, whyBehind(d)
		return v
	}
	v := m.hostView(g, d, r, name)
	if r != nil && r.Status == rowUnavailable && v.Health == HealthHealthy {
		v.Reason = "" // its checks were red when the deployment ended
	}
	if v.Status == "Behind" && h != nil {
		v.Reason = whyBehind(d)
	}
	return v
}

// whyBehind says why a host does not run a deployment's spec: what it refuses it
// for, what became of catching it up, or what it says it runs. d may be nil.
func (g *group) whyBehind(d *deployment, h *host) string {
	spec := g.Running
	if d != nil {
		spec = d.Spec
	}
	if ready, ok := h.readyFor(spec.SpecHash); ok && ready.Refused != "" {
		return sentence("refused: %s", ready.Reason)
	}
	if _, r := g.lastCatchUp(h.Name, g.main()); r != nil && r.Status != rowSucceeded {
		if h.TriedOn == spec.SpecHash && h.Tries >= catchUpTries {
			return sentence("%s; tried %d times, mend the host and run `gitopsd retry`", r.Reason, h.Tries)
		}
		return r.Reason
	}
	r := d.row(h.Name)
	switch {
	case r != nil && r.Status == rowBehind:
		return r.Reason
	case !h.Known:
		return ""
	case h.Running.SpecHash == "":
		return "it has nothing of this group installed"
	case h.Running.SpecHash == spec.SpecHash:
		return "what it has of this revision is not whole"
	}
	return sentence("it runs commit %s", short(h.Running.Commit))
}

// behind names, for the group's reason, the members that do not run what the
// group runs, each with its own reason, and for whom they wait; "" when there are
// none. Those that the last deployment failed on are in its reason already.
func (g *group) behind(t *turn) string {
	const most = 3
	main := g.main()
	var said []string
	n, kept := 0, false
	for _, mem := range g.Members {
		h := g.host(mem.Host)
		if r := main.row(mem.Host); h == nil || !h.Known || h.Grant != nil || h.Settle || g.runs(h, g.Running) || r != nil && r.Status == rowFailed {
			continue
		}
		kept = kept || g.kept(t, h)
		if n++; n > most {
			continue
		}
		name := mem.Host
		if why := g.whyBehind(main, h); why != "" {
			name = fmt.Sprintf("%s (%s)", name, why)
		}
		said = append(said, name)
	}
	switch {
	case n == 0:
		return ""
	case n > most:
		said = append(said, fmt.Sprintf("and %d more", n-most))
	}
	behind := "behind: " + strings.Join(said, ", ")
	if kept {
		return joined(behind, g.keptBehind(t))
	}
	return behind
}

// joining names the members that came after the deployment that brought what
// the group runs, came back without it or lost it, and have not got it yet:
// those that will be given it, and those on which that failed as often as it is
// tried, or that refuse it for longer than a deployment waits for that. A dead
// host holds nobody up, as in a deployment, unless it is still expected.
func (m *Machine) joining(g *group) (coming, failed []string) {
	if g.Running.SpecHash == "" {
		return nil, nil
	}
	main := g.main()
	for _, mem := range g.Members {
		h := g.host(mem.Host)
		if h == nil || g.runs(h, g.Running) {
			continue
		}
		tried := h.TriedOn == g.Running.SpecHash && h.Tries >= catchUpTries
		if r := main.row(mem.Host); h.Known && r != nil && r.Status == rowFailed && tried {
			continue // the deployment's verdict counts it
		}
		gone, dead := m.deadFor(mem.Host)
		open := !h.Known || h.Grant != nil || h.Settle
		switch {
		case !open && (tried || m.refusesForGood(g, h)):
			failed = append(failed, mem.Host)
		case m.expected(g, h):
			coming = append(coming, mem.Host)
		case dead && (!h.Known || gone >= g.Desired.Policy.deadAfter()):
		case open || g.outdated(h):
			coming = append(coming, mem.Host)
		}
	}
	return coming, failed
}

// expected says whether a dead host became a member a moment ago and has yet to
// be heard: it looks dead until the others know it and it them, and that takes
// longer than to agree on the commit that names it.
func (m *Machine) expected(g *group, h *host) bool {
	return g.Running.SpecHash != "" && !h.Known && m.isDead(h.Name) && m.s.Now-h.Joined < g.Desired.Policy.deadAfter()
}

// refusesForGood says whether a host refuses what the group runs and nobody
// need expect that to end by itself.
func (m *Machine) refusesForGood(g *group, h *host) bool {
	r, ok := h.readyFor(g.Running.SpecHash)
	return ok && (r.Refused == RefusedBySpec || r.Refused == RefusedByHost && m.s.Now-r.Since >= g.Desired.Policy.readyDeadline())
}
