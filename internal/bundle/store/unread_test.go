package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// What Open cannot read beside the bytes says nothing of the bytes: neither a complete
// bundle nor a partial one goes with its index or its bitmap.
func TestFilesBesideTheBytesThatCannotBeRead(t *testing.T) {
	archive, ref := sample(t, 1)
	for name, at := range map[string]struct {
		kind, file string
		size       int64 // more than is ever read
	}{
		"index of a complete bundle": {"complete", "index", bundle.MaxIndexBytes + 1},
		"index of a partial":         {"partial", "index", bundle.MaxIndexBytes + 1},
		"bitmap of a partial":        {"partial", "have", maxMetaBytes + 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Dir: t.TempDir(), KeepFree: -1, SyncEvery: 1}
			s := open(t, o)
			if at.kind == "complete" {
				fetchAll(t, s, archive, ref)
			} else {
				x := ref.Index.Piece(0)
				if err := begin(t, s, ref).Write(0, archive[:x.Size]); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(o.Dir, at.kind, ref.Digest.Hex(), at.file)
			if err := os.Truncate(file, at.size); err != nil {
				t.Fatal(err)
			}
			s = open(t, o)
			if at.kind == "complete" {
				b, ok := s.Lookup(ref.Digest)
				if !ok || b.Ref.Index != nil {
					t.Fatalf("it is there: %v", ok)
				}
				if err := s.Unpack(t.Context(), ref.Digest, t.TempDir()); err != nil {
					t.Fatal(err)
				}
				return
			}
			if _, ok := s.Partial(ref.Digest); !ok {
				t.Fatal("the partial is gone")
			}
			fetchAll(t, s, archive, ref)
		})
	}
}
