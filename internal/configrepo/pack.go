package configrepo

import (
	"bufio"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/hash"
)

var errTooMuch = errors.New("more than a pack may hold")

// newObjects lists everything reachable from tip and not from haves: commits,
// and by comparing hashes with each commit's parents, their trees and blobs.
// A receiver that has haves completely then has tip completely, so that later
// fetches may build on any of it. check is called once for each object.
func newObjects(o *objects, g *graph, haves []plumbing.Hash, tip plumbing.Hash, limit int64, check func(id plumbing.Hash, t plumbing.ObjectType) error) error {
	known := slices.DeleteFunc(slices.Clone(haves), func(h plumbing.Hash) bool { return !o.has(h) })
	old, err := g.reach(o, nil, known...)
	if err != nil {
		return err
	}
	fresh, err := g.upwards(o, old, tip)
	if err != nil {
		return err
	}
	w := &lister{o: o, seen: map[plumbing.Hash]plumbing.ObjectType{}, limit: limit, check: check}
	for _, id := range fresh {
		if err := w.add(id, plumbing.CommitObject); err != nil {
			return err
		}
		c, err := o.commit(id)
		if err != nil {
			return err
		}
		base := plumbing.ZeroHash
		// Comparing with the first parent suffices only upwards: that parent is
		// old or was listed before, so all of its tree is had or listed. In any
		// other order a tree that a revert brings back may be seen first beside
		// one that shares parts with it, and nobody lists these.
		if len(c.parents) > 0 {
			p, err := o.commit(c.parents[0])
			if err != nil {
				return err
			}
			base = p.tree
		}
		if err := w.tree(base, c.tree, 0); err != nil {
			return err
		}
	}
	return nil
}

type lister struct {
	o     *objects
	seen  map[plumbing.Hash]plumbing.ObjectType
	held  nested
	limit int64
	check func(plumbing.Hash, plumbing.ObjectType) error
}

func (w *lister) add(id plumbing.Hash, t plumbing.ObjectType) error {
	if was, ok := w.seen[id]; ok {
		return w.same(id, was, t)
	}
	if int64(len(w.seen)) >= w.limit {
		return fmt.Errorf("%w: %d objects", errTooMuch, w.limit)
	}
	w.seen[id] = t
	return w.check(id, t)
}

// same refuses what is named as something that it was not before: a folder that was
// listed as a file would be taken for one whose content is listed.
func (w *lister) same(id plumbing.Hash, was, is plumbing.ObjectType) error {
	if was != is {
		return permanent("object %s is named as a %s and as a %s", id, was, is)
	}
	return nil
}

// tree adds what tree b holds that tree a does not hold in the same place.
func (w *lister) tree(a, b plumbing.Hash, depth int) error {
	if a == b || b == emptyTree {
		return nil
	}
	if was, ok := w.seen[b]; ok {
		return w.same(b, was, plumbing.TreeObject)
	}
	if depth > treeDepthMax {
		return fmt.Errorf("folders lie deeper than %d", treeDepthMax)
	}
	if err := w.add(b, plumbing.TreeObject); err != nil {
		return err
	}
	was, err := w.o.tree(a)
	if err != nil {
		return err
	}
	is, err := w.o.tree(b)
	if err != nil {
		return err
	}
	release, err := w.held.hold(was, is)
	if err != nil {
		return err
	}
	defer release()
	old := make(map[string]entry, len(was))
	for _, e := range was {
		old[e.name] = e
	}
	for _, e := range is {
		before := old[e.name]
		switch {
		case isSubmodule(e) || before.id == e.id && before.isTree() == e.isTree() && !isSubmodule(before):
		case e.isTree():
			from := plumbing.ZeroHash
			if before.isTree() {
				from = before.id
			}
			err = w.tree(from, e.id, depth+1)
		default:
			err = w.add(e.id, plumbing.BlobObject)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writePack encodes everything between haves and tip, without deltas: a commit
// is a few kilobytes, and searching for deltas costs seconds. Objects pass one by
// one. Whether they are within the limits is known before the first byte.
func writePack(o *objects, g *graph, haves []plumbing.Hash, tip plumbing.Hash, l Limits, w io.Writer) error {
	var ids []plumbing.Hash
	var total int64
	err := newObjects(o, g, haves, tip, l.PackObjects, func(id plumbing.Hash, t plumbing.ObjectType) error {
		n, err := o.size(id)
		if err != nil {
			return err
		}
		if n > l.ObjectBytes {
			return tooLarge(t.String(), id, n, l.ObjectBytes)
		}
		if total += n; total > l.InflateBytes {
			return fmt.Errorf("%w: %d bytes", errTooMuch, l.InflateBytes)
		}
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return err
	}
	if total > l.PackBytes {
		// It may still fit when compressed; a peer shall not be sent 256 MiB to find out.
		if err := encodePack(o, ids, l, &cappedWriter{w: io.Discard, limit: l.PackBytes}); err != nil {
			return err
		}
	}
	return encodePack(o, ids, l, w)
}

// encodePack writes a pack of these objects. go-git's encoder would first hold
// all of them.
func encodePack(o *objects, ids []plumbing.Hash, l Limits, w io.Writer) error {
	sum := hash.New(hash.CryptoType)
	buf := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(ids)))
	if _, err := buf.Write(head); err != nil {
		return err
	}
	z := zlib.NewWriter(buf)
	for _, id := range ids {
		err := o.stream(id, l.ObjectBytes, func(t plumbing.ObjectType, n int64, r io.Reader) error {
			if _, err := buf.Write(entryHead(t, n)); err != nil {
				return err
			}
			z.Reset(buf)
			if _, err := io.Copy(z, r); err != nil {
				return err
			}
			return z.Close()
		})
		if err != nil {
			return err
		}
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// entryHead is what stands before an entry's compressed bytes: type and size.
func entryHead(t plumbing.ObjectType, size int64) []byte {
	b := byte(t)<<4 | byte(size&15)
	var head []byte
	for size >>= 4; size > 0; size >>= 7 {
		head = append(head, b|0x80)
		b = byte(size & 0x7f)
	}
	return append(head, b)
}

// cappedWriter refuses to pass more than its limit.
type cappedWriter struct {
	w        io.Writer
	n, limit int64
}

func (c *cappedWriter) Write(p []byte) (int, error) {
	if c.n+int64(len(p)) > c.limit {
		return 0, fmt.Errorf("%w: %d bytes compressed", errTooMuch, c.limit)
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
