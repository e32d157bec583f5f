package status

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
)

// Bounds of the operators' socket.
const (
	ConnectionsMax        = 256 // connections at a time
	ConnectionsPerProcess = 64  // of them of one process
)

// Connections is a listener that bounds the connections of the operators' socket,
// in all and for each process at the other end. Those that wait without a request
// make room for new ones, longest waiting first; where none does, the new one is
// closed. Give its ConnState to the http.Server.
type Connections struct {
	net.Listener
	most, perPeer int
	peer          func(net.Conn) string

	mu   sync.Mutex
	open []*connection // quiet ones in order of becoming so
}

// LimitConnections bounds what l accepts by ConnectionsMax and ConnectionsPerProcess.
func LimitConnections(l net.Listener) *Connections {
	return &Connections{Listener: l, most: ConnectionsMax, perPeer: ConnectionsPerProcess, peer: process}
}

// process names the process that connected to a unix socket; "" where the system does not say.
func process(conn net.Conn) string {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return ""
	}
	name := ""
	_ = raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			name = strconv.Itoa(int(cred.Pid))
		}
	})
	return name
}

type connection struct {
	net.Conn
	owner *Connections
	peer  string
	quiet bool // no request is under way
}

// Accept returns the next connection that there is room for.
func (l *Connections) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: conn, owner: l, peer: l.peer(conn), quiet: true}
		old, ok := l.enter(c)
		if old != nil {
			old.Conn.Close()
		}
		if ok {
			return c, nil
		}
		conn.Close()
	}
}

// enter takes c down if there is room or old, which it forgets, makes it.
func (l *Connections) enter(c *connection) (old *connection, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	same := 0
	for _, o := range l.open {
		if o.peer == c.peer {
			same++
		}
	}
	if same >= l.perPeer || len(l.open) >= l.most {
		i := slices.IndexFunc(l.open, func(o *connection) bool { return o.quiet && (same < l.perPeer || o.peer == c.peer) })
		if i < 0 {
			return nil, false
		}
		old = l.open[i]
		l.open = slices.Delete(l.open, i, i+1)
	}
	l.open = append(l.open, c)
	return old, true
}

// ConnState is for http.Server.ConnState: it tells connections that wait from busy ones.
func (l *Connections) ConnState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*connection)
	if !ok || state == http.StateNew {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.quiet = state == http.StateIdle
	if i := slices.Index(l.open, c); i >= 0 { // the newest of the quiet ones now
		l.open = append(slices.Delete(l.open, i, i+1), c)
	}
}

// Close makes room for another connection.
func (c *connection) Close() error {
	l := c.owner
	l.mu.Lock()
	l.open = slices.DeleteFunc(l.open, func(o *connection) bool { return o == c })
	l.mu.Unlock()
	return c.Conn.Close()
}
