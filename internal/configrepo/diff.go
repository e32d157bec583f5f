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
	return o.diffDir(a, b, "", 0, visit)
}

func (o *objects) diffDir(a, b plumbing.Hash, dir string, depth int, visit func(string, entry, entry) error) error {
	if a == b {
		return nil
	}
	if depth > treeDepthMax {
		return fmt.Errorf("folder %s lies deeper than %d", dir, treeDepthMax)
	}
	was, err := o.tree(a)
	if err != nil {
		return err
	}
	is, err := o.tree(b)
	if err != nil {
		return err
	}
	old := make(map[string]entry, len(was))
	for _, e := range was {
		old[e.name] = e
	}
	for _, e := range is {
		before := old[e.name]
		delete(old, e.name)
		if err := o.diffEntry(before, e, dir+e.name, depth, visit); err != nil {
			return err
		}
	}
	for _, e := range was {
		if _, gone := old[e.name]; gone {
			if err := o.diffEntry(e, entry{}, dir+e.name, depth, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// diffEntry compares what one name means on both sides; a zero entry is absence.
func (o *objects) diffEntry(was, is entry, path string, depth int, visit func(string, entry, entry) error) error {
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
		if err := visit(path, was, is); err != nil {
			return err
		}
	}
	if was.isTree() || is.isTree() {
		if err := o.diffDir(oldTree, newTree, path+"/", depth+1, visit); err != nil {
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
	return visit(path, leafWas, leafIs)
}

// changedPaths lists the paths that differ, sorted.
func (o *objects) changedPaths(a, b plumbing.Hash) ([]string, error) {
	var paths []string
	err := o.diffTrees(a, b, func(path string, _, _ entry) error {
		if len(paths) >= pathsMax {
			return fmt.Errorf("more than %d paths changed at once", pathsMax)
		}
		paths = append(paths, path)
		return nil
	})
	slices.Sort(paths)
	return slices.Compact(paths), err
}

// isSubmodule tells entries whose object belongs to another repository.
func isSubmodule(e entry) bool { return e.mode == filemode.Submodule }
