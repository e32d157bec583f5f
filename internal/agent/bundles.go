package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// bundles brings the bundle of a spec to this disk and keeps those of releases.
type bundles struct {
	store    *store.Store
	swarm    *swarm.Swarm
	config   func() *Config
	verifier *verifier
	applier  *apply.Applier
	members  func(g desired.Group, early bool) []string // live hosts that may have or want the bundle, self included; early: and those that may live
	dealer   func(set string) string                    // the set's leader, or ""
	log      *slog.Logger

	limit func() int64 // bytes all bundles may use; 0: no limit
	// changed wakes keep: what must stay on this disk may have changed.
	changed wake
	rotten  wake // the store has suspects
	world   func() *world

	mu    sync.Mutex
	costs map[string]func() swarm.Progress // by group and commit, what a fetch costs
	said  map[string]string                // by group, why its bundle cannot be had, as logged

	opened map[*context.CancelFunc]bool // fetches under way, which end when this host's origins change
}

// costsMax bounds the digests whose cost is remembered.
const costsMax = 256

// gossipLate is for how long a fetch asks hosts that gossip has not told of.
const gossipLate = 5 * time.Second

// fetch makes the bundle of a verified spec complete on this disk; t follows its origin. A refusal is for bytes, or by this host's fence: it is tried again, and never
// held against the spec.
func (b *bundles) fetch(ctx context.Context, group string, spec rollout.Spec, t *trouble) (rollout.RefusalKind, string) {
	g, _, err := b.verifier.group(group, spec.Commit)
	if err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	digest := g.Revision.Digest
	if err := b.store.Pin(targetOwner+group, digest); err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	if _, ok := b.store.Lookup(digest); ok {
		return "", ""
	}
	done := b.count(group, spec)
	for again := true; again; {
		opened, end := b.untilReopened(ctx)
		err = b.bring(opened, g, t)
		again = err != nil && opened.Err() != nil && ctx.Err() == nil
		end()
	}
	done()
	if errors.Is(err, errFenced) {
		return rollout.RefusedByHost, err.Error()
	}
	if err != nil {
		if ctx.Err() == nil && b.news(group, err.Error()) {
			b.log.Warn("a bundle cannot be had yet; it is tried again", "group", g.Folder, "digest", digest.Short(), "error", err)
		}
		return rollout.RefusedByBytes, err.Error()
	}
	b.news(group, "")
	return "", ""
}

// bring makes the bundle of a group's revision complete on this disk, if this host's fence allows where it comes from; t follows the origin and may be nil.
func (b *bundles) bring(ctx context.Context, g desired.Group, t *trouble) error {
	if err := b.config().Fence.allows(g); err != nil {
		return err
	}
	r := g.Revision
	if err := b.makeRoom(ctx, r.Size); err != nil {
		return err
	}
	if r.Repository != nil {
		return b.pack(ctx, g)
	}
	source, err := b.origin(r)
	if err != nil {
		return err
	}
	t.set(nil)
	begun := time.Now()
	err = b.swarm.Fetch(ctx, swarm.Job{
		Ref:         bundle.Ref{Digest: r.Digest, Size: r.Size, Type: r.BundleType},
		IndexDigest: r.Index,
		Origin:      watch(source, t),
		Where:       placeOf(r),
		Members:     func() []string { return b.members(g, time.Since(begun) < gossipLate) },
		Dealer:      func() string { return b.dealer(g.Coordinators) },
	})
	if err != nil {
		return b.explained(r, err)
	}
	progress := b.swarm.Progress(r.Digest)
	b.log.Info("bundle complete", "group", g.Folder, "digest", r.Digest.Short(), "fromOrigin", progress.FromOrigin, "fromPeers", progress.FromPeers)
	return nil
}

// makeRoom collects what nobody holds any more.
func (b *bundles) makeRoom(ctx context.Context, size int64) error {
	limit := b.limit()
	if limit <= 0 {
		return nil
	}
	_, err := b.store.Collect(ctx, max(1, limit-size))
	return err
}

