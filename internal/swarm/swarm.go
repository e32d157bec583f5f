// Package swarm brings a bundle to every host of a group while one copy of it leaves its origin.
//
// Each host that needs a bundle opens an exchange for it. It hears from the other hosts what they have (a long poll each), asks them for missing pieces rarest
// first, and serves what it has verified at once. A piece that nobody has is read from the origin by exactly one host: the dealer, the leader of the group's
// coordinator set, hands it out as a lease (package plan). Without a leader for five seconds the hosts agree on a dealer by rendezvous.
//
// It guarantees that a piece is kept, and served on, only after its sha256 matched the index, that a host which sent a wrong piece is named and not asked again, and
// that nobody reads the origin without a lease. It does not promise progress while no host reaches the origin: Fetch then says what it waits for.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// Bounds of the exchange.
const (
	requestsMax     = 8                      // pieces on their way from peers at a time, one bundle
	requestsPerPeer = 2                      // of them from one peer
	uploadsMax      = 16                     // runs served at a time, all bundles; more are turned away at once
	pollsMax        = 1024                   // long polls held open at a time
	pollWait        = 10 * time.Second       // a long poll without news
	peerTimeout     = 30 * time.Second       // one run of pieces from a peer
	leaseTimeout    = 5 * time.Second        // one question to the dealer
	hearFirst       = 500 * time.Millisecond // before the origin is read, others are heard for so long
	dealerPatience  = 5 * time.Second        // without a dealer before one is agreed on
	stallMax        = 10 * time.Second       // without any progress before Fetch gives up for now
	tick            = 250 * time.Millisecond // how often what nobody announces is looked at
	rateBurst       = 1 << 20                // bytes
	exchangesMax    = 256                    // dealings kept
)

// Origin is the first source of a bundle's bytes, as package bundle/origin opens it.
type Origin interface {
	Size(ctx context.Context) (int64, error)
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	ReadIndex(ctx context.Context) ([]byte, error)
}

// Job is one bundle that this host needs.
type Job struct {
	Ref         bundle.Ref      // Size may be 0 when the commit does not say; Index nil
	IndexDigest bundle.Digest   // of the piece index, pinned in git; "" for none
	Origin      Origin          // nil on a host without a route to it
	Where       string          // names the origin in messages
	Members     func() []string // live hosts that have or want the bundle, self included; asked again and again
	Dealer      func() string   // the host that deals pieces (the set's leader), or ""
}

// Progress is how far a bundle is on this host.
type Progress struct {
	Total      int64             `json:"total"`              // bytes; 0 while unknown
	Have       int64             `json:"have"`               // verified bytes
	FromOrigin int64             `json:"fromOrigin"`         // bytes read from the origin by this host
	FromPeers  int64             `json:"fromPeers"`          // bytes read from other hosts
	Reused     int64             `json:"reused"`             // bytes found in earlier bundles
	Peers      int               `json:"peers"`              // hosts heard of in this exchange
	State      string            `json:"state"`              // one sentence
	Suspects   map[string]string `json:"suspects,omitempty"` // host -> why it is no longer asked
}

// Options configure New.
type Options struct {
	Host     string       // this host's name
	Store    *store.Store // where bundles are kept
	Scratch  string       // folder for an archive whose index is not known yet; made if missing
	Listener net.Listener // accepts peers (bundle ALPN); closed when Run ends
	Client   *http.Client // dials peers by host name
	Upload   int64        // bytes in a second to peers; 0: no limit
	Download int64        // bytes in a second from peers and origins; 0: no limit
	Log      *slog.Logger // nil discards
}

// Swarm is this host's part in every bundle's distribution.
type Swarm struct {
	o        Options
	log      *slog.Logger
	up, down *rate.Limiter
	uploads  chan struct{}
	polls    chan struct{}
	changed  broadcast // an exchange appeared

	mu        sync.Mutex
	exchanges map[bundle.Digest]*exchange
	past      map[bundle.Digest]Progress
	dealings  map[bundle.Digest]*dealing
}

// New checks the options and starts nothing.
func New(o Options) (*Swarm, error) {
	if o.Host == "" || o.Store == nil || o.Listener == nil || o.Client == nil {
		return nil, errors.New("cannot set up the swarm: Host, Store, Listener and Client are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Swarm{o: o, log: o.Log, up: limiter(o.Upload), down: limiter(o.Download), uploads: make(chan struct{}, uploadsMax), polls: make(chan struct{}, pollsMax),
		exchanges: map[bundle.Digest]*exchange{}, past: map[bundle.Digest]Progress{}, dealings: map[bundle.Digest]*dealing{}}, nil
}

// limiter allows bytes a second; 0 is no limit.
func limiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytes), rateBurst)
}

// take waits until n bytes may pass.
func take(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 {
		part := min(n, rateBurst)
		if err := l.WaitN(ctx, part); err != nil && l.Limit() != rate.Inf {
			return err
		}
		n -= part
	}
	return ctx.Err()
}

// Run serves peers until ctx ends.
func (s *Swarm) Run(ctx context.Context) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: leaseTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: transport.ConnContext}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		server.Close()
	}()
	err := server.Serve(s.o.Listener)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("cannot serve bundles to peers: %w", err)
}

// Progress says how far a bundle is, or what its last fetch cost.
func (s *Swarm) Progress(digest bundle.Digest) Progress {
	s.mu.Lock()
	x := s.exchanges[digest]
	past := s.past[digest]
	s.mu.Unlock()
	if x == nil {
		return past
	}
	return x.progress()
}

// Suspects lists the hosts that sent wrong bytes in any exchange since the start, and what they sent.
func (s *Swarm) Suspects() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]string{}
	for _, p := range s.past {
		for host, why := range p.Suspects {
			all[host] = why
		}
	}
	for _, x := range s.exchanges {
		for host, why := range x.progress().Suspects {
			all[host] = why
		}
	}
	return all
}

// broadcast wakes everyone who waits.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that is closed at the next change.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// notify wakes the waiters.
func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
