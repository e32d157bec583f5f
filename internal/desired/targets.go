package desired

import (
	"slices"
	"strings"
)

// Targets says which hosts belong to a group. Either Hosts lists them, or Selectors choose by tags: a host belongs when one Selector matches it
// (CodeDeploy unites the EC2 and the on-premises form).
type Targets struct {
	Hosts     []HostName // sorted
	Selectors []Selector
}

// Selector is a list of tag sets: OR inside a set, AND between sets. Without a set it matches nothing.
type Selector struct {
	Sets [][]TagMatch
}

// Matches says whether the host's tags satisfy every set.
func (s Selector) Matches(tags map[string]string) bool {
	for _, set := range s.Sets {
		if !slices.ContainsFunc(set, func(m TagMatch) bool { return m.Matches(tags) }) {
			return false
		}
	}
	return len(s.Sets) > 0
}

// Matches says whether a host with these tags is meant.
func (m TagMatch) Matches(tags map[string]string) bool {
	switch {
	case m.HasKey && m.HasValue:
		value, ok := tags[m.Key]
		return ok && value == m.Value
	case m.HasKey:
		_, ok := tags[m.Key]
		return ok
	case m.HasValue:
		for _, value := range tags {
			if value == m.Value {
				return true
			}
		}
	}
	return false
}

// String writes the match as group.yaml does.
func (m TagMatch) String() string {
	return m.Key + "=" + m.Value
}

// parseTagMatch reads KEY=VALUE, KEY= (any value) or =VALUE (any key). The first = divides.
func parseTagMatch(text string) (TagMatch, bool) {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" && value == "" || len(key) > maxTagKey || len(value) > maxTagValue {
		return TagMatch{}, false
	}
	return TagMatch{Key: key, Value: value, HasKey: key != "", HasValue: value != ""}, true
}

// members lists the hosts that targets mean, sorted.
func (t Targets) members(hosts map[HostName]Host) []HostName {
	members := []HostName{}
	for _, name := range t.Hosts {
		if _, ok := hosts[name]; ok {
			members = append(members, name)
		}
	}
	if len(t.Selectors) > 0 {
		for name, host := range hosts {
			if slices.ContainsFunc(t.Selectors, func(s Selector) bool { return s.Matches(host.Tags) }) {
				members = append(members, name)
			}
		}
	}
	slices.Sort(members)
	return slices.Compact(members)
}
