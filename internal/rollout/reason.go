package rollout

import (
	"fmt"
	"strings"
	"time"
)

// explain writes what the deployment under way is doing, or why it is not, in
// one sentence with its numbers.
func (g *group) explain(t *turn) {
	d := g.Active
	if d == nil || !d.Opened {
		return
	}
	if lost := g.outage(t, d); lost > 0 {
		d.Status = StateHeld
		d.Reason = sentence("%s: %d hosts are unreachable or were rebooted together (%s): an outage; nothing is granted and nothing fails until they are back", d.numbers(), lost, list(g.gone(t, d)))
		return
	}
	flying := g.named(d, func(r *row) bool { return r.Status.inFlight() })
	carried := g.named(d, func(r *row) bool { return r.Status == rowPending && g.flying(r) })
	done := d.count(func(r *row) bool { return r.Status == rowSucceeded && !r.Out })
	at := fmt.Sprintf("%s: wave %d of %d, %d of %d hosts done", d.numbers(), d.Wave+1, len(d.Waves), done, d.N)
	switch {
	case d.BakeBy > t.now:
		d.Status = StateBaking
		d.Reason = sentence("%s, watched for another %s", at, d.bakeLeft(t.now).Round(time.Second))
	case d.BakeBy > 0:
		d.Status = StateBaking
		d.Reason = sentence("%s, its bake is over but not every host has said that it is healthy", at)
	case len(flying) > 0:
		d.Status = StateInProgress
		d.Reason = sentence("%s, %s in progress%s", at, list(flying), g.aside(t, d))
	case len(carried) > 0:
		d.Status = StateInProgress
		d.Reason = sentence("%s, waiting for %s to finish the revision before", at, list(carried))
	default:
		d.Status, d.Reason = g.hold(t, d, at)
	}
}

// aside adds what a failure has cost so far.
func (g *group) aside(t *turn, d *deployment) string {
	if d.count(func(r *row) bool { return r.Status == rowFailed }) == 0 {
		return ""
	}
	return "; " + d.culprits(2)
}

// hold says why nothing is in flight although hosts are left.
func (g *group) hold(t *turn, d *deployment, at string) (status, why string) {
	var silent, unready, busy, waiting, next []string
	reason := ""
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if r.Status != rowPending || r.Wave != d.Wave || h == nil {
			continue
		}
		ready, ok := h.readyFor(d.Spec.SpecHash)
		switch {
		case t.m.isDead(h.Name) || !h.Known:
			silent = append(silent, h.Name)
		case !ok:
			unready = append(unready, h.Name)
		case ready.Refused != "":
			unready = append(unready, h.Name)
			reason = ": " + ready.Reason
		case t.busy[h.Name]:
			busy = append(busy, h.Name)
		case h.NotUntil > t.now:
			waiting = append(waiting, h.Name)
		default:
			next = append(next, h.Name)
		}
	}
	if status, why = g.refusalsWait(t, d); status != "" && len(busy)+len(waiting)+len(next) > 0 {
		return status, why
	}
	down := g.named(d, func(r *row) bool { return g.isDown(t, r) && r.Status != rowFailed })
	back := g.back(d)
	for _, mem := range back {
		down = append(down, mem.Host)
	}
	n := d.N + len(back)
	failed := d.count(func(r *row) bool { return r.Status == rowFailed })
	switch {
	case g.Handover > 0:
		return StateInProgress, sentence("%s, leadership moves away before %s itself is next", at, t.m.s.Leader)
	case len(busy) > 0:
		return StateQueued, sentence("%s, %s busy with another group", at, list(busy))
	case len(next) > 0 && len(down) > 0 && (len(down)+failed >= d.Policy.Budget(n) || len(down) >= d.most(n)):
		too := ""
		if failed > 0 {
			too = ", and " + d.culprits(2)
		}
		return StateHeld, sentence("%s: %s%s not known to be healthy%s, so no other host may be taken down", d.numbers(), list(down), isOrAre(len(down)), too)
	case len(next) > 0 && t.full():
		return StateQueued, sentence("%s, the set has %d of at most %d hosts in flight", at, t.inFlight, t.m.s.SetInFlight)
	case len(unready) > 0:
		return StateQueued, sentence("%s, %s not Ready%s", at, list(unready), reason)
	case len(silent) > 0:
		return StateHeld, sentence("%s, %s silent", at, list(silent))
	case len(waiting) > 0:
		return StateInProgress, sentence("%s, %s will be asked again in a moment", at, list(waiting))
	}
	return StateInProgress, at
}

