package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// A full disk has no room for another folder, nor for a name in one; what is collected makes room all the same.
func TestCollectOnAFullDisk(t *testing.T) {
	for _, kind := range []string{"mkdir", "rename"} {
		archive, ref := sample(t, 1)
		_, half := sample(t, 2)
		full := false
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
			if full && op.Kind == kind && strings.Contains(op.Path, "trash") {
				return unix.ENOSPC
			}
			return nil
		}}})
		fetchAll(t, s, archive, ref)
		begin(t, s, half).Rest()
		full = true
		if gone, err := s.Collect(t.Context(), 0); err != nil || len(gone) != 2 || s.Used() != 0 {
			t.Errorf("no %s: collected %v, %v, %d bytes are used", kind, gone, err, s.Used())
		}
		for _, dir := range []string{s.path("complete", ref.Digest.Hex()), s.path("partial", half.Digest.Hex())} {
			if exists(dir) {
				t.Errorf("no %s: %s is left", kind, dir)
			}
		}
	}
}

// What the disk refuses to move stays known, and so counts, and can be collected or demoted later.
func TestWhatCannotBeRemovedStaysKnown(t *testing.T) {
	archive, ref := sample(t, 1)
	ill := false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: immovable(&ill)})
	fetchAll(t, s, archive, ref)
	ill = true
	if gone, err := s.Collect(t.Context(), 0); err == nil || len(gone) != 0 || s.Used() != ref.Size {
		t.Errorf("collected %v, %v, %d bytes are used", gone, err, s.Used())
	}
	b, ok := s.Lookup(ref.Digest)
	if !ok {
		t.Fatal("it is forgotten")
	}
	damage(t, b.Path, ref.Index.Piece(1).Offset)
	if err := s.Recheck(t.Context(), ref.Digest); !errors.Is(err, ErrMismatch) {
		t.Errorf("rotten: %v", err)
	}
	if _, ok := s.Lookup(ref.Digest); !ok || len(s.Suspects()) != 1 {
		t.Errorf("known %v, suspects %v", ok, s.Suspects())
	}
	ill = false
	if err := s.Recheck(t.Context(), ref.Digest); !errors.Is(err, ErrMismatch) {
		t.Errorf("rotten: %v", err)
	}
	fetchAll(t, s, archive, ref)
}

// A bundle that was moved, though not durably, is completed by the next Finish, or discarded.
func TestFinishWhoseMoveIsNotDurable(t *testing.T) {
	for _, place := range []string{"complete", "partial"} {
		archive, ref := sample(t, 1)
		dir, ill := t.TempDir(), false
		s := open(t, Options{Dir: dir, KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
			if ill && op.Kind == "syncdir" && op.Path == filepath.Join(dir, place) && exists(filepath.Join(dir, "complete", ref.Digest.Hex())) {
				return unix.EIO
			}
			return nil
		}}})
		p := begin(t, s, ref)
		writeAll(t, p, archive, ref)
		for range 2 {
			ill = true
			if err := p.Finish(t.Context(), true); !errors.Is(err, unix.EIO) {
				t.Errorf("%s: %v", place, err)
			}
		}
		ill = false
		if place == "partial" {
			if err := p.Discard(); err != nil {
				t.Error(err)
			}
			fetchAll(t, s, archive, ref)
		} else if err := begin(t, s, ref).Finish(t.Context(), true); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := s.Recheck(t.Context(), ref.Digest); err != nil {
			t.Error(err)
		}
	}
}

// A Begin while the bundle is removed waits, and gets one of its own.
func TestBeginBesideCollect(t *testing.T) {
	archive, ref := sample(t, 1)
	bare := ref
	bare.Index = nil
	for _, left := range []Ref{ref, bare} {
		synctest.Test(t, func(t *testing.T) {
			begun := make(chan error, 1)
			armed := false
			var s *Store
			s = open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
				if armed && op.Kind == "rename" && strings.Contains(op.Path, "trash") {
					armed = false
					go func() {
						p, err := s.Begin(ref)
						if err == nil {
							err = p.Write(0, pieceOf(archive, ref.Index, 0))
						}
						begun <- err
					}()
					synctest.Wait()
				}
				return nil
			}}})
			begin(t, s, left).Rest()
			armed = true
			if _, err := s.Collect(t.Context(), 0); err != nil {
				t.Error(err)
			}
			if err := <-begun; err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// slowly calls back when its error is asked for, which a reader does before each part.
