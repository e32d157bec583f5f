package agent

import (
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

// cost is what one fetch costs, or did.
type cost struct{ read func() swarm.Progress } // under costs.mu

// costKey names what one commit's bundle cost: a revert to a bundle that is here already costs nothing, whatever it once did.
func costKey(group, commit string) string { return group + "/" + commit }

// aheadKey names what a bundle cost that no deployment has asked for yet.
func aheadKey(group string, digest bundle.Digest) string { return group + "/" + string(digest) }

// begin follows a fetch; the function it returns ends that. One that goes on where an earlier try ended counts on.
func (c *costs) begin(key string, read func() swarm.Progress) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil || len(c.all) >= costsMax {
		c.all = map[string]*cost{}
	}
	one := c.all[key]
	if one == nil {
		one = new(cost)
		c.all[key] = one
	}
	one.read = read
	return func() {
		last := read()
		c.mu.Lock()
		defer c.mu.Unlock()
		one.read = func() swarm.Progress { return last }
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

// of returns the bytes that the bundle of a commit cost this host, from the origin and from peers.
func (c *costs) of(group, commit string) (fromOrigin, fromPeers int64) {
	c.mu.Lock()
	one := c.all[costKey(group, commit)]
	var read func() swarm.Progress
	if one != nil {
		read = one.read
	}
	c.mu.Unlock()
	if read == nil {
		return 0, 0
	}
	p := read()
	return p.FromOrigin, p.FromPeers
}
