package rollout

import (
	"time"
)

// healthy says whether a host is positively known to serve: the last thing
// installed on it was installed well, it is alive, nothing is in flight, and
// its checks, where the group has any, say so. Unknown is never healthy.
func (g *group) healthy(t *turn, h *host) bool {
	return h != nil && h.Known && h.Whole && h.Running.SpecHash != "" && h.Grant == nil && !h.Settle && !t.m.isDead(h.Name) &&
		(g.Desired.Policy.Checks == 0 || h.Check == HealthHealthy)
}

// onlyChecksRed says whether nothing but the checks speaks against a host.
func (g *group) onlyChecksRed(t *turn, h *host) bool {
	return h != nil && h.Known && h.Whole && h.Running.SpecHash != "" && h.Grant == nil && !h.Settle && !t.m.isDead(h.Name) &&
		g.Desired.Policy.Checks > 0 && h.Check == HealthUnhealthy
}

// down counts the hosts of a deployment that are not healthy now: in flight,
// failed, lost, unknown or broken before.
func (g *group) down(t *turn, d *deployment) int {
	return d.count(func(r *row) bool { return g.isDown(t, r) })
}

func (g *group) isDown(t *turn, r *row) bool {
	return !r.Out && (r.Status == rowFailed || !g.healthy(t, g.host(r.Host)))
}

// outage says whether more hosts than the budget went silent or were rebooted
// together. That is no verdict on a revision: hold, never fail, never roll back.
func (g *group) outage(t *turn, d *deployment) int {
	grace := d.Policy.outageGrace()
	lost := d.count(func(r *row) bool {
		h := g.host(r.Host)
		if r.Out || h == nil || r.Status == rowFailed || r.Status == rowSkipped || r.Status == rowBehind {
			return false
		}
		return t.m.isDead(h.Name) || (h.Rebooted > 0 && t.now-h.Rebooted < grace)
	})
	if lost > max(1, d.B) {
		return lost
	}
	return 0
}

// settle draws the conclusion on hosts that are done but were not yet known to
// be healthy.
func (g *group) settle(t *turn) {
	for _, h := range g.Hosts {
		if !h.Settle {
			continue
		}
		d := g.deploymentOf(h.SettleFor)
		r := d.row(h.Name)
		if r != nil && r.Status != rowVerifying {
			r = nil
		}
		switch {
		case g.Desired.Policy.Checks == 0 || h.Check == HealthHealthy:
			h.Settle, h.SettleBy, h.SettleFor = false, 0, ""
			if r != nil {
				r.Status = rowSucceeded
			}
		case d != nil && !d.ended() && d.Kind != KindCatchUp && g.outage(t, d) > 0:
		case h.Check == HealthUnhealthy:
			g.checksFailed(h, d, r, sentence("failed its checks: %s", h.Proof))
		case t.now >= h.SettleBy && !t.m.isDead(h.Name):
			g.checksFailed(h, d, r, sentence("was not healthy within %s", g.Desired.Policy.healthDeadline()))
		}
	}
}

// checksFailed ends the wait for a host's health. On the way back, and for a
// host whose checks were red before, it is unavailable, not failed.
func (g *group) checksFailed(h *host, d *deployment, r *row, reason string) {
	h.Settle, h.SettleBy, h.SettleFor = false, 0, ""
	if d != nil && d.Kind == KindCatchUp {
		h.Whole = false
	}
	if r == nil {
		return
	}
	r.Reason = reason
	if d.fast() || (r.Broken && r.ChecksOnly) {
		r.Status = rowUnavailable
		return
	}
	r.Status, h.Whole = rowFailed, false
}

// fast says whether a deployment takes the fast lane back.
func (d *deployment) fast() bool { return d.Kind == KindRevert || d.Kind == KindRollback }

