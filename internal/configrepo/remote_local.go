package configrepo

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// localUpstream reads another repository's objects on this disk, for
// development: no git process, no worktree, no configuration is read.
type localUpstream struct {
	dir    string
	branch string
	limits Limits
}

func newLocalUpstream(r remote, branch string, l Limits) (upstream, error) {
	dir := r.path
	if info, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
		if !info.IsDir() {
			return nil, permanent("%s is a linked work tree: name the main repository instead", dir)
		}
		dir = filepath.Join(dir, ".git")
	}
	if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
		return nil, permanent("%s is not a git repository", r.path)
	}
	if _, err := os.Stat(filepath.Join(dir, "shallow")); err == nil {
		return nil, permanent("%s is a shallow clone, which cannot prove its history", r.path)
	}
	return &localUpstream{dir: dir, branch: branch, limits: l}, nil
}

func (u *localUpstream) close() {}

func (u *localUpstream) tip(context.Context) (plumbing.Hash, error) {
	o := openObjects(u.dir, false)
	defer o.Close()
	ref, err := storer.ResolveReference(o.git, plumbing.NewBranchReferenceName(u.branch))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return plumbing.ZeroHash, nil
	}
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return ref.Hash(), nil
}

func (u *localUpstream) fetch(_ context.Context, want plumbing.Hash, haves []plumbing.Hash, sink io.Writer) error {
	o := openObjects(u.dir, true)
	defer o.Close()
	return writePack(o, newGraph(), haves, want, u.limits, sink)
}
