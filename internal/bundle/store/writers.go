package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	smallFile   = 32 << 10 // bytes up to which a file is written beside others
	mostWriters = 4        // files written at a time; few processors keep a file system busy
	waitingMost = 64       // files read and not yet written
)

// attributes are what a file gets besides its content.
type attributes struct {
	mode     fs.FileMode
	modTime  time.Time // zero: now
	owned    bool
	uid, gid int
}

// sharedDir is an open directory that files in flight keep open. Files are made below it by the system calls themselves: os.Root and os.File
// need thirteen for a small file where six do, and trees have many.
type sharedDir struct {
	*os.File
	name  string // below the root
	fd    int
	users atomic.Int32
}

// openShared opens a directory of root, whatever stands in its place.
func openShared(root *os.Root, name string) (*sharedDir, error) {
	dir, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	d := &sharedDir{File: dir, name: name, fd: int(dir.Fd())}
	d.users.Store(1)
	return d, nil
}

func (d *sharedDir) done() {
	if d.users.Add(-1) == 0 {
		_ = d.Close()
	}
}

// create makes a file that must not exist; base is one name, and is not followed. Errors name it below the root.
func (d *sharedDir) create(base string, a attributes, fill func(fd int) error) error {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return &fs.PathError{Op: "create", Path: path.Join(d.name, base), Err: err}
	}
	err = fill(fd)
	if err == nil && a.owned {
		err = retry(func() error { return unix.Fchown(fd, a.uid, a.gid) })
	}
	if err == nil {
		err = retry(func() error { return unix.Fchmod(fd, modeBits(a.mode)) }) // after Fchown, which takes setuid and setgid away
	}
	if closeErr := unix.Close(fd); err == nil && !errors.Is(closeErr, unix.EINTR) {
		err = closeErr
	}
	if err == nil && !a.modTime.IsZero() {
		var at unix.Timespec // not by nanoseconds since 1970, which end in 2262
		if at, err = unix.TimeToTimespec(a.modTime); err == nil {
			err = unix.UtimesNanoAt(d.fd, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path.Join(d.name, base), Err: err}
	}
	return nil
}

// writeAt writes all of p.
func writeAt(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n := 0
		if err := retry(func() (err error) {
			n, err = unix.Pwrite(fd, p, at)
			return err
		}); err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// modeBits gives the kernel's form of a mode.
func modeBits(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= unix.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	return bits
}

// smallWrite is one small file on its way to the disk.
type smallWrite struct {
	dir  *sharedDir
	base string
	a    attributes
	buf  []byte // given back
	size int
}

// writers write small files while the archive is read on, since such a file is mostly system calls. Its methods are for one goroutine.
type writers struct {
	files   chan smallWrite
	buffers chan []byte
	made    int // buffers
	pending sync.WaitGroup
	ending  sync.WaitGroup
	first   sync.Once
	failed  chan struct{}
	err     error // once failed is closed
}

func newWriters() *writers {
	w := &writers{files: make(chan smallWrite, waitingMost), buffers: make(chan []byte, waitingMost), failed: make(chan struct{})}
	for range min(mostWriters, runtime.GOMAXPROCS(0)) {
		w.ending.Go(w.run)
	}
	return w
}

func (w *writers) run() {
	for f := range w.files {
		if w.failure() == nil {
			err := f.dir.create(f.base, f.a, func(fd int) error { return writeAt(fd, f.buf[:f.size], 0) })
			if err != nil {
				w.first.Do(func() {
					w.err = err
					close(w.failed)
				})
			}
		}
		f.dir.done()
		w.buffers <- f.buf
		w.pending.Done()
	}
}

// failure gives the first error so far.
func (w *writers) failure() error {
	select {
	case <-w.failed:
		return w.err
	default:
		return nil
	}
}

// buffer gives one of smallFile+1 bytes; it goes back with a write, or by giveBack.
func (w *writers) buffer() []byte {
	select {
	case buf := <-w.buffers:
		return buf
	default:
	}
	if w.made < waitingMost {
		w.made++
		return make([]byte, smallFile+1)
	}
	return <-w.buffers
}

// write takes a file over.
func (w *writers) write(f smallWrite) {
	f.dir.users.Add(1)
	w.pending.Add(1)
	w.files <- f
}

// settle waits until all files are written, and gives the first error.
func (w *writers) settle() error {
	w.pending.Wait()
	return w.failure()
}

// close ends the writers; what is in flight is written or has failed.
func (w *writers) close() {
	close(w.files)
	w.ending.Wait()
}

// readSmall reads content that should have size bytes, and sees its end, at which some archives check a sum. It gives the bytes there are.
func readSmall(content io.Reader, buf []byte, size int64) (int, error) {
	n, err := io.ReadFull(content, buf[:size+1])
	if err == io.EOF || err == io.ErrUnexpectedEOF && int64(n) == size {
		err = nil
	}
	return n, err
}
