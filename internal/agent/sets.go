package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// Pace of the sets.
const (
	setReopenPause = 5 * time.Second        // before a set whose replica stopped is opened again
	submitTimeout  = 10 * time.Second       // one command of this host
	submitQueueMax = 256                    // commands waiting for one set; more are dropped, and made again by the Member
	puzzledFor     = 15 * time.Second       // what a peer answers that is only starting or leaving is told after this long
	setsCheck      = 500 * time.Millisecond // how often what nothing announces is looked at: leadership, liveness
)

// setRun is one coordinator set this host follows.
type setRun struct {
	spec    consensus.SetSpec
	owed    bool // followed an earlier epoch here: kept open until this one has begun
	set     *consensus.Set
	machine *rollout.Machine
	cancel  context.CancelFunc
	done    chan struct{}
	submits *outbox
	changed signal
	puzzled map[string]time.Time // problems that a peer's coming or going explains at first, and since when each is there; under sets.mu
}

// sets follows the coordinator sets that the world names for this host.
type sets struct {
	self      string
	storage   string
	consensus *consensus.Consensus
	world     func() *world
	worldMove func() <-chan struct{}
	intro     string
	lead      func(ctx context.Context, run *setRun)      // leader.go
	synced    func(set string, list []rollout.Assignment) // member.go
	leads     func(set string, lead bool)                 // alone.go
	ran       func(commits ...string)                     // told which commits the fleet has run
	alive     func() life                                 // for what notices say
	log       *slog.Logger

	mu      sync.Mutex
	open    map[string]*setRun
	failed  map[string]string // set -> why it could not be opened
	changed signal
}

// Run opens and closes sets as the world changes, until ctx ends.
func (s *sets) Run(ctx context.Context) error {
	defer s.closeAll()
	for {
		move := s.worldMove()
		s.reconcile(ctx)
		retry := time.NewTimer(setReopenPause)
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil
		case <-move:
		case <-retry.C:
		}
		retry.Stop()
	}
}

// wanted lists the sets this host votes in or has a group in.
func (s *sets) wanted(w *world) map[string]consensus.SetSpec {
	all := map[string]consensus.SetSpec{}
	if w == nil {
		return all
	}
	mine := map[string]bool{}
	for _, g := range w.State.GroupsOf(desired.HostName(s.self)) {
		mine[g.Coordinators] = true
	}
	for name, set := range w.State.Sets {
		spec := consensus.SetSpec{Name: name, Epoch: set.Epoch, Introduction: s.intro}
		votes := false
		for _, v := range set.Voters {
			spec.Voters = append(spec.Voters, consensus.Voter{Host: string(v.Host), Storage: v.Storage})
			votes = votes || string(v.Host) == s.self
		}
		if votes || mine[name] || s.owes(spec) {
			all[name] = spec
		}
	}
	return all
}

// owes says whether this host followed an earlier epoch of a set that has not begun its new one: it may hold the state that the new epoch adopts.
func (s *sets) owes(spec consensus.SetSpec) bool {
	s.mu.Lock()
	run := s.open[spec.Name]
	s.mu.Unlock()
	if run == nil {
		return false
	}
	return run.spec.Epoch < spec.Epoch || run.owed && !run.set.Status().Quorum
}

// reconcile makes what is open equal to what is wanted.
func (s *sets) reconcile(ctx context.Context) {
	w := s.world()
	wanted := s.wanted(w)
	s.forget(wanted)
	owed := map[string]bool{}
	for name, run := range s.list() {
		spec, keep := wanted[name]
		owed[name] = keep && (run.spec.Epoch < spec.Epoch || run.owed)
		stopped := false
		select {
		case <-run.done:
			stopped = true
		default:
		}
		if keep && !stopped && reflect.DeepEqual(spec, run.spec) {
			delete(wanted, name)
			continue
		}
		if _, exists := w.State.Sets[name]; !keep && !stopped && exists && (s.granted(run) || s.brokenHere(w, run)) {
			continue // the end of what this host was granted must still be told, and a mistyped file takes no host out of its group
		}
		s.close(name, run)
	}
	for name, spec := range wanted {
		if err := s.start(ctx, spec, owed[name]); err != nil {
			s.note(name, err.Error())
			continue
		}
		s.note(name, "")
	}
}

// granted says whether this host has an open grant in a set.
func (s *sets) granted(run *setRun) bool {
	var list []rollout.Assignment
	run.set.View(func(consensus.Machine) { list = run.machine.Assignments(s.self) })
	return slices.ContainsFunc(list, func(a rollout.Assignment) bool { return a.Grant != nil })
}

// brokenHere says whether this host belongs to a group of a set whose files cannot be used.
func (s *sets) brokenHere(w *world, run *setRun) bool {
	var views []rollout.GroupView
	run.set.View(func(consensus.Machine) { views = run.machine.Groups() })
	return slices.ContainsFunc(views, func(v rollout.GroupView) bool {
		return isBroken(w, v) && slices.ContainsFunc(v.Members, func(m rollout.MemberInfo) bool { return m.Host == s.self })
	})
}

