package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"
)

// fleet is a small simulated fleet: one replicated Machine, real Members, and
// invented git, disks, network, hooks and clocks. Everything that happens is
// drawn by rapid, so a failure shrinks.
type fleet struct {
	t      *rapid.T
	m      *Machine
	twin   *Machine
	index  uint64
	term   uint64
	leader string
	voters []string
	hosts  []*simHost
	net    []message
	now    time.Duration
	policy Policy
	specs  map[string]bool // committed
	ended  map[string]string
	trial  map[string]string        // host -> what it was brought to and no deployment has made good
	bakes  map[string]time.Duration // deployment/wave -> when its last host was done
	waves  map[string]int
	skips  bool
	calm   bool // no faults any more
	joined int
	ops    int
	most   int // hosts that may be down at once, by any policy so far; 0: by policy

	gone     map[string]bool  // left the group
	back     map[string]Token // the grant that a host came back to the group with: others may have been granted meanwhile
	retarget func(name string, attempt int)
	granted  map[string]Token
}

type message struct {
	from string
	data []byte
}

// simHost is one host: what survives a crash of its agent is what is not in member.
type simHost struct {
	f       *fleet
	name    string
	up      bool
	boot    int
	now     time.Duration // monotonic time of this agent
	member  *Member
	disk    []byte
	running Spec
	whole   bool
	apply   *simApply
	hooks   map[string]int
	last    Token
	sick    bool // its checks are red
	polled  HealthState
	ended   *EvApplied // what its disk tells of its last deployment
	unsure  bool       // the outcome of its last deployment was lost with the disk's record of it, and may be taken for a failure
}

// simApply is an open journal.
type simApply struct {
	grant   Grant
	stopped bool // the journal says that ApplicationStop has begun
	waiting bool // for the member's leave to begin it
	started int  // hooks begun
	ended   int  // hooks ended
	live    bool // this process drives it
	undo    bool
}

var simHooks = []string{"ApplicationStop", "BeforeInstall", "AfterInstall", "ApplicationStart", "ValidateService"}

func newFleet(t *rapid.T, n, voters int, policy Policy) *fleet {
	f := &fleet{
		t: t, m: NewMachine(), twin: NewMachine(), policy: policy, specs: map[string]bool{}, ended: map[string]string{},
		granted: map[string]Token{}, bakes: map[string]time.Duration{}, trial: map[string]string{}, waves: map[string]int{}, joined: n,
	}
	for i := 1; i <= n; i++ {
		h := &simHost{f: f, name: fmt.Sprintf("h%d", i), up: true, boot: 1, hooks: map[string]int{}}
		f.hosts = append(f.hosts, h)
		if i <= voters {
			f.voters = append(f.voters, h.name)
		}
	}
	f.lead(f.voters[0])
	for _, h := range f.hosts {
		h.start()
	}
	return f
}

func (f *fleet) fatalf(format string, args ...any) {
	v, _ := f.m.Group("web")
	b, _ := json.Marshal(v)
	f.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), b)
}

func (f *fleet) host(name string) *simHost {
	for _, h := range f.hosts {
		if h.name == name {
			return h
		}
	}
	f.t.Fatalf("no host %s", name)
	return nil
}

// lead elects a leader in a new term.
func (f *fleet) lead(name string) {
	f.term++
	f.leader = name
	f.commit(name, Lead{Host: name, Voters: f.voters})
}

func (f *fleet) commit(from string, c Command) Response {
	b, err := Encode(c, time.Time{})
	if err != nil {
		f.fatalf("cannot encode %+v: %v", c, err)
	}
	return f.apply(message{from: from, data: b})
}

