package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

func TestMain(m *testing.M) {
	// The fake S3 keeps one goroutine for its uploads.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/johannesboyne/gofakes3.(*uploader).run"))
}

// site is one kind of origin with means to put things there behind its back.
type site struct {
	options  Options
	location func(name string) Location
	store    func(t *testing.T, name string, data []byte)
	canPut   bool
	whole    bool                     // read whole, without an index
	dead     bool                     // one of its endpoints is down, and may have what the other has not
	archive  func(data []byte) []byte // what is read of stored data; nil: the same
}

const secretKey = "SECRETSECRETSECRET"

// sites starts one of each kind.
func sites(t *testing.T) map[string]site {
	return map[string]site{
		"s3": s3Site(t), "s3 behind a dead endpoint": deadEndpointSite(t), "https": httpsSite(t), "directory": directorySite(t), "repository": repositorySite(t),
		"github":            forgeSite(t, Location{Kind: GitHub, Owner: "ops/web"}, "api.github.com/repos/ops/web/tarball/"),
		"github enterprise": forgeSite(t, Location{Kind: Forge, Forge: ForgeGitHub, URL: "https://hub.example.com/ops/web.git"}, "hub.example.com/api/v3/repos/ops/web/tarball/"),
		"gitlab":            forgeSite(t, Location{Kind: Forge, Forge: ForgeGitLab, URL: "https://lab.example.com/ops/sub/web"}, "lab.example.com/api/v4/projects/ops%2Fsub%2Fweb/repository/archive.tar.gz?sha="),
		"gitea":             forgeSite(t, Location{Kind: Forge, Forge: ForgeGitea, URL: "https://tea.example.com/below/ops/web/"}, "tea.example.com/below/api/v1/repos/ops/web/archive/"),
	}
}

