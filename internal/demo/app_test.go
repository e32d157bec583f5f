package demo

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// hosted is where a test runs the application.
type hosted struct {
	t                 *testing.T
	root, pid, listen string
}

func newHosted(t *testing.T) hosted {
	t.Helper()
	held, err := reservePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	dir := t.TempDir()
	h := hosted{t: t, root: dir, pid: filepath.Join(dir, "pid"), listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(held.port(0)))}
	if err := os.WriteFile(filepath.Join(dir, "release"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h hosted) start() int {
	return AppMain([]string{"--start", "--listen", h.listen, "--root", h.root, "--pid-file", h.pid})
}
func (h hosted) stop() int { return AppMain([]string{"--stop", "--pid-file", h.pid}) }
func (h hosted) check(want string) int {
	return AppMain([]string{"--check", "http://" + h.listen + "/release", "--expect", want})
}

// process is the number of the one that serves.
func (h hosted) process() int {
	h.t.Helper()
	text, err := os.ReadFile(h.pid)
	if err != nil {
		h.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		h.t.Fatal(err)
	}
	return pid
}

func TestApplicationStartsAndStops(t *testing.T) {
	h := newHosted(t)
	if code := h.stop(); code != 0 {
		t.Errorf("stopping what never ran exits %d", code)
	}
	if code := h.start(); code != 0 {
		t.Fatalf("start exits %d", code)
	}
	if code := h.start(); code == 0 {
		t.Error("a second one starts on the same port")
	}
	if code := h.check("1"); code != 0 {
		t.Errorf("check exits %d", code)
	}
	if code := h.check("2"); code != 1 {
		t.Errorf("check of another release exits %d, want 1", code)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("stop exits %d", code)
	}
	if _, err := net.Dial("tcp", h.listen); err == nil {
		t.Error("the port still answers after stop")
	}
	if code := h.start(); code != 0 {
		t.Errorf("starting once more exits %d", code)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("the last stop exits %d", code)
	}
}

func TestStopSparesStrangers(t *testing.T) {
	h := newHosted(t)
	if err := os.WriteFile(h.pid, []byte(strconv.Itoa(os.Getppid())+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("stop exits %d", code)
	}
	if gone(os.Getppid()) {
		t.Error("a process that is no application was ended")
	}
	for _, text := range []string{"", "x", "-1", "1"} {
		if err := os.WriteFile(h.pid, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if code := h.stop(); code != 1 {
			t.Errorf("stop with %q in the file exits %d, want 1", text, code)
		}
	}
}

func TestApplicationEndsWithTheDemo(t *testing.T) {
	h := newHosted(t)
	lock := filepath.Join(t.TempDir(), "lock")
	unlock, err := durable.Lock(lock)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(lockVariable, lock)
	if code := h.start(); code != 0 {
		t.Fatalf("start exits %d", code)
	}
	defer h.stop()
	if code := h.check("1"); code != 0 {
		t.Fatalf("check exits %d", code)
	}
	unlock()
	eventually(t, "the application ends", func() string {
		if e, ok := readProcess(h.process()); ok && e.state != 'Z' {
			return "it runs"
		}
		return ""
	})
}

func TestApplicationRefusesUnknownFlags(t *testing.T) {
	if code := AppMain([]string{"--nonsense"}); code != 2 {
		t.Errorf("exits %d, want 2", code)
	}
}
