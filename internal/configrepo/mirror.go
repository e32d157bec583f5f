package configrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/go-git/go-git/v5/plumbing"
)

// The mirror is a bare repository that git itself can read:
//
//	Dir/mirror       accepted history, complete
//	Dir/mirror.new   being made; removed at the start of a cycle
//	Dir/mirror.old   for the moment between two renames
//	Dir/ratchet.json see ratchet.go

func (r *Repo) mirrorDir() string { return filepath.Join(r.o.Dir, "mirror") }
func (r *Repo) freshDir() string  { return filepath.Join(r.o.Dir, "mirror.new") }
func (r *Repo) oldDir() string    { return filepath.Join(r.o.Dir, "mirror.old") }

// initMirror makes an empty bare repository, if there is none.
func initMirror(dir, branch string) error {
	for _, d := range []string{packDir(dir), filepath.Join(dir, "refs", "heads")} {
		if err := durable.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	files := map[string]string{
		"HEAD":   "ref: refs/heads/" + branch + "\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[gc]\n\tauto = 0\n",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes what an interrupted cycle left and makes the mirror if missing.
func (r *Repo) tidy() error {
	if _, err := os.Stat(r.mirrorDir()); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(r.oldDir()); err == nil {
			if err := durable.Rename(r.oldDir(), r.mirrorDir()); err != nil {
				return err
			}
		}
	}
	for _, dir := range []string{r.freshDir(), r.oldDir()} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := initMirror(r.mirrorDir(), r.o.Branch); err != nil {
		return err
	}
	return removeLeftovers(packDir(r.mirrorDir()))
}

// removeLeftovers deletes temporary packs, and indexes whose pack never came.
func removeLeftovers(packs string) error {
	list, err := os.ReadDir(packs)
	if err != nil {
		return err
	}
	for _, e := range list {
		name := e.Name()
		stem, isIndex := strings.CutSuffix(name, ".idx")
		left := strings.HasPrefix(name, incomingPrefix) || strings.HasPrefix(name, "tmp_") || durable.IsTemp(name)
		if isIndex && !left {
			_, err := os.Lstat(filepath.Join(packs, stem+".pack"))
			left = errors.Is(err, os.ErrNotExist)
		}
		if left {
			if err := os.Remove(filepath.Join(packs, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// swap puts the fresh mirror into the old one's place.
func (r *Repo) swap() error {
	if err := durable.Rename(r.mirrorDir(), r.oldDir()); err != nil {
		return err
	}
	if err := durable.Rename(r.freshDir(), r.mirrorDir()); err != nil {
		return err
	}
	r.forget()
	return os.RemoveAll(r.oldDir())
}

// setRef records the accepted commit where git looks; for people, and so that
// a `git gc` by hand keeps everything. Nothing here reads it.
func (r *Repo) setRef(dir string, id plumbing.Hash) error {
	path := filepath.Join(dir, "refs", "heads", filepath.FromSlash(r.o.Branch))
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(id.String()+"\n"), 0o600)
}

// compact rewrites a mirror of many small packs as one. go-git's own repacking
// takes a gigabyte; copying what is reachable does not.
func (r *Repo) compact(accepted plumbing.Hash) error {
	list, err := filepath.Glob(filepath.Join(packDir(r.mirrorDir()), "*.pack"))
	if err != nil || len(list) <= r.o.Limits.Packs {
		return err
	}
	if err := initMirror(r.freshDir(), r.o.Branch); err != nil {
		return err
	}
	o := openObjects(r.mirrorDir(), true)
	defer o.Close()
	// What is being copied was within the limits when it came; together it
	// may exceed those of one pack.
	l := Limits{PackBytes: 1 << 40, PackObjects: 1 << 31, ObjectBytes: r.o.Limits.ObjectBytes, InflateBytes: 1 << 42}
	_, err = ingest(context.Background(), r.freshDir(), l, func(w io.Writer) error {
		return writePack(o, r.graph, nil, accepted, l, w)
	})
	if err != nil {
		return fmt.Errorf("cannot rewrite the mirror: %w", err)
	}
	if err := r.setRef(r.freshDir(), accepted); err != nil {
		return err
	}
	return r.swap()
}
