package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// mountSmall puts a small file system of its own on a directory.
func mountSmall(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// trouble is something that befalls a file system, and how it passes.
type trouble struct {
	name  string
	begin func(dir string) error
	end   func(dir string) error
	says  string
}

func fillDir(dir string) string { return filepath.Join(dir, "somebody-elses") }

func clearFill(dir string) error { return os.RemoveAll(fillDir(dir)) }

// fill writes files of so many bytes until there is no room.
func fill(dir string, bytes int) error {
	err := os.Mkdir(fillDir(dir), 0o700)
	block := make([]byte, bytes)
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(fillDir(dir), fmt.Sprint(i)), block, 0o600)
	}
	if errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return err
}

var troubles = []trouble{
	{"full", func(dir string) error { return fill(dir, 64<<10) }, clearFill, "(?i)no space left on device"},
	{"out of inodes", func(dir string) error { return fill(dir, 0) }, clearFill, "(?i)no space left on device"},
	{"read-only", func(dir string) error {
		return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}, func(dir string) error {
		return unix.Mount("", dir, "", unix.MS_REMOUNT, "")
	}, "read-only file system"},
}

// The file system of the target, or of the state, fills up, runs out of inodes or
// becomes read-only at each step of a deployment with hooks. The error says so; the
// old version is in place where no hook came in between, and once the trouble has
// passed the deployment can be resumed.
func TestTroubleAtEveryStep(t *testing.T) {
	t.Parallel()
	tree, operations := newTree(t, true)
	for _, tr := range troubles {
		for _, place := range []string{"target", "state"} {
			t.Run(tr.name+" "+place, func(t *testing.T) {
				t.Parallel()
				tried, ended := 0, map[string]int{}
				for n := 0; n <= operations; n++ {
					if n > 0 && !sampled(30, "trouble", tr.name, place, n) {
						continue
					}
					how := meetTrouble(t, tr, place, tree, n)
					if ended[how]++; how != "busy" {
						tried++
					}
					if t.Failed() {
						t.Fatalf("at operation %d", n)
					}
				}
				t.Logf("%d of %d steps tried: %v", tried, operations+1, ended)
			})
		}
	}
}

// meetTrouble deploys with a trouble that begins at the n-th operation, or before
// all, and tells how that ended.
func meetTrouble(t *testing.T, tr trouble, place, tree string, n int) (how string) {
	t.Helper()
	w := newBench(t)
	dir := map[string]string{"target": w.target, "state": w.options().StateDir}[place]
	mountSmall(t, dir, "mode=0755,size=20m,nr_inodes=600")
	h := crashHostOn(t, w, true)
	h.new = tree
	o := h.options()
	o.KeepFree = -1
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	busy := false
	strike := func() {
		if err := tr.begin(dir); errors.Is(err, unix.EBUSY) {
			busy = true // a file is open for writing
		} else if err != nil {
			t.Errorf("%s: %v", tr.name, err)
		}
	}
	if n == 0 {
		strike()
	}
	faults := &durable.Faults{}
	faults.Observe(func(at int, _ durable.Op) {
		if at == n {
			strike()
		}
	})
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	res, err := a.Apply(context.Background(), h.d, nil)
	if end := tr.end(dir); end != nil {
		t.Fatal(end)
	}
	how = string(res.Outcome)
	switch {
	case err != nil:
		how = "resumed"
		if !regexp.MustCompile(tr.says).MatchString(err.Error()) {
			t.Errorf("the error is %v", err)
		}
		h.settle(t, Continue)
	default:
		h.judge(t, res)
		if res.Error != nil && !regexp.MustCompile(tr.says).MatchString(res.Error.Message) {
			t.Errorf("the message is %s", res.Error.Message)
		}
	}
	if busy {
		return "busy"
	}
	again := h.d
	again.ID = "d-again"
	if h.succeed(again); !strings.Contains(h.tree(), "stays/b") {
		t.Error("the new files are not in place")
	}
	h.once()
	return how
}
