package rollout

import (
	"fmt"
	"slices"
)

// operator takes a person's request, made on a member of the group or on a
// voter. The same ID counts once. Who asked is what that host says of them.
func (g *group) operator(t *turn, from string, c Operator) string {
	if c.ID == "" || c.Actor == "" {
		return "a request names its id and who asks"
	}
	if _, member := g.member(from); !member && !slices.Contains(t.m.s.Voters, from) {
		return fmt.Sprintf("%s is neither a member of %s nor a voter of its set", from, g.label())
	}
	if slices.ContainsFunc(g.Actions, func(a OperatorAction) bool { return a.ID == c.ID }) {
		return ""
	}
	act := OperatorAction{ID: c.ID, Verb: c.Verb, Actor: c.Actor + "@" + from, Reason: c.Reason, Time: t.at}
	var refused string
	switch c.Verb {
	case VerbStop:
		refused = g.stop(t, act)
	case VerbPause:
		if g.Paused != nil {
			return fmt.Sprintf("%s is paused already, by %s", g.label(), g.Paused.Actor)
		}
		g.Paused = &act
	case VerbResume:
		if g.Paused == nil {
			return fmt.Sprintf("%s is not paused", g.label())
		}
		g.Paused = nil
	case VerbRetry:
		refused = g.retry(t)
	case VerbSkip:
		if g.Active == nil || g.Active.BakeBy == 0 {
			return fmt.Sprintf("%s is not baking", g.label())
		}
		g.Active.BakeBy = min(g.Active.BakeBy, max(1, t.now))
	default:
		return fmt.Sprintf("%q is not something to ask for", c.Verb)
	}
	if refused != "" {
		return refused
	}
	g.Actions = append(g.Actions, act)
	if len(g.Actions) > maxActions {
		g.Actions = slices.Delete(g.Actions, 0, len(g.Actions)-maxActions)
	}
	return ""
}

func (a OperatorAction) sentence(did string) string {
	if a.Reason == "" {
		return sentence("%s by %s", did, a.Actor)
	}
	return sentence("%s by %s: %s", did, a.Actor, a.Reason)
}

// stop ends what is under way. Hooks that run are not interrupted. The spec is
// quarantined, or it would start again at once.
func (g *group) stop(t *turn, act OperatorAction) string {
	d := g.Active
	if d == nil {
		return fmt.Sprintf("nothing is under way in %s", g.label())
	}
	why := act.sentence("stopped")
	if d.fast() {
		g.finish(t, d, StateStopped, "MANUAL_STOP", why)
		g.Mixed, g.Blocked = true, true
		return ""
	}
	g.quarantine(d, why)
	g.finish(t, d, StateStopped, "MANUAL_STOP", why)
	if d.Policy.rollsBackOn(RollbackOnRequest) {
		g.rollback(t, d)
	}
	return ""
}

// retry tries again what failed: a blocked way back first, else the desired spec.
func (g *group) retry(t *turn) string {
	if g.Orphaned {
		return fmt.Sprintf("%s left git, so nothing of it is tried: commit its folder again", g.label())
	}
	q := g.quarantined(g.Desired.Spec.SpecHash, g.Desired.Attempt)
	tried := slices.ContainsFunc(g.Hosts, func(h *host) bool { return h.Tries > 0 })
	if g.Active != nil {
		return fmt.Sprintf("deployment %s is under way in %s", g.Active.ID, g.label())
	}
	switch {
	case g.Blocked && q != nil && g.Running.SpecHash != "" && g.anyTouched():
		g.Blocked = false
		d := g.newDeployment(t, KindRollback, "codeDeployRollback", g.Running, g.Desired.Policy)
		d.RollbackOf, d.Signers = q.Deployment, g.RunSigners
		g.dropRefusals(g.Running.SpecHash)
		g.Active = d
		g.plan(t, d)
	case g.Blocked || q != nil:
		g.Blocked = false
		g.dropRefusals(g.Desired.Spec.SpecHash)
		g.Quarantine = slices.DeleteFunc(g.Quarantine, func(o Quarantined) bool { return o.SpecHash == g.Desired.Spec.SpecHash })
	case tried:
		g.dropRefusals(g.Running.SpecHash)
	default:
		return fmt.Sprintf("there is nothing to retry in %s", g.label())
	}
	g.forgetTries()
	return ""
}

// dropRefusals asks hosts that refused a spec to look again.
func (g *group) dropRefusals(specHash string) {
	for _, h := range g.Hosts {
		h.Ready = slices.DeleteFunc(h.Ready, func(r standing) bool { return r.SpecHash == specHash && r.Refused != "" })
	}
}
