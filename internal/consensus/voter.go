package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// snapshotEvery is after how many entries raft's log is cut.
	snapshotEvery = 1024
	// snapshotTrail is how many entries stay for followers that are behind.
	snapshotTrail = 2048
	snapshotPause = time.Minute
	// announcePause is how soon a commit notice that came before its entry is repeated.
	announcePause = time.Millisecond
	logCache      = 256
	connPool      = 3 // replication, heartbeats, commit notices
)

// voter is a voter's raft.
type voter struct {
	set   *Set
	raft  *raft.Raft
	layer *layer
	trans *raft.NetworkTransport
}

// config is raft's configuration.
func (v *voter) config() *raft.Config {
	t := v.set.c.opt.Timing
	c := raft.DefaultConfig()
	c.ProtocolVersion = 3
	c.LocalID = raft.ServerID(v.set.self.String())
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = t.Heartbeat, t.Election, t.Lease, t.Commit
	c.MaxAppendEntries = 128
	c.SnapshotInterval, c.SnapshotThreshold, c.TrailingLogs = snapshotPause, snapshotEvery, snapshotTrail
	if tune := v.set.c.tune; tune != nil {
		tune(c)
	}
	c.NoLegacyTelemetry = true
	c.Logger = raftLog{log: v.set.log, name: "raft"}
	return c
}

// startVoter starts raft, and first gives the cluster its birth if this host
// has no state of it. Only the first epoch is born so, by all voters alike; for
// later ones see foundEpoch.
func (s *Set) startVoter(ctx, starting context.Context) (*voter, error) {
	snaps, err := s.c.openSnapshots(s.id)
	if err != nil {
		return nil, err
	}
	v := &voter{set: s, layer: newLayer(ctx, s)}
	v.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: v.layer, MaxPool: connPool, MaxRPCsInFlight: 1, Timeout: max(5*s.c.opt.Timing.Heartbeat, 2*time.Second),
		Logger: raftLog{log: s.log, name: "raft"}, MsgpackUseNewTimeFormat: true,
	})
	s.mu.Lock()
	s.layer = v.layer
	s.mu.Unlock()
	if err := v.boot(starting, snaps); err != nil {
		v.layer.Close()
		v.trans.Close()
		return nil, err
	}
	s.mu.Lock()
	s.v = v
	failed := s.failure != nil
	s.mu.Unlock()
	close(v.layer.ready)
	if failed {
		v.raft.Shutdown()
	}
	return v, nil
}

// boot runs NewRaft where the store may end its goroutine.
func (v *voter) boot(ctx context.Context, snaps *snapshots) error {
	s := v.set
	err := errors.New("raft could not start")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("raft panicked: %v\n%s", p, debug.Stack())
			}
		}()
		ss := &setStore{store: s.c.store, id: s.id, limit: s.c.opt.Timing.Stall, fail: s.fail}
		var logs raft.LogStore = ss
		if logs, err = raft.NewLogCache(logCache, ss); err != nil {
			return
		}
		var state bool
		if state, err = s.hasState(ss); err != nil {
			return
		}
		conf := v.config()
		if !state && s.spec.Epoch == 1 {
			if s.consult(ctx); ctx.Err() != nil || s.failedErr() != nil {
				err = errLeft
				return
			}
			if s.waitsFor() == "" {
				ss.bear(s.birth())
			}
		}
		v.raft, err = raft.NewRaft(conf, &fsm{v: v}, logs, ss, snaps, v.trans)
	}()
	<-done
	if f := s.failedErr(); f != nil {
		if v.raft != nil {
			v.raft.Shutdown()
		}
		return f
	}
	return err
}

// birth is the configuration that every listed voter bootstraps with.
func (s *Set) birth() raft.Configuration {
	var conf raft.Configuration
	for _, line := range s.spec.sorted() {
		host, _ := ParseVoter(line)
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(line), Address: raft.ServerAddress(host.Host)})
	}
	return conf
}

// stop ends raft and everything that belongs to it. Goroutines that hang in
// the store are left behind after the stall limit.
func (v *voter) stop() {
	v.layer.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.raft.Shutdown().Error()
	}()
	timer := time.NewTimer(v.set.c.opt.Timing.Stall)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		v.set.log.Error("raft does not stop; its goroutines are left behind", "set", v.set.spec.Name)
	}
	v.trans.Close()
	v.trans.CloseStreams()
}

// leader gives the leader's host as raft knows it.
func (v *voter) leader() string {
	_, id := v.raft.LeaderWithID()
	l, err := ParseVoter(string(id))
	if err != nil {
		return ""
	}
	return l.Host
}

