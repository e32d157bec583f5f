package consensus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Errors that callers tell apart, with errors.Is.
var (
	// ErrUnknown means that a command may have been applied, or may be applied
	// later, or never. Submit it again only if it is idempotent.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNotLeader means that this host does not lead in the term that was
	// asked for; the command was not applied and will not be.
	ErrNotLeader = errors.New("this host is not the leader in that term")
	// ErrNoLeader means that no leader was reached in time; nothing was sent.
	ErrNoLeader = errors.New("no leader was reached")
	// ErrBusy means that too many commands wait already; nothing was sent.
	ErrBusy = errors.New("too many commands are waiting")
	// ErrFailed means that this replica stopped for good; see Status.Failed.
	// The set can be opened again.
	ErrFailed = errors.New("this replica stopped")
)

// Role is what this host is in a set.
type Role string

// The two roles.
const (
	RoleVoter    Role = "voter"
	RoleObserver Role = "observer"
)

// Result is what became of a command.
type Result struct {
	// Index is the one Machine.Apply saw.
	Index uint64
	// Response is what Machine.Apply returned on the leader.
	Response []byte
}

// Status describes a set as this host sees it.
type Status struct {
	Set   string
	Epoch uint64
	Role  Role
	// Leader is the host believed to lead, or "".
	Leader string
	// Term is the raft term this host knows of.
	Term uint64
	// Leading is true while this host leads in Term and has applied everything
	// committed before; only then does Lead accept commands.
	Leading bool
	// Applied is the index of the last entry applied here.
	Applied uint64
	// Voters are HOST/STORAGE lines, sorted.
	Voters []string
	// Quorum tells whether commands can commit, as far as this host knows.
	Quorum bool
	// StreamedFrom is the voter that an observer follows, or "".
	StreamedFrom string
	// Problems are sentences for an operator; the set works nevertheless.
	Problems []string
	// Failed says why this replica stopped, or is "".
	Failed string
}

// Set is one coordinator set on this host. Its methods may be called at any
// time from any goroutine.
type Set struct {
	c       *Consensus
	log     *slog.Logger
	spec    SetSpec
	id      clusterID
	self    Voter
	role    Role
	rep     *replica
	batch   *batcher
	changed chan struct{} // capacity 1
	failed  chan struct{} // closed with failure set

	mu       sync.Mutex
	running  context.Context // nil before and after Run
	ran      bool
	sessions sync.WaitGroup
	serving  int
	failure  error
	layer    *layer // of a voter, from the start of raft
	v        *voter // once raft runs
	link     *uplink
	heard    tidings   // by an observer
	strand   time.Time // since when heard has no quorum; zero if it has
	avoid    string    // the voter to try last
	fresh    bool      // the own state is in doubt
	brought  *carried  // of earlier epochs, once it is known
	born     bool      // the epoch had reached this host when it started
	pending  string    // what its birth waits for
	problems []string
	kin      kin
	notes    map[string]remark // voter -> why it refuses
	route    chan struct{}     // closed at the next change of who leads or how to get there
	direct   map[string]time.Time
	relayed  map[string]time.Time
}

// remark is why a voter refuses, or is refused, when it last did, and whether that passes by itself.
type remark struct {
	text    string
	at      time.Time
	passing bool
}

func newSet(c *Consensus, spec SetSpec, machine Machine, problems []string, lost string) *Set {
	s := &Set{c: c, log: c.log, spec: spec, id: spec.id(), self: Voter{Host: c.opt.Host, Storage: c.opt.Storage}, role: RoleObserver,
		batch: newBatcher(), changed: make(chan struct{}, 1), failed: make(chan struct{}), problems: problems, notes: map[string]remark{},
		route: make(chan struct{}), direct: map[string]time.Time{}, relayed: map[string]time.Time{}}
	if listed, ok := spec.voter(s.self.Host); ok && listed == s.self && lost == "" {
		s.role = RoleVoter
	} else if ok && listed == s.self {
		s.kin.lost = lost
		s.problems = append(s.problems, s.remedy(lost))
	} else if ok {
		s.problems = append(s.problems, fmt.Sprintf("coordinator set %s lists this host as the voter %s, but its storage id is %s: it only observes; list its new storage id under the next epoch",
			spec.Name, listed, s.self.Storage))
	}
	s.rep = newReplica(machine, spec.Epoch, s.role == RoleVoter)
	s.rep.fenced = c.opt.Fenced
	return s
}

// Run takes part in the set until ctx ends, and then leaves it cleanly,
// handing leadership over where possible. It returns nil after ctx ended, and
// an error wrapping ErrFailed if this replica had to stop: its store failed or
// stalled, or it met an entry of a version it does not know. A set can be run
// once; to go on after an error, Open it again with a fresh machine.
func (s *Set) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.mu.Lock()
	if s.ran {
		s.mu.Unlock()
		return fmt.Errorf("cannot run coordinator set %s a second time: open it again", s.spec.Name)
	}
	s.ran, s.running = true, inner
	s.mu.Unlock()
	defer s.c.forget(s)
	var err error
	if s.role == RoleVoter {
		err = s.enroll()
	}
	if err == nil {
		err = s.recover(ctx)
	}
	if err != nil {
		s.fail(err)
	} else if ctx.Err() != nil || s.failedErr() != nil {
		err = nil
	} else if s.role == RoleVoter {
		err = s.runVoter(ctx, inner)
	} else {
		s.runObserver(ctx, inner)
	}
	s.mu.Lock()
	s.running = nil
	s.mu.Unlock()
	cancel()
	s.sessions.Wait()
	s.batch.close()
	s.bump()
	if f := s.failedErr(); f != nil {
		return fmt.Errorf("coordinator set %s: %w", s.spec.Name, f)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot run coordinator set %s: %w", s.spec.Name, err)
	}
	return nil
}

