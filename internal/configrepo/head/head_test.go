package head_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/head"
	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

// committed makes a work tree whose last commit has files; nothing of it is checked out.
func committed(t *testing.T, files map[string][]byte) (dir, commit string) {
	t.Helper()
	dir = t.TempDir()
	repository, err := sign.Init(filepath.Join(dir, ".git"), "main")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 0 {
		if commit, err = repository.Commit(sign.Change{Files: files, Message: "begin"}); err != nil {
			t.Fatal(err)
		}
	}
	return dir, commit
}

var limits = head.Limits{Files: 3, Bytes: 8}

func TestFolderOfTheLastCommit(t *testing.T) {
	dir, commit := committed(t, map[string][]byte{
		"set/a.yaml": []byte("one"), "set/b.yaml": []byte("two"), "set/below/c": []byte("three"), "config/set/a.yaml": []byte("four"), "other": []byte("five"),
	})
	if err := os.MkdirAll(filepath.Join(dir, "config", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(dir, "config"), link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, folder string
		want        map[string]string
	}{
		{dir, "set", map[string]string{"set/a.yaml": "one", "set/b.yaml": "two"}},
		{filepath.Join(dir, "config"), "set", map[string]string{"set/a.yaml": "four"}},
		{link, "set", map[string]string{"set/a.yaml": "four"}},
		{filepath.Join(dir, "config", "deep"), "set", nil},
		{dir, "other", nil},
	} {
		files, id, err := head.Folder(c.dir, c.folder, 0, limits)
		if err != nil || id != commit || !maps.Equal(files, c.want) {
			t.Errorf("%s of %s: %v at %s, %v", c.folder, c.dir, files, id, err)
		}
	}
}

func TestNoCommitIsNoError(t *testing.T) {
	unborn, _ := committed(t, nil)
	for _, dir := range []string{t.TempDir(), unborn} {
		if files, _, err := head.Folder(dir, "set", 0, limits); !errors.Is(err, head.ErrNone) || files != nil {
			t.Errorf("%s: %v, %v", dir, files, err)
		}
	}
}

func TestWhatIsReadIsBounded(t *testing.T) {
	for want, files := range map[string]map[string][]byte{
		"more than 3 files":        {"set/a": nil, "set/b": nil, "set/c": nil, "set/d": nil},
		"set/a: object":            {"set/a": []byte(strings.Repeat("x", 9))},
		"has 9 bytes, more than 8": {"set/a": []byte(strings.Repeat("x", 9))},
	} {
		for name, content := range files {
			if content == nil {
				files[name] = []byte("x")
			}
		}
		dir, _ := committed(t, files)
		if read, _, err := head.Folder(dir, "set", 0, limits); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want %s", slices.Collect(maps.Keys(read)), err, want)
		}
	}
}

// TestFurtherWorkTreeAndPackedObjects as git itself makes them.
func TestFurtherWorkTreeAndPackedObjects(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skipf("git is not installed: %v", err)
	}
	dir, _ := committed(t, map[string][]byte{"set/a": []byte("one")})
	further := filepath.Join(t.TempDir(), "further")
	for _, args := range [][]string{{"config", "core.bare", "false"}, {"gc", "-q"}, {"worktree", "add", "-q", "-b", "side", further}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	files, _, err := head.Folder(further, "set", 0, limits)
	if err != nil || files["set/a"] != "one" {
		t.Errorf("%v, %v", files, err)
	}
}
