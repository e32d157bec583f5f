package swarm

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// Site is where a host is, as the fleet's configuration has it. It may change while a bundle moves.
type Site struct {
	Name  string
	Own   bool             // the site reads each bundle from the origin for itself, and exchanges nothing with others
	Links map[string]int64 // bytes in a second towards other sites, LinkMin at least; none or 0: no limit
}

// realm names those who share what they read from the origin.
func (s Site) realm() string {
	if s.Own {
		return s.Name
	}
	return ""
}

// site says where a host is.
func (s *Swarm) site(host string) Site {
	if s.o.Site == nil {
		return Site{}
	}
	return s.o.Site(host)
}

// Bounds of what goes to other sites.
const (
	LinkMin     = 256 << 10        // bytes in a second of one bundle: with less, pieces on their way over a link take longer than a host waits for them
	linkUploads = 2                // runs of pieces of one bundle served to one other site at a time, where there is a limit: the rate divided further is as good as silence
	linksMax    = 256              // bundles whose gateways are remembered; of those forgotten, as many gateways are assumed as there may be
	linkFresh   = 10 * time.Second // a bundle that is complete here is on a link for so long after it was asked for
)

// links limits what this host sends to other sites: its share of the rate of its site's link, which belongs to the gateways together, and to the bundles that this host
// knows to be on it. Of others, which hosts with other groups exchange, it cannot know.
type links struct {
	mu      sync.Mutex
	bundles map[bundle.Digest]*linked
	turn    uint64
}

// linked is one bundle's way to other sites.
type linked struct {
	gateways map[string][]string // of this site, by other site
	moving   bool                // this host is in its exchange
	ways     map[string]*link
	used     uint64
}

// link is what one bundle may take of the way to one other site.
type link struct {
	limit *rate.Limiter
	busy  int
	asked time.Time
}

func newLinks() links { return links{bundles: map[bundle.Digest]*linked{}} }

// of finds a bundle. The lock is held.
func (l *links) of(digest bundle.Digest) *linked {
	one := l.bundles[digest]
	if one == nil {
		one = &linked{ways: map[string]*link{}}
		l.bundles[digest] = one
	}
	l.turn++
	one.used = l.turn
	for len(l.bundles) > linksMax {
		oldest := digest
		for d, other := range l.bundles {
			if other.used < l.bundles[oldest].used {
				oldest = d
			}
		}
		delete(l.bundles, oldest)
	}
	return one
}

// drawn notes how many hosts of this site are gateways of a bundle to each of the others.
func (l *links) drawn(digest bundle.Digest, gateways map[string][]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of(digest)
	one.gateways, one.moving = gateways, true
}

// over notes that the exchange of a bundle has ended here.
func (l *links) over(digest bundle.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.bundles[digest]; one != nil {
		one.moving = false
	}
}

// on counts the bundles on the way to another site. The lock is held.
func (l *links) on(to string, now time.Time) (n int64) {
	for _, one := range l.bundles {
		way := one.ways[to]
		if one.moving && len(one.gateways[to]) > 0 || way != nil && now.Sub(way.asked) < linkFresh {
			n++
		}
	}
	return n
}

// enter takes a slot on the way of a bundle from one site to another; false when there is none. The limiter is nil, and leave does nothing, where the way has no limit.
func (l *links) enter(digest bundle.Digest, from Site, to string) (limit *rate.Limiter, leave func(), ok bool) {
	bytes := from.Links[to]
	if from.Name == to || bytes <= 0 {
		return nil, func() {}, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of(digest)
	way := one.ways[to]
	if way == nil {
		way = &link{limit: rate.NewLimiter(0, 0)}
		one.ways[to] = way
	}
	now := time.Now()
	way.asked = now
	n := len(one.gateways[to])
	if n == 0 {
		n = plan.Gateways
	}
	if share := max(1, max(bytes/l.on(to, now), LinkMin)/int64(n)); way.limit.Limit() != rate.Limit(share) {
		way.limit.SetLimit(rate.Limit(share))
		way.limit.SetBurst(int(min(max(share/2, throttled), int64(burst(share)))))
	}
	if way.busy >= linkUploads {
		return nil, nil, false
	}
	way.busy++
	return way.limit, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		way.busy--
	}, true
}
