package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/status"
)

// Pace of the source loop.
const (
	pollersPerFleet = 2                // hosts that poll at the configured interval
	auditMin        = 10 * time.Minute // every other host with a route polls once between these two
	auditMax        = 30 * time.Minute
	retryMin        = time.Second // after a failure, doubling
	retryMax        = 5 * time.Minute
	pullTimeout     = 30 * time.Second // one peer's pack
	hintsMax        = 64               // hints waiting; older ones are superseded by newer ones anyway
)

// world is what one accepted commit says. It is never changed after it was published.
type world struct {
	Commit   configrepo.Commit
	State    *desired.State
	Problems []desired.Problem
	Held     string // why this world's forward changes are held, or ""
}

// group finds a group by id in a world that may be nil.
func (w *world) group(id string) (desired.Group, bool) {
	if w == nil {
		return desired.Group{}, false
	}
	return w.State.Group(desired.GroupID(id))
}

// hint says that host claims to have a commit this host should look at.
type hint struct{ host, tip string }

// source moves the accepted commit forward: it polls, follows peers' hints, and publishes worlds.
type source struct {
	self    string
	repo    func() *configrepo.Repo
	cfg     func() *Config
	peers   func() []string // live hosts that can reach git, self included
	pull    func(ctx context.Context, host, have string) (pack []byte, tip string, err error)
	publish func(tip string) // tells the fleet
	log     *slog.Logger
	// effectiveFile keeps the commit in effect over restarts, so that a held commit stays held.
	effectiveFile string

	hints   chan hint
	demands chan chan error
	swaps   chan func() // changes of the repository object, made between two cycles

	mu       sync.Mutex
	world    *world
	refused  *configrepo.Refusal
	problem  string // the last failure, already logged
	since    time.Time
	failures int
	changed  signal
}

// current returns the newest world, nil before the first accepted commit.
func (s *source) current() *world {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world
}

// refusal returns the refusal of the newest tip that was looked at, or nil.
func (s *source) refusal() *configrepo.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// offer takes a peer's hint; it never blocks.
func (s *source) offer(host string, tip []byte) {
	select {
	case s.hints <- hint{host: host, tip: string(tip)}:
	default:
	}
}

// demand asks for a sync now and waits for it.
func (s *source) demand(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.demands <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run follows git and peers until ctx ends.
func (s *source) Run(ctx context.Context) error {
	if err := s.load(); err != nil {
		s.fail(err)
	}
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case h := <-s.hints:
			s.follow(ctx, h)
			continue
		case swap := <-s.swaps:
			swap()
		case answer := <-s.demands:
			answer <- s.sync(ctx)
		case <-poll.C:
			if err := s.poll(ctx); err != nil && ctx.Err() == nil {
				s.fail(err)
			}
		}
		poll.Reset(s.pause())
	}
}

// pause is the time to the next look at git: backoff after failures, the poll interval for the fleet's pollers, a rare audit for the rest.
func (s *source) pause() time.Duration {
	s.mu.Lock()
	failures, first := s.failures, s.world == nil
	s.mu.Unlock()
	interval := s.cfg().Repository.Poll
	switch {
	case failures > 0:
		return jitter(min(retryMin<<min(failures-1, 16), retryMax))
	case first:
		return jitter(min(interval, retryMin))
	case s.isPoller():
		return jitter(interval)
	}
	return max(interval, auditMin+rand.N(auditMax-auditMin))
}

// jitter spreads d by a fifth either way.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}

// isPoller says whether this host is among the pollers of the fleet: the first by rendezvous over the live hosts that can reach git.
func (s *source) isPoller() bool {
	rank := func(host string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(s.cfg().Repository.Introduction + "\x00" + host))
		return h.Sum64()
	}
	before := 0
	for _, host := range s.peers() {
		if host != s.self && rank(host) > rank(s.self) {
			before++
		}
	}
	return before < pollersPerFleet
}

// poll asks git where there is a route, and otherwise any peer.
func (s *source) poll(ctx context.Context) error {
	if len(s.cfg().Repository.URLs) > 0 {
		return s.sync(ctx)
	}
	if s.current() != nil {
		return nil
	}
	return s.pullFromAnyone(ctx)
}

// sync asks git now.
func (s *source) sync(ctx context.Context) error {
	if len(s.cfg().Repository.URLs) == 0 {
		return s.pullFromAnyone(ctx)
	}
	outcome, err := s.repo().Sync(ctx)
	if err != nil {
		if s.current() == nil {
			if s.pullFromAnyone(ctx) == nil {
				return nil
			}
		}
		return err
	}
	return s.take(outcome)
}

// follow pulls what a peer hinted at, unless it is here already. Failures are silent: polls and audits make up for a lost hint.
func (s *source) follow(ctx context.Context, h hint) {
	if h.host == s.self {
		return
	}
	if w := s.current(); w != nil {
		if known, err := s.repo().IsAncestor(h.tip, w.Commit.ID); err == nil && known {
			return
		}
	}
	if err := s.pullFrom(ctx, h.host); err != nil {
		s.log.Debug("a peer's commits could not be used", "host", h.host, "error", err)
	}
}

// pullFromAnyone tries every peer once.
func (s *source) pullFromAnyone(ctx context.Context) error {
	var errs []error
	names := s.peers()
	for _, j := range s.cfg().Join {
		names = append(names, j.Name)
	}
	seen := map[string]bool{s.self: true}
	for _, host := range names {
		if seen[host] {
			continue
		}
		seen[host] = true
		err := s.pullFrom(ctx, host)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", host, err))
	}
	if len(errs) == 0 {
		return errors.New("cannot find the config repository: this host has no route to git and no peer; set repository.urls or join")
	}
	return fmt.Errorf("cannot get the config repository from a peer: %w", errors.Join(errs...))
}

