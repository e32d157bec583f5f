package plan

import (
	"path"
	"sort"
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
	// path in the release, empty where it leads out of it.
	Real string
}

// Tree is the listing of a release. Paths are relative with slashes; the root
// is ".".
type Tree struct {
	nodes    map[string]Node
	children map[string][]string
}

// NewTree makes a Tree of nodes by path. Directories above a node need not be
// listed.
func NewTree(nodes map[string]Node) *Tree {
	t := &Tree{nodes: make(map[string]Node, len(nodes)+1), children: map[string][]string{}}
	t.nodes["."] = Node{Kind: Dir, Mode: 0o755}
	for p, n := range nodes {
		p = path.Clean(p)
		_, known := t.nodes[p]
		t.nodes[p] = n
		for !known && p != "." {
			dir, base := path.Split(p)
			dir = path.Clean(dir)
			t.children[dir] = append(t.children[dir], base)
			if _, known = t.nodes[dir]; !known {
				t.nodes[dir] = Node{Kind: Dir, Mode: 0o755}
			}
			p = dir
		}
	}
	for _, c := range t.children {
		sort.Strings(c)
	}
	return t
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
func (t *Tree) Lookup(p string) (Node, string) {
	p = path.Clean(p)
	if p == "." {
		return t.nodes["."], "."
	}
	at := "."
	parts := strings.Split(p, "/")
	for i, part := range parts {
		at = path.Join(at, part)
		n := t.nodes[at]
		if i == len(parts)-1 {
			return n, at
		}
		if n.Kind == Link && n.Leads == Dir && n.Real != "" {
			at = n.Real
		} else if n.Kind != Dir {
			break
		}
	}
	return Node{}, ""
}

// Children returns the sorted names in a directory.
func (t *Tree) Children(dir string) []string { return t.children[path.Clean(dir)] }
