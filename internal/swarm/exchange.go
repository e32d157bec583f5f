package swarm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// exchange is one bundle on its way to this host.
type exchange struct {
	s       *Swarm
	job     Job
	digest  bundle.Digest
	started time.Time
	changed broadcast // anything below
	work    sync.WaitGroup

	mu         sync.Mutex
	partial    *store.Partial // nil until the size is known
	index      *bundle.Index
	sizes      []int64
	provider   string // who gave an index that git does not pin
	version    uint64 // rises with every piece
	peers      map[string]*peer
	flying     map[int]bool // pieces on their way, from anywhere
	holding    []int        // of them, those read from the origin
	failed     []int        // leases given up since the dealer was asked last
	busy       int          // requests to peers under way
	reading    bool         // an origin worker is at work
	suspects   map[string]string
	fromOrigin int64
	fromPeers  int64
	reused     int64
	rate       int64
	why        string // what it waits for
	lastMove   time.Time
	turn       int
	noDealer   time.Time // since when no dealer has answered
}

// Fetch makes a bundle complete in the store. It returns an error, and keeps what it has, when nothing moved for ten seconds; call it again later.
func (s *Swarm) Fetch(ctx context.Context, job Job) error {
	if _, ok := s.o.Store.Lookup(job.Ref.Digest); ok {
		return nil
	}
	x, err := s.open(job)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	err = x.run(ctx)
	cancel()
	x.work.Wait()
	s.close(x)
	return err
}

// errAlready says that the bundle is being fetched by another call.
var errAlready = errors.New("this bundle is being fetched already")

// open registers an exchange.
func (s *Swarm) open(job Job) (*exchange, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exchanges[job.Ref.Digest] != nil {
		return nil, fmt.Errorf("cannot fetch bundle %s: %w", job.Ref.Digest.Short(), errAlready)
	}
	now := time.Now()
	x := &exchange{s: s, job: job, digest: job.Ref.Digest, started: now, lastMove: now, noDealer: now, peers: map[string]*peer{}, flying: map[int]bool{}, suspects: map[string]string{}}
	for host, why := range s.past[job.Ref.Digest].Suspects {
		x.suspects[host] = why
	}
	past := s.past[job.Ref.Digest]
	x.fromOrigin, x.fromPeers, x.reused = past.FromOrigin, past.FromPeers, past.Reused
	for _, c := range job.Ref.Digest.Hex()[:2] + s.o.Host {
		x.turn = x.turn*31 + int(c)
	}
	x.turn &= 0xffff
	s.exchanges[job.Ref.Digest] = x
	s.changed.notify()
	return x, nil
}

// close forgets an exchange but for what it cost.
func (s *Swarm) close(x *exchange) {
	progress := x.progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exchanges, x.digest)
	if len(s.past) >= exchangesMax {
		s.past = map[bundle.Digest]Progress{}
	}
	s.past[x.digest] = progress
	s.changed.notify()
}

// run fetches until the bundle is complete.
func (x *exchange) run(ctx context.Context) error {
	x.followMembers(ctx)
	if err := x.prepare(ctx); err != nil {
		return err
	}
	pace := time.NewTicker(tick)
	defer pace.Stop()
	for {
		changed := x.changed.wait()
		if x.partial.Missing() == 0 {
			return x.finish(ctx)
		}
		x.followMembers(ctx)
		x.schedule(ctx)
		if err := x.stalled(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot fetch bundle %s: %w", x.digest.Short(), ctx.Err())
		case <-changed:
		case <-pace.C:
		}
	}
}

// stalled gives up for now when nothing has moved for long.
func (x *exchange) stalled() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if time.Since(x.lastMove) < stallMax {
		return nil
	}
	return fmt.Errorf("cannot fetch bundle %s yet: %s", x.digest.Short(), x.sentence())
}

// sentence says what the exchange waits for. The lock is held.
func (x *exchange) sentence() string {
	switch {
	case x.why != "":
		return x.why
	case x.job.Origin == nil && len(x.peers) == 0:
		return "this host has no route to " + x.job.Where + " and no other host of the group is up"
	case x.job.Origin == nil:
		return "this host has no route to " + x.job.Where + ", and no peer has the missing pieces yet"
	}
	return "fetching"
}

