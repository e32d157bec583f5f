package swarm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// exchange is one bundle on its way to this host.
type exchange struct {
	s       *Swarm
	digest  bundle.Digest
	ref     bundle.Ref
	pin     bundle.Digest // of the index; "" for none
	order   uint64
	seed    uint64 // this host's
	lot     uint64 // the bundle's: by it neighbours are drawn, alike on all hosts
	started time.Time
	changed broadcast      // anything below
	gained  broadcast      // of it, what this host tells others
	work    sync.WaitGroup // listeners
	pulls   sync.WaitGroup // requests for pieces, and the origin's reader
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // once done

	mu         sync.Mutex
	jobs       []*Job         // of the callers; none once it ends
	partial    *store.Partial // nil until the index is known
	index      *bundle.Index
	reusing    plan.Bits // pieces that are being copied from earlier bundles; nil once that is over
	picker     *plan.Picker
	sizes      []int64
	provider   string                 // who gave an index that git does not pin
	misled     map[bundle.Digest]bool // indexes that did not lead to the bundle's digest
	found      bundle.Digest          // of what this host read from the origin as a whole, last, and was not the bundle
	peers      map[string]*peer
	graph      plan.Graph  // whom it listens to
	drawn      []plan.Host // the members among whom that was chosen,
	home       string      // and the site of this host then
	keeping    int         // pieces being written; the whole is finished only between them
	suspects   map[string]suspicion
	fatal      error // of this host's disk
	fromOrigin int64
	fromPeers  int64
	fromFar    int64 // of those, from other sites
	flow       flow
	reused     int64
	copied     plan.Bits // the pieces of which that is the sum
	why        string    // what it waits for; "" while it moves
	lastMove   time.Time
	followed   time.Time // when members were asked for last
	complete   bool
	mismatches int
	scouting   bool
	scouted    int64 // bytes that had left the origin when that began

	holding [][]int       // leases being read
	asked   time.Duration // when the dealer was told last what is where
	landed  int64         // bytes of leases that are over
	rate    int64         // bytes a second the origin gave lately
	failed  string        // why the last read failed, until the dealer was told
	astray  int           // reads of an origin that failed
	wrong   []int         // pieces the origin had wrong, until the dealer was told
	desk    deskView
}

// run fetches until the bundle is complete.
func (x *exchange) run(ctx context.Context) error {
	x.followMembers(ctx)
	for {
		if err := x.prepare(ctx); err != nil {
			return err
		}
		again, err := x.gather(ctx)
		if !again {
			return err
		}
	}
}

// gather fetches pieces until all are here and the whole is right. again means that the index was wrong and another is to be found.
func (x *exchange) gather(ctx context.Context) (again bool, err error) {
	if x.isComplete() {
		return false, nil
	}
	pulling, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		x.pulls.Wait()
		if again {
			err = x.restart()
			again = err == nil
		}
	}()
	if x.reusing != nil {
		x.pulls.Go(func() { x.reuse(pulling) })
	}
	x.pulls.Go(func() { x.readOrigin(pulling) })
	pace := time.NewTicker(tick)
	defer pace.Stop()
	for {
		changed := x.changed.wait()
		if x.whole() {
			if more, again, err := x.finish(ctx); !more {
				return again, err
			}
		}
		x.followMembers(ctx)
		for x.startPeerRequest(pulling) {
		}
		if err := x.stalled(); err != nil {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-changed:
		case <-pace.C:
			x.recount()
		}
	}
}

// reuse copies what earlier bundles have, while the rest is fetched. What turns out not to be there is fetched too.
func (x *exchange) reuse(ctx context.Context) {
	untold := int64(0)
	err := x.partial.Reuse(ctx, func(i, n int) {
		x.mu.Lock()
		before := x.reused
		for ; n > 0; i, n = i+1, n-1 {
			x.copied.Set(i)
			x.reused += x.sizes[i]
		}
		untold += x.reused - before
		x.lastMove = time.Now()
		x.mu.Unlock()
		if untold >= reuseTold {
			untold = 0
			x.tell()
		}
	})
	x.mu.Lock()
	if err != nil && ctx.Err() == nil {
		x.fatal = err
	}
	x.reusing = nil
	x.mu.Unlock()
	x.recount()
	x.tell()
}