func isOrAre(n int) string {
	if n == 1 {
		return " is"
	}
	return " are"
}

func (g *group) named(d *deployment, is func(*row) bool) []string {
	var out []string
	for _, r := range d.Rows {
		if is(r) {
			out = append(out, r.Host)
		}
	}
	return out
}

func (g *group) gone(t *turn, d *deployment) []string {
	return g.named(d, func(r *row) bool {
		h := g.host(r.Host)
		return !r.Out && h != nil && (t.m.isDead(r.Host) || (h.Rebooted > 0 && t.now-h.Rebooted < d.Policy.outageGrace()))
	})
}

// state is the group's state for people, with its reason.
func (g *group) state(t *turn) (state, reason string) {
	q := g.quarantined(g.Desired.Spec.SpecHash, g.Desired.Attempt)
	main := g.main()
	last := ""
	if main != nil {
		last = main.Reason
	}
	switch {
	case g.Frozen != "":
		return StateFrozen, g.Frozen
	case g.TargetVersion == 0:
		return StateNone, "no target yet"
	case g.Orphaned:
		return StateOrphaned, "the group left git; its application keeps running"
	case g.Suspended:
		if g.SuspendReason != "" {
			return StateSuspended, g.SuspendReason
		}
		return StateSuspended, "suspend is set in group.yaml"
	case g.Paused != nil:
		return StatePaused, g.Paused.sentence("paused")
	case g.Active != nil && g.Active.Kind == KindRollback:
		return g.Active.Status, sentence("rolling back %s: %s", g.Active.RollbackOf, g.Active.Reason)
	case g.Active != nil:
		return g.Active.Status, g.Active.Reason
	case len(g.Members) == 0:
		return StateNoHosts, "the group's targets match no host, so there is nothing to deploy to"
	case g.Blocked:
		if main != nil && main.Kind == KindRollback && main.Status == StateBlocked {
			last = sentence("the rollback of %s failed too: %s", main.RollbackOf, last)
		}
		return StateBlocked, strings.TrimSuffix(last, ".") + "; a person is needed: mend it and run `gitopsd retry`, or commit another revision"
	case q != nil:
		if state, reason = g.heldBack(q); state == StateHeldBack {
			reason = joined(reason, g.behind(t))
		}
		return state, reason
	case g.Running.SpecHash == g.Desired.Spec.SpecHash:
		if newest := g.newest(); g.settled() && newest != nil && (newest != main || newest.Spec.SpecHash != g.Running.SpecHash) {
			last = sentence("commit %s asks for what runs already, so there is nothing to do", short(g.Desired.Spec.Commit))
		}
		return StateSucceeded, joined(last, g.behind(t))
	}
	return StateQueued, last
}

// joined puts two parts of a reason together, either of which may be empty.
func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return sentence("%s; %s", a, b)
}

// heldBack: the desired spec failed here. HeldBack says that the group runs its
// last good one, as automatic rollback wants it; Failed and Stopped that it was
// left as it was.
func (g *group) heldBack(q *Quarantined) (state, reason string) {
	d := g.deploymentOf(q.Deployment)
	stopped := d != nil && d.Status == StateStopped
	wanted := d == nil || d.Policy.rollsBackOn(RollbackOnFailure) || (stopped && d.Policy.rollsBackOn(RollbackOnRequest))
	switch {
	case !g.Mixed && g.Running.SpecHash != "" && wanted:
	case stopped:
		return StateStopped, q.Reason
	default:
		return StateFailed, q.Reason
	}
	reason = sentence("wants commit %s, runs %s: %s", short(g.Desired.Spec.Commit), short(g.Running.Commit), q.Reason)
	return StateHeldBack, joined(reason, g.takenBack(q.Deployment))
}

// takenBack says which rollback ended the failed deployment's stay, if one did.
func (g *group) takenBack(failed string) string {
	for i := len(g.History) - 1; i >= 0; i-- {
		if d := g.History[i]; d.Kind == KindRollback && d.RollbackOf == failed && d.Status == StateSucceeded {
			return "rolled back by " + d.ID
		}
	}
	return ""
}