// apply commits one entry on both replicas and checks what must always hold.
func (f *fleet) apply(msg message) Response {
	if f.t != nil && rapid.IntRange(0, 2).Draw(f.t, "own index") > 0 {
		f.index++ // else it shares the raft index of the one before
	}
	answer := f.m.Apply(f.index, f.term, msg.from, msg.data)
	if twin := f.twin.Apply(f.index, f.term, msg.from, msg.data); string(twin) != string(answer) {
		f.fatalf("two replicas answer %s and %s", answer, twin)
	}
	var r Response
	if err := json.Unmarshal(answer, &r); err != nil {
		f.fatalf("%v", err)
	}
	f.watch()
	return r
}

// watch checks the replicated state: I4, I8, I9, and that nothing froze.
func (f *fleet) watch() {
	if len(f.m.s.Groups) == 0 { // forgotten: the next begins anew
		clear(f.ended)
		clear(f.bakes)
		clear(f.waves)
	}
	for _, g := range f.m.s.Groups {
		if g.Frozen != "" {
			f.fatalf("frozen: %s", g.Frozen)
		}
		for _, d := range g.History {
			if was, ok := f.ended[d.ID]; ok && was != d.Status {
				f.fatalf("I9: deployment %s ended %s and is %s now", d.ID, was, d.Status)
			}
			if _, ok := f.ended[d.ID]; !ok {
				f.watchEnd(d)
			}
			f.ended[d.ID] = d.Status
			if d.Status == StateSucceeded && d.Kind == KindForward && d.count(func(r *row) bool { return r.Status == rowFailed }) > max(0, d.B) && d.N > 1 {
				f.fatalf("I9: deployment %s succeeded with more failures than its budget", d.ID)
			}
		}
		f.watchWaves(g.Active)
		f.watchGrants(g)
		clear(f.trial)
		for _, h := range g.Hosts {
			if h.Touched {
				f.trial[h.Name] = h.Running.SpecHash
			}
			if h.Check != HealthHealthy && g.Desired.Policy.Checks > 0 && g.healthy(&turn{m: f.m}, h) {
				f.fatalf("I12: %s counts as healthy, its checks say %q", h.Name, h.Check)
			}
		}
	}
}

// watchEnd is I8 over a whole deployment: none ends well sooner than the bake of
// a wave with a host that was brought to its spec, also where another deployment
// did that and was stopped.
func (f *fleet) watchEnd(d *deployment) {
	if d.Status != StateSucceeded || d.Kind != KindForward || f.skips {
		return
	}
	for _, r := range d.Rows {
		bake, took := d.Waves[r.Wave].Bake, f.m.s.Now-d.Created
		if r.Status == rowSucceeded && !r.Out && f.trial[r.Host] == d.Spec.SpecHash && took < bake {
			f.fatalf("I8: %s ended well after %s although %s was to be watched for %s", d.ID, took, r.Host, bake)
		}
	}
}

// watchGrants is I2 at the moment of a grant, among the hosts that are in the
// group by then.
func (f *fleet) watchGrants(g *group) {
	tn := &turn{m: f.m, now: f.m.s.Now}
	for _, h := range g.Hosts {
		if h.Grant == nil || f.granted[h.Name] == h.Grant.Token {
			continue
		}
		f.granted[h.Name] = h.Grant.Token
		if flying := f.flying(g); f.m.s.SetInFlight > 0 && flying > f.m.s.SetInFlight {
			f.fatalf("%s was granted as one of %d hosts in flight, %d may be", h.Name, flying, f.m.s.SetInFlight)
		}
		d := g.deploymentOf(h.Grant.Deployment)
		before := *h
		before.Grant = nil
		if !g.healthy(tn, &before) || d == nil || d.Kind == KindCatchUp {
			continue
		}
		back := 0 // members that the deployment does not count, and that are in the middle of another
		for _, mem := range g.Members {
			m, r := g.host(mem.Host), d.row(mem.Host)
			if (r == nil || r.Out) && (m.Grant != nil || m.Settle) {
				back++
			}
		}
		n, down := back, back
		for _, r := range d.Rows {
			if _, member := g.member(r.Host); member && !r.Out {
				n++
				if r.Status == rowFailed || !g.healthy(tn, g.host(r.Host)) {
					down++
				}
			}
		}
		if down > max(0, d.Policy.Budget(n)) {
			f.fatalf("I2: %s was granted and %d of %d hosts are down, %d may be", h.Name, down, n, d.Policy.Budget(n))
		}
		if flying := back + d.count(g.flying); d.Policy.MaxUnavailable.Set && flying > max(1, d.Policy.MaxUnavailable.Of(d.N+back)) {
			f.fatalf("maxUnavailable: %d in flight", flying)
		}
	}
}

