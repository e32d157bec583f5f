package store

import (
	"errors"
	"testing"
)

// A suspect that was collected is none any more, and when it comes again and rots again, somebody is told.
func TestASuspectThatIsCollected(t *testing.T) {
	archive, ref := sample(t, 1)
	told := 0
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Suspect: func() { told++ }})
	for n := range 2 {
		fetchAll(t, s, archive, ref)
		b, _ := s.Lookup(ref.Digest)
		damage(t, b.Path, ref.Index.Piece(1).Offset)
		if _, err := b.ReadPiece(1, nil); !errors.Is(err, ErrMismatch) || told != n+1 {
			t.Errorf("rotten: %v, told %d times", err, told)
		}
		if gone, err := s.Collect(t.Context(), 0); err != nil || len(gone) != 1 {
			t.Errorf("collected %v, %v", gone, err)
		}
		if all := s.Suspects(); len(all) != 0 {
			t.Errorf("%v are suspects, and gone", all)
		}
	}
}
