package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

const (
	indexHedge = 250 * time.Millisecond // a peer that has not sent the index by then is not waited for alone
	indexAsked = 4                      // peers asked for it in one round
)

// findIndex returns the piece index: from this disk, from a peer, or from the origin, which one host reads for all. Where git pins the index, nothing else is
// accepted; otherwise the final digest judges it. It returns nil when this host has read the whole archive meanwhile.
func (x *exchange) findIndex(ctx context.Context) (*bundle.Index, error) {
	if p, ok := x.s.o.Store.Partial(x.digest); ok && p.Index() != nil && x.fits(p.Index()) == nil && !x.misled[p.Index().Digest()] {
		return p.Index(), nil
	}
	pause := askPauseMin
	for {
		changed := x.changed.wait()
		if index := x.indexFromPeers(ctx); index != nil {
			return index, nil
		}
		index, wait, err := x.indexFromOrigin(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case index != nil:
			return index, nil
		case err == nil && wait == 0:
			return nil, nil
		case err != nil:
			x.because(err.Error())
			changed, wait, pause = x.changed.wait(), pause, min(2*pause, askPauseMax)
		}
		if err := x.stalled(); err != nil {
			return nil, err
		}
		x.followMembers(ctx)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// fits says why an index cannot be this bundle's.
func (x *exchange) fits(index *bundle.Index) error {
	switch {
	case x.pin != "" && index.Digest() != x.pin:
		return fmt.Errorf("its digest is %s, the commit pins %s", index.Digest(), x.pin)
	case x.ref.Size > 0 && index.ArchiveSize() != x.ref.Size:
		return fmt.Errorf("it speaks of %d bytes, the commit of %d", index.ArchiveSize(), x.ref.Size)
	case !index.Framed() && index.PayloadDigest() != x.digest:
		return fmt.Errorf("it belongs to %s, not to %s", index.PayloadDigest(), x.digest)
	}
	return nil
}

// offer is one peer's index.
type offer struct {
	host  string
	index *bundle.Index
	err   error
}

// indexFromPeers asks peers that have a fitting index: one, and another when it takes its time, which may have got it only meanwhile.
func (x *exchange) indexFromPeers(ctx context.Context) *bundle.Index {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	offers, asked, answered := make(chan offer, indexAsked), map[string]bool{}, 0
	hedge := time.NewTicker(indexHedge)
	defer hedge.Stop()
	for more := true; ; {
		changed := x.changed.wait()
		if more {
			more = !x.askIndex(ctx, asked, offers)
		}
		if answered == len(asked) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-hedge.C:
			more = true
		case <-changed: // somebody else may have it now
		case o := <-offers:
			answered, more = answered+1, true
			if x.accept(o) {
				return o.index
			}
		}
	}
}

// indexHosts lists peers to ask.
func (x *exchange) indexHosts() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var hosts []string
	now := x.since()
	for host, p := range x.peers {
		offered := p.view.index
		if offered == "" || !p.live || x.barred(host) || x.misled[offered] || x.pin != "" && offered != x.pin || now < p.patience.Resume() {
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// askIndex asks a peer that was not asked yet; false where there is none, or enough were.
func (x *exchange) askIndex(ctx context.Context, asked map[string]bool, offers chan<- offer) bool {
	if len(asked) >= indexAsked {
		return false
	}
	for _, host := range x.indexHosts() {
		if asked[host] {
			continue
		}
		asked[host] = true
		x.work.Go(func() {
			index, err := x.indexFrom(ctx, host)
			offers <- offer{host, index, err}
		})
		return true
	}
	return false
}

// accept judges an offer: an index that is malformed, or is not what the commit says, is its sender's fault.
func (x *exchange) accept(o offer) bool {
	if o.err == nil {
		o.err = x.fits(o.index)
		if o.err == nil {
			x.mu.Lock()
			x.provider = o.host
			wrong := x.misled[o.index.Digest()]
			x.mu.Unlock()
			return !wrong
		}
	} else if !errors.Is(o.err, errIndex) {
		x.mu.Lock()
		if p := x.peers[o.host]; p != nil {
			p.patience.Strike(1, x.since())
		}
		x.mu.Unlock()
		return false
	}
	x.suspect(o.host, proven("the index of bundle %s that %s sent is wrong: %v", x.digest.Short(), o.host, o.err))
	return false
}

// errIndex says that what a peer sent is no index.
var errIndex = errors.New("malformed index")

// indexFrom reads one peer's index.
func (x *exchange) indexFrom(ctx context.Context, host string) (*bundle.Index, error) {
	ctx, w := watch(ctx, plan.PeerIdle, errSilent)
	defer w.end()
	resp, err := x.get(ctx, host, "index")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(&meter{ctx: ctx, r: io.LimitReader(resp.Body, bundle.MaxIndexBytes+1), w: w, limit: x.s.down, note: func(int) {}})
	if err != nil {
		return nil, because(ctx, err)
	}
	index, err := bundle.DecodeIndex(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	return index, nil
}

// indexFromOrigin reads the index, or without a pinned one the whole archive, if the dealer says that this host may. Without index and error, wait says when to
// ask again; 0 means that the archive is here.
func (x *exchange) indexFromOrigin(ctx context.Context) (index *bundle.Index, wait time.Duration, err error) {
	origin, where := x.origin()
	x.mu.Lock()
	heard := x.heardEnough()
	x.mu.Unlock()
	if origin == nil || !heard {
		return nil, tick, nil
	}
	answer, err := x.askLease(ctx, leaseRequest{Pinned: x.pin != ""})
	if err != nil {
		return nil, 0, err
	}
	if !answer.Yes {
		x.because(answer.Why)
		return nil, min(max(time.Duration(answer.Retry)*time.Millisecond, askPauseMin), askPauseMax), nil
	}
	before := x.read()
	stop := x.renew(ctx, before)
	reading, end := x.besidePeers(ctx, before)
	if x.pin == "" {
		err = x.scout(reading, origin, where)
	} else {
		index, err = x.readIndex(reading, origin, where)
	}
	if offered := end(); err != nil && offered != nil {
		index, err = offered, nil
	}
	stop()
	if err == nil {
		told, cancel := context.WithTimeout(ctx, indexHedge)
		_, _ = x.askLease(told, leaseRequest{Done: true}) // unheard, the lease runs out by itself
		cancel()
	} else if ctx.Err() == nil {
		x.mu.Lock()
		x.astray++
		x.mu.Unlock()
		_, _ = x.askLease(ctx, leaseRequest{GiveUp: true, Failed: plain(err.Error(), saysMax), Read: x.read() - before, Of: x.ref.Size})
	}
	return index, 0, err
}

// besidePeers goes on asking peers for the index, and ends a context once one gave it while nothing came from the origin yet: this host may have no route to it, and find
// out late. end returns that index, if there is one.
func (x *exchange) besidePeers(ctx context.Context, before int64) (reading context.Context, end func() *bundle.Index) {
	reading, cancel := context.WithCancel(ctx)
	var offered *bundle.Index
	var both sync.WaitGroup
	both.Go(func() {
		again := time.NewTicker(tick)
		defer again.Stop()
		for {
			select {
			case <-reading.Done():
				return
			case <-again.C:
				x.followMembers(ctx)
			}
		}
	})
	both.Go(func() {
		for reading.Err() == nil {
			changed := x.changed.wait()
			index := x.indexFromPeers(reading)
			if index != nil && (x.pin != "" || x.read() == before) {
				offered = index
				cancel()
				return
			}
			select {
			case <-reading.Done():
			case <-changed:
			case <-time.After(tick):
			}
		}
	})
	return reading, func() *bundle.Index { cancel(); both.Wait(); return offered }
}

// read is how many bytes this host read from the origin.
func (x *exchange) read() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.fromOrigin
}

// renew tells the dealer again and again that this host still reads, and how much since before.
func (x *exchange) renew(ctx context.Context, before int64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		again := time.NewTicker(indexRenew)
		defer again.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-again.C:
				_, _ = x.askLease(ctx, leaseRequest{Renew: true, Read: x.read() - before})
			}
		}
	}()
	return func() { cancel(); <-done }
}