func (f *fleet) watchWaves(d *deployment) {
	if d == nil || !d.Opened {
		return
	}
	open := false
	for _, r := range d.Rows {
		if r.Token != (Token{}) && r.Wave > d.Wave {
			f.fatalf("I4: %s was granted for wave %d while wave %d is under way", r.Host, r.Wave, d.Wave)
		}
		open = open || (r.Wave == d.Wave && (r.Status == rowPending || r.Status.inFlight()))
	}
	key := fmt.Sprintf("%s/%d", d.ID, d.Wave)
	if last := f.waves[d.ID]; d.Wave > last {
		done, ok := f.bakes[fmt.Sprintf("%s/%d", d.ID, last)]
		if bake := d.Waves[last].Bake; bake > 0 && !f.skips && ok && f.m.s.Now-done < bake {
			f.fatalf("I8: wave %d of %s baked %s of %s", last, d.ID, f.m.s.Now-done, bake)
		}
	}
	f.waves[d.ID] = d.Wave
	if open {
		delete(f.bakes, key)
	} else if _, ok := f.bakes[key]; !ok {
		f.bakes[key] = f.m.s.Now
	}
}

// target proposes a spec as the leader's git would.
func (f *fleet) target(name string, attempt int) {
	if f.retarget != nil {
		f.retarget(name, attempt)
		return
	}
	f.specs[name] = true
	t := Target{Group: "web", Folder: "shop/web", Spec: specOf(name), Attempt: attempt, Policy: f.policy}
	for _, h := range f.hosts[:f.joined] {
		t.Members = append(t.Members, MemberInfo{Host: h.name})
	}
	if t, needed := f.m.TargetNeeded(t); needed {
		f.commit(f.leader, t)
	}
}

// inFlight counts hosts that are truly between ApplicationStop and an outcome.
func (f *fleet) inFlight() int {
	n := 0
	for _, h := range f.hosts {
		if h.apply != nil && h.apply.stopped && !f.gone[h.name] && f.back[h.name] != h.apply.grant.Token {
			n++
		}
	}
	return n
}

// flying counts the hosts with a grant that nobody could think lost.
func (f *fleet) flying(g *group) int {
	n := 0
	for _, h := range g.Hosts {
		if h.Grant != nil && h.Left == 0 && !f.m.isDead(h.Name) {
			n++
		}
	}
	return n
}

// start starts the host's agent from its disk.
func (h *simHost) start() {
	var err error
	if h.member, err = NewMember(h.name, h.disk); err != nil {
		h.f.fatalf("%v", err)
	}
	ev := EvStarted{Boot: fmt.Sprintf("boot-%d", h.boot)}
	if h.apply != nil {
		h.apply.live, h.apply.waiting = false, false
		ev.Journals = []OpenJournal{{Group: "web", Deployment: h.apply.grant.Deployment, Stopped: h.apply.stopped}}
	}
	h.now, h.polled = 0, ""
	h.feed(ev)
	h.feed(EvInstalled{Group: "web", Running: h.running, Whole: h.whole})
	if h.ended != nil {
		h.feed(*h.ended)
	}
}

// crash kills the agent; hooks go on under their supervisor unless the host
// itself went down.
func (h *simHost) crash(reboot bool) {
	if reboot {
		h.boot++
	}
	h.start()
}

