package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// editRevision replaces the revision of a group.yaml. Everything around it keeps its bytes, and so do comments on its own lines unless they
// stand between brackets. The result is parsed again and compared before it is returned.
func editRevision(text []byte, rev revisionBlock) ([]byte, error) {
	wanted := rev.fields()
	for range len(wanted) + 4 { // each field, another kind of location, version, eTag, and once more to see that nothing is left
		revision, err := findRevision(text)
		if err != nil {
			return nil, err
		}
		edited, changed, err := editOne(text, revision, wanted)
		if err != nil {
			return nil, err
		}
		if !changed {
			return text, nil
		}
		text = edited
	}
	return nil, errors.New("its revision is written in a way that cannot be edited safely")
}

// field is one scalar of the revision; path has one or two keys.
type field struct {
	path  []string
	value string
}

func (r revisionBlock) fields() []field {
	fields := []field{{[]string{"revisionType"}, r.RevisionType}}
	add := func(key string, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			fields = append(fields, field{[]string{key, pairs[i]}, pairs[i+1]})
		}
	}
	if l := r.S3Location; l != nil {
		add("s3Location", "bucket", l.Bucket, "key", l.Key, "bundleType", string(l.BundleType))
	}
	if l := r.Directory; l != nil {
		add("directoryLocation", "path", l.Path, "bundleType", string(l.BundleType))
	}
	return append(fields, field{[]string{"digest"}, string(r.Digest)}, field{[]string{"size"}, strconv.FormatInt(r.Size, 10)}, field{[]string{"index"}, string(r.Index)})
}

// findRevision returns the mapping below the top-level key revision.
func findRevision(text []byte) (*yaml.Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("it is no mapping")
	}
	revision := lookup(document.Content[0], "revision")
	if revision == nil || revision.Kind != yaml.MappingNode || len(revision.Content) == 0 {
		return nil, errors.New("it has no revision yet")
	}
	return revision, nil
}

func lookup(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// editOne makes the first change that is still needed, so that positions are always those of the text at hand.
func editOne(text []byte, revision *yaml.Node, wanted []field) (edited []byte, changed bool, err error) {
	for _, f := range wanted {
		parent := revision
		if len(f.path) == 2 {
			if parent = lookup(revision, f.path[0]); parent == nil {
				edited, err = switchLocation(text, revision, f.path[0], wanted)
				return edited, true, err
			}
			if parent.Kind != yaml.MappingNode || len(parent.Content) == 0 {
				return nil, false, fmt.Errorf("line %d: %s is no mapping", parent.Line, f.path[0])
			}
		}
		key := f.path[len(f.path)-1]
		node := lookup(parent, key)
		switch {
		case node == nil:
			edited, err = insertField(text, parent, key, f.value)
			return edited, true, err
		case node.Kind != yaml.ScalarNode:
			return nil, false, fmt.Errorf("line %d: %s is no single value", node.Line, key)
		case node.Value != f.value:
			edited, err = replaceScalar(text, node, f.value)
			return edited, true, err
		}
	}
	return dropStale(text, revision)
}

// dropStale empties the version and eTag of the object that was there before.
func dropStale(text []byte, revision *yaml.Node) ([]byte, bool, error) {
	if stale := locationsOf(revision); len(stale) > 1 {
		return nil, false, fmt.Errorf("its revision has %s and %s: remove the one that does not count", stale[0].Value, stale[1].Value)
	}
	location := lookup(revision, "s3Location")
	if location == nil || location.Kind != yaml.MappingNode {
		return text, false, nil
	}
	for _, key := range []string{"version", "eTag"} {
		if node := lookup(location, key); node != nil && node.Kind == yaml.ScalarNode && node.Value != "" {
			edited, err := replaceScalar(text, node, "")
			return edited, true, err
		}
	}
	return text, false, nil
}

// offsetOf turns a node's position into a byte offset; yaml counts columns in characters.
func offsetOf(text []byte, node *yaml.Node) (int, error) {
	start := 0
	for range node.Line - 1 {
		next := bytes.IndexByte(text[start:], '\n')
		if next < 0 {
			return 0, errors.New("internal error: a position beyond the end")
		}
		start += next + 1
	}
	line, _, _ := strings.Cut(string(text[start:]), "\n")
	characters := []rune(line)
	if node.Column < 1 || node.Column > len(characters)+1 {
		return 0, errors.New("internal error: a position beyond the end of its line")
	}
	return start + len(string(characters[:node.Column-1])), nil
}

// replaceScalar exchanges one scalar that stands on one line.
func replaceScalar(text []byte, node *yaml.Node, value string) ([]byte, error) {
	at, length, err := spanOf(text, node)
	if err != nil {
		return nil, err
	}
	return splice(text, at, length, plainOrQuoted(value)), nil
}

// spanOf finds the bytes of a scalar that stands on one line as its value is written.
func spanOf(text []byte, node *yaml.Node) (at, length int, err error) {
	if at, err = offsetOf(text, node); err != nil {
		return 0, 0, err
	}
	old := node.Value
	switch node.Style {
	case yaml.DoubleQuotedStyle:
		old = `"` + old + `"`
	case yaml.SingleQuotedStyle:
		old = `'` + old + `'`
	}
	if node.Kind != yaml.ScalarNode || node.Anchor != "" || !bytes.HasPrefix(text[at:], []byte(old)) {
		return 0, 0, fmt.Errorf("line %d: this value is written in a way that cannot be edited safely", node.Line)
	}
	return at, len(old), nil
}

func plainOrQuoted(value string) string {
	if _, err := strconv.ParseInt(value, 10, 64); err == nil || strings.HasPrefix(value, "sha256:") || value == "S3" || value == "Directory" {
		return value
	}
	return yamlScalar(value)
}

// insertField adds a key before the mapping's first one.
func insertField(text []byte, mapping *yaml.Node, key, value string) ([]byte, error) {
	return insertText(text, mapping, key+": "+plainOrQuoted(value))
}

// insertText adds an entry before the mapping's first one, in the mapping's own style.
func insertText(text []byte, mapping *yaml.Node, entry string) ([]byte, error) {
	at, err := offsetOf(text, mapping.Content[0])
	if err != nil {
		return nil, err
	}
	if mapping.Style&yaml.FlowStyle != 0 {
		return splice(text, at, 0, entry+", "), nil
	}
	return splice(text, at, 0, entry+"\n"+strings.Repeat(" ", mapping.Content[0].Column-1)), nil
}

func splice(text []byte, at, remove int, insert string) []byte {
	out := make([]byte, 0, len(text)+len(insert))
	out = append(out, text[:at]...)
	out = append(out, insert...)
	return append(out, text[at+remove:]...)
}
