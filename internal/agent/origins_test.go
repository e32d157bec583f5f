package agent

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
)

func TestEveryRevisionOpensAtItsOrigin(t *testing.T) {
	commit := strings.Repeat("0a", 20)
	file := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := desired.Revision{Digest: digestOf("a"), Size: 100, BundleType: bundle.TypeTgz}
	revisions := map[string]desired.Revision{}
	add := func(kind string, fill func(r *desired.Revision)) {
		r := base
		r.Type = kind
		fill(&r)
		revisions[kind] = r
	}
	add("S3", func(r *desired.Revision) { r.S3 = &desired.S3Location{Bucket: "b", Key: "k"} })
	add("Https", func(r *desired.Revision) { r.Https = &desired.HttpsLocation{URL: "https://h/x"} })
	add("GitHub", func(r *desired.Revision) { r.GitHub = &desired.GitHubLocation{Repository: "o/n", Commit: commit} })
	add("Forge", func(r *desired.Revision) {
		r.Forge = &desired.ForgeLocation{Forge: "Gitea", URL: "https://h/o/n", Commit: commit}
	})
	add("Directory", func(r *desired.Revision) { r.Directory = &desired.DirectoryLocation{Path: file} })
	add("Repository", func(r *desired.Revision) {
		r.Repository = &desired.RepositoryLocation{Path: "bundle", Tree: fstest.MapFS{}}
	})
	c := &Config{S3: S3Config{Enabled: true, Region: "us-east-1"}, HTTPS: HTTPSConfig{Enabled: true}}
	b := &bundles{config: func() *Config { return c }}
	for kind, r := range revisions {
		from, err := b.origin(r)
		if err != nil || from == nil || string(whereOf(r).Kind) != kind || strings.Contains(locationOf(r), "revision") || locationOf(r) == kind {
			t.Errorf("%s: %v at %s (%v)", kind, from, locationOf(r), err)
		}
	}
	c.S3.Enabled, c.HTTPS.Enabled = false, false
	for _, kind := range []string{"S3", "Https", "GitHub", "Forge"} {
		if from, err := b.origin(revisions[kind]); from != nil || err != nil {
			t.Errorf("%s without a route: %v (%v)", kind, from, err)
		}
	}
	if where := whereOf(desired.Revision{Type: "S3", S3: &desired.S3Location{Bucket: "b", Key: "k", Version: "v", ETag: "e"}}); where.Version != "v" || where.ETag != "e" {
		t.Errorf("%+v", where)
	}
	if where := whereOf(revisions["GitHub"]); where.Digest != base.Digest || where.Size != base.Size || where.Kind != origin.GitHub {
		t.Errorf("%+v", where)
	}
}

// TestItsOwnSettingsReachItsOrigins: proxies, and the endpoints that are tried one after the other.
func TestItsOwnSettingsReachItsOrigins(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Host)
		if r.Host == "first.invalid" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Length", "9")
		_, _ = io.WriteString(w, "an object")
	}))
	defer server.Close()
	c := &Config{S3: S3Config{Enabled: true, Endpoint: "http://first.invalid", Fallbacks: []string{"http://second.invalid"}, PathStyle: true, Proxy: server.URL}, HTTPS: HTTPSConfig{Enabled: true, Proxy: server.URL}}
	b := &bundles{config: func() *Config { return c }}
	for _, r := range []desired.Revision{
		{Type: "S3", S3: &desired.S3Location{Bucket: "b", Key: "k"}},
		{Type: "Https", Https: &desired.HttpsLocation{URL: "http://files.invalid/x"}},
		{Type: "Forge", Forge: &desired.ForgeLocation{Forge: "Gitea", URL: "http://forge.invalid/o/n", Commit: strings.Repeat("0a", 20)}},
	} {
		from, err := b.origin(r)
		if err == nil {
			_, err = from.Size(t.Context())
		}
		if err != nil {
			t.Errorf("%s: %v", r.Type, err)
		}
	}
	if want := []string{"first.invalid", "second.invalid", "files.invalid", "forge.invalid"}; !slices.Equal(asked, want) {
		t.Errorf("the proxy was asked for %v, want %v", asked, want)
	}
}