func (h *simHost) feed(ev MemberEvent) {
	for _, act := range h.member.Step(ev, h.now) {
		h.act(act)
	}
}

func (h *simHost) act(act MemberAction) {
	switch act := act.(type) {
	case ActPersist:
		h.disk = act.State
	case ActSubmit:
		b, err := Encode(act.Command, time.Time{})
		if err != nil {
			h.f.fatalf("cannot encode %+v: %v", act.Command, err)
		}
		if len(h.f.net) < 500 {
			h.f.net = append(h.f.net, message{from: h.name, data: b})
		}
	case ActVerify:
		h.feed(EvVerified{Group: act.Group, Commit: act.Spec.Commit, SpecHash: act.Spec.SpecHash, OK: h.f.specs[act.Spec.SpecHash]})
	case ActFetchBundle:
		ev := EvBundle{Group: act.Group, SpecHash: act.Spec.SpecHash}
		if !h.f.calm && rapid.IntRange(0, 9).Draw(h.f.t, "bytes") == 0 {
			ev.Refused, ev.Reason = RefusedByBytes, "S3 answers 503"
		}
		h.feed(ev)
	case ActPreflight:
		ev := EvPreflight{Group: act.Group, SpecHash: act.Spec.SpecHash}
		if !h.f.calm && rapid.IntRange(0, 9).Draw(h.f.t, "preflight") == 0 {
			ev.Refused, ev.Reason = RefusedByHost, "a file is in the way"
		}
		h.feed(ev)
	case ActStartApply:
		h.startApply(act.Grant)
	case ActResumeApply:
		if h.apply == nil || h.apply.grant.Deployment != act.Deployment {
			h.f.fatalf("%s: a journal of %s is to be resumed but there is none", h.name, act.Deployment)
		}
		h.apply.live, h.apply.undo = true, !act.Continue
	case ActProceed:
		if h.apply != nil && h.apply.waiting {
			h.apply.waiting, h.apply.stopped = false, true
			h.f.checkBudget()
		}
	case ActAbort:
		if h.apply != nil && h.apply.live {
			h.apply.undo, h.apply.waiting = true, false
		}
	}
}

// startApply checks I1, I3 and I9 where they count: before anything is done.
func (h *simHost) startApply(g Grant) {
	if h.apply != nil {
		h.f.fatalf("%s: %s is to start while %s is open", h.name, g.Deployment, h.apply.grant.Deployment)
	}
	if !h.last.Less(g.Token) {
		h.f.fatalf("I1: %s starts on %v after %v", h.name, g.Token, h.last)
	}
	kept, err := NewMember(h.name, h.disk)
	if err != nil || kept.groups["web"].HighWater != g.Token {
		h.f.fatalf("I1: %s starts on a grant that is not on its disk (%v)", h.name, err)
	}
	if !h.f.specs[g.Spec.SpecHash] {
		h.f.fatalf("I3: %s starts %s, which nobody committed", h.name, g.Spec.SpecHash)
	}
	if g.Kind == KindRollback && !h.unsure && h.whole && h.running.SpecHash == g.Spec.SpecHash {
		h.f.fatalf("I9: %s is rolled back although it did not change", h.name)
	}
	h.last = g.Token
	h.apply = &simApply{grant: g, live: true}
}

// checkBudget is I2.
func (f *fleet) checkBudget() {
	allowed := max(1, f.policy.Budget(f.joined))
	if f.policy.OneAtATime {
		allowed = 1
	}
	allowed = max(allowed, f.most)
	if n := f.inFlight(); n > allowed {
		f.fatalf("I2: %d hosts are down at once, %d may be", n, allowed)
	}
}

