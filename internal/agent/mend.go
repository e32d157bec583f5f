package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
)

// mendAgain is how long a bundle that could not be mended waits for the next try.
const mendAgain = 30 * time.Second

// mend looks after bundles that rotted on this disk, until ctx ends: what the store suspects is rechecked, and the pieces that are wrong are fetched again. Until
// then this host serves the good ones. What an earlier run left unmended for a release is taken up at the start.
func (b *bundles) mend(ctx context.Context) {
	broken := map[bundle.Digest]bool{}
	for d := range b.store.Pins() {
		if _, begun := b.store.Partial(d); begun {
			broken[d] = true
		}
	}
	for {
		for _, d := range b.store.Suspects() {
			err := b.store.Recheck(ctx, d)
			switch {
			case errors.Is(err, store.ErrBadIndex): // nothing that could be fetched is better
				b.log.Error("the commit pins an index that is not this bundle's", "digest", d.Short(), "error", err)
			case errors.Is(err, store.ErrMismatch):
				broken[d] = true
				b.log.Error("a bundle rotted on this disk; what is wrong of it is fetched again", "digest", d.Short(), "error", err)
			case err != nil && ctx.Err() == nil:
				b.log.Error("a bundle cannot be read from this disk", "digest", d.Short(), "error", err)
			}
		}
		for d := range broken {
			if b.mended(ctx, d) {
				delete(broken, d)
			}
		}
		var again <-chan time.Time
		if len(broken) > 0 {
			again = time.After(mendAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.rotten:
		case <-again:
		}
	}
}

// mended fetches what a bundle lacks; false: try again. One that nobody holds any more needs nothing.
func (b *bundles) mended(ctx context.Context, d bundle.Digest) bool {
	if _, ok := b.store.Lookup(d); ok {
		return true
	}
	owners := b.store.Pins()[d]
	if len(owners) == 0 {
		return true
	}
	g, ok := b.groupOf(d, owners)
	if !ok {
		return false
	}
	if err := b.bring(ctx, g); err != nil {
		if ctx.Err() == nil && b.news("mend/"+string(d), err.Error()) {
			b.log.Warn("a bundle that rotted cannot be mended yet; it is tried again", "group", g.Folder, "digest", d.Short(), "error", err)
		}
		return false
	}
	b.news("mend/"+string(d), "")
	return true
}

// groupOf finds a group whose revision a bundle is, now or in the commit of a release here: it says where the bundle comes from.
func (b *bundles) groupOf(d bundle.Digest, owners []string) (desired.Group, bool) {
	w := b.world()
	if w == nil {
		return desired.Group{}, false
	}
	for _, owner := range owners {
		_, rest, _ := strings.Cut(owner, "/")
		id, _, _ := strings.Cut(rest, "/")
		if g, ok := w.State.Group(desired.GroupID(id)); ok && g.Revision.Digest == d {
			return g, true
		}
		releases, err := b.applier.Releases(id)
		if err != nil {
			continue
		}
		for _, r := range releases {
			if r.Digest != d {
				continue
			}
			if g, _, err := b.verifier.group(id, r.Commit); err == nil && g.Revision.Digest == d {
				return g, true
			}
		}
	}
	return desired.Group{}, false
}
