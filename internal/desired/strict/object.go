package strict

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Key is one key of an Object.
type Key struct {
	Name     string
	Doc      string // one line for the schema and the samples
	Required bool
	Type     Type
}

// Need is a key that must be there.
func Need(name string, t Type, doc string) Key {
	return Key{Name: name, Doc: doc, Required: true, Type: t}
}

// May is a key that may be there.
func May(name string, t Type, doc string) Key { return Key{Name: name, Doc: doc, Type: t} }

type object struct {
	doc  string
	keys []Key
}

// Object is a mapping with exactly these keys.
func Object(doc string, keys ...Key) Type { return object{doc, keys} }

func (o object) decode(d *decoder, n *yaml.Node, path string) {
	d.note(n, path)
	if n.Kind != yaml.MappingNode {
		d.want(n, path, "a mapping", o.hint())
		return
	}
	seen := d.eachKey(n, path, func(key, value *yaml.Node) {
		for _, k := range o.keys {
			if k.Name == key.Value {
				d.noteKey(key, join(path, k.Name))
				if !d.override(k.Type, join(path, k.Name)) {
					k.Type.decode(d, value, join(path, k.Name))
				}
				return
			}
		}
		hint := ""
		if len(d.problems) < MaxProblems { // the others are only counted
			hint = o.meant(key.Value)
		}
		d.add(key, hint, "%sunknown key %s", prefix(path), quote(key.Value))
	})
	for _, k := range o.keys {
		if !seen[k.Name] && d.env != nil {
			seen[k.Name] = d.override(k.Type, join(path, k.Name)) || d.descend(k.Type, join(path, k.Name))
		}
		if k.Required && !seen[k.Name] {
			hint := "" // that it has to be added goes without saying
			if k.Doc != "" {
				hint = "add it: " + k.Doc
			}
			d.add(n, hint, "%skey %q is missing", prefix(path), k.Name)
		}
	}
}

// hint lists the keys a person could write here.
func (o object) hint() string {
	if len(o.keys) == 0 {
		return "write {}"
	}
	return "for example {" + o.keys[0].Name + ": ...}"
}

// keyed is a type of mapping whose keys are known.
type keyed interface{ names() []string }

func (o object) names() []string {
	names := make([]string, 0, len(o.keys))
	for _, k := range o.keys {
		names = append(names, k.Name)
	}
	return names
}

// meant suggests a key for a name that is none: one of this mapping, or one of a mapping right in it.
func (o object) meant(name string) string {
	if best := Nearest(name, o.names()); best != "" {
		return "did you mean " + best + "?"
	}
	for _, k := range o.keys {
		if inner, ok := k.Type.(keyed); ok && slices.Contains(inner.names(), name) {
			return "write it below " + k.Name
		}
	}
	return DidYouMean(name, o.names())
}

func (o object) schema() map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, k := range o.keys {
		s := k.Type.schema()
		if k.Doc != "" {
			s["description"] = k.Doc
		}
		properties[k.Name] = s
		if k.Required {
			required = append(required, k.Name)
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if o.doc != "" {
		s["description"] = o.doc
	}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// eachKey walks the pairs of a mapping, refuses keys that are no text or come twice, and returns the keys it saw.
func (d *decoder) eachKey(n *yaml.Node, path string, visit func(key, value *yaml.Node)) map[string]bool {
	first := map[string]*yaml.Node{}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.ShortTag() == "!!merge":
			d.add(key, "write the keys out where they are meant", "%smerge keys are not allowed", prefix(path))
			continue
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null":
			d.add(key, "", "%sa key must be text, got %s", prefix(path), kindOf(key))
			continue
		}
		if before := first[key.Value]; before != nil {
			d.add(key, "keep one of them", "%skey %s is there twice, first on line %d", prefix(path), quote(key.Value), before.Line)
			continue
		}
		first[key.Value], seen[key.Value] = key, true
		visit(key, value)
	}
	return seen
}

// noteKey remembers where the key of path stood, under path + "#".
func (d *decoder) noteKey(key *yaml.Node, path string) {
	d.doc.pos[path+"#"] = Pos{key.Line, key.Column}
}

// join adds a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

type list[T any] struct {
	into     *[]T
	min, max int
	elem     func(*T) Type
}

// List is a sequence of min to max values.
func List[T any](into *[]T, min, max int, elem func(*T) Type) Type {
	return list[T]{into, min, max, elem}
}

func (l list[T]) decode(d *decoder, n *yaml.Node, path string) {
	d.note(n, path)
	if n.Kind != yaml.SequenceNode {
		d.want(n, path, "a list", "write [...]")
		return
	}
	if len(n.Content) < l.min || len(n.Content) > l.max {
		d.add(n, "", "%sa list of %d to %d values is wanted, got %d", prefix(path), l.min, l.max, len(n.Content))
		return
	}
	values := make([]T, len(n.Content))
	for i, child := range n.Content {
		l.elem(&values[i]).decode(d, child, fmt.Sprintf("%s[%d]", path, i))
	}
	*l.into = values
}

