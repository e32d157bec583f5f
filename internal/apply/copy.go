package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// copyFile copies the content of a file to a new one with mode 0600, sharing
// the blocks where the file system can, and has finish give it its attributes.
// The new one's name is relative to the directory dir unless it is absolute. buf
// is smallBuf long and may be used again.
func copyFile(from string, dir int, to string, buf []byte, finish func(fd int) error) error {
	done, err := copySmall(from, dir, to, buf, finish)
	if done || err != nil {
		return err
	}
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	fd, err := create(dir, to)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), to)
	if unix.IoctlFileClone(fd, int(src.Fd())) != nil {
		if _, err := io.Copy(dst, src); err != nil {
			dst.Close()
			return err
		}
	}
	if err := finish(fd); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// create makes a file; nothing may have its name, a link neither.
func create(dir int, name string) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// smallMax is the size in bytes up to which a file is read and written at once.
const smallMax = 32 << 10

// smallBuf also shows that a file is larger.
const smallBuf = smallMax + 1

// copySmall copies a small file with as few system calls as it takes; bundles
// have many of them. It returns false, having made nothing, for a larger one.
func copySmall(from string, dir int, to string, buf []byte, finish func(fd int) error) (bool, error) {
	src, err := retry(func() (int, error) { return unix.Open(from, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(src)
	n := 0
	for n < len(buf) {
		m, err := retry(func() (int, error) { return unix.Read(src, buf[n:]) })
		if err != nil {
			return false, &fs.PathError{Op: "read", Path: from, Err: err}
		}
		if m == 0 {
			break
		}
		n += m
	}
	if n > smallMax {
		return false, nil
	}
	dst, err := create(dir, to)
	if err != nil {
		return false, err
	}
	for buf = buf[:n]; len(buf) > 0; {
		m, err := retry(func() (int, error) { return unix.Write(dst, buf) })
		if err != nil {
			unix.Close(dst)
			return false, &fs.PathError{Op: "write", Path: to, Err: err}
		}
		buf = buf[m:]
	}
	if err := finish(dst); err != nil {
		unix.Close(dst)
		return false, err
	}
	if err := unix.Close(dst); err != nil && !errors.Is(err, unix.EINTR) {
		return false, &fs.PathError{Op: "close", Path: to, Err: err}
	}
	return true, nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// copyTree copies a directory as a revision: files get the modes of their
// source less the umask, links are copied as links, owner and times are new.
func copyTree(ctx context.Context, from, to string, umask uint32) error {
	buf := make([]byte, smallBuf)
	return walkCopy(ctx, from, to, func(path, dest string, info fs.FileInfo) error {
		return copyFile(path, unix.AT_FDCWD, dest, buf, func(fd int) error { return chmod(fd, unixMode(info)&^umask) })
	})
}

// cloneTree copies a release with modes, times and, for root, owners.
func cloneTree(ctx context.Context, from, to string) error {
	buf := make([]byte, smallBuf)
	return walkCopy(ctx, from, to, func(path, dest string, info fs.FileInfo) error {
		n, _, err := statNode(path)
		if err != nil {
			return err
		}
		a := plan.Attr{Mode: n.Mode, UID: -1, GID: -1}
		if os.Geteuid() == 0 {
			a.UID, a.GID = n.UID, n.GID
		}
		return copyFile(path, unix.AT_FDCWD, dest, buf, func(fd int) error {
			if err := setAttr(fd, a); err != nil {
				return err
			}
			return setTime(fd, n.MTimeNS)
		})
	})
}

func walkCopy(ctx context.Context, from, to string, file func(path, dest string, info fs.FileInfo) error) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return fmt.Errorf("cannot copy the bundle: %w", err)
	}
	if err := apart(from, to); err != nil {
		return err
	}
	err = filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if rel == "." {
			return os.Mkdir(dest, 0o755)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			return os.Mkdir(dest, 0o755)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dest)
		case info.Mode().IsRegular():
			return file(path, dest, info)
		}
		return &bundleError{fmt.Errorf("%s is neither file, directory nor link", rel)}
	})
	if err != nil {
		return fmt.Errorf("cannot copy the bundle from %s: %w", from, err)
	}
	return nil
}

// apart refuses a bundle that the copy would be made in: the copy would be copied too.
func apart(from, to string) error {
	around, err := filepath.EvalSymlinks(filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("cannot copy the bundle: %w", err)
	}
	if rel, err := filepath.Rel(from, around); err == nil && filepath.IsLocal(rel) {
		return &bundleError{fmt.Errorf("cannot take %s for a bundle: the state directory is in it", from)}
	}
	return nil
}

func unixMode(info fs.FileInfo) uint32 {
	mode := uint32(info.Mode().Perm())
	if info.Mode()&fs.ModeSetuid != 0 {
		mode |= unix.S_ISUID
	}
	if info.Mode()&fs.ModeSetgid != 0 {
		mode |= unix.S_ISGID
	}
	if info.Mode()&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return mode
}

// setTime sets the times of an open file.
func setTime(fd int, ns int64) error {
	ts := unix.NsecToTimespec(ns)
	err := unix.UtimesNanoAt(fd, "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), []unix.Timespec{ts, ts}, 0)
	}
	return os.NewSyscallError("utimes", err)
}

// isMissing tells whether an error says that something is not there.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