// readIndex reads the pinned index from the origin.
func (x *exchange) readIndex(ctx context.Context, origin Origin, where string) (*bundle.Index, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, originIdle, errSilent)
	defer cancel()
	data, err := origin.ReadIndex(ctx)
	if err != nil {
		return nil, named("cannot read the index of "+where, because(ctx, err))
	}
	index, err := bundle.DecodeIndex(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the index of %s: %w", where, err)
	}
	if err := x.fits(index); err != nil {
		return nil, fmt.Errorf("cannot use the index of %s: %w", where, err)
	}
	return index, nil
}

// scout reads a whole archive that has no pinned index into the store, once for the fleet: the store cuts it, and its index then serves the others.
func (x *exchange) scout(ctx context.Context, origin Origin, where string) error {
	x.scouts(true)
	defer x.scouts(false)
	ctx, w := watch(ctx, originIdle, errSilent)
	defer w.end()
	ref := x.ref
	if ref.Size <= 0 {
		var err error
		if ref.Size, err = origin.Size(ctx); err != nil {
			return named("cannot learn the size of "+where, because(ctx, err))
		}
		w.again()
	}
	if old, ok := x.s.o.Store.Partial(x.digest); ok {
		if err := old.Discard(); err != nil {
			return err
		}
	}
	body, err := origin.ReadRange(ctx, 0, ref.Size)
	if err != nil {
		return named("cannot read "+where, because(ctx, err))
	}
	defer body.Close()
	x.because("reading " + where + " for all hosts, the commit pins no index")
	if err := x.s.o.Store.Import(ctx, ref, &meter{ctx: ctx, r: body, w: w, limit: x.s.down, note: x.countOrigin}); err != nil {
		var other *store.DigestError
		if errors.As(err, &other) {
			return x.another(where, other)
		}
		return named("cannot read "+where, because(ctx, err))
	}
	return nil
}

// another says of an origin that it has another archive than the commit pins. When it was read again and is the same, the commit is what is to be corrected, if not the
// archive.
func (x *exchange) another(where string, is *store.DigestError) error {
	pinned := "the commit"
	for _, job := range x.callers() {
		if job.PinnedIn != "" {
			pinned = job.PinnedIn
		}
	}
	x.mu.Lock()
	again := x.found == is.Got
	x.found = is.Got
	x.mu.Unlock()
	if again {
		return fmt.Errorf("the digest of %s is %s each time it is read: correct `digest:` in %s, which says %s, or put back the archive that it means", where, is.Got, pinned, is.Want)
	}
	return fmt.Errorf("the digest of %s is %s, and `digest:` in %s says %s", where, is.Got, pinned, is.Want)
}

// scouts notes whether this host reads the whole archive: that it takes long is no stall, for silence has a bound of its own.
func (x *exchange) scouts(on bool) {
	x.mu.Lock()
	x.scouting, x.scouted = on, x.fromOrigin
	x.mu.Unlock()
}
