package desired

import (
	"crypto/ed25519"
	"maps"
	"slices"
)

// Keep gives next the hosts, coordinator sets and sites of old whose files are merely broken in next, and works out every group's members with them. A mistyped
// hosts/NAME.yaml then neither cuts that host off nor shrinks its groups, and a mistyped fleet.yaml does not lift the limits of links between sites. Groups that are broken stay left out: nothing new may start for them, and what
// runs is not touched. Neither argument is changed; old may be nil.
//
// What is kept depends on the commit a host had before, so two hosts may keep different things until the file is mended; spec hashes do not depend on it.
func Keep(old, next *State) *State {
	if old == nil || len(next.Broken.Hosts)+len(next.Broken.Sets) == 0 && !next.Broken.Fleet {
		return next
	}
	kept := *next
	if next.Broken.Fleet {
		kept.Fleet.Sites = old.Fleet.Sites
	}
	kept.Hosts, kept.Sets = maps.Clone(next.Hosts), maps.Clone(next.Sets)
	claimed := map[string]bool{} // keys: an identity is never shared
	for _, host := range next.Hosts {
		claim(claimed, host)
	}
	for _, name := range next.Broken.Hosts {
		host, ok := old.Hosts[name]
		if ok && !slices.ContainsFunc(host.Keys, func(key ed25519.PublicKey) bool { return claimed[string(key)] }) {
			kept.Hosts[name] = host
			claim(claimed, host)
		}
	}
	for _, name := range next.Broken.Sets {
		if set, ok := old.Sets[name]; ok {
			kept.Sets[name] = set
		}
	}
	kept.Groups = slices.Clone(next.Groups)
	for i := range kept.Groups {
		kept.Groups[i].Members = kept.Groups[i].Targets.members(kept.Hosts)
	}
	return &kept
}

// claim takes a host's keys down as taken.
func claim(claimed map[string]bool, host Host) {
	for _, key := range host.Keys {
		claimed[string(key)] = true
	}
}
