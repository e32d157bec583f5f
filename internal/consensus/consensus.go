package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/hashicorp/raft"
)

// Machine is the replicated state. Its methods are called by one goroutine at a
// time, under the lock of the set.
type Machine interface {
	// Apply performs one command and returns the response for whoever submitted
	// it. It must be deterministic: no clock, no randomness, no map order.
	// Several commands may share an index; from is the host that submitted, as
	// proved by its identity.
	Apply(index, term uint64, from string, command []byte) []byte
	// Snapshot encodes the whole state, at most 64 MiB. The encoding must be
	// canonical: equal states give equal bytes, since hosts compare its hash.
	Snapshot() ([]byte, error)
	// Restore replaces the state by one that Snapshot encoded. Its error says that
	// a snapshot cannot be restored.
	Restore(snapshot []byte) error
}

// Peer is who is at the other end of a stream.
type Peer struct {
	// Host is the name whose key the other end proved to hold.
	Host string
}

// Stream is a connection to a host whose identity is proved.
type Stream interface {
	net.Conn
	Peer() Peer
}

// Streams opens and accepts streams by protocol name. Package transport's does,
// tests use one in memory.
type Streams interface {
	// DialStream connects to a host of the inventory.
	DialStream(ctx context.Context, host, protocol string) (Stream, error)
	// HandleStream is called in New, once for each protocol. The handler
	// owns the stream until it returns.
	HandleStream(protocol string, handler func(ctx context.Context, s Stream))
}

// Names of the stream protocols of this package.
const (
	ProtocolRaft    = "raft/1"    // between voters
	ProtocolObserve = "observe/1" // entries down, submissions and reachability up
	ProtocolAdopt   = "adopt/1"   // the state of earlier epochs, to the founder of a new one
)

// Options is what New needs.
type Options struct {
	// Host is this host's name in the inventory.
	Host string
	// Storage is this host's storage id, made once together with Dir.
	Storage string
	// Dir holds raft.db and the snapshots; made if missing, mode 0700.
	Dir string
	// BirthDir, which must exist and outlive Dir, gets a small file
	// raft-born-SET-CLUSTER before this host first votes in a cluster. By it a
	// host notices that Dir was lost, and does not vote again. The default is
	// the directory that holds Dir.
	BirthDir string
	// Streams connects to the other hosts.
	Streams Streams
	// Fenced says which commands only the leader may put into the log, by Lead:
	// any host of the set may Submit, so without it each of them could speak as
	// the leader. It must be the same function on every host; nil means none.
	Fenced func(command []byte) bool
	// Log receives what an operator wants to know; nil discards it.
	Log *slog.Logger
	// Timing; the zero value means DefaultTiming.
	Timing Timing
}

// Consensus holds what all sets of this host share: the log store and the
// protocols. It starts nothing by itself.
type Consensus struct {
	opt   Options
	log   *slog.Logger
	store *store
	tune  func(*raft.Config) // for tests
	disk  *durable.Disk      // for tests; nil is the plain one

	mu     sync.Mutex
	sets   map[clusterID]*Set
	names  map[string]bool      // of sets that are open, or about to be
	last   map[string]*follower // what observers had when they were closed, by set
	told   map[string]time.Time // refusals that were logged
	closed bool
}

// New opens the store and registers the stream protocols.
func New(opt Options) (*Consensus, error) {
	if opt.Host == "" || opt.Storage == "" || opt.Dir == "" || opt.Streams == nil {
		return nil, errors.New("cannot start consensus: Host, Storage, Dir and Streams are all required")
	}
	if err := (Voter{Host: opt.Host, Storage: opt.Storage}).check(); err != nil {
		return nil, fmt.Errorf("cannot start consensus: %w", err)
	}
	if opt.Timing == (Timing{}) {
		opt.Timing = DefaultTiming()
	}
	if err := opt.Timing.check(); err != nil {
		return nil, fmt.Errorf("cannot start consensus: %w", err)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := durable.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot start consensus: %w", err)
	}
	if opt.BirthDir == "" {
		opt.BirthDir = filepath.Dir(filepath.Clean(opt.Dir))
	}
	c := &Consensus{opt: opt, log: opt.Log, sets: map[clusterID]*Set{}, names: map[string]bool{}, last: map[string]*follower{}, told: map[string]time.Time{}}
	if err := c.openStore(); err != nil {
		return nil, err
	}
	opt.Streams.HandleStream(ProtocolRaft, c.acceptRaft)
	opt.Streams.HandleStream(ProtocolObserve, c.acceptObserve)
	opt.Streams.HandleStream(ProtocolAdopt, c.acceptAdopt)
	return c, nil
}

// openStore opens the store. A damaged one is laid aside: by that this host
// knows that it must not vote again under this storage id, see lostBirth, and
// what it only observes goes on.
func (c *Consensus) openStore() error {
	path := filepath.Join(c.opt.Dir, storeFile)
	st, err := openStore(path)
	if errors.Is(err, errDamaged) {
		aside := c.setAside()
		if _, known := os.Lstat(aside); known == nil {
			aside += ".again"
		}
		if failed := durable.Rename(path, aside); failed != nil {
			return fmt.Errorf("%w; and it cannot be laid aside: %w", err, failed)
		}
		c.log.Error("the raft store is damaged and was laid aside: this host only observes until it has a new storage id", "file", path, "aside", aside, "error", err)
		st, err = openStore(path)
	}
	c.store = st
	return err
}

