package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// listing is files.json: every path of a release with the digests of its files.
type listing struct {
	Version int          `json:"version"`
	Nodes   []listedNode `json:"nodes"`
}

type listedNode struct {
	Path    []byte    `json:"path"` // names need not be UTF-8
	Node    plan.Node `json:"node"`
	CTimeNS int64     `json:"ctimeNs"` // a file whose ctime and size are unchanged has the digest listed
}

// listRelease lists the tree at dir, without the digests of its files.
func listRelease(ctx context.Context, dir string) (*listing, error) {
	out := &listing{Version: stateVersion}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		node, ctime, err := statNode(path)
		if err != nil {
			return err
		}
		if node.Kind == plan.Link {
			node.Leads, node.Real = leadsInside(dir, path)
		}
		out.Nodes = append(out.Nodes, listedNode{Path: []byte(rel), Node: node, CTimeNS: ctime})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list release: %w", err)
	}
	return out, nil
}

// digest adds the digests of the files below dir. Those of files unchanged
// since before are taken from there.
func (l *listing) digest(ctx context.Context, dir string, before *listing) error {
	known := make(map[string]*listedNode, len(before.Nodes))
	for i := range before.Nodes {
		known[string(before.Nodes[i].Path)] = &before.Nodes[i]
	}
	buf := make([]byte, 256<<10)
	for i := range l.Nodes {
		n := &l.Nodes[i]
		if n.Node.Kind != plan.File {
			continue
		}
		had := known[string(n.Path)]
		if had != nil && had.CTimeNS == n.CTimeNS && had.Node.Size == n.Node.Size && had.Node.MTimeNS == n.Node.MTimeNS {
			n.Node.SHA256 = had.Node.SHA256
			continue
		}
		err := ctx.Err()
		if err == nil {
			n.Node.SHA256, err = hashFile(filepath.Join(dir, string(n.Path)), buf)
		}
		if err != nil {
			return fmt.Errorf("cannot list release: %w", err)
		}
	}
	return nil
}

// tree gives the listing to the planner: files that came from git, and all of a
// bundle that carries no times, have none.
func (l *listing) tree(info *releaseInfo) *plan.Tree {
	timeless := map[string]bool{}
	for _, p := range info.Overlay {
		timeless[p] = true
	}
	nodes := make(map[string]plan.Node, len(l.Nodes))
	for _, n := range l.Nodes {
		if info.Timeless || timeless[string(n.Path)] {
			n.Node.MTimeNS = 0
		}
		nodes[string(n.Path)] = n.Node
	}
	return plan.NewTree(nodes)
}

// statNode describes a path without following a link.
func statNode(path string) (plan.Node, int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return plan.Node{}, 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := plan.Node{Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid), MTimeNS: st.Mtim.Nano()}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Kind, n.Size = plan.File, st.Size
	case unix.S_IFDIR:
		n.Kind = plan.Dir
	case unix.S_IFLNK:
		n.Kind = plan.Link
		target, err := os.Readlink(path)
		if err != nil {
			return n, 0, err
		}
		n.Target = target
	default:
		n.Kind = plan.Other
	}
	return n, st.Ctim.Nano(), nil
}

// leads tells what a link leads to and where that is.
func leads(path string) (plan.Kind, string) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return plan.None, ""
	}
	n, _, err := statNode(real)
	if err != nil {
		return plan.None, ""
	}
	return n.Kind, real
}

// leadsInside is like leads, with the place relative to the release in dir, and
// none if it is outside.
func leadsInside(dir, path string) (plan.Kind, string) {
	kind, real := leads(path)
	base, err := filepath.EvalSymlinks(dir)
	if kind == plan.None || err != nil {
		return kind, ""
	}
	rel, err := filepath.Rel(base, real)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return kind, ""
	}
	return kind, rel
}

// hashFile gives the sha256 of a file in hex; buf is any buffer. It makes the
// system calls itself, for releases have many small files.
func hashFile(path string, buf []byte) (string, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	h := sha256.New()
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		h.Write(buf[:n])
	}
}
