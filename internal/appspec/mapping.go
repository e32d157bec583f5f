package appspec

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// mapBuilder collects the entries of one mapping: a key that comes again keeps its place and takes the new value.
type mapBuilder struct {
	value *value
	index map[string]int
}

func newMapBuilder() *mapBuilder {
	return &mapBuilder{value: &value{kind: kindMap, weight: 1}, index: make(map[string]int)}
}

// set stores an entry; it returns the entry that it replaced, if any.
func (b *mapBuilder) set(key, val *value) (replaced entry, again bool) {
	b.value.weight = addWeight(b.value.weight, addWeight(key.weight, val.weight))
	id := key.identity()
	if at, found := b.index[id]; found {
		replaced = b.value.entries[at]
		b.value.entries[at] = entry{key: key, val: val}
		return replaced, true
	}
	b.index[id] = len(b.value.entries)
	b.value.entries = append(b.value.entries, entry{key: key, val: val})
	return entry{}, false
}

// merge stores what a merge key brings. As in the agent, merged entries replace those that stand before the merge key.
func (b *mapBuilder) merge(from *value) {
	for _, e := range from.entries {
		b.set(e.key, e.val)
	}
}

// readMap makes a mapping, or what its tag asks for.
func (r *reader) readMap(node *yaml.Node, at Position) (*value, *Problem) {
	tag, _ := longTag(node)
	class, plain := mapClass(tag)
	if !plain {
		return nil, &Problem{Position: at, Message: errClass(class).Error()}
	}
	b := newMapBuilder()
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, p := r.read(node.Content[i])
		if p != nil {
			return nil, p
		}
		val, p := r.read(node.Content[i+1])
		if p != nil {
			return nil, p
		}
		if key.isText("<<") && !isStringTag(node.Content[i]) && mergeInto(b, node.Content[i+1], val) {
			continue
		}
		if old, again := b.set(key, val); again && !key.isText("<<") {
			r.doc.duplicates = append(r.doc.duplicates, duplicate{key: clip(rubyText(key)), first: old.key.at, again: key.at})
		}
		if b.value.weight > r.bound {
			break // refused by the caller
		}
	}
	if isStringMapTag(tag) {
		return stringOfMap(b.value), nil
	}
	return b.value, nil
}

// isStringTag says whether a node says of itself that it is a string, which keeps << from being a merge key.
func isStringTag(node *yaml.Node) bool {
	tag, _ := longTag(node)
	return tag == yamlTag+"str"
}

// mergeInto merges val, the value of a merge key, and says whether it was something that can be merged.
func mergeInto(b *mapBuilder, node *yaml.Node, val *value) bool {
	switch {
	case val.kind == kindMap && node.Kind != yaml.SequenceNode:
		b.merge(val)
		return true
	case val.kind == kindList && node.Kind == yaml.SequenceNode:
		for _, item := range val.list {
			if item.kind != kindMap {
				return false
			}
		}
		all := newMapBuilder()
		for i := len(val.list) - 1; i >= 0; i-- {
			all.merge(val.list[i])
		}
		b.merge(all.value)
		return true
	}
	return false
}

// mapClass says whether a mapping with this tag is read as an ordinary one; if not, which class of Ruby it asks for.
func mapClass(tag string) (class string, plain bool) {
	switch tag {
	case "!set", yamlTag + "set":
		return "Psych::Set", false
	case "!omap", yamlTag + "omap":
		return "Psych::Omap", false
	case "!ruby/object:Hash":
		return "", true
	}
	for _, prefix := range []string{"!ruby/struct", "!ruby/object", "!ruby/array:", "!ruby/range", "!ruby/exception", "!map:", "!ruby/hash", "!ruby/marshalable:"} {
		if rest, found := strings.CutPrefix(tag, prefix); found {
			return strings.TrimPrefix(rest, ":"), false
		}
	}
	if rubyString(tag, &class) && class != "" {
		return class, false
	}
	return "", true
}

// isStringMapTag says whether a mapping with this tag stands for a string.
func isStringMapTag(tag string) bool {
	class := tag
	return tag == yamlTag+"str" || rubyString(tag, &class)
}

// stringOfMap is the string a mapping tagged as one stands for: the value of its key str.
func stringOfMap(m *value) *value {
	if text := m.get("str"); text != nil {
		v := *text
		return &v
	}
	return &value{weight: 1}
}

// readOrderedMap makes a mapping of a list tagged !!omap, whose items are mappings of one key.
func (r *reader) readOrderedMap(node *yaml.Node) (*value, *Problem) {
	b := newMapBuilder()
	for _, child := range node.Content {
		if child.Kind == yaml.ScalarNode || child.Kind == yaml.AliasNode || len(child.Content) == 0 {
			return nil, &Problem{Position: Position{child.Line, child.Column}, Message: "an ordered mapping must be a list of mappings with one key"}
		}
		key, p := r.read(child.Content[0])
		if p != nil {
			return nil, p
		}
		val, p := r.read(child.Content[len(child.Content)-1])
		if p != nil {
			return nil, p
		}
		b.set(key, val)
	}
	return b.value, nil
}
