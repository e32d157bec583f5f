package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// advance draws every conclusion the state allows and says whether there was
// anything under way.
func (g *group) advance(t *turn) bool {
	if g.TargetVersion == 0 {
		return false
	}
	had := g.Active != nil || g.CatchUp != nil
	g.holdLimit(t)
	g.settle(t)
	for range 8 { // each round either ends a deployment or begins one
		if !g.supersede(t) && !g.begin(t) && !g.judge(t) {
			break
		}
	}
	leaderNext := g.grant(t)
	g.handOver(t, g.catchUp(t) || leaderNext)
	g.explain(t)
	g.prune()
	return had || g.Active != nil || g.CatchUp != nil
}

// still says why nothing may be granted by a person's will, or "".
func (g *group) still() string {
	switch {
	case g.Orphaned:
		return StateOrphaned
	case g.Suspended:
		return StateSuspended
	case g.Paused != nil:
		return StatePaused
	}
	return ""
}

// supersede ends the deployment under way when git wants something else.
func (g *group) supersede(t *turn) bool {
	d := g.Active
	if d == nil || g.Desired.Spec.SpecHash == d.Spec.SpecHash {
		g.Waiting = false
		return false
	}
	if d.Kind == KindRollback || g.still() != "" || g.quarantined(g.Desired.Spec.SpecHash, g.Desired.Attempt) != nil {
		return false
	}
	back := g.ranWell(g.Desired.Spec.SpecHash)
	mode := g.Desired.Policy.supersede()
	if d.Granted > 0 && !back {
		quiet := t.now-g.Changed >= g.Desired.Policy.supersedeQuiet() || t.now-g.FirstNew >= supersedeMax
		if mode == SupersedeQueue || (g.Waiting && !quiet) {
			return false
		}
	}
	g.Waiting = false
	newest := fmt.Sprintf("commit %s wants another revision", short(g.Desired.Spec.Commit))
	if mode == SupersedeCancel && !back && g.anyTouched() && g.Running.SpecHash != "" {
		g.finish(t, d, StateStopped, "MANUAL_STOP", sentence("%s: cancelled and rolled back", newest))
		g.rollback(t, d)
		return true
	}
	g.finish(t, d, StateSuperseded, "", sentence("%s: the hosts that are left go straight to it", newest))
	return true
}

func (g *group) anyTouched() bool {
	return slices.ContainsFunc(g.Hosts, func(h *host) bool { return h.Touched || h.Grant != nil })
}

// begin starts a deployment when the group runs something else than it should.
func (g *group) begin(t *turn) bool {
	want := g.Desired
	if g.Active != nil || g.Blocked || g.still() != "" || want.Spec.SpecHash == "" || len(g.Members) == 0 ||
		g.quarantined(want.Spec.SpecHash, want.Attempt) != nil {
		return false
	}
	kind := KindForward
	switch {
	case want.Spec.SpecHash == g.Running.SpecHash && !g.Mixed:
		return false
	case g.ranWell(want.Spec.SpecHash):
		kind = KindRevert
	}
	d := g.newDeployment(t, kind, "user", want.Spec, want.Policy)
	d.Signers = want.Signers
	g.Active, g.Waiting, g.Handover = d, false, 0
	g.plan(t, d)
	if why := g.impossible(d); why != "" {
		g.fail(t, d, "HEALTH_CONSTRAINTS_INVALID", why)
	}
	return true
}

// gate keeps a deployment from its first grant until every reachable host has
// answered and the set has room for it.
func (g *group) gate(t *turn, d *deployment) bool {
	if g.still() != "" {
		return false
	}
	if !d.fast() {
		if host, why := g.specRefused(d); host != "" {
			g.fail(t, d, "INVALID_REVISION", sentence("%s refused the revision: %s", host, why))
			return true
		}
	}
	if status, why := g.waitsFor(t, d); status != "" {
		d.Status, d.Reason = status, why
		return false
	}
	limit := t.m.s.SetActive
	if limit == 0 {
		limit = defaultSetActive
	}
	if t.active >= limit && !d.fast() {
		d.Status, d.Reason = StateQueued, sentence("the set has %d of at most %d deployments under way", t.active, limit)
		return false
	}
	g.plan(t, d)
	d.Opened, d.OpenedAt, d.Status, d.Reason = true, max(1, t.now), StateInProgress, ""
	t.active++
	if why := g.impossible(d); why != "" {
		g.fail(t, d, "HEALTH_CONSTRAINTS_INVALID", why)
	}
	return true
}

