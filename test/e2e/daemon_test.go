package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSignalsAndEndpoints(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 1, voters: 1})
	h := f.hosts[0]
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.awaitSettled() // no hook runs any more
	for path, want := range map[string]string{"/healthz": "", "/readyz": "", "/metrics": "gitopsd_"} {
		code, body := h.get(path)
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s answers %d %q", path, code, body)
		}
	}
	_, metrics := h.get("/metrics")
	contains(t, "/metrics", metrics, "# TYPE ", "# HELP ")

	text, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	h.reload(strings.Replace(string(text), "level: debug", "level: info", 1), "configuration reloaded")
	h.reload(strings.Replace(string(text), "branch: main", "brunch: main", 1), "gitopsd.yaml:10:3")
	h.reload(string(text), "configuration reloaded")
	if h.serves() != "one" || !h.process.running() {
		t.Error("a reload disturbed the agent or its application")
	}

	began := time.Now()
	if err := h.process.stop(); err != nil {
		t.Errorf("TERM ends the agent with %v, want exit 0", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the agent took %s to end", took)
	}
	if h.serves() != "one" {
		t.Error("the application did not survive its agent's end")
	}
	for _, line := range h.processes() {
		if !strings.Contains(line, " demo-app ") {
			t.Errorf("a process is left: %s", line)
		}
	}
	if out, code, _ := f.try("status", "--addr", h.socket); code != 9 {
		t.Errorf("status without an agent exits %d, want 9: %s", code, out)
	}
	h.start()
	f.awaitSettled()

	began = time.Now()
	h.signal(syscall.SIGHUP) // a reload under way does not delay the end
	if err := h.process.stop(); err != nil {
		t.Errorf("HUP and TERM end the agent with %v, want exit 0", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the agent took %s to end in a reload", took)
	}
}

// get asks the socket for a path.
func (h *host) get(path string) (code int, body string) {
	h.f.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.socket)
	}}}
	resp, err := client.Get("http://agent" + path)
	if err != nil {
		h.f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.f.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// reload replaces the configuration, sends HUP and waits for what the agent says of it.
func (h *host) reload(config, says string) {
	h.f.t.Helper()
	if err := os.WriteFile(h.config, []byte(config), 0o600); err != nil {
		h.f.t.Fatal(err)
	}
	before := len(h.agentLog())
	h.signal(syscall.SIGHUP)
	eventually(h.f.t, "the agent answers a reload with "+says, func() string {
		if log := h.agentLog()[before:]; !strings.Contains(log, says) {
			return "it says only: " + log
		}
		return ""
	})
}

func TestWrongConfigurationIsOneLineAndExit10(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gitopsd.yaml")
	const rest = "repository: {urls: [], introduction: 0123456789abcdef0123456789abcdef01234567}\n"
	for text, says := range map[string]string{
		"":               "does not exist",
		"host: [web-1\n": "gitopsd.yaml:",
		"host: web-1\nlog: {levle: info}\n" + rest:   "gitopsd.yaml:2:7",
		"host: web-1\nsocket: run/api.sock\n" + rest: "gitopsd.yaml:2:9",
	} {
		if text != "" {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(binary, "agent", "--config", file)
		if text == "" {
			cmd = exec.Command(binary, "agent", "--config", file+".missing")
		}
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 10 {
			t.Errorf("%q: exit %d, want 10\n%s", text, code, out)
		}
		contains(t, "the agent", string(out), says)
		if strings.Contains(string(out), "goroutine") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%q: more than a clear line:\n%s", text, out)
		}
	}
}

func TestUnreachableGitIsOneLineAndComesBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 1, voters: 1, late: []int{0}})
	h := f.hosts[0]
	f.git.down.Store(true)
	h.start()
	const line = "the config repository cannot be followed"
	eventually(t, "the agent says that git is down", func() string {
		if log := h.agentLog(); !strings.Contains(log, line) {
			return "it says only: " + log
		}
		return ""
	})
	contains(t, "the agent's log", h.agentLog(), "503")
	if code, body := h.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d %q while git is down", code, body)
	}
	if code, body := h.get("/readyz"); code == http.StatusOK {
		t.Errorf("/readyz answers %d %q without a verified commit", code, body)
	}
	contains(t, "status", f.command("status", "--addr", h.socket), "SourceUnreachable", "503")
	f.git.down.Store(false)
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.git.down.Store(true)
	eventually(t, "the agent says again that git is down", func() string {
		_, notices, _ := h.status(website)
		for _, n := range notices {
			if n.Kind == "SourceUnreachable" {
				return ""
			}
		}
		return "no notice"
	})
	if n := strings.Count(h.agentLog(), line); n != 2 {
		t.Errorf("two failures of git gave %d lines", n)
	}
	f.git.down.Store(false)
	f.deploy(release{name: "two"}, allAtOnce)
	f.awaitRelease("two")
}