// TestItsOwnSettingsAreNamedAsTheCause: whoever switched an origin off on a host must read that, and not look for the fault in the network.
func TestItsOwnSettingsAreNamedAsTheCause(t *testing.T) {
	c := &Config{S3: S3Config{Enabled: true}, HTTPS: HTTPSConfig{Enabled: true}}
	b := &bundles{config: func() *Config { return c }}
	fault := errors.New("cannot fetch bundle 9f86d0 yet: no origin reachable")
	s3 := desired.Revision{Type: "S3", S3: &desired.S3Location{Bucket: "b", Key: "k"}}
	url := desired.Revision{Type: "Https", Https: &desired.HttpsLocation{URL: "https://h/x"}}
	here, gone := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if err := os.WriteFile(here, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	says := func(r desired.Revision, want ...string) {
		t.Helper()
		got := b.explained(r, fault)
		if !errors.Is(got, fault) || len(want) == 0 && got != fault {
			t.Errorf("%s: %v", r.Type, got)
		}
		for _, text := range want {
			if !strings.Contains(got.Error(), text) {
				t.Errorf("%s: %q does not say %q", r.Type, got, text)
			}
		}
	}
	says(s3)
	says(url)
	says(desired.Revision{Type: "Directory", Directory: &desired.DirectoryLocation{Path: here}})
	says(desired.Revision{Type: "Directory", Directory: &desired.DirectoryLocation{Path: gone}}, gone+" does not exist on this host")
	c.S3.Enabled = false
	says(s3, "this host's own gitopsd.yaml", "`s3.enabled: false`")
	says(url)
	c.HTTPS.Enabled = false
	says(url, "this host's own gitopsd.yaml", "`https.enabled: false`")
	says(s3, "no origin is enabled", "`s3.enabled: false`", "`https.enabled: false`")
}

func TestATokenGoesToItsHostAlone(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	h := HTTPSConfig{Tokens: []TokenConfig{{"git.example.com", write("a", "one\n")}, {"github.com", write("b", "two")}, {"bad.example.com", write("c", "two words")}, {"no.example.com", dir + "/nothing"}}}
	for host, want := range map[string]string{"git.example.com": "one", "GIT.example.com": "one", "api.github.com": "two", "git.example.com:8443": "", "example.com": ""} {
		if got, err := h.token(host); err != nil || got != want {
			t.Errorf("%s gets %q (%v), want %q", host, got, err, want)
		}
	}
	for _, host := range []string{"bad.example.com", "no.example.com"} {
		if got, err := h.token(host); err == nil || got != "" || strings.Contains(err.Error(), "two words") {
			t.Errorf("%s gets %q (%v)", host, got, err)
		}
	}
}

func TestAFolderOfTheRepositoryBecomesABundleHere(t *testing.T) {
	d := newDisk(t)
	tree := fstest.MapFS{"appspec.yml": {Data: []byte("version: 0.0\nos: linux\n"), Mode: 0o644}, "d": {Mode: fs.ModeDir | 0o755}, "d/page": {Data: []byte("hello"), Mode: 0o644}}
	from, err := origin.Open(origin.Location{Kind: origin.Repository, Tree: tree}, origin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	size, err := from.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := desired.Group{ID: "g1", Folder: "shop", Revision: desired.Revision{Type: "Repository", Size: size, BundleType: bundle.TypeTarZst, Repository: &desired.RepositoryLocation{Path: "bundle", Tree: tree}}}
	g.Revision.Digest = digestOf("b")
	if err := d.bundles.bring(t.Context(), g); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("another digest is taken: %v", err)
	}
	g.Revision.Digest = digestOfTree(t, tree)
	if err := d.bundles.bring(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if found, ok := d.store.Lookup(g.Revision.Digest); !ok || found.Ref.Size != size {
		t.Errorf("%+v %v", found, ok)
	}
}

func digestOfTree(t *testing.T, tree fs.FS) bundle.Digest {
	t.Helper()
	x, _, err := bundle.Pack(io.Discard, tree, bundle.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return x.RawDigest()
}
