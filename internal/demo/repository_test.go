package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newTestRepository makes the demo's repositories with this test's binary as gitopsd.
func newTestRepository(t *testing.T) (*repository, place) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed, and the demo needs it:", err)
	}
	p, err := newPlace(t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.remove(false); err != nil {
			t.Error(err)
		}
	})
	procs, err := newProcesses()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := procs.end(nil, endPatience()); err != nil {
			t.Error(err)
		}
	})
	if err := os.MkdirAll(filepath.Dir(p.binary()), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := copyBinary(self, p.binary()); err != nil {
		t.Fatal(err)
	}
	r, err := newRepository(t.Context(), p, procs, environment([]string{"HOME=", "PATH=" + os.Getenv("PATH")}, filepath.Dir(p.binary()), p.lock()))
	if err != nil {
		t.Fatal(err)
	}
	return r, p
}

func TestRepositoryIsCommittedToFromBothSides(t *testing.T) {
	r, p := newTestRepository(t)
	ctx := t.Context()
	if _, err := r.commit(ctx, "introduce", map[string]string{"fleet.yaml": "name: demo\n"}); err != nil {
		t.Fatal(err)
	}
	if err := r.clone(ctx, []string{"/nonexistent.sock"}); err != nil {
		t.Fatal(err)
	}
	second, err := r.commit(ctx, "second", map[string]string{"a/b.yaml": "b\n"})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(p.work(), "a", "b.yaml")); err != nil || string(text) != "b\n" {
		t.Errorf("the clone does not follow: %q, %v", text, err)
	}
	reverted, err := r.revert(ctx, second)
	if err != nil {
		t.Fatal(err)
	}
	if tip, err := r.git(ctx, "-C", p.bare(), "rev-parse", branch); err != nil || tip != reverted {
		t.Errorf("the bare repository is at %s (%v), want %s", tip, err, reverted)
	}
	for _, id := range []string{second, reverted} {
		if out, err := r.inWork(ctx, "verify-commit", id); err != nil || !strings.Contains(out, signerEmail) {
			t.Errorf("commit %s: %v %s", id, err, out)
		}
	}
	if _, err := r.git(ctx, "-C", p.bare(), "fsck", "--strict"); err != nil {
		t.Error(err)
	}
	if out, err := r.inWork(ctx, "status", "--porcelain"); err != nil || out != "" {
		t.Errorf("the clone is not clean: %q, %v", out, err)
	}
}

func TestRepositorySaysThatGitIsMissing(t *testing.T) {
	r, _ := newTestRepository(t)
	t.Setenv("PATH", t.TempDir())
	if err := r.checkGit(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot run git, which the demo's repository needs") {
		t.Errorf("error %v", err)
	}
}
