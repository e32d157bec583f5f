package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// Credentials of the S3 server for tests.
const (
	s3Access = "testaccess"
	s3Secret = "testsecret0123456789"
	s3Bucket = "releases"
)

// s3Server is versitygw behind a proxy that counts what leaves and can be cut.
type s3Server struct {
	t           testing.TB
	url         string
	credentials string // shared credentials file
	down        atomic.Bool
	payload     atomic.Int64 // bytes of archives that left the server
	refused     atomic.Int64 // requests turned away while down
}

// newS3 starts the server.
func newS3(t testing.TB, dir string) *s3Server {
	t.Helper()
	s := &s3Server{t: t, credentials: filepath.Join(dir, "s3-credentials")}
	text := "[default]\naws_access_key_id = " + s3Access + "\naws_secret_access_key = " + s3Secret + "\n"
	if err := os.WriteFile(s.credentials, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	data, sidecar := filepath.Join(dir, "s3"), filepath.Join(dir, "meta")
	for _, d := range []string{filepath.Join(data, s3Bucket), sidecar} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	backend := freeAddress(t)
	cmd := exec.Command(versitygw(t), "--port", backend, "--keep-alive", "--quiet", "posix", "--sidecar", sidecar, data)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3Access, "ROOT_SECRET_KEY="+s3Secret)
	startProcess(t, cmd, filepath.Join(dir, "s3.log"))
	eventually(t, "the S3 server starts", func() string {
		conn, err := net.Dial("tcp", backend)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	s.proxy(backend)
	return s
}

// proxy stands before the server and counts.
func (s *s3Server) proxy(backend string) {
	target := &url.URL{Scheme: "http", Host: backend}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Method == http.MethodGet && !strings.HasSuffix(r.Request.URL.Path, ".gitopsd-index") {
				r.Body = &countingBody{ReadCloser: r.Body, n: &s.payload}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			s.refused.Add(1)
			http.Error(w, "down for a test", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go server.Serve(l)
	s.t.Cleanup(func() { server.Close() })
	s.url = "http://" + l.Addr().String()
}

// countingBody counts what passes.
type countingBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countingBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// Ports that freeAddress hands out: below the range that the kernel takes the ports of outgoing connections from, so that an agent that is down for a while finds
// its port again, and a block for each test process, held by a lock, so that no other run takes it meanwhile.
const (
	portsFrom  = 10240
	portsBlock = 500
	portBlocks = 40
)

// portBlock takes this process's block of ports, until the process ends.
var portBlock = sync.OnceValues(func() (int, error) {
	for i := range portBlocks {
		file, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("gitopsd-e2e-ports-%d-%d.lock", os.Getuid(), i)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, err
		}
		if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			portsHeld = file
			return portsFrom + i*portsBlock, nil
		}
		file.Close()
	}
	return 0, errors.New("every block of ports is taken by another run of these tests")
})

var (
	portsHeld *os.File // keeps the lock
	nextPort  atomic.Int64
)

// freeAddress finds a port that is free now, and never the same twice while others are left.
func freeAddress(t testing.TB) string {
	t.Helper()
	from, err := portBlock()
	if err != nil {
		t.Fatal(err)
	}
	for range portsBlock {
		port := from + int(nextPort.Add(1)-1)%portsBlock
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}
