package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// A copy of what an earlier bundle has waits for a write of the same piece, and leaves it alone: the earlier bundle may be rotten.
func TestACopyWaitsForAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, firstRef := sample(t, 1)
		second, secondRef := sample(t, 2)
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
		fetchAll(t, s, first, firstRef)
		p := begin(t, s, secondRef)
		x, from, i := secondRef.Index, bundle.Reuse(secondRef.Index, firstRef.Index), 0
		for from[i] < 0 {
			i++
		}
		b, _ := s.Lookup(firstRef.Digest)
		damage(t, b.Path, firstRef.Index.Piece(from[i]).Offset)
		c, err := p.claim(x, i, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.file.WriteAt(pieceOf(second, x, i), x.Piece(i).Offset); err != nil {
			t.Fatal(err)
		}
		reused := make(chan error, 1)
		go func() { reused <- p.Reuse(t.Context(), func(int, int) {}) }()
		synctest.Wait()
		if _, err := p.note(c, i, 1, 1); err != nil {
			t.Fatal(err)
		}
		p.yield(c)
		if err := <-reused; err != nil {
			t.Fatal(err)
		}
		if _, err := p.Read(i, nil); err != nil {
			t.Errorf("what was written: %v", err)
		}
	})
}

// A write waits for a copy of the same piece, and another index for both.
func TestWritesAndAnIndexWaitForACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		archive, ref := sample(t, 1)
		foreign := Ref{Digest: ref.Digest, Size: ref.Size, Type: bundle.TypeTgz}
		indexes := make([]*bundle.Index, 2)
		for n := range indexes {
			x, err := bundle.IndexOf(bytes.NewReader(archive), (n+1)*bundle.PieceSizeFor(ref.Size))
			if err != nil {
				t.Fatal(err)
			}
			indexes[n] = x
		}
		foreign.Index = indexes[0]
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
		p := begin(t, s, foreign)
		c, err := p.claim(indexes[0], 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		wrote, replaced := make(chan error, 1), make(chan error, 1)
		go func() { wrote <- p.Write(1, pieceOf(archive, indexes[0], 1)) }()
		synctest.Wait()
		if err := p.Write(0, pieceOf(archive, indexes[0], 0)); err != nil {
			t.Errorf("another piece: %v", err)
		}
		if p.Have().Has(1) {
			t.Error("a piece is written by two")
		}
		p.yield(c) // the copy was rotten
		if err := <-wrote; err != nil || !p.Have().Has(1) {
			t.Errorf("after the copy: %v", err)
		}
		if c, err = p.claim(indexes[0], 2, 1); err != nil {
			t.Fatal(err)
		}
		go func() { replaced <- p.SetIndex(indexes[1]) }()
		synctest.Wait()
		if p.Index() != indexes[0] {
			t.Error("the index changes below a copy")
		}
		if _, err := p.note(c, 2, 1, 1); err != nil {
			t.Fatal(err)
		}
		p.yield(c)
		if err := <-replaced; err != nil || p.Have().Count() != 0 {
			t.Errorf("%v, %d pieces of the index before count as here", err, p.Have().Count())
		}
		writeAll(t, p, archive, Ref{Index: indexes[1]})
		if err := p.Finish(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if err := s.Recheck(t.Context(), ref.Digest); err != nil {
			t.Error(err)
		}
	})
}

// while calls then before the first byte is read.
type while struct {
	io.Reader
	then func()
}

func (w *while) Read(p []byte) (int, error) {
	if w.then != nil {
		w.then()
		w.then = nil
	}
	return w.Reader.Read(p)
}

// A fetch that finds the index while the whole archive comes in does not count pieces that the stream writes over.
func TestAnIndexDuringAnImport(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	bare := ref
	bare.Index = nil
	err := s.Import(t.Context(), bare, &while{bytes.NewReader(archive), func() {
		if _, err := s.Begin(ref); err == nil {
			t.Error("an index is taken while an archive without one is imported")
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Recheck(t.Context(), ref.Digest); err != nil {
		t.Error(err)
	}
}

// What follows the pieces is nobody's piece: where it is not what it should be it is written again, or the bundle could never be completed.
func TestATailThatIsGone(t *testing.T) {
	archive, ref := sample(t, 1)
	spoil := func(path string) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt(make([]byte, ref.Size-ref.Index.PayloadSize()), ref.Index.PayloadSize()); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(s *Store, when string) {
		t.Helper()
		b, ok := s.Lookup(ref.Digest)
		if !ok {
			t.Fatalf("%s: not complete", when)
		}
		if data, err := os.ReadFile(b.Path); err != nil || !bytes.Equal(data, archive) {
			t.Errorf("%s: not what it should be: %v", when, err)
		}
	}
	for _, pinned := range []bool{true, false} {
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
		p := begin(t, s, ref)
		writeAll(t, p, archive, ref)
		spoil(p.file.Name())
		if err := p.Finish(t.Context(), pinned); err != nil {
			t.Fatal(err)
		}
		whole(s, "of another index")
		b, _ := s.Lookup(ref.Digest)
		spoil(b.Path)
		if err := s.Recheck(t.Context(), ref.Digest); err != nil {
			t.Errorf("rotten when complete: %v", err)
		}
		whole(s, "rotten when complete")
	}
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	begin(t, s, ref)
	s.Close()
	spoil(filepath.Join(dir, "partial", ref.Digest.Hex(), "data"))
	s = open(t, Options{Dir: dir, KeepFree: -1})
	fetchAll(t, s, archive, ref)
	whole(s, "lost by a power cut")
}

// What a crash left of a file that was being replaced does not stay with the bundle.
func TestLeftoversOfACrashGo(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	begin(t, s, ref)
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "partial", ref.Digest.Hex(), ".durable-1234"), make([]byte, 1<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, KeepFree: -1})
	fetchAll(t, s, archive, ref)
	b, _ := s.Lookup(ref.Digest)
	if _, err := os.Lstat(filepath.Join(filepath.Dir(b.Path), ".durable-1234")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it moved along: %v", err)
	}
}
