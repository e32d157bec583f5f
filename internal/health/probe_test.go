package health

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired"
)

// ask probes once within five seconds.
func ask(t *testing.T, c desired.Check, env ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return newProbe(env)(ctx, c)
}

func TestProbeHTTP(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "elsewhere") }))
	defer elsewhere.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "all is well") })
	mux.HandleFunc("/sick", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/host", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, " ", r.Header.Get("X-Probe")) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			fmt.Fprint(w, strings.Repeat("x", 1024))
		}
		fmt.Fprint(w, "end")
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	cases := []struct {
		name  string
		check desired.HTTPCheck
		want  string // in the error; "" passes
	}{
		{"any status", desired.HTTPCheck{URL: "/ok"}, ""},
		{"status", desired.HTTPCheck{URL: "/ok", Status: 200}, ""},
		{"wrong status", desired.HTTPCheck{URL: "/ok", Status: 204}, "answered 200, wanted 204"},
		{"sick", desired.HTTPCheck{URL: "/sick"}, "answered 503, wanted 200 to 399"},
		{"wanted sick", desired.HTTPCheck{URL: "/sick", Status: 503}, ""},
		{"missing", desired.HTTPCheck{URL: "/missing"}, "answered 404"},
		{"body", desired.HTTPCheck{URL: "/ok", Body: "well"}, ""},
		{"no such body", desired.HTTPCheck{URL: "/ok", Body: "ill"}, `without "ill"`},
		{"body beyond the bound", desired.HTTPCheck{URL: "/long", Body: "end"}, `without "end"`},
		{"redirect here", desired.HTTPCheck{URL: "/here", Status: 200}, ""},
		{"redirect away is the answer", desired.HTTPCheck{URL: "/away", Status: 302}, ""},
		{"redirect away is not followed", desired.HTTPCheck{URL: "/away", Status: 200}, "answered 302, wanted 200"},
		{"redirect loop ends", desired.HTTPCheck{URL: "/loop", Status: 200}, "answered 302"},
		{"headers", desired.HTTPCheck{URL: "/host", Header: map[string]string{"Host": "shop.example", "X-Probe": "1"}, Body: "shop.example 1"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.check.URL = server.URL + c.check.URL
			message, err := ask(t, desired.Check{HTTP: &c.check})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || err == nil && message == "" {
				t.Errorf("got %q, %v, want %q", message, err, c.want)
			}
		})
	}
}

func TestProbeTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := desired.Check{TCP: &desired.TCPCheck{Address: l.Addr().String()}}
	if message, err := ask(t, c); err != nil || !strings.Contains(message, "accepts connections") {
		t.Errorf("got %q, %v", message, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, c); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error = %v", err)
	}
}

func TestProbeExec(t *testing.T) {
	t.Setenv("LEAKED", "yes")
	cases := []struct {
		name    string
		command []string
		pass    bool
		want    string
	}{
		{"passes", []string{"/bin/sh", "-c", "echo fine"}, true, "ended with status 0: fine"},
		{"fails", []string{"/bin/sh", "-c", "echo broken >&2; exit 3"}, false, "exit status 3: broken"},
		{"environment", []string{"/bin/sh", "-c", "echo $LEAKED $GITOPSD_TAG_PORT $(pwd)"}, true, "status 0: 8080 /"},
		{"missing", []string{"/no/such/program"}, false, "no such file"},
		{"much output", []string{"/bin/sh", "-c", "yes | head -c 1000000; exit 1"}, false, "exit status 1: y y y"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			message, err := ask(t, desired.Check{Exec: &desired.ExecCheck{Command: c.command}}, "GITOPSD_TAG_PORT=8080")
			if err != nil {
				message = err.Error()
			}
			if (err == nil) != c.pass || !strings.Contains(message, c.want) || len(message) > maxOutput {
				t.Errorf("got %q, %v", message, err)
			}
		})
	}
}

func TestProbeExecKillsTheWholeGroup(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := newProbe(nil)(ctx, desired.Check{Exec: &desired.ExecCheck{Command: []string{"/bin/sh", "-c", "sleep 600 & echo $! > " + pidFile + "; wait"}}})
		done <- err
	}()
	var pid string
	eventually(t, "the child's pid", func() bool {
		text, err := os.ReadFile(pidFile)
		pid = strings.TrimSpace(string(text))
		return err == nil && pid != ""
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("a killed program passed")
	}
	eventually(t, "the child's end", func() bool {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// eventually waits for a condition with a deadline.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("no %s within ten seconds", what)
		case <-tick.C:
		}
	}
}

func TestProbeUnit(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1 $2\" = \"is-active --\" ] || exit 9\ncase $3 in up.service) echo active;; *) echo failed; exit 3;; esac\n"
	program := filepath.Join(dir, "systemctl")
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if message, err := ask(t, desired.Check{Unit: &desired.UnitCheck{Name: "up.service"}}); err != nil || message != "unit up.service is active" {
		t.Errorf("got %q, %v", message, err)
	}
	if _, err := ask(t, desired.Check{Unit: &desired.UnitCheck{Name: "down.service"}}); err == nil || err.Error() != "unit down.service is failed" {
		t.Errorf("error = %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := ask(t, desired.Check{Unit: &desired.UnitCheck{Name: "up.service"}}); err == nil || !strings.Contains(err.Error(), "there is no systemctl here") {
		t.Errorf("error = %v", err)
	}
}

func TestRunAgainstARealServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	defer server.Close()
	p, err := New(Options{Group: "g", Checks: []desired.Check{{Name: "up", HTTP: &desired.HTTPCheck{URL: server.URL}, Interval: 10 * time.Millisecond, Timeout: 5 * time.Second, HealthyAfter: 2, UnhealthyAfter: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	eventually(t, "healthy verdict", func() bool { return p.Verdict().State == Healthy })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
