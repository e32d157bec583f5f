package plan

import (
	"cmp"
	"slices"
)

// Figures of who listens to whom.
const (
	MeshMax  = 50 // hosts of one site that all listen to each other; of a larger one
	rings    = 12 // each host listens to the one before it and the one after it on so many rings,
	Gateways = 8  // and so many of a site listen to as many of another
)

// Host is a member of an exchange and the site it is in.
type Host struct{ Name, Site string }

// Graph is who a host listens to.
type Graph struct {
	Near []string            // of its own site, sorted
	Far  map[string]Share    // of other sites, with its share of what comes from there
	Out  map[string][]string // by other site, the hosts of the own site that are gateways to it, in the order of their slots
}

// Share is one of several equal parts of a bundle's pieces, and which of those nobody cares for now.
type Share struct {
	Slot, Of int
	Away     uint16 // a bit for each slot whose gateway does not exchange the bundle; its pieces belong to the next one that does
}

// Has says whether a piece belongs to the share. Each belongs to one only, if all know the same of who is away.
func (s Share) Has(piece int) bool {
	for k := range s.Of {
		slot := (piece + k) % s.Of
		if slot == s.Slot || s.Away&(1<<slot) == 0 {
			return slot == s.Slot
		}
	}
	return true
}

// Neighbours chooses whom self listens to among all members. Hosts that know the same members choose the same graph, in which each edge has two directions. Within a
// site it is a full mesh, or, beyond MeshMax hosts, what some rings in random order make together: no host has more than a bounded number of neighbours, the site is
// one piece, and a host that dies leaves its places on the rings to the next, so that nothing else changes. Sites meet on rings too, once there are many of them; where
// two meet, a few gateways of each, which also listen to each other, carry what one of them lacks.
func Neighbours(self Host, all []Host, seed uint64) Graph {
	sites := map[string][]point{}
	for _, h := range all {
		if h.Name != self.Name {
			sites[h.Site] = append(sites[h.Site], point{h.Name, hashOf(h.Name)})
		}
	}
	me := point{self.Name, hashOf(self.Name)}
	own := append(sites[self.Site], me)
	near := around(me, own, MeshMax, seed)
	g := Graph{Far: map[string]Share{}, Out: map[string][]string{}}
	var others []point
	for site := range sites {
		if site != self.Site {
			others = append(others, point{site, hashOf(site)})
		}
	}
	home := point{self.Site, hashOf(self.Site)}
	for _, site := range around(home, append(others, home), 2*rings, seed) {
		pair := mix(seed + mix(home.hash) + mix(hashOf(site)))
		ours := first(own, Gateways, pair)
		g.Out[site] = ours
		slot := slices.Index(ours, self.Name)
		if slot < 0 {
			continue
		}
		near = append(near, ours...)
		for _, name := range first(sites[site], Gateways, pair) {
			g.Far[name] = Share{Slot: slot, Of: len(ours)}
		}
	}
	slices.Sort(near)
	g.Near = slices.DeleteFunc(slices.Compact(near), func(name string) bool { return name == self.Name })
	return g
}

// point is a name and its hash.
type point struct {
	name string
	hash uint64
}

// around returns everybody but me, or, of more than most, those next to me on the rings. me is one of all.
func around(me point, all []point, most int, seed uint64) []string {
	var names []string
	if len(all) <= most {
		for _, p := range all {
			names = append(names, p.name)
		}
		return slices.DeleteFunc(names, func(name string) bool { return name == me.name })
	}
	for ring := range uint64(rings) {
		salt := mix(seed + ring + 1)
		at := mix(me.hash ^ salt)
		var after, before point
		up, down := ^uint64(0), ^uint64(0)
		for _, p := range all {
			if p.name == me.name {
				continue
			}
			place := mix(p.hash ^ salt)
			if d := place - at; after.name == "" || d < up {
				after, up = p, d
			}
			if d := at - place; before.name == "" || d < down {
				before, down = p, d
			}
		}
		names = append(names, after.name, before.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// first returns the names of the n points that come first in the order of a salt.
func first(all []point, n int, salt uint64) []string {
	ranked := slices.Clone(all)
	for i := range ranked {
		ranked[i].hash = mix(ranked[i].hash ^ salt)
	}
	slices.SortFunc(ranked, func(a, b point) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name)) })
	var names []string
	for _, p := range ranked[:min(n, len(ranked))] {
		names = append(names, p.name)
	}
	return names
}

// hashOf is FNV-1a, stirred.
func hashOf(name string) uint64 {
	h := uint64(14695981039346656037)
	for k := range len(name) {
		h = (h ^ uint64(name[k])) * 1099511628211
	}
	return mix(h)
}

// mix is the finalizer of splitmix64.
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
