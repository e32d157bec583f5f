package configrepo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// Tree is the files of one commit.
type Tree interface {
	fs.FS
	io.Closer
}

// treeFS is the files of one commit. Objects never change, so it stays true
// whatever the mirror does meanwhile; it may be used by several goroutines.
type treeFS struct {
	root   plumbing.Hash
	limit  int64 // bytes of one file
	when   time.Time
	reopen func() *objects // after the mirror's files were rewritten
	hurt   func(error)     // told of damage, so that the next Sync repairs
	own    *objects        // holds its packs open until Close, as many files are read one after the other

	mu    sync.Mutex
	o     *objects
	trees map[plumbing.Hash][]entry // decoded folders; bounded
}

const treesKept = 4096

// Close gives back what is held open.
func (t *treeFS) Close() error {
	t.own.Close()
	return nil
}

// Open opens a file or a folder. Symbolic links and submodules are refused.
func (t *treeFS) Open(name string) (fs.File, error) {
	e, err := t.find("open", name)
	if err != nil {
		return nil, err
	}
	if e.isTree() {
		return &openDir{t: t, e: e, name: name}, nil
	}
	data, err := t.content(e)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{Reader: bytes.NewReader(data), info: t.describe(e, int64(len(data)))}, nil
}

// ReadFile gives a file's content.
func (t *treeFS) ReadFile(name string) ([]byte, error) {
	e, err := t.find("read", name)
	if err != nil {
		return nil, err
	}
	data, err := t.content(e)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadDir lists a folder, sorted by name.
func (t *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := t.find("readdir", name)
	if err != nil {
		return nil, err
	}
	list, err := t.list(e)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return list, nil
}

// Stat describes a file, folder, symbolic link or submodule.
func (t *treeFS) Stat(name string) (fs.FileInfo, error) {
	e, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	info, err := t.info(e)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info, nil
}

func (t *treeFS) find(op, name string) (entry, error) {
	if !fs.ValidPath(name) {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	at := entry{name: ".", mode: filemode.Dir, id: t.root}
	if name == "." {
		return at, nil
	}
	for _, part := range strings.Split(name, "/") {
		if !at.isTree() {
			return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		entries, err := t.folder(at.id)
		if err != nil {
			return entry{}, &fs.PathError{Op: op, Path: name, Err: err}
		}
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == part })
		if i < 0 {
			return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		at = entries[i]
	}
	return at, nil
}

func (t *treeFS) folder(id plumbing.Hash) ([]entry, error) {
	t.mu.Lock()
	entries, ok := t.trees[id]
	t.mu.Unlock()
	if ok {
		return entries, nil
	}
	err := t.with(func(o *objects) (err error) {
		entries, err = o.tree(id)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.trees) < treesKept {
		t.trees[id] = entries
	}
	return entries, nil
}

func (t *treeFS) content(e entry) ([]byte, error) {
	switch {
	case e.isTree():
		return nil, errors.New("is a folder")
	case e.mode == filemode.Symlink:
		return nil, errors.New("is a symbolic link, which the config repository may not hold")
	case isSubmodule(e):
		return nil, errors.New("is a submodule, which the config repository may not hold")
	}
	var data []byte
	err := t.with(func(o *objects) (err error) {
		data, err = o.blob(e.id, t.limit)
		return err
	})
	return data, err
}

// with reads through the handle; if that fails for damage, once more through a
// new one, as packs may have been rewritten since; then the damage is real.
func (t *treeFS) with(read func(*objects) error) error {
	t.mu.Lock()
	o := t.o
	t.mu.Unlock()
	err := read(o)
	if err == nil || !damaged(err) {
		return err
	}
	o = t.reopen()
	if err = read(o); err == nil {
		t.mu.Lock()
		t.o = o
		t.mu.Unlock()
	} else if damaged(err) {
		t.hurt(err)
	}
	return err
}

func (t *treeFS) list(e entry) ([]fs.DirEntry, error) {
	if !e.isTree() {
		return nil, errors.New("not a folder")
	}
	entries, err := t.folder(e.id)
	if err != nil {
		return nil, err
	}
	out := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		out[i] = dirEntry{t: t, e: e}
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

func (t *treeFS) describe(e entry, size int64) fileInfo {
	return fileInfo{name: path.Base(e.name), size: size, mode: modeOf(e), when: t.when}
}

func (t *treeFS) info(e entry) (fs.FileInfo, error) {
	i := t.describe(e, 0)
	if !e.isTree() && !isSubmodule(e) {
		err := t.with(func(o *objects) (err error) {
			i.size, err = o.size(e.id)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return i, nil
}

func modeOf(e entry) fs.FileMode {
	switch e.mode {
	case filemode.Dir:
		return fs.ModeDir | 0o555
	case filemode.Executable:
		return 0o555
	case filemode.Symlink:
		return fs.ModeSymlink | 0o777
	case filemode.Submodule:
		return fs.ModeIrregular
	}
	return 0o444
}

type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
	when time.Time
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return i.when }
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }

type dirEntry struct {
	t *treeFS
	e entry
}

func (d dirEntry) Name() string               { return d.e.name }
func (d dirEntry) IsDir() bool                { return d.e.isTree() }
func (d dirEntry) Type() fs.FileMode          { return modeOf(d.e).Type() }
func (d dirEntry) Info() (fs.FileInfo, error) { return d.t.info(d.e) }
func (d dirEntry) String() string             { return fs.FormatDirEntry(d) }

type openFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	t    *treeFS
	e    entry
	name string
	list []fs.DirEntry
	read bool
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.t.info(d.e) }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: fmt.Errorf("is a folder")}
}

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.t.list(d.e)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		d.list, d.read = list, true
	}
	if n <= 0 {
		out := d.list
		d.list = nil
		return out, nil
	}
	if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	out := d.list[:n]
	d.list = d.list[n:]
	return out, nil
}

// damaged tells errors that a fresh copy of the mirror would cure.
func damaged(err error) bool {
	var corrupt *corruptError
	var missing *NotFoundError
	return errors.As(err, &corrupt) || errors.As(err, &missing)
}
