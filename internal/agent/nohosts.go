package agent

import (
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired"
)

// noHosts says why a group's targets match no host: which tags no host of the inventory has.
func noHosts(w *world, g desired.Group) string {
	inventory := fmt.Sprintf("the %d hosts in hosts/", len(w.State.Hosts))
	if len(w.State.Hosts) == 1 {
		inventory = "the one host in hosts/"
	}
	mend := fmt.Sprintf("correct targets in %s/group.yaml, or the tags of the hosts", g.Folder)
	var lacking []string
	for _, s := range g.Targets.Selectors {
		for _, set := range s.Sets {
			if !matchesAny(w.State.Hosts, set) {
				lacking = append(lacking, anyOf(set))
			}
		}
	}
	switch {
	case len(g.Targets.Selectors) == 0:
		return fmt.Sprintf("the group's targets name none of %s, so there is nothing to deploy to; %s", inventory, mend)
	case len(lacking) > 0:
		return fmt.Sprintf("the group's targets match none of %s, so there is nothing to deploy to: no host has the tag %s; %s", inventory, strings.Join(lacking, ", nor "), mend)
	}
	var sets []string
	for _, s := range g.Targets.Selectors {
		for _, set := range s.Sets {
			sets = append(sets, anyOf(set))
		}
	}
	return fmt.Sprintf("the group's targets match none of %s, so there is nothing to deploy to: no host has at once the tags %s; %s", inventory, strings.Join(sets, " and "), mend)
}

// matchesAny says whether any host has one of the tags.
func matchesAny(hosts map[desired.HostName]desired.Host, set []desired.TagMatch) bool {
	for _, host := range hosts {
		for _, m := range set {
			if m.Matches(host.Tags) {
				return true
			}
		}
	}
	return false
}

// anyOf writes one tag set: its tags are alternatives.
func anyOf(set []desired.TagMatch) string {
	tags := make([]string, len(set))
	for i, m := range set {
		tags[i] = m.String()
	}
	return strings.Join(tags, " or ")
}
