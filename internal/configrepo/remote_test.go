package configrepo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// gitBackend serves a folder of repositories as git's own HTTP server does.
func gitBackend(t testing.TB, root string) http.Handler {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("git is not installed, so nothing can serve its protocol here:", err)
	}
	path := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(path); err != nil {
		t.Skip("git has no http-backend here:", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &cgi.Handler{Path: path, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + root,
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
		if p := r.Header.Get("Git-Protocol"); p != "" {
			h.Env = append(h.Env, "GIT_PROTOCOL="+p)
		}
		h.ServeHTTP(w, r)
	})
}

func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func TestHTTP(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"protocol 2": func(h http.Handler) http.Handler { return h },
		"protocol 0": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Git-Protocol")
				h.ServeHTTP(w, r)
			})
		},
		"redirected": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if rest, ok := strings.CutPrefix(r.URL.Path, "/config.git"); ok && r.Method == http.MethodGet {
					http.Redirect(w, r, "/moved/config.git"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
					return
				}
				if !strings.HasPrefix(r.URL.Path, "/moved/") {
					http.Error(w, "gone", http.StatusGone)
					return
				}
				http.StripPrefix("/moved", h).ServeHTTP(w, r)
			})
		},
	} {
		for _, child := range [][]string{nil, testChild()} {
			t.Run(fmt.Sprint(name, len(child)), func(t *testing.T) {
				f := newFixture(t)
				s := serve(t, wrap(gitBackend(t, filepath.Dir(f.src))))
				f.o.URLs, f.o.AllowLocalPath, f.o.Child = []string{s.URL + "/config.git"}, false, child
				r := f.open()
				wantAccepted(t, mustSync(t, r), f.intro)
				first := f.commit(f.anna, "a", "shop/staging/g", "1", "b", strings.Repeat("b", 3000))
				f.commit(nil, "b", "shop/staging/g", "2")
				last := f.commit(f.anna, "c", "shop/staging/g", "3")
				out := mustSync(t, r)
				wantAccepted(t, out, last)
				if out.Fetched == 0 || out.Fetched > 20000 {
					t.Fatalf("fetched %d bytes", out.Fetched)
				}
				// git revert to an earlier tree, from a server with bitmaps:
				// what the server believes we have must be there.
				run(t, f.src, "repack", "-adbq")
				back := f.commit(f.bo, "revert", "shop/staging/g", "1")
				wantAccepted(t, mustSync(t, r), back)
				if _, err := r.Tree(first); err != nil {
					t.Fatal(err)
				}
				run(t, r.mirrorDir(), "fsck", "--full", "--strict")
			})
		}
	}
}

func run(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestHTTPCredentials(t *testing.T) {
	f := newFixture(t)
	git := gitBackend(t, filepath.Dir(f.src))
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != "s3cret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		git.ServeHTTP(w, r)
	}))
	f.o.URLs = []string{s.URL + "/config.git"}
	_, err := f.open().Sync(context.Background())
	if err == nil || !strings.Contains(err.Error(), "asks for credentials (401): set tokenFile") {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.o.Credentials.TokenFile = token
	r := f.open()
	var se *SyncError
	if _, err = r.Sync(context.Background()); !errors.As(err, &se) || !se.Permanent() || strings.Contains(err.Error(), "wrong") {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantAccepted(t, mustSync(t, r), f.intro)
	f.o.URLs = []string{"http://git.example.com/config.git"}
	if _, err = f.open().Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "not sent over http") {
		t.Fatal(err)
	}
}

func TestHTTPSWithItsOwnCA(t *testing.T) {
	f := newFixture(t)
	s := httptest.NewUnstartedServer(gitBackend(t, filepath.Dir(f.src)))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	f.o.URLs = []string{s.URL + "/config.git"}
	if _, err := f.open().Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	f.o.Credentials.CAFile = ca
	wantAccepted(t, mustSync(t, f.open()), f.intro)
}

