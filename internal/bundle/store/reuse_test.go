package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// overwrite changes a file at an offset, and waits until its file system says so: two writes in one tick of its clock look like one.
func overwrite(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	was := stateOfFile(file)
	for was == stateOfFile(file) {
		if _, err := file.WriteAt([]byte("rot"), at); err != nil {
			t.Fatal(err)
		}
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
	overwrite(t, old.Path, firstRef.Index.Piece(from[rotten]).Offset)
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
	overwrite(t, old.Path, firstRef.Index.Piece(from[victim]).Offset+3)
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

// What this process has verified, and nobody has written to since, is taken over unread. Rot below that, which no file system tells, is found when the whole is
// unpacked; from then on everything that is reused is read.
func TestReuseOfWhatRottedUnseen(t *testing.T) {
	first, firstRef := sample(t, 1)
	second, secondRef := sample(t, 2)
	from := bundle.Reuse(secondRef.Index, firstRef.Index)
	rotten := slices.IndexFunc(from, func(j int) bool { return j >= 0 })
	reused := func(s *Store) *Partial {
		t.Helper()
		p := begin(t, s, secondRef)
		if err := p.Reuse(t.Context(), func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	sites := map[string]func(s *Store, p *Partial){ // where it is found
		"unpacking": func(s *Store, p *Partial) {
			writeAll(t, p, second, secondRef)
			if err := p.Finish(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			if err := s.Unpack(t.Context(), secondRef.Digest, filepath.Join(t.TempDir(), "tree")); !errors.Is(err, ErrMismatch) {
				t.Fatalf("rot is unpacked: %v", err)
			}
		},
		"serving while it comes": func(_ *Store, p *Partial) {
			if _, err := p.Read(rotten, nil); !errors.Is(err, ErrMismatch) {
				t.Fatalf("rot is served: %v", err)
			}
		},
		"serving the earlier bundle": func(s *Store, p *Partial) {
			if err := p.Discard(); err != nil {
				t.Fatal(err)
			}
			b, _ := s.Lookup(firstRef.Digest)
			if _, err := b.ReadPiece(from[rotten], nil); !errors.Is(err, ErrMismatch) {
				t.Fatalf("rot is served: %v", err)
			}
		},
	}
	for where, find := range sites {
		t.Run(where, func(t *testing.T) {
			s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
			fetchAll(t, s, first, firstRef)
			old, _ := s.Lookup(firstRef.Digest)
			overwrite(t, old.Path, firstRef.Index.Piece(from[rotten]).Offset)
			s.complete[firstRef.Digest].sound = stateOf(old.Path) // as if the file system had not noticed
			p := reused(s)
			if !p.Have().Has(rotten) {
				t.Fatal("what is sound is read again")
			}
			find(s, p)
			if p = reused(s); p.Have().Has(rotten) {
				t.Fatal("it is taken over once more")
			}
			fetchAll(t, s, second, secondRef)
			if err := s.Recheck(t.Context(), secondRef.Digest); err != nil {
				t.Error(err)
			}
		})
	}
}

// Nobody vouches for what an earlier process left, nor for an index that came when the bundle was here already.
func TestWhatIsSound(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	sound := func(s *Store) bool {
		b, ok := s.Lookup(ref.Digest)
		return ok && b.sound != fileState{} && b.sound == stateOf(b.Path)
	}
	fetchAll(t, s, archive, ref)
	if !sound(s) {
		t.Error("what came piece by piece is not")
	}
	s.Close()
	s = open(t, Options{Dir: dir, KeepFree: -1})
	if sound(s) {
		t.Error("what an earlier process left is")
	}
	s.Close()

	dir = t.TempDir()
	s = open(t, Options{Dir: dir, KeepFree: -1})
	if err := begin(t, s, ref).Write(0, pieceOf(archive, ref.Index, 0)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, Options{Dir: dir, KeepFree: -1})
	if !begin(t, s, ref).Have().Has(0) {
		t.Fatal("nothing is left of the earlier process")
	}
	fetchAll(t, s, archive, ref)
	if sound(s) {
		t.Error("what an earlier process began is")
	}
	s.Close()

	s = open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, archive, ref)
	s.complete[ref.Digest].Ref.Index = nil
	if _, err := s.Begin(ref); !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if b, _ := s.Lookup(ref.Digest); b.Ref.Index == nil || sound(s) {
		t.Error("what was never compared with its index is")
	}
}

// Copying what is here already comes behind all else, and its thread ends with it.
func TestReuseIsAtEase(t *testing.T) {
	first, firstRef := sample(t, 1)
	_, secondRef := sample(t, 2)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	thread := 0
	if err := begin(t, s, secondRef).Reuse(t.Context(), func(int, int) {
		thread = unix.Gettid()
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread); err != nil || 20-raw < atEasePriority { // the system call gives 20 - nice
			t.Errorf("its nice value is %d, %v", 20-raw, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); thread != 0 && errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("thread %d is still there", thread)
		}
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
