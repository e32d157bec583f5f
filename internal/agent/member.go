package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// Bounds of the member loop.
const (
	memberEventsMax   = 1024            // events waiting; senders wait when there are more
	memberStateMax    = 16 << 20        // bytes of the persisted state
	verifyPatience    = 5 * time.Second // how long a question to git waits for a commit that is on its way
	memberStateFile   = "member.state"  // below the data directory
	bootIDFile        = "/proc/sys/kernel/random/boot_id"
	bundleReportPause = time.Second // between two reports of bytes
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
	gates   map[string]chan error // by group and deployment: what Begin waits for

	machine   *rollout.Member
	installed map[string]bool // groups whose releases were reported
	work      sync.WaitGroup
	failed    chan error
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
	if err := m.begin(ctx); err != nil {
		return err
	}
	for {
		move := m.move()
		m.reportInstalled(ctx)
		m.checks.follow(ctx, m.world())
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
	for {
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
		case err := <-m.failed:
			return err
		case ev := <-m.events:
			err = m.step(ctx, ev)
		case <-m.news:
			err = m.feedSynced(ctx)
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
	state, err := os.ReadFile(filepath.Join(m.dir, memberStateFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read which grants this host has accepted: %w", err)
	}
	if m.machine, err = rollout.NewMember(m.self, state); err != nil {
		return fmt.Errorf("cannot read which grants this host has accepted from %s: %w", filepath.Join(m.dir, memberStateFile), err)
	}
	journals, err := m.applier.Pending()
	if err != nil {
		return fmt.Errorf("cannot read the journals of deployments: %w", err)
	}
	started := rollout.EvStarted{Boot: bootID()}
	for _, j := range journals {
		started.Journals = append(started.Journals, rollout.OpenJournal{Group: j.Key.GroupID, Deployment: j.Key.DeploymentID, Stopped: j.Began})
		m.log.Info("a deployment was under way when the agent ended", "group", j.Key.GroupID, "deployment", j.Key.DeploymentID, "hookRunning", j.Running)
	}
	return m.step(ctx, started)
}

// bootID is the kernel's, or empty where there is none.
func bootID() string {
	text, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// reportInstalled tells the Member what is installed for groups it has not heard of yet.
func (m *member) reportInstalled(ctx context.Context) {
	for _, g := range m.world().State.Groups {
		id := string(g.ID)
		if m.installed[id] {
			continue
		}
		m.installed[id] = true
		spec, whole, ok := m.deploy.installed(id)
		if !ok {
			continue
		}
		if err := m.step(ctx, rollout.EvInstalled{Group: id, Running: spec, Whole: whole}); err != nil {
			m.fail(err)
			return
		}
	}
}

// fail ends Run with err.
func (m *member) fail(err error) {
	select {
	case m.failed <- err:
	default:
	}
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

// send gives an event to the loop; it waits while the loop is behind, and gives up when ctx ends.
func (m *member) send(ctx context.Context, ev rollout.MemberEvent) {
	select {
	case m.events <- ev:
	case <-ctx.Done():
	}
}

// step feeds one event and does what it asks for. An error means that the state could not be persisted: nothing may be done any more.
func (m *member) step(ctx context.Context, ev rollout.MemberEvent) error {
	for _, action := range m.machine.Step(ev, m.now()) {
		if err := m.do(ctx, action); err != nil {
			return err
		}
	}
	return nil
}

// do carries out one action.
func (m *member) do(ctx context.Context, action rollout.MemberAction) error {
	switch a := action.(type) {
	case rollout.ActPersist:
		if err := durable.WriteFile(filepath.Join(m.dir, memberStateFile), a.State, 0o600); err != nil {
			return fmt.Errorf("cannot persist which grants this host has accepted: %w", err)
		}
	case rollout.ActVerify:
		m.beside(func() { m.verify(ctx, a) })
	case rollout.ActFetchBundle:
		m.beside(func() { m.fetch(ctx, a) })
	case rollout.ActPreflight:
		m.beside(func() { m.send(ctx, m.deploy.preflight(ctx, a.Group, a.Spec)) })
	case rollout.ActStartApply:
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
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
				m.sendBytes(ctx, a)
			}
		}
	})
	kind, reason := m.bundles.fetch(ctx, a.Group, a.Spec)
	close(stop)
	reports.Wait()
	m.sendBytes(ctx, a)
	m.send(ctx, rollout.EvBundle{Group: a.Group, SpecHash: a.Spec.SpecHash, Refused: kind, Reason: reason})
}

// sendBytes reports what a bundle cost so far.
func (m *member) sendBytes(ctx context.Context, a rollout.ActFetchBundle) {
	fromOrigin, fromPeers := m.bundles.cost(a.Spec.Digest)
	m.send(ctx, rollout.EvBytes{Group: a.Group, SpecHash: a.Spec.SpecHash, FromOrigin: fromOrigin, FromPeers: fromPeers})
}

// errLapsed vetoes a deployment whose grant has lapsed.
var errLapsed = errors.New("the grant has lapsed")

// gate is where apply waits before the point of no return until the Member has persisted that it may pass.
func (m *member) gate(ctx context.Context, group, deployment string) error {
	ch := make(chan error, 1)
	m.mu.Lock()
	m.gates[group+"/"+deployment] = ch
	m.mu.Unlock()
	m.send(ctx, rollout.EvStopping{Group: group, Deployment: deployment})
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return ctx.Err()
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
	d.Begin = func(ctx context.Context) error { return m.gate(ctx, grant.Group, grant.Deployment) }
	result, err := m.applier.Apply(ctx, d, m.observe(ctx))
	m.applied(ctx, d.Key(), result, err)
}

// resume ends a deployment that an earlier run of the agent began.
func (m *member) resume(ctx context.Context, a rollout.ActResumeApply) {
	key, ok := m.deploy.pendingKey(a.Group, a.Deployment)
	if !ok {
		m.send(ctx, rollout.EvApplied{Group: a.Group, Deployment: a.Deployment, Outcome: rollout.OutcomeFailed, Message: "the journal of this deployment is gone"})
		return
	}
	decision := apply.Undo
	if a.Continue {
		decision = apply.Continue
	}
	result, err := m.applier.Resume(ctx, key, decision, m.observe(ctx))
	m.applied(ctx, key, result, err)
}

// observe reports each lifecycle event as it changes.
func (m *member) observe(ctx context.Context) func(apply.EventUpdate) {
	return func(u apply.EventUpdate) {
		m.send(ctx, rollout.EvUpdate{Group: u.Key.GroupID, Deployment: u.Key.DeploymentID, Event: recordOf(u.Report)})
		m.log.Info("lifecycle event", "group", u.Key.GroupID, "deployment", u.Key.DeploymentID, "event", string(u.Report.Event), "status", string(u.Report.Status))
	}
}

// applied reports how a deployment ended. An interrupted one is not over: its journal is open, and the next start goes on.
func (m *member) applied(ctx context.Context, key apply.Key, result apply.Result, err error) {
	ev := rollout.EvApplied{Group: key.GroupID, Deployment: key.DeploymentID}
	switch {
	case errors.Is(err, apply.ErrInterrupted) || ctx.Err() != nil:
		return
	case errors.Is(err, apply.ErrVetoed):
		ev.Outcome, ev.Message = rollout.OutcomeLapsed, err.Error()
	case err != nil:
		ev.Outcome, ev.ErrorCode, ev.Message = rollout.OutcomeFailed, "UnknownError", err.Error()
		m.log.Error("a deployment could not be carried out", "group", key.GroupID, "deployment", key.DeploymentID, "error", err)
	default:
		ev = appliedOf(key, result)
	}
	m.checks.restart(key.GroupID)
	m.bundles.pinReleases(key.GroupID)
	m.send(ctx, ev)
}
