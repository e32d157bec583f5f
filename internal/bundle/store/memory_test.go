package store

import (
	"io"
	"io/fs"
	"runtime"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// endless is a tree with one file of so many bytes that hardly compress; each read of it looks at the heap.
type endless struct {
	size int64
	peak uint64
}

// Open implements fs.FS.
func (e *endless) Open(name string) (fs.File, error) {
	if name == "." {
		return fstest.MapFS{"f": {}}.Open(name)
	}
	return &endlessFile{tree: e, left: e.size, state: 1}, nil
}

type endlessFile struct {
	tree  *endless
	left  int64
	state uint64
	reads int
}

// Stat implements fs.File.
func (f *endlessFile) Stat() (fs.FileInfo, error) { return endlessInfo{f.tree.size}, nil }

// Close implements fs.File.
func (f *endlessFile) Close() error { return nil }

// Read implements fs.File.
func (f *endlessFile) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	if f.reads++; f.reads%16 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		f.tree.peak = max(f.tree.peak, m.HeapInuse)
	}
	n := int(min(int64(len(p)), f.left))
	for i := range n {
		f.state ^= f.state << 13
		f.state ^= f.state >> 7
		f.state ^= f.state << 17
		p[i] = byte(f.state)
	}
	f.left -= int64(n)
	return n, nil
}

type endlessInfo struct{ size int64 }

func (endlessInfo) Name() string       { return "f" }
func (i endlessInfo) Size() int64      { return i.size }
func (endlessInfo) Mode() fs.FileMode  { return 0o644 }
func (endlessInfo) ModTime() time.Time { return time.Time{} }
func (endlessInfo) IsDir() bool        { return false }
func (endlessInfo) Sys() any           { return nil }

// TestPackingHoldsAFewChunksOnly: what is in memory depends on the workers, not on the bundle.
func TestPackingHoldsAFewChunksOnly(t *testing.T) {
	const size, most = 128 << 20, 64 << 20
	runtime.GC()
	tree := &endless{size: size}
	x, _, err := Pack(t.Context(), io.Discard, tree, bundle.PackOptions{}, 4)
	if err != nil || x.RawSize() < size {
		t.Fatalf("%v", err)
	}
	if tree.peak == 0 || tree.peak > most {
		t.Errorf("packing %d MiB takes %d MiB of heap, at most %d are allowed", size>>20, tree.peak>>20, most>>20)
	}
	t.Logf("%d MiB of heap", tree.peak>>20)
}
