package origin

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// meant answers as S3 does where a request says which object it means: the fake store knows no If-Match, and versions for GET alone.
func meant(backend *s3mem.Backend, store http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("versionId") && r.Method == http.MethodHead {
			r = r.Clone(r.Context())
			r.Method = http.MethodGet
		}
		want := r.Header.Get("If-Match")
		if want == "" {
			store.ServeHTTP(w, r)
			return
		}
		bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		now, err := backend.HeadObject(bucket, key)
		if err != nil || want != `"`+hex.EncodeToString(now.Hash)+`"` {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		store.ServeHTTP(w, r)
	})
}

// TestAnArchiveThatIsOverwrittenIsNeverMixed: a key that gets another object between two reads either still gives the bytes that the revision means, or says so.
func TestAnArchiveThatIsOverwrittenIsNeverMixed(t *testing.T) {
	old, other := noise(1000), bytes.Repeat([]byte("other"), 201)
	backend := s3mem.New()
	if err := backend.CreateBucket("releases"); err != nil {
		t.Fatal(err)
	}
	versions := gofakes3.VersioningConfiguration{}
	versions.SetEnabled(true)
	if err := backend.SetVersioningConfiguration("releases", versions); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(meant(backend, gofakes3.New(backend).Server()))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	client := NewClient(0)
	t.Cleanup(client.CloseIdleConnections)
	put := func(name string, data []byte) string {
		made, err := backend.PutObject("releases", name, nil, bytes.NewReader(data), int64(len(data)), nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(made.VersionID)
	}
	sum := md5.Sum(old)
	etag := hex.EncodeToString(sum[:])
	files := httpsSite(t)
	files.store(t, "https", old)
	at := files.location("https")
	at.ETag = `"` + bundle.DigestBytes(old).Short() + `"`
	store := Options{Endpoint: server.URL, PathStyle: true, Client: client}
	put("etag", old)
	for name, c := range map[string]struct {
		from      Origin
		overwrite func()
		stays     bool
	}{
		"a version of S3": {mustOpen(t, Location{Kind: S3, Bucket: "releases", Key: "version", Version: put("version", old)}, store), func() { put("version", other) }, true},
		"an eTag of S3, as CodeDeploy writes it": {mustOpen(t, Location{Kind: S3, Bucket: "releases", Key: "etag", ETag: etag}, store),
			func() { put("etag", other) }, false},
		"an eTag of a server": {mustOpen(t, at, files.options), func() { files.store(t, "https", other) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(off int64) ([]byte, error) {
				body, err := c.from.ReadRange(t.Context(), off, 500)
				if err != nil {
					return nil, err
				}
				defer body.Close()
				return io.ReadAll(body)
			}
			if got, err := read(0); err != nil || !bytes.Equal(got, old[:500]) {
				t.Fatalf("%d bytes (%v)", len(got), err)
			}
			c.overwrite()
			got, err := read(500)
			size, sizeErr := c.from.Size(t.Context())
			if c.stays {
				if err != nil || !bytes.Equal(got, old[500:]) || sizeErr != nil || size != int64(len(old)) {
					t.Errorf("%d bytes (%v), size %d (%v)", len(got), err, size, sizeErr)
				}
				return
			}
			for _, err := range []error{err, sizeErr} {
				if err == nil || Transient(err) || !strings.Contains(err.Error(), "overwritten since the commit") {
					t.Errorf("%v", err)
				}
			}
		})
	}
}
