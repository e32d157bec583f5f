// Package strict reads gitopsd's YAML files without guessing.
//
// A file is described once by a table of keys (Object, List, Map and the scalar types). The table decodes the file, bound to the Go values it fills, and the
// same table prints the file's JSON Schema, so that neither can drift from the other. Decoding goes over yaml nodes and collects every Problem with line
// and column instead of ending at the first: unknown keys (with what was probably meant), duplicate keys, missing keys, wrong types, values out of range,
// aliases, anchors, merge keys, tags, second documents. Scalars are never converted on the way: the release 1.10 stays the text "1.10".
//
// Input is bounded before it is parsed (MaxBytes) and while it is (MaxDepth, MaxNodes, MaxProblems).
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Bounds of one file.
const (
	MaxBytes    = 256 << 10 // bytes of one file
	MaxDepth    = 24        // lists and mappings inside one another
	MaxNodes    = 50_000    // keys and values of one file
	MaxProblems = 100       // problems reported of one file; the rest is counted
)

// Problem is one thing wrong with a file.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line"`   // from 1; 0 when the whole file or folder is meant
	Column     int    `json:"column"` // from 1; 0 with Line 0
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"` // what to do, as a sentence
	Warning    bool   `json:"warning,omitempty"`    // worth saying, but the file can be used
}

// String gives the problem in the form FILE:LINE:COLUMN: MESSAGE (SUGGESTION).
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(p.Message)
	if p.Suggestion != "" {
		b.WriteString(" (" + p.Suggestion + ")")
	}
	return b.String()
}

// Error makes a Problem an error.
func (p Problem) Error() string { return p.String() }

// Bad returns the problems that are not warnings.
func Bad(problems []Problem) []Problem {
	var bad []Problem
	for _, p := range problems {
		if !p.Warning {
			bad = append(bad, p)
		}
	}
	return bad
}

// Pos is a place in a file, counted from 1.
type Pos struct{ Line, Column int }

// Doc is a decoded file: it knows where each value stood.
type Doc struct {
	File  string
	pos   map[string]Pos
	wrong map[string]bool
}

// Mistyped says whether the value at path was of a kind its key does not take, which has been reported.
func (d *Doc) Mistyped(path string) bool { return d.wrong[path] }

// Has says whether the file had a value at path (`targets.hosts[2]`).
func (d *Doc) Has(path string) bool {
	_, ok := d.pos[path]
	return ok
}