// step lets apply do one thing.
func (h *simHost) step() {
	a := h.apply
	if a == nil || !a.live || a.waiting || !h.up {
		return
	}
	switch {
	case a.undo && !a.stopped:
		h.finish(EvApplied{Outcome: OutcomeLapsed})
	case a.undo && a.installed(): // the new files stay
		h.running, h.whole = a.grant.Spec, false
		h.finish(EvApplied{Outcome: OutcomeFailed})
	case a.undo && !h.f.calm && rapid.IntRange(0, 9).Draw(h.f.t, "previous") == 0: // it does not start again
		h.whole = false
		h.finish(EvApplied{Outcome: OutcomeFailed})
	case a.undo:
		h.finish(EvApplied{Outcome: OutcomeUndone})
	case !a.stopped:
		a.waiting = true
		h.feed(EvStopping{Group: "web", Deployment: a.grant.Deployment})
	case a.started > a.ended:
		a.ended++ // adopted, or simply over
		if !h.f.calm && rapid.IntRange(0, 19).Draw(h.f.t, "hook") == 0 {
			if h.whole = false; a.installed() {
				h.running = a.grant.Spec
			}
			h.finish(EvApplied{Outcome: OutcomeFailed, Event: simHooks[a.ended-1], ExitCode: 1})
			return
		}
		h.feed(EvUpdate{Group: "web", Deployment: a.grant.Deployment, Event: EventRecord{Event: simHooks[a.ended-1], Status: "Succeeded"}})
	case a.started < len(simHooks):
		key := fmt.Sprintf("%s/%d/%s", a.grant.Deployment, a.grant.Attempt, simHooks[a.started])
		a.started++
		if h.hooks[key]++; h.hooks[key] > 1 {
			h.f.fatalf("I7: %s ran %s twice", h.name, key)
		}
	default:
		h.running, h.whole, h.sick = a.grant.Spec, true, false
		h.finish(EvApplied{Outcome: OutcomeSucceeded})
	}
}

// installed tells whether the new files are in place.
func (a *simApply) installed() bool {
	return a.started > slices.Index(simHooks, "BeforeInstall")+1
}

func (h *simHost) finish(ev EvApplied) {
	ev.Group, ev.Deployment = "web", h.apply.grant.Deployment
	h.polled = ""
	h.unsure = h.unsure && ev.Outcome != OutcomeSucceeded && ev.Outcome != OutcomeFailed
	h.apply = nil
	h.ended = &ev
	if !h.f.calm && rapid.IntRange(0, 19).Draw(h.f.t, "word lost") == 0 {
		if rapid.Bool().Draw(h.f.t, "record lost") {
			h.ended, h.unsure = nil, true
		}
		h.crash(false) // the journal is closed, but the agent dies before it is told
		return
	}
	h.feed(ev)
}

// poll runs the checks.
func (h *simHost) poll() {
	if !h.up || h.f.policy.Checks == 0 || h.apply != nil || h.running.SpecHash == "" {
		return
	}
	state := HealthHealthy
	if h.sick || !h.whole {
		state = HealthUnhealthy
	}
	if h.polled != state {
		h.polled = state
		h.feed(EvHealth{Group: "web", State: state, Evidence: "status 500"})
	}
}

// sync hands the current state to the host's member.
func (h *simHost) sync() {
	if h.up {
		h.feed(EvSynced{Set: "set", Assignments: h.f.m.Assignments(h.name)})
	}
}

// pass lets time pass everywhere; the leader says so.
func (f *fleet) pass(d time.Duration) {
	f.now += d
	for _, h := range f.hosts {
		h.now += d
		if at, ok := h.member.Deadline(); h.up && ok && at <= h.now {
			h.feed(EvTimer{})
		}
	}
	if f.m.Needs().Tick && f.host(f.leader).up {
		f.commit(f.leader, Tick{Elapsed: d})
	}
}

