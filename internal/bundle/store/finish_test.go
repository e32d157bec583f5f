package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

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

// TestAnImportOfSomethingElse: what is here already stays as it is, and nothing wrong comes to it.
func TestAnImportOfSomethingElse(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	for i := range ref.Index.Len() - 1 {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int64{0, 1, ref.Size / 2, ref.Size, 2 * ref.Size} {
		if err := s.Import(t.Context(), ref, bytes.NewReader(make([]byte, size))); !errors.Is(err, ErrMismatch) || p.Missing() != 1 {
			t.Fatalf("of %d zeros: %v, %d missing", size, err, p.Missing())
		}
	}
	fetchAll(t, s, archive, ref)
	if err := s.Recheck(t.Context(), ref.Digest); err != nil {
		t.Error(err)
	}
}

// A fetch begins without waiting for the disk; the folder is durable before a bitmap or the complete bundle counts on it, also one that an earlier process began.
func TestTheFolderIsDurableBeforeItCounts(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	var ops []string
	disk := &durable.Disk{Hook: func(op durable.Op) error {
		rel, err := filepath.Rel(filepath.Join(dir, "partial", ref.Digest.Hex()), op.Path)
		ops = append(ops, op.Kind+" "+rel)
		return err
	}}
	s := open(t, Options{Dir: dir, KeepFree: -1, Disk: disk})
	ops = nil
	p := begin(t, s, ref)
	if i := slices.IndexFunc(ops, func(op string) bool { return strings.HasPrefix(op, "sync") }); i >= 0 {
		t.Errorf("Begin waits for the disk: %q", ops)
	}
	before := func(then string) {
		t.Helper()
		at := slices.Index(ops, then)
		for _, op := range []string{"sync ref", "sync index", "syncdir .", "syncdir .."} {
			if i := slices.Index(ops, op); i < 0 || at < i {
				t.Errorf("%q does not come before %q in %q", op, then, ops)
			}
		}
		ops = nil
	}
	if err := p.Write(0, pieceOf(archive, ref.Index, 0)); err != nil {
		t.Fatal(err)
	}
	if err := p.sync(); err != nil {
		t.Fatal(err)
	}
	before("create have")
	if err := p.Write(1, pieceOf(archive, ref.Index, 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.sync(); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(ops, "sync ref") {
		t.Errorf("it is made durable twice: %q", ops)
	}
	s.Close()
	s = open(t, Options{Dir: dir, KeepFree: -1, Disk: disk})
	ops = nil
	p = begin(t, s, ref)
	writeAll(t, p, archive, ref)
	if err := p.Finish(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	before("rename ../../complete/" + ref.Digest.Hex())
}

// What a power cut leaves of a folder that was never durable: names without content, in any combination. It is fetched again.
func TestAFolderThatWasNeverDurable(t *testing.T) {
	archive, ref := sample(t, 1)
	for _, lost := range [][]string{{"ref"}, {"index"}, {"data"}, {"ref", "index"}, {"index", "data"}, {"ref", "index", "data"}} {
		dir := t.TempDir()
		s := open(t, Options{Dir: dir, KeepFree: -1})
		begin(t, s, ref)
		s.Close()
		for _, name := range lost {
			if err := os.Truncate(filepath.Join(dir, "partial", ref.Digest.Hex(), name), 0); err != nil {
				t.Fatal(err)
			}
		}
		s = open(t, Options{Dir: dir, KeepFree: -1})
		fetchAll(t, s, archive, ref)
		if err := s.Recheck(t.Context(), ref.Digest); err != nil {
			t.Errorf("%q lost: %v", lost, err)
		}
		s.Close()
	}
}

// A Begin that knows another index or type, and comes when the bundle is about to be complete, waits and is told that it is: what is complete is as durable, and has the
// index its pieces were compared with.
func TestBeginBesideCompletion(t *testing.T) {
	archive, ref := sample(t, 1)
	other, err := bundle.IndexOf(bytes.NewReader(archive), 2*bundle.PieceSizeFor(ref.Size))
	if err != nil {
		t.Fatal(err)
	}
	fixed := ref
	fixed.Index = other
	for name, refs := range map[string][2]Ref{
		"index": {ref, fixed},
		"type":  {fixed, {Digest: ref.Digest, Size: ref.Size, Type: bundle.TypeTgz}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { beginBesideCompletion(t, archive, refs[0], refs[1]) })
		})
	}
}

func beginBesideCompletion(t *testing.T, archive []byte, ref, late Ref) {
	dir := t.TempDir()
	begun, armed := make(chan error, 1), false
	var loose bool
	var s *Store
	s = open(t, Options{Dir: dir, KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if !armed || op.Kind != "rename" || filepath.Dir(op.Path) != filepath.Join(dir, "complete") {
			return nil
		}
		armed = false
		go func() {
			_, err := s.Begin(late)
			begun <- err
		}()
		synctest.Wait() // it waits for the completion, or is through
		p, _ := s.Partial(ref.Digest)
		loose = p.Ref().Type != ref.Type || p.Index().Digest() != ref.Index.Digest()
		return nil
	}}})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	armed = true
	if err := p.Finish(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := <-begun; !errors.Is(err, os.ErrExist) {
		t.Errorf("Begin says %v", err)
	}
	if b, ok := s.Lookup(ref.Digest); loose || !ok || b.Ref.Index.Digest() != ref.Index.Digest() {
		t.Errorf("it was changed between its sync and its completion: %v", loose)
	}
	if err := p.Finish(t.Context(), true); err != nil {
		t.Errorf("finishing what is complete: %v", err)
	}
}

// A Begin that fails where the disk refuses even to clean up does not keep out the next.
func TestBeginAfterOneThatCouldNotCleanUp(t *testing.T) {
	archive, ref := sample(t, 1)
	bad := false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if bad && (filepath.Base(op.Path) == "ref" || strings.Contains(op.Path, "trash")) {
			return errors.New("the disk is ill")
		}
		return nil
	}}})
	bad = true
	if _, err := s.Begin(ref); err == nil {
		t.Fatal("a Begin that cannot write succeeds")
	}
	bad = false
	fetchAll(t, s, archive, ref)
}

