package consensus

import (
	"context"
	"errors"
	"time"
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
	c        *Consensus
	spec     SetSpec
	id       clusterID
	self     Voter
	role     Role
	problems []string
}

func newSet(c *Consensus, spec SetSpec, machine Machine, problems []string) *Set {
	return &Set{c: c, spec: spec, id: spec.id()}
}

// Run takes part in the set until ctx ends, and then leaves it cleanly,
// handing leadership over where possible. It returns nil after ctx ended, and
// an error wrapping ErrFailed if this replica had to stop: its store failed or
// stalled, or it met an entry of a version it does not know. A set can be run
// once; to go on after an error, Open it again with a fresh machine.
func (s *Set) Run(ctx context.Context) error { return errors.New("not yet") }

// Submit has a command applied by the whole set, and returns once the leader
// has applied it. It waits for a leader as long as ctx allows: errors wrap
// ErrNoLeader or ErrBusy if the command will not be applied, ErrUnknown if it
// may be. At most 256 KiB.
func (s *Set) Submit(ctx context.Context, command []byte) (Result, error) {
	return Result{}, ErrNoLeader
}

// Lead has a command applied only if this host leads in exactly this term, and
// the log puts the command into that term; otherwise ErrNotLeader. Errors
// wrapping ErrUnknown mean that it may yet be applied, in that term only.
func (s *Set) Lead(ctx context.Context, term uint64, command []byte) (Result, error) {
	return Result{}, ErrNotLeader
}

// Status tells how the set is doing.
func (s *Set) Status() Status { return Status{} }

// View calls f with the machine while nothing is applied. f must be brief, must
// not keep the machine and must not call the set.
func (s *Set) View(f func(Machine)) {}

// Changed signals, coalesced, that something was applied or that the role,
// leader or quorum changed. It is for one receiver.
func (s *Set) Changed() <-chan struct{} { return nil }

// TransferLeadership asks the voter on host to (or any other, if to is "") to
// take over, and returns once it does. This host must be the leader.
func (s *Set) TransferLeadership(ctx context.Context, to string) error { return ErrNotLeader }

// Reachable gives the time of the last contact by stream of every host this
// voter has heard of since it started, itself included; on the leader that
// includes hosts attached to other voters. Empty on an observer.
func (s *Set) Reachable() map[string]time.Time { return nil }

// Hash gives the sha256 of the machine's snapshot and the index it stands for.
func (s *Set) Hash() (index uint64, sum [32]byte, err error) { return 0, sum, nil }
