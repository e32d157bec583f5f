package store

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/gitopsd/gitopsd/internal/bundle"
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

// What came of an archive that was another one does not stand in the way of the right one.
func TestAnImportAfterAWrongOne(t *testing.T) {
	ours, ref := sample(t, 1)
	bare := Ref{Digest: ref.Digest, Size: ref.Size, Type: ref.Type}
	wrong := bytes.Clone(ours)
	wrong[ref.Index.Piece(1).Offset] ^= 1
	foreign := noise(3, 700<<10)
	for name, c := range map[string]struct {
		ref          Ref
		wrong, right []byte
	}{
		"ours":          {bare, wrong, ours},
		"not ours":      {bare, noise(4, len(ours)), ours},
		"of a zip file": {Ref{Digest: bundle.DigestBytes(foreign), Size: int64(len(foreign)), Type: bundle.TypeZip}, noise(5, len(foreign)), foreign},
	} {
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
		if err := s.Import(t.Context(), c.ref, bytes.NewReader(c.wrong)); err == nil {
			t.Errorf("%s: it is taken", name)
		}
		if err := s.Import(t.Context(), c.ref, bytes.NewReader(c.right)); err != nil {
			t.Errorf("%s: the right one after it: %v", name, err)
		}
	}
}

// An archive of our own whose commit gives it another type gets no index that contradicts it: the next start would take it for damaged.
func TestAnImportOfAnotherType(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	if err := s.Import(t.Context(), Ref{Digest: ref.Digest, Size: ref.Size, Type: bundle.TypeTgz}, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := open(t, Options{Dir: dir, KeepFree: -1}).Lookup(ref.Digest); !ok {
		t.Error("after a restart it is gone")
	}
}

// A check that ends after Close leaves the directory alone: it may be another's.
func TestRecheckAfterClose(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	fetchAll(t, s, archive, ref)
	b, _ := s.Lookup(ref.Digest)
	damage(t, b.Path, ref.Index.Piece(1).Offset)
	var again *Store
	err := s.Recheck(&slowly{Context: t.Context(), at: func(n int) {
		if n == 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			again = open(t, Options{Dir: dir, KeepFree: -1})
		}
	}}, ref.Digest)
	if _, ok := again.Lookup(ref.Digest); !ok || !exists(b.Path) {
		t.Errorf("the store that is open now: known %v, on disk %v (%v)", ok, exists(b.Path), err)
	}
}

// An import that is over leaves alone what somebody else fetches.
func TestAnImportBesideAFetch(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	if err := s.Import(t.Context(), ref, bytes.NewReader(archive[:1000])); !errors.Is(err, ErrMismatch) {
		t.Errorf("cut off: %v", err)
	}
	if gone, err := s.Collect(t.Context(), 0); err != nil || len(gone) != 0 {
		t.Errorf("collected %v, %v", gone, err)
	}
	if err := p.Write(0, pieceOf(archive, ref.Index, 0)); err != nil {
		t.Error(err)
	}
}

// Nor is an import collected because a fetch beside it came to rest.
func TestAFetchBesideAnImport(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	err := s.Import(t.Context(), ref, &while{bytes.NewReader(archive), func() {
		begin(t, s, ref).Rest()
		if gone, err := s.Collect(t.Context(), 0); err != nil || len(gone) != 0 {
			t.Errorf("collected %v, %v", gone, err)
		}
	}})
	if err != nil {
		t.Error(err)
	}
}

// What the disk lost while pieces are compared with the index does not count as here after it.
func TestALossBesideAScan(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	damage(t, p.file.Name(), ref.Index.Piece(1).Offset)
	lost := false
	err := p.Finish(&slowly{Context: t.Context(), at: func(int) {
		if !lost && len(p.slot) == 0 && p.secluded() {
			lost = true
			p.lose()
		}
	}}, false)
	if !lost || err == nil || p.Have().Count() != 0 {
		t.Errorf("%v, %d pieces count as here", err, p.Have().Count())
	}
}

func (p *Partial) secluded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alone
}