type slowly struct {
	context.Context
	asked int
	at    func(n int)
}

func (c *slowly) Err() error {
	c.asked++
	c.at(c.asked)
	return c.Context.Err()
}

// A check that takes long does not take for rotten what was mended meanwhile.
func TestRecheckOfWhatWasMendedMeanwhile(t *testing.T) {
	if whole, err := recheckBesideAnother(t, true); !whole || err != nil {
		t.Errorf("complete %v, %v", whole, err)
	}
}

// Where somebody else was quicker to find it rotten, both say so.
func TestRecheckBesideAnother(t *testing.T) {
	if _, err := recheckBesideAnother(t, false); !errors.Is(err, ErrMismatch) {
		t.Errorf("rotten: %v", err)
	}
}

// recheckBesideAnother rechecks a rotten bundle while another recheck finds it so, and it is mended or not; it says whether it is complete then.
func recheckBesideAnother(t *testing.T, mended bool) (whole bool, err error) {
	t.Helper()
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, archive, ref)
	b, _ := s.Lookup(ref.Digest)
	damage(t, b.Path, ref.Index.Piece(1).Offset)
	err = s.Recheck(&slowly{Context: t.Context(), at: func(n int) {
		if n != 2 {
			return
		}
		if err := s.Recheck(t.Context(), ref.Digest); !errors.Is(err, ErrMismatch) {
			t.Errorf("rotten: %v", err)
		}
		if mended {
			fetchAll(t, s, archive, ref)
		}
	}}, ref.Digest)
	_, whole = s.Lookup(ref.Digest)
	return whole, err
}

// What a copy or a write put there before the kernel said that it lost something does not count as here after it.
func TestAWriteBesideALoss(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	c, err := p.claim(ref.Index, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	p.lose()
	if _, err := p.note(c, 0, 1, 1); err == nil || p.Have().Count() != 0 {
		t.Errorf("%v, %d pieces count as here", err, p.Have().Count())
	}
	p.yield(c)
	writeAll(t, p, archive, ref)
}

// A type that the index contradicts is refused: the next start would take the bundle for damaged.
func TestATypeThatTheIndexContradicts(t *testing.T) {
	archive, ref := sample(t, 1)
	wrong := Ref{Digest: ref.Digest, Size: ref.Size, Type: bundle.TypeTgz}
	for _, whole := range []bool{false, true} {
		dir := t.TempDir()
		s := open(t, Options{Dir: dir, KeepFree: -1})
		if begin(t, s, ref); whole {
			fetchAll(t, s, archive, ref)
		}
		if _, err := s.Begin(wrong); err == nil || errors.Is(err, os.ErrExist) {
			t.Errorf("whole %v: %v", whole, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, Options{Dir: dir, KeepFree: -1})
		_, complete := s.Lookup(ref.Digest)
		if _, partial := s.Partial(ref.Digest); complete != whole || partial == whole {
			t.Errorf("after a restart: complete %v, partial %v", complete, partial)
		}
	}
}

// Imports of one bundle come one after the other.
func TestImportsOfOneBundle(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := s.Import(t.Context(), ref, strings.NewReader(string(archive))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// Close keeps what was copied from earlier bundles.
func TestCloseAfterReuse(t *testing.T) {
	first, firstRef := pack(t, largeTree(1))
	_, secondRef := pack(t, largeTree(2))
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	p := begin(t, s, secondRef)
	if err := p.Reuse(t.Context(), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	copied := p.Have().Count()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := begin(t, open(t, Options{Dir: dir, KeepFree: -1}), secondRef).Have().Count(); got != copied || copied == 0 {
		t.Errorf("%d pieces were copied, %d are left", copied, got)
	}
}

// immovable is a disk that renames nothing while it is ill.
func immovable(ill *bool) *durable.Disk {
	return &durable.Disk{Hook: func(op durable.Op) error {
		if *ill && op.Kind == "rename" {
			return unix.EIO
		}
		return nil
	}}
}