// pullFrom takes a peer's commits and judges them.
func (s *source) pullFrom(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	have := s.repo().Have()
	pack, tip, err := s.pull(ctx, host, have)
	if err != nil {
		return err
	}
	if tip == have && have != "" {
		s.recover()
		return nil
	}
	outcome, err := s.repo().Receive(ctx, pack, tip)
	if err != nil {
		return err
	}
	return s.take(outcome)
}

// take publishes what a sync or a pull came to.
func (s *source) take(o configrepo.Outcome) error {
	s.recover()
	s.mu.Lock()
	news := o.Refused != nil && (s.refused == nil || s.refused.Commit != o.Refused.Commit || s.refused.Reason != o.Refused.Reason)
	if o.Mirror != "" || o.Refused == nil {
		s.refused = o.Refused
	}
	s.mu.Unlock()
	if news {
		s.log.Warn("a commit was refused", "commit", o.Refused.Commit, "reason", string(o.Refused.Reason), "sentence", o.Refused.Sentence)
		s.changed.Notify()
	}
	if !o.Moved {
		return nil
	}
	return s.load()
}

// load reads the accepted commit's tree and publishes it.
func (s *source) load() error {
	repo := s.repo()
	commit, ok := repo.Accepted()
	if !ok {
		return nil
	}
	tree, err := repo.Tree(commit.ID)
	if err != nil {
		return err
	}
	state, problems := desired.Load(tree)
	if state == nil {
		return fmt.Errorf("cannot read commit %s: %d problems, first: %s", commit.Short(), len(problems), problems[0])
	}
	w := &world{Commit: commit, State: state, Problems: problems}
	if old := s.effective(); old != nil && old.Commit.ID != commit.ID {
		w.State = desired.Keep(old.State, state)
		if held := heldRemoval(old, w); held != "" {
			w = &world{Commit: old.Commit, State: old.State, Problems: problems, Held: held}
		}
	}
	if err := durable.WriteFile(s.effectiveFile, []byte(w.Commit.ID+"\n"), 0o600); err != nil {
		return fmt.Errorf("cannot note the commit in effect: %w", err)
	}
	s.mu.Lock()
	s.world = w
	s.mu.Unlock()
	s.log.Info("commit accepted", "commit", commit.ID, "subject", commit.Subject, "signers", commit.Signers, "groups", len(state.Groups), "problems", len(problems))
	for _, p := range problems {
		s.log.Warn("the config repository has a problem", "commit", commit.Short(), "problem", p.String())
	}
	if w.Held != "" {
		s.log.Warn("the commit is held", "commit", commit.Short(), "why", w.Held)
	}
	s.publish(commit.ID)
	s.changed.Notify()
	return nil
}

// effective returns the world in effect: the one published last, by this process or by the one before it.
func (s *source) effective() *world {
	if w := s.current(); w != nil {
		return w
	}
	text, err := os.ReadFile(s.effectiveFile)
	if err != nil {
		return nil
	}
	repo := s.repo()
	commit, err := repo.Commit(strings.TrimSpace(string(text)))
	if err != nil {
		return nil
	}
	tree, err := repo.Tree(commit.ID)
	if err != nil {
		return nil
	}
	state, _ := desired.Load(tree)
	if state == nil {
		return nil
	}
	return &world{Commit: commit, State: state}
}

// heldRemoval says why a commit that removes much is held, or "". A later commit allows it by naming either the commit in effect or its own parent.
func heldRemoval(old, next *world) string {
	removal := desired.Removed(old.State, next.State)
	for _, parent := range append([]string{old.Commit.ID}, next.Commit.Parents...) {
		if removal.Allowed(next.State, parent) {
			return ""
		}
	}
	return fmt.Sprintf("commit %s is held: %s; if that is meant, commit `allowMassRemoval: %s` in fleet.yaml", next.Commit.Short(), removal.Reason, old.Commit.ID)
}

// fail notes a failure and logs it once as long as it stays the same.
func (s *source) fail(err error) {
	s.mu.Lock()
	s.failures++
	news := s.problem != err.Error()
	s.problem = err.Error()
	if news {
		s.since = time.Now()
	}
	s.mu.Unlock()
	if news {
		s.log.Warn("the config repository cannot be followed; trying again", "error", err)
		s.changed.Notify()
	}
}

// recover forgets failures.
func (s *source) recover() {
	s.mu.Lock()
	had := s.problem != ""
	s.failures, s.problem = 0, ""
	s.mu.Unlock()
	if had {
		s.log.Info("the config repository can be followed again")
		s.changed.Notify()
	}
}

// notices reports what a person should know of the config repository.
func (s *source) notices() []status.Notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []status.Notice
	if s.refused != nil {
		all = append(all, status.Notice{Kind: string(s.refused.Reason), Host: s.self, Message: s.refused.Sentence})
	}
	if s.problem != "" {
		all = append(all, status.Notice{Kind: "SourceUnreachable", Host: s.self, Message: s.problem, Since: status.Stamp(s.since)})
	}
	if s.world == nil {
		return all
	}
	if s.world.Held != "" {
		all = append(all, status.Notice{Kind: "MassRemoval", Message: s.world.Held})
	}
	for _, p := range s.world.Problems {
		kind := "InvalidConfig"
		if p.Warning {
			kind = "ConfigWarning"
		}
		all = append(all, status.Notice{Kind: kind, Subject: path.Dir(p.File), Message: p.String()})
	}
	return all
}
