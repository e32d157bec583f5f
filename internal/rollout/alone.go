package rollout

import (
	"fmt"
	"time"
)

// aloneAfter is how long no leader must have been heard before an unhealthy
// host goes back alone: every grant that it had not begun has lapsed by then.
const aloneAfter = grantLapse

// EvQuorum tells whether a coordinator set has a leader, as far as this host
// hears. Feed it for every set at its opening and whenever it changes.
type EvQuorum struct {
	Set  string
	Lead bool
}

// EvTip tells what this host's own verified tip asks it to run in a group, a
// zero Spec for nothing: the group is gone, suspended or broken, or histories
// fork. RanWell: a release of that spec is on this disk and a deployment of it
// to this host succeeded. Feed it whenever any of it changes.
type EvTip struct {
	Group   string
	Set     string
	Spec    Spec
	RanWell bool
}

func (EvQuorum) memberEvent() {}
func (EvTip) memberEvent()    {}

// quorum notes since when a set has no leader. With one, everything is decided
// together again, and a host that loses it another time may try alone again.
func (m *Member) quorum(ev EvQuorum) {
	if !ev.Lead {
		if _, known := m.lost[ev.Set]; !known {
			m.lost[ev.Set] = m.now
		}
		return
	}
	delete(m.lost, ev.Set)
	for _, g := range m.groups {
		if g.tip.Set != ev.Set {
			continue
		}
		g.Returned = ""
		if g.Alone != nil {
			g.Alone.vetoed = true // unless it has begun
		}
	}
}

// unhealthy tells whether what runs here does not work, as far as this host
// itself can tell.
func (g *memberGroup) unhealthy() bool {
	return g.check == HealthUnhealthy || (!g.Whole && g.check != HealthHealthy)
}

// aloneAt tells when this host may go back alone, unless a leader is heard
// before; false if there is nothing to go back from or to. Rule 6: without
// quorum only an unhealthy host, and only to a spec that it ran well and that
// its verified tip asks for, while nobody paused the group. That takes nothing
// down which is not down already, and a leader that comes back in the meantime
// counts this host as down until it says otherwise; see Machine.forgetHealth.
func (m *Member) aloneAt(g *memberGroup) (time.Duration, bool) {
	since, lost := m.lost[g.tip.Set]
	to := g.tip.Spec.SpecHash
	switch {
	case !lost || !g.tip.RanWell || to == "" || to == g.Running.SpecHash || to == g.Returned:
	case g.Running.SpecHash == "" || !g.unhealthy() || g.Paused || g.Alone != nil || m.busy() != "":
	default:
		return since + aloneAfter, true
	}
	return 0, false
}

// goAlone begins the deployment of rule 6. It has no token: the state is told
// by Hello what runs here once there is a leader again.
func (m *Member) goAlone(g *memberGroup) {
	at, ok := m.aloneAt(g)
	if !ok || m.now < at {
		return
	}
	g.AloneCount++
	g.Returned = g.tip.Spec.SpecHash
	grant := Grant{Group: g.ID, Host: m.host, Kind: KindRevert, Creator: "user", Attempt: 1, Spec: g.tip.Spec,
		Deployment: deploymentID(g.ID+"\x00"+m.host, g.tip.Spec.SpecHash, g.AloneCount)}
	g.Alone = &openGrant{Grant: grant, Boot: m.boot, acceptedAt: m.now, running: true}
	m.persist()
	m.do(ActStartApply{Grant: grant})
}

// resumeAlone decides over a return that a former process left open. It needs
// no voter's word: in the same boot it goes on, after another it is undone, and
// what had not begun is forgotten.
func (m *Member) resumeAlone(g *memberGroup) {
	o := g.Alone
	switch {
	case o == nil || o.running || !m.started:
	case g.journal != nil && g.journal.Deployment == o.Grant.Deployment:
		m.decide(g, o.Grant.Deployment, o.Stopped && o.Boot == m.boot)
		o.running = true
	default:
		if !o.Stopped {
			g.Returned = ""
		}
		g.Alone = nil
		m.persist()
	}
}

// endAlone takes the outcome of a return in. Whatever it was, this spec is not
// tried again before a leader was heard.
func (m *Member) endAlone(g *memberGroup, ev EvApplied) {
	o := g.Alone
	switch {
	case ev.Outcome == OutcomeSucceeded:
		g.Running, g.Whole = o.Grant.Spec, true
	case ev.Outcome == OutcomeFailed && o.Stopped:
		g.Running, g.Whole = o.Grant.Spec, false
	}
	g.Alone, g.journal, g.decided = nil, nil, false
	g.check, g.proof = "", ""
	m.persist()
}

// open gives what a deployment on this host is, granted or alone; nil if it is
// neither, or over.
func (g *memberGroup) open(deployment string) *openGrant {
	for _, o := range []*openGrant{g.Alone, g.Open} {
		if o != nil && o.Done == nil && o.Grant.Deployment == deployment {
			return o
		}
	}
	return nil
}

// Alone says, for people, what a group does or did on this host without quorum;
// "" for nothing.
func (m *Member) Alone(group string) string {
	g := m.groups[group]
	if g == nil {
		return ""
	}
	if _, lost := m.lost[g.tip.Set]; !lost || g.Returned == "" {
		return ""
	}
	text := fmt.Sprintf("set %s has no leader, and what ran here was unhealthy: ", g.tip.Set)
	switch {
	case g.Alone != nil:
		return text + sentence("this host goes back by itself to the revision of commit %.10s, which it ran well and which its verified tip asks for", g.Alone.Grant.Spec.Commit)
	case g.Running.SpecHash == g.Returned && g.Whole:
		return text + sentence("this host went back by itself to the revision of commit %.10s, which it ran well and which its verified tip asks for", g.Running.Commit)
	}
	return text + sentence("this host tried to go back by itself to the revision its verified tip asks for, and failed")
}
