package configrepo

import (
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// diffTrees calls visit for every path that differs between two trees, by
// comparing hashes from the root down: what is equal is never read.
func (o *objects) diffTrees(a, b plumbing.Hash, visit func(path string, old, new entry) error) error {
	d := differ{o: o, visit: visit}
	return d.dir(a, b, "", 0)
}

type differ struct {
	o     *objects
	held  nested
	visit func(path string, old, new entry) error
}

// nested counts the bytes of trees that are held while one below them is read.
type nested int64

// hold adds trees, and says how to take them off again.
func (n *nested) hold(trees ...[]entry) (release func(), err error) {
	var size nested
	for _, t := range trees {
		for _, e := range t {
			size += nested(len(e.name)) + 28 // mode, id and what separates them
		}
	}
	if *n += size; *n > nestedBytesMax {
		return nil, permanent("folders that lie in one another have entries of more than the %d bytes allowed", nestedBytesMax)
	}
	return func() { *n -= size }, nil
}

func (d *differ) dir(a, b plumbing.Hash, dir string, depth int) error {
	if a == b {
		return nil
	}
	if depth > treeDepthMax {
		return fmt.Errorf("folder %s lies deeper than %d", oneLine(dir), treeDepthMax)
	}
	was, err := d.o.tree(a)
	if err != nil {
		return err
	}
	is, err := d.o.tree(b)
	if err != nil {
		return err
	}
	release, err := d.held.hold(was, is)
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
		delete(old, e.name)
		if err := d.entry(before, e, dir+e.name, depth); err != nil {
			return err
		}
	}
	for _, e := range was {
		if _, gone := old[e.name]; gone {
			if err := d.entry(e, entry{}, dir+e.name, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry compares what one name means on both sides; a zero entry is absence.
func (d *differ) entry(was, is entry, path string, depth int) error {
	if was.id == is.id && was.mode == is.mode {
		return nil
	}
	var oldTree, newTree plumbing.Hash
	if was.isTree() {
		oldTree = was.id
	}
	if is.isTree() {
		newTree = is.id
	}
	// An empty folder has no leaf to be reported by, so it is reported itself.
	if was.isTree() && was.id == emptyTree || is.isTree() && is.id == emptyTree {
		if err := d.visit(path, was, is); err != nil {
			return err
		}
	}
	if was.isTree() || is.isTree() {
		if err := d.dir(oldTree, newTree, path+"/", depth+1); err != nil {
			return err
		}
	}
	leafWas, leafIs := was, is
	if was.isTree() {
		leafWas = entry{}
	}
	if is.isTree() {
		leafIs = entry{}
	}
	if leafWas == (entry{}) && leafIs == (entry{}) {
		return nil
	}
	return d.visit(path, leafWas, leafIs)
}

// changedPaths lists the paths that differ, sorted.
func (o *objects) changedPaths(a, b plumbing.Hash) ([]string, error) {
	var paths []string
	bytes := 0
	err := o.diffTrees(a, b, func(path string, _, _ entry) error {
		if len(paths) >= pathsMax {
			return fmt.Errorf("more than %d paths changed at once", pathsMax)
		}
		if bytes += len(path); bytes > pathBytesMax {
			return fmt.Errorf("the names of paths changed at once have more than %d bytes", pathBytesMax)
		}
		paths = append(paths, path)
		return nil
	})
	slices.Sort(paths)
	return slices.Compact(paths), err
}

// isSubmodule tells entries whose object belongs to another repository.
func isSubmodule(e entry) bool { return e.mode == filemode.Submodule }
