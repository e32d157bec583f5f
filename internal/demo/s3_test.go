package demo

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
)

func TestObjectStoreCountsWhatLeaves(t *testing.T) {
	s, err := newObjectStore(filepath.Join(t.TempDir(), "credentials"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := s.publish(t.Context(), dir, release{name: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if s.archives.Load() != 0 || s.indexes.Load() != 0 {
		t.Errorf("storing counts as leaving: %d, %d", s.archives.Load(), s.indexes.Load())
	}
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	options := origin.Options{Endpoint: s.url, Region: s3Region, PathStyle: true, CredentialsFile: s.credentials, Client: origin.NewClient(0)}
	defer options.Client.CloseIdleConnections()
	from, err := origin.Open(origin.Location{Kind: origin.S3, Bucket: bucket, Key: p.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := from.Size(t.Context()); err != nil || size != p.size || s.archives.Load() != 0 {
		t.Errorf("size %d (%v), want %d, and no byte counted for it", size, err, p.size)
	}
	body, err := from.ReadRange(t.Context(), 10, 50)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); err != nil || n != 50 {
		t.Fatalf("read %d: %v", n, err)
	}
	body.Close()
	index, err := from.ReadIndex(t.Context())
	if err != nil || string(bundle.DigestBytes(index)) != p.index {
		t.Fatalf("index: %v", err)
	}
	if s.archives.Load() != 50 || s.indexes.Load() != int64(len(index)) {
		t.Errorf("counted %d bytes of archives and %d of indexes, want 50 and %d", s.archives.Load(), s.indexes.Load(), len(index))
	}
}
