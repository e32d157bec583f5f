package origin

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

func commitOf(name string) string {
	sum := sha1.Sum([]byte(name))
	return hex.EncodeToString(sum[:])
}

// forgeClient reaches server under every host name.
func forgeClient(t *testing.T, server *httptest.Server) *http.Client {
	t.Helper()
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: transport.TLSClientConfig.RootCAs, ServerName: "example.com"}
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func tokenFor(string) (string, error) { return secretKey, nil }

// forgeSite behaves as a forge does: archives at prefix followed by the commit, for a token, sent from another host, chunked, without
// ranges or length.
func forgeSite(t *testing.T, l Location, prefix string) site {
	t.Helper()
	archives := map[string][]byte{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if commit, ok := strings.CutPrefix(r.Host+r.URL.Path, "codeload.example.com/"); ok {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("the token is shown to %s", r.Host)
			}
			data := archives[commit]
			_, _ = w.Write(data[:len(data)/2])
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(data[len(data)/2:])
			return
		}
		commit, ok := strings.CutPrefix(r.Host+r.RequestURI, prefix)
		commit = strings.TrimSuffix(commit, ".tar.gz")
		if _, found := archives[commit]; !ok || !found || r.Header.Get("Authorization") != "Bearer "+secretKey {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, "https://codeload.example.com/"+commit+"?token="+secretKey, http.StatusFound)
	}))
	t.Cleanup(server.Close)
	location := func(name string) Location {
		at := l
		at.Commit = commitOf(name)
		return at
	}
	return site{options: Options{Client: forgeClient(t, server), Token: tokenFor}, location: location, whole: true,
		store: func(_ *testing.T, name string, data []byte) { archives[commitOf(name)] = data }}
}

// repositorySite keeps what is stored as the only file of a folder, and hands out the folder's tar.
func repositorySite(t *testing.T) site {
	t.Helper()
	repository := fstest.MapFS{}
	location := func(name string) Location {
		folder, err := fs.Sub(repository, name)
		if err != nil {
			t.Fatal(err)
		}
		return Location{Kind: Repository, Path: name, Tree: folder}
	}
	return site{location: location, whole: true, store: func(_ *testing.T, name string, data []byte) { repository[name+"/f"] = &fstest.MapFile{Data: data} },
		archive: func(data []byte) []byte {
			body, err := bundle.Tar(fstest.MapFS{"f": {Data: data}})
			if err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}}
}

// deadEndpointSite is an S3 site whose first endpoint nobody listens at.
func deadEndpointSite(t *testing.T) site {
	t.Helper()
	s := s3Site(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.options.Fallbacks = []string{s.options.Endpoint}
	s.options.Endpoint = "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s.dead = true
	return s
}

func TestForgesThatMadeOtherBytes(t *testing.T) {
	data := noise(100_000)
	cases := map[string]struct {
		stored []byte
		want   string
	}{
		"the same":  {data, ""},
		"longer":    {append(bytes.Clone(data), 1), "more than 100000 bytes"},
		"shorter":   {data[:99_000], "1000 bytes fewer"},
		"different": {append(bytes.Clone(data[:99_999]), ^data[99_999]), string(bundle.DigestBytes(append(bytes.Clone(data[:99_999]), ^data[99_999]))) + " instead of " + string(bundle.DigestBytes(data))},
	}
	for name, s := range sites(t) {
		if l := s.location("a"); l.Kind != GitHub && l.Kind != Forge {
			continue
		}
		for what, c := range cases {
			s.store(t, "a", c.stored)
			l := s.location("a")
			l.Digest, l.Size = bundle.DigestBytes(data), int64(len(data))
			body, err := mustOpen(t, l, s.options).ReadRange(t.Context(), 0, l.Size)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			_ = body.Close()
			switch {
			case c.want == "" && (err != nil || !bytes.Equal(got, data)):
				t.Errorf("%s, %s: %d bytes (%v)", name, what, len(got), err)
			case c.want != "" && (err == nil || Transient(err) || len(got) == len(data) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "pin the new digest")):
				t.Errorf("%s, %s: %d bytes, %v (transient %v)", name, what, len(got), err, Transient(err))
			}
		}
	}
}