// whole says whether every piece is written.
func (x *exchange) whole() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.keeping == 0 && x.reusing == nil && x.partial.Missing() == 0
}

// recount finds pieces that were here and are not any more: the store forgets those that it reads back and finds changed.
func (x *exchange) recount() {
	x.mu.Lock()
	have, lost := x.partial.Have(), false
	for i := range x.sizes {
		if have.Has(i) || x.reusing.Has(i) || !x.picker.Lost(i) {
			continue
		}
		lost = true
		if x.copied.Has(i) {
			x.copied.Clear(i)
			x.reused -= x.sizes[i]
		}
	}
	x.mu.Unlock()
	if lost {
		x.tell()
	}
}

// stalled gives up for now when nothing has moved for long, or the disk failed.
func (x *exchange) stalled() error {
	_, where := x.origin()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fatal != nil {
		return x.fatal
	}
	if x.scouting || x.keeping > 0 || x.reusing != nil || time.Since(x.lastMove) < stallMax { // a slow disk is no stall
		return nil
	}
	return fmt.Errorf("cannot fetch bundle %s yet: %s", x.digest.Short(), x.sentence(where))
}

// prepare gets the index, and looks what earlier bundles have.
func (x *exchange) prepare(ctx context.Context) error {
	index, err := x.findIndex(ctx)
	if err != nil {
		return err
	}
	if index == nil { // this host read the whole archive
		x.completed()
		return nil
	}
	partial, err := x.begin(index)
	if errors.Is(err, fs.ErrExist) {
		x.completed()
		return nil
	}
	if err != nil {
		return err
	}
	have, reusing := plan.Bits(partial.Have()), plan.Bits(partial.Reusable())
	if reusing.Count() == 0 {
		reusing = nil
	}
	x.mu.Lock()
	x.partial, x.index, x.reusing, x.copied = partial, index, reusing, plan.NewBits(index.Len())
	x.sizes = make([]int64, index.Len())
	for i := range x.sizes {
		x.sizes[i] = int64(index.Piece(i).Size)
	}
	have.Or(reusing)
	x.picker = plan.NewPicker(x.sizes, have, x.seed)
	x.picker.SetSwarm(x.s.o.Host, len(x.drawn))
	for host, p := range x.peers {
		p.placed = false
		x.place(host, p, nil)
	}
	x.mu.Unlock()
	x.moved()
	return nil
}

// begin opens the partial bundle. What an earlier attempt left of another size goes.
func (x *exchange) begin(index *bundle.Index) (*store.Partial, error) {
	ref := x.ref
	ref.Index, ref.Size = index, index.ArchiveSize()
	if x.ref.Size > 0 && x.ref.Size != ref.Size {
		return nil, fmt.Errorf("cannot fetch bundle %s: its index speaks of %d bytes, the commit of %d", x.digest.Short(), ref.Size, x.ref.Size)
	}
	if old, ok := x.s.o.Store.Partial(x.digest); ok && old.Ref().Size != ref.Size {
		if err := old.Discard(); err != nil {
			return nil, err
		}
	}
	return x.s.o.Store.Begin(ref)
}

// finish verifies the whole. more means that pieces have to be fetched again, again that the index was wrong: unless git pins it, that is charged to whoever gave it.
func (x *exchange) finish(ctx context.Context) (more, again bool, err error) {
	err = x.partial.Finish(ctx, x.index.Digest() == x.pin)
	if err == nil {
		x.completed()
		return false, false, nil
	}
	if !errors.Is(err, store.ErrMismatch) {
		return false, false, err
	}
	wrongIndex := errors.Is(err, store.ErrBadIndex) // no piece may be left of what was copied from an earlier bundle, and the index be right
	x.mu.Lock()
	provider := x.provider
	x.mismatches++
	tooOften := x.mismatches > 2
	x.mu.Unlock()
	x.recount()
	switch {
	case !wrongIndex && !tooOften:
		x.s.log.Warn("pieces of a bundle changed on disk and are fetched again", "digest", x.digest.Short(), "error", err)
		return true, false, nil
	case x.pin != "" || !wrongIndex:
		return false, false, err
	}
	x.suspect(provider, suspicion{why: fmt.Sprintf("the index of bundle %s that %s passed on does not lead to the digest in the commit: %v", x.digest.Short(), provider, err), index: x.index.Digest()})
	return false, true, nil
}

