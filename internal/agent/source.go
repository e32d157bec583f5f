package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/status"
)

// Pace of the source loop.
const (
	pollersPerFleet = 2                // hosts that poll at the configured interval
	hintRetry       = 5 * time.Second  // about when a host looks for itself after a hint it could not follow
	auditMin        = 10 * time.Minute // every other host looks for itself once between these two
	auditMax        = 30 * time.Minute
	retryMin        = time.Second // after a failure, doubling
	retryMax        = 5 * time.Minute
	pullTimeout     = 30 * time.Second // one peer's pack
	pullsMax        = 8                // peers asked in one round
	verifyPause     = 10 * time.Second // between two looks for whoever waits for what another host refuses
	verifyMax       = 10 * time.Second // one such look
)

// source moves the accepted commit forward: it polls, follows peers' hints, and publishes worlds.
type source struct {
	self  string
	repo  func() *configrepo.Repo
	cfg   func() *Config
	peers func() []string // live hosts that can reach git, self included
	// pull takes what host has beyond have; pack is nil where that is nothing.
	pull    func(ctx context.Context, host, have string) (pack io.ReadCloser, tip string, err error)
	publish func(tip string)          // tells the fleet
	reach   func(git bool)            // told whether this host reaches git, when that changes
	tell    func(*configrepo.Refusal) // tells the fleet what git's newest tip is refused for, nil when it is not; may be nil
	log     *slog.Logger
	// effectiveFile keeps the commit in effect over restarts, so that a held commit stays held.
	effectiveFile string

	hints   *hints
	demands chan chan error
	swaps   chan func() // changes of the repository object, made between two cycles
	audit   time.Time   // when this host looks for itself although others poll; owned by Run
	reaches bool        // what reach was told last; owned by Run
	rewinds rewinds     // owned by Run

	mu       sync.Mutex
	world    *world
	loaded   string // the accepted commit that world comes from; another than world.Commit while it is held
	refused  *configrepo.Refusal
	fork     *configrepo.Refusal
	floor    string
	floorWhy string
	problem  string // the last failure, already logged
	advice   string // about it, where it is this host's own
	since    time.Time
	failures int
	verified time.Time // when verify looked last
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
	if host != s.self && commitPattern.Match(tip) {
		s.hints.put(host, string(tip))
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

// verify looks at git for itself, so that nobody has to be believed about what is refused there. It looks seldom, waits for a bounded time, and not at all without a
// route to git.
func (s *source) verify(ctx context.Context) {
	s.mu.Lock()
	soon := time.Since(s.verified) < verifyPause
	if !soon {
		s.verified = time.Now()
	}
	s.mu.Unlock()
	if soon || len(s.cfg().Repository.URLs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, verifyMax)
	defer cancel()
	_ = s.demand(ctx) // a failure is logged, and a notice
}

// Run follows git and peers until ctx ends.
func (s *source) Run(ctx context.Context) error {
	// Before load, which writes the file anew: the mirror may be older than it, restored from a backup.
	if doc, err := readEffective(s.effectiveFile, s.cfg().Repository.Introduction); err == nil && doc.Commit != "" {
		s.raiseTo(doc.Commit, fmt.Sprintf("which was in effect here, says %s; fetch from a mirror that has it, or, if that file is left from a backup or from a branch that is gone for good, "+
			"stop the agent, remove the file and start it again", s.effectiveFile))
	}
	if err := s.load(); err != nil {
		s.fail(err)
	}
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.hints.news:
			if h, ok := s.hints.take(); ok {
				s.follow(ctx, h)
			}
			continue
		case swap := <-s.swaps:
			swap()
		case answer := <-s.demands:
			s.look(ctx, answer)
		case <-poll.C:
			if s.due(time.Now()) {
				s.look(ctx)
			}
		}
		poll.Reset(s.pause())
	}
}

// look looks for news now and tells everyone who asked for it by then.
func (s *source) look(ctx context.Context, answers ...chan error) {
	for more := true; more; {
		select {
		case answer := <-s.demands:
			answers = append(answers, answer)
		default:
			more = false
		}
	}
	err := s.sync(ctx)
	if err != nil && ctx.Err() == nil {
		s.fail(err)
	}
	s.audit = time.Now().Add(auditMin + rand.N(auditMax-auditMin))
	for _, answer := range answers {
		answer <- err
	}
}

// pause is the time to the next thought of looking: backoff after failures, else the poll interval.
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
	}
	return jitter(interval)
}

