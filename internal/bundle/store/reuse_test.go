package store

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// damage changes three bytes of a file.
func damage(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("rot"), at); err != nil {
		t.Fatal(err)
	}
}

func TestReuseTakesEqualPieces(t *testing.T) {
	first, firstRef := sample(t, 1)
	second, secondRef := sample(t, 2)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	p := begin(t, s, secondRef)
	promised := p.Reusable().Count()
	pieces, size := 0, 0
	err := p.Reuse(t.Context(), func(i, n int) {
		for pieces += n; n > 0; i, n = i+1, n-1 {
			size += secondRef.Index.Piece(i).Size
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if promised != pieces || p.Reusable().Count() != 0 {
		t.Errorf("%d pieces are reusable, %d were reused, %d are left", promised, pieces, p.Reusable().Count())
	}
	if size < 1<<20 || p.Missing() != secondRef.Index.Len()-pieces {
		t.Errorf("%d pieces and %d bytes reused, %d missing of %d", pieces, size, p.Missing(), secondRef.Index.Len())
	}
	fetchAll(t, s, second, secondRef)
}

// A piece that rotted in an earlier bundle is not taken from there; what lies around it is.
func TestReuseOfWhatRotted(t *testing.T) {
	first, firstRef := sample(t, 1)
	second, secondRef := sample(t, 2)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	old, ok := s.Lookup(firstRef.Digest)
	if !ok {
		t.Fatal("the earlier bundle is not there")
	}
	from := bundle.Reuse(secondRef.Index, firstRef.Index)
	rotten := slices.IndexFunc(from, func(j int) bool { return j >= 0 })
	damage(t, old.Path, firstRef.Index.Piece(from[rotten]).Offset)
	p := begin(t, s, secondRef)
	var taken []int
	if err := p.Reuse(t.Context(), func(i, n int) {
		for ; n > 0; i, n = i+1, n-1 {
			taken = append(taken, i)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i, j := range from {
		if want := j >= 0 && i != rotten; p.Have().Has(i) != want || slices.Contains(taken, i) != want {
			t.Errorf("piece %d: here %v, told %v, want %v", i, p.Have().Has(i), slices.Contains(taken, i), want)
		}
	}
	if p.Missing() != secondRef.Index.Len()-len(taken) {
		t.Errorf("%d missing of %d, %d taken", p.Missing(), secondRef.Index.Len(), len(taken))
	}
	fetchAll(t, s, second, secondRef)
}

// largeTree has more in common with others of its kind than is copied at once.
func largeTree(seed byte) fstest.MapFS {
	f := fstest.MapFS{}
	for i := range byte(8) {
		f["lib/"+string('a'+rune(i))] = &fstest.MapFile{Data: noise(100+i, 1<<20), Mode: 0o644}
	}
	f["bin/zz"] = &fstest.MapFile{Data: noise(seed, 1<<20), Mode: 0o755}
	return f
}

// A piece that somebody writes while Reuse runs is not lost to the copy of a rotten one.
func TestReuseBesideAWrite(t *testing.T) {
	first, firstRef := pack(t, largeTree(1))
	second, secondRef := pack(t, largeTree(2))
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
	damage(t, old.Path, firstRef.Index.Piece(from[victim]).Offset+3)
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

// A disk that could not write what was copied says so once: nothing of it counts as here then.
func TestReuseOnADiskThatLosesIt(t *testing.T) {
	first, firstRef := pack(t, largeTree(1))
	second, secondRef := pack(t, largeTree(2))
	full := true
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if op.Kind == "writeback" && full {
			full = false
			return unix.ENOSPC
		}
		return nil
	}}})
	fetchAll(t, s, first, firstRef)
	p := begin(t, s, secondRef)
	if err := p.Reuse(t.Context(), func(int, int) {}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("the error is lost: %v", err)
	}
	if p.Missing() != secondRef.Index.Len() || p.Have().Count() != 0 {
		t.Errorf("%d pieces count as here, %d of %d as missing", p.Have().Count(), p.Missing(), secondRef.Index.Len())
	}
	if err := p.Reuse(t.Context(), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	fetchAll(t, s, second, secondRef)
}

// Nor does the bundle become complete meanwhile, when others have brought the rest.
func TestFinishBesideADiskThatLosesIt(t *testing.T) {
	first, firstRef := pack(t, largeTree(1))
	second, secondRef := pack(t, largeTree(2))
	var p *Partial
	finished := make(chan error, 1)
	var s *Store
	s = open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if op.Kind != "writeback" {
			return nil
		}
		for i := range secondRef.Index.Len() {
			if err := p.Write(i, pieceOf(second, secondRef.Index, i)); err != nil {
				return err
			}
		}
		go func() { finished <- p.Finish(context.Background(), true) }()
		for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); runtime.Gosched() {
			if _, ok := s.Lookup(secondRef.Digest); ok { // it did not wait
				break
			}
		}
		return unix.EIO
	}}})
	fetchAll(t, s, first, firstRef)
	p = begin(t, s, secondRef)
	if err := p.Reuse(t.Context(), func(int, int) {}); !errors.Is(err, unix.EIO) {
		t.Errorf("the error is lost: %v", err)
	}
	if err := <-finished; err == nil {
		t.Error("what the disk lost is complete")
	}
}

// Copies of several bundles stand in one queue.
func TestReuseOfManyBundlesAwaitsThem(t *testing.T) {
	ranges, waits := 0, 0
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if op.Kind == "writeback" {
			waits++
		}
		return nil
	}}})
	all := fstest.MapFS{}
	for i := range byte(5) {
		name, file := "lib/"+string('a'+rune(i)), &fstest.MapFile{Data: noise(100+i, 1<<20), Mode: 0o644}
		archive, ref := pack(t, fstest.MapFS{name: file})
		fetchAll(t, s, archive, ref)
		all[name] = file
	}
	_, ref := pack(t, all)
	if err := begin(t, s, ref).Reuse(t.Context(), func(int, int) { ranges++ }); err != nil {
		t.Fatal(err)
	}
	if ranges < 5 || waits != ranges-1 {
		t.Errorf("%d copies, %d waits", ranges, waits)
	}
}

// Whoever has the rest may finish with the last copy, before Reuse has returned; it is not told of a file that is closed.
func TestFinishWithTheLastCopy(t *testing.T) {
	first, firstRef := pack(t, largeTree(1))
	second, secondRef := pack(t, largeTree(2))
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	p := begin(t, s, secondRef)
	for i, j := range bundle.Reuse(secondRef.Index, firstRef.Index) {
		if j < 0 {
			if err := p.Write(i, pieceOf(second, secondRef.Index, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Reuse(t.Context(), func(int, int) {
		if p.Missing() == 0 {
			if err := p.Finish(t.Context(), true); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Error(err)
	}
	if err := s.Recheck(t.Context(), secondRef.Digest); err != nil {
		t.Error(err)
	}
}
