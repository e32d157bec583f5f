package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// agentUmask is applied to modes that the archive does not really keep. CodeDeploy's agent ran with it; asking for the process's own umask
// means changing it for a moment under every other goroutine.
const agentUmask = 0o022

const holeBytes = 4096

// UnpackOptions tune UnpackArchive.
type UnpackOptions struct {
	Limits    bundle.Options // what the archive may hold
	KeepFree  int64          // bytes of the disk to leave; 0: 64 MiB, negative: none
	KeepTop   bool           // keep a single top-level folder
	NoOwner   bool           // leave every entry to the running user, even as root
	Digest    bundle.Digest  // what the file must be; "": not judged
	FileCount func(int)      // nil, or told the number of entries unpacked so far, every thousand
}

// Unpack verifies the whole digest of a complete bundle and unpacks it into destDir, which must not exist or be empty. See UnpackArchive.
func (s *Store) Unpack(ctx context.Context, d bundle.Digest, destDir string) error {
	if err := s.Recheck(ctx, d); err != nil {
		return err
	}
	b, ok := s.Lookup(d)
	if !ok {
		return fmt.Errorf("cannot unpack bundle %s: %w", d.Short(), ErrMissing)
	}
	now := time.Now()
	_ = os.Chtimes(path.Join(path.Dir(b.Path), "ref"), now, now) // remembered use; losing it only changes the order of collection
	if err := UnpackArchive(ctx, b.Path, b.Ref.Type, destDir, UnpackOptions{KeepFree: s.o.KeepFree}); err != nil {
		return fmt.Errorf("cannot unpack bundle %s: %w", d.Short(), err)
	}
	return nil
}

// UnpackArchive unpacks an archive file into destDir, which must not exist or be empty, as CodeDeploy's agent would: modes and times are
// kept; owners only from a tar and only when run as root, by name where this host knows the name and by number otherwise; a zip's setuid,
// setgid and sticky bits are dropped; a top-level folder that is alone and holds a name with "appspec" in it is stripped. No link is
// followed, and nothing outside of destDir is touched. On an error everything unpacked is deleted again; an error that wraps
// bundle.ErrRefused is the archive's own fault, one that wraps ErrNoSpace the disk's. With a digest given the whole file is compared with it meanwhile, since no format's
// own checksums cover all that is unpacked, and ErrMismatch goes before whatever error the wrong bytes led to. What was unpacked is not synced.
func UnpackArchive(ctx context.Context, file string, t bundle.Type, destDir string, o UnpackOptions) (err error) {
	archive, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot unpack archive: %w", err)
	}
	defer archive.Close()
	info, err := archive.Stat()
	if err != nil {
		return fmt.Errorf("cannot unpack archive: %w", err)
	}
	made, err := prepareDestination(destDir)
	if err != nil {
		return fmt.Errorf("cannot unpack archive: %w", err)
	}
	root, err := os.OpenRoot(destDir)
	if err != nil {
		return fmt.Errorf("cannot unpack archive: %w", err)
	}
	defer root.Close()
	u := &unpacker{ctx: ctx, root: root, o: o, owners: !o.NoOwner && os.Geteuid() == 0, ids: map[string]int{}, buf: make([]byte, copyBufferBytes/4)}
	if u.room, err = roomFor(destDir, o.KeepFree); err == nil {
		err = u.judged(archive, info.Size(), t)
	}
	u.closeDir()
	if err != nil {
		return errors.Join(fmt.Errorf("cannot unpack %s: %w", path.Base(file), err), clearDestination(root, destDir, made))
	}
	return nil
}

// judged unpacks, and says whose fault an error is: what went wrong with other bytes than the digest's is the disk's.
func (u *unpacker) judged(archive io.ReaderAt, size int64, t bundle.Type) error {
	if u.o.Digest == "" {
		return u.run(archive, size, t)
	}
	ctx, stop := context.WithCancel(u.ctx)
	defer stop()
	var err, mismatch error
	if t == bundle.TypeZip {
		whole := make(chan error, 1)
		go func() { whole <- checkWhole(ctx, archive, size, u.o.Digest) }()
		err = u.unlessFull(archive, size, t, stop)
		mismatch = <-whole
	} else {
		read := newHashing(archive)
		err = u.unlessFull(read, size, t, stop)
		var sum [sha256.Size]byte
		if sum, mismatch = read.finish(ctx, size); mismatch == nil {
			mismatch = judge(sum, u.o.Digest)
		}
	}
	if stopped := ctx.Err(); stopped != nil {
		return cmp.Or(err, stopped)
	}
	return cmp.Or(mismatch, err)
}

// unlessFull unpacks, and stops the look at the whole where that would change nothing.
func (u *unpacker) unlessFull(archive io.ReaderAt, size int64, t bundle.Type, stop func()) error {
	err := u.run(archive, size, t)
	if errors.Is(err, ErrNoSpace) || u.ctx.Err() != nil {
		stop()
	}
	return err
}

