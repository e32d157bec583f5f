package demo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell finds sh, without which these tests have no programs to run.
func shell(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh to start:", err)
	}
	return path
}

// gone says whether a process does not exist any more.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// spawned starts a shell that leaves a process behind, and returns both numbers. What is left behind does first.
func spawned(t *testing.T, p *processes, first string) (*process, int) {
	t.Helper()
	said := filepath.Join(t.TempDir(), "pid")
	one, err := p.start("a shell", exec.Command(shell(t), "-c", `(`+first+` echo $$ >/dev/null; sh -c 'echo $PPID' >`+said+`; while :; do sleep 600; done) & wait`), "")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	eventually(t, "the shell leaves a process behind", func() string {
		text, err := os.ReadFile(said)
		if err != nil {
			return err.Error()
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return err.Error()
		}
		return ""
	})
	return one, pid
}

func TestEndLeavesNoProcess(t *testing.T) {
	p, err := newProcesses()
	if err != nil {
		t.Fatal(err)
	}
	polite, below := spawned(t, p, "")
	_, deaf := spawned(t, p, `trap "" TERM;`)
	orphanParent, orphan := spawned(t, p, "")
	if err := orphanParent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-orphanParent.done
	if gone(orphan) {
		t.Fatal("the orphan ended with its parent; nothing is shown")
	}
	if err := p.end([]*process{polite}, patience{leave: 5 * time.Second, soft: 200 * time.Millisecond, hard: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	for name, pid := range map[string]int{"a child's child": below, "one that ignores TERM": deaf, "an orphan": orphan} {
		if !gone(pid) {
			t.Errorf("%s is left as process %d", name, pid)
		}
	}
}

func TestEndSparesChildrenFromBefore(t *testing.T) {
	cmd := exec.Command(shell(t), "-c", "exec sleep 600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	p, err := newProcesses()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.end(nil, endPatience()); err != nil {
		t.Fatal(err)
	}
	if gone(cmd.Process.Pid) {
		t.Error("a child that is none of the demo's was ended")
	}
}

func TestOutput(t *testing.T) {
	p, err := newProcesses()
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(nil, endPatience())
	out, err := p.output(t.Context(), exec.Command(shell(t), "-c", "echo out; echo err >&2"))
	if err != nil || out != "out\nerr" {
		t.Errorf("output %q, %v", out, err)
	}
	if _, err = p.output(t.Context(), exec.Command(shell(t), "-c", "echo why >&2; exit 3")); err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("error %v, want the exit status and what was written", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err = p.output(ctx, exec.Command(shell(t), "-c", "exec sleep 600")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the deadline's", err)
	}
	if _, err = p.output(t.Context(), exec.Command("/nonexistent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want that it does not exist", err)
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (a (b) c) S 7 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 12345 0 0"
	e, ok := parseStat(line)
	if want := (entry{pid: 42, parent: 7, state: 'S', began: 12345, name: "a (b) c"}); !ok || e != want {
		t.Errorf("got %v, %t, want %v", e, ok, want)
	}
	for _, bad := range []string{"", "42", "42 (a", "42 (a) S 7", "x (a) S 7 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 12345"} {
		if e, ok := parseStat(bad); ok {
			t.Errorf("%q was read as %v", bad, e)
		}
	}
	if e, ok := readProcess(os.Getpid()); !ok || e.parent != os.Getppid() {
		t.Errorf("this process: %v, %t", e, ok)
	}
}

func TestDescendants(t *testing.T) {
	table := []entry{{pid: 1}, {pid: 10, parent: 1}, {pid: 11, parent: 10}, {pid: 12, parent: 11}, {pid: 13, parent: 10}, {pid: 14, parent: 13}, {pid: 20, parent: 1}}
	var got []int
	for _, e := range descendants(table, 10, map[int]bool{13: true}) {
		got = append(got, e.pid)
	}
	if want := []int{11, 12}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"HOME=/h", "PATH=/a:/b", "GITOPSD_ADDR=/x", "GIT_DIR=/y", "AWS_PROFILE=z", "NOTIFY_SOCKET=/n", "LISTEN_FDS=1", "EDITOR=vi"}, "/demo/bin", "/demo/lock")
	if want := []string{"HOME=/h", "PATH=/demo/bin:/a:/b", "AWS_CONFIG_FILE=/dev/null", "DEMO_LOCK=/demo/lock"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := environment(nil, "/demo/bin", "/l"); !strings.HasPrefix(got[0], "PATH=/demo/bin:/") {
		t.Errorf("without PATH: %q", got)
	}
}
