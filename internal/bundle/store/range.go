package store

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyRange copies size bytes by the kernel where it can. whole is false where they cannot all be read; an error is that of writing.
func copyRange(to *os.File, toOff int64, from *os.File, fromOff int64, size int) (whole bool, err error) {
	for size > 0 {
		n, err := copyOnce(to, toOff, from, fromOff, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			return false, err
		case err != nil: // other file systems, or one that cannot
			return copyBytes(to, toOff, from, fromOff, size)
		case n == 0:
			return false, nil
		}
		toOff, fromOff, size = toOff+int64(n), fromOff+int64(n), size-n
	}
	return true, nil
}

// copyOnce holds both descriptors while they are used: the files may be closed at the same time.
func copyOnce(to *os.File, toOff int64, from *os.File, fromOff int64, size int) (n int, err error) {
	out, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	in, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	var copied, inner error
	outer := out.Control(func(dst uintptr) {
		inner = in.Control(func(src uintptr) {
			n, copied = unix.CopyFileRange(int(src), &fromOff, int(dst), &toOff, size, 0)
		})
	})
	return max(n, 0), errors.Join(outer, inner, copied)
}

func copyBytes(to *os.File, toOff int64, from *os.File, fromOff int64, size int) (whole bool, err error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(from, fromOff, int64(size)), data); err != nil {
		return false, nil
	}
	_, err = to.WriteAt(data, toOff)
	return err == nil, err
}

// awaitSync waits until bytes are written out that beginSync began with. Its error is told once, as that of a sync: whoever gets it must take the bytes for lost.
func awaitSync(file *os.File, off, size int64) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(fd uintptr) {
		for result = unix.EINTR; errors.Is(result, unix.EINTR); {
			result = unix.SyncFileRange(int(fd), off, size, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
		}
	})
	switch { // it cannot be asked for there, by the file system, the kernel or a sandbox; the sync at the end does it
	case errors.Is(result, unix.EINVAL), errors.Is(result, unix.EOPNOTSUPP), errors.Is(result, unix.ENOSYS), errors.Is(result, unix.EPERM):
		result = nil
	}
	return errors.Join(err, result)
}

// beginSync lets the kernel begin to write bytes out that somebody will sync later, when more has come; a size of 0 means to the file's end. It waits for nothing, and
// takes no error away from that sync.
func beginSync(file *os.File, off, size int64) {
	if conn, err := file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), off, size, unix.SYNC_FILE_RANGE_WRITE) })
	}
}
