// Package head reads files of the last commit of a work tree on this disk: what an operator has committed, to be compared with what is about to be. Nothing
// is verified, nothing is written, git itself is not needed. What it reads is bounded, file by file and in number.
package head

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// ErrNone says that there is no commit to read: dir is in no work tree, or nothing was committed there yet.
var ErrNone = errors.New("there is no commit")

// Bounds of what is read.
const (
	maxObject = 16 << 20 // bytes of a commit or a folder's list
	maxLink   = 4096     // bytes of a .git file or commondir
)

// Limits bound what Folder returns.
type Limits struct {
	Files int   // at most so many files
	Bytes int64 // of one file
}

// Folder reads the regular files right in folder, slash-separated and relative to dir, as the last commit of the work tree around dir has them, or the commit that
// is back first parents before it; a clone that does not go back so far has no such commit. The files are keyed by folder/NAME; none are there if the commit has no
// such folder. commit is its full id.
func Folder(dir, folder string, back int, l Limits) (files map[string]string, commit string, err error) {
	top, dotGit, err := workTree(dir)
	if err != nil {
		return nil, "", err
	}
	git, err := storage(dotGit)
	if err != nil {
		return nil, "", fmt.Errorf("cannot open repository %s: %w", dotGit, err)
	}
	defer git.Close()
	ref, err := storer.ResolveReference(git, plumbing.HEAD)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, "", ErrNone
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot read HEAD of %s: %w", dotGit, err)
	}
	last, err := ancestor(git, ref.Hash(), back)
	if errors.Is(err, ErrNone) {
		return nil, "", err
	}
	if err == nil {
		files, err = read(git, last, path.Join(top, folder), folder, l)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot read %s of commit %s: %w", folder, ref.Hash(), err)
	}
	return files, last.Hash.String(), nil
}

// ancestor goes back from a commit along first parents.
func ancestor(git *filesystem.Storage, id plumbing.Hash, back int) (*object.Commit, error) {
	for ; ; back-- {
		if err := atMost(git, id, maxObject); err != nil {
			return nil, err
		}
		commit, err := object.GetCommit(git, id)
		if err != nil || back == 0 {
			return commit, err
		}
		if len(commit.ParentHashes) == 0 {
			return nil, ErrNone
		}
		if id = commit.ParentHashes[0]; git.HasEncodedObject(id) != nil {
			return nil, ErrNone // a shallow clone
		}
	}
}

// workTree finds the repository around dir, and where dir is in its work tree.
func workTree(dir string) (below, dotGit string, err error) {
	if dir, err = filepath.Abs(dir); err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", "", err
	}
	for top := dir; ; top = filepath.Dir(top) {
		dotGit = filepath.Join(top, ".git")
		info, err := os.Stat(dotGit)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if top == filepath.Dir(top) {
				return "", "", ErrNone
			}
			continue
		case err != nil:
			return "", "", err
		case info.Mode().IsRegular(): // of a further work tree, or a submodule
			if dotGit, err = gitDir(dotGit); err != nil {
				return "", "", err
			}
		}
		rel, err := filepath.Rel(top, dir)
		return filepath.ToSlash(rel), dotGit, err
	}
}

// gitDir follows a .git that is a file.
func gitDir(file string) (string, error) {
	text, err := readLink(file)
	if err != nil {
		return "", err
	}
	to, ok := strings.CutPrefix(text, "gitdir: ")
	if !ok {
		return "", fmt.Errorf("%s names no gitdir", file)
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(file), to)
	}
	return to, nil
}

// readLink reads a file that holds one path.
func readLink(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLink))
	return strings.TrimSpace(string(text)), err
}

// storage opens the repository; a further work tree has its objects elsewhere.
func storage(dotGit string) (*filesystem.Storage, error) {
	var common billy.Filesystem
	text, err := readLink(filepath.Join(dotGit, "commondir"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case filepath.IsAbs(text):
		common = osfs.New(text)
	default:
		common = osfs.New(filepath.Join(dotGit, text))
	}
	return filesystem.NewStorage(dotgit.NewRepositoryFilesystem(osfs.New(dotGit), common), cache.NewObjectLRUDefault()), nil
}

// read goes down from a commit to the folder at full, and names its files below folder.
func read(git *filesystem.Storage, commit *object.Commit, full, folder string, l Limits) (map[string]string, error) {
	tree, err := readTree(git, commit.TreeHash)
	for part := range strings.SplitSeq(full, "/") {
		if err != nil || tree == nil {
			return nil, err
		}
		entry := find(tree, part)
		if entry == nil || entry.Mode != filemode.Dir {
			return nil, nil
		}
		tree, err = readTree(git, entry.Hash)
	}
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, entry := range tree.Entries {
		if entry.Mode != filemode.Regular && entry.Mode != filemode.Executable {
			continue
		}
		if len(files) == l.Files {
			return nil, fmt.Errorf("it has more than %d files", l.Files)
		}
		name := path.Join(folder, entry.Name)
		if err := atMost(git, entry.Hash, l.Bytes); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if files[name], err = content(git, entry.Hash, l.Bytes); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return files, nil
}

func find(tree *object.Tree, name string) *object.TreeEntry {
	for i := range tree.Entries {
		if tree.Entries[i].Name == name {
			return &tree.Entries[i]
		}
	}
	return nil
}

func readTree(git *filesystem.Storage, id plumbing.Hash) (*object.Tree, error) {
	if err := atMost(git, id, maxObject); err != nil {
		return nil, err
	}
	return object.GetTree(git, id)
}

// atMost refuses an object that is too large before it is read.
func atMost(git *filesystem.Storage, id plumbing.Hash, most int64) error {
	size, err := git.EncodedObjectSize(id)
	if err == nil && size > most {
		err = fmt.Errorf("object %s has %d bytes, more than %d", id, size, most)
	}
	return err
}

func content(git *filesystem.Storage, id plumbing.Hash, most int64) (string, error) {
	blob, err := object.GetBlob(git, id)
	if err != nil {
		return "", err
	}
	r, err := blob.Reader()
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, most))
	return string(text), err
}
