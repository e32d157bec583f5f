package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// Bounds of asking where a bundle is.
const (
	bundleAsksMax  = 32               // hosts asked at a time
	bundleTimeout  = 20 * time.Second // for all of them
	bundlesListed  = 20               // bundles named in an error
	bundleShortMin = 4                // digits that name a bundle
	bannedListed   = 100              // of one host
)

// shelf is what this host has of bundles.
type shelf struct {
	swarm *swarm.Swarm
	store *store.Store
}

// digests lists the bundles that are here or were fetched lately.
func (s shelf) digests() []bundle.Digest { return append(s.swarm.Known(), s.store.Digests()...) }

// Bundle implements status.Source. Each host says what it has itself; one that other hosts ask answers for itself alone.
func (r *reader) Bundle(ctx context.Context, name string) (status.Distribution, error) {
	w := r.source.current()
	if w == nil {
		return status.Distribution{}, errNoWorld
	}
	out := status.Distribution{APIVersion: status.APIVersion, Host: r.self, Groups: []string{}}
	if r.ask == nil {
		digest, err := bundle.ParseDigest(name)
		if err != nil {
			return status.Distribution{}, err
		}
		out.Digest, out.Hosts = string(digest), []status.BundleHost{r.bundleHere(w, digest)}
		return out, nil
	}
	groups := r.bundlesOfGroups(w)
	digest, err := whichBundle(name, groups, r.shelf.digests())
	if err != nil {
		return status.Distribution{}, err
	}
	out.Digest = string(digest)
	out.Groups = append(out.Groups, slices.Sorted(maps.Keys(groups[digest]))...)
	out.Hosts = r.askBundle(ctx, w, r.bundleCandidates(w, groups[digest]), digest)
	if len(groups[digest]) == 0 { // nobody is meant to have it: who has?
		out.Hosts = slices.DeleteFunc(out.Hosts, func(h status.BundleHost) bool { return h.HaveBytes == 0 && h.State == "" })
	}
	return out, nil
}

// bundlesOfGroups lists the bundles that groups should run or run, each with the folders of those groups and their hosts.
func (r *reader) bundlesOfGroups(w *world) map[bundle.Digest]map[string][]string {
	all := map[bundle.Digest]map[string][]string{}
	open := r.sets.list()
	for _, g := range w.State.Groups {
		digests := []bundle.Digest{g.Revision.Digest}
		if run := open[g.Coordinators]; run != nil {
			var view rollout.GroupView
			run.set.View(func(consensus.Machine) { view, _ = run.machine.Group(string(g.ID)) })
			digests = append(digests, bundle.Digest(view.Running.Digest))
		}
		for _, digest := range digests {
			if digest == "" {
				continue
			}
			if all[digest] == nil {
				all[digest] = map[string][]string{}
			}
			var hosts []string
			for _, m := range g.Members {
				hosts = append(hosts, string(m))
			}
			all[digest][g.Folder] = hosts
		}
	}
	return all
}

// whichBundle finds the one bundle whose digest is name, or begins with it.
func whichBundle(name string, groups map[bundle.Digest]map[string][]string, here []bundle.Digest) (bundle.Digest, error) {
	known := append(slices.Collect(maps.Keys(groups)), here...)
	slices.Sort(known)
	known = slices.Compact(known)
	digits := strings.ToLower(strings.TrimPrefix(name, "sha256:"))
	if len(digits) < bundleShortMin && len(known) > 0 {
		return "", unknownBundle(name, fmt.Sprintf("at least %d of its first digits are wanted; known are", bundleShortMin), known, groups)
	}
	var meant []bundle.Digest
	for _, digest := range known {
		if strings.HasPrefix(digest.Hex(), digits) {
			meant = append(meant, digest)
		}
	}
	why := "known are"
	switch {
	case len(meant) == 1:
		return meant[0], nil
	case len(meant) > 1:
		known, why = meant, "its digits begin those of"
	case len(known) == 0:
		return "", &status.UnknownBundleError{Message: fmt.Sprintf("cannot find bundle %.80q: no group has one, and none is on this host", name)}
	}
	return "", unknownBundle(name, why, known, groups)
}

