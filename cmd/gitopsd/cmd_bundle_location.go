package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// locationKeys are the keys of a revision that say where its bundle lies; a revision has one of them.
var locationKeys = []string{"s3Location", "directoryLocation", "httpsLocation"}

// nameKeys are the keys of a location that name the bundle there.
var nameKeys = []string{"key", "path", "url"}

// locationsOf lists the keys of a revision that are locations.
func locationsOf(revision *yaml.Node) (keys []*yaml.Node) {
	for i := 0; i+1 < len(revision.Content); i += 2 {
		if slices.Contains(locationKeys, revision.Content[i].Value) {
			keys = append(keys, revision.Content[i])
		}
	}
	return keys
}

// switchLocation turns the location of a revision into one of another kind, in the place and in the style of the one before. What a block
// lacks afterwards is left to the caller.
func switchLocation(text []byte, revision *yaml.Node, kind string, wanted []field) ([]byte, error) {
	var fields []field
	for _, f := range wanted {
		if f.path[0] == kind {
			fields = append(fields, f)
		}
	}
	old := locationsOf(revision)
	if len(old) == 0 {
		return insertText(text, revision, flowLocation(kind, fields))
	}
	key, value := old[0], lookup(revision, old[0].Value)
	at, err := offsetOf(text, key)
	if err != nil {
		return nil, err
	}
	if len(old) > 1 || !bytes.HasPrefix(text[at:], []byte(key.Value)) || value.Kind != yaml.MappingNode || value.Anchor != "" || len(value.Content) == 0 {
		return nil, fmt.Errorf("line %d: its location is written in a way that cannot be edited safely", key.Line)
	}
	if value.Style&yaml.FlowStyle == 0 {
		edited, err := switchBlock(text, value, fields)
		if err != nil {
			return nil, err
		}
		return splice(edited, at, len(key.Value), kind), nil // the key stands before all that was changed
	}
	open, err := offsetOf(text, value)
	if err != nil {
		return nil, err
	}
	end := flowEnd(text[open:])
	if end < 0 {
		return nil, fmt.Errorf("line %d: its location is written in a way that cannot be edited safely", key.Line)
	}
	return splice(text, at, open+end-at, flowLocation(kind, fields)), nil
}

// flowLocation writes a location on one line.
func flowLocation(kind string, fields []field) string {
	pairs := make([]string, 0, len(fields))
	for _, f := range fields {
		pairs = append(pairs, f.path[1]+": "+plainOrQuoted(f.value))
	}
	return kind + ": {" + strings.Join(pairs, ", ") + "}"
}

// flowEnd is where the mapping in braces that begins text ends; -1 if it holds comments, brackets or quotes that end on another line.
func flowEnd(text []byte) int {
	quote := byte(0)
	for i, c := range text {
		switch {
		case c == '\n' || c == '\\' || c == '#':
			return -1
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case i > 0 && (c == '{' || c == '[' || c == '&' || c == '*'):
			return -1
		case c == '}':
			return i + 1
		}
	}
	return -1
}

// switchBlock takes the lines out of a block that the new kind of location has no use for. The line that names the bundle stays, with the
// new kind's key; comments stay everywhere.
func switchBlock(text []byte, block *yaml.Node, fields []field) ([]byte, error) {
	name := fields[len(fields)-2] // bucket and key, or path; then bundleType
	renamed := false
	for i := len(block.Content) - 2; i >= 0; i -= 2 { // from the end, so that what stands before keeps its place
		key, value := block.Content[i], block.Content[i+1]
		if slices.ContainsFunc(fields, func(f field) bool { return f.path[1] == key.Value && f.path[1] != name.path[1] }) {
			continue
		}
		at, err := offsetOf(text, key)
		if err != nil {
			return nil, err
		}
		if slices.Contains(nameKeys, key.Value) && !renamed {
			if text, err = replaceScalar(text, value, name.value); err != nil {
				return nil, err
			}
			text, renamed = splice(text, at, len(key.Value), name.path[1]), true
			continue
		}
		if text, err = dropPair(text, key, value, at); err != nil {
			return nil, err
		}
	}
	if !renamed {
		return nil, errors.New("its location has no key, path or url")
	}
	return text, nil
}

// dropPair removes a pair that has a line for itself, and the line too unless it ends in a comment.
func dropPair(text []byte, key, value *yaml.Node, at int) ([]byte, error) {
	unsafe := fmt.Errorf("line %d: %s is written in a way that cannot be edited safely", key.Line, key.Value)
	end, length, err := spanOf(text, value)
	if err != nil || value.Line != key.Line {
		return nil, unsafe
	}
	end += length
	line := bytes.LastIndexByte(text[:at], '\n') + 1
	rest, _, _ := strings.Cut(string(text[end:]), "\n")
	switch trimmed := strings.TrimSpace(rest); {
	case strings.TrimSpace(string(text[line:at])) != "":
		return nil, unsafe
	case trimmed == "":
		return splice(text, line, min(end+len(rest)+1, len(text))-line, ""), nil
	case trimmed[0] == '#':
		return splice(text, at, end-at+strings.Index(rest, "#"), ""), nil
	}
	return nil, unsafe
}
