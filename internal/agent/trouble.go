package agent

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// trouble is the origin of a bundle that is being fetched, and what the last question to it came to. A fetch goes on for seconds after an origin has failed, as peers
// may have what it lacks; people read the reason meanwhile.
type trouble struct {
	mu     sync.Mutex
	err    error
	logged bool // that the bundle is complete

	origin   swarm.Origin // nil without a route
	opened   *Config      // by which that was opened; nil before it was,
	revision desired.Revision

	fetches int // that share it; under bundles.mu
}

// open opens the origin of a revision, once for all who fetch it under one configuration.
func (t *trouble) open(c *Config, r desired.Revision, open func(desired.Revision) (swarm.Origin, error)) (swarm.Origin, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.opened == c && reflect.DeepEqual(t.revision, r) {
		return t.origin, nil
	}
	from, err := open(r)
	if err != nil {
		return nil, err
	}
	t.origin, t.opened, t.revision = watch(from, t), c, r
	return t.origin, nil
}

func (t *trouble) set(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

// first says, once, that nobody has logged yet that the bundle is complete.
func (t *trouble) first() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.logged
	t.logged = true
	return first
}

// says is the trouble with a bundle in a sentence, "" when there is none.
func (t *trouble) says(d bundle.Digest) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return ""
	}
	return fmt.Sprintf("cannot fetch bundle %s yet: %v", d.Short(), t.err)
}

// enter returns what all fetches of a bundle share, until leave.
func (b *bundles) enter(d bundle.Digest) *trouble {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.fetches[d]
	if t == nil {
		t = new(trouble)
		if b.fetches == nil {
			b.fetches = map[bundle.Digest]*trouble{}
		}
		b.fetches[d] = t
	}
	t.fetches++
	return t
}

func (b *bundles) leave(d bundle.Digest, t *trouble) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.fetches--; t.fetches == 0 {
		delete(b.fetches, d)
	}
}

// trouble says in a sentence why nothing comes from the origin of a bundle that is being fetched; "" when there is no trouble.
func (b *bundles) trouble(d bundle.Digest) string {
	b.mu.Lock()
	t := b.fetches[d]
	b.mu.Unlock()
	if t == nil {
		return ""
	}
	return t.says(d)
}

// watched is an origin whose answers a trouble follows.
type watched struct {
	swarm.Origin
	trouble *trouble
}

// watch lets t follow an origin, which may be nil.
func watch(from swarm.Origin, t *trouble) swarm.Origin {
	if from == nil {
		return nil
	}
	return watched{from, t}
}

func (w watched) note(ctx context.Context, err error) {
	if ctx.Err() == nil {
		w.trouble.set(err)
	}
}

func (w watched) Size(ctx context.Context) (int64, error) {
	n, err := w.Origin.Size(ctx)
	w.note(ctx, err)
	return n, err
}

func (w watched) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	body, err := w.Origin.ReadRange(ctx, off, n)
	w.note(ctx, err)
	return body, err
}

func (w watched) ReadIndex(ctx context.Context) ([]byte, error) {
	index, err := w.Origin.ReadIndex(ctx)
	if !origin.NotFound(err) { // a bundle need not have one
		w.note(ctx, err)
	}
	return index, err
}

// untilReopened returns a context that ends with ctx, or when what this host's configuration says of origins changes.
func (b *bundles) untilReopened(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened == nil {
		b.opened = make(map[*context.CancelFunc]bool)
	}
	b.opened[&cancel] = true
	return ctx, func() {
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.opened, &cancel)
	}
}

// reopen begins the fetches under way anew if two configurations differ in what they say of origins: they read those of before.
func (b *bundles) reopen(before, after *Config) {
	if reflect.DeepEqual(before.S3, after.S3) && reflect.DeepEqual(before.HTTPS, after.HTTPS) && reflect.DeepEqual(before.Fence, after.Fence) {
		return
	}
	b.mu.Lock()
	for cancel := range b.opened {
		(*cancel)()
	}
	b.mu.Unlock()
	b.better.Notify()
}
