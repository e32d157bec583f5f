package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// writeAll writes every piece, whether it is here or not.
func writeAll(t testing.TB, p *Partial, archive []byte, ref Ref) {
	t.Helper()
	for i := range ref.Index.Len() {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
	}
}

// A piece that somebody writes while Reuse runs is not lost to the copy of a rotten one.
func TestReuseBesideAWrite(t *testing.T) {
	tree := func(seed byte) fstest.MapFS {
		f := fstest.MapFS{}
		for i := range byte(8) {
			f["lib/"+string('a'+rune(i))] = &fstest.MapFile{Data: noise(100+i, 1<<20), Mode: 0o644}
		}
		f["bin/zz"] = &fstest.MapFile{Data: noise(seed, 1<<20), Mode: 0o755}
		return f
	}
	first, firstRef := pack(t, tree(1))
	second, secondRef := pack(t, tree(2))
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	from := bundle.Reuse(secondRef.Index, firstRef.Index)
	victim := -1 // last reusable piece: another run than the first, as one has at most 4 MiB
	for i, j := range from {
		if j >= 0 {
			victim = i
		}
	}
	old, _ := s.Lookup(firstRef.Digest)
	f, err := os.OpenFile(old.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), firstRef.Index.Piece(from[victim]).Offset+3); err != nil {
		t.Fatal(err)
	}
	f.Close()
	p := begin(t, s, secondRef)
	once := false
	if err := p.Reuse(t.Context(), func(i, n int) {
		if !once && i+n <= victim {
			once = true
			if err := p.Write(victim, pieceOf(second, secondRef.Index, victim)); err != nil {
				t.Fatal(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !once {
		t.Fatal("test is wrong")
	}
	writeAll(t, p, second, secondRef)
	if err := p.Finish(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := s.Recheck(t.Context(), secondRef.Digest); err != nil {
		t.Errorf("it counts as complete, but: %v", err)
	}
}

// Whoever still holds a partial that was discarded does not finish the one that was begun since.
func TestFinishOfADiscardedPartial(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	if err := p.Discard(); err != nil {
		t.Fatal(err)
	}
	next := begin(t, s, ref)
	if err := p.Finish(t.Context(), true); !errors.Is(err, ErrMissing) {
		t.Errorf("a discarded partial finishes: %v", err)
	}
	if _, ok := s.Lookup(ref.Digest); ok || next.Missing() != ref.Index.Len() {
		t.Errorf("the empty one counts as complete: %v, %d missing", ok, next.Missing())
	}
}

// After Close the directory may be another's.
func TestFinishAfterClose(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, Options{Dir: dir, KeepFree: -1})
	err := p.Finish(t.Context(), true)
	if _, statErr := os.Stat(filepath.Join(dir, "complete", ref.Digest.Hex())); statErr == nil {
		t.Errorf("the directory moved after Close (%v)", err)
	}
	q, ok := again.Partial(ref.Digest)
	if !ok {
		t.Fatal("no partial")
	}
	if err := q.Finish(t.Context(), true); err != nil {
		t.Errorf("the store that is open now: %v", err)
	}
}

// TestADiskThatLostSomething: the kernel tells once that it could not write, and forgets; what was written before counts for nothing then.
func TestADiskThatLostSomething(t *testing.T) {
	archive, ref := sample(t, 1)
	broken, armed := errors.New("input/output error"), false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if armed && op.Kind == "sync" && filepath.Base(op.Path) == "data" {
			armed = false
			return broken
		}
		return nil
	}}})
	for _, pinned := range []bool{true, false} {
		p := begin(t, s, ref)
		writeAll(t, p, archive, ref)
		armed = true
		if err := p.Finish(t.Context(), pinned); !errors.Is(err, broken) || p.Missing() != ref.Index.Len() {
			t.Errorf("pinned %v: %v, %d of %d missing", pinned, err, p.Missing(), ref.Index.Len())
		}
	}
	fetchAll(t, s, archive, ref)
}