// prepare gets the size and the index, and takes what earlier bundles have.
func (x *exchange) prepare(ctx context.Context) error {
	index, err := x.findIndex(ctx)
	if err != nil {
		return err
	}
	ref := x.job.Ref
	if index != nil {
		ref.Index, ref.Size = index, index.ArchiveSize()
	}
	if x.job.Ref.Size > 0 && x.job.Ref.Size != ref.Size {
		return fmt.Errorf("cannot fetch bundle %s: its index speaks of %d bytes, the commit of %d", x.digest.Short(), ref.Size, x.job.Ref.Size)
	}
	partial, err := x.s.o.Store.Begin(ref)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := partial.SetIndex(index); err != nil {
		return err
	}
	_, reused, err := partial.Reuse(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.partial, x.index, x.reused = partial, index, x.reused+reused
	for i := range index.Len() {
		x.sizes = append(x.sizes, int64(index.Piece(i).Size))
	}
	x.lastMove = time.Now()
	x.mu.Unlock()
	x.bump()
	return nil
}

// finish verifies the whole; a mismatch is charged to whoever gave the index, unless git pins it.
func (x *exchange) finish(ctx context.Context) error {
	err := x.partial.Finish(ctx)
	if err == nil {
		x.mu.Lock()
		x.why = "complete"
		x.mu.Unlock()
		return nil
	}
	if errors.Is(err, store.ErrMismatch) && x.job.IndexDigest == "" {
		x.suspect(x.provider, "its index does not lead to the pinned digest")
		return errors.Join(err, x.partial.Discard())
	}
	return err
}

// schedule starts everything that may be started now.
func (x *exchange) schedule(ctx context.Context) {
	for x.startPeerRequest(ctx) {
	}
	x.mu.Lock()
	start := x.job.Origin != nil && !x.reading && (time.Since(x.started) > hearFirst || x.heardAll())
	if start {
		x.reading = true
	}
	x.mu.Unlock()
	if start {
		x.work.Go(func() { x.readOrigin(ctx) })
	}
}

// heardAll says whether every known peer has told once what it has. The lock is held.
func (x *exchange) heardAll() bool {
	for _, p := range x.peers {
		if !p.heard {
			return false
		}
	}
	return true
}

// startPeerRequest starts one request to a peer; false when none can be.
func (x *exchange) startPeerRequest(ctx context.Context) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.busy >= requestsMax {
		return false
	}
	have := x.partial.Have()
	var peers []plan.Peer
	for host, p := range x.peers {
		if x.suspects[host] == "" && !p.away() {
			peers = append(peers, plan.Peer{Host: host, Have: p.have, Busy: p.busy, Load: int(p.bytes >> 10)})
		}
	}
	if len(peers) == 0 {
		return false
	}
	sortPeers(peers)
	x.turn++
	want, ok := plan.Pick(x.sizes, func(i int) bool { return !have.Has(i) }, func(i int) bool { return x.flying[i] }, peers, requestsPerPeer, x.turn)
	if !ok {
		return false
	}
	for i := want.From; i < want.From+want.Count; i++ {
		x.flying[i] = true
	}
	x.busy++
	x.peers[want.Host].busy++
	x.work.Go(func() { x.fetchFromPeer(ctx, want) })
	return true
}

// keep stores a verified piece and tells the others. ErrMismatch means that the bytes are wrong.
func (x *exchange) keep(i int, data []byte) error {
	if err := x.partial.Write(i, data); err != nil {
		return err
	}
	x.mu.Lock()
	x.lastMove, x.why = time.Now(), ""
	x.mu.Unlock()
	x.bump()
	return nil
}

// bump tells everyone who waits that something changed.
func (x *exchange) bump() {
	x.mu.Lock()
	x.version++
	x.mu.Unlock()
	x.changed.notify()
}

// suspect names a host that sent wrong bytes; it is not asked again.
func (x *exchange) suspect(host, why string) {
	if host == "" {
		return
	}
	x.mu.Lock()
	known := x.suspects[host] != ""
	x.suspects[host] = why
	x.mu.Unlock()
	if !known {
		x.s.log.Error("a peer sent wrong bytes and is not asked again for this bundle", "peer", host, "digest", x.digest.Short(), "why", why)
	}
	x.changed.notify()
}

// progress is what status shows.
func (x *exchange) progress() Progress {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := Progress{FromOrigin: x.fromOrigin, FromPeers: x.fromPeers, Reused: x.reused, Peers: len(x.peers), State: x.sentence(), Suspects: map[string]string{}}
	for host, why := range x.suspects {
		p.Suspects[host] = why
	}
	if x.index == nil {
		return p
	}
	p.Total = x.index.ArchiveSize()
	have := x.partial.Have()
	for i, n := range x.sizes {
		if have.Has(i) {
			p.Have += n
		}
	}
	return p
}
