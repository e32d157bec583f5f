package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// Bounds of the member loop.
const (
	memberEventsMax   = 1024            // events waiting; senders wait when there are more
	memberStateMax    = 16 << 20        // bytes of the persisted state
	verifyPatience    = 5 * time.Second // how long a question to git waits for a commit that is on its way
	memberStateFile   = "member.state"  // below the data directory
	bootIDFile        = "/proc/sys/kernel/random/boot_id"
	bundleReportPause = time.Second // between two reports of bytes
	resumePause       = 200 * time.Millisecond
)

// member lets rollout.Member decide what this host does, and does it. One goroutine owns the Member; work that takes time runs beside it and comes back as an
// event.
type member struct {
	self     string
	dir      string
	sets     *sets
	verifier *verifier
	bundles  *bundles
	applier  *apply.Applier
	deploy   *deployer
	checks   *checks
	world    func() *world
	move     func() <-chan struct{} // closed when the world changes
	log      *slog.Logger

	events chan rollout.MemberEvent
	start  time.Time

	mu      sync.Mutex
	pending map[string][]rollout.Assignment // newest assignments by set, not yet fed
	news    wake
	again   wake                           // what was refused is to be tried at once
	gates   map[string]chan error          // by group and deployment: what Begin waits for
	targets map[string]map[string][]string // by set and group, the digests this host prepares for; what must not be collected
	ended   chan struct{}                  // closed when the loop has ended: no gate is answered any more
	held    status.Notice                  // why this host holds still; empty message when it does not
	damaged []status.Notice                // journals that were set aside
	stuck   map[apply.Key]status.Notice    // deployments that cannot be ended yet
	led     map[string]bool                // whether a set has a leader, as last told
	quorum  map[string]bool                // the same, not yet fed
	alone   []status.Notice                // what this host does without quorum

	machine   *rollout.Member
	state     *durable.Slots           // what the machine must not forget
	installed map[string]bool          // groups whose releases were reported
	tipped    map[string]rollout.EvTip // by group, as last fed
	work      sync.WaitGroup
}

// synced takes the newest assignments of a set; older ones not yet fed are forgotten.
func (m *member) synced(set string, list []rollout.Assignment) {
	m.mu.Lock()
	m.pending[set] = list
	m.mu.Unlock()
	m.news.Wake()
}

