package e2e

import (
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// gitServer serves one bare repository by git's own http-backend, and holds a working copy that commits are made in.
type gitServer struct {
	t       testing.TB
	bare    string
	work    string
	url     string
	key     string // signer's private key
	allowed string // allowed_signers file
	down    atomic.Bool
	fetches atomic.Int64 // requests that asked for a pack
}

// newGit makes the repository, its signer and its server.
func newGit(t testing.TB, dir string) *gitServer {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Fatal("these tests need git")
	}
	g := &gitServer{t: t, bare: filepath.Join(dir, "srv", "config.git"), work: filepath.Join(dir, "work"), key: filepath.Join(dir, "signer"),
		allowed: filepath.Join(dir, "allowed_signers")}
	g.run(dir, "init", "-q", "--bare", "-b", "main", g.bare)
	g.run(dir, "-C", g.bare, "config", "http.receivepack", "true")
	g.run(dir, "init", "-q", "-b", "main", g.work)
	makeSigner(t, g.key, g.allowed)
	for key, value := range map[string]string{"user.name": "Anna", "user.email": "anna@example.com", "gpg.format": "ssh", "gpg.ssh.program": binary,
		"user.signingkey": g.key, "commit.gpgsign": "true"} {
		g.run(g.work, "config", key, value)
	}
	g.serve(dir)
	g.run(g.work, "remote", "add", "origin", g.bare)
	return g
}

// serve starts the HTTP server on loopback.
func (g *gitServer) serve(dir string) {
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		g.t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(core)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Join(dir, "srv"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.down.Load() {
			http.Error(w, "down for a test", http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "git-upload-pack") {
			g.fetches.Add(1)
		}
		backend.ServeHTTP(w, r)
	})}
	go server.Serve(l)
	g.t.Cleanup(func() { server.Close() })
	g.url = "http://" + l.Addr().String() + "/config.git"
}

// run runs git and fails the test when git does.
func (g *gitServer) run(dir string, args ...string) string {
	g.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// write puts a file into the working copy.
func (g *gitServer) write(path, content string) {
	g.t.Helper()
	full := filepath.Join(g.work, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// commit commits everything, signed, and pushes; it returns the id.
func (g *gitServer) commit(subject string) string {
	g.t.Helper()
	g.run(g.work, "add", "-A")
	g.run(g.work, "commit", "-q", "--allow-empty", "-S", "-m", subject)
	return g.push()
}

// push pushes and returns the tip.
func (g *gitServer) push() string {
	g.t.Helper()
	g.run(g.work, "push", "-q", "origin", "main")
	return g.run(g.work, "rev-parse", "HEAD")
}