// restart forgets an index that was wrong, with all that it led to.
func (x *exchange) restart() error {
	x.mu.Lock()
	x.misled[x.index.Digest()] = true
	partial := x.partial
	x.partial, x.index, x.picker = nil, nil, nil
	for _, p := range x.peers {
		p.placed = false
	}
	x.mu.Unlock()
	x.tell()
	return partial.Discard()
}

// completed notes the end.
func (x *exchange) completed() {
	x.mu.Lock()
	x.complete, x.why = true, ""
	x.mu.Unlock()
}

func (x *exchange) isComplete() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.complete
}

// keep stores a verified piece and tells the others. store.ErrMismatch means that the bytes are wrong; any other error is this disk's, and ends the fetch.
func (x *exchange) keep(i int, data []byte) error {
	x.mu.Lock()
	x.keeping++
	x.mu.Unlock()
	err := x.partial.Write(i, data)
	x.mu.Lock()
	x.keeping--
	switch {
	case err == nil:
		x.picker.Got(i)
		x.lastMove, x.why = time.Now(), ""
	case !errors.Is(err, store.ErrMismatch):
		x.fatal = err
	}
	x.mu.Unlock()
	x.tell()
	return err
}

// tell wakes those that tell others what this host has, and everyone who waits for a change.
func (x *exchange) tell() {
	x.gained.notify()
	x.changed.notify()
}

// since is the exchange's own time, as package plan counts it.
func (x *exchange) since() time.Duration { return time.Since(x.started) }

// moved notes progress.
func (x *exchange) moved() {
	x.mu.Lock()
	x.lastMove = time.Now()
	x.mu.Unlock()
	x.tell()
}

// because notes what the exchange waits for.
func (x *exchange) because(why string) {
	x.mu.Lock()
	news := x.why != why
	x.why = why
	x.mu.Unlock()
	if news {
		x.tell()
	}
}

// suspicion is why a host is not asked again for a bundle.
type suspicion struct {
	why    string
	proven bool // that it sent what it could know to be wrong; otherwise the commit, or whoever told it, may be at fault
	// index is the one that led to it. A host that offers another by now may have been misled itself, and is asked again; not a second time.
	index bundle.Digest
}

// proven is a suspicion of a host that sent what it could know to be wrong.
func proven(format string, args ...any) suspicion {
	return suspicion{why: fmt.Sprintf(format, args...), proven: true}
}

// suspect notes a host that sent wrong bytes; it is not asked again, but see suspicion.index.
func (x *exchange) suspect(host string, what suspicion) {
	if host == "" {
		return
	}
	x.mu.Lock()
	before, known := x.suspects[host]
	if !known || what.proven && !before.proven {
		x.suspects[host] = what
	} else if before.index != what.index {
		before.index = ""
		x.suspects[host] = before
	}
	if p := x.peers[host]; p != nil {
		x.place(host, p, nil)
	}
	x.mu.Unlock()
	if !known {
		x.s.log.Error("a peer sent wrong bytes and is not asked again for this bundle", "peer", host, "digest", x.digest.Short(), "why", what.why)
	}
	x.changed.notify()
}

