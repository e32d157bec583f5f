package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"
)

// Conn is an admitted connection. Listener and Dial hand it out as net.Conn;
// PeerOf tells who is at the other end.
type Conn struct {
	*tls.Conn
	peer    Peer
	alpn    string
	inbound bool
	owner   *Transport
	expiry  *time.Timer // of a connection of an unknown key
	once    sync.Once
	closed  chan struct{}
	err     error
}

// Peer returns who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// Close closes the connection with a TLS goodbye, for which it waits 5 s at
// most; every call returns the first one's result.
func (c *Conn) Close() error { return c.end(c.Conn.Close) }

// abort closes the connection without a word and without waiting.
func (c *Conn) abort() { _ = c.end(c.Conn.NetConn().Close) }

func (c *Conn) end(how func() error) error {
	c.once.Do(func() {
		c.owner.drop(c)
		if c.expiry != nil {
			c.expiry.Stop()
		}
		close(c.closed)
		c.err = how()
	})
	return c.err
}

// PeerOf returns the peer of a connection or Stream that this package handed
// out.
func PeerOf(conn net.Conn) (Peer, bool) {
	p, ok := conn.(interface{ Peer() Peer })
	if !ok {
		return Peer{}, false
	}
	return p.Peer(), true
}

type peerKey struct{}

// ConnContext is for http.Server.ConnContext: handlers then find the peer with
// PeerFromContext(r.Context()).
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if p, ok := PeerOf(conn); ok {
		return context.WithValue(ctx, peerKey{}, p)
	}
	return ctx
}

// PeerFromContext returns the peer of the request's connection.
func PeerFromContext(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

// admit registers a connection whose handshake is done, or says why not. The
// greeting is what an acceptor tells the peer.
func (t *Transport) admit(tc *tls.Conn, host, alpn string, inbound bool) (*Conn, greeting, error) {
	key, instance, err := presented(tc.ConnectionState())
	if err != nil {
		return nil, greeting{statusRefused, err.Error()}, err
	}
	peer := Peer{Host: host, Instance: instance, Key: key}
	if name, ok := t.dir.Host(key); ok && (inbound || name == host) {
		peer.Host, peer.Known = name, true
	}
	if peer.Known {
		if err := t.checkInstance(peer, tc.RemoteAddr().String(), inbound); err != nil {
			return nil, greeting{statusRefused, err.Error()}, err
		}
	}
	c := &Conn{Conn: tc, peer: peer, alpn: alpn, inbound: inbound, owner: t, closed: make(chan struct{})}
	if err := t.register(c); err != nil {
		return nil, greeting{statusBusy, err.Error()}, err
	}
	// The inventory may have changed between the handshake and registration,
	// where Sweep could not see this connection.
	if peer.Known {
		if name, ok := t.dir.Host(key); !ok || name != peer.Host {
			c.Close()
			return nil, greeting{statusRefused, "key left the inventory"}, ErrRefused
		}
	}
	return c, greeting{}, nil
}

// checkInstance tells a restart from a clone, see the package comment.
func (t *Transport) checkInstance(peer Peer, addr string, inbound bool) error {
	now := time.Now()
	if peer.Host == t.id.Host && peer.Key.Equal(t.id.Key.Public()) {
		if peer.Instance == t.id.Instance {
			return nil // we dialled ourselves
		}
		t.reportClone(now, peer, addr, t.id.Instance)
		if inbound {
			return fmt.Errorf("%w: instance %s dialled instance %s", ErrClone, peer.Instance, t.id.Instance)
		}
	}
	s, current, since := t.instances.see(peer.Host, peer.Instance, now)
	switch s {
	case newInstance:
		t.closeOtherInstances(peer)
	case oldInstance:
		// A handshake of a process that just died may finish after its
		// successor's; only later ones are proof of two machines.
		if now.Sub(since) >= cloneGrace {
			t.reportClone(now, peer, addr, current)
		}
		return fmt.Errorf("%w: instance %s was replaced by %s", ErrClone, peer.Instance, current)
	}
	return nil
}

func (t *Transport) reportClone(now time.Time, peer Peer, addr, current string) {
	e := Event{
		Kind: EventClone, Host: peer.Host, Address: addr, Instance: peer.Instance, Current: current,
		Detail: fmt.Sprintf("two machines use the key of host %s (instances %s at %s and %s); give one of them a key of its own with: gitopsd host init", peer.Host, peer.Instance, addr, current),
	}
	if t.events.report(now, "clone/"+peer.Host+"/"+peer.Instance, e) {
		t.log.Warn("two machines use one host key", "host", peer.Host, "addr", addr, "instance", peer.Instance, "current", current)
	}
}

// closeOtherInstances ends what an earlier start of the host left behind.
func (t *Transport) closeOtherInstances(peer Peer) {
	t.mu.Lock()
	var stale []*Conn
	for c := range t.conns {
		if c.peer.Known && c.peer.Host == peer.Host && c.peer.Instance != peer.Instance {
			stale = append(stale, c)
		}
	}
	t.mu.Unlock()
	for _, c := range stale {
		c.abort()
	}
}

// register counts a connection against the bounds.
func (t *Transport) register(c *Conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != stateRunning {
		return ErrClosed
	}
	if c.inbound {
		all, same, unknown := 0, 0, 0
		for o := range t.conns {
			if !o.inbound {
				continue
			}
			all++
			if !o.peer.Known {
				unknown++
			} else if o.peer.Host == c.peer.Host {
				same++
			}
		}
		switch {
		case all >= connsMax:
			return fmt.Errorf("%w: %d connections are open", ErrBusy, all)
		case c.peer.Known && same >= connsPerHost:
			return fmt.Errorf("%w: %d connections of this host are open", ErrBusy, same)
		case !c.peer.Known && unknown >= unknownConnsMax:
			return fmt.Errorf("%w: %d connections of unknown keys are open", ErrBusy, unknown)
		case !c.peer.Known && !t.unknown.take(time.Now(), unknownPerSecond, unknownBurst):
			return fmt.Errorf("%w: too many connections of unknown keys, try again in a second", ErrBusy)
		}
	}
	if c.inbound && !c.peer.Known {
		c.expiry = time.AfterFunc(unknownLifetime, c.abort)
	}
	t.conns[c] = struct{}{}
	return nil
}

func (t *Transport) drop(c *Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}
