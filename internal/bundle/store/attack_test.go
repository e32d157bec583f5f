package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// whenMoved is a disk that calls then once, before a partial moves over to where complete bundles are.
func whenMoved(then *func()) *durable.Disk {
	return &durable.Disk{Hook: func(op durable.Op) error {
		if call := *then; call != nil && op.Kind == "rename" && filepath.Base(filepath.Dir(op.Path)) == "complete" {
			*then = nil
			call()
		}
		return nil
	}}
}

// Rot that is found while the bundle moves over makes a suspect of it.
func TestRotFoundWhileItMovesOver(t *testing.T) {
	archive, ref := sample(t, 1)
	var then func()
	told := 0
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: whenMoved(&then), Suspect: func() { told++ }})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	then = func() {
		damage(t, p.file.Name(), ref.Index.Piece(3).Offset)
		if _, err := p.Read(3, nil); !errors.Is(err, ErrMismatch) {
			t.Errorf("rotten: %v", err)
		}
	}
	err := p.Finish(t.Context(), true)
	if _, ok := s.Lookup(ref.Digest); ok && (len(s.Suspects()) != 1 || told != 1) {
		t.Errorf("it is complete with a piece that is known to be wrong, and nobody will recheck it: %v", err)
	}
}

// countdown is a context that ends when its error was asked for so often.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.DeadlineExceeded
	}
	return c.Context.Err()
}

// A copy beside a completion ends with it, whatever is found to be rotten meanwhile.
func TestReuseEndsWhereTheBundleIsComplete(t *testing.T) {
	archive, ref := sample(t, 1)
	var then func()
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: whenMoved(&then)})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	then = func() {
		damage(t, p.file.Name(), ref.Index.Piece(3).Offset)
		if _, err := p.Read(3, nil); !errors.Is(err, ErrMismatch) {
			t.Errorf("rotten: %v", err)
		}
	}
	if err := p.Finish(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := p.Reuse(&countdown{t.Context(), 10000}, func(int, int) {}); err != nil {
		t.Errorf("it goes round and round: %v", err)
	}
}

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