// Servers that lie are stopped by a cap or by the deadline, in one clear line.
func TestHostileServers(t *testing.T) {
	advertise := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	}
	tip := strings.Repeat("ab", 20)
	oneRef := func(w http.ResponseWriter) {
		advertise(w)
		io.WriteString(w, pkt("# service=git-upload-pack\n")+flushPkt+pkt("%s refs/heads/main\x00 ofs-delta\n", tip)+flushPkt)
	}
	band := func(w io.Writer, data []byte) { io.WriteString(w, pkt("\x01%s", data)) }
	for name, c := range map[string]struct {
		says string
		h    http.HandlerFunc
	}{
		"ref flood": {"longer than allowed", func(w http.ResponseWriter, r *http.Request) {
			advertise(w)
			for i := 0; ; i++ {
				if _, err := io.WriteString(w, pkt("%040x refs/heads/b%d\n", i+1, i)); err != nil {
					return
				}
			}
		}},
		"silence":   {"no answer within", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"html":      {"not a git repository", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }},
		"404":       {"no such repository", http.NotFound},
		"busy":      {"answers 503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }},
		"slow down": {"slow down", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) }},
		"sha256": {"object format", func(w http.ResponseWriter, r *http.Request) {
			advertise(w)
			io.WriteString(w, pkt("version 2\n")+pkt("object-format=sha256\n")+flushPkt)
		}},
		"no packets": {"cannot read the list of refs", func(w http.ResponseWriter, r *http.Request) { advertise(w); io.WriteString(w, "zzzzzzzz") }},
		"cut short":  {"cannot read the list of refs", func(w http.ResponseWriter, r *http.Request) { advertise(w); io.WriteString(w, "00ff") }},
		"empty": {"no branch main", func(w http.ResponseWriter, r *http.Request) {
			advertise(w)
			io.WriteString(w, pkt("version 2\n")+flushPkt)
		}},
		"bad id": {"40 hexadecimal", func(w http.ResponseWriter, r *http.Request) {
			advertise(w)
			io.WriteString(w, pkt("../../etc refs/heads/main\n")+flushPkt)
		}},
		"object bomb": {"claims 3992977408 objects", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				oneRef(w)
				return
			}
			io.WriteString(w, pkt("NAK\n"))
			band(w, header(0xEE000000))
		}},
		"endless pack": {"longer than the", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				oneRef(w)
				return
			}
			io.WriteString(w, pkt("NAK\n"))
			band(w, header(10))
			for r.Context().Err() == nil {
				band(w, make([]byte, 60000))
			}
		}},
		"stalled pack": {"no answer within", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				oneRef(w)
				return
			}
			io.WriteString(w, pkt("NAK\n"))
			band(w, header(10))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		"error band": {"disk on fire", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				oneRef(w)
				return
			}
			io.WriteString(w, pkt("NAK\n")+pkt("\x03disk on\nfire\n"))
		}},
		"another commit's pack": {"incomplete", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				oneRef(w)
				return
			}
			io.WriteString(w, pkt("NAK\n"))
			band(w, sealed(append(append(header(1), entryHeader(3, 1)...), deflated([]byte("x"))...)))
			io.WriteString(w, flushPkt)
		}},
	} {
		for _, child := range [][]string{nil, testChild()} {
			t.Run(fmt.Sprint(name, len(child)), func(t *testing.T) {
				f := newFixture(t)
				s := serve(t, c.h)
				f.o.URLs, f.o.Child = []string{s.URL + "/config.git"}, child
				f.o.Limits.PackBytes, f.o.Limits.Timeout = 1<<20, 2*time.Minute
				if strings.Contains(c.says, "no answer") {
					f.o.Limits.Timeout = 300 * time.Millisecond
				}
				r := f.open()
				_, err := r.Sync(context.Background())
				if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("%v", err)
				}
				for _, dir := range []string{r.mirrorDir(), r.freshDir()} {
					if left, _ := os.ReadDir(packDir(dir)); len(left) > 0 && dir == r.mirrorDir() {
						t.Fatalf("left %v", left)
					}
				}
			})
		}
	}
}

// sshServer runs git-upload-pack for whoever holds the key.
func sshServer(t testing.TB, allowed ssh.PublicKey) (addr string, host ssh.PublicKey) {
	t.Helper()
	if _, err := exec.LookPath("git-upload-pack"); err != nil {
		t.Skip("git is not installed, so nothing can serve its protocol here:", err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(allowed.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go sshConn(c, config)
		}
	}()
	return l.Addr().String(), signer.PublicKey()
}

func sshConn(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		for req := range reqs {
			if req.Type != "exec" {
				req.Reply(false, nil)
				continue
			}
			req.Reply(true, nil)
			cmd := exec.Command("/bin/sh", "-c", string(req.Payload[4:]))
			cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
			cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
			in, err := cmd.StdinPipe()
			if err != nil {
				return
			}
			go func() {
				io.Copy(in, ch)
				in.Close()
			}()
			status := []byte{0, 0, 0, 0}
			if err := cmd.Run(); err != nil {
				status[3] = 1
			}
			ch.SendRequest("exit-status", false, status)
			ch.Close()
			break
		}
	}
}