// runVoter runs raft until ctx ends or the replica fails; inner ends later.
func (s *Set) runVoter(ctx, inner context.Context) error {
	inner, cancel := context.WithCancel(inner)
	defer cancel()
	starting, abort := context.WithCancel(inner)
	defer abort()
	defer context.AfterFunc(ctx, abort)()
	v, err := s.startVoter(inner, starting)
	if errors.Is(err, errLeft) {
		return nil
	}
	if err != nil {
		return err
	}
	watching := s.start(inner, v.watch)
	attending := s.start(inner, func(ctx context.Context) { s.attend(ctx, v) })
	s.log.Info("voting", "set", s.spec.Name, "epoch", s.spec.Epoch, "voter", s.self.String(), "starts", s.life().starts)
	var greeting sync.WaitGroup
	defer greeting.Wait()
	for _, to := range s.spec.Voters {
		if to != s.self {
			greeting.Go(func() { v.introduce(inner, to) })
		}
	}
	select {
	case <-ctx.Done():
		if s.batch.leading() != 0 && len(s.spec.Voters) > 1 {
			s.resign(v)
		}
	case <-s.failed:
	}
	s.mu.Lock()
	s.running = nil // no new sessions, and none waits for raft below
	s.mu.Unlock()
	cancel()
	v.stop()
	watching()
	attending()
	return nil
}

// resign hands leadership to any voter, for as long as an election would take.
func (s *Set) resign(v *voter) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.raft.LeadershipTransfer().Error()
	}()
	timer := time.NewTimer(2 * s.c.opt.Timing.Election)
	defer timer.Stop()
	select {
	case <-done:
	case <-s.failed:
	case <-timer.C:
	}
}

// runObserver follows the voters until ctx ends or the replica fails.
func (s *Set) runObserver(ctx, inner context.Context) {
	s.log.Info("observing", "set", s.spec.Name, "epoch", s.spec.Epoch)
	following := s.start(inner, s.observe)
	select {
	case <-ctx.Done():
	case <-s.failed:
	}
	following()
}

// fail stops this replica for good. It is called from anywhere, raft's own
// goroutines included, and returns at once with the set cut off from the others.
func (s *Set) fail(err error) {
	s.mu.Lock()
	if s.failure != nil {
		s.mu.Unlock()
		return
	}
	s.failure = fmt.Errorf("%w: %w", ErrFailed, err)
	close(s.failed)
	l, v := s.layer, s.v
	s.mu.Unlock()
	if l != nil {
		l.Close()
	}
	if v != nil {
		v.raft.Shutdown()
	}
	s.log.Error("this replica stopped", "set", s.spec.Name, "error", err)
	s.bump()
}

// failedErr gives why this replica stopped, or nil.
func (s *Set) failedErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// voting gives the running voter, or nil.
func (s *Set) voting() *voter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil || s.failure != nil {
		return nil
	}
	return s.v
}

// life tells how far this voter's store has come; zero on an observer.
func (s *Set) life() life {
	s.mu.Lock()
	v, own := s.v, s.kin.own
	s.mu.Unlock()
	if own == nil {
		return life{}
	}
	l := *own
	if v != nil {
		l.term = v.raft.CurrentTerm()
	}
	return l
}

// enter admits a session; leave must be called after it.
func (s *Set) enter() (run context.Context, leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil || s.failure != nil {
		return nil, nil, net.ErrClosed
	}
	if s.serving >= sessionsMax {
		return nil, nil, fmt.Errorf("this voter serves %d streams already", s.serving)
	}
	s.serving++
	s.sessions.Add(1)
	return s.running, func() {
		s.mu.Lock()
		s.serving--
		s.mu.Unlock()
		s.sessions.Done()
	}, nil
}

// View calls f with the machine while nothing is applied. f must be brief, must
// not keep the machine and must not call the set.
func (s *Set) View(f func(Machine)) { s.rep.view(f) }

// Hash gives the sha256 of the machine's snapshot and the index it stands for.
func (s *Set) Hash() (index uint64, sum [32]byte, err error) {
	st, err := s.rep.snapshot()
	if err != nil {
		return 0, sum, fmt.Errorf("cannot hash the state of set %s: %w", s.spec.Name, err)
	}
	return IndexOf(s.spec.Epoch, st.applied), sha256.Sum256(st.machine), nil
}

// TransferLeadership asks the voter on host to (or any other, if to is "") to
// take over, and returns once it does. This host must be the leader.
func (s *Set) TransferLeadership(ctx context.Context, to string) error {
	v := s.voting()
	if v == nil || s.batch.leading() == 0 {
		return fmt.Errorf("cannot hand over set %s: %w", s.spec.Name, ErrNotLeader)
	}
	var future raft.Future
	if to == "" {
		future = v.raft.LeadershipTransfer()
	} else {
		heir, ok := s.spec.voter(to)
		if !ok || heir == s.self {
			return fmt.Errorf("cannot hand over set %s: %s is not another of its voters", s.spec.Name, to)
		}
		future = v.raft.LeadershipTransferToServer(raft.ServerID(heir.String()), raft.ServerAddress(heir.Host))
	}
	done := make(chan error, 1)
	go func() { done <- future.Error() }() // ends within the election timeout
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("cannot hand over set %s: %w", s.spec.Name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot hand over set %s: %w", s.spec.Name, ctx.Err())
	}
}
