package swarm

import (
	"sync"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// Site is where a host is, as the fleet's configuration has it.
type Site struct {
	Name  string
	Own   bool             // the site reads each bundle from the origin for itself, and exchanges nothing with others
	Links map[string]int64 // bytes in a second towards other sites; none or 0: no limit
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

// links limits what this host sends to other sites: its share of the rate of its site's link, which belongs to the gateways together. Gateways of bundles that move
// at one time are not the same hosts, so that each bundle has the rate for itself.
type links struct {
	mu       sync.Mutex
	gateways map[string]int // by other site
	limits   map[string]*rate.Limiter
}

func newLinks() links {
	return links{gateways: map[string]int{}, limits: map[string]*rate.Limiter{}}
}

// drawn notes how many hosts of this site are gateways to each of the others.
func (l *links) drawn(gateways map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for site, n := range gateways {
		l.gateways[site] = n
	}
}

// towards is the limit of what goes from one site to another; nil for none.
func (l *links) towards(from Site, to string) *rate.Limiter {
	bytes := from.Links[to]
	if from.Name == to || bytes <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.gateways[to]
	if n == 0 {
		n = plan.Gateways
	}
	share := max(1, bytes/int64(n))
	limit := l.limits[to]
	if limit == nil {
		limit = limiter(share)
		l.limits[to] = limit
	}
	if limit.Limit() != rate.Limit(share) {
		limit.SetLimit(rate.Limit(share))
	}
	return limit
}

// slots counts the runs of pieces being served.
type slots struct {
	mu    sync.Mutex
	all   int
	taken map[bundle.Digest]int
}

// take takes a slot; false when there is none for this bundle.
func (s *slots) take(digest bundle.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= uploadsMax || s.taken[digest] >= plan.UploadsMax {
		return false
	}
	s.all++
	s.taken[digest]++
	return true
}

// release gives it back.
func (s *slots) release(digest bundle.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.taken[digest]--; s.taken[digest] == 0 {
		delete(s.taken, digest)
	}
}
