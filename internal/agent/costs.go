package agent

import (
	"maps"
	"sync"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// costsMax bounds the fetches whose cost is remembered.
const costsMax = 256

// costs remembers what it cost this host to bring bundles. The zero value is ready.
type costs struct {
	mu  sync.Mutex
	all map[string]*cost // by costKey or aheadKey
}

// cost is what one fetch costs, or did; guarded by costs.mu.
type cost struct {
	read    func() moved // by all fetches of the bundle so far
	from    moved        // what of that is not of this one, or was told with a deployment
	ahead   string       // its aheadKey
	fetches int          // that are under way
}

// moved counts bytes.
type moved struct{ origin, peers int64 }

func (m moved) less(o moved) moved { return moved{m.origin - o.origin, m.peers - o.peers} }

func movedBy(p swarm.Progress) moved { return moved{p.FromOrigin, p.FromPeers} }

// costKey names what one commit's bundle cost: a revert to a bundle that is here already costs nothing, whatever it once did.
func costKey(group, commit string) string { return group + "/" + commit }

// aheadKey names what a bundle cost that no deployment has asked for yet.
func aheadKey(group string, digest bundle.Digest) string { return group + "/" + string(digest) }

// begin follows a fetch; the function it returns ends that. One that goes on where an earlier try ended counts on, and so does one ahead of any deployment that joins
// what a deployment has asked for.
func (c *costs) begin(key, ahead string, progress func() swarm.Progress) (done func()) {
	read := func() moved { return movedBy(progress()) }
	before := read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]*cost{}
	}
	if len(c.all) >= costsMax {
		maps.DeleteFunc(c.all, func(_ string, one *cost) bool { return one.fetches == 0 })
	}
	one := c.all[key]
	for _, other := range c.all {
		if one == nil && key == ahead && other.ahead == ahead && other.fetches > 0 {
			one = other
		}
	}
	if one == nil {
		one = &cost{from: before}
		c.all[key] = one
	} else if one.fetches == 0 { // what came between the two was for somebody else
		one.from = before.less(one.read().less(one.from))
	}
	one.read, one.ahead = read, ahead
	one.fetches++
	return func() {
		last := read()
		c.mu.Lock()
		defer c.mu.Unlock()
		if one.fetches--; one.fetches == 0 {
			one.read = func() moved { return last }
		}
	}
}

// claim books what was fetched ahead, or is being fetched, to the commit whose deployment asks for it first.
func (c *costs) claim(group, commit string, digest bundle.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if one := c.all[aheadKey(group, digest)]; one != nil {
		delete(c.all, aheadKey(group, digest))
		c.all[costKey(group, commit)] = one
	}
}

// book says that the deployment which the bundle of a commit came for has ended: the next one that finds it here moves nothing.
func (c *costs) book(group, commit string) {
	if one, so := c.read(group, commit); one != nil {
		c.mu.Lock()
		one.from = so
		c.mu.Unlock()
	}
}

// of returns the bytes that the bundle of a commit cost this host, from the origin and from peers.
func (c *costs) of(group, commit string) (fromOrigin, fromPeers int64) {
	one, so := c.read(group, commit)
	if one == nil {
		return 0, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	so = so.less(one.from)
	return max(0, so.origin), max(0, so.peers) // the swarm forgets in the end
}

// read returns a commit's cost and what all fetches of its bundle have moved.
func (c *costs) read(group, commit string) (one *cost, so moved) {
	c.mu.Lock()
	one = c.all[costKey(group, commit)]
	var read func() moved
	if one != nil {
		read = one.read
	}
	c.mu.Unlock()
	if read != nil { // asks the swarm, without the lock
		so = read()
	}
	return one, so
}
