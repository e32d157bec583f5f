package rollout

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Bounds of a member's patience, in the host's monotonic time.
const (
	grantLapse   = time.Minute     // from seeing a grant to ApplicationStop
	silenceLimit = time.Minute     // from the start until an open journal is undone unheard
	resendFirst  = 2 * time.Second // a command the state does not show is made again
	resendMost   = 30 * time.Second
	verifyAgain  = 2 * time.Second
	bytesAgain   = 5 * time.Second
	bytesMost    = 30 * time.Second
	hostAgain    = 30 * time.Second
	progressGap  = time.Second // between two batches of events
)

// Member is one host of any number of groups. It is a pure machine: the agent
// feeds events with its monotonic time and does the actions in order.
//
//	m, err := NewMember(host, persisted)       // nil for a new host
//	acts := m.Step(EvStarted{...}, now)        // then one EvInstalled a group
//	acts = m.Step(event, now)                  // and EvTimer at m.Deadline()
//
// What it was told survives in ActPersist; what it reports it reports until the
// replicated state shows it, so nothing is lost with a message. It is not safe
// for concurrent use.
type Member struct {
	host    string
	boot    string
	started bool
	startAt time.Duration
	now     time.Duration
	groups  map[string]*memberGroup
	lost    map[string]time.Duration // sets without a leader, since when
	acts    []MemberAction
}

// memberState is what a member keeps on disk.
type memberState struct {
	Version int            `json:"version"`
	Host    string         `json:"host"`
	Groups  []*memberGroup `json:"groups,omitempty"`
}

// memberGroup is a member's part in one group.
type memberGroup struct {
	ID        string     `json:"id"`
	HighWater Token      `json:"highWater"`     // no grant of Set at or below it is acted on again
	Set       string     `json:"set,omitempty"` // the coordinator set that grants here; tokens of two sets do not compare
	Open      *openGrant `json:"open,omitempty"`
	Running   Spec       `json:"running,omitzero"`
	Whole     bool       `json:"whole,omitempty"`
	Marked    string     `json:"marked,omitempty"` // spec hash last marked good

	// Without quorum; see alone.go.
	Alone      *openGrant `json:"alone,omitempty"`
	AloneCount uint64     `json:"aloneCount,omitempty"`
	Returned   string     `json:"returned,omitempty"` // spec hash last gone back to, or tried
	Paused     bool       `json:"paused,omitempty"`   // as last replicated
	tip        EvTip

	moved   bool // from another set; what this one heard before is no loss
	assign  *Assignment
	journal *OpenJournal
	decided bool // over the journal
	firstAt time.Duration
	first   Token // the new grant first seen at firstAt
	prep    map[string]*prep
	check   HealthState
	proof   string
	events  []EventRecord
	bytes   map[string][2]int64
	spent   map[uint64]Answer // grants answered busy or refused, by sequence
	sent    map[string]*sent
	wanted  map[string]bool // keys of sent that this round still wants shown
	progAt  time.Duration   // of the last progress
	progDue bool
}

// openGrant is a grant this host accepted and whose end the state has not shown.
type openGrant struct {
	Grant   Grant  `json:"grant"`
	Boot    string `json:"boot"`
	Stopped bool   `json:"stopped,omitempty"`
	Done    *Done  `json:"done,omitempty"`

	acceptedAt time.Duration
	running    bool // apply was started or resumed by this process
	vetoed     bool // it was to be done alone, and a leader was heard before it began
}

type sent struct {
	what  string
	at    time.Duration
	every time.Duration
}

// NewMember returns the member machine of a host from what ActPersist last
// stored; nil for a host that has stored nothing yet.
func NewMember(name string, persisted []byte) (*Member, error) {
	m := &Member{host: name, groups: make(map[string]*memberGroup), lost: make(map[string]time.Duration)}
	if len(persisted) == 0 {
		return m, nil
	}
	if persisted[0] != FormatVersion && json.Valid(persisted[1:]) {
		return nil, &StateError{message: fmt.Sprintf("a gitopsd that writes version %d of it was here, and the one that starts %s understands %d: start the newer one", persisted[0], name, FormatVersion)}
	}
	if persisted[0] != FormatVersion {
		return nil, fmt.Errorf("what host %s has accepted cannot be read: it begins with %q", name, persisted[0])
	}
	var s memberState
	if err := strictJSON(persisted[1:], &s); err != nil {
		return nil, fmt.Errorf("what host %s has accepted cannot be read: %w", name, err)
	}
	if s.Host != name {
		return nil, &StateError{OtherHost: s.Host, message: fmt.Sprintf("it belongs to host %q, and this one is %s: correct `host:` or `dataDir:` in gitopsd.yaml; two hosts never share a data directory, nor a copy of one", s.Host, name)}
	}
	if s.Version != FormatVersion {
		return nil, fmt.Errorf("what host %s has accepted cannot be read: its parts have versions %d and %d", name, FormatVersion, s.Version)
	}
	for _, g := range s.Groups {
		if g == nil || g.ID == "" || m.groups[g.ID] != nil {
			return nil, fmt.Errorf("what host %s has accepted cannot be read: a group in it has no id of its own", name)
		}
		m.groups[g.ID] = g
		g.make()
	}
	return m, nil
}

