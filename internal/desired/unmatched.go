package desired

import (
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// TargetProblems says which hosts and tags of a new group the inventory of state does not have, with places in the group.yaml that GroupFiles makes.
func TargetProblems(o GroupOptions, state *State) []Problem {
	f := groupFile{policyFile: defaultPolicy()}
	name := path.Join(path.Clean(o.Folder), groupYAML)
	doc, bad := strict.Decode(name, []byte(modeline(name, "group")+groupText(o)), groupTable(&f))
	if len(bad) > 0 {
		return bad
	}
	l := &loader{state: state, broken: setOf(state.Broken.Hosts)}
	targets, problems := f.buildTargets(doc, l)
	if len(problems) == 0 {
		problems = l.checkMatches(doc, targets, targets.members(state.Hosts))
	}
	return problems
}

// checkMatches warns of tags that select no host at all: mistyped, they look like a group that deploys nothing. A tag beside others that do match may be for
// hosts to come, and an inventory that could not be read says nothing.
func (l *loader) checkMatches(doc *strict.Doc, t Targets, members []HostName) []Problem {
	if len(t.Selectors) == 0 || len(l.broken) > 0 || len(members) > 0 {
		return nil
	}
	p := doc.Problem(firstSelector(doc), "", "targets match no host of the inventory: every set matches hosts, but no host is in all of them")
	for i, set := range t.Selectors[0].Sets {
		if !anyMatches(Selector{Sets: [][]TagMatch{set}}, l.state.Hosts) {
			p = l.unmatched(doc, i, set)
			break
		}
	}
	p.Warning = true
	return []Problem{p}
}

func anyMatches(s Selector, hosts map[HostName]Host) bool {
	for _, host := range hosts {
		if s.Matches(host.Tags) {
			return true
		}
	}
	return false
}

// unmatched is about the set at place i, of which no host has any tag.
func (l *loader) unmatched(doc *strict.Doc, i int, set []TagMatch) Problem {
	var texts []string
	for _, m := range set {
		texts = append(texts, m.String())
	}
	message := fmt.Sprintf("targets match no host of the inventory: none has tag %s", shortList(texts, " or "))
	if len(l.state.Hosts) == 0 {
		return doc.Problem(placeOfMatch(doc, i, 0), "gitopsd host init prints the hosts/NAME.yaml to commit", "%s", message)
	}
	for j, m := range set {
		if hint := l.guessTag(m); hint != "" {
			return doc.Problem(placeOfMatch(doc, i, j), hint, "%s", message)
		}
	}
	return doc.Problem(placeOfMatch(doc, i, 0), "add the tag to hosts/NAME.yaml, or correct it here", "%s", message)
}

// guessTag says which tag of the inventory may be meant: a value near this one only under the same key, and a key near this one.
func (l *loader) guessTag(m TagMatch) string {
	if l.tags == nil {
		l.tags = tagsOf(l.state.Hosts)
	}
	near := func(name string, count int, names iter.Seq[string]) string {
		if l.guessed += count; l.guessed > maxGuesses {
			return ""
		}
		return strict.Nearest(name, slices.Sorted(names))
	}
	key := m.Key
	if _, known := l.tags[key]; m.HasKey && !known {
		if key = near(m.Key, len(l.tags), maps.Keys(l.tags)); key == "" {
			return ""
		}
	}
	value := m.Value
	if m.HasValue && !l.tags[key][m.Value] { // under "" are the values of all keys
		if value = near(m.Value, len(l.tags[key]), maps.Keys(l.tags[key])); value == "" && key == m.Key {
			return ""
		}
	}
	if m.HasValue && value == "" {
		return fmt.Sprintf("did you mean the key %s?", key)
	}
	return "did you mean " + TagMatch{Key: key, Value: value}.String() + "?"
}

// tagsOf lists the values of each key of the inventory's tags, and under "" those of all.
func tagsOf(hosts map[HostName]Host) map[string]map[string]bool {
	tags := map[string]map[string]bool{"": {}}
	for _, host := range hosts {
		for key, value := range host.Tags {
			if tags[key] == nil {
				tags[key] = map[string]bool{}
			}
			tags[key][value], tags[""][value] = true, true
		}
	}
	return tags
}

// selectorKeys are the ways to write the first selector, in the order in which buildTargets takes them.
var selectorKeys = []string{"targets.tagSets", "ec2TagFilters", "ec2TagSet", "onPremisesInstanceTagFilters", "onPremisesTagSet"}

// firstSelector is the path of the first selector in the file.
func firstSelector(doc *strict.Doc) string {
	if i := slices.IndexFunc(selectorKeys, doc.Has); i >= 0 {
		return selectorKeys[i]
	}
	return "targets"
}

// placeOfMatch is the path of match j in set i of the first selector.
func placeOfMatch(doc *strict.Doc, i, j int) string {
	at := firstSelector(doc)
	if strings.HasSuffix(at, "Filters") {
		return fmt.Sprintf("%s[%d]", at, j)
	}
	if wrapped := at + "." + at + "List"; doc.Has(wrapped) {
		at = wrapped
	}
	return fmt.Sprintf("%s[%d][%d]", at, i, j)
}

// shortList joins texts for a sentence, the first few of many.
func shortList(texts []string, between string) string {
	const most = 4
	if len(texts) > most {
		return strings.Join(texts[:most], between) + fmt.Sprintf("%s%d others", between, len(texts)-most)
	}
	return strings.Join(texts, between)
}
