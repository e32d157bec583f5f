// Package transporttest is a network in memory with the stream half of
// package transport, for tests: no sockets, no TLS, usable inside
// testing/synctest, with hosts that crash and links that are cut.
package transporttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/transport"
)

// Network joins the hosts made by Host.
type Network struct {
	latency time.Duration

	mu    sync.Mutex
	hosts map[string]*Host
	cut   func(a, b string) bool
	conns map[*conn]struct{} // the dialling ends
	wg    sync.WaitGroup
}

// New returns a network whose data takes latency from one end to the other.
func New(latency time.Duration) *Network {
	return &Network{latency: latency, hosts: map[string]*Host{}, conns: map[*conn]struct{}{}}
}

// Host is one host's end; it has the methods of *transport.Transport that
// stream protocols use.
type Host struct {
	net            *Network
	name, instance string
	ctx            context.Context
	cancel         context.CancelFunc

	mu       sync.Mutex
	handlers map[string]func(context.Context, transport.Stream)
}

// Host adds a host, or a new start of one: earlier ends of the same name are
// dead from then on.
func (n *Network) Host(name, instance string) *Host {
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{net: n, name: name, instance: instance, ctx: ctx, cancel: cancel, handlers: map[string]func(context.Context, transport.Stream){}}
	n.mu.Lock()
	old := n.hosts[name]
	n.hosts[name] = h
	n.mu.Unlock()
	if old != nil {
		n.kill(old)
	}
	return h
}

// Crash breaks every stream of name and refuses new ones, without a word.
func (n *Network) Crash(name string) {
	n.mu.Lock()
	h := n.hosts[name]
	delete(n.hosts, name)
	n.mu.Unlock()
	if h != nil {
		n.kill(h)
	}
}

func (n *Network) kill(h *Host) {
	h.cancel()
	n.breakWhere(func(c *conn) bool { return c.from == h || c.to == h })
}

// Cut breaks every stream between hosts for which cut says yes and lets no new
// one through, until the next call; nil heals. The dialler gets no answer, as
// when packets are dropped.
func (n *Network) Cut(cut func(a, b string) bool) {
	n.mu.Lock()
	n.cut = cut
	n.mu.Unlock()
	n.breakWhere(func(c *conn) bool { return n.isCut(c.from.name, c.to.name) })
}

func (n *Network) isCut(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut != nil && (n.cut(a, b) || n.cut(b, a))
}

func (n *Network) breakWhere(match func(*conn) bool) {
	n.mu.Lock()
	var all []*conn
	for c := range n.conns {
		all = append(all, c)
	}
	n.mu.Unlock()
	for _, c := range all {
		if match(c) {
			c.reset()
		}
	}
}

// Close crashes every host and waits for the handlers.
func (n *Network) Close() {
	n.mu.Lock()
	var all []*Host
	for _, h := range n.hosts {
		all = append(all, h)
	}
	n.hosts = map[string]*Host{}
	n.mu.Unlock()
	for _, h := range all {
		n.kill(h)
	}
	n.wg.Wait()
}

// HandleStream registers a handler.
func (h *Host) HandleStream(proto string, handler func(context.Context, transport.Stream)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[proto] = handler
}

// DialStream opens a stream.
func (h *Host) DialStream(ctx context.Context, host, proto string) (transport.Stream, error) {
	fail := func(err error) (transport.Stream, error) {
		return nil, &transport.DialError{Host: host, Address: "memory", Err: err}
	}
	if h.ctx.Err() != nil {
		return fail(transport.ErrClosed)
	}
	for h.net.isCut(h.name, host) { // no answer ever comes
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-h.ctx.Done():
			return fail(transport.ErrClosed)
		case <-time.After(time.Second): // as a repeated SYN would
		}
	}
	select { // a round trip
	case <-time.After(2 * h.net.latency):
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	h.net.mu.Lock()
	peer := h.net.hosts[host]
	h.net.mu.Unlock()
	if peer == nil {
		return fail(errors.New("connection refused"))
	}
	peer.mu.Lock()
	handler := peer.handlers[proto]
	peer.mu.Unlock()
	if handler == nil {
		return fail(fmt.Errorf("%w: protocol %s is not served there", transport.ErrProtocol, proto))
	}
	return h.connect(peer, handler)
}

func (h *Host) connect(peer *Host, handler func(context.Context, transport.Stream)) (transport.Stream, error) {
	there, back := newPipe(h.net.latency), newPipe(h.net.latency)
	mine := &conn{net: h.net, from: h, to: peer, peer: peer.peer(), in: back, out: there}
	theirs := &conn{net: h.net, from: h, to: peer, peer: h.peer(), in: there, out: back}
	h.net.mu.Lock()
	if peer.ctx.Err() != nil || h.ctx.Err() != nil {
		h.net.mu.Unlock()
		return nil, &transport.DialError{Host: peer.name, Address: "memory", Err: errors.New("connection reset")}
	}
	h.net.conns[mine] = struct{}{}
	ctx, cancel := context.WithCancel(peer.ctx)
	h.net.wg.Go(func() {
		handler(ctx, theirs)
		cancel()
		theirs.Close()
	})
	h.net.mu.Unlock()
	return mine, nil
}

func (h *Host) peer() transport.Peer {
	return transport.Peer{Host: h.name, Instance: h.instance, Known: true}
}

// conn is one end of a stream.
type conn struct {
	net      *Network
	from, to *Host
	peer     transport.Peer
	in, out  *pipe
}

func (c *conn) Peer() transport.Peer        { return c.peer }
func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *conn) Close() error {
	c.in.end(net.ErrClosed)
	c.out.end(nil)
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return nil
}

func (c *conn) reset() {
	c.in.end(errReset)
	c.out.end(errReset)
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
}

var errReset = errors.New("connection reset by the test")

func (c *conn) LocalAddr() net.Addr  { return memAddr("memory") }
func (c *conn) RemoteAddr() net.Addr { return memAddr(c.peer.Host) }

func (c *conn) SetDeadline(t time.Time) error {
	c.in.readBy(t)
	c.out.writeBy(t)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.readBy(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.writeBy(t); return nil }

type memAddr string

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return string(a) }