// sentence says how the exchange is. The lock is held.
func (x *exchange) sentence(where string) string {
	reaches := false
	for _, job := range x.jobs {
		reaches = reaches || job.Origin != nil
	}
	says := x.why
	switch {
	case x.complete:
		return "complete"
	case says != "":
	case reaches || x.picker != nil && x.picker.Orphans() == 0:
		says = "fetching"
	case len(x.peers) == 0:
		says = "no origin reachable: this host has no route to " + where + " and no other live host wants or has the bundle"
	default:
		says = x.hearsay(where)
	}
	if len(x.suspects) > 0 {
		says += "; not asked because of wrong bytes: " + strings.Join(slices.Sorted(maps.Keys(x.suspects)), ", ")
	}
	return says
}

// hearsay says why a host without a route to the origin waits. The lock is held.
func (x *exchange) hearsay(where string) string {
	route, heard, asked, told := "", 0, 0, ""
	for _, host := range slices.Sorted(maps.Keys(x.peers)) {
		p := x.peers[host]
		if p.live {
			heard++
		}
		if !p.heard {
			asked++
		}
		if p.view.state.Origin && route == "" {
			route = host
		}
		if p.view.state.Origin && p.view.state.Says != "" && told == "" {
			told = host + " says: " + p.view.state.Says
		}
	}
	switch {
	case told != "":
		return told
	case route != "":
		return "waiting for pieces from " + route + " and other hosts that reach " + where
	case heard == 0 && asked > 0:
		return fmt.Sprintf("this host has no route to %s; of those it asks for the bundle, %d have not answered yet", where, asked)
	}
	return fmt.Sprintf("no origin reachable: neither this host nor any of the %d live hosts it hears (%d listed) has a route to %s, and none of them has the missing pieces", heard, len(x.peers), where)
}

// state is what this host says of itself in the news. The lock is held.
func (x *exchange) state() state {
	var s state
	for _, job := range x.jobs {
		s.Origin = s.Origin || job.Origin != nil
	}
	for _, run := range x.holding {
		s.Reading = append(s.Reading, run[:min(len(run), newsListMax-len(s.Reading))]...)
	}
	if s.Origin {
		s.Says = plain(x.why, saysMax)
	}
	return s
}

// barred says whether a host is not asked again. The lock is held.
func (x *exchange) barred(host string) bool {
	what, known := x.suspects[host]
	p := x.peers[host]
	return known && (what.index == "" || p == nil || p.view.index == "" || p.view.index == what.index)
}

// judged lists the hosts that are not asked again, and why: those that are known to be at fault, and those that may be. The lock is held.
func (x *exchange) judged() (suspects, doubted map[string]string) {
	suspects, doubted = map[string]string{}, map[string]string{}
	for host, what := range x.suspects {
		if what.proven {
			suspects[host] = what.why
		} else {
			doubted[host] = what.why
		}
	}
	return suspects, doubted
}

// progress is what status shows.
func (x *exchange) progress() Progress {
	_, where := x.origin()
	x.mu.Lock()
	defer x.mu.Unlock()
	p := Progress{FromOrigin: x.fromOrigin, FromPeers: x.fromPeers, FromFar: x.fromFar, Reused: x.reused, Peers: len(x.peers), State: x.sentence(where)}
	p.Suspects, p.Doubted = x.judged()
	if p.Total = x.ref.Size; x.complete {
		if b, ok := x.s.o.Store.Lookup(x.digest); ok {
			p.whole(b.Ref)
		}
		p.Have = p.Total
		return p
	}
	p.Rate = x.flow.rate(x.since())
	if x.scouting {
		p.coming = x.fromOrigin - x.scouted
	}
	if x.index != nil {
		p.part(x.index, x.partial.Have())
	}
	return p
}

// whole notes that a bundle is complete here.
func (p *Progress) whole(ref bundle.Ref) {
	p.Total, p.Have = ref.Size, ref.Size
	if ref.Index != nil {
		p.Pieces, p.HavePieces = ref.Index.Len(), ref.Index.Len()
	}
}

// part notes which pieces are here.
func (p *Progress) part(index *bundle.Index, have store.Bitmap) {
	p.Total, p.Pieces = index.ArchiveSize(), index.Len()
	for i := range index.Len() {
		if have.Has(i) {
			p.Have += int64(index.Piece(i).Size)
			p.HavePieces++
		}
	}
}