// forget drops what is said of sets that are no longer wanted.
func (s *sets) forget(wanted map[string]consensus.SetSpec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.failed, func(name, _ string) bool {
		_, ok := wanted[name]
		return !ok
	})
}

// missing lists the sets that this host should follow and does not.
func (s *sets) missing(w *world) []string {
	open := s.list()
	var names []string
	for name := range s.wanted(w) {
		if open[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// note keeps and logs, once, why a set could not be opened.
func (s *sets) note(name, why string) {
	s.mu.Lock()
	news := s.failed[name] != why
	if s.failed == nil {
		s.failed = map[string]string{}
	}
	s.failed[name] = why
	s.mu.Unlock()
	if news && why != "" {
		s.log.Error("a coordinator set cannot be followed", "set", name, "error", why)
	}
}

// start opens one set and its loops.
func (s *sets) start(ctx context.Context, spec consensus.SetSpec, owed bool) error {
	machine := rollout.NewMachine()
	set, err := s.consensus.Open(spec, machine)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	run := &setRun{spec: spec, owed: owed, set: set, machine: machine, cancel: cancel, done: make(chan struct{}), submits: newOutbox()}
	var loops sync.WaitGroup
	loops.Go(func() {
		if err := set.Run(ctx); err != nil {
			s.log.Error("a coordinator set stopped on this host", "set", spec.Name, "error", err)
		}
		cancel()
	})
	loops.Go(func() { s.forward(ctx, run) })
	loops.Go(func() { s.submit(ctx, run) })
	loops.Go(func() { s.lead(ctx, run) })
	go func() { loops.Wait(); close(run.done) }()
	s.mu.Lock()
	if s.open == nil {
		s.open = map[string]*setRun{}
	}
	s.open[spec.Name] = run
	s.mu.Unlock()
	s.log.Info("following a coordinator set", "set", spec.Name, "epoch", spec.Epoch, "role", string(set.Status().Role))
	return nil
}

// forward hands every change of the replicated state to the member and to whoever watches. The member hears nothing before the state here has caught up with what
// was committed when the set was opened: after a restart a voter replays its log, and a state on the way would tell that a grant of this host is gone.
func (s *sets) forward(ctx context.Context, run *setRun) {
	check := time.NewTicker(setsCheck)
	defer check.Stop()
	floor := make(chan uint64, 1)
	var barrier sync.WaitGroup
	defer barrier.Wait()
	barrier.Go(func() { s.barrier(ctx, run, floor) })
	var known bool
	var from uint64
	for {
		st := run.set.Status()
		s.leads(run.spec.Name, st.Quorum && st.Leader != "")
		s.puzzle(run, st.Problems, time.Now())
		if known && st.Applied >= from && st.Leader != "" && st.Quorum {
			s.pass(run)
		}
		run.changed.Notify()
		s.changed.Notify()
		for quiet := true; quiet; {
			select {
			case <-ctx.Done():
				return
			case from = <-floor:
				known, quiet = true, false
			case <-run.set.Changed():
				quiet = false
			case <-check.C:
				quiet = reflect.DeepEqual(st, run.set.Status())
			}
		}
	}
}

// pass hands the state of a set on as it is now.
func (s *sets) pass(run *setRun) {
	var list []rollout.Assignment
	var ran []string
	run.set.View(func(consensus.Machine) {
		list = run.machine.Assignments(s.self)
		for _, g := range run.machine.Groups() {
			ran = append(ran, g.Running.Commit)
		}
	})
	w := s.world()
	list = slices.DeleteFunc(list, func(a rollout.Assignment) bool {
		g, ok := w.group(a.Group)
		return ok && g.Coordinators != run.spec.Name // git has moved the group to another set, which grants from now on
	})
	s.synced(run.spec.Name, list)
	s.ran(ran...)
}

// barrier has a command committed that changes nothing, and gives its index: a state that has it has everything that was committed before.
func (s *sets) barrier(ctx context.Context, run *setRun, floor chan<- uint64) {
	data, err := rollout.Encode(rollout.Hello{}, time.Now())
	if err != nil {
		s.log.Error("internal error: a command cannot be encoded", "set", run.spec.Name, "error", err)
		return
	}
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, submitTimeout)
		result, err := run.set.Submit(try, data)
		cancel()
		if err == nil {
			floor <- result.Index
			return
		}
		select { // a replica that stopped refuses at once
		case <-ctx.Done():
		case <-time.After(leadPause):
		}
	}
}

// submit sends this host's commands in order.
func (s *sets) submit(ctx context.Context, run *setRun) {
	lingered := false
	for ctx.Err() == nil {
		command, linger, ok := run.submits.take(lingered)
		if ok {
			s.submitOne(ctx, run, command)
			lingered = false
			continue
		}
		var patience <-chan time.Time
		if linger {
			patience = time.After(progressLinger)
		}
		select {
		case <-ctx.Done():
		case <-patience:
			lingered = true
		case <-run.submits.news:
		}
	}
}

// submitOne sends one command; what is lost is made again by the Member.
func (s *sets) submitOne(ctx context.Context, run *setRun, command rollout.Command) {
	data, err := rollout.Encode(command, time.Now())
	if err != nil {
		s.log.Error("internal error: a command cannot be encoded", "set", run.spec.Name, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	if _, err := run.set.Submit(ctx, data); err != nil && ctx.Err() == nil {
		s.log.Debug("a report did not reach the leader; it is made again", "set", run.spec.Name, "error", err)
	}
}

// enqueue queues a command for the set that has group; it never blocks.
func (s *sets) enqueue(group string, command rollout.Command) {
	run := s.ofGroup(group)
	if run == nil {
		return
	}
	run.submits.put(command)
}

// ofGroup finds the open set whose state has group, preferring the one the world names.
func (s *sets) ofGroup(group string) *setRun {
	open := s.list()
	if g, ok := s.world().group(group); ok {
		if run := open[g.Coordinators]; run != nil {
			return run
		}
	}
	for _, run := range open {
		found := false
		run.set.View(func(consensus.Machine) { _, found = run.machine.Group(group) })
		if found {
			return run
		}
	}
	return nil
}

// list copies the open sets.
func (s *sets) list() map[string]*setRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*setRun, len(s.open))
	for name, run := range s.open {
		all[name] = run
	}
	return all
}

// close stops one set and waits for its loops.
func (s *sets) close(name string, run *setRun) {
	run.cancel()
	<-run.done
	s.mu.Lock()
	if s.open[name] == run {
		delete(s.open, name)
	}
	s.mu.Unlock()
}

// closeAll stops every set.
func (s *sets) closeAll() {
	open := s.list()
	for _, run := range open {
		run.cancel()
	}
	for name, run := range open {
		s.close(name, run)
	}
}

// unknownThere ends what a peer answers that does not follow a set, be it for the moment in which it starts or leaves.
const unknownThere = " is not known here"

// puzzle notes since when peers answer that they do not follow a set.
func (s *sets) puzzle(run *setRun, problems []string, now time.Time) {
	since := map[string]time.Time{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range problems {
		if !strings.HasSuffix(p, unknownThere) {
			continue
		}
		since[p] = now
		if before, ok := run.puzzled[p]; ok {
			since[p] = before
		}
	}
	run.puzzled = since
}

// lasting leaves out of the problems those that the next moment may explain.
func (s *sets) lasting(run *setRun, problems []string, now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, p := range problems {
		since, ok := run.puzzled[p]
		switch {
		case !strings.HasSuffix(p, unknownThere):
			all = append(all, p)
		case ok && now.Sub(since) >= puzzledFor:
			host, _, _ := strings.Cut(p, " ")
			all = append(all, fmt.Sprintf("%s does not follow it; it may lag behind the newest commit, `gitopsd status` there says why", host))
		}
	}
	return all
}

// awaitedOf says what a set with these voters and without a leader waits for.
func awaitedOf(voters []string, alive func() life) string {
	hosts, live := voterHosts(voters), enoughLive(voters, alive)
	switch {
	case len(voters) == 1 && live:
		return "its voter " + hosts + " is to be elected, which takes seconds"
	case len(voters) == 1:
		return "its voter " + hosts + " must be up"
	case live:
		return "one of its voters (" + hosts + ") is to be elected, which takes seconds where they reach each other"
	}
	return "a majority of its voters (" + hosts + ") must be up and reach each other"
}

// notices reports sets that have no leader, failed, or were described twice.
func (s *sets) notices() []status.Notice {
	var all []status.Notice
	for name, run := range s.list() {
		st := run.set.Status()
		for _, p := range s.lasting(run, st.Problems, time.Now()) {
			all = append(all, status.Notice{Kind: "CoordinatorSet", Host: s.self, Message: fmt.Sprintf("set %s: %s", name, p)})
		}
		if st.Failed != "" {
			all = append(all, status.Notice{Kind: "CoordinatorSet", Host: s.self, Message: fmt.Sprintf("set %s stopped on this host: %s; mend that, and restart the agent here if it stays so", name, st.Failed)})
		}
		if !st.Quorum {
			all = append(all, status.Notice{Kind: "NoQuorum", Host: s.self, Message: fmt.Sprintf("set %s has no leader: %s; nothing is started meanwhile", name, awaitedOf(st.Voters, s.alive))})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, why := range s.failed {
		if why != "" {
			all = append(all, status.Notice{Kind: "CoordinatorSet", Host: s.self, Message: fmt.Sprintf("set %s cannot be followed: %s", name, why)})
		}
	}
	return all
}