// prepareDestination makes destDir, or finds it empty.
func prepareDestination(destDir string) (made bool, err error) {
	err = os.Mkdir(destDir, 0o755)
	if err == nil {
		return true, os.Chmod(destDir, 0o755)
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	entries, err := os.ReadDir(destDir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty (it holds %s)", destDir, entries[0].Name())
	}
	return false, err
}

// clearDestination leaves destDir as prepareDestination found it.
func clearDestination(root *os.Root, destDir string, made bool) error {
	if made {
		return RemoveTree(destDir)
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, entry := range entries {
		err = errors.Join(err, RemoveTree(path.Join(destDir, entry.Name())))
	}
	return err
}

// RemoveTree deletes an unpacked tree, even where a directory's mode keeps an ordinary user from changing it. No link is followed.
func RemoveTree(name string) error {
	err := os.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	root, rootErr := os.OpenRoot(path.Dir(name))
	if rootErr != nil {
		return err
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), path.Base(name), func(sub string, entry fs.DirEntry, _ error) error {
		if entry != nil && entry.IsDir() {
			return root.Chmod(sub, 0o700)
		}
		return nil
	})
	return os.RemoveAll(name)
}

func roomFor(dir string, keep int64) (int64, error) {
	if keep == 0 {
		keep = defaultKeepFree
	}
	free, err := freeBytes(dir)
	return free - max(0, keep), err
}

// unpacker holds one run of UnpackArchive.
type unpacker struct {
	ctx    context.Context
	root   *os.Root
	o      UnpackOptions
	owners bool
	ids    map[string]int // "u" or "g" and a name -> id, -1 if unknown
	room   int64          // bytes of disk that may still be used
	count  int
	buf    []byte

	writers *writers
	dir     *sharedDir // of dirName; a tree is written directory by directory, so the last one opened is nearly always the next one needed
	dirName string
	links   links
	dirs    []bundle.Entry // explicit directories, whose mode and time are set last
}

func (u *unpacker) run(archive io.ReaderAt, size int64, t bundle.Type) error {
	u.writers = newWriters()
	err := bundle.Walk(archive, size, t, u.o.Limits, u.entry)
	if err == nil {
		err = u.writers.settle()
	}
	u.writers.close()
	if err != nil {
		return noSpace(err)
	}
	u.closeDir()
	top := ""
	if !u.o.KeepTop {
		var err error
		if top, err = StripTopFolder(u.root); err != nil {
			return err
		}
	}
	if err := u.links.check(u.root, top != ""); err != nil {
		return err
	}
	return u.finishDirs(top)
}

// finishDirs sets what directories shall be like, inner ones first, the last of entries for the same one winning.
func (u *unpacker) finishDirs(top string) error {
	slices.SortStableFunc(u.dirs, func(a, b bundle.Entry) int { return strings.Compare(a.Name, b.Name) })
	last := ""
	for _, dir := range slices.Backward(u.dirs) {
		name := dir.Name
		if name == last {
			continue
		}
		last = name
		if top != "" {
			if name == top {
				continue
			}
			name = strings.TrimPrefix(name, top+"/")
		}
		if err := u.finishDir(name, dir); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) entry(e *bundle.Entry) error {
	if err := u.ctx.Err(); err != nil {
		return err
	}
	if u.count++; u.o.FileCount != nil && u.count%1000 == 0 {
		u.o.FileCount(u.count)
	}
	if e.Type == bundle.Dir {
		return u.makeDir(e)
	}
	dir, err := u.open(path.Dir(e.Name))
	if err != nil {
		return err
	}
	base := path.Base(e.Name)
	switch e.Type {
	case bundle.File:
		return u.file(dir, base, e)
	case bundle.Symlink:
		return u.link(dir, base, e)
	case bundle.Hardlink:
		if err := u.writers.settle(); err != nil { // its target may be on its way
			return err
		}
		return u.root.Link(e.Link, e.Name)
	}
	return fmt.Errorf("internal error: %s %q", e.Type, e.Name)
}

func (u *unpacker) link(dir *sharedDir, base string, e *bundle.Entry) error {
	u.links.note(e)
	err := unix.Symlinkat(e.Link, dir.fd, base)
	if uid, gid, ok := u.owner(e); ok && err == nil {
		err = unix.Fchownat(dir.fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return &fs.PathError{Op: "symlink", Path: e.Name, Err: err}
	}
	return nil
}

// makeDir makes a directory; mode, owner and time come last, as what is put into it changes or needs them.
func (u *unpacker) makeDir(e *bundle.Entry) error {
	if err := u.mkdirAll(e.Name); err != nil {
		return err
	}
	kept := *e
	kept.Content = nil
	u.dirs = append(u.dirs, kept)
	return nil
}

// mkdirAll makes name and what is missing above it with mode 0755 whatever the process's umask, since hooks run as other users too.
func (u *unpacker) mkdirAll(name string) error {
	err := u.root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err = u.mkdirAll(path.Dir(name)); err == nil {
			err = u.root.Mkdir(name, 0o755)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // the archive's guard has seen to it that only a directory can stand here
	}
	if err != nil {
		return err
	}
	return u.root.Chmod(name, 0o755)
}

// open returns the directory name, made where an archive only implies it.
func (u *unpacker) open(name string) (*sharedDir, error) {
	if u.dir != nil && u.dirName == name {
		return u.dir, nil
	}
	u.closeDir()
	dir, err := openShared(u.root, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = u.mkdirAll(name); err == nil {
			dir, err = openShared(u.root, name)
		}
	}
	if err != nil {
		return nil, err
	}
	u.dir, u.dirName = dir, name
	return dir, nil
}

func (u *unpacker) closeDir() {
	if u.dir != nil {
		u.dir.done()
		u.dir = nil
	}
}

func (u *unpacker) file(dir *sharedDir, base string, e *bundle.Entry) error {
	if u.room -= e.Size; u.room < 0 && !e.Sparse {
		return fmt.Errorf("%w: with %s the disk would have less than the bytes free that are kept for the agent's journal", ErrNoSpace, e.Name)
	}
	a := attributes{mode: modeOf(e), modTime: e.ModTime}
	a.uid, a.gid, a.owned = u.owner(e)
	if e.Sparse || e.Size > smallFile {
		return dir.create(base, a, func(fd int) error { return u.fill(fd, e) })
	}
	if err := u.writers.failure(); err != nil {
		return err
	}
	f := smallWrite{dir: dir, base: base, a: a, buf: u.writers.buffer()}
	var err error
	if f.size, err = readSmall(e.Content, f.buf, e.Size); err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	if int64(f.size) != e.Size {
		return fmt.Errorf("%s has %d bytes, expected %d", e.Name, f.size, e.Size)
	}
	u.writers.write(f)
	return nil
}

// fill copies the content; zeros of a file with holes become holes again.
func (u *unpacker) fill(fd int, e *bundle.Entry) error {
	var at int64
	for {
		n, err := io.ReadFull(e.Content, u.buf)
		if chunk := u.buf[:n]; n > 0 && !(e.Sparse && isZero(chunk)) {
			if err := writeAt(fd, chunk, at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF && at == e.Size {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if err := u.ctx.Err(); err != nil {
			return err
		}
	}
	if at != e.Size {
		return fmt.Errorf("%s has %d bytes, expected %d", e.Name, at, e.Size)
	}
	if e.Sparse {
		return retry(func() error { return unix.Ftruncate(fd, at) })
	}
	return nil
}

func isZero(p []byte) bool {
	var zero [holeBytes]byte
	for len(p) > 0 {
		n := min(len(p), holeBytes)
		if !bytes.Equal(p[:n], zero[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

func modeOf(e *bundle.Entry) fs.FileMode {
	if e.Umask {
		return e.Mode &^ agentUmask
	}
	return e.Mode
}

func (u *unpacker) finishDir(name string, e bundle.Entry) error {
	if uid, gid, ok := u.owner(&e); ok {
		if err := u.root.Lchown(name, uid, gid); err != nil {
			return err
		}
	}
	if !e.ModTime.IsZero() {
		if err := u.root.Chtimes(name, e.ModTime, e.ModTime); err != nil {
			return err
		}
	}
	return u.root.Chmod(name, modeOf(&e))
}

// owner decides whom an entry is given to, as tar run by root does.
func (u *unpacker) owner(e *bundle.Entry) (uid, gid int, ok bool) {
	if !u.owners || e.UID < 0 || e.GID < 0 {
		return 0, 0, false
	}
	uid = u.id("u", e.User, e.UID, func(name string) (string, error) {
		found, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return found.Uid, nil
	})
	gid = u.id("g", e.Group, e.GID, func(name string) (string, error) {
		found, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return found.Gid, nil
	})
	return uid, gid, true
}

func (u *unpacker) id(kind, name string, number int, lookup func(string) (string, error)) int {
	if name == "" {
		return number
	}
	known, ok := u.ids[kind+name]
	if !ok {
		known = -1
		if text, err := lookup(name); err == nil {
			if parsed, err := strconv.Atoi(text); err == nil {
				known = parsed
			}
		}
		if len(u.ids) < 10_000 {
			u.ids[kind+name] = known
		}
	}
	if known >= 0 {
		return known
	}
	return number
}

// StripTopFolder moves the content of a top-level folder up, if that folder is the only entry and holds a name with "appspec" in it, in any
// case: that is how GitHub's archives look. It returns the folder's name, "" if nothing was done.
func StripTopFolder(root *os.Root) (string, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		return "", err
	}
	top := entries[0].Name()
	inner, err := readNames(root, top)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(inner, func(name string) bool { return strings.Contains(strings.ToLower(name), "appspec") }) {
		return "", nil
	}
	aside := ".gitopsd-top"
	for slices.Contains(inner, aside) {
		aside += "-"
	}
	if err := root.Rename(top, aside); err != nil {
		return "", err
	}
	for _, name := range inner {
		if err := root.Rename(aside+"/"+name, name); err != nil {
			return "", err
		}
	}
	return top, root.Remove(aside)
}

// readNames lists a directory below root; unlike fs.ReadDir of root.FS it takes names that are not UTF-8.
func readNames(root *os.Root, dir string) ([]string, error) {
	file, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	names, err := file.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}
