package rollout

import (
	"slices"
	"time"
)

// stopping is the point of no return. A grant lapses after a minute before it,
// and at a reboot; after it the host goes on, whatever happens around it.
func (m *Member) stopping(ev EvStopping) {
	g := m.group(ev.Group)
	o := g.open(ev.Deployment)
	switch {
	case o == nil:
		m.do(ActAbort(ev))
	case o.Stopped:
		m.do(ActProceed(ev))
	case o == g.Alone && (o.vetoed || !g.unhealthy()): // there is a leader again, or no reason any more
		m.do(ActAbort(ev))
	case o.Boot != m.boot || m.now-o.acceptedAt >= grantLapse:
		m.do(ActAbort(ev))
	default:
		o.Stopped = true
		m.persist()
		m.do(ActProceed(ev))
	}
}

func (m *Member) update(ev EvUpdate) {
	g := m.group(ev.Group)
	if g.Open == nil || g.Open.Grant.Deployment != ev.Deployment {
		return
	}
	i := slices.IndexFunc(g.events, func(e EventRecord) bool { return e.Event == ev.Event.Event })
	switch {
	case i >= 0:
		g.events[i] = ev.Event
	case len(g.events) < maxEvents:
		g.events = append(g.events, ev.Event)
	}
	g.progDue = true
}

func (m *Member) applied(ev EvApplied) {
	g := m.group(ev.Group)
	o := g.open(ev.Deployment)
	if o != nil && o == g.Alone {
		m.endAlone(g, ev)
		return
	}
	if o == nil {
		if g.journal != nil && g.journal.Deployment == ev.Deployment {
			g.journal = nil
		}
		return
	}
	events := ev.Events
	if len(events) == 0 {
		events = g.events
	}
	g.check, g.proof = "", "" // of what ran before; who applied says the verdict anew. One that came since the start stays where the result was lost
	m.end(g, o, Done{
		Group: g.ID, Grant: o.Grant.Token, Outcome: ev.Outcome, Stopped: o.Stopped, Event: ev.Event, ExitCode: ev.ExitCode,
		ErrorCode: ev.ErrorCode, Message: head(ev.Message, maxSentence), Events: clipEvents(events),
	})
}

// Deadline returns when EvTimer is due.
func (m *Member) Deadline() (time.Duration, bool) {
	at, armed := time.Duration(0), false
	arm := func(when time.Duration) {
		if !armed || when < at {
			at, armed = when, true
		}
	}
	for _, g := range m.groups {
		if g.journal != nil && !g.decided && g.Alone == nil && (g.Open == nil || !g.Open.running && g.Open.Done == nil) {
			arm(m.startAt + silenceLimit)
		}
		if when, ok := m.aloneAt(g); ok {
			arm(when)
		}
		if g.assign == nil {
			continue
		}
		for _, s := range g.sent {
			arm(s.at + s.every)
		}
		for _, p := range g.prep {
			if p.again > 0 {
				arm(p.again)
			}
		}
		if g.progDue && g.Open != nil && g.Open.Done == nil && g.assign.Grant != nil && g.assign.Grant.Token == g.Open.Grant.Token {
			arm(g.progAt + progressGap)
		}
		if g.assign.Grant != nil && g.HighWater.Less(g.assign.Grant.Token) {
			arm(g.firstAt + grantLapse)
		}
	}
	return at, armed
}
