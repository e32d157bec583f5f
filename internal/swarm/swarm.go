// Package swarm brings a bundle to every host of a group while one copy of it leaves its origin.
//
// Each host that needs a bundle opens an exchange for it. It hears from the other live hosts, of a large group from some two dozen of them, in one long answer each,
// what that host has (news.go); asks for missing pieces rarest first (package plan); keeps a piece once it matches the index, and serves it on at once. A piece that no
// host has is read from the origin by exactly one host: the dealer, the leader of the group's coordinator set, hands it out as a lease. After five seconds without a leader that answers the hosts agree on a dealer
// by rendezvous; what is being read is in the news, so that a new dealer deals nothing twice. The index, where git pins one, is read by one host too; where git pins
// none, one host reads the whole archive, cuts it, and its index serves all.
//
// Hosts of one site exchange with each other, and a few gateways of each site bring what it lacks from others. One copy leaves the origin for all sites together; a site
// that reads for itself (Site.Own) gets one of its own.
//
// Guarantees: a piece is kept, and served on, only after its sha256 matched the index; a host that sent a wrong piece or index is named and not asked again for this
// bundle; nobody reads the origin without a lease, and the dealer's budget bounds what leaves it whatever fails; what a restarted host had verified it does not
// fetch again; what another host says is bounded before it is believed.
//
// Not promised: progress while no live host reaches the origin (Fetch then says so), or one copy only where two groups of different coordinator sets want a bundle at
// the same time, where the network is cut in two, or where a host lies to the dealer; the budget bounds those. Where git pins no index, a
// wrong index is found only at the end, by the bundle's digest, and costs its bytes.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// Bounds of the exchange.
const (
	fetchesMax   = 8                      // bundles fetched at a time; others wait for their turn
	uploadsMax   = 32                     // runs of pieces served at a time, all bundles, and of one as many as plan.Flows says; more are turned away at once
	streamsMax   = 2048                   // news told at a time
	hearFirst    = 500 * time.Millisecond // before the origin is read, peers that do not answer are waited for so long
	reuseTold    = 4 << 20                // bytes copied from earlier bundles between two looks at it
	stallMax     = 10 * time.Second       // without any progress before Fetch gives up for now
	tick         = 250 * time.Millisecond // how often members and resting peers are looked at
	peerRequest  = 30 * time.Second       // one request to a peer, and
	peerRate     = 16 << 10               // so many bytes a second more
	originIdle   = 20 * time.Second       // an origin that sends nothing for so long is given up
	writeTimeout = 2 * time.Minute        // a peer takes one piece in so long, or is cut off
	askTimeout   = 2 * time.Second        // one question to the dealer
	newsAliveAt  = time.Second            // news without news
	newsQuiet    = 2 * time.Second        // a peer without news does not count,
	newsGrace    = 300 * time.Millisecond // once it had so long beside,
	newsSilence  = 5 * time.Second        // and is gone
	restMin      = 50 * time.Millisecond  // a peer that tells no news is tried again after so long, twice as long each time
	restMax      = 5 * time.Second
	liesMax      = 3                     // pieces a peer said it had and had not, before it is named
	rateBurst    = 1 << 20               // bytes that pass at once under a limit, or, if that is more, what passes in
	rateLate     = 32 * time.Millisecond // which is several times as late as the agent may be woken: what could have passed meanwhile is not lost
	throttled    = 16 << 10
	suspectsKept = 24 * time.Hour  // a host is named for what it did in a fetch that ended so long ago
	doubtsKept   = 2 * time.Minute // or for what may not be its fault: as long as between two attempts
	pastMax      = 256             // fetches whose cost is remembered
)

// Origin is the first source of a bundle's bytes, as package bundle/origin opens it. Its errors, and those of what it hands out, may have a Place() string: then they say
// themselves what could not be read of it.
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
	PinnedIn    string          // names the file in which Ref's digest stands, in messages; "": the commit
	Members     func() []string // live hosts that have or want the bundle, self included; asked again and again; nil: this host alone
	Dealer      func() string   // the host that deals pieces (the set's leader), or ""; nil: none
}

// Progress is how far a bundle is on this host.
type Progress struct {
	Total      int64             `json:"total"`              // bytes; 0 while unknown
	Have       int64             `json:"have"`               // verified bytes
	Pieces     int               `json:"pieces"`             // 0 while unknown
	HavePieces int               `json:"havePieces"`         // verified
	FromOrigin int64             `json:"fromOrigin"`         // bytes read from the origin by this host
	FromPeers  int64             `json:"fromPeers"`          // bytes read from other hosts
	FromFar    int64             `json:"fromFar"`            // of those, from other sites
	Reused     int64             `json:"reused"`             // bytes found in earlier bundles
	Rate       int64             `json:"rate"`               // bytes a second that came in the last five seconds; 0 when nothing is being fetched
	Peers      int               `json:"peers"`              // hosts heard of in this exchange
	State      string            `json:"state"`              // one sentence; "" for a bundle that is not here and was never fetched
	Suspects   map[string]string `json:"suspects,omitempty"` // host -> why it is no longer asked, for what it is known to have done wrong,
	Doubted    map[string]string `json:"doubted,omitempty"`  // or for what may be the fault of the commit or of another host

	coming int64 // bytes of an archive that is read whole, and cannot be verified before its end
}

// ETA is how long the rest takes at the present rate; false while that is unknown.
func (p Progress) ETA() (time.Duration, bool) {
	left := p.Total - p.Have - p.coming
	if p.Rate <= 0 || p.Total <= 0 || left <= 0 {
		return 0, false
	}
	return time.Duration(float64(left) / float64(p.Rate) * float64(time.Second)), true
}