func (g *group) specRefused(d *deployment) (host, why string) {
	for _, h := range g.Hosts {
		if r, ok := h.readyFor(d.Spec.SpecHash); ok && r.Refused == RefusedBySpec {
			return h.Name, r.Reason
		}
	}
	return "", ""
}

// waitsFor says what a deployment waits for before its first grant, if anything.
func (g *group) waitsFor(t *turn, d *deployment) (status, why string) {
	var fresh, dead, silent, bytes, refused []string
	lacks, others := "", 0 // why bytes cannot be had, and hosts with another reason
	ready := 0
	for _, mem := range g.Members {
		h := g.host(mem.Host)
		gone, isDead := t.m.deadFor(mem.Host)
		r, answered := h.readyFor(d.Spec.SpecHash)
		switch {
		case isDead && gone < d.Policy.deadAfter():
			fresh = append(fresh, mem.Host)
		case isDead:
			dead = append(dead, mem.Host)
		case g.runs(h, d.Spec) || (answered && r.Refused == ""):
			ready++
		case answered && r.Refused == RefusedByHost:
			refused = append(refused, mem.Host)
		case answered && r.Refused == RefusedByBytes:
			if len(bytes) == 0 {
				lacks = r.Reason
			}
			if alike(lacks, r.Reason) {
				bytes = append(bytes, mem.Host)
			} else {
				others++
			}
		default:
			silent = append(silent, mem.Host)
		}
	}
	left := d.Policy.readyDeadline() - (t.now - d.Created)
	if why = sentence("%s cannot get the bundle: %s", list(bytes), lacks); others > 0 {
		why = sentence("%s (%d more cannot for another reason; see the hosts)", why, others)
	}
	switch {
	case len(fresh) > 0:
		return StateCreated, sentence("%s went silent less than %s ago", list(fresh), d.Policy.deadAfter())
	case len(dead) == len(g.Members):
		return StateQueued, "every host is unreachable"
	case len(dead) > 0 && d.Policy.unreachable() == UnreachableWait:
		return StateQueued, sentence("waiting for %s to come back (unreachable: wait)", list(dead))
	case len(dead) > d.Policy.maxUnreachable(len(g.Members)) && d.Policy.unreachable() == UnreachableSkip:
		return StateQueued, sentence("%d of %d hosts are unreachable (%s), more than maxUnreachable allows (%d)", len(dead), len(g.Members), list(dead), d.Policy.maxUnreachable(len(g.Members)))
	case d.fast():
		return "", ""
	case len(silent)+len(bytes) > 0 && left > 0 && len(bytes) > 0:
		return StateQueued, why
	case len(silent) > 0 && left > 0:
		return StateCreated, sentence("waiting for %s to report Ready, %s at most", list(silent), left.Round(time.Second))
	case ready == 0 && len(bytes) > 0:
		return StateQueued, why
	case ready == 0 && len(silent) > 0:
		return StateQueued, sentence("no host is Ready; waiting for %s", list(silent))
	case len(refused) > 0:
		g.plan(t, d) // what their failures would mean
		return g.refusalsWait(t, d)
	}
	return "", ""
}

// judge draws the verdicts over the deployment under way.
func (g *group) judge(t *turn) bool {
	d := g.Active
	if d == nil {
		return false
	}
	if !d.Opened {
		return g.gate(t, d)
	}
	if g.outage(t, d) > 0 {
		return false
	}
	g.sweep(t, d)
	if d.N == 0 && !d.fast() {
		g.finish(t, d, StateStopped, "NO_INSTANCES", "every host of it left the group")
		return true
	}
	again := d.Kind == KindRollback || g.quarantined(g.Desired.Spec.SpecHash, g.Desired.Attempt) == nil // or what git wants by now
	if again && g.regrouped(d) && g.stuck(t, d) && d.count(func(r *row) bool { return r.Status == rowFailed }) == 0 {
		g.anew(t, d)
		return true
	}
	if code, why := g.broken(t, d); why != "" {
		g.fail(t, d, code, why)
		return true
	}
	return g.wave(t, d)
}

// regrouped says whether the group has other members than a deployment counts.
func (g *group) regrouped(d *deployment) bool {
	return slices.ContainsFunc(d.Rows, func(r *row) bool { return r.Out && r.Reason != unreached }) ||
		slices.ContainsFunc(g.Members, func(mem MemberInfo) bool { return d.row(mem.Host) == nil })
}

// anew begins a deployment again with the hosts that are there now: those that
// left took the budget with them, which says nothing of the revision.
func (g *group) anew(t *turn, d *deployment) {
	g.finish(t, d, StateSuperseded, "", sentence("%s: the group has other hosts by now, so it begins anew with these", d.numbers()))
	if d.Kind != KindRollback {
		return // begin does
	}
	if of := g.deploymentOf(d.RollbackOf); of != nil {
		d = of
	}
	g.rollback(t, d)
}