// Close closes the store. Every Set's Run must have returned. It waits for a
// write in progress, but not longer than the stall limit.
func (c *Consensus) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	return c.store.close(c.opt.Timing.Stall)
}

// Open prepares a set; its Run takes part in it. The machine must be fresh,
// and the set must not be open in another epoch. With the record of a higher
// epoch this host has left all earlier ones for good, whether it votes or not.
// Another list of voters under an epoch that was seen before is ignored, and
// reported in Status.Problems. An epoch older than one seen before is refused.
func (c *Consensus) Open(spec SetSpec, machine Machine) (*Set, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("cannot open coordinator set %q: %w", spec.Name, err)
	}
	if machine == nil {
		return nil, fmt.Errorf("cannot open coordinator set %q: no machine", spec.Name)
	}
	if err := c.reserve(spec.Name); err != nil {
		return nil, fmt.Errorf("cannot open coordinator set %q: %w", spec.Name, err)
	}
	var problems []string
	lost := ""
	err := c.store.revive(c.opt.Timing.Stall)
	if err == nil {
		spec, problems, err = c.enterEpoch(spec)
	}
	if err == nil && spec.has(Voter{Host: c.opt.Host, Storage: c.opt.Storage}) {
		lost, err = c.lostBirth(spec)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.names, spec.Name)
		return nil, fmt.Errorf("cannot open coordinator set %q: %w", spec.Name, err)
	}
	s := newSet(c, spec, machine, problems, lost)
	c.sets[s.id] = s
	return s, nil
}

// reserve keeps a set from being opened twice: no epoch may be recorded while
// an older one is still running.
func (c *Consensus) reserve(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("consensus is closed")
	}
	if c.names[name] {
		return errors.New("it is open already")
	}
	c.names[name] = true
	return nil
}

// lookup finds an open set by its cluster id.
func (c *Consensus) lookup(id clusterID) *Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sets[id]
}

// byName finds an open set by its name, to explain a wrong cluster id.
func (c *Consensus) byName(name string) *Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sets {
		if s.spec.Name == name {
			return s
		}
	}
	return nil
}

// forget makes room for the set to be opened again.
func (c *Consensus) forget(s *Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sets[s.id] == s {
		delete(c.sets, s.id)
		delete(c.names, s.spec.Name)
	}
	at := s.rep.position()
	if s.role != RoleObserver || at.index == 0 || s.rep.doubtful() {
		return
	}
	known := c.last[s.spec.Name]
	if known == nil || known.introduction != s.spec.Introduction || at.compare(known.rep.position()) > 0 {
		c.last[s.spec.Name] = &follower{introduction: s.spec.Introduction, rep: s.rep}
	}
}

// follower is what an observer had when it was closed. It applied nothing but
// committed entries, so it may stand for them if all voters that had them are lost.
type follower struct {
	introduction string
	rep          *replica
}

// remembered gives what this process had as an observer of earlier epochs, or nil.
func (c *Consensus) remembered(spec SetSpec) *replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.last[spec.Name]; known != nil && known.introduction == spec.Introduction && known.rep.position().epoch < spec.Epoch {
		return known.rep
	}
	return nil
}

// Timing is how fast voters and observers notice things. All hosts of a set
// should agree on it.
type Timing struct {
	// Heartbeat is how long a voter waits for a leader before it stands for
	// election; the leader contacts it about ten times as often.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes.
	Election time.Duration
	// Lease is how long a leader goes on without contact to a majority; at most Heartbeat.
	Lease time.Duration
	// Commit is how often an idle leader repeats its commit index.
	Commit time.Duration
	// Keepalive is how often an observer says that it is alive.
	Keepalive time.Duration
	// Batch is the mean time between log entries under load; single
	// submissions are not delayed by it.
	Batch time.Duration
	// Stall is how long a write to the store may take before this host stops
	// taking part in the set.
	Stall time.Duration
}

// DefaultTiming suits fleets: a crashed leader is replaced in about 2 to 6 s.
func DefaultTiming() Timing {
	return Timing{Heartbeat: 2 * time.Second, Election: 2 * time.Second, Lease: time.Second, Commit: 500 * time.Millisecond,
		Keepalive: 15 * time.Second, Batch: 100 * time.Millisecond, Stall: 5 * time.Second}
}

// FastTiming suits tests, demonstrations and small fleets on a good network: a
// crashed leader is replaced in under a second.
func FastTiming() Timing {
	return Timing{Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, Lease: 200 * time.Millisecond, Commit: 50 * time.Millisecond,
		Keepalive: time.Second, Batch: 100 * time.Millisecond, Stall: 5 * time.Second}
}

func (t Timing) check() error {
	for name, d := range map[string]time.Duration{"Heartbeat": t.Heartbeat, "Election": t.Election, "Lease": t.Lease,
		"Commit": t.Commit, "Keepalive": t.Keepalive, "Batch": t.Batch, "Stall": t.Stall} {
		if d < 5*time.Millisecond {
			return fmt.Errorf("timing: %s is %v, it must be at least 5ms", name, d)
		}
	}
	if t.Lease > t.Heartbeat || t.Election < t.Heartbeat {
		return errors.New("timing needs Lease <= Heartbeat <= Election")
	}
	return nil
}