// watch follows raft's state, and leads while this host is the leader.
func (v *voter) watch(ctx context.Context) {
	events := make(chan raft.Observation, 64)
	observer := raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	v.raft.RegisterObserver(observer)
	defer v.raft.DeregisterObserver(observer)
	ticker := time.NewTicker(v.set.c.opt.Timing.Heartbeat)
	defer ticker.Stop()
	var (
		leading uint64
		resign  = func() {}
		seen    tidings
	)
	defer func() { resign() }()
	for {
		before := v.raft.CurrentTerm()
		leads := v.raft.State() == raft.Leader
		if leads && before == v.raft.CurrentTerm() && before != leading {
			resign()
			leading = before
			resign = v.set.start(ctx, func(ctx context.Context) { v.lead(ctx, before) })
		} else if !leads && leading != 0 {
			resign()
			leading, resign = 0, func() {}
		}
		if now := v.set.tidings(); now != seen {
			seen = now
			v.set.bump()
		}
		select {
		case <-events:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// start runs f in a goroutine and returns how to end it and wait for it.
func (s *Set) start(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// lead serves as leader in term until ctx ends.
func (v *voter) lead(ctx context.Context, term uint64) {
	s := v.set
	for v.raft.Barrier(s.c.opt.Timing.Stall).Error() != nil {
		select {
		case <-time.After(s.c.opt.Timing.Commit):
		case <-ctx.Done():
			return
		}
	}
	if v.raft.State() != raft.Leader || v.raft.CurrentTerm() != term {
		return
	}
	if s.rep.doubtful() {
		s.resign(v) // a state in doubt must not decide
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, to := range s.spec.Voters {
		if to != s.self {
			wg.Go(func() { v.announce(ctx, term, to) })
		}
	}
	s.batch.open(term)
	defer s.bump()
	defer s.batch.close()
	s.bump()
	s.log.Info("leading", "set", s.spec.Name, "term", term)
	checked := s.rep.lastCheck().index
	s.batch.run(ctx, s.c.opt.Timing.Batch, func(batch []*pending) {
		v.flush(batch)
		if c := s.rep.lastCheck(); c.index > checked {
			checked = c.index
			v.raft.Apply(envelope{kind: kindCheck, check: c}.encode(), s.c.opt.Timing.Stall).Error()
		}
	})
}

// flush puts a batch into the log and answers when it is applied.
func (v *voter) flush(batch []*pending) {
	e := envelope{kind: kindCommands}
	for _, p := range batch {
		e.commands = append(e.commands, p.command)
	}
	future := v.raft.Apply(e.encode(), v.set.c.opt.Timing.Stall)
	err := future.Error()
	r := reply{code: codeUnknown}
	switch {
	case err == nil:
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		r.code = codeNotApplied
	}
	var outcomes []outcome
	if err == nil {
		outcomes, _ = future.Response().([]outcome)
	}
	for i, p := range batch {
		if i < len(outcomes) {
			r = reply{code: codeNotApplied}
			if outcomes[i].applied {
				r = reply{code: codeApplied, index: IndexOf(v.set.spec.Epoch, future.Index()), response: outcomes[i].response}
			}
		}
		p.done <- r
	}
}

// introduce greets another voter from time to time, so that all of them know
// each other's stores, those that otherwise talk only to the leader too.
func (v *voter) introduce(ctx context.Context, to Voter) {
	t := v.set.c.opt.Timing
	for ctx.Err() == nil {
		pause := 20 * t.Keepalive
		if conn, err := v.set.dial(ctx, to, ProtocolObserve, hello{}); err == nil {
			conn.Close()
		} else {
			pause = t.Heartbeat
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// announce tells a follower at once what is committed. Raft itself tells it
// with the next entry or after the commit timeout; this sends the same message
// that raft would then, an AppendEntries without entries, right away.
func (v *voter) announce(ctx context.Context, term uint64, to Voter) {
	var sent uint64
	retry := announcePause
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		index, at, next := v.set.rep.applied()
		if at != term || index <= sent {
			select {
			case <-next:
			case <-ctx.Done():
			}
			continue
		}
		heard, err := v.tell(to, index, term)
		switch {
		case err != nil: // it is away; raft goes on trying
			sent = index
			pause(v.set.c.opt.Timing.Heartbeat)
		case !heard && retry < v.set.c.opt.Timing.Commit: // the entry itself is still on its way
			pause(retry)
			retry *= 2
		default:
			sent, retry = index, announcePause
		}
	}
}

// tell sends one commit notice; heard is false if the follower lacks the entry.
func (v *voter) tell(to Voter, index, term uint64) (heard bool, err error) {
	self := v.set.self
	addr := v.trans.EncodePeer(raft.ServerID(self.String()), raft.ServerAddress(self.Host))
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(self.String()), Addr: addr},
		Term:      term, PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index,
	}
	var resp raft.AppendEntriesResponse
	err = v.trans.AppendEntries(raft.ServerID(to.String()), raft.ServerAddress(to.Host), req, &resp)
	return resp.Success, err
}

// fsm is the raft.FSM of a voter. Raft calls it from one goroutine.
type fsm struct {
	v    *voter
	dead bool // the replica had to stop
}

// errDead keeps a stopped replica's state out of snapshots.
var errDead = errors.New("this replica has stopped")

// Apply implements raft.FSM. When the replica has to stop, it takes nothing in
// any more, but goes on answering: whoever waits in raft for an answer, as a
// barrier does, would wait for ever.
func (f *fsm) Apply(l *raft.Log) any {
	s := f.v.set
	if f.dead {
		return nil
	}
	outcomes, err := s.rep.apply(l.Index, l.Term, l.Data)
	if errors.Is(err, errDiverged) {
		s.report(err)
	} else if err != nil {
		f.dead = true
		s.fail(err)
		return nil
	}
	s.signal()
	return outcomes
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.dead {
		return nil, errDead
	}
	st, err := f.v.set.rep.snapshot()
	return frozen{st}, err
}

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	if f.dead {
		return errDead
	}
	b, err := io.ReadAll(io.LimitReader(r, snapshotMax+snapshotSlack))
	if err != nil {
		return fmt.Errorf("cannot read snapshot: %w", err)
	}
	st, err := decodeState(b)
	if err != nil {
		return err
	}
	if err := f.v.set.rep.restore(st); err != nil {
		return err
	}
	f.v.set.signal()
	return nil
}

// frozen is the raft.FSMSnapshot.
type frozen struct{ state }

// Persist implements raft.FSMSnapshot.
func (f frozen) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(f.encode()); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (frozen) Release() {}
