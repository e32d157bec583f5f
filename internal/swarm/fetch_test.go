package swarm

import (
	"testing"
)

func TestOneCopyLeavesTheOriginForFiveHosts(t *testing.T) {
	a := packed(t, 40, 200<<10)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		s := &source{a: a}
		for _, name := range names(5) {
			f.start(name)
		}
		var all []*fetching
		for _, name := range f.names() {
			h := f.get(name)
			all = append(all, h.fetch(t.Context(), h.job(a, s)))
		}
		wait(t, a, all...)
		if got, want := s.sum(), a.index.PayloadSize(); got != want {
			t.Errorf("%d bytes left the origin, the archive's payload has %d", got, want)
		}
		if s.indexes != 1 {
			t.Errorf("the index was read %d times", s.indexes)
		}
		var origin, peers int64
		for _, name := range f.names() {
			p := f.get(name).swarm.Progress(a.ref.Digest)
			origin, peers = origin+p.FromOrigin, peers+p.FromPeers
		}
		if origin != s.sum() || peers != 4*a.index.PayloadSize() {
			t.Errorf("hosts count %d from the origin and %d from peers", origin, peers)
		}
	})
}
