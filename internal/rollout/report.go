package rollout

import (
	"fmt"
	"slices"
)

// from returns the reporting host's state; a host may only speak for itself,
// and only if the group knows it.
func (g *group) from(name string) (*host, string) {
	h := g.host(name)
	if h == nil {
		return nil, fmt.Sprintf("%s is not a member of %s", name, g.label())
	}
	return h, ""
}

func (g *group) hello(t *turn, from string, c Hello) string {
	h, refused := g.from(from)
	if h == nil {
		return refused
	}
	g.Used = g.Used || c.Running.SpecHash != ""
	if h.Known && h.Boot != c.Boot {
		g.rebooted(t, h)
	}
	h.Boot = c.Boot
	if h.Grant != nil || h.Settle && h.Running.SpecHash == c.Running.SpecHash {
		h.Known = true
		return "" // what it runs will be said by Done
	}
	if !h.Known || h.Running.SpecHash != c.Running.SpecHash {
		h.Running, h.Whole = c.Running, c.Whole && c.Running.SpecHash != ""
		h.Check, h.Proof, h.Settle = "", "", false
	} else if !c.Whole {
		h.Whole = false
	}
	h.Known = true
	return ""
}

// rebooted: a new boot makes what the host said of its health old, and begins
// its bake again.
func (g *group) rebooted(t *turn, h *host) {
	h.Rebooted = max(t.now, 1)
	h.Check, h.Proof = "", ""
	if h.Settle {
		h.SettleBy = t.now + g.Desired.Policy.healthDeadline()
	}
	d := g.Active
	if r := d.row(h.Name); r != nil && d.BakeBy > 0 && r.Wave == d.Wave && r.Status == rowSucceeded && !r.Unmoved && !r.Out {
		d.BakeBy = t.now + d.Waves[d.Wave].Bake
	}
}

func (g *group) ready(t *turn, from string, c Ready) string {
	h, refused := g.from(from)
	if h == nil {
		return refused
	}
	if !slices.ContainsFunc(g.prepare(), func(s Spec) bool { return s.SpecHash == c.SpecHash }) {
		return fmt.Sprintf("%s is not asked to be ready for %s", from, c.SpecHash)
	}
	switch c.Refused {
	case "", RefusedBySpec, RefusedByHost, RefusedByBytes:
	case RefusedNoMore:
		h.Ready = slices.DeleteFunc(h.Ready, func(r standing) bool { return r.SpecHash == c.SpecHash && r.Refused != "" })
		return ""
	default:
		return fmt.Sprintf("%q is no kind of refusal", c.Refused)
	}
	h.setReady(t, c)
	return ""
}

// setReady notes how a host stands with a spec. A refusal that is worded anew is
// as old as it was.
func (h *host) setReady(t *turn, c Ready) {
	s := standing{Ready: c}
	if c.Refused == RefusedByHost {
		s.Since = t.now
		if before, ok := h.readyFor(c.SpecHash); ok && before.Refused == RefusedByHost {
			s.Since = before.Since
		}
	}
	h.Ready = slices.DeleteFunc(h.Ready, func(r standing) bool { return r.SpecHash == c.SpecHash })
	h.Ready = append(h.Ready, s)
	slices.SortFunc(h.Ready, func(a, b standing) int { return naturalCompare(a.SpecHash, b.SpecHash) })
}

func (h *host) readyFor(specHash string) (standing, bool) {
	for _, r := range h.Ready {
		if r.SpecHash == specHash {
			return r, true
		}
	}
	return standing{}, false
}

// prepare lists the specs hosts should be Ready for, most urgent first.
func (g *group) prepare() []Spec {
	var out []Spec
	add := func(s Spec) {
		if s.SpecHash != "" && len(out) < maxPrepare && !slices.ContainsFunc(out, func(o Spec) bool { return o.SpecHash == s.SpecHash }) {
			out = append(out, s)
		}
	}
	if g.Active != nil {
		add(g.Active.Spec)
	}
	if g.CatchUp != nil {
		add(g.CatchUp.Spec)
	}
	// A later commit that asks for what runs is not prepared for: a host that is behind is given Running, of the commit before.
	if g.Desired.Spec.SpecHash != g.Running.SpecHash && g.quarantined(g.Desired.Spec.SpecHash, g.Desired.Attempt) == nil {
		add(g.Desired.Spec)
	}
	add(g.Running)
	return out
}