// news says whether why differs from what was said of the group before, so that the same trouble is logged once.
func (b *bundles) news(group, why string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.said == nil || len(b.said) >= costsMax {
		b.said = map[string]string{}
	}
	before := b.said[group]
	b.said[group] = why
	return before != why
}

// source is where apply reads a bundle that is complete here.
func (b *bundles) source(r desired.Revision) (apply.Source, error) {
	found, ok := b.store.Lookup(r.Digest)
	if !ok {
		return apply.Source{}, fmt.Errorf("bundle %s is not complete on this host", r.Digest.Short())
	}
	return apply.Source{Path: found.Path, Type: r.BundleType, Digest: r.Digest}, nil
}

// costKey names what one commit's bundle cost: a revert to a bundle that is here already costs nothing, whatever it once did.
func costKey(group string, spec rollout.Spec) string { return group + "/" + spec.Commit }

// count follows what a fetch costs; the function it returns ends that.
func (b *bundles) count(group string, spec rollout.Spec) (done func()) {
	key := costKey(group, spec)
	read := func() swarm.Progress { return b.swarm.Progress(bundle.Digest(spec.Digest)) }
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.costs == nil || len(b.costs) >= costsMax {
		b.costs = map[string]func() swarm.Progress{}
	}
	b.costs[key] = read
	return func() {
		last := read()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.costs[key] = func() swarm.Progress { return last }
	}
}

// cost returns the bytes that the bundle of a commit cost this host, from the origin and from peers.
func (b *bundles) cost(group string, spec rollout.Spec) (fromOrigin, fromPeers int64) {
	b.mu.Lock()
	read := b.costs[costKey(group, spec)]
	b.mu.Unlock()
	if read == nil {
		return 0, 0
	}
	p := read()
	return p.FromOrigin, p.FromPeers
}

// keep holds the bundles that this host needs and lets the others go, whenever changed says so, until ctx ends. targets lists the digests that each group prepares
// for, and the groups of which that is not known yet; what is unpacked for a group it asks apply.
func (b *bundles) keep(ctx context.Context, targets func() (map[string][]string, map[string]bool)) {
	for {
		if err := b.settle(ctx, targets); err != nil && ctx.Err() == nil {
			b.log.Error("bundles cannot be kept and collected as they should", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		}
	}
}

// Owners of pins: a group that prepares for a bundle, a release that was unpacked from one.
const (
	targetOwner  = "target/"
	releaseOwner = "release/"
)

// settle pins what groups prepare for and what their releases came from, unpins the rest and collects what nobody holds.
func (b *bundles) settle(ctx context.Context, targets func() (map[string][]string, map[string]bool)) error {
	held := b.store.Pins() // before the targets are read: whatever was pinned by then is among them, or is no longer wanted
	wanted := map[bundle.Digest]map[string]bool{}
	want := func(owner string, digest bundle.Digest) {
		if wanted[digest] == nil {
			wanted[digest] = map[string]bool{}
		}
		wanted[digest][owner] = true
	}
	groups := map[string]bool{}
	preparing, unknown := targets()
	for group, digests := range preparing {
		groups[group] = true
		for _, digest := range digests {
			want(targetOwner+group, bundle.Digest(digest))
		}
	}
	for _, owners := range held {
		for _, owner := range owners {
			if rest, ok := strings.CutPrefix(owner, releaseOwner); ok {
				groups[path.Dir(rest)] = true
			}
		}
	}
	var errs []error
	for group := range groups {
		releases, err := b.applier.Releases(group)
		if err != nil {
			return err // rather keep too much
		}
		for _, r := range releases {
			if r.Digest == "" {
				continue
			}
			owner := releaseOwner + group + "/" + r.DeploymentID
			want(owner, r.Digest)
			errs = append(errs, b.store.Pin(owner, r.Digest))
		}
	}
	for digest, owners := range held {
		for _, owner := range owners {
			group, target := strings.CutPrefix(owner, targetOwner)
			if (target && !unknown[group] || strings.HasPrefix(owner, releaseOwner)) && !wanted[digest][owner] {
				errs = append(errs, b.store.Unpin(owner, digest))
			}
		}
	}
	_, err := b.store.Collect(ctx, b.limit())
	return errors.Join(append(errs, err)...)
}