// stuck says whether nothing will ever be granted again: only healthy hosts are
// left, as those that are down already go first, and the budget is gone for good.
func (g *group) stuck(t *turn, d *deployment) bool {
	waits := d.count(func(r *row) bool { return r.Status == rowPending })
	down := d.count(func(r *row) bool {
		return r.Status.inFlight() || r.Status == rowPending && !g.healthy(t, g.host(r.Host))
	})
	gone := d.count(func(r *row) bool { return r.Status == rowFailed || g.hopeless(t, d, r) })
	return waits > 0 && down == 0 && (gone >= d.B || g.zoneShut(d))
}

// broken says by which rule a deployment has failed, or "".
func (g *group) broken(t *turn, d *deployment) (code, why string) {
	if host, reason := g.specRefused(d); host != "" && !d.fast() {
		return "INVALID_REVISION", sentence("%s refused the revision: %s", host, reason)
	}
	failed := d.count(func(r *row) bool { return r.Status == rowFailed })
	pending := d.count(func(r *row) bool { return r.Status == rowPending })
	inFlight := d.count(func(r *row) bool { return r.Status.inFlight() })
	lost := g.named(d, func(r *row) bool { return g.hopeless(t, d, r) })
	stuck := g.stuck(t, d)
	switch {
	case g.overdue(t, d) && pending+inFlight > 0:
		switch {
		case d.Granted == 0:
			return "TIMEOUT", sentence("no host could be taken down within %s: %s", d.Policy.limit(), d.Reason)
		case failed == 0:
			return "TIMEOUT", sentence("not done within %s: %s", d.Policy.limit(), d.Reason)
		}
		return "TIMEOUT", sentence("%s: not done within %s: %s", d.numbers(), d.Policy.limit(), d.culprits(4))
	case stuck && len(lost) > 0:
		why = list(lost) + " could not be brought to the revision that is gone back to"
		if failed > 0 {
			why = d.culprits(4) + "; " + why
		}
		return "HEALTH_CONSTRAINTS", sentence("%s: %s, so no other host may be taken down", d.numbers(), why)
	case stuck && failed == 0:
		return "HEALTH_CONSTRAINTS_INVALID", sentence("%s: the minimum leaves no healthy host that may be taken down", d.numbers())
	case d.fast():
		if stuck {
			return "HEALTH_CONSTRAINTS", sentence("%s: %s, so no other host may be taken down to go back", d.numbers(), d.culprits(4))
		}
	case pending > 0 && (d.budgetSpent(failed) || stuck):
		return "HEALTH_CONSTRAINTS", sentence("%s: %s, so no other host may be taken down", d.numbers(), d.culprits(4))
	case d.failuresExceeded(failed):
		return "HEALTH_CONSTRAINTS", sentence("N=%d maxFailures=%d: %s", d.N, d.Policy.MaxFailures.Of(d.N), d.culprits(4))
	case d.successLost(failed):
		return "HEALTH_CONSTRAINTS", sentence("N=%d minSuccess=%d: %s, so it cannot be reached", d.N, d.Policy.MinSuccess.Of(d.N), d.culprits(4))
	}
	return "", ""
}

// overdue says whether a deployment has reached its limit, which runs from the
// first grant, or from its opening until there is one: as in CodeDeploy a
// deployment ends also where nothing could begin, and whoever asked for it hears
// why. The limit begins anew while nothing was granted and bytes are all that the
// hosts lack: those are waited for, as before the opening, and never held against
// a revision.
func (g *group) overdue(t *turn, d *deployment) bool {
	if g.still() != "" {
		return false
	}
	if d.Granted > 0 {
		return t.now-d.Granted > d.Policy.limit()
	}
	if !slices.ContainsFunc(d.Rows, func(r *row) bool {
		ready, ok := readyOf(g.host(r.Host), d.Spec.SpecHash)
		return r.Status == rowPending && !(ok && ready.Refused == RefusedByBytes)
	}) {
		d.OpenedAt = max(1, t.now)
	}
	return t.now-max(d.OpenedAt, d.Created) > d.Policy.limit()
}

// holdLimit keeps the time in which a person lets nothing be granted out of the
// limit of the deployment under way.
func (g *group) holdLimit(t *turn) {
	d := g.Active
	switch {
	case g.still() != "":
		if g.PauseAt == 0 {
			g.PauseAt = max(1, t.now)
		}
		return
	case g.PauseAt > 0 && d != nil && d.Granted > 0:
		d.Granted += t.now - g.PauseAt
	case g.PauseAt > 0 && d != nil && d.OpenedAt > 0:
		d.OpenedAt += t.now - g.PauseAt
	}
	g.PauseAt = 0
}