// Nor does one that fails on what an earlier run left keep that from being collected: the disk may be full because of it.
func TestWhatAFailedBeginLeavesCanBeCollected(t *testing.T) {
	_, ref := sample(t, 1)
	full := false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if full && filepath.Base(op.Path) == "index" {
			return unix.ENOSPC
		}
		return nil
	}}})
	bare := ref
	bare.Index = nil
	begin(t, s, bare).Rest()
	full = true
	if _, err := s.Begin(ref); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("a Begin on a full disk: %v", err)
	}
	if gone, err := s.Collect(t.Context(), 0); err != nil || len(gone) != 1 || gone[0] != ref.Digest {
		t.Errorf("collected %v, %v", gone, err)
	}
}

// The kernel tells one of two who sync the same bytes that it lost some. If the other has completed the bundle meanwhile, it is suspect.
func TestALossThatIsToldAfterCompletion(t *testing.T) {
	archive, ref := sample(t, 1)
	var armed atomic.Bool
	var p *Partial
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if op.Kind != "sync" || filepath.Base(op.Path) != "data" || !armed.CompareAndSwap(true, false) {
			return nil
		}
		if err := p.Finish(context.Background(), true); err != nil {
			t.Error(err)
		}
		return unix.EIO
	}}})
	p = begin(t, s, ref)
	writeAll(t, p, archive, ref)
	armed.Store(true)
	_ = p.Finish(t.Context(), false)
	if _, done := s.Lookup(ref.Digest); !done || len(s.Suspects()) != 1 {
		t.Errorf("complete %v, suspects %v", done, s.Suspects())
	}
}
