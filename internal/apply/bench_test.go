package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// The test binary is its own supervisor, and the process that crash tests kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise":
			os.Exit(SuperviseMain(os.Args[2:]))
		case "apply-and-die":
			os.Exit(applyAndDie(os.Args[2:]))
		}
	}
	// The race detector lets a process sleep for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}

// applyAndDie applies the deployment in a file and kills itself with -9 at the
// n-th durable operation: args are the options' file, the deployment's and n.
func applyAndDie(args []string) int {
	var o Options
	var d Deployment
	var n int
	if err := errors.Join(readState(args[0], &o), readState(args[1], &d)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Sscan(args[2], &n)
	faults := &durable.Faults{}
	faults.Observe(func(at int, op durable.Op) {
		if at == n {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	o.Disk = &durable.Disk{Hook: faults.Hook}
	a, err := New(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if _, err := a.Apply(context.Background(), d, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// workbench is a host for one test: a target directory, a state directory and
// bundles.
type workbench struct {
	t      testing.TB
	dir    string
	target string
	runs   string // hooks append "DEPLOYMENT EVENT" lines here
	count  int
}

func newBench(t testing.TB) *workbench {
	t.Helper()
	w := &workbench{t: t, dir: scratch(t)}
	t.Cleanup(func() { findCgroups("/proc/self", 0).collect() })
	w.target = filepath.Join(w.dir, "target")
	w.runs = filepath.Join(w.dir, "runs")
	if err := os.Mkdir(w.target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.runs, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(w.runs, 0o666)
	return w
}

// scratch makes a directory that other users can enter, in memory if possible:
// crash tests sync thousands of times.
func scratch(t testing.TB) string {
	t.Helper()
	base := os.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err == nil && st.Flags&unix.ST_NOEXEC == 0 && st.Bavail*uint64(st.Bsize) > 256<<20 && unix.Access("/dev/shm", unix.W_OK) == nil {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "apply-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (w *workbench) options() Options {
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	return Options{
		StateDir: filepath.Join(w.dir, "state"), DestinationRoot: w.target, WorkDir: w.dir,
		Supervisor: []string{self, "supervise"}, KillGrace: 500 * time.Millisecond, OutputGrace: 200 * time.Millisecond,
	}
}

func (w *workbench) applier() *Applier {
	w.t.Helper()
	a, err := New(w.options())
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// bundle writes a bundle directory: the files by path, where "-> x" is a link
// and names ending in .sh are executable. HOOK in a script is replaced by a line that
// counts the run.
func (w *workbench) bundle(files map[string]string) string {
	w.t.Helper()
	w.count++
	dir := filepath.Join(w.dir, fmt.Sprintf("bundle-%d", w.count))
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if target, link := strings.CutPrefix(content, "-> "); link {
			if err := os.Symlink(target, path); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
			content = strings.ReplaceAll(content, "HOOK", "echo $DEPLOYMENT_ID $LIFECYCLE_EVENT >> "+w.runs)
			if !strings.HasPrefix(content, "#!") {
				content = "#!/bin/sh\n" + content
			}
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// deployment makes a deployment of a bundle directory.
func (w *workbench) deployment(id, dir string) Deployment {
	return Deployment{
		ID: id, ApplicationName: "app", GroupName: "group", GroupID: "g1",
		Source: Source{Path: dir, Type: bundle.TypeDirectory}, CommitTime: time.Unix(1700000000, 0),
	}
}

// apply applies and wants no error.
func (w *workbench) apply(a *Applier, d Deployment) Result {
	w.t.Helper()
	res, err := a.Apply(context.Background(), d, nil)
	if err != nil {
		w.t.Fatalf("apply %s: %v", d.ID, err)
	}
	return res
}

// succeed applies and wants success.
func (w *workbench) succeed(d Deployment) Result {
	w.t.Helper()
	res := w.apply(w.applier(), d)
	if res.Outcome != OutcomeSucceeded {
		w.t.Fatalf("%s: %s %v\n%s", d.ID, res.Outcome, res.Error, strings.Join(res.ScriptsLog, "\n"))
	}
	return res
}

// tree describes everything below the target, one line a path.
func (w *workbench) tree() string {
	w.t.Helper()
	return treeOf(w.t, w.target)
}

func treeOf(t testing.TB, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		n, _, err := statNode(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%s %s", rel, n.Kind)
		switch n.Kind {
		case "link":
			line += " -> " + n.Target
		case "file":
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %04o %d:%d %q %d", n.Mode, n.UID, n.GID, data, n.MTimeNS/1e9)
		default:
			line += fmt.Sprintf(" %04o %d:%d", n.Mode, n.UID, n.GID)
		}
		for _, name := range []string{xattrAccess, xattrDefault} {
			if value, err := readXattr(path, name); err == nil && value != nil {
				line += fmt.Sprintf(" %x", value)
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// once fails the test if a hook ran twice.
func (w *workbench) once() {
	w.t.Helper()
	seen := map[string]bool{}
	for _, line := range w.ran() {
		if seen[line] {
			w.t.Errorf("the hook %q ran twice", line)
		}
		seen[line] = true
	}
}

// ran lists the hooks that ran.
func (w *workbench) ran() []string {
	w.t.Helper()
	data, err := os.ReadFile(w.runs)
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(strings.ReplaceAll(string(data), " ", "/"), "\n", " "))
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func statuses(res Result) string {
	var out []string
	for _, e := range res.Events {
		mark := ""
		if e.Undo {
			mark = "undo "
		}
		out = append(out, mark+string(e.Event)+"="+string(e.Status))
	}
	return strings.Join(out, " ")
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func events(text string) []appspec.Event {
	var out []appspec.Event
	for _, e := range strings.Fields(text) {
		out = append(out, appspec.Event(e))
	}
	return out
}
