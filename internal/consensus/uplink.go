package consensus

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"
)

// uplink is an observe stream at the side that dialled: an observer's to the
// voter it follows, or a voter's to its leader.
type uplink struct {
	set    *Set
	peer   Voter
	conn   Stream
	follow bool
	out    chan []byte   // encoded submissions
	slots  chan struct{} // capacity inFlightMax
	done   chan struct{} // closed when the stream is

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan result
}

// observe follows any voter until ctx ends or the replica fails.
func (s *Set) observe(ctx context.Context) {
	t := s.c.opt.Timing
	pause := t.Heartbeat / 8
	for ctx.Err() == nil {
		for _, to := range s.candidates() {
			if s.session(ctx, to, true) {
				pause = t.Heartbeat / 8
				break // ask again who leads
			}
			if ctx.Err() != nil {
				return
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, 4*t.Heartbeat)
	}
}

// candidates lists the voters: the last known leader first, then in an order
// of this host's own, so that observers spread; one that just failed us last.
func (s *Set) candidates() []Voter {
	weight := func(v Voter) uint64 {
		h := fnv.New64a()
		h.Write([]byte(s.self.Host + "\x00" + v.String()))
		return h.Sum64()
	}
	voters := slices.DeleteFunc(slices.Clone(s.spec.Voters), func(v Voter) bool { return v.Host == s.self.Host })
	s.mu.Lock()
	leader, avoid := s.heard.leader, s.avoid
	s.mu.Unlock()
	rank := func(v Voter) int {
		switch v.Host {
		case avoid:
			return 2
		case leader:
			return 0
		}
		return 1
	}
	slices.SortFunc(voters, func(a, b Voter) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		if weight(a) < weight(b) {
			return -1
		}
		return 1
	})
	return voters
}

// attend keeps a voter's stream to its leader.
func (s *Set) attend(ctx context.Context, v *voter) {
	for ctx.Err() == nil {
		route := s.routed()
		leader, ok := s.spec.voter(v.leader())
		if !ok || leader == s.self {
			select {
			case <-route:
			case <-ctx.Done():
			}
			continue
		}
		sub, cancel := context.WithCancel(ctx)
		watching := s.start(sub, func(ctx context.Context) {
			for v.leader() == leader.Host {
				route := s.routed()
				select {
				case <-route:
				case <-time.After(s.c.opt.Timing.Heartbeat):
				case <-ctx.Done():
					return
				}
			}
			cancel()
		})
		s.session(sub, leader, false)
		cancel()
		watching()
		select {
		case <-time.After(s.c.opt.Timing.Heartbeat / 8):
		case <-ctx.Done():
		}
	}
}

// session runs one stream until it ends, and tells whether it ever worked.
func (s *Set) session(ctx context.Context, to Voter, follow bool) (worked bool) {
	index, term, _ := s.rep.applied()
	s.mu.Lock()
	fresh := s.fresh
	s.mu.Unlock()
	conn, err := s.dial(ctx, to, ProtocolObserve, hello{follow: follow, fresh: follow && fresh, index: index, term: term})
	if err != nil {
		s.log.Debug("no observe stream", "set", s.spec.Name, "host", to.Host, "error", err)
		return false
	}
	u := &uplink{set: s, peer: to, conn: conn, follow: follow, out: make(chan []byte, inFlightMax), slots: make(chan struct{}, inFlightMax),
		done: make(chan struct{}), waiting: map[uint64]chan result{}}
	ctx, cancel := context.WithCancel(ctx)
	closing := context.AfterFunc(ctx, func() { conn.Close() })
	writing := s.start(ctx, func(ctx context.Context) {
		u.write(ctx)
		cancel()
	})
	s.attach(u)
	err = u.read()
	cancel()
	closing()
	conn.Close()
	s.detach(u)
	close(u.done)
	writing()
	s.log.Debug("an observe stream ended", "set", s.spec.Name, "host", to.Host, "error", err)
	var stale *staleError
	return !errors.As(err, &stale)
}

// write sends submissions, and pings at every keepalive.
func (u *uplink) write(ctx context.Context) {
	t := u.set.c.opt.Timing
	ticker := time.NewTicker(t.Keepalive)
	defer ticker.Stop()
	send := func(kind byte, body []byte) bool {
		u.conn.SetWriteDeadline(time.Now().Add(writeWait))
		return writeFrame(u.conn, kind, body) == nil
	}
	ok := send(framePing, encodePing(u.set.contacts()))
	for ok {
		select {
		case b := <-u.out:
			ok = send(frameSubmit, b)
		case <-ticker.C:
			if u.follow && u.set.stranded(2*t.Election) {
				u.set.shun(u.peer.Host)
				return
			}
			ok = send(framePing, encodePing(u.set.contacts()))
		case <-ctx.Done():
			return
		}
	}
}

// read applies what the voter sends.
func (u *uplink) read() error {
	t := u.set.c.opt.Timing
	var in incoming
	for {
		u.conn.SetReadDeadline(time.Now().Add(t.Keepalive*3/2 + 2*time.Second))
		kind, body, err := readFrame(u.conn, frameMax)
		if err != nil {
			return err
		}
		u.set.touch(u.peer.Host, 0, true)
		switch {
		case kind == frameResult:
			err = u.answer(body)
		case kind == frameTidings:
			err = u.hear(body)
		case kind == frameKin:
			var w welcome
			if w, err = decodeWelcome(body); err == nil {
				err = u.set.meet(u.peer, w)
			}
		case !u.follow:
			err = fmt.Errorf("unexpected message of kind %q", kind)
		case kind == frameEntry:
			err = u.entry(body)
		case kind == frameSnapshot || kind == frameChunk:
			var whole []byte
			if whole, err = in.take(kind, body); whole != nil {
				err = u.snapshot(whole)
			}
		case kind == frameDiverged:
			err = u.set.startOver(fmt.Errorf("%w, says %s: %s", errDiverged, u.peer.Host, body[:min(len(body), messageMax)]))
		default:
			err = fmt.Errorf("unexpected message of kind %q", kind)
		}
		if err != nil {
			return err
		}
	}
}

func (u *uplink) entry(body []byte) error {
	e, err := decodeEntry(body)
	if err != nil {
		return err
	}
	if at, _, _ := u.set.rep.applied(); e.prev != at {
		return fmt.Errorf("entry %d follows %d, but %d was applied last", e.index, e.prev, at)
	}
	if err := u.set.older(u.peer, e.index, e.term); err != nil {
		return err
	}
	_, err = u.set.rep.apply(e.index, e.term, e.data)
	if errors.Is(err, errDiverged) {
		return u.set.startOver(err)
	}
	if err != nil {
		u.set.fail(err)
		return err
	}
	u.set.signal()
	return nil
}

func (u *uplink) snapshot(b []byte) error {
	st, err := decodeState(b)
	if err == nil {
		if old := u.set.older(u.peer, st.applied, st.term); old != nil {
			return old
		}
		err = u.set.rep.restore(st)
	}
	if err != nil {
		u.set.fail(err)
		return err
	}
	u.set.mu.Lock()
	u.set.fresh = false
	u.set.mu.Unlock()
	u.set.signal()
	return nil
}

func (u *uplink) hear(body []byte) error {
	m, err := decodeTidings(body)
	if err == nil {
		u.set.hear(m)
	}
	return err
}

func (u *uplink) answer(body []byte) error {
	r, err := decodeResult(body)
	if err != nil {
		return err
	}
	u.mu.Lock()
	ch := u.waiting[r.id]
	delete(u.waiting, r.id)
	u.mu.Unlock()
	if ch != nil {
		ch <- r
	}
	return nil
}

// submit sends a command up and waits for what became of it.
func (u *uplink) submit(ctx context.Context, from string, hop bool, command []byte) reply {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return reply{code: codeNotApplied}
	case <-u.done:
		return reply{code: codeNotApplied}
	}
	timeout := submitMax
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline) // the voter gives up first, so that we hear how it ended
		timeout = min(timeout, left-left/4)
	}
	ch := make(chan result, 1)
	u.mu.Lock()
	u.last++
	id := u.last
	u.waiting[id] = ch
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		delete(u.waiting, id)
		u.mu.Unlock()
	}()
	select {
	case u.out <- submission{id: id, from: from, hop: hop, timeout: timeout, command: command}.encode():
	case <-ctx.Done():
		return reply{code: codeNotApplied}
	case <-u.done:
		return reply{code: codeNotApplied}
	}
	select {
	case r := <-ch:
		return reply{code: r.code, index: r.index, response: r.response}
	case <-ctx.Done():
	case <-u.done:
		select { // the answer may have come just before
		case r := <-ch:
			return reply{code: r.code, index: r.index, response: r.response}
		default:
		}
	}
	return reply{code: codeUnknown}
}
