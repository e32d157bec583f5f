package rollout

import (
	"slices"
	"time"
)

// A host that refuses a spec for its own state (a file in the way, a full disk,
// a release that rotted) looks again every half minute, and people mend hosts.
// So a refusal is the host's failure only once it has stood for the ready
// deadline and its turn has come. Nothing is granted meanwhile where these
// failures would end the deployment: then it ends before a host was touched.

// refuses returns a host's refusal of a spec for its own state.
func (h *host) refuses(specHash string) (standing, bool) {
	r, ok := h.readyFor(specHash)
	return r, ok && r.Refused == RefusedByHost
}

// refusalLeft is how long a refusal may still be mended before it counts; 0 when
// it counts already.
func refusalLeft(t *turn, d *deployment, r standing) time.Duration {
	return max(0, d.Policy.readyDeadline()-(t.now-max(r.Since, d.Created)))
}

// refusing lists the rows that wait for a refusal to be mended.
func (g *group) refusing(d *deployment) []*row {
	var rows []*row
	for _, r := range d.Rows {
		h := g.host(r.Host)
		if r.Status != rowPending || h == nil || h.Grant != nil || h.Settle {
			continue
		}
		if _, refuses := h.refuses(d.Spec.SpecHash); refuses {
			rows = append(rows, r)
		}
	}
	return rows
}

// tooMany says whether so many failures end a deployment while hosts are left.
func (d *deployment) tooMany(failed int) bool {
	return d.budgetSpent(failed) || d.failuresExceeded(failed) || d.successLost(failed)
}

// refusalsHold says whether nothing may be granted because the hosts that refuse
// would end the deployment by failing. On the way back nothing waits for them.
func (g *group) refusalsHold(d *deployment) bool {
	rows := g.refusing(d)
	return !d.fast() && len(rows) > 0 && d.tooMany(len(rows)+d.count(func(r *row) bool { return r.Status == rowFailed }))
}

// refusalsWait says for which refusals a deployment holds still, and how long;
// "" when none.
func (g *group) refusalsWait(t *turn, d *deployment) (status, why string) {
	if !g.refusalsHold(d) {
		return "", ""
	}
	var hosts []string
	left, reason := time.Duration(0), ""
	for _, r := range g.refusing(d) {
		refusal, _ := g.host(r.Host).refuses(d.Spec.SpecHash)
		hosts = append(hosts, r.Host)
		if l := refusalLeft(t, d, refusal); l > left {
			left, reason = l, refusal.Reason
		}
	}
	if left == 0 {
		return "", ""
	}
	return StateHeld, sentence("%s: %s refused: %s; nothing is granted until it is mended, and in %s it counts as failed", d.numbers(), list(hosts), reason, left.Round(time.Second))
}

// sweepRefusals makes failures of refusals that have stood for long enough: when
// they hold the deployment, or the host is the last of its wave.
func (g *group) sweepRefusals(t *turn, d *deployment) {
	rows := g.refusing(d)
	hold := g.refusalsHold(d)
	last := !slices.ContainsFunc(d.Rows, func(r *row) bool {
		return g.flying(r) || (r.Wave <= d.Wave && r.Status == rowPending && !slices.Contains(rows, r))
	})
	for _, r := range rows {
		refusal, _ := g.host(r.Host).refuses(d.Spec.SpecHash)
		if (hold || (last && r.Wave <= d.Wave)) && refusalLeft(t, d, refusal) == 0 {
			r.Status, r.Reason = rowFailed, sentence("refused: %s", refusal.Reason)
		}
	}
}