// What follows the pieces is lost as they are, and written again.
func TestATailThatTheDiskLost(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	asked := 0
	err := p.Finish(&slowly{Context: t.Context(), at: func(n int) {
		if asked = n; n == 2 {
			p.lose() // whoever synced was told
			writeAll(t, p, archive, ref)
		}
	}}, false)
	if _, ok := s.Lookup(ref.Digest); ok || err == nil || asked < 2 {
		t.Errorf("complete with what the disk lost: %v", err)
	}
	if err := p.Finish(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// Nor is what came since another index overwrote what follows the pieces, and went.
func TestAnIndexThatComesAndGoesDuringFinish(t *testing.T) {
	archive, ref := sample(t, 1)
	other := ref
	var err error
	lie := bytes.Clone(archive)
	lie[len(lie)-1] ^= 1
	if other.Index, err = bundle.IndexOf(bytes.NewReader(lie), 64<<10); err != nil {
		t.Fatal(err)
	}
	var sums [][32]byte
	for i := range other.Index.Len() {
		sums = append(sums, other.Index.Piece(i).Sum)
	}
	if other.Index, err = bundle.ForeignIndex(ref.Size, 64<<10, ref.Digest, sums); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	writeAll(t, p, archive, ref)
	done := false
	err = p.Finish(&slowly{Context: t.Context(), at: func(n int) {
		if n >= 4 && !done {
			done = true
			if err := p.SetIndex(other.Index); err != nil {
				t.Error(err)
			}
			writeAll(t, p, lie, other)
			if err := p.SetIndex(ref.Index); err != nil {
				t.Error(err)
			}
			writeAll(t, p, archive, ref)
		}
	}}, false)
	if !done {
		t.Fatal("test is wrong")
	}
	if b, ok := s.Lookup(ref.Digest); ok {
		if got, err := digestOfFile(t.Context(), b.Path); got != ref.Digest {
			t.Errorf("complete, and %s instead of %s (%v)", got, ref.Digest, err)
		}
	}
	if err == nil {
		t.Error("it does not say so")
	}
	if err := p.Finish(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// A partial that the disk refuses to remove stays one, and so counts, and can be fetched or collected later.
func TestAPartialThatCannotBeRemovedStaysKnown(t *testing.T) {
	archive, ref := sample(t, 1)
	ill := false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: immovable(&ill)})
	p := begin(t, s, ref)
	p.Rest()
	ill = true
	if gone, err := s.Collect(t.Context(), 0); err == nil || len(gone) != 0 || s.Used() != ref.Size {
		t.Errorf("collected %v, %v, %d bytes are used", gone, err, s.Used())
	}
	if err := p.Discard(); err == nil || s.Used() != ref.Size {
		t.Errorf("discarded: %v, %d bytes are used", err, s.Used())
	}
	ill = false
	if err := p.Write(0, pieceOf(archive, ref.Index, 0)); err != nil {
		t.Error(err)
	}
	if gone, err := s.Collect(t.Context(), 0); err != nil || len(gone) != 1 || s.Used() != 0 {
		t.Errorf("collected %v, %v, %d bytes are used", gone, err, s.Used())
	}
}

// A Begin that is about to take over a corrected type when the bundle is collected gets one of its own.
func TestBeginOfWhatIsCollectedMeanwhile(t *testing.T) {
	archive := noise(9, 700<<10)
	x, err := bundle.IndexOf(bytes.NewReader(archive), 0)
	if err != nil {
		t.Fatal(err)
	}
	ref := Ref{Digest: bundle.DigestBytes(archive), Size: int64(len(archive)), Type: bundle.TypeTgz, Index: x}
	var s *Store
	armed := false
	s = open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if armed && op.Kind == "create" && filepath.Base(op.Path) == "ref" {
			armed = false
			_, err := s.Collect(t.Context(), 0)
			return err
		}
		return nil
	}}})
	fetchAll(t, s, archive, ref)
	armed, ref.Type = true, bundle.TypeZip
	p, err := s.Begin(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Write(0, pieceOf(archive, x, 0)); err != nil {
		t.Error(err)
	}
}

// Whoever finishes when told of the last copy may find pieces that rotted.
func TestFinishWithTheLastCopyFindsRot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, firstRef := sample(t, 1)
		second, secondRef := sample(t, 2)
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
		fetchAll(t, s, first, firstRef)
		p := begin(t, s, secondRef)
		fetched := -1
		for i, j := range bundle.Reuse(secondRef.Index, firstRef.Index) {
			if j < 0 {
				fetched = i
				if err := p.Write(i, pieceOf(second, secondRef.Index, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		damage(t, p.file.Name(), secondRef.Index.Piece(fetched).Offset)
		told := false
		if err := p.Reuse(t.Context(), func(int, int) {
			if p.Missing() == 0 {
				told = true
				if err := p.Finish(t.Context(), false); !errors.Is(err, ErrMismatch) || p.Missing() != 1 {
					t.Errorf("rotten: %v, %d missing", err, p.Missing())
				}
			}
		}); err != nil || !told {
			t.Errorf("%v, told %v", err, told)
		}
	})
}

// Of two who finish a bundle the slower one is told that it is complete, or else why it is no partial any more, and not of a file that is closed.
func TestFinishBesideAnother(t *testing.T) {
	archive, ref := sample(t, 1)
	for name, c := range map[string]struct {
		quicker func(s *Store, p *Partial) error
		want    error
	}{
		"finished":  {func(_ *Store, p *Partial) error { return p.Finish(context.Background(), true) }, nil},
		"discarded": {func(_ *Store, p *Partial) error { return p.Discard() }, ErrMissing},
		"closed":    {func(s *Store, _ *Partial) error { return s.Close() }, ErrClosed},
	} {
		for at := 1; at <= 2; at++ {
			s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
			p := begin(t, s, ref)
			writeAll(t, p, archive, ref)
			err := p.Finish(&slowly{Context: t.Context(), at: func(n int) {
				if n == at {
					if err := c.quicker(s, p); err != nil {
						t.Error(err)
					}
				}
			}}, false)
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
