package apply

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// staging builds one unit. Whoever owns the directory around a destination may
// rename what is built there and put a link in its place, so that everything is
// made below open directories, one name at a time, and gets its attributes by its
// descriptor. What root builds stays closed to others until it is complete.
type staging struct {
	unit   *plan.Unit
	parent *openDir
	base   string   // of unit.Stage
	top    *openDir // nil if the unit is a single file or link
	mode   uint32   // that the top would have been made with
	chain  chain    // for the one who adds items

	users  atomic.Int32 // files on their way, and who adds items
	failed atomic.Bool
}

func newStaging(u *plan.Unit, parent *openDir) *staging {
	s := &staging{unit: u, parent: parent.hold(), base: filepath.Base(u.Stage)}
	s.users.Store(1)
	return s
}

// rel is an item's path below the top, "" for the top itself.
func (s *staging) rel(item *plan.Entry) string {
	return strings.TrimPrefix(item.Path, s.unit.Items[0].Path)
}

// stagedFile is a file on its way.
type stagedFile struct {
	s    *staging
	dir  *openDir
	base string
	item *plan.Entry
}

// write makes the file, unless it is to be skipped.
func (f stagedFile) write(archive string, buf []byte, skip bool) (err error) {
	if !skip {
		from := filepath.Join(archive, filepath.FromSlash(f.item.Source))
		err = copyFile(from, f.dir.fd, f.base, buf, func(fd int) error {
			if err := setAttr(fd, f.item.Attr); err != nil {
				return err
			}
			return setTime(fd, f.item.MTimeNS)
		})
	}
	f.dir.done()
	if err != nil {
		err = fmt.Errorf("cannot install %s: %w", f.item.Path, err)
	}
	if skip || err != nil {
		f.s.failed.Store(true)
	}
	return cmp.Or(err, f.s.done())
}

// add makes a directory or link, or hands out a file.
func (s *staging) add(item *plan.Entry, files chan<- stagedFile) error {
	dir, base := s.parent, s.base
	if rel := s.rel(item); rel != "" {
		var err error
		if dir, err = s.chain.open(path.Dir(rel)); err != nil {
			return err
		}
		base = path.Base(rel)
	} else if item.Kind == plan.Dir {
		return s.begin(item)
	}
	switch item.Kind {
	case plan.Dir:
		return mkdir(dir.fd, base, makingMode(item))
	case plan.Link:
		if err := redo(func() error { return unix.Symlinkat(item.Target, dir.fd, base) }); err != nil {
			return &fs.PathError{Op: "symlink", Path: base, Err: err}
		}
		return nil
	}
	s.users.Add(1)
	files <- stagedFile{s: s, dir: dir.hold(), base: base, item: item}
	return nil
}

// makingMode is what a directory is made with: one whose mode the plan tells is
// closed until it has it.
func makingMode(item *plan.Entry) uint32 {
	if item.Attr.Inherit {
		return 0o777
	}
	return 0o700
}

// begin makes the top. Root makes it closed, finds out which mode it would have
// had, and gives it that in the end; others could lose its setgid bit by that.
func (s *staging) begin(item *plan.Entry) error {
	closed := item.Attr.Inherit && os.Geteuid() == 0
	mode := makingMode(item)
	if closed {
		mode = 0o700
	}
	if err := mkdir(s.parent.fd, s.base, mode); err != nil {
		return err
	}
	fd, err := openPlain(s.parent.fd, s.base)
	if err != nil {
		return err
	}
	s.top = newOpenDir(fd)
	s.chain = newChain(s.top)
	made, err := s.own()
	if closed {
		s.mode = made
	}
	return err
}

// own wants the top to be what was just made: empty, and of the user to whom
// belongs what is made in it, on some file systems always another one. It returns
// the mode that a directory gets there. The top's own mode tells nothing, as some
// file systems have but one.
func (s *staging) own() (mode uint32, err error) {
	list, err := namesIn(s.top.fd, 1)
	if err != nil {
		return 0, err
	}
	if len(list) > 0 {
		return 0, s.replaced()
	}
	if err := mkdir(s.top.fd, s.base, 0o777); err != nil {
		return 0, err
	}
	var top, probe unix.Stat_t
	err = cmp.Or(unix.Fstat(s.top.fd, &top), unix.Fstatat(s.top.fd, s.base, &probe, unix.AT_SYMLINK_NOFOLLOW), unix.Unlinkat(s.top.fd, s.base, unix.AT_REMOVEDIR))
	if err != nil {
		return 0, &fs.PathError{Op: "try", Path: s.unit.Stage, Err: err}
	}
	if top.Uid != probe.Uid {
		return 0, s.replaced()
	}
	return probe.Mode & 0o7777, nil
}

func (s *staging) replaced() error {
	return fmt.Errorf("something else was put in the place of %s while it was filled", s.unit.Stage)
}

// done is called by every user once; the last one completes the directories.
func (s *staging) done() error {
	if s.users.Add(-1) > 0 {
		return nil
	}
	s.chain.close()
	defer s.top.done()
	defer s.parent.done()
	if s.failed.Load() || s.top == nil {
		return nil
	}
	return s.complete()
}

