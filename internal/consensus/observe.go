package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// sessionsMax bounds the streams that one voter serves for one set.
const sessionsMax = 2048

// session is one observe stream at the voter: of an observer, that follows, or
// of another voter, that only submits to the leader.
type session struct {
	set     *Set
	conn    Stream
	hello   hello
	results chan result   // capacity inFlightMax: every handler can leave its one
	pinged  chan struct{} // capacity 1
}

// acceptObserve handles a stream from an observer or another voter.
func (c *Consensus) acceptObserve(ctx context.Context, conn Stream) {
	s, h, err := c.greet(conn, ProtocolObserve)
	if err != nil {
		c.refused(conn, h, err)
		return
	}
	defer conn.Close()
	run, leave, err := s.enter()
	if err != nil {
		c.refused(conn, h, err)
		return
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(run, cancel)()
	x := &session{set: s, conn: conn, hello: h, results: make(chan result, inFlightMax), pinged: make(chan struct{}, 1)}
	if err := x.serve(ctx); err != nil && ctx.Err() == nil {
		s.log.Debug("an observe stream ended", "set", s.spec.Name, "host", h.from.Host, "error", err)
	}
}

// serve reads and writes until the stream ends, and leaves nothing behind.
func (x *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { x.conn.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		if err := x.write(ctx); err != nil && ctx.Err() == nil {
			x.set.log.Debug("cannot write to an observer", "set", x.set.spec.Name, "host", x.hello.from.Host, "error", err)
		}
	})
	err := x.read(ctx, &wg)
	cancel()
	x.conn.Close()
	return err
}

// read takes submissions and pings.
func (x *session) read(ctx context.Context, wg *sync.WaitGroup) error {
	s := x.set
	voter := s.spec.has(x.hello.from) && !x.hello.follow
	slots := make(chan struct{}, inFlightMax)
	for {
		x.conn.SetReadDeadline(time.Now().Add(s.c.opt.Timing.Keepalive * 5 / 2))
		kind, body, err := readFrame(x.conn, frameMax)
		if err != nil {
			return err
		}
		s.touch(x.hello.from.Host, 0, true)
		switch kind {
		case framePing:
			contacts, err := decodePing(body)
			if err != nil {
				return err
			}
			for _, c := range contacts {
				if voter {
					s.touch(c.host, c.age, false)
				}
			}
			select {
			case x.pinged <- struct{}{}:
			default:
			}
		case frameSubmit:
			m, err := decodeSubmission(body)
			if err != nil {
				return err
			}
			if !voter && (m.from != x.hello.from.Host || m.hop) {
				return fmt.Errorf("%s submits in the name of %s", x.hello.from.Host, m.from)
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			wg.Go(func() {
				r := x.submit(ctx, m)
				<-slots
				select {
				case x.results <- r:
				case <-ctx.Done():
				}
			})
		default:
			return fmt.Errorf("unexpected message of kind %q", kind)
		}
	}
}

// submit does what a submission asks for, within its time.
func (x *session) submit(ctx context.Context, m submission) result {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	res, err := x.set.submit(ctx, m.from, m.command, m.hop, x.hello.from.Host)
	r := result{id: m.id, code: codeApplied, index: res.Index, response: res.Response}
	switch {
	case err == nil:
	case errors.Is(err, ErrUnknown):
		r.code = codeUnknown
	case errors.Is(err, ErrBusy):
		r.code = codeBusy
	default:
		r.code = codeNotApplied
	}
	return r
}

// write sends entries as they are applied, then results, then tidings: who
// submitted an entry sees it before the answer, if this voter leads.
func (x *session) write(ctx context.Context) error {
	s := x.set
	index, term, fresh := x.hello.index, x.hello.term, x.hello.fresh
	var told tidings
	var kin []byte
	pong := true
	for {
		route := s.routed()
		var results []result
		for len(x.results) > 0 && len(results) < inFlightMax {
			results = append(results, <-x.results)
		}
		_, _, next := s.rep.applied()
		more := false
		if x.hello.follow {
			if s.rep.doubtful() {
				return errDiverged
			}
			entries, snap, wake, err := s.rep.after(index, term, fresh)
			if err != nil {
				return errors.Join(err, x.send(frameDiverged, []byte(err.Error())))
			}
			next, fresh, more = wake, false, len(entries) > 0 || snap != nil
			if snap != nil {
				if err := sendSnapshot(x.conn, snap.encode()); err != nil {
					return err
				}
				index, term = snap.applied, snap.term
			}
			for _, e := range entries {
				if err := x.send(frameEntry, e.encode()); err != nil {
					return err
				}
				index, term = e.index, e.term
			}
		}
		for _, r := range results {
			if err := x.send(frameResult, r.encode()); err != nil {
				return err
			}
		}
		if now := s.tidings(); now != told || pong {
			if err := x.introduce(pong, &kin); err != nil {
				return err
			}
			told, pong = now, false
			if err := x.send(frameTidings, now.encode()); err != nil {
				return err
			}
		}
		if more || len(results) > 0 {
			continue
		}
		if !x.hello.follow {
			next = nil
		}
		select {
		case <-next:
		case <-route:
		case <-x.pinged:
			pong = true
		case r := <-x.results:
			x.results <- r // room is certain: its handler is gone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// introduce tells what is known of the other voters, if a ping asks for it and
// it is more than was told last.
func (x *session) introduce(pong bool, told *[]byte) error {
	if !pong {
		return nil
	}
	now := x.set.welcome().encode()
	if bytes.Equal(now, *told) {
		return nil
	}
	*told = now
	return x.send(frameKin, now)
}

func (x *session) send(kind byte, body []byte) error {
	x.conn.SetWriteDeadline(time.Now().Add(writeWait))
	return writeFrame(x.conn, kind, body)
}

// sendSnapshot sends b in chunks; see incoming for the other end.
func sendSnapshot(conn net.Conn, b []byte) error {
	send := func(kind byte, body []byte) error {
		conn.SetWriteDeadline(time.Now().Add(writeWait))
		return writeFrame(conn, kind, body)
	}
	if err := send(frameSnapshot, appendUint(nil, uint64(len(b)))); err != nil {
		return err
	}
	for len(b) > 0 {
		n := min(len(b), chunkBytes)
		if err := send(frameChunk, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