func s3Site(t *testing.T) site {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("releases"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = "+secretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := NewClient(time.Second * 10)
	t.Cleanup(client.CloseIdleConnections)
	o := Options{Endpoint: server.URL, PathStyle: true, CredentialsFile: file, Client: client}
	location := func(name string) Location { return Location{Kind: S3, Bucket: "releases", Key: "web/" + name} }
	return site{options: o, location: location, canPut: true, store: func(t *testing.T, name string, data []byte) {
		if _, err := backend.PutObject("releases", "web/"+name, nil, bytes.NewReader(data), int64(len(data)), nil); err != nil {
			t.Fatal(err)
		}
	}}
}

func httpsSite(t *testing.T) site {
	t.Helper()
	files := map[string][]byte{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", `"`+bundle.DigestBytes(data).Short()+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(server.Close)
	location := func(name string) Location {
		return Location{Kind: Https, URL: strings.Replace(server.URL, "https://", "https://user:"+secretKey+"@", 1) + "/" + name + "?token=" + secretKey}
	}
	return site{options: Options{Client: server.Client()}, location: location, store: func(_ *testing.T, name string, data []byte) { files[name] = data }}
}

func directorySite(t *testing.T) site {
	dir := t.TempDir()
	location := func(name string) Location { return Location{Kind: Directory, Path: filepath.Join(dir, name)} }
	return site{location: location, canPut: true, store: func(t *testing.T, name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}}
}

func noise(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(out)
	return out
}

func archive(t *testing.T) ([]byte, *bundle.Index) {
	t.Helper()
	var out bytes.Buffer
	x, _, err := bundle.Pack(&out, fstest.MapFS{"appspec.yml": {Data: []byte("version: 0.0\n")}, "f": {Data: noise(1 << 20)}}, bundle.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), x
}

func mustOpen(t *testing.T, l Location, o Options) Origin {
	t.Helper()
	from, err := Open(l, o)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

func eachSite(t *testing.T, test func(t *testing.T, s site)) {
	for name, s := range sites(t) {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func TestRangesAndSize(t *testing.T) {
	data := noise(300_000)
	eachSite(t, func(t *testing.T, s site) {
		s.store(t, "a.zip", data)
		data := data
		if s.archive != nil {
			data = s.archive(data)
		}
		from := mustOpen(t, s.location("a.zip"), s.options)
		size, err := from.Size(t.Context())
		if err != nil || size != int64(len(data)) {
			t.Fatalf("size %d (%v)", size, err)
		}
		for _, r := range [][2]int64{{0, 1}, {0, size}, {1, 2}, {size - 1, 1}, {100_000, 65_536}} {
			body, err := from.ReadRange(t.Context(), r[0], r[1])
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			if err != nil || !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
				t.Errorf("range %v: %d bytes (%v)", r, len(got), err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestBeyondTheEndIsAnErrorThatStays(t *testing.T) {
	eachSite(t, func(t *testing.T, s site) {
		s.store(t, "a.zip", noise(1000))
		from := mustOpen(t, s.location("a.zip"), s.options)
		end := int64(1000)
		if s.archive != nil {
			end = int64(len(s.archive(noise(1000))))
		}
		for _, r := range [][2]int64{{end, 1}, {end - 500, 501}, {5 * end, 10}} {
			body, err := from.ReadRange(t.Context(), r[0], r[1])
			if err == nil {
				_, err = io.ReadAll(body)
				_ = body.Close()
			}
			if err == nil || Transient(err) != s.dead || !strings.Contains(err.Error(), "shorter") && !strings.Contains(err.Error(), "size in group.yaml") {
				t.Errorf("range %v: %v (transient %v)", r, err, Transient(err))
			}
		}
	})
}

func TestMissingIsPermanentAndSaysWhatToDo(t *testing.T) {
	eachSite(t, func(t *testing.T, s site) {
		from := mustOpen(t, s.location("nothing.zip"), s.options)
		_, sizeErr := from.Size(t.Context())
		_, readErr := from.ReadRange(t.Context(), 0, 10)
		_, indexErr := from.ReadIndex(t.Context())
		for _, err := range []error{sizeErr, readErr, indexErr} {
			if err == nil || Transient(err) != s.dead || !NotFound(err) || !strings.Contains(err.Error(), "group.yaml") && !strings.Contains(err.Error(), "correct the revision") {
				t.Errorf("%v (transient %v, not found %v)", err, Transient(err), NotFound(err))
			}
			if strings.Contains(err.Error(), secretKey) {
				t.Errorf("a secret in %v", err)
			}
		}
	})
}

func TestIndexBesideOrAtTheEnd(t *testing.T) {
	data, x := archive(t)
	eachSite(t, func(t *testing.T, s site) {
		if s.whole {
			s.store(t, "tail.tar.zst", data)
			_, err := mustOpen(t, s.location("tail.tar.zst"), s.options).ReadIndex(t.Context())
			if !NotFound(err) || Transient(err) || !strings.Contains(err.Error(), "remove index from group.yaml") {
				t.Errorf("%v", err)
			}
			return
		}
		s.store(t, "tail.tar.zst", data)
		got, err := mustOpen(t, s.location("tail.tar.zst"), s.options).ReadIndex(t.Context())
		if err != nil || !bytes.Equal(got, x.Encode()) {
			t.Errorf("from the end: %d bytes (%v)", len(got), err)
		}
		s.store(t, "beside.zip", noise(100))
		s.store(t, "beside.zip"+bundle.IndexSuffix, x.Encode())
		got, err = mustOpen(t, s.location("beside.zip"), s.options).ReadIndex(t.Context())
		if err != nil || !bytes.Equal(got, x.Encode()) {
			t.Errorf("from beside: %d bytes (%v)", len(got), err)
		}
		s.store(t, "none.zip", noise(1000))
		if _, err = mustOpen(t, s.location("none.zip"), s.options).ReadIndex(t.Context()); !NotFound(err) {
			t.Errorf("without an index: %v", err)
		}
	})
}

func TestCancelledIsNotTransient(t *testing.T) {
	eachSite(t, func(t *testing.T, s site) {
		s.store(t, "a.zip", noise(1000))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := mustOpen(t, s.location("a.zip"), s.options).ReadRange(ctx, 0, 10)
		if !errors.Is(err, context.Canceled) || Transient(err) {
			t.Errorf("%v", err)
		}
	})
}

func TestPutIsWholeOrNothing(t *testing.T) {
	eachSite(t, func(t *testing.T, s site) {
		if s.dead {
			return
		}
		if !s.canPut {
			if err := Put(t.Context(), s.location("x"), s.options, bytes.NewReader(nil), 0, nil); err == nil || Transient(err) {
				t.Errorf("storing where nothing can be stored: %v", err)
			}
			return
		}
		for name, size := range map[string]int{"small": 1000, "parts": singlePutBytes + 17} {
			data := noise(size)
			var last int64
			if err := Put(t.Context(), s.location(name), s.options, bytes.NewReader(data), int64(size), func(sent int64) {
				if sent < last {
					t.Errorf("progress goes back from %d to %d", last, sent)
				}
				last = sent
			}); err != nil {
				t.Fatal(err)
			}
			body, err := mustOpen(t, s.location(name), s.options).ReadRange(t.Context(), 0, int64(size))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			_ = body.Close()
			if err != nil || !bytes.Equal(got, data) || last != int64(size) {
				t.Errorf("%s: %d bytes came back (%v), progress ended at %d", name, len(got), err, last)
			}
		}
		if err := Put(t.Context(), s.location("broken"), s.options, failingReader{}, singlePutBytes*2, nil); err == nil {
			t.Error("a body that cannot be read is stored")
		}
		if _, err := mustOpen(t, s.location("broken"), s.options).Size(t.Context()); !NotFound(err) {
			t.Errorf("something was left of a failed put: %v", err)
		}
	})
}

type failingReader struct{}

func (failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off > singlePutBytes {
		return 0, fs.ErrPermission // an error that trying again does not mend
	}
	return len(p), nil
}

func TestLocationsThatCannotWork(t *testing.T) {
	cases := map[string]Location{
		"bucket and key":   {Kind: S3, Bucket: "b"},
		"only https":       {Kind: Https, URL: "http://host/x"},
		"no host":          {Kind: Https, URL: "https:///x"},
		"not absolute":     {Kind: Directory, Path: "x"},
		"\"\" is unknown":  {},
		"URL is malformed": {Kind: Https, URL: "https://%zz"},
	}
	for want, l := range cases {
		if _, err := Open(l, Options{Endpoint: "http://127.0.0.1:1"}); err == nil || Transient(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", l, err, want)
		}
	}
	if _, err := Open(Location{Kind: S3, Bucket: "b", Key: "k"}, Options{Endpoint: "s3.example.com"}); err == nil || !strings.Contains(err.Error(), "is no URL") {
		t.Errorf("%v", err)
	}
}

// answer starts a server with one answer and opens both network kinds against it.
func answer(t *testing.T, handler http.HandlerFunc) map[string]Origin {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	client := NewClient(0)
	t.Cleanup(client.CloseIdleConnections)
	o := Options{Endpoint: server.URL, PathStyle: true, AllowHTTP: true, Client: client}
	return map[string]Origin{
		"s3":    mustOpen(t, Location{Kind: S3, Bucket: "b", Key: "k", ETag: `"e"`}, o),
		"https": mustOpen(t, Location{Kind: Https, URL: server.URL + "/k", ETag: `"e"`}, o),
	}
}

func TestStatusesAreJudged(t *testing.T) {
	cases := map[int]struct {
		transient bool
		text      string
	}{
		403: {false, "credentials"}, 404: {false, ""}, 412: {false, "overwritten"}, 416: {false, "shorter"},
		429: {true, ""}, 500: {true, ""}, 503: {true, ""}, 408: {true, ""},
	}
	for status, want := range cases {
		for kind, from := range answer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-Match") != `"e"` {
				t.Error("If-Match is not sent")
			}
			w.WriteHeader(status)
		}) {
			_, err := from.ReadRange(t.Context(), 0, 10)
			if err == nil || Transient(err) != want.transient || !strings.Contains(err.Error(), want.text) {
				t.Errorf("%s %d: %v (transient %v)", kind, status, err, Transient(err))
			}
			if _, err := from.Size(t.Context()); err == nil || Transient(err) != want.transient {
				t.Errorf("%s HEAD %d: %v (transient %v)", kind, status, err, Transient(err))
			}
		}
	}
}

func TestNothingIsRetriedHere(t *testing.T) {
	var requests atomic.Int32
	for kind, from := range answer(t, func(w http.ResponseWriter, _ *http.Request) { requests.Add(1); w.WriteHeader(503) }) {
		requests.Store(0)
		_, _ = from.ReadRange(t.Context(), 0, 10)
		if got := requests.Load(); got != 1 {
			t.Errorf("%s: %d requests", kind, got)
		}
	}
}

func TestServersThatIgnoreRanges(t *testing.T) {
	for kind, from := range answer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 100)) }) {
		if _, err := from.ReadRange(t.Context(), 10, 10); err == nil || Transient(err) || !strings.Contains(err.Error(), "ignores range") {
			t.Errorf("%s: %v", kind, err)
		}
		body, err := from.ReadRange(t.Context(), 0, 100)
		if err != nil {
			t.Errorf("%s: everything was asked for: %v", kind, err)
			continue
		}
		_ = body.Close()
	}
}

// TestAnIndexWithoutEndIsRefused: nobody has verified what an origin hands out as an index.
func TestAnIndexWithoutEndIsRefused(t *testing.T) {
	var sent atomic.Int64
	for kind, from := range answer(t, func(w http.ResponseWriter, r *http.Request) {
		for chunk := make([]byte, 1<<20); r.Context().Err() == nil; sent.Add(int64(len(chunk))) {
			if _, err := w.Write(chunk); err != nil || sent.Load() > 4*bundle.MaxIndexBytes {
				return
			}
		}
	}) {
		sent.Store(0)
		data, err := from.ReadIndex(t.Context())
		if err == nil || len(data) > bundle.MaxIndexBytes+1 || !strings.Contains(err.Error(), "bytes an index may have") || sent.Load() > 2*bundle.MaxIndexBytes {
			t.Errorf("%s: %d bytes, of %d that were sent (%v)", kind, len(data), sent.Load(), err)
		}
	}
}

func TestConnectionsThatEndEarlyAreTransient(t *testing.T) {
	var server string
	breaks := func(w http.ResponseWriter, r *http.Request) {
		server = r.Host
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 0-99/1000")
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(206)
		}
		_, _ = w.Write(make([]byte, 40)) // to a forge, which knows no ranges, without a length
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	origins := answer(t, breaks)
	if body, err := origins["https"].ReadRange(t.Context(), 0, 100); err == nil { // tells the server's address
		_ = body.Close()
	}
	at := Location{Kind: Forge, Forge: ForgeGitea, URL: "http://" + server + "/o/n", Commit: commitOf("x")}
	client := NewClient(0)
	t.Cleanup(client.CloseIdleConnections)
	origins["forge"] = mustOpen(t, at, Options{AllowHTTP: true, Client: client})
	at.Digest, at.Size = bundle.DigestBytes(noise(100)), 100
	origins["forge, with a digest"] = mustOpen(t, at, Options{AllowHTTP: true, Client: client})
	for kind, from := range origins {
		body, err := from.ReadRange(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(kind, err)
		}
		got, err := io.ReadAll(body)
		_ = body.Close()
		if err == nil || !Transient(err) || len(got) != 40 {
			t.Errorf("%s: %d bytes, %v", kind, len(got), err)
		}
	}
}

func TestUnreachableIsTransient(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	s := s3Site(t)
	s.options.Endpoint = "http://" + address
	_, err = mustOpen(t, s.location("x"), s.options).Size(t.Context())
	if err == nil || !Transient(err) || !strings.Contains(err.Error(), "s3://releases/web/x") || strings.Contains(err.Error(), secretKey) {
		t.Errorf("%v", err)
	}
}

func TestUntrustedCertificateIsPermanent(t *testing.T) {
	s := httpsSite(t)
	s.store(t, "a", noise(10))
	client := NewClient(0)
	t.Cleanup(client.CloseIdleConnections)
	_, err := mustOpen(t, s.location("a"), Options{Client: client}).Size(t.Context())
	if err == nil || Transient(err) || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("%v", err)
	}
}

func TestCredentialsFileIsReadAgainAndMissingOneSaysSo(t *testing.T) {
	s := s3Site(t)
	s.options.CredentialsFile = filepath.Join(t.TempDir(), "nothing")
	_, err := mustOpen(t, s.location("x"), s.options).Size(t.Context())
	if err == nil || !strings.Contains(err.Error(), "credentials file") || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("%v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("[other]\naws_access_key_id=a\naws_secret_access_key="+secretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fileCredentials(empty).Retrieve(t.Context()); err == nil || strings.Contains(err.Error(), secretKey) {
		t.Errorf("%v", err)
	}
}

func TestParse(t *testing.T) {
	good := map[string]string{"s3://b/k/l.zip": "s3://b/k/l.zip", "https://u:p@h/x?t=1": "https://h/x", "file:///a/../b": "/b", "/x": "/x"}
	for in, want := range good {
		if l, err := Parse(in); err != nil || l.String() != want {
			t.Errorf("%s: %s (%v)", in, l, err)
		}
	}
	for _, in := range []string{"s3://b", "s3://b/", "s3:///k", "s3://b/dir/", "relative", ""} {
		if l, err := Parse(in); err == nil {
			t.Errorf("%s is accepted as %+v", in, l)
		}
	}
	for in, want := range map[string]string{"S3://b/k": "s3://", "HTTPS://u:secret@h/x": "https://", "File:///x": "file://"} { // what was typed was echoed in lower case, and so looked right
		scheme, _, _ := strings.Cut(in, ":")
		if l, err := Parse(in); err == nil || err.Error() != fmt.Sprintf("cannot use the scheme %q of the location: write it in lower case, %s", scheme, want) {
			t.Errorf("%s: %+v, %v", in, l, err)
		}
	}
}
