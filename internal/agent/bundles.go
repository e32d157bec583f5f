package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// bundles brings the bundle of a spec to this disk and keeps those of releases.
type bundles struct {
	store    *store.Store
	swarm    *swarm.Swarm
	s3       func() S3Config
	verifier *verifier
	applier  *apply.Applier
	members  func(g desired.Group) []string // live hosts that may have or want the bundle, self included
	dealer   func(set string) string        // the set's leader, or ""
	log      *slog.Logger

	mu    sync.Mutex
	costs map[string]swarm.Progress // by digest, what the last fetch cost
}

// costsMax bounds the digests whose cost is remembered.
const costsMax = 256

// fetch makes the bundle of a verified spec complete on this disk. A refusal is for bytes: it is tried again, and never held against the spec.
func (b *bundles) fetch(ctx context.Context, group string, spec rollout.Spec) (rollout.RefusalKind, string) {
	g, _, err := b.verifier.group(group, spec.Commit)
	if err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	digest := g.Revision.Digest
	if err := b.store.Pin("target/"+group, digest); err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	if _, ok := b.store.Lookup(digest); ok {
		return "", ""
	}
	source, err := b.origin(g.Revision)
	if err != nil {
		return rollout.RefusedByBytes, err.Error()
	}
	job := swarm.Job{
		Ref:         bundle.Ref{Digest: digest, Size: g.Revision.Size, Type: g.Revision.BundleType},
		IndexDigest: g.Revision.Index,
		Origin:      source,
		Where:       locationOf(g.Revision),
		Members:     func() []string { return b.members(g) },
		Dealer:      func() string { return b.dealer(g.Coordinators) },
	}
	err = b.swarm.Fetch(ctx, job)
	b.note(digest)
	if err != nil {
		if ctx.Err() == nil {
			b.log.Warn("a bundle cannot be had yet", "group", g.Folder, "digest", digest.Short(), "error", err)
		}
		return rollout.RefusedByBytes, err.Error()
	}
	progress := b.swarm.Progress(digest)
	b.log.Info("bundle complete", "group", g.Folder, "digest", digest.Short(), "fromOrigin", progress.FromOrigin, "fromPeers", progress.FromPeers)
	return "", ""
}

// origin opens a revision's first source of bytes; nil on a host without a route to it.
func (b *bundles) origin(r desired.Revision) (swarm.Origin, error) {
	s3 := b.s3()
	switch {
	case r.S3 != nil && !s3.Enabled:
		return nil, nil
	case r.S3 != nil:
		return origin.Open(origin.Location{Kind: origin.S3, Bucket: r.S3.Bucket, Key: r.S3.Key, Version: r.S3.Version, ETag: r.S3.ETag},
			origin.Options{Endpoint: s3.Endpoint, Region: s3.Region, PathStyle: s3.PathStyle, CredentialsFile: s3.CredentialsFile})
	case r.Https != nil:
		return origin.Open(origin.Location{Kind: origin.Https, URL: r.Https.URL}, origin.Options{AllowHTTP: true})
	case r.Directory != nil:
		if _, err := os.Stat(r.Directory.Path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return origin.Open(origin.Location{Kind: origin.Directory, Path: r.Directory.Path}, origin.Options{})
	}
	return nil, fmt.Errorf("cannot fetch a revision of type %s", r.Type)
}

// source is where apply reads a bundle that is complete here.
func (b *bundles) source(r desired.Revision) (apply.Source, error) {
	found, ok := b.store.Lookup(r.Digest)
	if !ok {
		return apply.Source{}, fmt.Errorf("bundle %s is not complete on this host", r.Digest.Short())
	}
	return apply.Source{Path: found.Path, Type: r.BundleType, Digest: r.Digest}, nil
}

// note remembers what a fetch cost.
func (b *bundles) note(digest bundle.Digest) {
	progress := b.swarm.Progress(digest)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.costs == nil || len(b.costs) >= costsMax {
		b.costs = map[string]swarm.Progress{}
	}
	b.costs[string(digest)] = progress
}

// cost returns the bytes a bundle cost this host, from the origin and from peers.
func (b *bundles) cost(digest string) (fromOrigin, fromPeers int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.swarm.Progress(bundle.Digest(digest)); p.FromOrigin+p.FromPeers > 0 {
		return p.FromOrigin, p.FromPeers
	}
	p := b.costs[digest]
	return p.FromOrigin, p.FromPeers
}

// pinReleases keeps the bundles of a group's releases on this disk and lets those of pruned ones go.
func (b *bundles) pinReleases(group string) {
	releases, err := b.applier.Releases(group)
	if err != nil {
		return
	}
	for _, r := range releases {
		if r.Digest == "" {
			continue
		}
		if err := b.store.Pin("release/"+group+"/"+r.DeploymentID, r.Digest); err != nil {
			b.log.Error("a bundle cannot be kept", "group", group, "digest", r.Digest.Short(), "error", err)
		}
	}
}
