package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
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
	rotten  wake   // the store has suspects
	better  signal // what could not be had may be had now: room was made, or this host's file says otherwise where to read
	world   func() *world

	costs costs

	pinning sync.Mutex // between reading what is wanted and letting go what is not, nothing is pinned

	mu      sync.Mutex
	said    map[string]string            // by group, why its bundle cannot be had, as logged
	opened  map[*context.CancelFunc]bool // fetches under way, which end when this host's origins change
	fetches map[bundle.Digest]*trouble   // what the origin of each bundle being fetched last answered
}

// saidMax bounds what is remembered as logged.
const saidMax = 256

// gossipLate is for how long a fetch asks hosts that gossip has not told of.
const gossipLate = 5 * time.Second

// fetch makes the bundle of a verified spec complete on this disk. A refusal is for bytes, or by this host's fence: it is tried again, and never held against the spec.
func (b *bundles) fetch(ctx context.Context, group string, spec rollout.Spec) (rollout.RefusalKind, string) {
	g, _, err := b.verifier.group(group, spec.Commit)
	if err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	digest := g.Revision.Digest
	if err := b.pin(ctx, targetOwner+group, digest); err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	b.costs.claim(group, spec.Commit, digest)
	if _, ok := b.store.Lookup(digest); ok {
		return "", ""
	}
	done := b.costs.begin(costKey(group, spec.Commit), aheadKey(group, digest), b.progress(digest))
	err = b.bringAnew(ctx, g)
	done()
	if errors.Is(err, errFenced) {
		return rollout.RefusedByHost, err.Error()
	}
	if err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	return "", ""
}

// ahead makes the bundle that the newest commit wants for a group complete on this disk, before its coordinator set asks for it.
func (b *bundles) ahead(ctx context.Context, g desired.Group) error {
	if err := b.config().Fence.allows(g); err != nil {
		return err
	}
	group, digest := string(g.ID), g.Revision.Digest
	if err := b.pin(ctx, commitOwner+group, digest); err != nil {
		return err
	}
	if err := b.unpinOthers(ctx, commitOwner+group, digest); err != nil { // there may be room for one only
		return err
	}
	if _, ok := b.store.Lookup(digest); ok {
		return nil
	}
	defer b.costs.begin(aheadKey(group, digest), aheadKey(group, digest), b.progress(digest))()
	return b.bringAnew(ctx, g)
}

// pin keeps a bundle for as long as ctx has not ended: who wanted it has been told to stop before settle looks what is wanted.
func (b *bundles) pin(ctx context.Context, owner string, digest bundle.Digest) error {
	b.pinning.Lock()
	defer b.pinning.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.store.Pin(owner, digest)
}

// unpinOthers lets go what an owner pinned besides.
func (b *bundles) unpinOthers(ctx context.Context, owner string, digest bundle.Digest) error {
	b.pinning.Lock()
	defer b.pinning.Unlock()
	for other, owners := range b.store.Pins() {
		if other == digest || !slices.Contains(owners, owner) {
			continue
		}
		if err := errors.Join(ctx.Err(), b.store.Unpin(owner, other)); err != nil {
			return err
		}
	}
	return nil
}

// bringAnew is bring, begun again whenever what this host's file says of origins changes; the log hears of trouble once.
func (b *bundles) bringAnew(ctx context.Context, g desired.Group) error {
	var err error
	for again := true; again; {
		opened, end := b.untilReopened(ctx)
		err = b.bring(opened, g)
		again = err != nil && opened.Err() != nil && ctx.Err() == nil
		end()
	}
	switch {
	case err == nil:
		b.news(string(g.ID), "")
	case ctx.Err() == nil && !errors.Is(err, errFenced) && b.news(string(g.ID), err.Error()):
		b.log.Warn("a bundle cannot be had yet; it is tried again", "group", g.Folder, "digest", g.Revision.Digest.Short(), "error", err)
	}
	return err
}

