package strict

import (
	"fmt"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// Env looks a variable up. A variable beats the file's value at the path it is named after: EnvName("GITOPSD_", "repository.allowLocalPath") is
// GITOPSD_REPOSITORY_ALLOW_LOCAL_PATH. Lists are written with commas. Mappings with free keys have no variable. An empty variable counts as unset.
type Env func(path string) (name, value string, ok bool)

// EnvName is the variable of a path.
func EnvName(prefix, path string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, r := range path {
		switch {
		case r == '.':
			b.WriteByte('_')
		case unicode.IsUpper(r):
			b.WriteByte('_')
			b.WriteRune(r)
		default:
			b.WriteRune(unicode.ToUpper(r))
		}
	}
	return b.String()
}

// Lookup makes an Env of a lookup such as os.LookupEnv.
func Lookup(prefix string, lookup func(string) (string, bool)) Env {
	return func(path string) (string, string, bool) {
		name := EnvName(prefix, path)
		value, ok := lookup(name)
		return name, value, ok && value != ""
	}
}

// override decodes the variable of path, if there is one, in the file's stead.
func (d *decoder) override(t Type, path string) bool {
	if d.env == nil {
		return false
	}
	kind, isScalar := t.(scalar)
	items, isList := t.(interface{ isList() })
	if !isScalar && !isList {
		return false
	}
	name, value, ok := d.env(path)
	if !ok {
		return false
	}
	sub := &decoder{doc: &Doc{File: "environment variable " + name, pos: map[string]Pos{}}}
	if isList {
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for item := range strings.SplitSeq(value, ",") {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(item)})
		}
		items.(Type).decode(sub, n, path)
	} else {
		tag := "!!str"
		if kind.kinds != nil {
			tag = kind.kinds[0]
		}
		kind.decode(sub, &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, path)
	}
	d.problems = append(d.problems, sub.problems...)
	d.doc.pos[path] = Pos{}
	return true
}

// isList marks lists for override.
func (l list[T]) isList() {}

// descend looks for variables inside a mapping the file leaves out.
func (d *decoder) descend(t Type, path string) bool {
	o, ok := t.(object)
	if !ok || !d.anySet(o, path) {
		return false
	}
	o.decode(d, &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1}, path)
	return true
}

// anySet says whether a variable is set for anything in o.
func (d *decoder) anySet(o object, path string) bool {
	for _, k := range o.keys {
		if inner, ok := k.Type.(object); ok && d.anySet(inner, join(path, k.Name)) {
			return true
		}
		if _, _, ok := d.env(join(path, k.Name)); ok {
			return true
		}
	}
	return false
}

// Explain joins problems into one error, one problem a line; nil without problems.
func Explain(problems []Problem) error {
	bad := Bad(problems)
	if len(bad) == 0 {
		return nil
	}
	lines := make([]string, 0, len(bad))
	for _, p := range bad {
		lines = append(lines, p.String())
	}
	if len(lines) == 1 {
		return bad[0]
	}
	return fmt.Errorf("%d problems:\n  %s", len(lines), strings.Join(lines, "\n  "))
}
