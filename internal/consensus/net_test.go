package consensus

import (
	"context"
	"errors"
	"net"
	"sync"
)

// network connects hosts in memory; links can be cut and healed.
type network struct {
	mu    sync.Mutex
	nodes map[string]*node
	cuts  map[[2]string]bool
	mute  map[string]bool // hosts whose packets are lost, so that a dial takes its whole time
	conns map[*pipe]bool
	wg    sync.WaitGroup
}

func newNetwork() *network {
	return &network{nodes: map[string]*node{}, cuts: map[[2]string]bool{}, conns: map[*pipe]bool{}}
}

// node is one running process of a host: the Streams of its Consensus.
type node struct {
	net      *network
	host     string
	mu       sync.Mutex
	handlers map[string]func(context.Context, Stream)
	down     bool
}

// pipe is one end of a connection.
type pipe struct {
	net.Conn
	net      *network
	from, to string // from: the local end
}

func (p *pipe) Peer() Peer { return Peer{Host: p.to} }

func (p *pipe) Close() error {
	p.net.mu.Lock()
	delete(p.net.conns, p)
	p.net.mu.Unlock()
	return p.Conn.Close()
}

// start gives a host's process a fresh node in place of its former one.
func (n *network) start(host string) *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := &node{net: n, host: host, handlers: map[string]func(context.Context, Stream){}}
	n.nodes[host] = x
	return x
}

func (x *node) HandleStream(protocol string, handler func(context.Context, Stream)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.handlers[protocol] = handler
}

func (x *node) DialStream(ctx context.Context, host, protocol string) (Stream, error) {
	x.net.mu.Lock()
	mute := x.net.mute[host]
	x.net.mu.Unlock()
	if mute {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return x.dialAs(x.host, host, protocol)
}

func (x *node) dialAs(as, host, protocol string) (Stream, error) {
	n := x.net
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.nodes[host]
	if to == nil || to.down || x.down || n.cuts[link(x.host, host)] {
		return nil, errors.New("connection refused")
	}
	to.mu.Lock()
	handler := to.handlers[protocol]
	to.mu.Unlock()
	if handler == nil {
		return nil, errors.New("protocol unknown")
	}
	a, b := net.Pipe()
	near, far := &pipe{a, n, as, host}, &pipe{b, n, host, as}
	n.conns[near], n.conns[far] = true, true
	n.wg.Go(func() {
		handler(context.Background(), far)
		far.Close()
	})
	return near, nil
}

func link(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// breakWhere closes every connection between hosts for which bad, called under
// the lock, holds.
func (n *network) breakWhere(bad func(a, b string) bool) {
	n.mu.Lock()
	var conns []*pipe
	for p := range n.conns {
		if bad(p.from, p.to) {
			conns = append(conns, p)
		}
	}
	n.mu.Unlock()
	for _, p := range conns {
		p.Close()
	}
}

// stop takes a process off the network, as a crash would.
func (n *network) stop(host string) {
	n.mu.Lock()
	if x := n.nodes[host]; x != nil {
		x.down = true
	}
	n.mu.Unlock()
	n.breakWhere(func(a, b string) bool { return a == host || b == host })
}

// split cuts every link between the two sides.
func (n *network) split(left, right []string) {
	n.mu.Lock()
	for _, a := range left {
		for _, b := range right {
			n.cuts[link(a, b)] = true
		}
	}
	n.mu.Unlock()
	n.breakWhere(func(a, b string) bool { return n.cuts[link(a, b)] })
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts = map[[2]string]bool{}
}
