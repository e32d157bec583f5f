package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Application protocols of the port.
const (
	// MuxALPN carries the stream protocols over yamux.
	MuxALPN = "gitopsd-mux/1"
	// BundleALPN carries bundle bytes over HTTP.
	BundleALPN = "gitopsd-bundle/1"
	// APIALPN carries the JSON API over HTTP.
	APIALPN = "gitopsd-api/1"
	// HistoryALPN carries signed commits over HTTP. It is the only one that
	// admits keys the Directory does not know, on either side.
	HistoryALPN = "gitopsd-history/1"
)

// Directory is the inventory as transport needs it. It is asked at every
// handshake and dial and may change at any time; after a change call Sweep.
// It must be safe for concurrent use and must not block.
type Directory interface {
	// Keys returns the keys that host may present, none if it is unknown.
	Keys(host string) []ed25519.PublicKey
	// Host returns the host that key belongs to.
	Host(key ed25519.PublicKey) (host string, ok bool)
	// Address returns host's address, "HOST:PORT".
	Address(host string) (addr string, ok bool)
}

// Peer is the other end of a connection or stream.
type Peer struct {
	// Host is the peer's name in the inventory, or "" if its key is unknown;
	// a dialled peer of unknown key has the name it was dialled by.
	Host string
	// Instance is the nonce of the peer's start.
	Instance string
	// Known says whether the Directory vouched for the key as Host's.
	Known bool
	// Key is the public key that the peer proved to hold.
	Key ed25519.PublicKey
}

// EventKind says what an Event reports.
type EventKind int

const (
	// EventClone: an instance of Host that had been replaced by another came
	// back, so two machines run with one key. The connection was refused.
	EventClone EventKind = iota + 1
	// EventRefused: somebody was refused because its key is not in the
	// Directory.
	EventRefused
)

// Event is something a person should hear of. Equal events about one host are
// reported at most once a minute.
type Event struct {
	Kind     EventKind
	Host     string // "" for an unknown key
	Address  string // remote address, "IP:PORT"
	Instance string // of the connection that was refused
	Current  string // EventClone: the instance that is taken for the host
	Detail   string // one sentence
}

