package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Stream is one conversation of a stream protocol.
type Stream interface {
	net.Conn
	// Peer returns who is at the other end; its key is always known.
	Peer() Peer
}

// StreamHandler serves one stream in a goroutine of its own. The stream is
// closed when it returns; ctx ends when the connection or the transport does,
// and the handler must then return.
type StreamHandler func(ctx context.Context, s Stream)

// HandleStream registers the handler of a stream protocol, "NAME/VERSION".
// Register before Run. Several versions of one name may be served; a dialler
// that asks for another is told which there are. It panics if proto is
// malformed or taken.
func (t *Transport) HandleStream(proto string, handler func(ctx context.Context, s Stream)) {
	h, err := parseProtocol(proto)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handlers[h.name] == nil {
		t.handlers[h.name] = map[uint16]StreamHandler{}
	}
	if t.handlers[h.name][h.version] != nil {
		panic("internal error: stream protocol " + proto + " has two handlers")
	}
	t.handlers[h.name][h.version] = handler
}

// DialStream opens a stream of proto, "NAME/VERSION", to host over the pooled
// session, which it dials if there is none. It returns once the peer agreed to
// the protocol, and a *DialError otherwise.
func (t *Transport) DialStream(ctx context.Context, host, proto string) (Stream, error) {
	header, err := parseProtocol(proto)
	if err != nil {
		return nil, &DialError{Host: host, Err: err}
	}
	for {
		s, pooled, err := t.session(ctx, host)
		if err != nil {
			return nil, err
		}
		stream, err := s.open(ctx, header)
		if err == nil {
			return stream, nil
		}
		t.release(s)
		// A pooled session may have died unnoticed; a fresh one tells.
		if pooled && s.mux.IsClosed() && ctx.Err() == nil {
			continue
		}
		return nil, &DialError{Host: host, Address: s.conn.RemoteAddr().String(), Err: err}
	}
}

// session is a dialled yamux session.
type session struct {
	owner *Transport
	conn  *Conn
	mux   *yamux.Session
	// Guarded by owner.mu: streams open or being opened, and when that last
	// changed.
	streams  int
	lastUsed time.Time
}

// open starts a stream and waits for the peer's reply to its header.
func (s *session) open(ctx context.Context, header streamHeader) (*stream, error) {
	raw, err := s.openRaw(ctx)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(headerTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = raw.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	_, err = raw.Write(header.append(nil))
	var reply greeting
	if err == nil {
		if reply, err = readGreeting(raw); err == nil {
			err = reply.err()
		}
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, yamux.ErrTimeout) {
			return nil, fmt.Errorf("no reply to the request for %s in %v", header, headerTimeout)
		}
		return nil, err
	}
	_ = raw.SetDeadline(time.Time{})
	return &stream{Stream: raw, session: s}, nil
}

// openRaw is yamux's OpenStream, which may block, with a context.
func (s *session) openRaw(ctx context.Context) (*yamux.Stream, error) {
	type result struct {
		stream *yamux.Stream
		err    error
	}
	done := make(chan result, 1)
	go func() {
		st, err := s.mux.OpenStream() // ends with the session, at the latest
		done <- result{st, err}
	}()
	select {
	case r := <-done:
		return r.stream, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.stream.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// stream is a dialled Stream; closing it gives its place in the session back.
type stream struct {
	*yamux.Stream
	session *session
	once    sync.Once
	err     error
}

// Peer returns who is at the other end.
func (s *stream) Peer() Peer { return s.session.conn.peer }

// Close closes the stream and wakes whoever reads or writes it.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.err = closeStream(s.Stream)
		s.session.owner.release(s.session)
	})
	return s.err
}

// closeStream closes both ways; yamux alone would let a blocked read wait for
// the peer's goodbye.
func closeStream(s *yamux.Stream) error {
	_ = s.SetDeadline(time.Unix(1, 0))
	return s.Close()
}

// accepted is a Stream that the peer opened.
type accepted struct {
	*yamux.Stream
	peer Peer
}

// Peer returns who is at the other end.
func (a *accepted) Peer() Peer { return a.peer }

// Close closes the stream and wakes whoever reads or writes it.
func (a *accepted) Close() error { return closeStream(a.Stream) }

// serveMux serves one accepted session until it ends.
func (t *Transport) serveMux(ctx context.Context, c *Conn) {
	config := muxConfig()
	config.EnableKeepAlive = false // the dialler pings; we watch for silence
	mux, err := yamux.Server(&watchedConn{Conn: c}, config)
	if err != nil {
		c.Close()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer func() {
		cancel()
		mux.Close()
		c.Close()
		streams.Wait()
	}()
	room := make(chan struct{}, streamsPerSession)
	for {
		raw, err := mux.AcceptStream()
		if err != nil {
			return
		}
		select {
		case room <- struct{}{}:
		default:
			t.log.Warn("closing a stream: too many are open", "host", c.peer.Host, "max", streamsPerSession)
			raw.Close()
			continue
		}
		streams.Go(func() {
			t.serveStream(ctx, &accepted{Stream: raw, peer: c.peer})
			<-room
		})
	}
}

// serveStream reads the header, replies, and calls the handler.
func (t *Transport) serveStream(ctx context.Context, s *accepted) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(headerTimeout))
	header, err := readStreamHeader(s)
	if err != nil {
		t.log.Debug("refused a stream", "host", s.peer.Host, "err", err)
		_, _ = s.Write(greeting{statusProtocol, err.Error()}.append(nil))
		return
	}
	handler, served := t.handler(header)
	if handler == nil {
		text := "protocol " + header.name + " is not served here"
		if served != "" {
			text = fmt.Sprintf("protocol %s: this host speaks version %s, asked for version %d", header.name, served, header.version)
		}
		t.log.Debug("refused a stream", "host", s.peer.Host, "err", text)
		_, _ = s.Write(greeting{statusProtocol, text}.append(nil))
		return
	}
	if _, err := s.Write(greeting{}.append(nil)); err != nil {
		return
	}
	_ = s.SetDeadline(time.Time{})
	// Reads and writes of a stream end with its session; ctx does too, and a
	// stopping transport ends the session.
	handler(ctx, s)
}

// handler returns the handler for h, or the versions of its name there are.
func (t *Transport) handler(h streamHeader) (StreamHandler, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	versions := t.handlers[h.name]
	if f := versions[h.version]; f != nil {
		return f, ""
	}
	var numbers []int
	for v := range versions {
		numbers = append(numbers, int(v))
	}
	slices.Sort(numbers)
	var list []string
	for _, n := range numbers {
		list = append(list, strconv.Itoa(n))
	}
	return nil, strings.Join(list, ", ")
}

func muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          2 * streamsPerSession,
		EnableKeepAlive:        true,
		KeepAliveInterval:      keepAlive,
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    256 << 10,
		StreamOpenTimeout:      headerTimeout,
		StreamCloseTimeout:     closeTimeout,
		Logger:                 silent{},
	}
}

// silent drops yamux's messages: what matters comes back as errors.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// watchedConn fails a read after silenceTimeout without a byte.
type watchedConn struct{ *Conn }

func (w *watchedConn) Read(b []byte) (int, error) {
	if err := w.Conn.SetReadDeadline(time.Now().Add(silenceTimeout)); err != nil {
		return 0, err
	}
	return w.Conn.Read(b)
}
