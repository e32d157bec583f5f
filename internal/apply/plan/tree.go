package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Kind is what a path is.
type Kind string

// The kinds. The empty one means that nothing is there.
const (
	None  Kind = ""
	File  Kind = "file"
	Dir   Kind = "dir"
	Link  Kind = "link"
	Other Kind = "other" // a device, socket or pipe
)

// UnmarshalText implements encoding.TextUnmarshaler without a string for each.
func (k *Kind) UnmarshalText(text []byte) error {
	for _, known := range [...]Kind{None, File, Dir, Link, Other} {
		if string(text) == string(known) {
			*k = known
			return nil
		}
	}
	return fmt.Errorf("%.20q is no kind of file", text)
}

// Node is one path of a release or of the host.
type Node struct {
	Kind    Kind
	Mode    uint32 // permission bits with setuid, setgid and sticky: 07777
	UID     int
	GID     int
	Size    int64 // bytes
	MTimeNS int64 // nanoseconds since 1970; in a release 0 means that the file has no time of its own
	SHA256  string
	Target  string // of a link, verbatim
	Leads   Kind   // of a link: the kind of what it leads to, None if that is missing
	// Real is where a link leads: on a host the resolved path, in a release the
	// path in the release, empty where it leads out of it. On a host a link that
	// leads nowhere has the path at which a file would be made, if one can be.
	Real string
}

// Tree is the listing of a release. Paths are relative with slashes; the root
// is ".".
type Tree struct {
	nodes    map[string]*Node
	children map[string][]string
}

// NewTree makes a Tree of nodes by path.
func NewTree(nodes map[string]Node) *Tree {
	t := &Tree{nodes: map[string]*Node{".": {Kind: Dir, Mode: 0o755}}, children: map[string][]string{}}
	for p, n := range nodes {
		t.Add(p, n)
	}
	return t
}

// Add adds a node. Directories above it need not be added.
func (t *Tree) Add(p string, n Node) {
	p = path.Clean(p)
	_, known := t.nodes[p]
	t.nodes[p] = &n
	for !known && p != "." {
		dir, base := parent(p), path.Base(p)
		t.children[dir] = append(t.children[dir], base)
		if _, known = t.nodes[dir]; !known {
			t.nodes[dir] = &Node{Kind: Dir, Mode: 0o755}
		}
		p = dir
	}
}

// Files counts the files and their bytes.
func (t *Tree) Files() (count int, sizeBytes int64) {
	for _, n := range t.nodes {
		if n.Kind == File {
			count++
			sizeBytes += n.Size
		}
	}
	return count, sizeBytes
}

// Lookup returns the node at p after following the links to directories in the
// path above it, and the path it was found at.
func (t *Tree) Lookup(p string) (*Node, string) {
	p = path.Clean(p)
	if p == "." {
		return t.nodes["."], "."
	}
	if n := t.nodes[p]; n != nil && t.nodes[parent(p)].Kind == Dir { // mostly
		return n, p
	}
	at := "."
	parts := strings.Split(p, "/")
	for i, part := range parts {
		at = path.Join(at, part)
		n := t.nodes[at]
		if n == nil {
			break
		}
		if i == len(parts)-1 {
			return n, at
		}
		if n.Kind == Link && n.Leads == Dir && n.Real != "" {
			at = n.Real
		} else if n.Kind != Dir {
			break
		}
	}
	return nowhere, ""
}

// Children returns the sorted names in a directory.
func (t *Tree) Children(dir string) []string {
	names := t.children[path.Clean(dir)]
	if !slices.IsSorted(names) {
		slices.Sort(names)
	}
	return names
}