// Options configure New.
type Options struct {
	Host     string       // this host's name
	Store    *store.Store // where bundles are kept
	Listener net.Listener // accepts peers (bundle ALPN); closed when Run ends
	Client   *http.Client // dials peers by host name
	Upload   int64        // bytes in a second to peers; 0: no limit
	Download int64        // bytes in a second from peers and origins; 0: no limit
	Log      *slog.Logger // nil discards

	Site func(host string) Site // where a host is; must not block; nil: all hosts are in one site
	// Needs is false for a host of which it is known that no group of its own has the bundle: nothing is dealt to it. nil: any may need any.
	Needs func(host string, digest bundle.Digest) bool
}

// Swarm is this host's part in every bundle's distribution.
type Swarm struct {
	o        Options
	log      *slog.Logger
	up, down *rate.Limiter
	uploads  slots
	buffers  buffers
	links    links
	streams  chan struct{}
	fetches  chan struct{}
	serving  gate
	appeared broadcast // an exchange came or went
	desk     desk

	mu        sync.Mutex
	exchanges map[bundle.Digest]*exchange
	past      map[bundle.Digest]past
	opened    uint64
}

// past is what is left of an exchange.
type past struct {
	progress Progress
	suspects map[string]suspicion
	found    bundle.Digest
	order    uint64
	ended    time.Time
}

// New checks the options and starts nothing.
func New(o Options) (*Swarm, error) {
	if o.Host == "" || o.Store == nil || o.Listener == nil || o.Client == nil {
		return nil, errors.New("cannot set up the swarm: Host, Store, Listener and Client are required")
	}
	if o.Upload < 0 || o.Download < 0 {
		return nil, fmt.Errorf("cannot set up the swarm: limits of %d and %d bytes a second", o.Upload, o.Download)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Swarm{o: o, log: o.Log, up: limiter(o.Upload), down: limiter(o.Download), uploads: newSlots(), links: newLinks(), streams: make(chan struct{}, streamsMax),
		fetches: make(chan struct{}, fetchesMax), desk: newDesk(), exchanges: map[bundle.Digest]*exchange{}, past: map[bundle.Digest]past{}}, nil
}

// limiter allows bytes a second; 0 is no limit.
func limiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytes), burst(bytes))
}

// burst is how many bytes pass at once under a limit of so many a second.
func burst(bytes int64) int { return max(rateBurst, int(rateLate.Seconds()*float64(bytes))) }

// take waits until n bytes may pass that have come, or are at hand. Where ctx ends the wait they count all the same: those after them wait the longer.
func take(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 {
		part := min(n, rateBurst)
		n -= part
		turn := l.ReserveN(time.Now(), part)
		if !turn.OK() {
			return fmt.Errorf("%d bytes are more than a limit lets through at once", part)
		}
		wait := turn.Delay()
		if wait == 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// Run serves peers until ctx ends.
func (s *Swarm) Run(ctx context.Context) error {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: askTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return serving }, ConnContext: transport.ConnContext}
	stop := context.AfterFunc(serving, func() { server.Close() })
	err := server.Serve(s.o.Listener)
	ended := ctx.Err() != nil // not serving's, which may hear of the end only after whoever closed the listener because of it
	cancel()
	if stop() {
		server.Close()
	}
	s.serving.close()
	if ended {
		return nil
	}
	return fmt.Errorf("cannot serve bundles to peers: %w", err)
}

// Progress says how far a bundle is, or what its last fetch cost and what is left of it on this disk.
func (s *Swarm) Progress(digest bundle.Digest) Progress {
	s.mu.Lock()
	x, p := s.exchanges[digest], s.past[digest].progress
	s.mu.Unlock()
	if x != nil {
		return x.progress()
	}
	p.Rate, p.Have, p.HavePieces = 0, 0, 0
	if b, ok := s.o.Store.Lookup(digest); ok {
		p.whole(b.Ref)
		p.State = "complete"
	} else if left, ok := s.o.Store.Partial(digest); ok && left.Index() != nil {
		p.part(left.Index(), left.Have())
	}
	return p
}

// Known lists the bundles being fetched here and those of the last fetches.
func (s *Swarm) Known() []bundle.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Keys(s.exchanges))
	for digest := range s.past {
		if s.exchanges[digest] == nil {
			all = append(all, digest)
		}
	}
	slices.Sort(all)
	return all
}

// Fetching lists the bundles being fetched here.
func (s *Swarm) Fetching() []bundle.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.exchanges))
}

// Suspects lists the hosts that sent wrong bytes in exchanges of the last day, and what they sent.
func (s *Swarm) Suspects() map[string]string {
	return s.judged(suspectsKept, func(p Progress) map[string]string { return p.Suspects })
}

// Doubted lists the hosts that passed on what does not lead to the digest in the commit, and what that was. Whose fault it is is not known: the commit's, theirs, or
// that of whoever told them.
func (s *Swarm) Doubted() map[string]string {
	return s.judged(doubtsKept, func(p Progress) map[string]string { return p.Doubted })
}

// judged gathers what exchanges that run, or ended not longer ago, say of hosts.
func (s *Swarm) judged(kept time.Duration, of func(Progress) map[string]string) map[string]string {
	s.mu.Lock()
	var running []*exchange
	for _, x := range s.exchanges {
		running = append(running, x)
	}
	all := map[string]string{}
	for _, p := range s.past {
		if time.Since(p.ended) < kept {
			maps.Copy(all, of(p.progress))
		}
	}
	s.mu.Unlock()
	for _, x := range running {
		maps.Copy(all, of(x.progress()))
	}
	return all
}