// StateError says why a persisted state that is whole is not for this host or
// this program, and what to do.
type StateError struct {
	OtherHost string // whose it is, if another host's
	message   string
}

func (e *StateError) Error() string { return e.message }

func (g *memberGroup) make() {
	g.prep = make(map[string]*prep)
	g.bytes = make(map[string][2]int64)
	g.spent = make(map[uint64]Answer)
	g.sent = make(map[string]*sent)
	g.wanted = make(map[string]bool)
}

// encode is what ActPersist carries: groups sorted, so equal states, equal bytes.
func (m *Member) encode() []byte {
	s := memberState{Version: FormatVersion, Host: m.host}
	for _, id := range slices.Sorted(maps.Keys(m.groups)) {
		s.Groups = append(s.Groups, m.groups[id])
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("internal error: a member's state cannot be encoded: %v", err))
	}
	return append([]byte{FormatVersion}, b...)
}

func (m *Member) do(a MemberAction) { m.acts = append(m.acts, a) }

func (m *Member) persist() { m.do(ActPersist{State: m.encode()}) }

func (m *Member) group(id string) *memberGroup {
	g := m.groups[id]
	if g == nil {
		g = &memberGroup{ID: id}
		g.make()
		m.groups[id] = g
	}
	return g
}

// Step takes one event. now is the host's monotonic time since the agent
// started. The actions are to be done in order.
func (m *Member) Step(ev MemberEvent, now time.Duration) []MemberAction {
	m.acts = nil
	m.now = max(m.now, now)
	m.take(ev)
	if m.started {
		for _, id := range slices.Sorted(maps.Keys(m.groups)) {
			g := m.groups[id]
			clear(g.wanted)
			m.reconcile(g)
			maps.DeleteFunc(g.sent, func(key string, _ *sent) bool { return !g.wanted[key] })
		}
	}
	acts := m.acts
	m.acts = nil
	return acts
}

// lookAgain makes what was refused for bytes or for this host's state due now.
// Why bytes could not be had is not known any more.
func (m *Member) lookAgain() {
	for _, g := range m.groups {
		for _, p := range g.prep {
			if p.again > 0 {
				p.again, p.tries = max(1, m.now), 0
			}
			if p.refused != RefusedByBytes {
				continue
			}
			if p.stage == stageRefused {
				p.stage, p.asked, p.again = p.from, false, 0
			}
			p.clear()
			p.doubted = true
		}
	}
}

func (m *Member) take(ev MemberEvent) {
	switch ev := ev.(type) {
	case EvStarted:
		m.boot, m.started, m.startAt = ev.Boot, true, m.now
		for _, j := range ev.Journals {
			m.group(j.Group).journal = &j
		}
	case EvInstalled:
		g := m.group(ev.Group)
		if g.Running.SpecHash == ev.Running.SpecHash {
			ev.Whole = ev.Whole && g.Whole // a hook that failed is remembered here, not on the disk
		}
		g.Running, g.Whole = ev.Running, ev.Whole
	case EvSynced:
		m.synced(ev)
	case EvVerified:
		m.verified(ev)
	case EvBundle:
		m.prepared(ev.Group, ev.SpecHash, stageFetch, ev.Refused, ev.Reason, "")
	case EvPreflight:
		m.prepared(ev.Group, ev.SpecHash, stagePreflight, ev.Refused, ev.Reason, ev.LastGood)
	case EvStopping:
		m.stopping(ev)
	case EvUpdate:
		m.update(ev)
	case EvBytes:
		m.arrived(ev)
	case EvNoBytes:
		m.noBytes(ev)
	case EvLookAgain:
		m.lookAgain()
	case EvApplied:
		m.applied(ev)
	case EvHealth:
		g := m.group(ev.Group)
		g.check, g.proof = ev.State, ev.Evidence
	case EvQuorum:
		m.quorum(ev)
	case EvTip:
		m.group(ev.Group).tip = ev
	case EvTimer:
	}
}