// sweep brings the rows of a running deployment up to date with their hosts.
func (g *group) sweep(t *turn, d *deployment) {
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if _, member := g.member(r.Host); !member || h == nil {
			gone := h == nil || h.Grant == nil // else it ends first what it is in the middle of, unless it is cut off
			switch {
			case r.Status == rowPending || (r.Status.inFlight() && gone):
				r.leave("left the group")
			case r.Status.inFlight() && g.cutOff(t, d, h):
				r.leave(leftInTheMiddle)
			case (gone || !r.Status.inFlight()) && r.Status != rowFailed && !r.Out:
				r.Out, r.Left = true, true
			}
			continue
		}
		if r.Out {
			continue // it left and came back, or was dead at the start: none of the deployment's
		}
		silent, dead := t.m.deadFor(h.Name)
		switch {
		case r.Status == rowSucceeded && !r.Unmoved && !d.fast() && h.Check == HealthUnhealthy && g.Desired.Policy.Checks > 0 && h.Running.SpecHash == d.Spec.SpecHash:
			r.Status, r.Reason, h.Whole = rowFailed, sentence("failed its checks: %s", h.Proof), false
		case r.Status == rowUnavailable && g.healthy(t, h):
			r.Status, r.Reason = rowSucceeded, ""
		case h.strays(r):
			r.Status, r.Reason = rowBehind, strayed
		case r.Status == rowBehind && r.Token != (Token{}) && h.Grant == nil && !dead && (!h.Whole || h.Check == HealthUnhealthy):
			r.Status, r.Reason = rowFailed, "was restarted in the middle, and what it went back to is not healthy"
		case r.Status.inFlight() && dead && silent >= d.Policy.lostAfter():
			r.Status, r.Reason = rowLost, sentence("silent for %s in the middle", silent.Round(time.Second))
		case r.Status != rowPending:
		case g.runs(h, d.Spec):
			r.Status, r.Unmoved = rowSucceeded, !g.onTrial(h, d)
		case d.Kind == KindRollback && !h.Touched && h.Grant == nil && !h.Settle: // what it was in the middle of was no part of that
			r.Status, r.Reason = rowBehind, unchanged
		case dead && silent >= d.Policy.lostAfter() && h.Grant == nil:
			r.Status, r.Reason = rowBehind, sentence("silent for %s", silent.Round(time.Second))
		}
	}
	d.recount()
	g.sweepRefusals(t, d)
}

// leave takes the row of a host that left the group out of the count.
func (r *row) leave(reason string) {
	r.Status, r.Out, r.Left, r.Reason = rowBehind, true, true, reason
}

// leftInTheMiddle is why a host that left is not waited for any more.
const leftInTheMiddle = "left the group in the middle, and did not say how that ended"

// cutOff says whether a host that holds a grant left the group, or died, so long
// ago that its word is not waited for: one that left the inventory as well can say
// nothing, and nobody looks whether it lives.
func (g *group) cutOff(t *turn, d *deployment, h *host) bool {
	_, member := g.member(h.Name)
	return !member && h.lost(t, d.Policy.lostAfter())
}

// lost says whether nothing was heard for so long of a host that died, or left the
// group in the middle, that it counts as lost.
func (h *host) lost(t *turn, after time.Duration) bool {
	silent, dead := t.m.deadFor(h.Name)
	return h.Left > 0 && t.now-h.Left >= after || dead && silent >= after
}

// strayed is why a host's row ends that nothing more will be heard of.
const strayed = "lost what it was brought to while its checks were waited for"

// strays says whether a row waits for its host and the host for nothing: it said
// meanwhile that it runs something else, or left the group and came back.
func (h *host) strays(r *row) bool { return r.Status.inFlight() && h.Grant == nil && !h.Settle }

// runs says whether a host runs a spec wholly and holds nothing open.
func (g *group) runs(h *host, s Spec) bool {
	return h != nil && h.Known && h.Whole && h.Running.SpecHash == s.SpecHash && h.Grant == nil && !h.Settle
}