// open returns the host, its open grant's deployment and row, if token is it.
func (g *group) open(from string, token Token) (*host, *deployment, *row, string) {
	h, refused := g.from(from)
	if h == nil {
		return nil, nil, nil, refused
	}
	if h.Grant == nil || h.Grant.Token != token {
		return nil, nil, nil, fmt.Sprintf("%s holds no grant %d.%d.%d", from, token.Epoch, token.Index, token.Seq)
	}
	h.Last = token
	d := g.deploymentOf(h.Grant.Deployment)
	r := d.row(from)
	if r != nil && r.Token != token {
		r = nil
	}
	return h, d, r, ""
}

func (g *group) answer(t *turn, from string, c Answer) string {
	h, d, r, refused := g.open(from, c.Grant)
	if refused != "" {
		return refused
	}
	switch c.Verdict {
	case Accepted:
		h.Grant.Accepted = true
		if r != nil && r.Status == rowGranted {
			r.Status = rowInProgress
		}
		return ""
	case Busy, Refused:
	default:
		return fmt.Sprintf("%q is no answer to a grant", c.Verdict)
	}
	if h.Grant.Accepted {
		return fmt.Sprintf("%s has accepted this grant already", from)
	}
	h.Grant = nil
	g.spent(t, h, d, r)
	if r == nil || c.Verdict == Busy {
		return ""
	}
	switch c.Kind {
	case RefusedBySpec, RefusedByHost: // as if it had said so before the grant
		h.setReady(t, Ready{Group: g.ID, SpecHash: d.Spec.SpecHash, Commit: d.Spec.Commit, Refused: c.Kind, Reason: c.Reason})
	case RefusedByBytes:
		h.Ready = slices.DeleteFunc(h.Ready, func(o standing) bool { return o.SpecHash == d.Spec.SpecHash })
	}
	return ""
}

// spent gives the row of a grant that changed nothing back to the plan, later
// each time.
func (g *group) spent(t *turn, h *host, d *deployment, r *row) {
	if d == nil || r == nil {
		return
	}
	r.Spent++
	h.NotUntil = t.now + d.Policy.busyRetry()*(1<<min(r.Spent-1, 6))
	if d.ended() {
		r.Status = rowSkipped
		return
	}
	if r.Out { // it came back meanwhile, and its wave may have passed
		return
	}
	r.Status, r.Token, r.Events = rowPending, Token{}, nil
}

func (g *group) progress(from string, c Progress) string {
	h, d, r, refused := g.open(from, c.Grant)
	if refused != "" {
		return refused
	}
	h.Grant.Accepted = true
	if c.Stopped {
		h.Grant.Stopped, h.Touched = true, true
	}
	if r != nil {
		if r.Status == rowGranted {
			r.Status = rowInProgress
		}
		r.Stopped = r.Stopped || c.Stopped
		r.FromOrigin, r.FromPeers = max(r.FromOrigin, c.FromOrigin), max(r.FromPeers, c.FromPeers)
		d.record(r, c.Events)
	}
	return ""
}

// record merges events into a row, by name, within the deployment's bounds.
func (d *deployment) record(r *row, events []EventRecord) {
	for _, e := range events {
		if e.Diagnostics != nil && e.Diagnostics.LogTail != "" && d.logBytes() > maxDeploymentLogs {
			short := *e.Diagnostics
			short.LogTail = tail(short.LogTail, shortLogTail)
			e.Diagnostics = &short
		}
		i := slices.IndexFunc(r.Events, func(o EventRecord) bool { return o.Event == e.Event })
		switch {
		case i >= 0:
			r.Events[i] = e
		case len(r.Events) < maxEvents:
			r.Events = append(r.Events, e)
		}
	}
}

func (d *deployment) logBytes() int {
	n := 0
	for _, r := range d.Rows {
		for _, e := range r.Events {
			if e.Diagnostics != nil {
				n += len(e.Diagnostics.LogTail)
			}
		}
	}
	return n
}