// due says whether it is this host's turn to look: it is one of the fleet's pollers, something is missing, or a rare audit has come.
func (s *source) due(now time.Time) bool {
	s.mu.Lock()
	failures, first := s.failures, s.world == nil
	s.mu.Unlock()
	return failures > 0 || first || !now.Before(s.audit) || len(s.cfg().Repository.URLs) > 0 && s.isPoller()
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

// sync asks git, where there is a route, and a peer where there is none or git does not answer.
func (s *source) sync(ctx context.Context) error {
	if len(s.cfg().Repository.URLs) == 0 {
		s.reached(false)
		return s.pullFromAnyone(ctx)
	}
	outcome, err := s.repo().Sync(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.reached(err == nil)
	if err != nil {
		if peers := s.pullFromAnyone(ctx); peers != nil {
			s.log.Debug("git does not answer, and no peer helps", "error", peers)
		}
		return err
	}
	return s.take(outcome, true)
}

// reached tells the fleet whether this host can reach git.
func (s *source) reached(git bool) {
	if git != s.reaches {
		s.reaches = git
		s.reach(git)
	}
}

// follow pulls what a peer hinted at, unless it is known already. After a failure this host looks for itself before long: the hint does not come again.
func (s *source) follow(ctx context.Context, h hint) {
	if refused := s.refusal(); s.knows(h.tip) || refused != nil && refused.Commit == h.tip {
		return
	}
	if err := s.pullFrom(ctx, h.host); err != nil {
		s.log.Debug("a peer's commits could not be used", "host", h.host, "error", err)
		if again := time.Now().Add(jitter(hintRetry)); s.audit.After(again) {
			s.audit = again
		}
	}
}

// knows says whether a commit belongs to the history this host has accepted.
func (s *source) knows(commit string) bool {
	accepted, ok := s.repo().Accepted()
	if !ok {
		return false
	}
	known, err := s.repo().IsAncestor(commit, accepted.ID)
	return err == nil && known
}

// pullFromAnyone asks peers until one answers.
func (s *source) pullFromAnyone(ctx context.Context) error {
	var errs []error
	names := s.peers()
	for _, j := range s.cfg().Join {
		names = append(names, j.Name)
	}
	seen := map[string]bool{s.self: true}
	for _, host := range names {
		if seen[host] || len(seen) > pullsMax {
			continue
		}
		seen[host] = true
		err := s.pullFrom(ctx, host)
		var own ownError
		switch {
		case err == nil || ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &own): // the next one's commits would end the same way
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", host, err))
	}
	if len(errs) == 0 {
		return errors.New("cannot find the config repository: this host has no route to git and no peer; set repository.urls or join")
	}
	said := make([]string, len(errs))
	for i, err := range errs {
		said[i] = err.Error()
	}
	return &peersError{text: "cannot get the config repository from a peer: " + strings.Join(said, "; "), errs: errs}
}

// peersError says on one line why no peer helped.
type peersError struct {
	text string
	errs []error
}

func (e *peersError) Error() string   { return e.text }
func (e *peersError) Unwrap() []error { return e.errs }

// pullFrom takes a peer's commits and judges them. A peer that has nothing new is no failure.
func (s *source) pullFrom(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	have := s.repo().Have()
	pack, tip, err := s.pull(ctx, host, have)
	if err != nil {
		return err
	}
	if pack == nil && tip != have && !s.knows(tip) {
		// It lacks what this host has, and has what this host lacks: only both together show whether history has forked.
		if pack, tip, err = s.pull(ctx, host, s.cfg().Repository.Introduction); err != nil {
			return err
		}
	}
	var outcome configrepo.Outcome
	if pack != nil {
		defer pack.Close()
		if outcome, err = s.repo().Receive(ctx, pack, tip); err != nil {
			return err
		}
	}
	return s.take(outcome, false)
}

// take publishes what a sync or a pull came to. A peer's refused tip is the peer's matter, unless it shows that history has forked.
func (s *source) take(o configrepo.Outcome, git bool) error {
	if git {
		o.Refused = s.rewinds.judge(o, time.Now(), func(commit, than string) bool {
			older, err := s.repo().IsAncestor(commit, than)
			return err == nil && older
		})
	}
	forked := o.Refused != nil && o.Refused.Reason == configrepo.ReasonForked
	accepted, ok := s.repo().Accepted()
	s.mu.Lock()
	news := git && o.Refused != nil && (s.refused == nil || s.refused.Commit != o.Refused.Commit || s.refused.Reason != o.Refused.Reason)
	over := s.refused != nil && (git && o.Refused == nil || !git && accepted.ID != s.loaded) // git has moved on, perhaps to what a peer has handed over
	if git {
		s.refused = o.Refused
	} else if over {
		s.refused = nil
	}
	if forked && (s.fork == nil || s.fork.Commit != o.Refused.Commit) {
		news, s.fork = true, o.Refused
	}
	loaded := s.loaded
	s.mu.Unlock()
	switch {
	case s.tell == nil:
	case over:
		s.tell(nil)
	case news && git:
		s.tell(o.Refused)
	}
	if news {
		s.log.Warn("a commit was refused", "commit", o.Refused.Commit, "reason", string(o.Refused.Reason), "sentence", o.Refused.Sentence)
		s.changed.Notify()
	}
	if ok && (accepted.ID != loaded || forked && news) {
		if err := s.load(); err != nil {
			return ownError{err}
		}
	}
	if git || len(s.cfg().Repository.URLs) == 0 {
		s.recover()
	}
	return nil
}

// load reads the accepted commit's tree and publishes it.
func (s *source) load() error {
	repo := s.repo()
	commit, ok := repo.Accepted()
	if !ok {
		return nil
	}
	state, problems, err := readState(repo, commit.ID)
	if err != nil {
		return err
	}
	old, err := s.effective()
	if err != nil {
		return err
	}
	w := (&world{Commit: commit, State: state, Problems: problems}).follow(old)
	s.mu.Lock()
	fork, floor := s.fork, s.floor
	s.mu.Unlock()
	if floor == "" || s.knows(floor) { // else the file names a later commit, which a restart must not forget
		if err := writeEffective(s.effectiveFile, s.cfg().Repository.Introduction, w); err != nil {
			return err
		}
	}
	if fork != nil {
		if both, err := repo.IsAncestor(fork.Commit, commit.ID); err == nil && both {
			fork = nil
		} else {
			w.Forked = fork.Sentence
		}
	}
	s.mu.Lock()
	news := s.loaded != commit.ID
	s.world, s.loaded, s.fork = w, commit.ID, fork
	s.mu.Unlock()
	if news {
		s.announce(commit, w)
	}
	s.publish(commit.ID)
	s.changed.Notify()
	return nil
}

// announce logs a commit and what is wrong with it, once.
func (s *source) announce(commit configrepo.Commit, w *world) {
	s.log.Info("commit accepted", "commit", commit.ID, "subject", commit.Subject, "signers", commit.Signers, "groups", len(w.State.Groups), "problems", len(w.Problems))
	for _, p := range w.Problems {
		s.log.Warn("the config repository has a problem", "commit", commit.Short(), "problem", p.String())
	}
	if w.Held != "" {
		s.log.Warn("the commit is held", "commit", commit.Short(), "why", w.Held)
	}
}

// effective returns the world in effect: the one published last, by this process or by the one before it; nil when there is none.
func (s *source) effective() (*world, error) {
	if w := s.current(); w != nil {
		return w, nil
	}
	doc, err := readEffective(s.effectiveFile, s.cfg().Repository.Introduction)
	if err != nil {
		return nil, err
	}
	return doc.restore(s.repo())
}

// raise keeps this host from accepting a history that lacks a commit which ran in its fleet, or here: its own ratchet may have been lost. What it knows already
// changes nothing. Only commits that hosts have verified and run may be given: a floor that a single peer could invent would shut out the commit that expels it.
func (s *source) raise(commits ...string) {
	for _, commit := range commits {
		s.raiseTo(commit, "which the fleet has run; fetch from a mirror that has it")
	}
}

// raiseTo does it for one commit; why is what configrepo.RaiseFloor asks for.
func (s *source) raiseTo(commit, why string) {
	s.mu.Lock()
	done := commit == "" || commit == s.floor
	s.mu.Unlock()
	if done || s.knows(commit) {
		return
	}
	if err := s.repo().RaiseFloor(commit, why); err != nil {
		s.log.Warn("a commit cannot be made a floor", "commit", commit, "error", err)
		return
	}
	s.mu.Lock()
	s.floor, s.floorWhy = commit, why
	s.mu.Unlock()
	s.log.Info("only histories with this commit are accepted from now on", "commit", commit, "why", why)
}

// adopt prepares a new repository object to take the place of the old one.
func (s *source) adopt(repo *configrepo.Repo) error {
	s.mu.Lock()
	floor, why := s.floor, s.floorWhy
	s.mu.Unlock()
	if floor == "" {
		return nil
	}
	return repo.RaiseFloor(floor, why)
}

// fail notes a failure and logs it once as long as it stays the same.
func (s *source) fail(err error) {
	s.mu.Lock()
	s.failures++
	news := s.problem != err.Error()
	s.problem, s.advice = err.Error(), sourceAdvice(err)
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
	if s.fork != nil {
		all = append(all, status.Notice{Kind: string(s.fork.Reason), Host: s.self, Message: s.fork.Sentence})
	}
	if s.refused != nil && (s.fork == nil || s.fork.Commit != s.refused.Commit) {
		all = append(all, status.Notice{Kind: string(s.refused.Reason), Host: s.self, Message: s.refused.Sentence})
	}
	if s.problem != "" {
		message := s.problem
		if s.advice != "" {
			message += "; " + s.advice
		}
		all = append(all, status.Notice{Kind: "SourceUnreachable", Host: s.self, Message: message, Since: status.Stamp(s.since)})
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
