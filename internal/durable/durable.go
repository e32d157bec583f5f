// Package durable writes files so that they survive a power cut: temporary
// file, write, fsync, rename, fsync of the directory; append logs whose records
// are either whole or absent; and values in slots, whose space is taken
// beforehand so that a full disk does not keep a new one out. After a crash a file written with
// WriteFile holds either its old or its new content, and every record whose
// Append returned nil is in the log.
//
// It also counts these operations for tests: a Disk with a Hook can fail, or
// stop for good, at the n-th of them (see Faults), so that a crash after every
// single durable write can be tried.
//
// It does not promise anything about files written by other means, nor does it
// protect against two writers of one file; Lock does that.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the name of every temporary file this package makes.
const tempPrefix = ".durable-"

// Disk performs durable operations. A nil *Disk is the plain disk; one with a
// Hook asks it before every physical operation.
type Disk struct {
	// Hook is called before each operation, with locks of the caller held; an
	// error keeps the operation from happening. See Faults.
	Hook func(Op) error
}

// Op names one physical operation.
type Op struct {
	// Kind is create, write, sync, rename, syncdir, mkdir, remove, append,
	// truncate, syncfs, or a kind of the caller's own given to Step.
	Kind string
	// Path is the file concerned; for a rename the new name.
	Path string
}

// Step announces an operation that the caller does itself, so that it takes
// part in fault sweeps. The operation may be done only if Step returns nil.
func (d *Disk) Step(kind, path string) error {
	if d == nil || d.Hook == nil {
		return nil
	}
	return d.Hook(Op{Kind: kind, Path: path})
}

// WriteFile replaces the file at path by data: after a crash it holds either
// the old or the new content. perm is exact (no umask).
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return (*Disk)(nil).WriteFile(path, data, perm)
}

// WriteFile is like the function WriteFile, on this disk.
func (d *Disk) WriteFile(path string, data []byte, perm fs.FileMode) error {
	if err := d.replace(path, data, perm, true); err != nil {
		return err
	}
	if err := d.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// Replace is WriteFile without waiting for the disk: when the process dies the
// file holds either the old or the new content, after a power cut perhaps
// neither. SyncFile and SyncDir make up for it.
func Replace(path string, data []byte, perm fs.FileMode) error {
	return (*Disk)(nil).Replace(path, data, perm)
}

// Replace is like the function Replace, on this disk.
func (d *Disk) Replace(path string, data []byte, perm fs.FileMode) error {
	return d.replace(path, data, perm, false)
}

func (d *Disk) replace(path string, data []byte, perm fs.FileMode, sync bool) (err error) {
	dir := filepath.Dir(path)
	if err := d.Step("create", path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			if !errors.Is(err, ErrCut) {
				os.Remove(f.Name())
			}
			err = fmt.Errorf("cannot write %s: %w", path, err)
		}
	}()
	if err := d.fill(f, path, data, perm, sync); err != nil {
		return err
	}
	if err := d.Step("rename", path); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fill writes, syncs if it shall, and closes the temporary file f that will
// become path.
func (d *Disk) fill(f *os.File, path string, data []byte, perm fs.FileMode, sync bool) error {
	if err := d.Step("write", path); err != nil {
		if torn(err) {
			f.Write(data[:len(data)/2])
		}
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if sync {
		if err := d.Step("sync", path); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

// SyncFile makes the content of the file at path durable, but not its name.
func SyncFile(path string) error { return (*Disk)(nil).SyncFile(path) }

// SyncFile is like the function SyncFile, on this disk.
func (d *Disk) SyncFile(path string) error {
	if err := d.Step("sync", path); err != nil {
		return fmt.Errorf("cannot sync %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot sync %s: %w", path, err)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error { return (*Disk)(nil).SyncDir(path) }

// SyncDir is like the function SyncDir, on this disk.
func (d *Disk) SyncDir(path string) error {
	if err := d.Step("syncdir", path); err != nil {
		return fmt.Errorf("cannot sync directory %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot sync directory %s: %w", path, err)
	}
	return nil
}

// SyncFS makes everything written so far to the file system that holds path
// durable, in one call.
func SyncFS(path string) error { return (*Disk)(nil).SyncFS(path) }

// SyncFS is like the function SyncFS, on this disk.
func (d *Disk) SyncFS(path string) error {
	if err := d.Step("syncfs", path); err != nil {
		return fmt.Errorf("cannot sync the file system of %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync file system: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync the file system of %s: %w", path, err)
	}
	return nil
}

// MkdirAll makes a directory and its missing parents, syncing the parent of
// each one it makes. Directories that exist are left alone.
func MkdirAll(path string, perm fs.FileMode) error { return (*Disk)(nil).MkdirAll(path, perm) }

// MkdirAll is like the function MkdirAll, on this disk.
func (d *Disk) MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("cannot make directory %s: a file is in the way", path)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := d.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := d.Step("mkdir", path); err != nil {
		return fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	return d.SyncDir(parent)
}

// Rename moves a file or directory within one file system and syncs the
// directories of both names. The content must have been synced before.
func Rename(from, to string) error { return (*Disk)(nil).Rename(from, to) }

// Rename is like the function Rename, on this disk.
func (d *Disk) Rename(from, to string) error {
	if err := d.Step("rename", to); err != nil {
		return fmt.Errorf("cannot rename %s to %s: %w", from, to, err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("cannot rename: %w", err)
	}
	if err := d.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return d.SyncDir(filepath.Dir(from))
}

// Remove removes a file or an empty directory and syncs its directory. A file
// that is not there is no error.
func Remove(path string) error { return (*Disk)(nil).Remove(path) }

// Remove is like the function Remove, on this disk.
func (d *Disk) Remove(path string) error {
	if err := d.Step("remove", path); err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("cannot remove: %w", err)
	}
	return d.SyncDir(filepath.Dir(path))
}

// IsTemp tells whether a base name is that of a temporary file a crash may have
// left behind; such files may be removed when nobody writes in the directory.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }
