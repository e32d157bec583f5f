package sign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Repository writes commits into a repository on this disk without a work tree.
// Not for several goroutines, nor for a repository that others commit to at the
// same moment.
type Repository struct {
	git    *filesystem.Storage
	branch string
}

// Change is one commit to be made.
type Change struct {
	// Files by slash-separated path; nil content removes the file.
	Files map[string][]byte
	// Modes for files that are not plain: 0o755, or fs.ModeSymlink (the
	// content is the target), or fs.ModeIrregular (a submodule; the content
	// is the 40 digits of its commit).
	Modes   map[string]fs.FileMode
	Message string
	// Author as NAME <EMAIL>; default "gitopsd <gitopsd@localhost>".
	Author string
	// When the commit was made; default now, in UTC.
	When time.Time
	// Signer signs it; nil leaves it unsigned.
	Signer Signer
	// Parents by id; nil means the branch's tip, if it has one. The first
	// parent's files are what Files changes.
	Parents []string
	// Aside keeps the branch where it is.
	Aside bool
}

// Init makes a bare repository whose HEAD is branch.
func Init(dir, branch string) (*Repository, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a repository: %w", err)
	}
	git := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRUDefault())
	if err := git.Init(); err != nil {
		return nil, fmt.Errorf("cannot make a repository: %w", err)
	}
	for name, text := range map[string]string{
		"HEAD":   "ref: refs/heads/" + branch + "\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("cannot make a repository: %w", err)
		}
	}
	return &Repository{git: git, branch: branch}, nil
}

// Open opens a bare repository, or the .git of one with a work tree (whose
// files are left alone).
func Open(dir, branch string) (*Repository, error) {
	if info, err := os.Stat(filepath.Join(dir, ".git")); err == nil && info.IsDir() {
		dir = filepath.Join(dir, ".git")
	}
	if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
		return nil, fmt.Errorf("cannot open the repository: %w", err)
	}
	return &Repository{git: filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRUDefault()), branch: branch}, nil
}

// Tip is the branch's commit, "" if it has none.
func (r *Repository) Tip() (string, error) {
	ref, err := storer.ResolveReference(r.git, plumbing.NewBranchReferenceName(r.branch))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read branch %s: %w", r.branch, err)
	}
	return ref.Hash().String(), nil
}

// SetTip moves the branch, forward or not.
func (r *Repository) SetTip(id string) error {
	ref := plumbing.NewHashReference(plumbing.NewBranchReferenceName(r.branch), plumbing.NewHash(id))
	if err := r.git.SetReference(ref); err != nil {
		return fmt.Errorf("cannot move branch %s: %w", r.branch, err)
	}
	return nil
}

// Commit writes the change and gives the new commit's id.
func (r *Repository) Commit(c Change) (string, error) {
	id, err := r.commit(c)
	if err != nil {
		return "", fmt.Errorf("cannot commit: %w", err)
	}
	return id, nil
}

func (r *Repository) commit(c Change) (string, error) {
	parents := c.Parents
	if parents == nil {
		tip, err := r.Tip()
		if err != nil {
			return "", err
		}
		if tip != "" {
			parents = []string{tip}
		}
	}
	base := plumbing.ZeroHash
	if len(parents) > 0 {
		p, err := object.GetCommit(r.git, plumbing.NewHash(parents[0]))
		if err != nil {
			return "", err
		}
		base = p.TreeHash
	}
	tree, err := r.edit(base, c)
	if err != nil {
		return "", err
	}
	raw, err := encode(c, tree, parents)
	if err != nil {
		return "", err
	}
	id, err := r.put(plumbing.CommitObject, raw)
	if err != nil {
		return "", err
	}
	if c.Aside {
		return id.String(), nil
	}
	return id.String(), r.SetTip(id.String())
}

// encode writes the commit object, with the signature where git puts it.
func encode(c Change, tree plumbing.Hash, parents []string) ([]byte, error) {
	if c.Author == "" {
		c.Author = "gitopsd <gitopsd@localhost>"
	}
	if c.When.IsZero() {
		c.When = time.Now()
	}
	var head strings.Builder
	fmt.Fprintf(&head, "tree %s\n", tree)
	for _, p := range parents {
		fmt.Fprintf(&head, "parent %s\n", p)
	}
	stamp := fmt.Sprintf("%s %d +0000", c.Author, c.When.Unix())
	fmt.Fprintf(&head, "author %s\ncommitter %s\n", stamp, stamp)
	body := "\n" + strings.TrimRight(c.Message, "\n") + "\n"
	if c.Signer == nil {
		return []byte(head.String() + body), nil
	}
	armored, err := c.Signer.Sign([]byte(head.String() + body))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(string(armored), "\n"), "\n")
	return []byte(head.String() + "gpgsig " + strings.Join(lines, "\n ") + "\n" + body), nil
}