// budgetSpent says whether after so many failures no healthy host may be taken down any more.
func (d *deployment) budgetSpent(failed int) bool { return failed >= max(1, d.B) }

// failuresExceeded says whether these are more failures than maxFailures allows.
func (d *deployment) failuresExceeded(failed int) bool {
	return d.Policy.MaxFailures.Set && failed > d.Policy.MaxFailures.Of(d.N)
}

// successLost says whether minSuccess cannot be reached after so many failures.
func (d *deployment) successLost(failed int) bool {
	return d.Policy.MinSuccess.set() && failed > d.N-d.Policy.MinSuccess.Of(d.N)
}

// culprits names the first hosts that failed and how.
func (d *deployment) culprits(most int) string {
	var said []string
	failed := 0
	for _, r := range d.Rows {
		if r.Status == rowFailed {
			failed++
			if len(said) < most {
				said = append(said, r.Host+" "+r.Reason)
			}
		}
	}
	if failed > len(said) {
		said = append(said, fmt.Sprintf("and %d more", failed-len(said)))
	}
	if failed == 0 {
		return "no host failed"
	}
	return strings.Join(said, "; ")
}

// wave passes the wave under way, begins its bake, or ends the deployment.
func (g *group) wave(t *turn, d *deployment) bool {
	if slices.ContainsFunc(d.Rows, func(r *row) bool { return r.Wave <= d.Wave && (r.Status == rowPending || r.Status.inFlight()) }) {
		return false
	}
	moved := func(r *row) bool { return r.Wave == d.Wave && !r.Unmoved && !r.Out && r.Status != rowSkipped }
	well := d.count(func(r *row) bool { return moved(r) && r.Status == rowSucceeded })
	all := d.count(moved)
	switch {
	case d.fast() || well > 0:
	case all > 0:
		return g.noneHealthy(t, d)
	case g.replaceLeft(d):
		return true
	}
	bake := d.Waves[d.Wave].Bake
	if bake > 0 && well > 0 && d.BakeBy == 0 {
		d.BakeBy = t.now + bake
	}
	if t.now < d.BakeBy || (d.BakeBy > 0 && !g.watched(t, d)) {
		return false
	}
	if d.Wave < len(d.Waves)-1 {
		d.Wave++
		d.BakeBy = 0
		return true
	}
	g.conclude(t, d)
	return true
}

// replaceLeft lets the next host take the place of those of a wave that left the
// group, when no other is in it: what comes after is to be tried on one before. A
// zone is passed without hosts.
func (g *group) replaceLeft(d *deployment) bool {
	if d.Waves[d.Wave].Zonal || d.count(func(r *row) bool { return r.Wave == d.Wave && r.Left }) == 0 {
		return false
	}
	for _, r := range d.Rows {
		if r.Status == rowPending {
			r.Wave, d.BakeBy = d.Wave, 0
			return true
		}
	}
	return false
}

// noneHealthy: a wave passes only with a healthy host. When its hosts failed so
// does the deployment; when they only went away another takes their place.
func (g *group) noneHealthy(t *turn, d *deployment) bool {
	if d.count(func(r *row) bool { return r.Wave == d.Wave && r.Status == rowFailed }) == 0 {
		for _, r := range d.Rows {
			if r.Status == rowPending {
				r.Wave = d.Wave
				return true
			}
		}
	}
	g.fail(t, d, "HEALTH_CONSTRAINTS", sentence("%s: wave %d of %d has no healthy host: %s", d.numbers(), d.Wave+1, len(d.Waves), d.culprits(4)))
	return true
}

// watched says whether, at the end of a bake, every host of the wave is known to
// be healthy. Unknown is waited for, within the health deadline; a dead host
// uses budget as it is.
func (g *group) watched(t *turn, d *deployment) bool {
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if r.Wave != d.Wave || r.Status != rowSucceeded || r.Unmoved || r.Out || h == nil || t.m.isDead(r.Host) || g.healthy(t, h) || h.Grant != nil {
			continue
		}
		if t.now < d.BakeBy+d.Policy.healthDeadline() {
			return false
		}
		r.Status, r.Reason, h.Whole = rowFailed, sentence("gave no verdict of its checks for %s after the bake", d.Policy.healthDeadline()), false
	}
	return true
}