func (l list[T]) schema() map[string]any {
	s := map[string]any{"type": "array", "items": l.elem(new(T)).schema(), "maxItems": l.max}
	if l.min > 0 {
		s["minItems"] = l.min
	}
	return s
}

type mapping[T any] struct {
	into *map[string]T
	max  int
	key  Rule
	elem func(*T) Type
}

// Map is a mapping with free keys that follow a rule, at most max of them.
func Map[T any](into *map[string]T, max int, key Rule, elem func(*T) Type) Type {
	return mapping[T]{into, max, key, elem}
}

func (m mapping[T]) decode(d *decoder, n *yaml.Node, path string) {
	d.note(n, path)
	if n.Kind != yaml.MappingNode {
		d.want(n, path, "a mapping", "write {}")
		return
	}
	if len(n.Content)/2 > m.max {
		d.add(n, "", "%smore than %d keys", prefix(path), m.max)
		return
	}
	values := map[string]T{}
	d.eachKey(n, path, func(key, value *yaml.Node) {
		if message, suggestion := m.key.test(key.Value); message != "" {
			d.add(key, suggestion, "%skey %s", prefix(path), message)
			return
		}
		var v T
		d.noteKey(key, join(path, key.Value))
		m.elem(&v).decode(d, value, join(path, key.Value))
		values[key.Value] = v
	})
	*m.into = values
}

func (m mapping[T]) schema() map[string]any {
	s := map[string]any{"type": "object", "additionalProperties": m.elem(new(T)).schema(), "maxProperties": m.max}
	if len(m.key.Schema) > 0 {
		s["propertyNames"] = m.key.Schema
	}
	return s
}

type optional[T any] struct {
	into **T
	elem func(*T) Type
}

// Optional sets *into only when the key is there.
func Optional[T any](into **T, elem func(*T) Type) Type { return optional[T]{into, elem} }

func (o optional[T]) decode(d *decoder, n *yaml.Node, path string) {
	v := new(T)
	o.elem(v).decode(d, n, path)
	*o.into = v
}

func (o optional[T]) schema() map[string]any { return o.elem(new(T)).schema() }

func (o optional[T]) names() []string {
	if inner, ok := o.elem(new(T)).(keyed); ok {
		return inner.names()
	}
	return nil
}

type either struct {
	list, mapping Type
}

// Either is a value that may be written as a list or as a mapping.
func Either(list, mapping Type) Type { return either{list, mapping} }

func (e either) decode(d *decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.MappingNode {
		e.mapping.decode(d, n, path)
		return
	}
	e.list.decode(d, n, path)
}

func (e either) schema() map[string]any {
	return map[string]any{"anyOf": []any{e.list.schema(), e.mapping.schema()}}
}

// Schema prints t as a JSON Schema (draft 2020-12) of the file kind. The value can be handed to encoding/json.
func Schema(kind, title string, t Type) map[string]any {
	s := t.schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "https://gitopsd.dev/schema/" + kind + ".schema.json"
	s["title"] = title
	return s
}

// Names that a hint lists: all of a few, the first of many.
const (
	listedAll   = 12
	listedFirst = 6
)

// DidYouMean suggests the nearest of names, or lists them when none is near and they are few.
func DidYouMean(name string, names []string) string {
	if len(names) > listedAll {
		return nearest(name, names)
	}
	return NearOrKnown(name, names)
}

// NearOrKnown suggests the nearest of names, or lists them when none is near, the first of many.
func NearOrKnown(name string, names []string) string {
	if near := nearest(name, names); near != "" || len(names) == 0 {
		return near
	}
	known, others := slices.Sorted(slices.Values(names)), ""
	if len(known) > listedAll {
		others = fmt.Sprintf(" and %d others", len(known)-listedFirst)
		known = known[:listedFirst]
	}
	return "known here: " + oneOf(known) + others
}

// nearMost is how many letters a typing mistake changes at most; of a short name a third of them, of a shorter one.
const nearMost = 2

// Nearest is the one of names that is as near as a typing mistake, else the only one that name shortens; "" if there is none. Of several as near as each other it takes
// the one with the same first letter, which one rarely mistypes; if that is not one, as of hosts with a number each, it guesses none.
func Nearest(name string, names []string) string {
	best, distance, several := "", 0, false // in halves of a letter
	var longer []string
	meant := fold(name)
	for _, candidate := range names {
		known := fold(candidate)
		n := 2 * edits(meant, known)
		if meant == "" || known == "" || meant[0] != known[0] {
			n++
		}
		switch {
		case best == "" || n < distance:
			best, distance, several = candidate, n, false
		case n == distance && candidate != best:
			several = true
		}
		if len(meant) >= 3 && strings.HasPrefix(known, meant) {
			longer = append(longer, candidate)
		}
	}
	switch {
	case best != "" && !several && distance/2 <= max(1, min(nearMost, len(name)/3, len(best)/3)):
		return best
	case len(longer) == 1:
		return longer[0]
	}
	return ""
}