func (r *Repository) put(t plumbing.ObjectType, data []byte) (plumbing.Hash, error) {
	o := r.git.NewEncodedObject()
	o.SetType(t)
	w, err := o.Writer()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if _, err := w.Write(data); err != nil {
		return plumbing.ZeroHash, err
	}
	if err := w.Close(); err != nil {
		return plumbing.ZeroHash, err
	}
	return r.git.SetEncodedObject(o)
}

// edit applies the files to a tree, folder by folder.
func (r *Repository) edit(base plumbing.Hash, c Change) (plumbing.Hash, error) {
	root := &folder{files: map[string]object.TreeEntry{}, folders: map[string]*folder{}}
	for path, data := range c.Files {
		if !fs.ValidPath(path) || path == "." {
			return plumbing.ZeroHash, fmt.Errorf("%q is not a path in a repository", path)
		}
		parts := strings.Split(path, "/")
		at := root
		for _, p := range parts[:len(parts)-1] {
			if at.folders[p] == nil {
				at.folders[p] = &folder{files: map[string]object.TreeEntry{}, folders: map[string]*folder{}}
			}
			at = at.folders[p]
		}
		e, err := r.file(parts[len(parts)-1], data, c.Modes[path])
		if err != nil {
			return plumbing.ZeroHash, err
		}
		at.files[e.Name] = e
	}
	return r.write(base, root)
}

// folder holds what changes below one folder; a zero hash removes.
type folder struct {
	files   map[string]object.TreeEntry
	folders map[string]*folder
}

func (r *Repository) file(name string, data []byte, mode fs.FileMode) (object.TreeEntry, error) {
	e := object.TreeEntry{Name: name, Mode: filemode.Regular}
	switch {
	case data == nil:
		return e, nil
	case mode&fs.ModeIrregular != 0:
		e.Mode, e.Hash = filemode.Submodule, plumbing.NewHash(string(data))
		return e, nil
	case mode&fs.ModeSymlink != 0:
		e.Mode = filemode.Symlink
	case mode&0o111 != 0:
		e.Mode = filemode.Executable
	}
	var err error
	e.Hash, err = r.put(plumbing.BlobObject, data)
	return e, err
}

func (r *Repository) write(base plumbing.Hash, f *folder) (plumbing.Hash, error) {
	entries := map[string]object.TreeEntry{}
	if !base.IsZero() {
		t, err := object.GetTree(r.git, base)
		if err != nil {
			return base, err
		}
		for _, e := range t.Entries {
			entries[e.Name] = e
		}
	}
	for name, e := range f.files {
		delete(entries, name)
		if !e.Hash.IsZero() {
			entries[name] = e
		}
	}
	for name, sub := range f.folders {
		below := plumbing.ZeroHash
		if e, ok := entries[name]; ok && e.Mode == filemode.Dir {
			below = e.Hash
		}
		id, err := r.write(below, sub)
		if err != nil {
			return base, err
		}
		delete(entries, name)
		if id != emptyTree {
			entries[name] = object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: id}
		}
	}
	return r.put(plumbing.TreeObject, encodeTree(entries))
}

var emptyTree = plumbing.ComputeHash(plumbing.TreeObject, nil)

// encodeTree sorts as git does: folders as if their names ended in a slash.
func encodeTree(entries map[string]object.TreeEntry) []byte {
	list := make([]object.TreeEntry, 0, len(entries))
	for _, e := range entries {
		list = append(list, e)
	}
	key := func(e object.TreeEntry) string {
		if e.Mode == filemode.Dir {
			return e.Name + "/"
		}
		return e.Name
	}
	slices.SortFunc(list, func(a, b object.TreeEntry) int { return strings.Compare(key(a), key(b)) })
	var out []byte
	for _, e := range list {
		out = append(out, fmt.Sprintf("%o %s\x00", uint32(e.Mode), e.Name)...)
		out = append(out, e.Hash[:]...)
	}
	return out
}

// ReadFile gives a file's content at the branch's tip.
func (r *Repository) ReadFile(path string) ([]byte, error) {
	tip, err := r.Tip()
	if err != nil {
		return nil, err
	}
	c, err := object.GetCommit(r.git, plumbing.NewHash(tip))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	f, err := c.File(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	rd, err := f.Reader()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	defer rd.Close()
	return io.ReadAll(rd)
}