func TestForgesSayWhatIsWrong(t *testing.T) {
	cases := []struct {
		status    int
		header    string
		transient bool
		text      string
	}{
		{404, "", false, "needs a token"}, {401, "", false, "needs a token"}, {403, "", false, "needs a token"}, {403, "X-Ratelimit-Remaining", true, "limits"},
		{429, "", true, "limits"}, {202, "", true, "202"}, {502, "", true, "502"},
	}
	for _, c := range cases {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if c.header != "" {
				w.Header().Set(c.header, "0")
			}
			w.WriteHeader(c.status)
		}))
		from := mustOpen(t, Location{Kind: GitHub, Owner: "o/n", Commit: commitOf("x")}, Options{Client: forgeClient(t, server)})
		_, err := from.ReadRange(t.Context(), 0, 10)
		if err == nil || Transient(err) != c.transient || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "github.com/o/n@"+commitOf("x")[:10]) {
			t.Errorf("%d %s: %v (transient %v)", c.status, c.header, err, Transient(err))
		}
		server.Close()
	}
}

func TestATokenIsNeverSentInTheClear(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	l := Location{Kind: Forge, Forge: ForgeGitea, URL: server.URL + "/o/n", Commit: commitOf("x")}
	_, err := mustOpen(t, l, Options{AllowHTTP: true, Token: tokenFor}).ReadRange(t.Context(), 0, 10)
	if err == nil || Transient(err) || asked || !strings.Contains(err.Error(), "in the clear") {
		t.Errorf("%v (asked %v)", err, asked)
	}
	_, err = mustOpen(t, l, Options{AllowHTTP: true, Token: func(string) (string, error) { return "", errors.New("no such file") }}).ReadRange(t.Context(), 0, 10)
	if err == nil || asked || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v (asked %v)", err, asked)
	}
}

func TestForgeArchivesThatCannotWork(t *testing.T) {
	good := Location{Kind: Forge, Forge: ForgeGitLab, URL: "https://h/o/n", Commit: commitOf("x")}
	cases := map[string]func(l *Location){
		"no full commit id":    func(l *Location) { l.Commit = "main" },
		"no tar.zst":           func(l *Location) { l.Type = bundle.TypeTarZst },
		"\"Fossil\" is unkno":  func(l *Location) { l.Forge = "Fossil" },
		"only https":           func(l *Location) { l.URL = "http://h/o/n" },
		"names no repository":  func(l *Location) { l.URL = "https://h/o" },
		"is not OWNER/NAME":    func(l *Location) { l.Kind, l.Owner = GitHub, "o/n/../x" },
		"repository; write ht": func(l *Location) { l.URL = "https://h/o/../n" },
	}
	for want, change := range cases {
		l := good
		change(&l)
		if _, err := Open(l, Options{}); err == nil || Transient(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", l, err, want)
		}
	}
	for _, kind := range []bundle.Type{bundle.TypeTgz, bundle.TypeZip} {
		l := good
		l.Type = kind
		if _, err := Open(l, Options{}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestAFolderIsItsTar(t *testing.T) {
	folder := fstest.MapFS{"appspec.yml": {Data: []byte("version: 0.0\n"), Mode: 0o644}, "big": {Data: noise(300_000), Mode: 0o755}, "d": {Mode: fs.ModeDir | 0o755}, "d/e": {Data: []byte("x"), Mode: 0o644}}
	from := mustOpen(t, Location{Kind: Repository, Path: "shop/bundle", Tree: folder}, Options{})
	size, err := from.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body, err := from.ReadRange(t.Context(), 0, size)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err != nil || int64(len(got)) != size {
		t.Fatalf("%d bytes of %d (%v)", len(got), size, err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	names := ""
	err = bundle.Walk(bytes.NewReader(got), size, bundle.TypeTar, bundle.Options{}, func(e *bundle.Entry) error {
		names += fmt.Sprintf("%s %o %d\n", e.Name, e.Mode, e.Size)
		return nil
	})
	if want := "appspec.yml 644 13\nbig 755 300000\nd 755 0\nd/e 644 1\n"; err != nil || path.Clean(names) != path.Clean(want) {
		t.Errorf("it holds\n%s%v", names, err)
	}
	var direct bytes.Buffer
	_, _, err = bundle.Pack(&direct, folder, bundle.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x, err := bundle.ReadIndex(bytes.NewReader(direct.Bytes()), int64(direct.Len()))
	if err != nil || x.RawDigest() != bundle.DigestBytes(got) {
		t.Errorf("the tar is another one than Pack's (%v)", err)
	}
}
