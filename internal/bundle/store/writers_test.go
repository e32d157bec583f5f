package store

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAFileThatCannotBeMadeIsNamedWhole: an archive has many files of one base name.
func TestAFileThatCannotBeMadeIsNamedWhole(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.MkdirAll("app/conf", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"app/conf": "app/conf/index.html", ".": "index.html"} {
		dir, err := openShared(root, name)
		if err != nil {
			t.Fatal(err)
		}
		var path *fs.PathError
		err = dir.create("index.html", attributes{mode: 0o644, modTime: time.Unix(1, 0)}, func(int) error { return unix.EIO })
		if !errors.As(err, &path) || path.Path != want || path.Op != "write" || !errors.Is(err, unix.EIO) {
			t.Errorf("a write that fails: %v, want %s named", err, want)
		}
		err = dir.create("index.html", attributes{}, func(int) error { return nil })
		if !errors.As(err, &path) || path.Path != want || path.Op != "create" || !errors.Is(err, fs.ErrExist) {
			t.Errorf("a file that is there: %v, want %s named", err, want)
		}
		dir.done()
	}
}