// synced takes the newest state in; groups of the set that it no longer names
// are forgotten unless something is open.
func (m *Member) synced(ev EvSynced) {
	named := make(map[string]bool)
	for _, a := range ev.Assignments {
		g := m.group(a.Group)
		if g.Set != ev.Set {
			g.moveTo(ev.Set)
		}
		g.assign = &a
		named[a.Group] = true
		if g.Paused != a.Paused {
			g.Paused = a.Paused
			m.persist()
		}
	}
	for id, g := range m.groups {
		if g.Set == ev.Set && !named[id] {
			g.assign = nil
			clear(g.prep)
			clear(g.sent)
		}
	}
}

// moveTo begins anew with another coordinator set. The agent feeds only the set
// that the host's own git names, so grants of the old one are not heard again.
func (g *memberGroup) moveTo(set string) {
	if g.Set != "" {
		g.HighWater, g.moved = Token{}, true
		clear(g.spent)
		clear(g.sent)
	}
	g.Set = set
}

// reconcile compares what the state wants and knows with this host's truth.
func (m *Member) reconcile(g *memberGroup) {
	m.resumeAlone(g)
	m.resume(g)
	m.goAlone(g)
	a := g.assign
	if a == nil {
		return
	}
	m.closeOpen(g, a)
	m.noteLoss(g, a)
	if a.Member {
		m.sayHello(g, a)
		m.prepare(g, a)
	}
	m.takeGrant(g, a)
	m.reportGrant(g, a)
	m.reportHealth(g, a)
	if g.Open == nil && g.Whole && a.LastGood.SpecHash != "" && a.LastGood.SpecHash == g.Running.SpecHash && g.Marked != a.LastGood.SpecHash {
		g.Marked = a.LastGood.SpecHash
		m.do(ActMarkGood{Group: g.ID, Spec: a.LastGood})
		m.persist()
	}
}

// resume decides over what a former process left open. Rule 3: live and same
// boot, go on at the next step; else, or unheard for a minute, undo.
func (m *Member) resume(g *memberGroup) {
	o := g.Open
	switch {
	case g.decided || (o != nil && (o.running || o.Done != nil)):
		return
	case g.journal == nil && o == nil, g.Alone != nil:
		return
	case g.journal != nil && o == nil:
		// A journal without a grant of ours: it was not begun by a rollout we know.
		m.decide(g, g.journal.Deployment, false)
	case g.journal == nil:
		if g.assign != nil { // by then EvInstalled has told what is on disk
			m.lostResult(g, o)
		}
	case g.journal.Deployment != o.Grant.Deployment:
		m.decide(g, g.journal.Deployment, false)
	case g.assign != nil:
		live := g.assign.Grant != nil && g.assign.Grant.Token == o.Grant.Token
		m.decide(g, o.Grant.Deployment, live && o.Boot == m.boot && o.Stopped)
	case m.now-m.startAt >= silenceLimit:
		m.decide(g, o.Grant.Deployment, false)
	}
}

func (m *Member) decide(g *memberGroup, deployment string, goOn bool) {
	g.decided = true
	if g.Open != nil && g.Open.Grant.Deployment == deployment {
		g.Open.running = true
	}
	m.do(ActResumeApply{Group: g.ID, Deployment: deployment, Continue: goOn})
}

// lostResult: a grant is open but apply has no journal of it. Either nothing was
// begun, or it ended and the process died before it said so; the release on
// disk tells.
func (m *Member) lostResult(g *memberGroup, o *openGrant) {
	done := Done{Group: g.ID, Grant: o.Grant.Token, Outcome: OutcomeLapsed, Stopped: o.Stopped}
	if o.Stopped {
		done.Outcome, done.Message = OutcomeFailed, "the agent died as the deployment ended; its outcome is not known"
		if g.Whole && g.Running.SpecHash == o.Grant.Spec.SpecHash {
			done.Outcome, done.Message = OutcomeSucceeded, ""
		}
	}
	m.end(g, o, done)
}

