package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// The revisions of the crash tests meet every way in which a path can change:
// new, replaced, unchanged, removed, file to directory, directory to file, link,
// permissions, access lists, attributes of a directory that stays.
func oldRevision(hooks bool) map[string]string {
	return revisionOf(hooks, "acls: ['d:g::rwx']", map[string]string{
		"tree/same": "same", "tree/changed": "old", "tree/gone": "gone", "tree/dir/x": "x", "tree/dir/deep/y": "y",
		"tree/file": "was a file", "tree/turned/into/file": "1", "tree/link": "-> same", "tree/golink": "-> gone",
		"tree/stays/a": "a", "conf/app.ini": "v=1",
	})
}

func newRevision(hooks bool) map[string]string {
	return revisionOf(hooks, "acls: ['d:g::r-x', 'd:o::---']", map[string]string{
		"tree/same": "same", "tree/changed": "new", "tree/fresh/one": "1", "tree/fresh/two/three": "3",
		"tree/file/is/now": "a directory", "tree/turned": "now a file", "tree/link": "-> changed",
		"tree/stays/b": "b", "conf/app.ini": "v=2",
	})
}

func revisionOf(hooks bool, acls string, files map[string]string) map[string]string {
	spec := "version: 0.0\nos: linux\nfiles:\n  - {source: tree, destination: /srv/app}\n  - {source: conf/app.ini, destination: /etc/app}\n" +
		"permissions:\n  - {object: /srv/app, pattern: '*', type: [file], mode: 640}\n  - {object: /srv/app, pattern: stays, type: [directory], mode: 750, " + acls + "}\n"
	if hooks {
		spec += "hooks:\n"
		for _, e := range []string{"ApplicationStop", "BeforeInstall", "AfterInstall", "ApplicationStart", "ValidateService"} {
			spec += "  " + e + ": [{location: hook.sh}]\n"
		}
		files["hook.sh"] = "HOOK\n"
	}
	files["appspec.yml"] = spec
	return files
}

// crashHost is a host on which the old revision runs, with a user's own file
// among the deployed ones.
type crashHost struct {
	*workbench
	d        Deployment
	old, new string
}

func newCrashHost(t *testing.T, hooks bool) *crashHost {
	return crashHostOn(t, newBench(t), hooks)
}

