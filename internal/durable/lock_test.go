package durable

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLockIsOnesOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a second owner: %v", err)
	}
	unlock()
	again, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// A child that was forked and has not called exec yet holds the file open; it must not hold the lock.
func TestUnlockedThoughAChildHasTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	before := openFiles(t)
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	for fd := range openFiles(t) {
		if before[fd] {
			continue
		}
		if child, err := unix.Dup(fd); err == nil {
			defer unix.Close(child)
		}
	}
	unlock()
	again, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// openFiles lists descriptors up to a bound.
func openFiles(t *testing.T) map[int]bool {
	t.Helper()
	all := map[int]bool{}
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			all[fd] = true
		}
	}
	return all
}
