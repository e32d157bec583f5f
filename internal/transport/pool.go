package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/yamux"
)

// pooled is the place of one host in the pool: a dial under way (done open), a
// session, or a failure that is repeated for redialPause.
type pooled struct {
	done    chan struct{} // closed when the dial ended
	session *session
	err     error
	at      time.Time // when the dial ended
}

// session returns a session to host with one more stream counted; the caller
// releases it. reused is false if it was dialled for this call.
func (t *Transport) session(ctx context.Context, host string) (s *session, reused bool, err error) {
	started := false
	for {
		t.mu.Lock()
		if t.state != stateRunning {
			t.mu.Unlock()
			return nil, false, &DialError{Host: host, Err: ErrClosed}
		}
		p := t.pool[host]
		if p != nil && p.session != nil && !p.session.mux.IsClosed() {
			s := p.session
			if s.streams >= streamsPerSession {
				t.mu.Unlock()
				return nil, false, &DialError{Host: host, Err: fmt.Errorf("%w: %d streams are open to it", ErrBusy, streamsPerSession)}
			}
			s.streams++
			s.lastUsed = time.Now()
			t.mu.Unlock()
			return s, !started, nil
		}
		if p == nil || p.stale(time.Now()) {
			if len(t.pool) >= sessionsMax && !t.makeRoomLocked() {
				t.mu.Unlock()
				return nil, false, &DialError{Host: host, Err: fmt.Errorf("%w: sessions to %d hosts are in use", ErrBusy, sessionsMax)}
			}
			p = &pooled{done: make(chan struct{})}
			t.pool[host] = p
			runCtx := t.ctx
			t.wg.Go(func() { t.fill(runCtx, host, p) })
			started = true
		}
		t.mu.Unlock()
		select {
		case <-p.done:
			if p.err != nil {
				return nil, false, p.err
			}
		case <-ctx.Done():
			return nil, false, &DialError{Host: host, Err: ctx.Err()}
		}
	}
}

// stale says whether a finished dial's place may be dialled anew.
func (p *pooled) stale(now time.Time) bool {
	select {
	case <-p.done:
		return p.err == nil || now.Sub(p.at) >= redialPause
	default:
		return false
	}
}

// fill dials host for everybody who waits on p.
func (t *Transport) fill(ctx context.Context, host string, p *pooled) {
	s, err := t.dialSession(ctx, host)
	t.mu.Lock()
	p.session, p.err, p.at = s, err, time.Now()
	var excess []*session
	if err == nil {
		excess = t.excessLocked(s)
		t.wg.Add(1)
	}
	close(p.done)
	t.mu.Unlock()
	for _, old := range excess {
		old.mux.Close()
	}
	if err == nil {
		go t.watch(host, p)
	}
}

func (t *Transport) dialSession(ctx context.Context, host string) (*session, error) {
	c, err := t.dial(ctx, host, MuxALPN)
	if err != nil {
		return nil, err
	}
	mux, err := yamux.Client(c, muxConfig())
	if err != nil {
		c.Close()
		return nil, &DialError{Host: host, Err: err}
	}
	// Streams go one way: whoever dialled opens them.
	if err := mux.GoAway(); err != nil {
		mux.Close()
		return nil, &DialError{Host: host, Address: c.RemoteAddr().String(), Err: errors.Join(errors.New("connection ended at once"), err)}
	}
	return &session{owner: t, conn: c, mux: mux, lastUsed: time.Now()}, nil
}

// watch waits for the session's end and frees its place. Sweep and shutdown
// close the connection beneath, which ends the session.
func (t *Transport) watch(host string, p *pooled) {
	defer t.wg.Done()
	s := p.session
	select {
	case <-s.mux.CloseChan():
	case <-s.conn.closed:
	}
	s.mux.Close() // waits for its goroutines
	s.conn.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pool[host] == p {
		delete(t.pool, host)
	}
}

// release gives a stream's place back.
func (t *Transport) release(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.streams--
	s.lastUsed = time.Now()
}

// excessLocked returns the idle sessions beyond pooledSessions, least recently
// used first; fresh is not among them.
func (t *Transport) excessLocked(fresh *session) []*session {
	live := 0
	for _, p := range t.pool {
		if p.session != nil {
			live++
		}
	}
	var out []*session
	for ; live > pooledSessions; live-- {
		var oldest *session
		var at string
		for host, p := range t.pool {
			s := p.session
			if s == nil || s == fresh || s.streams > 0 {
				continue
			}
			if oldest == nil || s.lastUsed.Before(oldest.lastUsed) {
				oldest, at = s, host
			}
		}
		if oldest == nil {
			break
		}
		delete(t.pool, at)
		out = append(out, oldest)
	}
	return out
}

// makeRoomLocked forgets the failures in the pool; false if there were none.
func (t *Transport) makeRoomLocked() bool {
	before := len(t.pool)
	now := time.Now()
	for host, p := range t.pool {
		if p.session == nil && p.stale(now) {
			delete(t.pool, host)
		}
	}
	return len(t.pool) < before
}

// closeIdle closes sessions nobody used for a while and forgets old failures.
func (t *Transport) closeIdle(now time.Time) {
	t.mu.Lock()
	t.makeRoomLocked()
	var idle []*session
	for host, p := range t.pool {
		if s := p.session; s != nil && s.streams == 0 && now.Sub(s.lastUsed) >= sessionIdle {
			delete(t.pool, host)
			idle = append(idle, s)
		}
	}
	t.mu.Unlock()
	for _, s := range idle {
		s.mux.Close()
	}
}
