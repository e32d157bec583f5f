package apply

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// TestWhoseFaultItIsThatABundleCannotBeUnpacked: what is called the bundle's fault fails the revision for all hosts.
func TestWhoseFaultItIsThatABundleCannotBeUnpacked(t *testing.T) {
	of := func(number syscall.Errno) error {
		return fmt.Errorf("cannot unpack archive: %w", &fs.PathError{Op: "create", Path: "f", Err: number})
	}
	for name, c := range map[string]struct {
		err  error
		host bool
	}{
		"too many open files":  {of(syscall.EMFILE), true},
		"a bad disk":           {of(syscall.EIO), true},
		"a read-only disk":     {of(syscall.EROFS), true},
		"no memory":            {of(syscall.ENOMEM), true},
		"a full disk":          {fmt.Errorf("x: %w", store.ErrNoSpace), true},
		"an archive that rots": {fmt.Errorf("x: %w", store.ErrMismatch), true},
		"the end of the agent": {fmt.Errorf("x: %w", context.Canceled), true},
		"a refused archive":    {fmt.Errorf("x: %w", bundle.ErrRefused), false},
		"a name too long":      {of(syscall.ENAMETOOLONG), false},
		"an archive cut short": {errors.New("unexpected EOF"), false},
	} {
		if got := ofThisHost(c.err); got != c.host {
			t.Errorf("%s: of this host alone: %v", name, got)
		}
	}
}

// A bundle around the state directory would be copied into itself over and over.
func TestBundleAroundTheStateDirectory(t *testing.T) {
	w := newBench(t)
	writeFile(t, filepath.Join(w.dir, "appspec.yml"), []byte("version: 0.0\nos: linux\n"))
	d := w.deployment("d-1", w.dir)
	if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed || !strings.Contains(res.Error.Message, "the state directory is in it") {
		t.Errorf("%+v", res)
	}
	link := filepath.Join(w.dir, "link")
	if err := os.Symlink(filepath.Join(w.dir, "state"), link); err != nil {
		t.Fatal(err)
	}
	d.Source.Path = link
	if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed || !strings.Contains(res.Error.Message, "the state directory is in it") {
		t.Errorf("through a link: %+v", res)
	}
}

// A name that fits into an archive and not below the state directory is the
// bundle's fault, and is told as such.
func TestNameTooLongForTheStateDirectory(t *testing.T) {
	w := newBench(t)
	file, err := os.Create(filepath.Join(w.dir, "long.tar"))
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(file)
	err = errors.Join(archive.WriteHeader(&tar.Header{Name: strings.Repeat(strings.Repeat("d", 200)+"/", 20) + strings.Repeat("f", 75)}), archive.Close(), file.Close())
	if err != nil {
		t.Fatal(err)
	}
	d := w.deployment("d-1", file.Name())
	d.Source.Type = bundle.TypeTar
	if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed || !res.Error.Invalid {
		t.Errorf("%+v", res)
	}
	if left, err := os.ReadDir(w.applier().releasesDir("g1")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