// seen lets the leader say who is dead.
func (f *fleet) seen() {
	if !f.host(f.leader).up {
		for _, v := range f.voters {
			if f.host(v).up {
				f.lead(v)
				break
			}
		}
	}
	if !f.host(f.leader).up {
		return
	}
	dead := f.m.Dead()
	var news []HostLife
	for _, h := range f.hosts {
		if h.up == slices.Contains(dead, h.name) {
			news = append(news, HostLife{Host: h.name, Alive: h.up})
		}
	}
	if len(news) > 0 {
		f.commit(f.leader, Liveness{Hosts: news})
	}
	if to := f.m.Needs().Handover; to != "" && f.host(to).up {
		f.lead(to)
	}
}

// deliver takes the i-th message from the network, or a copy of it.
func (f *fleet) deliver(i int, keep bool) {
	msg := f.net[i]
	if !keep {
		f.net = slices.Delete(f.net, i, i+1)
	}
	if f.host(f.leader).up {
		f.apply(msg)
	}
}

// heal stops all faults and lets the fleet work until it rests.
func (f *fleet) heal() {
	f.calm = true
	for _, h := range f.hosts {
		h.up, h.sick = true, false
	}
	if v, _ := f.m.Group("web"); v.Paused != nil {
		f.ops++
		f.commit("h1", Operator{Group: "web", ID: fmt.Sprint("op", f.ops), Verb: VerbResume, Actor: "anna"})
	}
	for range 1500 {
		f.seen()
		f.round()
		f.pass(2 * time.Second)
		if f.rests() {
			return
		}
	}
	v, _ := f.m.Group("web")
	f.fatalf("I11: no verdict after the faults stopped: %s: %s", v.State, v.Reason)
}

// round lets every host hear, act and be heard.
func (f *fleet) round() {
	for _, h := range f.hosts {
		h.sync()
		h.step()
		h.poll()
	}
	for len(f.net) > 0 && f.host(f.leader).up {
		f.deliver(0, false)
	}
}

// rests says whether every reachable host has its target or there is a verdict.
func (f *fleet) rests() bool {
	v, ok := f.m.Group("web")
	if !ok {
		return true
	}
	g := f.m.s.Groups[0]
	for _, h := range g.Hosts {
		if h.Grant != nil || h.Settle || !h.Known {
			return false
		}
	}
	if g.Active != nil || g.CatchUp != nil {
		return false
	}
	switch v.State {
	case StateFailed, StateStopped, StateBlocked:
		return true
	case StateSucceeded, StateHeldBack:
		down := 0
		for _, h := range g.Hosts {
			if !g.healthy(&turn{m: f.m}, h) {
				down++
			}
		}
		none := g.Desired.Policy.Budget(len(g.Members)) <= down // that a healthy host could be taken down for
		return !slices.ContainsFunc(g.Hosts, func(h *host) bool {
			return g.outdated(h) && !(f.retarget != nil && none && g.healthy(&turn{m: f.m}, h))
		})
	}
	return false
}

// truth compares, at rest, what the state believes with what hosts run.
func (f *fleet) truth() {
	g := f.m.s.Groups[0]
	for _, h := range g.Hosts {
		real := f.host(h.Name)
		if !real.unsure && real.whole && real.running.SpecHash != h.Running.SpecHash {
			f.fatalf("%s runs %q, the state says %q", h.Name, real.running.SpecHash, h.Running.SpecHash)
		}
		if !real.unsure && h.Whole && !real.whole {
			f.fatalf("%s does not run %q well, and counts as if it did", h.Name, h.Running.SpecHash)
		}
	}
	one, err := f.m.Hash()
	two, _ := f.twin.Hash()
	if err != nil || one != two {
		f.fatalf("I5: two replicas differ (%v)", err)
	}
	if b, _ := f.m.Snapshot(); len(b) > 1<<20 {
		f.fatalf("I13: a snapshot of %d bytes for %d hosts", len(b), len(f.hosts))
	}
}

// summary names the kinds of deployments that ended, and how.
func (f *fleet) summary() []string {
	var seen []string
	for _, d := range f.m.s.Groups[0].History {
		seen = append(seen, string(d.Kind)+" "+d.Status)
	}
	return seen
}