func (g *group) done(t *turn, from string, c Done) string {
	h, d, r, refused := g.open(from, c.Grant)
	if refused != "" {
		return refused
	}
	switch c.Outcome {
	case OutcomeSucceeded, OutcomeFailed, OutcomeLapsed, OutcomeUndone:
	default:
		return fmt.Sprintf("%q is no outcome", c.Outcome)
	}
	grant := h.Grant
	h.Grant = nil
	stopped := c.Stopped || grant.Stopped
	if r != nil {
		r.Stopped = r.Stopped || stopped
		r.FromOrigin, r.FromPeers = max(r.FromOrigin, c.FromOrigin), max(r.FromPeers, c.FromPeers)
		d.record(r, c.Events)
	}
	switch c.Outcome {
	case OutcomeLapsed:
		if !stopped {
			g.spent(t, h, d, r)
			return ""
		}
		g.failedHere(h, grant, r, "stopped after ApplicationStop without an outcome")
	case OutcomeUndone:
		h.Check, h.Proof = "", ""
		h.Touched = !h.Whole || h.Running.SpecHash != g.Running.SpecHash
		if r != nil {
			r.Status, r.Reason = rowBehind, "its agent or host was restarted in the middle: it went back to what it ran"
		}
	case OutcomeFailed:
		if !stopped {
			g.failRow(r, doneReason(c))
			return ""
		}
		g.failedHere(h, grant, r, doneReason(c))
	case OutcomeSucceeded:
		g.succeededHere(t, h, grant, r)
	}
	return ""
}

func (g *group) failedHere(h *host, grant *Grant, r *row, reason string) {
	h.Running, h.Whole, h.Check, h.Proof, h.Touched = grant.Spec, false, "", "", true
	g.failRow(r, reason)
}

// failRow notes that a host failed. One that left the group before is none of the
// deployment's hosts, whatever becomes of it there: what runs there may be on its
// way out, and the group is not rolled back for it. r may be nil.
func (g *group) failRow(r *row, reason string) {
	if r == nil {
		return
	}
	r.Status, r.Out, r.Left, r.Reason = rowFailed, false, false, reason
	if _, member := g.member(r.Host); !member {
		r.leave(sentence("left the group, and then %s", reason))
	}
}

func (g *group) succeededHere(t *turn, h *host, grant *Grant, r *row) {
	h.Running, h.Whole, h.Check, h.Proof = grant.Spec, true, "", ""
	h.Touched = h.Running.SpecHash != g.Running.SpecHash
	if g.Desired.Policy.Checks > 0 {
		h.Settle, h.SettleBy = true, t.now+g.Desired.Policy.healthDeadline()
		h.SettleFor = grant.Deployment
		if r != nil {
			r.Status = rowVerifying
		}
		return
	}
	if r != nil {
		r.Status = rowSucceeded
	}
}

// doneReason says what failed: "failed AfterInstall (exit 3)".
func doneReason(c Done) string {
	switch {
	case c.Event != "" && c.ExitCode != 0:
		return sentence("failed %s (exit %d)", c.Event, c.ExitCode)
	case c.Event != "" && c.ErrorCode != "":
		return sentence("failed %s (%s)", c.Event, c.ErrorCode)
	case c.Event != "":
		return sentence("failed %s", c.Event)
	case c.Message != "":
		return sentence("failed: %s", c.Message)
	}
	return "failed"
}

func sentence(format string, args ...any) string {
	return head(fmt.Sprintf(format, args...), maxSentence)
}

func (g *group) health(t *turn, from string, c Health) string {
	h, refused := g.from(from)
	if h == nil {
		return refused
	}
	if h.Grant != nil || c.SpecHash == "" || c.SpecHash != h.Running.SpecHash {
		return fmt.Sprintf("the verdict is of %s, but %s runs %s", c.SpecHash, from, h.Running.SpecHash)
	}
	switch c.State {
	case HealthHealthy, HealthUnhealthy, HealthUnknown:
	default:
		return fmt.Sprintf("%q is no verdict", c.State)
	}
	h.Check, h.Proof = c.State, c.Evidence
	return ""
}