// bring makes the bundle of a group's revision complete on this disk, if this host's fence allows where it comes from. Of two that bring the same the second joins.
func (b *bundles) bring(ctx context.Context, g desired.Group) error {
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
	t := b.enter(r.Digest)
	defer b.leave(r.Digest, t)
	source, err := t.open(b.config(), r, b.origin)
	if err != nil {
		return err
	}
	begun := time.Now()
	err = b.swarm.Fetch(ctx, swarm.Job{
		Ref:         bundle.Ref{Digest: r.Digest, Size: r.Size, Type: r.BundleType},
		IndexDigest: r.Index,
		Origin:      source,
		Where:       placeOf(r),
		PinnedIn:    g.Folder + "/group.yaml",
		Members:     func() []string { return b.members(g, time.Since(begun) < gossipLate) },
		Dealer:      func() string { return b.dealer(g.Coordinators) },
	})
	if err != nil {
		return b.explained(r, contradicted(g, err))
	}
	if progress := b.swarm.Progress(r.Digest); t.first() {
		b.log.Info("bundle complete", "group", g.Folder, "digest", r.Digest.Short(), "fromOrigin", progress.FromOrigin, "fromPeers", progress.FromPeers)
	}
	return nil
}

// progress reads how far a bundle is.
func (b *bundles) progress(digest bundle.Digest) func() swarm.Progress {
	return func() swarm.Progress { return b.swarm.Progress(digest) }
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
	if b.said == nil || len(b.said) >= saidMax {
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

// kept is what must stay on this disk beside the releases, by group of this host.
type kept struct {
	newest    map[string]bundle.Digest // what the newest commit wants
	preparing map[string][]string      // digests that the coordinator set has it prepare for
	unknown   map[string]bool          // the set has not told yet
}

// errUnknown says that it is not known what is needed.
var errUnknown = errors.New("it is not known what is unpacked")

// keep holds the bundles that this host needs and lets the others go, whenever changed says so, until ctx ends. What is unpacked for a group it asks apply.
func (b *bundles) keep(ctx context.Context, needs func() kept) {
	for {
		if err := b.settle(ctx, needs); err != nil && ctx.Err() == nil {
			b.log.Error("bundles cannot be kept and collected as they should", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		}
	}
}

// Owners of pins: a group for which the newest commit wants a bundle, one whose coordinator set had it prepare for one, a release that was unpacked from one.
const (
	commitOwner  = "commit/"
	targetOwner  = "target/"
	releaseOwner = "release/"
)

// settle pins what groups prepare for and what their releases came from, unpins the rest and collects what nobody holds.
func (b *bundles) settle(ctx context.Context, needs func() kept) error {
	err := b.repin(needs)
	if errors.Is(err, errUnknown) {
		return err // rather keep too much
	}
	let, collected := b.store.Collect(ctx, b.limit())
	if len(let) > 0 {
		b.better.Notify()
	}
	return errors.Join(err, collected)
}

// unread says that a pin is for a release that is in no list and lies there nevertheless: its record cannot be read just now, or is damaged and goes with the next release.
func (b *bundles) unread(owner string) bool {
	rest, release := strings.CutPrefix(owner, releaseOwner)
	return release && b.applier.Unpacked(path.Dir(rest), path.Base(rest))
}

// repin does what settle says of pins. A bundle that is wanted again meanwhile is pinned afterwards.
func (b *bundles) repin(needs func() kept) error {
	b.pinning.Lock()
	defer b.pinning.Unlock()
	held := b.store.Pins() // before the needs are read: whatever was pinned by then is among them, or is no longer wanted
	wanted := map[bundle.Digest]map[string]bool{}
	want := func(owner string, digest bundle.Digest) {
		if wanted[digest] == nil {
			wanted[digest] = map[string]bool{}
		}
		wanted[digest][owner] = true
	}
	groups := map[string]bool{}
	now := needs()
	for group, digest := range now.newest {
		want(commitOwner+group, digest)
	}
	for group, digests := range now.preparing {
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
	read := map[string]bool{} // owners
	for group := range groups {
		releases, err := b.applier.Releases(group)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnknown, err)
		}
		for _, r := range releases {
			owner := releaseOwner + group + "/" + r.DeploymentID
			read[owner] = true
			if r.Digest == "" {
				continue
			}
			want(owner, r.Digest)
			errs = append(errs, b.store.Pin(owner, r.Digest))
		}
	}
	for digest, owners := range held {
		for _, owner := range owners {
			group, target := strings.CutPrefix(owner, targetOwner)
			ours := target && !now.unknown[group] || strings.HasPrefix(owner, commitOwner) || strings.HasPrefix(owner, releaseOwner)
			if ours && !wanted[digest][owner] && (read[owner] || !b.unread(owner)) {
				errs = append(errs, b.store.Unpin(owner, digest))
			}
		}
	}
	return errors.Join(errs...)
}
