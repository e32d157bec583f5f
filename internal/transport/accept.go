package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// accept takes connections until the listener is closed.
func (t *Transport) accept(ctx context.Context, l net.Listener) error {
	pause := 5 * time.Millisecond
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("cannot accept connections: %w", err)
			}
			// Out of file descriptors, most likely: wait for some to be freed.
			t.log.Warn("cannot accept a connection", "err", err)
			select {
			case <-time.After(pause):
				pause = min(2*pause, time.Second)
				continue
			case <-ctx.Done():
				return nil
			}
		}
		pause = 5 * time.Millisecond
		address := ipOf(raw.RemoteAddr())
		t.slots.enter(address, raw)
		t.wg.Go(func() {
			c, err := t.welcome(ctx, raw)
			t.slots.leave(address, raw)
			if err != nil {
				raw.Close()
				t.noteRefusal(raw.RemoteAddr().String(), address, err)
				return
			}
			t.route(ctx, c)
		})
	}
}

// welcome does the handshake and says hello, within handshakeTimeout.
func (t *Transport) welcome(ctx context.Context, raw net.Conn) (*Conn, error) {
	deadline := time.Now().Add(t.patience)
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tc := tls.Server(raw, t.serverTLS(t.protocols()))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	c, hello, refusal := t.admit(tc, "", tc.ConnectionState().NegotiatedProtocol, true)
	_, err := tc.Write(hello.append(nil))
	switch {
	case refusal != nil:
		tc.Close() // with a TLS goodbye, so that the peer reads the reason
		return nil, refusal
	case err != nil:
		c.Close()
		return nil, err
	}
	t.settle(tc, c.peer)
	if err := raw.SetDeadline(time.Time{}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// route gives an admitted connection to whoever serves its protocol.
func (t *Transport) route(ctx context.Context, c *Conn) {
	if c.alpn == MuxALPN {
		t.serveMux(ctx, c)
		return
	}
	t.mu.Lock()
	l := t.listeners[c.alpn]
	t.mu.Unlock()
	if l == nil || !l.deliver(c) {
		c.Close()
	}
}

// protocols lists what is served right now.
func (t *Transport) protocols() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []string{MuxALPN}
	for alpn := range t.listeners {
		list = append(list, alpn)
	}
	slices.Sort(list)
	return list
}

// noteRefusal reports a refused key; everything else that knocks on an open
// port is not worth more than a debug line.
func (t *Transport) noteRefusal(addr, ip string, err error) {
	var unknown *unknownKeyError
	if errors.As(err, &unknown) {
		e := Event{Kind: EventRefused, Address: addr, Detail: fmt.Sprintf("refused a connection from %s: %v", addr, err)}
		if t.events.report(time.Now(), "key/"+ip, e) {
			t.log.Info("refused a key that is not in the inventory", "addr", addr, "key", Fingerprint(unknown.key))
		}
		return
	}
	t.log.Debug("refused a connection", "addr", addr, "err", err)
}

func ipOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// Listener hands out the connections of one protocol, for http.Server.Serve.
type Listener struct {
	owner *Transport
	alpn  string
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// Listener begins to offer alpn on the port and returns where its connections
// arrive; PeerOf tells whose they are. The same listener is returned until it
// is closed; the transport closes it when Run ends. MuxALPN has none: use
// HandleStream.
func (t *Transport) Listener(alpn string) net.Listener {
	if alpn == "" || alpn == MuxALPN || len(alpn) > 255 {
		panic(fmt.Sprintf("internal error: no listener can be had for protocol %q", alpn))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.listeners[alpn]
	if l == nil {
		l = &Listener{owner: t, alpn: alpn, conns: make(chan net.Conn, listenerBacklog), done: make(chan struct{})}
		if t.state == stateClosed {
			l.once.Do(func() { close(l.done) })
			return l
		}
		t.listeners[alpn] = l
	}
	return l
}

// Accept returns the next connection, or net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr returns the port that all protocols share.
func (l *Listener) Addr() net.Addr {
	if a := l.owner.Addr(); a != nil {
		return a
	}
	return &net.TCPAddr{}
}

// Close stops offering the protocol; connections already accepted live on.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.owner.mu.Lock()
		if l.owner.listeners[l.alpn] == l {
			delete(l.owner.listeners, l.alpn)
		}
		l.owner.mu.Unlock()
		close(l.done)
	})
	for {
		select {
		case c := <-l.conns:
			c.Close()
		default:
			return nil
		}
	}
}

// deliver waits a little for the server to take c.
func (l *Listener) deliver(c *Conn) bool {
	timer := time.NewTimer(deliverTimeout)
	defer timer.Stop()
	select {
	case l.conns <- c:
	case <-l.done:
		return false
	case <-timer.C:
		return false
	}
	select {
	case <-l.done: // closed meanwhile: nobody may be left to take it
		return l.Close() == nil
	default:
		return true
	}
}