// unknownBundle says why a name means no one bundle, with some of the digests that why speaks of.
func unknownBundle(name, why string, known []bundle.Digest, groups map[bundle.Digest]map[string][]string) error {
	// Those of groups first: they are what people ask for.
	slices.SortStableFunc(known, func(a, b bundle.Digest) int { return cmp.Compare(len(groups[b]), len(groups[a])) })
	var list []string
	for _, digest := range known[:min(len(known), bundlesListed)] {
		text := digest.Short()
		if folders := slices.Sorted(maps.Keys(groups[digest])); len(folders) > 0 {
			text += " (" + strings.Join(folders, ", ") + ")"
		}
		list = append(list, text)
	}
	if more := len(known) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return &status.UnknownBundleError{Message: fmt.Sprintf("cannot find bundle %.80q: %s %s", name, why, strings.Join(list, ", "))}
}

// bundleCandidates lists the hosts of groups, or, where there are none, every host that lives.
func (r *reader) bundleCandidates(w *world, groups map[string][]string) []string {
	var hosts []string
	for _, members := range groups {
		hosts = append(hosts, members...)
	}
	if len(groups) == 0 {
		lives := r.alive()
		for host := range w.State.Hosts {
			if alive, _ := lives(string(host)); alive {
				hosts = append(hosts, string(host))
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// askBundle asks hosts for their part, some at a time.
func (r *reader) askBundle(ctx context.Context, w *world, hosts []string, digest bundle.Digest) []status.BundleHost {
	ctx, cancel := context.WithTimeout(ctx, bundleTimeout)
	defer cancel()
	lives, room := r.alive(), make(chan struct{}, bundleAsksMax)
	all := make([]status.BundleHost, len(hosts))
	var asking sync.WaitGroup
	for i, host := range hosts {
		if host == r.self {
			all[i] = r.bundleHere(w, digest)
			continue
		}
		all[i] = status.BundleHost{Name: host, Site: siteOf(w, host).Name, Banned: []status.BannedPeer{}}
		if alive, _ := lives(host); !alive {
			all[i].Error = "not asked: it is taken for dead"
			continue
		}
		room <- struct{}{}
		asking.Go(func() {
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
			defer cancel()
			answer, err := r.ask(host).Bundle(ctx, string(digest))
			if err == nil && len(answer.Hosts) != 1 {
				err = fmt.Errorf("it answers for %d hosts", len(answer.Hosts))
			}
			if err != nil {
				all[i].Error = clip(err.Error(), 500)
				return
			}
			site := all[i].Site
			all[i] = answer.Hosts[0]
			all[i].Name, all[i].Site = host, site
			all[i].Banned = append([]status.BannedPeer{}, all[i].Banned[:min(len(all[i].Banned), bannedListed)]...)
		})
	}
	asking.Wait()
	return all
}

// bundleHere says what this host has of a bundle.
func (r *reader) bundleHere(w *world, digest bundle.Digest) status.BundleHost {
	p := r.shelf.swarm.Progress(digest)
	h := status.BundleHost{Name: r.self, Site: siteOf(w, r.self).Name, State: p.State, Pieces: p.Pieces, HavePieces: p.HavePieces, Bytes: p.Total, HaveBytes: p.Have,
		FromOrigin: p.FromOrigin, FromPeers: p.FromPeers, FromOtherSites: p.FromFar, Reused: p.Reused, BytesPerSecond: p.Rate, ETASeconds: etaSeconds(p), Peers: p.Peers, Banned: []status.BannedPeer{}}
	if p.Total > 0 {
		h.Percent = int(float64(p.Have) / float64(p.Total) * 100)
	}
	barred := map[string]string{}
	maps.Copy(barred, p.Suspects)
	maps.Copy(barred, p.Doubted)
	for _, host := range slices.Sorted(maps.Keys(barred)) {
		if len(h.Banned) < bannedListed {
			h.Banned = append(h.Banned, status.BannedPeer{Host: host, Why: barred[host]})
		}
	}
	return h
}

// etaSeconds is how long the rest of a bundle takes, 1 at least; 0 while that is unknown.
func etaSeconds(p swarm.Progress) int64 {
	eta, ok := p.ETA()
	if !ok {
		return 0
	}
	return max(1, int64(min(eta, 1000*time.Hour)/time.Second))
}
