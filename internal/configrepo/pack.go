package configrepo

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
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
	fresh, err := g.reach(o, old, tip)
	if err != nil {
		return err
	}
	w := &lister{o: o, seen: map[plumbing.Hash]bool{}, limit: limit, check: check}
	for id := range fresh {
		if err := w.add(id, plumbing.CommitObject); err != nil {
			return err
		}
		c, err := o.commit(id)
		if err != nil {
			return err
		}
		base := plumbing.ZeroHash
		// Comparing with one parent suffices: what another parent's side
		// brought is either old or some other fresh commit's own change,
		// and listing it twice is caught by seen.
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
	seen  map[plumbing.Hash]bool
	limit int64
	check func(plumbing.Hash, plumbing.ObjectType) error
}

func (w *lister) add(id plumbing.Hash, t plumbing.ObjectType) error {
	if w.seen[id] {
		return nil
	}
	if int64(len(w.seen)) >= w.limit {
		return fmt.Errorf("%w: %d objects", errTooMuch, w.limit)
	}
	w.seen[id] = true
	return w.check(id, t)
}

// tree adds what tree b holds that tree a does not hold in the same place.
func (w *lister) tree(a, b plumbing.Hash, depth int) error {
	if a == b || b == emptyTree || w.seen[b] {
		return nil
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
	old := make(map[string]entry, len(was))
	for _, e := range was {
		old[e.name] = e
	}
	for _, e := range is {
		before := old[e.name]
		switch {
		case isSubmodule(e) || before.id == e.id && before.isTree() == e.isTree():
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
// is a few kilobytes, and searching for deltas costs seconds.
func writePack(o *objects, g *graph, haves []plumbing.Hash, tip plumbing.Hash, l Limits, w io.Writer) error {
	var ids []plumbing.Hash
	var total int64
	err := newObjects(o, g, haves, tip, l.PackObjects, func(id plumbing.Hash, t plumbing.ObjectType) error {
		n, err := o.size(id)
		if err != nil {
			return err
		}
		if n > l.ObjectBytes {
			return permanent("%s %s has %d bytes, more than the %d allowed", t, id, n, l.ObjectBytes)
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
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err = packfile.NewEncoder(w, o.git, false).Encode(ids, 0)
	return err
}