// complete gives the directories their attributes, inner ones first.
func (s *staging) complete() error {
	dirs := newChain(s.top)
	defer dirs.close()
	for j := len(s.unit.Items) - 1; j > 0; j-- {
		item := &s.unit.Items[j]
		if item.Kind != plan.Dir {
			continue
		}
		dir, err := dirs.open(s.rel(item))
		if err == nil {
			err = setAttr(dir.fd, item.Attr)
		}
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", item.Path, err)
		}
	}
	top := s.unit.Items[0].Attr
	err := s.stands()
	if err == nil {
		if s.mode != 0 {
			top.Mode, top.Inherit = s.mode, false
		}
		err = setAttr(s.top.fd, top)
	}
	if err != nil {
		return fmt.Errorf("cannot install %s: %w", s.unit.Dest, err)
	}
	return nil
}

// stands wants the top to have its name still.
func (s *staging) stands() error {
	var top, named unix.Stat_t
	if err := unix.Fstat(s.top.fd, &top); err != nil {
		return &fs.PathError{Op: "stat", Path: s.unit.Stage, Err: err}
	}
	err := unix.Fstatat(s.parent.fd, s.base, &named, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && !isMissing(err) {
		return &fs.PathError{Op: "stat", Path: s.unit.Stage, Err: err}
	}
	if err != nil || top.Dev != named.Dev || top.Ino != named.Ino {
		return s.replaced()
	}
	return nil
}

// openDir is an open directory with several users.
type openDir struct {
	fd    int
	users atomic.Int32
}

func newOpenDir(fd int) *openDir {
	d := &openDir{fd: fd}
	d.users.Store(1)
	return d
}

// openParent opens the directory around a destination, links on the way included.
func openParent(path string) (*openDir, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return newOpenDir(fd), nil
}

func (d *openDir) hold() *openDir {
	d.users.Add(1)
	return d
}

// done may be called on nil.
func (d *openDir) done() {
	if d != nil && d.users.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// chainMax is how many directories of one tree are kept open besides its top.
const chainMax = 16

// chain opens directories below a top, none through a link, and keeps those
// above the last one open, since what is wanted next is mostly near. It is for one
// goroutine.
type chain struct{ held []heldDir }

type heldDir struct {
	rel string // "/a/b", "" of the top
	*openDir
}

func newChain(top *openDir) chain { return chain{[]heldDir{{"", top.hold()}}} }

// open gives a directory, which the chain holds until the next call; rel is as
// path.Dir gives it.
func (c *chain) open(rel string) (*openDir, error) {
	if rel == "/" {
		rel = ""
	}
	last := len(c.held) - 1
	for ; !strings.HasPrefix(rel+"/", c.held[last].rel+"/"); last-- {
		c.held[last].done()
		c.held = c.held[:last]
	}
	at := c.held[last]
	for len(at.rel) < len(rel) {
		name, _, _ := strings.Cut(rel[len(at.rel)+1:], "/")
		fd, err := openPlain(at.fd, name)
		if err != nil {
			return nil, err
		}
		if len(c.held) > chainMax {
			c.held[1].done()
			c.held = append(c.held[:1], c.held[2:]...)
		}
		at = heldDir{rel[:len(at.rel)+1+len(name)], newOpenDir(fd)}
		c.held = append(c.held, at)
	}
	return at.openDir, nil
}

func (c *chain) close() {
	for _, d := range c.held {
		d.done()
	}
	c.held = nil
}

// openPlain opens a directory that is no link, to read its names or to set its
// attributes. Of one that its owner may not read the mode is changed.
func openPlain(at int, name string) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	open := func(at int, name string, flags int) (int, error) {
		fd, err := retry(func() (int, error) { return unix.Openat(at, name, flags, 0) })
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
	fd, err := open(at, name, flags|unix.O_RDONLY)
	if !errors.Is(err, unix.EACCES) {
		return fd, err
	}
	handle, err := open(at, name, flags|unix.O_PATH)
	if err != nil {
		return -1, err
	}
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return -1, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if err := unix.Chmod(procPath(handle), st.Mode&0o7777|0o700); err != nil { // fchmod takes no O_PATH
		return -1, &fs.PathError{Op: "chmod", Path: name, Err: err}
	}
	return open(handle, ".", flags|unix.O_RDONLY)
}

// procPath is a name of an open file.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// namesIn lists at most so many names of an open directory, all if it is negative.
func namesIn(dir, most int) ([]string, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	list, err := f.Readdirnames(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return list, err
}

func mkdir(dir int, name string, mode uint32) error {
	if err := redo(func() error { return unix.Mkdirat(dir, name, mode) }); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return nil
}

// redo repeats a system call that a signal interrupted.
func redo(call func() error) error {
	_, err := retry(func() (int, error) { return 0, call() })
	return err
}

// removeTree removes a tree even where directories in it are not writable.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	loosen(unix.AT_FDCWD, path)
	return os.RemoveAll(path)
}

// loosen makes the directories of a tree writable where it can, and follows no link.
func loosen(at int, name string) {
	fd, err := openPlain(at, name)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if chmod(fd, 0o700) != nil {
		return
	}
	list, err := namesIn(fd, -1)
	if err != nil {
		return
	}
	for _, name := range list {
		loosen(fd, name)
	}
}
