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

// listingFile lists every path of a release in the order of plan.LessPath, with
// the digests of its files.
const listingFile = "files.json"

type listingHeader struct {
	Version int `json:"version"`
}

type listedNode struct {
	Path    string    `json:"path"`
	Node    plan.Node `json:"node"`
	CTimeNS int64     `json:"ctimeNs"` // a file whose ctime and size are unchanged has the digest listed
}

func (n listedNode) plain() listedNode {
	n.Path, n.Node.Target, n.Node.Real = plain(n.Path), plain(n.Node.Target), plain(n.Node.Real)
	return n
}

// knownListing reads a listing beside a walk of the same tree.
type knownListing struct {
	batches chan []listedNode
	quit    chan struct{}
	done    chan error
	batch   []listedNode
}

// openListing begins to read a listing, in its own goroutine until close.
func openListing(file string) (*knownListing, error) {
	var head listingHeader
	r, err := openRecords(file, stateVersion, &head)
	if err != nil {
		return nil, err
	}
	k := &knownListing{batches: make(chan []listedNode, 2), quit: make(chan struct{}), done: make(chan error, 1)}
	go k.read(r)
	return k, nil
}

func (k *knownListing) read(r *recordReader) {
	for more := true; more; {
		batch := make([]listedNode, 0, 128)
		for len(batch) < cap(batch) && more {
			var n listedNode
			if more = r.next(&n); more {
				n.Path = verbatim(n.Path)
				batch = append(batch, n)
			}
		}
		select {
		case k.batches <- batch:
		case <-k.quit:
			k.done <- r.file.Close()
			return
		}
	}
	err := r.close()
	close(k.batches)
	k.done <- err
}

// find returns what is listed for a path, nil if it is not. Paths are asked for
// in their order.
func (k *knownListing) find(p string) *listedNode {
	for {
		for len(k.batch) > 0 && plan.LessPath(k.batch[0].Path, p) {
			k.batch = k.batch[1:]
		}
		if len(k.batch) > 0 {
			if k.batch[0].Path == p {
				return &k.batch[0]
			}
			return nil
		}
		var ok bool
		if k.batch, ok = <-k.batches; !ok {
			return nil
		}
	}
}

// close ends reading; the error is for a listing that is damaged as far as it was read.
func (k *knownListing) close() error {
	close(k.quit)
	return <-k.done
}

// listRelease calls each with every path of the tree at dir, in order, and the
// digest of every file. That of a file unchanged since it was listed is taken
// from known, which may be nil.
func listRelease(ctx context.Context, dir string, known *knownListing, each func(listedNode) error) error {
	buf := make([]byte, 128<<10)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == dir {
			return err
		}
		node, ctime, err := statNode(path)
		if err != nil {
			return err
		}
		n := listedNode{Path: path[len(dir)+1:], Node: node, CTimeNS: ctime}
		switch node.Kind {
		case plan.Link:
			n.Node.Leads, n.Node.Real = leadsInside(dir, path)
		case plan.File:
			if n.Node.SHA256 = known.digest(&n); n.Node.SHA256 == "" {
				n.Node.SHA256, err = hashFile(path, buf)
			}
		}
		if err != nil {
			return err
		}
		return each(n)
	})
	if err != nil {
		return fmt.Errorf("cannot list release: %w", err)
	}
	return nil
}

// digest returns the digest listed for a file that is unchanged, "" for any other.
func (k *knownListing) digest(n *listedNode) string {
	if k == nil {
		return ""
	}
	had := k.find(n.Path)
	if had == nil || had.CTimeNS != n.CTimeNS || had.Node.Size != n.Node.Size || had.Node.MTimeNS != n.Node.MTimeNS {
		return ""
	}
	return had.Node.SHA256
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