func crashHostOn(t *testing.T, w *workbench, hooks bool) *crashHost {
	h := &crashHost{workbench: w}
	w.succeed(w.deployment("d-old", w.bundle(oldRevision(hooks))))
	if err := os.WriteFile(filepath.Join(w.target, "srv/app/stays/users-own"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(w.target, "srv/app/stays/users-own"), time.Unix(1600000000, 0), time.Unix(1600000000, 0)); err != nil {
		t.Fatal(err)
	}
	h.old = w.tree()
	h.d = w.deployment("d-new", w.bundle(newRevision(hooks)))
	return h
}

// settle goes on after a crash and judges what became of it.
func (h *crashHost) settle(t *testing.T, decision Decision) {
	t.Helper()
	a := h.applier()
	res, resumed := settleOn(t, a, h.d, decision)
	if resumed && decision == Undo && res.Outcome != OutcomeFailed {
		t.Errorf("undo ended as %s", res.Outcome)
	}
	h.judge(t, res)
	noLeftovers(t, a)
	h.once()
}

// eachPoint calls try for 1 to n, in parallel, and returns how often it said that
// it tried something.
func eachPoint(t *testing.T, n int, try func(t *testing.T, n int) int) int {
	t.Helper()
	const parts = 4
	var tried atomic.Int64
	t.Run("points", func(t *testing.T) {
		for part := range parts {
			t.Run(strconv.Itoa(part), func(t *testing.T) {
				t.Parallel()
				for at := part + 1; at <= n && !t.Failed(); at += parts {
					tried.Add(int64(try(t, at)))
				}
			})
		}
	})
	return int(tried.Load())
}

func (h *crashHost) judge(t *testing.T, res Result) {
	t.Helper()
	installed := false
	for _, e := range res.Events {
		installed = installed || e.Event == "Install" && e.Status == StatusSucceeded
	}
	want := h.old
	if installed {
		want = h.new
	}
	if got := h.tree(); got != want {
		t.Errorf("%v (installed %v): the tree is\n%s\nand should be\n%s", statuses(res), installed, got, want)
	}
}

// newTree finds out what the new revision looks like when nothing goes wrong.
func newTree(t *testing.T, hooks bool) (tree string, operations int) {
	h := newCrashHost(t, hooks)
	faults := &durable.Faults{}
	o := h.options()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	if res := h.apply(a, h.d); res.Outcome != OutcomeSucceeded {
		t.Fatal(res.Error)
	}
	tree = h.tree()
	if strings.Contains(tree, ".gitopsd-") || tree == h.old || strings.Contains(tree, "gone") || !strings.Contains(tree, "users-own") {
		t.Fatalf("the new tree:\n%s", tree)
	}
	return tree, faults.Count()
}

// The power is cut at every durable operation of a redeployment with permissions
// and access lists; afterwards the files are the old or the new ones, exactly.
func TestPowerCutAtEveryOperation(t *testing.T) {
	t.Parallel()
	tree, operations := newTree(t, false)
	tried := eachPoint(t, operations, func(t *testing.T, n int) (tried int) {
		for variant, decision := range []Decision{Continue, Undo} {
			if !sampled(4, "cut", n, variant) {
				continue
			}
			tried++
			h := newCrashHost(t, false)
			h.new = tree
			faults := &durable.Faults{}
			faults.CutAt(n, (n+variant)%2 == 0)
			a := h.applier()
			a.opts.Disk = &durable.Disk{Hook: faults.Hook}
			if _, err := a.Apply(context.Background(), h.d, nil); !errors.Is(err, durable.ErrCut) && err != nil {
				t.Errorf("cut at %d: %v", n, err)
			}
			h.settle(t, decision)
			if t.Failed() {
				t.Fatalf("at operation %d, %s", n, decision)
			}
		}
		return tried
	})
	t.Logf("crash points tried: %d power cuts at %d operations of a redeployment", tried, operations)
}

// One durable operation fails, as on a full disk: Install fails and the old
// version is in place, or the deployment is pending and resumes.
func TestFailureAtEveryOperation(t *testing.T) {
	t.Parallel()
	tree, operations := newTree(t, false)
	tried := eachPoint(t, operations, func(t *testing.T, n int) int {
		if !sampled(4, "failure", n) {
			return 0
		}
		h := newCrashHost(t, false)
		h.new = tree
		a := h.applier()
		faults := &durable.Faults{}
		faults.FailAt(n, syscall.ENOSPC)
		a.opts.Disk = &durable.Disk{Hook: faults.Hook}
		res, err := a.Apply(context.Background(), h.d, nil)
		if err == nil {
			h.judge(t, res)
			if res.Outcome == OutcomeFailed && !strings.Contains(res.Error.Message, "no space left") {
				t.Errorf("failure at %d: %v", n, res.Error)
			}
		} else {
			h.settle(t, Continue)
		}
		if t.Failed() {
			t.Fatalf("at operation %d", n)
		}
		return 1
	})
	t.Logf("%d of %d operations failed", tried, operations)
}

// The process is killed with -9 at every durable operation of a redeployment with
// hooks, permissions and access lists, and resumed by another.
func TestKillAtEveryOperation(t *testing.T) {
	t.Parallel()
	tree, operations := newTree(t, true)
	tried := eachPoint(t, operations+3, func(t *testing.T, n int) (tried int) {
		for variant, decision := range []Decision{Continue, Undo} {
			if !sampled(10, "kill", n, variant) {
				continue
			}
			tried++
			h := newCrashHost(t, true)
			h.new = tree
			options, deployment := filepath.Join(h.dir, "options"), filepath.Join(h.dir, "deployment")
			writeJSON(t, options, h.options())
			writeJSON(t, deployment, h.d)
			killedAt(t, options, deployment, n)
			h.settle(t, decision)
			if t.Failed() {
				t.Fatalf("at operation %d, %s; hooks: %v", n, decision, h.ran())
			}
		}
		return tried
	})
	t.Logf("crash points tried: %d kills at %d operations of a redeployment", tried, operations)
}
