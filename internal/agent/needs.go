package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// needsFresh is how long it is believed who needs which bundle: hosts ask about it several times a second.
const needsFresh = 2 * time.Second

// needs remembers who needs which bundle, for a moment.
type needs struct {
	mu    sync.Mutex
	asked time.Time
	world *world                     // as of which
	hosts map[bundle.Digest][]string // sorted
}

// needs says whether a host may need a bundle: as far as git and the followed sets tell, a group of its own has it, or nothing is known of the bundle.
func (a *Agent) needs(host string, digest bundle.Digest) bool {
	now := a.source.current()
	a.needed.mu.Lock()
	stale := a.needed.world != now || time.Since(a.needed.asked) >= needsFresh
	hosts := a.needed.hosts
	a.needed.mu.Unlock()
	if stale {
		var views []rollout.GroupView
		for _, run := range a.sets.list() {
			run.set.View(func(consensus.Machine) { views = append(views, run.machine.Groups()...) })
		}
		hosts = needers(now, views)
		a.needed.mu.Lock()
		a.needed.asked, a.needed.world, a.needed.hosts = time.Now(), now, hosts
		a.needed.mu.Unlock()
	}
	all, known := hosts[digest]
	if !known {
		return true
	}
	_, found := slices.BinarySearch(all, host)
	return found
}

// needers lists the hosts of the groups that want, run or are brought a bundle, by its digest.
func needers(w *world, views []rollout.GroupView) map[bundle.Digest][]string {
	all := map[bundle.Digest][]string{}
	var groups []desired.Group
	if w != nil {
		groups = w.State.Groups
	}
	for _, g := range groups {
		for _, m := range g.Members {
			all[g.Revision.Digest] = append(all[g.Revision.Digest], string(m))
		}
	}
	for _, v := range views {
		digests := []string{v.Desired.Digest, v.Running.Digest}
		for _, d := range []*rollout.DeploymentView{v.Deployment, v.CatchUp} {
			if d != nil {
				digests = append(digests, d.Digest)
			}
		}
		for _, m := range v.Members {
			for _, digest := range digests {
				all[bundle.Digest(digest)] = append(all[bundle.Digest(digest)], m.Host)
			}
		}
	}
	for digest, hosts := range all {
		slices.Sort(hosts)
		all[digest] = slices.Compact(hosts)
	}
	return all
}