// conclude gives the final verdict, when every host was attempted.
func (g *group) conclude(t *turn, d *deployment) {
	well := d.count(func(r *row) bool { return r.Status == rowSucceeded && !r.Out })
	failed := d.count(func(r *row) bool { return r.Status == rowFailed || r.Status == rowLost })
	need := max(1, min(d.M, d.N))
	if d.Policy.HalfAtATime && d.N == 1 {
		need = 1
	}
	if d.Policy.MinSuccess.set() {
		need = max(need, d.Policy.MinSuccess.Of(d.N))
	}
	ok := well >= need
	if d.fast() {
		well += d.count(func(r *row) bool { return r.Status == rowUnavailable && !r.Out })
		ok = failed == 0 || (d.Kind == KindRevert && well >= need)
	}
	if !ok {
		g.fail(t, d, "HEALTH_CONSTRAINTS", sentence("%s: %d of %d succeeded, %d must: %s", d.numbers(), well, d.N, need, d.culprits(4)))
		return
	}
	reason := sentence("%s: %d of %d succeeded", d.numbers(), well, d.N)
	if failed > 0 {
		reason = sentence("%s: %d of %d succeeded, %d must; %s", d.numbers(), well, d.N, need, d.culprits(4))
	}
	g.finish(t, d, StateSucceeded, "", reason)
	g.Mixed = false
	g.markGood(d.Spec, d.Signers)
	g.Quarantine = slices.DeleteFunc(g.Quarantine, func(q Quarantined) bool { return q.SpecHash == d.Spec.SpecHash })
	for _, h := range g.Hosts {
		h.Touched = h.Grant != nil && h.Grant.Stopped && h.Grant.Spec.SpecHash != d.Spec.SpecHash
		if r := d.row(h.Name); r != nil && r.Status == rowFailed && !r.Out {
			h.TriedOn, h.Tries = d.Spec.SpecHash, catchUpTries // as CodeDeploy: not retried by itself
		}
	}
}

// finish takes a deployment out of the way; hosts in flight go on to their end
// and are still heard.
func (g *group) finish(t *turn, d *deployment, status, code, reason string) {
	d.Status, d.ErrorCode, d.Reason, d.EndTime, d.BakeBy = status, code, reason, t.at, 0
	for _, r := range d.Rows {
		if r.Status == rowPending {
			r.Status = rowSkipped
			r.Reason = "the deployment ended before its turn"
		}
	}
	g.Handover = 0
	if g.Active == d {
		g.Active = nil
		if d.Opened {
			t.active--
		}
	}
	if status != StateSucceeded {
		g.Mixed = g.anyTouched()
	}
	g.archive(d)
}

// fail ends a deployment that went wrong. Forward it is quarantined and, where
// the group wants it, rolled back; on the way back a person is called.
func (g *group) fail(t *turn, d *deployment, code, reason string) {
	if d.fast() {
		g.finish(t, d, StateBlocked, code, reason)
		g.Mixed = true
		g.Blocked = d.Kind == KindRevert || g.Desired.Spec.SpecHash == d.Spec.SpecHash || g.quarantined(g.Desired.Spec.SpecHash, g.Desired.Attempt) != nil
		return
	}
	g.quarantine(d, reason)
	g.finish(t, d, StateFailed, code, reason)
	if d.Policy.rollsBackOn(RollbackOnFailure) {
		g.rollback(t, d)
	}
}

func (g *group) quarantine(d *deployment, reason string) {
	g.Quarantine = slices.DeleteFunc(g.Quarantine, func(q Quarantined) bool { return q.SpecHash == d.Spec.SpecHash })
	g.Quarantine = append(g.Quarantine, Quarantined{SpecHash: d.Spec.SpecHash, Attempt: d.Attempt, Commit: d.Spec.Commit, Deployment: d.ID, Reason: reason})
	if len(g.Quarantine) > maxQuarantine {
		g.Quarantine = slices.Delete(g.Quarantine, 0, len(g.Quarantine)-maxQuarantine)
	}
}

// rollback begins the deployment that takes the hosts d changed back to the
// last good spec, if there is one and any was changed.
func (g *group) rollback(t *turn, d *deployment) {
	if !g.anyTouched() || g.Running.SpecHash == "" {
		return
	}
	back := g.newDeployment(t, KindRollback, "codeDeployRollback", g.Running, d.Policy)
	back.Signers, back.RollbackOf = g.RunSigners, d.ID
	d.RolledBack = back.ID
	g.Active = back
	g.plan(t, back)
}

func short(commit string) string {
	if len(commit) > 12 {
		return commit[:12]
	}
	return commit
}

// list names at most five hosts.
func list(hosts []string) string {
	if len(hosts) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(hosts[:5], ", "), len(hosts)-5)
	}
	return strings.Join(hosts, ", ")
}
