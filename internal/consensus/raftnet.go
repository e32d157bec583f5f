package consensus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// layer is the raft.StreamLayer of one set. It knows all its connections, so
// that cutting the set off is one call.
type layer struct {
	ctx    context.Context // raft dials without one of its own
	set    *Set
	ready  chan struct{} // closed once the voter's life can be told
	accept chan net.Conn
	closed chan struct{}

	mu    sync.Mutex
	ended bool
	conns map[*layerConn]bool
}

func newLayer(ctx context.Context, s *Set) *layer {
	return &layer{ctx: ctx, set: s, ready: make(chan struct{}), accept: make(chan net.Conn), closed: make(chan struct{}), conns: map[*layerConn]bool{}}
}

// layerConn tells the layer, and whoever handles the stream, when it is closed.
type layerConn struct {
	Stream
	layer *layer
	once  sync.Once
	gone  chan struct{}
}

// Close implements net.Conn.
func (c *layerConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.layer.mu.Lock()
		delete(c.layer.conns, c)
		c.layer.mu.Unlock()
		err = c.Stream.Close()
		close(c.gone)
	})
	return err
}

func (l *layer) track(conn Stream) (*layerConn, error) {
	c := &layerConn{Stream: conn, layer: l, gone: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, net.ErrClosed
	}
	l.conns[c] = true
	return c, nil
}

// handle offers an accepted stream to raft and returns when it is closed.
func (l *layer) handle(ctx context.Context, conn Stream) {
	c, err := l.track(conn)
	if err != nil {
		conn.Close()
		return
	}
	defer c.Close()
	select {
	case l.accept <- c:
	case <-l.closed:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-c.gone:
	case <-ctx.Done():
	}
}

// Accept implements net.Listener.
func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close cuts every connection of the set, and keeps new ones from being made.
func (l *layer) Close() error {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return nil
	}
	l.ended = true
	close(l.closed)
	var conns []*layerConn
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// layerAddr is a host's name as an address: where it is, transport knows.
type layerAddr string

// Network implements net.Addr.
func (layerAddr) Network() string { return "gitopsd" }

// String implements net.Addr.
func (a layerAddr) String() string { return string(a) }

// Addr implements net.Listener.
func (l *layer) Addr() net.Addr { return layerAddr(l.set.self.Host) }

// Dial implements raft.StreamLayer.
func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	to, ok := l.set.spec.voter(string(address))
	if !ok {
		return nil, fmt.Errorf("cannot reach %s: it is no voter of set %s", address, l.set.spec.Name)
	}
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	select {
	case <-l.ready:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.set.dial(ctx, to, ProtocolRaft, hello{})
	if err != nil {
		return nil, err
	}
	c, err := l.track(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// acceptRaft handles a stream between voters.
func (c *Consensus) acceptRaft(ctx context.Context, conn Stream) {
	s, h, err := c.greet(conn, ProtocolRaft)
	if err != nil {
		c.refused(conn, h, err)
		return
	}
	v := s.voting()
	if v == nil {
		conn.Close()
		return
	}
	v.layer.handle(ctx, conn)
}

// refusalPause is how long the same refusal of the same host is not logged
// again: raft dials several times a second. refusalsMax bounds what is remembered.
const (
	refusalPause = time.Minute
	refusalsMax  = 1024
)

// refused tells the operator about a stream that was turned away.
func (c *Consensus) refused(conn Stream, h hello, err error) {
	if isClosed(err) || errors.Is(err, errStoreClosed) || errors.Is(err, errStarting) {
		return
	}
	host := conn.Peer().Host
	if c.unheard(host + "\x00" + h.set + "\x00" + err.Error()) {
		c.log.Warn("refused a coordination stream", "set", h.set, "host", host, "error", err)
	}
}

// unheard tells whether a refusal was not logged within refusalPause.
func (c *Consensus) unheard(text string) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, known := c.told[text]; known && now.Sub(at) < refusalPause {
		return false
	}
	if len(c.told) >= refusalsMax {
		maps.DeleteFunc(c.told, func(_ string, at time.Time) bool { return now.Sub(at) >= refusalPause })
	}
	if len(c.told) < refusalsMax {
		c.told[text] = now
	}
	return true
}