// Options configure New.
type Options struct {
	Identity Identity
	// Listen is the TCP address to listen on, "HOST:PORT"; port 0 lets the
	// system choose. Required unless Listener is given.
	Listen string
	// Advertise is the address others reach this host at; informative, see
	// (*Transport).Advertise. Default: the address of the listener.
	Advertise string
	// Directory is required.
	Directory Directory
	// Log gets the transport's own messages; nil discards them.
	Log *slog.Logger
	// Events is called with what a person should hear of. It must not block.
	// Optional.
	Events func(Event)
	// Near says whether a host is in the same local network, for the choice of
	// congestion control; without it the kernel chooses.
	Near func(host string) bool
	// Listener replaces the TCP listener (tests, socket activation).
	Listener net.Listener
	// DialContext replaces the TCP dialler (tests, fault injection).
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

type runState int

const (
	stateNew runState = iota
	stateRunning
	stateClosed
)

// Transport is one host's end of all connections. Make it with New, register
// what it serves with HandleStream and Listener, then Run it.
type Transport struct {
	id         Identity
	listen     string
	advertise  string
	dir        Directory
	log        *slog.Logger
	events     *reporter
	dialTCP    func(ctx context.Context, network, address string) (net.Conn, error)
	dialNear   func(ctx context.Context, network, address string) (net.Conn, error)
	near       func(host string) bool
	congestion string // nearCongestion, unless a test wants another
	usual      string // congestion control that the kernel gave the listener
	cert       tls.Certificate
	instances  *instances
	slots      *slots
	unknown    bucket
	wg         sync.WaitGroup // everything Run waits for
	stopped    chan struct{}  // closed when Run begins to stop
	patience   time.Duration  // handshakeTimeout, unless a test is in a hurry

	mu        sync.Mutex
	state     runState
	listener  net.Listener
	ctx       context.Context // Run's, while running
	listeners map[string]*Listener
	handlers  map[string]map[uint16]StreamHandler
	conns     map[*Conn]struct{}
	pool      map[string]*pooled
	learned   map[string]string
	clients   map[string]*http.Client
}

// New validates options and returns a transport that does nothing yet.
func New(o Options) (*Transport, error) {
	if err := o.Identity.validate(); err != nil {
		return nil, fmt.Errorf("cannot set up transport: %w", err)
	}
	if o.Directory == nil {
		return nil, errors.New("cannot set up transport: no directory given")
	}
	if o.Listener == nil {
		if _, _, err := net.SplitHostPort(o.Listen); err != nil {
			return nil, fmt.Errorf("cannot set up transport: listen address: %w", err)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	cert, err := selfSigned(o.Identity)
	if err != nil {
		return nil, fmt.Errorf("cannot set up transport: %w", err)
	}
	t := &Transport{
		id:         o.Identity,
		listen:     o.Listen,
		advertise:  o.Advertise,
		dir:        o.Directory,
		log:        o.Log,
		events:     &reporter{sink: o.Events, last: map[string]time.Time{}},
		dialTCP:    o.DialContext,
		dialNear:   o.DialContext,
		near:       o.Near,
		congestion: nearCongestion,
		cert:       cert,
		instances:  newInstances(),
		slots:      newSlots(),
		stopped:    make(chan struct{}),
		patience:   handshakeTimeout,
		listener:   o.Listener,
		listeners:  map[string]*Listener{},
		handlers:   map[string]map[uint16]StreamHandler{},
		conns:      map[*Conn]struct{}{},
		pool:       map[string]*pooled{},
		learned:    map[string]string{},
		clients:    map[string]*http.Client{},
	}
	if o.DialContext == nil {
		t.dialTCP, t.dialNear = dialer(tuneSocket).DialContext, dialer(t.tuneNear).DialContext
	}
	return t, nil
}

// Bind opens the listening socket without accepting yet, so that the caller
// learns the address (port 0) or the error before Run. Run does it if nobody
// did. After Bind without Run, call Close.
func (t *Transport) Bind() (net.Addr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == stateClosed {
		return nil, ErrClosed
	}
	if t.listener == nil {
		config := net.ListenConfig{KeepAliveConfig: tcpKeepAlive(), Control: t.tuneListener}
		l, err := config.Listen(context.Background(), "tcp", t.listen)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w", t.listen, trimOp(err))
		}
		t.listener = l
	}
	return t.listener.Addr(), nil
}

// Close releases the socket of a transport that was bound but never run.
func (t *Transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != stateNew {
		return nil
	}
	t.state = stateClosed
	close(t.stopped)
	if t.listener != nil {
		return t.listener.Close()
	}
	return nil
}

// Addr returns the listening address, or nil before Bind or Run.
func (t *Transport) Addr() net.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

// Advertise returns the address others should use: Options.Advertise, else the
// listening address, else, and for one like 0.0.0.0 that says nothing, "".
func (t *Transport) Advertise() string {
	if t.advertise != "" {
		return t.advertise
	}
	if a := t.Addr(); a != nil && dialable(a.String()) {
		return a.String()
	}
	return ""
}

// dialable says whether addr names a port on some machine.
func dialable(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || port == "0" {
		return false
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsUnspecified()
}

// Host returns this host's name in the inventory.
func (t *Transport) Host() string { return t.id.Host }

// Instance returns the nonce of this start.
func (t *Transport) Instance() string { return t.id.Instance }

// SetAddress notes where host was heard to be. It is tried after the
// Directory's address, and may come from anyone: the key decides who answers.
// An empty addr forgets; one that cannot be dialled is ignored.
func (t *Transport) SetAddress(host, addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if addr == "" {
		delete(t.learned, host)
		return
	}
	if !dialable(addr) {
		return
	}
	if _, ok := t.learned[host]; ok || len(t.learned) < learnedMax {
		t.learned[host] = addr
	}
}

// Run accepts and serves until ctx ends, then closes every connection and
// returns when all its goroutines and stream handlers have. It returns an
// error only if it could not listen. A transport runs once.
func (t *Transport) Run(ctx context.Context) error {
	if _, err := t.Bind(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	if t.state != stateNew {
		t.mu.Unlock()
		return errors.New("internal error: transport run twice")
	}
	t.state, t.ctx = stateRunning, ctx
	listener := t.listener
	t.mu.Unlock()

	failed := make(chan error, 1)
	t.wg.Go(func() { failed <- t.accept(ctx, listener) })
	ticker := time.NewTicker(housekeeping)
	defer ticker.Stop()
	var err error
	for running := true; running; {
		select {
		case <-ticker.C:
			t.keepHouse(time.Now())
		case err = <-failed:
			running = false
		case <-ctx.Done():
			running = false
		}
	}
	cancel()
	t.shutdown(listener)
	t.wg.Wait()
	return err
}

// shutdown closes everything that is open; nothing new is admitted any more.
func (t *Transport) shutdown(listener net.Listener) {
	t.mu.Lock()
	t.state = stateClosed
	close(t.stopped)
	var conns []*Conn
	for c := range t.conns {
		conns = append(conns, c)
	}
	var listeners []*Listener
	for _, l := range t.listeners {
		listeners = append(listeners, l)
	}
	var clients []*http.Client
	for _, c := range t.clients {
		clients = append(clients, c)
	}
	t.mu.Unlock()
	listener.Close()
	for _, l := range listeners {
		l.Close()
	}
	for _, c := range conns {
		t.wg.Go(func() { c.Close() })
	}
	for _, c := range clients {
		c.CloseIdleConnections()
	}
}

// Sweep closes every connection whose key the Directory no longer gives to the
// host it was admitted as. Call it after the inventory changed.
func (t *Transport) Sweep() {
	t.mu.Lock()
	var conns []*Conn
	for c := range t.conns {
		if c.peer.Known {
			conns = append(conns, c)
		}
	}
	t.mu.Unlock()
	for _, c := range conns {
		if host, ok := t.dir.Host(c.peer.Key); ok && host == c.peer.Host {
			continue
		}
		t.log.Info("closing connection of a key that left the inventory", "host", c.peer.Host, "alpn", c.alpn, "addr", c.RemoteAddr().String())
		c.abort()
	}
	t.instances.keep(func(host string) bool { return len(t.dir.Keys(host)) > 0 })
}

// Connections returns how many connections are open, both ways.
func (t *Transport) Connections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

func (t *Transport) keepHouse(now time.Time) {
	t.closeIdle(now)
	t.events.forget(now)
}