// end records a grant's outcome, durably, before it is reported.
func (m *Member) end(g *memberGroup, o *openGrant, done Done) {
	b := g.bytes[o.Grant.Spec.SpecHash]
	done.FromOrigin, done.FromPeers = b[0], b[1]
	delete(g.bytes, o.Grant.Spec.SpecHash) // the next deployment of it finds it here
	o.Done = &done
	g.journal = nil
	switch {
	case done.Outcome == OutcomeSucceeded:
		g.Running, g.Whole = o.Grant.Spec, true
	case done.Outcome == OutcomeFailed && done.Stopped:
		g.Running, g.Whole = o.Grant.Spec, false
	}
	m.persist()
}

// closeOpen forgets a grant whose end the state has shown.
func (m *Member) closeOpen(g *memberGroup, a *Assignment) {
	o := g.Open
	if o == nil || o.Done == nil || (a.Grant != nil && a.Grant.Token == o.Grant.Token) {
		return
	}
	g.Open, g.decided, g.events = nil, false, nil
	m.persist()
}

// noteLoss finds that this host's own record is older than what the state heard
// from it: its data directory was restored from a backup. What is in place is
// then not known to be whole, whatever the record says, until a deployment has
// brought it. Coming back to an earlier set is no loss.
func (m *Member) noteLoss(g *memberGroup, a *Assignment) {
	if a.Grant != nil || g.Open != nil || g.journal != nil || !g.HighWater.Less(a.Last) {
		g.moved = g.moved && a.Grant == nil
		return
	}
	g.HighWater = a.Last
	if !g.moved {
		g.Whole = false
	}
	g.moved = false
	m.persist()
}

func (m *Member) sayHello(g *memberGroup, a *Assignment) {
	if g.Alone != nil {
		return // it is down, whatever ran here before
	}
	wrong := !a.Known || a.Boot != m.boot
	if g.Open == nil && g.journal == nil {
		wrong = wrong || a.Running.SpecHash != g.Running.SpecHash || (a.Whole && !g.Whole)
	}
	if wrong {
		m.submit(g, "hello", Hello{Group: g.ID, Boot: m.boot, Running: g.Running, Whole: g.Whole})
	}
}

// busy names the deployment that keeps this host from another, in any group.
func (m *Member) busy() string {
	for _, id := range slices.Sorted(maps.Keys(m.groups)) {
		g := m.groups[id]
		if g.Open != nil && g.Open.Done == nil {
			return g.Open.Grant.Deployment
		}
		if g.Alone != nil {
			return g.Alone.Grant.Deployment
		}
		if g.journal != nil {
			return g.journal.Deployment
		}
	}
	return ""
}

// takeGrant answers a grant this host has not seen yet.
func (m *Member) takeGrant(g *memberGroup, a *Assignment) {
	if a.Grant == nil || (g.Open != nil && g.Open.Grant.Token == a.Grant.Token) {
		return
	}
	token := a.Grant.Token
	if !g.HighWater.Less(token) {
		m.spentAgain(g, token)
		return
	}
	if a.Grant.Accepted && a.Grant.Host == m.host {
		m.lostRecord(g, token)
		return
	}
	if g.first != token {
		g.first, g.firstAt = token, m.now
	}
	p := g.prep[a.Grant.Spec.SpecHash]
	switch by := m.busy(); {
	case a.Grant.Host != m.host:
		return
	case by != "":
		m.spend(g, token, Answer{Verdict: Busy, Reason: sentence("deployment %s is under way on this host", by)})
	case p != nil && p.stage == stageReady && p.spec.Commit == a.Grant.Spec.Commit:
		m.accept(g, *a.Grant)
	case p != nil && p.stage == stageRefused:
		m.spend(g, token, Answer{Verdict: Refused, Kind: p.refused, Reason: p.reason})
	case m.now-g.firstAt >= grantLapse:
		m.spend(g, token, Answer{Verdict: Refused, Reason: sentence("not ready within %s: the grant has lapsed", grantLapse)})
	}
}

// accept persists the token before anything is done with it (I1).
func (m *Member) accept(g *memberGroup, grant Grant) {
	g.HighWater = grant.Token
	g.Open = &openGrant{Grant: grant, Boot: m.boot, acceptedAt: m.now, running: true}
	g.decided, g.events, g.progDue = false, nil, false
	clear(g.spent)
	m.persist()
	m.do(ActStartApply{Grant: grant})
}