func TestSSH(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	addr, host := sshServer(t, client)
	dir := t.TempDir()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, known := filepath.Join(dir, "key"), filepath.Join(dir, "known_hosts")
	if err := errors.Join(os.WriteFile(key, pem.EncodeToMemory(block), 0o600),
		os.WriteFile(known, []byte(knownhosts.Line([]string{addr}, host)+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, child := range [][]string{nil, testChild()} {
		f := newFixture(t)
		f.o.URLs, f.o.Child = []string{"ssh://git@" + addr + f.src}, child
		if _, err := f.open().Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "set sshKeyFile and knownHostsFile") {
			t.Fatal(err)
		}
		f.o.Credentials = Credentials{SSHKeyFile: key, KnownHostsFile: known}
		r := f.open()
		wantAccepted(t, mustSync(t, r), f.intro)
		id := f.commit(f.anna, "two", "a", "2")
		wantAccepted(t, mustSync(t, r), id)
		wantAccepted(t, mustSync(t, r), id)
		f.o.URLs = []string{"ssh://git@" + addr + f.src + "-none"}
		if _, err := f.open().Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "does not appear to be a git repository") {
			t.Fatal(err)
		}
		wrong := filepath.Join(dir, "wrong_hosts")
		if err := os.WriteFile(wrong, []byte(knownhosts.Line([]string{addr}, client)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f.o.Credentials.KnownHostsFile = wrong
		if _, err := f.open().Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "somebody may be in between") {
			t.Fatal(err)
		}
	}
}

func TestRemoteNames(t *testing.T) {
	for url, want := range map[string]remote{
		"git@host:ops/config.git":     {kind: remoteSSH, user: "git", host: "host:22", path: "ops/config.git"},
		"host:/srv/x":                 {kind: remoteSSH, user: "git", host: "host:22", path: "/srv/x"},
		"ssh://ann@host:2222/~bob/x":  {kind: remoteSSH, user: "ann", host: "host:2222", path: "~bob/x"},
		"ssh://host/x":                {kind: remoteSSH, user: "git", host: "host:22", path: "/x"},
		"file:///srv/x/":              {kind: remoteLocal, path: "/srv/x"},
		"/srv/x":                      {kind: remoteLocal, path: "/srv/x"},
		"https://git.example.com/x/y": {kind: remoteHTTP},
	} {
		got, err := parseRemote(url, true)
		if err != nil || got.kind != want.kind || got.user != want.user || got.host != want.host || got.path != want.path {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
	}
	for _, url := range []string{"", "ext::sh -c x", "git://x/y", "ssh://-oProxyCommand=x/y", "relative/path", "https:///x", "https://x/y?z", "a\nb:/c", "ftp://x/y"} {
		if got, err := parseRemote(url, true); err == nil {
			t.Errorf("%q became %+v", url, got)
		}
	}
}

// BenchmarkSyncOneCommit is from a commit on the server to its acceptance, over
// HTTP on loopback with a real server and a real child.
func BenchmarkSyncOneCommit(b *testing.B) {
	for _, child := range [][]string{nil, testChild()} {
		b.Run(fmt.Sprint("child=", len(child) > 0), func(b *testing.B) {
			f := newFixture(b)
			s := serve(b, gitBackend(b, filepath.Dir(f.src)))
			f.o.URLs, f.o.Child = []string{s.URL + "/config.git"}, child
			r := f.open()
			mustSync(b, r)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				id := f.commit(f.anna, "next", "shop/production/g", fmt.Sprint(i))
				b.StartTimer()
				wantAccepted(b, mustSync(b, r), id)
			}
		})
	}
}

// BenchmarkPoll finds nothing new.
func BenchmarkPoll(b *testing.B) {
	f := newFixture(b)
	s := serve(b, gitBackend(b, filepath.Dir(f.src)))
	f.o.URLs, f.o.Child = []string{s.URL + "/config.git"}, testChild()
	r := f.open()
	mustSync(b, r)
	for b.Loop() {
		mustSync(b, r)
	}
}