// Run follows git and the replicated state until ctx ends, then waits for everything it started. Hooks go on under their supervisor.
func (m *member) Run(ctx context.Context) error {
	if !m.awaitWorld(ctx) {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer m.work.Wait()
	defer cancel()
	defer close(m.ended)
	defer func() {
		if m.state != nil {
			m.state.Close()
		}
	}()
	if err := m.follow(ctx); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

// follow is the loop. It ends with errStopped when ctx ended while the disk was full.
func (m *member) follow(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	m.beside(func() { m.bundles.keep(ctx, m.keeping) })
	m.beside(func() { m.bundles.mend(ctx) })
	for {
		move := m.move()
		for _, ev := range m.newlyInstalled() {
			if err := m.step(ctx, ev); err != nil {
				return err
			}
		}
		m.checks.follow(ctx, m.world())
		if err := m.feedTips(ctx); err != nil {
			return err
		}
		if err := m.wait(ctx, move); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// wait handles events until the world moves, ctx ends, or something this host may not survive happens.
func (m *member) wait(ctx context.Context, move <-chan struct{}) error {
	for ctx.Err() == nil {
		due := 24 * time.Hour
		if at, ok := m.machine.Deadline(); ok {
			due = max(0, at-m.now())
		}
		timer := time.NewTimer(due)
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-move:
			return nil
		case ev := <-m.events:
			err = m.take(ctx, ev)
		case <-m.news:
			if err = m.feedQuorum(ctx); err == nil {
				err = m.feedSynced(ctx)
			}
		case <-m.again:
			err = m.step(ctx, rollout.EvLookAgain{})
		case group := <-m.checks.news:
			err = m.feedHealth(ctx, group)
		case <-timer.C:
			err = m.step(ctx, rollout.EvTimer{})
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// take feeds what work beside the loop brought. Checks begin afresh only once the Member knows that a deployment ended: it takes no earlier verdict for the new
// revision's, and loses no later one.
func (m *member) take(ctx context.Context, ev rollout.MemberEvent) error {
	if err := m.step(ctx, ev); err != nil {
		return err
	}
	applied, ok := ev.(rollout.EvApplied)
	if !ok {
		return nil
	}
	m.bundles.changed.Wake()
	m.checks.restart(applied.Group)
	if err := m.feedHealth(ctx, applied.Group); err != nil {
		return err
	}
	return m.feedTips(ctx) // this disk may have another release that ran well
}

// awaitWorld waits for the first accepted commit; false when ctx ended first.
func (m *member) awaitWorld(ctx context.Context) bool {
	for {
		move := m.move()
		if m.world() != nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-move:
		}
	}
}

// begin restores the Member and tells it what this host finds on its disk.
func (m *member) begin(ctx context.Context) error {
	state, err := m.openState(ctx)
	if err != nil {
		if errors.Is(err, durable.ErrCorrupt) {
			return m.unreadable(err)
		}
		return fmt.Errorf("cannot persist which grants this host has accepted: %w", err) // reading takes the space for it
	}
	if m.machine, err = rollout.NewMember(m.self, state); err != nil {
		return m.unreadable(err)
	}
	if err := m.mend(); err != nil {
		return err
	}
	journals, err := m.applier.Pending()
	if err != nil { // Mend has named them, and their groups take no deployment
		m.log.Error("journals of deployments cannot be read", "error", err)
	}
	started := rollout.EvStarted{Boot: bootID()}
	for _, j := range journals {
		started.Journals = append(started.Journals, rollout.OpenJournal{Group: j.Key.GroupID, Deployment: j.Key.DeploymentID, Stopped: j.Began})
		m.log.Info("a deployment was under way when the agent ended", "group", j.Key.GroupID, "deployment", j.Key.DeploymentID, "hookRunning", j.Running)
	}
	found := append([]rollout.MemberEvent{started}, m.onDisk()...) // as it is before anything is resumed
	for _, ev := range found {
		if err := m.step(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

// unreadable says what to do without the state: it alone tells which grants must not be acted on again.
func (m *member) unreadable(err error) error {
	var whole *rollout.StateError
	if errors.As(err, &whole) {
		err = fmt.Errorf("cannot use %s, where this host keeps which grants it has accepted: %w", filepath.Join(m.dir, memberStateFile), err)
		if whole.OtherHost != "" {
			return &ConfigError{err}
		}
		return err
	}
	return fmt.Errorf("cannot read which grants this host has accepted from %s: %w; it is damaged, and an older copy would let hooks run twice: move the data directory away and make this machine another host (docs/how-to/restore-a-host.md)",
		filepath.Join(m.dir, memberStateFile), err)
}

// onDisk lists what is installed, and how deployments ended whose word may have been lost with the process before. What the Member knows already it ignores.
func (m *member) onDisk() []rollout.MemberEvent {
	found := m.newlyInstalled()
	for _, g := range m.world().State.Groups {
		for _, ev := range m.deploy.ended(string(g.ID)) {
			found = append(found, ev)
		}
	}
	return found
}

// bootID is the kernel's, or empty where there is none.
func bootID() string {
	text, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// newlyInstalled lists what is installed for groups the Member has not heard of yet.
func (m *member) newlyInstalled() []rollout.MemberEvent {
	var found []rollout.MemberEvent
	for _, g := range m.world().State.Groups {
		id := string(g.ID)
		if m.installed[id] {
			continue
		}
		m.installed[id] = true
		if spec, whole, ok := m.deploy.installed(id); ok {
			found = append(found, rollout.EvInstalled{Group: id, Running: spec, Whole: whole})
		}
	}
	return found
}

// now is the host's monotonic time since the agent started.
func (m *member) now() time.Duration { return time.Since(m.start) }

// feedSynced feeds the newest assignments of every set.
func (m *member) feedSynced(ctx context.Context) error {
	m.mu.Lock()
	pending := m.pending
	m.pending = map[string][]rollout.Assignment{}
	m.mu.Unlock()
	for set, list := range pending {
		if err := m.step(ctx, rollout.EvSynced{Set: set, Assignments: list}); err != nil {
			return err
		}
	}
	return nil
}

// feedHealth feeds the verdict of a group's checks as it is now.
func (m *member) feedHealth(ctx context.Context, group string) error {
	verdict, ok := m.checks.verdict(group)
	if !ok {
		return nil
	}
	return m.step(ctx, rollout.EvHealth{Group: group, State: rollout.HealthState(verdict.State), Evidence: verdict.Reason()})
}

// send gives an event to the loop; it waits while the loop is behind, and gives up, saying so, once ctx has ended: what an interrupted work came to is nobody's fault.
func (m *member) send(ctx context.Context, ev rollout.MemberEvent) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case m.events <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// step feeds one event and does what it asks for. An error means that the state could not be persisted: nothing may be done any more.
func (m *member) step(ctx context.Context, ev rollout.MemberEvent) error {
	actions := m.machine.Step(ev, m.now())
	if synced, ok := ev.(rollout.EvSynced); ok {
		m.noteTargets(synced) // before anything is fetched, so that it is never taken for superfluous
	}
	for _, action := range actions {
		if err := m.do(ctx, action); err != nil {
			return err
		}
	}
	m.noteAlone()
	return nil
}

// noteTargets remembers the bundles that the groups of one set prepare for or were granted.
func (m *member) noteTargets(ev rollout.EvSynced) {
	now := map[string][]string{}
	for _, a := range ev.Assignments {
		var digests []string
		for _, spec := range m.machine.Preparing(a.Group) {
			digests = append(digests, spec.Digest)
		}
		if a.Grant != nil {
			digests = append(digests, a.Grant.Spec.Digest)
		}
		slices.Sort(digests)
		now[a.Group] = slices.Compact(digests)
	}
	m.mu.Lock()
	same := maps.EqualFunc(now, m.targets[ev.Set], slices.Equal[[]string])
	m.targets[ev.Set] = now
	m.mu.Unlock()
	if !same {
		m.bundles.changed.Wake()
	}
}

// keeping lists what the groups of this host need. Of one whose set has not told yet nothing may be let go.
func (m *member) keeping() kept {
	now := kept{map[string]bundle.Digest{}, map[string][]string{}, map[string]bool{}}
	mine := m.world().State.GroupsOf(desired.HostName(m.self))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range mine {
		id := string(g.ID)
		now.newest[id] = g.Revision.Digest
		if set, synced := m.targets[g.Coordinators]; synced {
			now.preparing[id] = set[id]
		} else {
			now.unknown[id] = true
		}
	}
	return now
}

// do carries out one action.
func (m *member) do(ctx context.Context, action rollout.MemberAction) error {
	switch a := action.(type) {
	case rollout.ActPersist:
		if err := m.persist(ctx, a.State); err != nil {
			return fmt.Errorf("cannot persist which grants this host has accepted: %w", err)
		}
	case rollout.ActVerify:
		m.beside(func() { m.verify(ctx, a) })
	case rollout.ActFetchBundle:
		m.beside(func() { m.fetch(ctx, a) })
	case rollout.ActPreflight:
		m.beside(func() { m.send(ctx, m.deploy.preflight(ctx, a.Group, a.Spec)) })
	case rollout.ActStartApply:
		if a.Grant.Token == (rollout.Token{}) {
			m.log.Warn("without quorum this host goes back by itself: what runs is unhealthy, and the verified tip asks for what it ran well", "group", a.Grant.Group, "deployment", a.Grant.Deployment, "commit", a.Grant.Spec.Commit)
		}
		m.beside(func() { m.apply(ctx, a.Grant) })
	case rollout.ActResumeApply:
		m.beside(func() { m.resume(ctx, a) })
	case rollout.ActProceed:
		m.answerGate(a.Group, a.Deployment, nil)
	case rollout.ActAbort:
		m.answerGate(a.Group, a.Deployment, errLapsed)
	case rollout.ActSubmit:
		m.sets.enqueue(a.Group, a.Command)
	case rollout.ActMarkGood:
		m.deploy.markGood(a.Group, a.Spec)
		m.bundles.changed.Wake()
	default:
		return fmt.Errorf("internal error: action %T is not known", action)
	}
	return nil
}

// beside runs work next to the loop.
func (m *member) beside(work func()) { m.work.Go(work) }

// verify asks this host's git, waiting a little for a commit that is on its way.
func (m *member) verify(ctx context.Context, a rollout.ActVerify) {
	lastGood := m.deploy.lastGoodCommit(a.Group)
	patience := time.NewTimer(verifyPatience)
	defer patience.Stop()
	for {
		move := m.move()
		answer := m.verifier.verify(a.Group, a.Spec, lastGood)
		if !answer.Wait {
			m.send(ctx, answer)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-move:
		case <-patience.C:
			m.send(ctx, answer)
			return
		}
	}
}

// fetch brings a spec's bundle to this disk and reports bytes as they come.
func (m *member) fetch(ctx context.Context, a rollout.ActFetchBundle) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var reports sync.WaitGroup
	stop := make(chan struct{})
	reports.Go(func() {
		pace := time.NewTicker(bundleReportPause)
		defer pace.Stop()
		had := int64(0)
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
				has := m.sendBytes(ctx, a)
				if why := m.bundles.trouble(bundle.Digest(a.Spec.Digest)); why != "" && has == had {
					m.send(ctx, rollout.EvNoBytes{Group: a.Group, SpecHash: a.Spec.SpecHash, Reason: why})
				}
				had = has
			}
		}
	})
	kind, reason := m.bundles.fetch(ctx, a.Group, a.Spec)
	close(stop)
	reports.Wait()
	m.sendBytes(ctx, a)
	m.send(ctx, rollout.EvBundle{Group: a.Group, SpecHash: a.Spec.SpecHash, Refused: kind, Reason: reason})
}

// sendBytes reports what a bundle cost so far, and returns it.
func (m *member) sendBytes(ctx context.Context, a rollout.ActFetchBundle) int64 {
	fromOrigin, fromPeers := m.bundles.costs.of(a.Group, a.Spec.Commit)
	m.send(ctx, rollout.EvBytes{Group: a.Group, SpecHash: a.Spec.SpecHash, FromOrigin: fromOrigin, FromPeers: fromPeers})
	return fromOrigin + fromPeers
}

// errLapsed vetoes a deployment whose grant has lapsed, errStopped one that the agent's end came before.
var (
	errLapsed  = errors.New("the grant has lapsed")
	errStopped = errors.New("the agent stops")
)

// gate is where apply waits before the point of no return until the Member has persisted that it may pass.
func (m *member) gate(ctx context.Context, group, deployment string) error {
	ch := make(chan error, 1)
	m.mu.Lock()
	m.gates[group+"/"+deployment] = ch
	m.mu.Unlock()
	defer m.answerGate(group, deployment, nil) // forgets it
	if !m.send(ctx, rollout.EvStopping{Group: group, Deployment: deployment}) {
		return ctx.Err()
	}
	select {
	case err := <-ch:
		return err
	case <-m.ended:
	}
	select { // the loop's last word counts: what the Member has persisted must happen
	case err := <-ch:
		return err
	default:
		return errStopped
	}
}

// answerGate opens or closes a gate.
func (m *member) answerGate(group, deployment string, err error) {
	key := group + "/" + deployment
	m.mu.Lock()
	ch := m.gates[key]
	delete(m.gates, key)
	m.mu.Unlock()
	if ch != nil {
		ch <- err
	}
}

// apply runs the deployment of a grant.
func (m *member) apply(ctx context.Context, grant rollout.Grant) {
	d, err := m.deploy.deployment(grant)
	if err != nil {
		m.send(ctx, rollout.EvApplied{Group: grant.Group, Deployment: grant.Deployment, Outcome: rollout.OutcomeLapsed, Message: err.Error()})
		return
	}
	d.Begin = func(ctx context.Context) error {
		if err := m.deploy.fencedRelease(d.Key()); err != nil {
			return err
		}
		return m.gate(ctx, grant.Group, grant.Deployment)
	}
	result, err := m.applier.Apply(ctx, d, m.observe(ctx))
	m.bundles.costs.book(grant.Group, grant.Spec.Commit)
	m.applied(ctx, d.Key(), result, err)
}

// resume ends a deployment that an earlier run of the agent began.
func (m *member) resume(ctx context.Context, a rollout.ActResumeApply) {
	key, ok, err := m.deploy.pendingKey(a.Group, a.Deployment)
	if err != nil {
		m.log.Error("a deployment cannot be resumed before its journal can be read", "group", a.Group, "deployment", a.Deployment, "error", err)
		return // the grant stays open; the next start tries again
	}
	if !ok {
		m.send(ctx, rollout.EvApplied{Group: a.Group, Deployment: a.Deployment, Outcome: rollout.OutcomeFailed, Message: "the journal of this deployment is gone"})
		return
	}
	decision := apply.Undo
	if a.Continue {
		decision = apply.Continue
	}
	for {
		result, err := m.applier.Resume(ctx, key, decision, m.observe(ctx))
		if !errors.Is(err, apply.ErrBusy) {
			m.applied(ctx, key, result, err)
			return
		}
		select { // another group of the same application is being resumed
		case <-ctx.Done():
			return
		case <-time.After(resumePause):
		}
	}
}

// observe reports each lifecycle event as it changes.
func (m *member) observe(ctx context.Context) func(apply.EventUpdate) {
	return func(u apply.EventUpdate) {
		if !u.Report.Undo { // what ran for the previous release is not the state of this deployment's events
			m.send(ctx, rollout.EvUpdate{Group: u.Key.GroupID, Deployment: u.Key.DeploymentID, Event: recordOf(u.Report)})
		}
		m.log.Info("lifecycle event", "group", u.Key.GroupID, "deployment", u.Key.DeploymentID, "event", string(u.Report.Event), "status", string(u.Report.Status))
	}
}

// applied reports how a deployment ended. An interrupted one is not over: its journal is open, and the next start goes on. One that an error left open is given up
// first.
func (m *member) applied(ctx context.Context, key apply.Key, result apply.Result, err error) {
	ev := rollout.EvApplied{Group: key.GroupID, Deployment: key.DeploymentID}
	cause := err
	if err != nil && !errors.Is(err, apply.ErrInterrupted) && ctx.Err() == nil {
		result, err = m.finish(ctx, key, err)
	}
	switch {
	case errors.Is(err, apply.ErrInterrupted) || ctx.Err() != nil:
		return
	case errors.Is(cause, apply.ErrVetoed), errors.Is(cause, apply.ErrBusy):
		ev.Outcome, ev.Message = rollout.OutcomeLapsed, cause.Error()
	case err != nil:
		ev.Outcome, ev.ErrorCode, ev.Message = rollout.OutcomeFailed, "UnknownError", err.Error()
		m.log.Error("a deployment could not be carried out", "group", key.GroupID, "deployment", key.DeploymentID, "error", err)
	default:
		ev = appliedOf(key, result)
		if cause != nil {
			ev.Message = cause.Error() + "; " + ev.Message
		}
	}
	m.send(ctx, ev)
}
