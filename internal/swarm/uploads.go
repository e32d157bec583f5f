package swarm

import (
	"sync"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// slots counts the runs of pieces being served, and of each bundle who listens to what is here of it.
type slots struct {
	mu        sync.Mutex
	all       int
	taken     map[bundle.Digest]int
	listening map[bundle.Digest]int
	swarm     map[bundle.Digest]int // other hosts in the exchange, while it lasts
}

func newSlots() slots {
	return slots{taken: map[bundle.Digest]int{}, listening: map[bundle.Digest]int{}, swarm: map[bundle.Digest]int{}}
}

// drawn notes how many other hosts are in a bundle's exchange; 0 when it is over.
func (s *slots) drawn(digest bundle.Digest, others int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.swarm[digest] = others; others == 0 {
		delete(s.swarm, digest)
	}
}

// listen counts one more who may ask; the caller calls leave when it listens no more.
func (s *slots) listen(digest bundle.Digest) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening[digest]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.listening[digest]--; s.listening[digest] == 0 {
			delete(s.listening, digest)
		}
	}
}

// take takes a slot; false when there is none for this bundle.
func (s *slots) take(digest bundle.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most, _ := plan.Flows(max(s.listening[digest], s.swarm[digest])); s.all >= uploadsMax || s.taken[digest] >= most {
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