// spend refuses a grant for good: the token is persisted too, so that a later
// process does not act on it.
func (m *Member) spend(g *memberGroup, token Token, answer Answer) {
	g.HighWater = token
	m.persist()
	answer.Group, answer.Grant, answer.Boot = g.ID, token, m.boot
	clear(g.spent)
	g.spent[token.Seq] = answer
	m.submit(g, "answer", answer)
}

// spentAgain: the state still shows a grant that was answered; the answer was
// lost on the way, or with a former process. If it shows it as accepted, whatever
// was answered since, what was accepted is not known here: the host was restored
// from a backup before its word arrived.
func (m *Member) spentAgain(g *memberGroup, token Token) {
	if g.assign.Grant.Accepted {
		m.submit(g, "done", lostDone(g, token))
		return
	}
	if answer, ok := g.spent[token.Seq]; ok && answer.Grant == token {
		m.submit(g, "answer", answer)
		return
	}
	m.submit(g, "done", Done{Group: g.ID, Grant: token, Outcome: OutcomeLapsed})
}

// lostRecord ends a grant that the set saw accepted and this host knows nothing
// of. Accepted is never said before it is persisted, so the record is lost: the
// data directory was wiped, or restored from a backup. What the hooks did is
// unknown, and none may run again (I7). A journal that is left is undone first.
func (m *Member) lostRecord(g *memberGroup, token Token) {
	if g.journal != nil {
		return
	}
	g.HighWater = token
	m.persist()
	m.submit(g, "done", lostDone(g, token))
}

func lostDone(g *memberGroup, token Token) Done {
	return Done{Group: g.ID, Grant: token, Outcome: OutcomeFailed, Stopped: true,
		Message: "this host lost its record of the deployment: its data directory was wiped or restored from a backup"}
}

// reportGrant says again what the state does not show of the open grant.
func (m *Member) reportGrant(g *memberGroup, a *Assignment) {
	o := g.Open
	if o == nil || a.Grant == nil || a.Grant.Token != o.Grant.Token {
		return
	}
	token := o.Grant.Token
	switch {
	case o.Done != nil:
		m.submit(g, "done", *o.Done)
	case o.Stopped && !a.Grant.Stopped:
		m.submit(g, "stopped", Progress{Group: g.ID, Grant: token, Stopped: true, Events: slices.Clone(g.events)})
	case !a.Grant.Accepted:
		m.submit(g, "answer", Answer{Group: g.ID, Grant: token, Verdict: Accepted, Boot: m.boot})
	}
	if g.progDue && o.Done == nil && (g.progAt == 0 || m.now-g.progAt >= progressGap) {
		b := g.bytes[o.Grant.Spec.SpecHash]
		g.progDue, g.progAt = false, max(1, m.now)
		m.do(ActSubmit{Group: g.ID, Command: Progress{Group: g.ID, Grant: token, Stopped: o.Stopped, Events: slices.Clone(g.events), FromOrigin: b[0], FromPeers: b[1]}})
	}
}

// reportHealth sends the verdict on what runs now. Unknown is said too: a
// restarted agent knows nothing until its checks have run.
func (m *Member) reportHealth(g *memberGroup, a *Assignment) {
	if !a.Member || a.Checks == 0 || g.Running.SpecHash == "" || a.Running.SpecHash != g.Running.SpecHash || a.Grant != nil || g.Open != nil {
		return
	}
	state, proof := g.check, g.proof
	switch {
	case g.Alone != nil:
		state, proof = HealthUnhealthy, "it goes back by itself, begun without quorum"
	case state == "":
		state = HealthUnknown
	}
	if a.Health.State == state || (a.Health.State == "" && state == HealthUnknown) {
		return
	}
	m.submit(g, "health", Health{Group: g.ID, SpecHash: g.Running.SpecHash, State: state, Evidence: proof})
}

// submit makes a command unless the very same was made a moment ago.
func (m *Member) submit(g *memberGroup, key string, c Command) {
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("internal error: a command cannot be encoded: %v", err))
	}
	g.wanted[key] = true
	s := g.sent[key]
	if s == nil || s.what != string(b) {
		s = &sent{what: string(b), every: resendFirst}
		g.sent[key] = s
	} else if m.now-s.at < s.every {
		return
	} else {
		s.every = min(resendMost, 2*s.every)
	}
	s.at = m.now
	m.do(ActSubmit{Group: g.ID, Command: c})
}