// At gives the place of the value at path, or of the nearest value around it.
func (d *Doc) At(path string) Pos {
	for {
		if pos, ok := d.pos[path]; ok {
			return pos
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	if pos, ok := d.pos[""]; ok {
		return pos
	}
	return Pos{1, 1}
}

// Problem makes a Problem of the value at path.
func (d *Doc) Problem(path, suggestion, format string, args ...any) Problem {
	pos := d.At(path)
	return Problem{File: d.File, Line: pos.Line, Column: pos.Column, Message: fmt.Sprintf(format, args...), Suggestion: suggestion}
}

// Type is one kind of value: what it accepts, where it puts it, and its JSON Schema.
type Type interface {
	decode(d *decoder, n *yaml.Node, path string)
	schema() map[string]any
}

// decoder collects the problems and places of one file.
type decoder struct {
	doc      *Doc
	problems []Problem
	dropped  int
	nodes    int
	env      Env
}

// Decode reads src, the content of file, into what t is bound to. The values are complete only when no problem is returned; Doc is never nil.
func Decode(file string, src []byte, t Type) (*Doc, []Problem) {
	return DecodeEnv(file, src, t, nil)
}

// DecodeEnv is Decode with an environment whose variables beat the file: see Env.
func DecodeEnv(file string, src []byte, t Type, env Env) (*Doc, []Problem) {
	d := &decoder{doc: &Doc{File: file, pos: map[string]Pos{}}, env: env}
	if root := d.parse(src); root != nil && d.scan(root, 0) {
		t.decode(d, root, "")
	}
	if d.dropped > 0 {
		d.problems = append(d.problems, Problem{File: file, Message: fmt.Sprintf("%d more problems", d.dropped), Suggestion: "mend those above first"})
	}
	return d.doc, d.problems
}

// parse turns the bytes into the only document's root node, or returns nil after saying why not.
func (d *decoder) parse(src []byte) *yaml.Node {
	if len(src) > MaxBytes {
		d.addAt(Pos{}, "", "the file has %d bytes, more than the %d allowed", len(src), MaxBytes)
		return nil
	}
	if i := invalidUTF8(src); i >= 0 {
		d.addAt(placeOf(src, i), "save it as UTF-8", "the file is not UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		d.addAt(Pos{1, 1}, "", "the file is empty")
		return nil
	} else if err != nil {
		d.syntax(err)
		return nil
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		d.addAt(Pos{max(second.Line, 1), max(second.Column, 1)}, "put it into a file of its own", "a second document begins here, and a file holds one")
		return nil
	case !errors.Is(err, io.EOF):
		d.syntax(err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		d.addAt(Pos{1, 1}, "", "the file holds no document")
		return nil
	}
	return doc.Content[0]
}

// syntax reports what the YAML parser could not read.
func (d *decoder) syntax(err error) {
	var load *yaml.LoadError
	if errors.As(err, &load) {
		message, suggestion := load.Message, ""
		if strings.Contains(message, "cannot start any token") {
			suggestion = "indent with spaces, and put quotes round text that begins with a special character"
		}
		d.addAt(Pos{max(load.Mark.Line, 1), max(load.Mark.Column, 1)}, suggestion, "not YAML: %s", message)
		return
	}
	d.addAt(Pos{1, 1}, "", "not YAML: %v", err)
}

// scan refuses, in the whole tree, what no key table may allow, and says whether the tree can be decoded at all.
func (d *decoder) scan(n *yaml.Node, depth int) bool {
	d.nodes++
	if depth > MaxDepth {
		d.add(n, "", "nested deeper than %d", MaxDepth)
		return false
	}
	if d.nodes > MaxNodes {
		d.add(n, "", "more than %d values in one file", MaxNodes)
		return false
	}
	ok := true
	if n.Anchor != "" {
		d.add(n, "write the value out where it is meant", "anchors are not allowed: &%s", n.Anchor)
		ok = false
	}
	if n.Kind == yaml.AliasNode {
		d.add(n, "write the value out where it is meant", "aliases are not allowed: *%s", n.Value)
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.add(n, "remove it; write text in quotes", "tags are not allowed: %s", n.Tag)
		ok = false
	}
	for _, child := range n.Content {
		if !d.scan(child, depth+1) {
			ok = false
			if d.nodes > MaxNodes {
				return false
			}
		}
	}
	return ok
}

// add reports a problem at n.
func (d *decoder) add(n *yaml.Node, suggestion, format string, args ...any) {
	d.addAt(Pos{n.Line, n.Column}, suggestion, format, args...)
}

func (d *decoder) addAt(pos Pos, suggestion, format string, args ...any) {
	if len(d.problems) >= MaxProblems {
		d.dropped++
		return
	}
	d.problems = append(d.problems, Problem{File: d.doc.File, Line: pos.Line, Column: pos.Column, Message: fmt.Sprintf(format, args...), Suggestion: suggestion})
}

// note remembers where path stood.
func (d *decoder) note(n *yaml.Node, path string) {
	d.doc.pos[path] = Pos{n.Line, n.Column}
}

// want reports that n is not of the kind its key asks for.
func (d *decoder) want(n *yaml.Node, path, what, suggestion string) {
	if d.doc.wrong == nil {
		d.doc.wrong = map[string]bool{}
	}
	d.doc.wrong[path] = true
	d.add(n, suggestion, "%swant %s, got %s", prefix(path), what, kindOf(n))
}

// prefix names the value a message is about.
func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

// kindOf names a node as a person would.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.ShortTag() == "!!null" {
		return "nothing"
	}
	return quote(n.Value)
}

// quote shortens and quotes text for a message.
func quote(s string) string {
	const longest = 60
	if utf8.RuneCountInString(s) > longest {
		s = string([]rune(s)[:longest]) + "..."
	}
	return fmt.Sprintf("%q", s)
}

// invalidUTF8 gives the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(src []byte) int {
	for i := 0; i < len(src); {
		r, size := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
	return -1
}

// placeOf turns an offset into line and column.
func placeOf(src []byte, offset int) Pos {
	before := src[:offset]
	return Pos{bytes.Count(before, []byte("\n")) + 1, offset - bytes.LastIndexByte(before, '\n')}
}