// A piece that was found rotten while Finish waits for the disk is missing.
func TestRotFoundDuringFinish(t *testing.T) {
	archive, ref := sample(t, 1)
	var p *Partial
	armed := false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if armed && op.Kind == "sync" && filepath.Base(op.Path) == "data" {
			armed = false
			_, _ = p.file.WriteAt([]byte("rot"), ref.Index.Piece(3).Offset)
			if _, err := p.Read(3, nil); !errors.Is(err, ErrMismatch) {
				return errors.New("test is wrong")
			}
		}
		return nil
	}}})
	p = begin(t, s, ref)
	writeAll(t, p, archive, ref)
	armed = true
	if err := p.Finish(t.Context(), true); !errors.Is(err, ErrMismatch) || p.Missing() != 1 {
		t.Errorf("%v, %d missing", err, p.Missing())
	}
	if _, ok := s.Lookup(ref.Digest); ok {
		t.Error("it counts as complete with a piece that is known to be missing")
	}
}

// TestPowerCutWithReuse cuts the power before every durable operation of two releases, of which the second takes over what the first has.
func TestPowerCutWithReuse(t *testing.T) {
	first, firstRef := sample(t, 1)
	second, secondRef := sample(t, 2)
	life := func(dir string, disk *durable.Disk) error {
		s, err := Open(Options{Dir: dir, KeepFree: -1, SyncEvery: 300 << 10, Disk: disk})
		if err != nil {
			return err
		}
		defer s.Close()
		for _, b := range []struct {
			archive []byte
			ref     Ref
		}{{first, firstRef}, {second, secondRef}} {
			p, err := s.Begin(b.ref)
			if errors.Is(err, os.ErrExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := p.Reuse(context.Background(), func(int, int) {}); err != nil {
				return err
			}
			for i := range b.ref.Index.Len() {
				if err := p.Write(i, pieceOf(b.archive, b.ref.Index, i)); err != nil {
					return err
				}
			}
			if err := p.Finish(context.Background(), true); err != nil {
				return err
			}
		}
		return nil
	}
	cutEverywhere(t, life, func(s *Store) error {
		return errors.Join(s.Recheck(t.Context(), firstRef.Digest), s.Recheck(t.Context(), secondRef.Digest))
	})
}

// cutEverywhere lives a life once for each of its durable operations, before which the power is cut, and once more after that; then check looks at what there is.
func cutEverywhere(t *testing.T, life func(dir string, disk *durable.Disk) error, check func(*Store) error) {
	t.Helper()
	for n := 1; ; n++ {
		for _, tear := range []bool{false, true} {
			faults := &durable.Faults{}
			faults.CutAt(n, tear)
			dir := filepath.Join(t.TempDir(), "s")
			err := life(dir, &durable.Disk{Hook: faults.Hook})
			if !faults.Cut() {
				if err != nil {
					t.Fatalf("no fault, but: %v", err)
				}
				t.Logf("%d crash points", n-1)
				return
			}
			if err := life(dir, nil); err != nil {
				t.Fatalf("after a cut before operation %d (torn: %v): %v", n, tear, err)
			}
			s := open(t, Options{Dir: dir, KeepFree: -1})
			if err := check(s); err != nil {
				t.Fatalf("after a cut before operation %d (torn: %v): %v", n, tear, err)
			}
			s.Close()
		}
	}
}

// TestAnImportThatBreaksOff: what it wrote over counts no more as verified.
func TestAnImportThatBreaksOff(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	for i := range ref.Index.Len() - 1 {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Import(t.Context(), ref, bytes.NewReader(make([]byte, 1<<20))); err == nil {
		t.Fatal("half an archive is imported")
	}
	p = begin(t, s, ref)
	writeAll(t, p, archive, ref)
	if err := p.Finish(t.Context(), true); !errors.Is(err, ErrMismatch) || p.Missing() == 0 {
		t.Errorf("zeros pass for what was verified: %v, %d missing", err, p.Missing())
	}
	fetchAll(t, s, archive, ref)
}
