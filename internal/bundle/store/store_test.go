package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

func noise(seed byte, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(out)
	return out
}

func sampleTree(seed byte) fstest.MapFS {
	return fstest.MapFS{
		"appspec.yml":  {Data: []byte("version: 0.0\nos: linux\n"), Mode: 0o644},
		"bin":          {Mode: fs.ModeDir | 0o755}, // without it nobody but root could remove what is unpacked
		"bin/app":      {Data: noise(seed, 1<<20), Mode: 0o755},
		"bin/constant": {Data: noise(255, 1<<20), Mode: 0o755},
		"link":         {Data: []byte("bin/app"), Mode: fs.ModeSymlink | 0o777},
	}
}

// sample packs a tree and returns the archive and its reference, index included.
func sample(t testing.TB, seed byte) ([]byte, Ref) {
	t.Helper()
	return pack(t, sampleTree(seed))
}

func pack(t testing.TB, tree fs.FS) ([]byte, Ref) {
	t.Helper()
	var out bytes.Buffer
	x, digest, err := bundle.Pack(&out, tree, bundle.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), Ref{Digest: digest, Size: int64(out.Len()), Type: bundle.TypeTarZst, Index: x}
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func pieceOf(archive []byte, x *bundle.Index, i int) []byte {
	p := x.Piece(i)
	return archive[p.Offset : p.Offset+int64(p.Size)]
}

func begin(t testing.TB, s *Store, ref Ref) *Partial {
	t.Helper()
	p, err := s.Begin(ref)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func fetchAll(t testing.TB, s *Store, archive []byte, ref Ref) {
	t.Helper()
	p := begin(t, s, ref)
	have := p.Have()
	for i := range ref.Index.Len() {
		if !have.Has(i) {
			if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Finish(context.Background(), false); err != nil {
		t.Fatal(err)
	}
}

func TestPiecesInAnyOrderBecomeABundle(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for k := range ref.Index.Len() {
				i := (k*7 + worker) % ref.Index.Len()
				if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
					t.Error(err)
				}
				if got, err := p.Read(i, nil); err != nil || !bytes.Equal(got, pieceOf(archive, ref.Index, i)) {
					t.Errorf("piece %d reads back differently: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	for i := range ref.Index.Len() {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
	}
	if p.Missing() != 0 || p.Have().Count() != ref.Index.Len() {
		t.Fatalf("%d missing, %d here of %d", p.Missing(), p.Have().Count(), ref.Index.Len())
	}
	if err := p.Finish(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	b, ok := s.Lookup(ref.Digest)
	if !ok {
		t.Fatal("not found once complete")
	}
	got, err := os.ReadFile(b.Path)
	if err != nil || !bytes.Equal(got, archive) {
		t.Fatalf("the file differs from the archive (%v)", err)
	}
	if data, err := p.Read(0, nil); err != nil || !bytes.Equal(data, pieceOf(archive, ref.Index, 0)) {
		t.Errorf("a holder of the partial cannot read on: %v", err)
	}
	if _, err := s.Begin(ref); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Begin of a complete bundle: %v", err)
	}
}

func TestWrongBytesAreRefused(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	bad := bytes.Clone(pieceOf(archive, ref.Index, 2))
	bad[len(bad)/2] ^= 1
	for name, data := range map[string][]byte{"a flipped bit": bad, "too short": bad[:10], "empty": nil} {
		if err := p.Write(2, data); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.Read(2, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a missing piece: %v", err)
	}
	if err := p.Write(ref.Index.Len(), nil); err == nil {
		t.Error("a piece beyond the end is accepted")
	}
	if err := p.Finish(t.Context(), false); err == nil {
		t.Error("a partial with missing pieces finishes")
	}
}

func TestRestartResumesFromTheBitmap(t *testing.T) {
	archive, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1, SyncEvery: 1})
	p := begin(t, s, ref)
	half := ref.Index.Len() / 2
	for i := range half {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second process may open the store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Bytes under a set bit change while nobody looks.
	data := filepath.Join(dir, "partial", ref.Digest.Hex(), "data")
	file, err := os.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("rot"), ref.Index.Piece(1).Offset); err != nil {
		t.Fatal(err)
	}
	file.Close()

	s = open(t, Options{Dir: dir, KeepFree: -1})
	p = begin(t, s, ref)
	if got := p.Have().Count(); got != half {
		t.Fatalf("%d pieces after a restart, want %d", got, half)
	}
	if _, err := p.Read(1, nil); !errors.Is(err, ErrMismatch) {
		t.Fatalf("a rotten piece is served: %v", err)
	}
	if p.Have().Has(1) || p.Missing() != ref.Index.Len()-half+1 {
		t.Error("a rotten piece still counts as here")
	}
	fetchAll(t, s, archive, ref)
}

func TestRotFoundAtFinishIsFetchedAgain(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	for i := range ref.Index.Len() {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.file.WriteAt([]byte("rot"), ref.Index.Piece(3).Offset); err != nil {
		t.Fatal(err)
	}
	if err := p.Finish(t.Context(), false); !errors.Is(err, ErrMismatch) {
		t.Fatalf("rot passes: %v", err)
	}
	if p.Missing() != 1 {
		t.Fatalf("%d pieces missing, only one is rotten", p.Missing())
	}
	fetchAll(t, s, archive, ref)
}

func TestForeignArchiveAndItsIndex(t *testing.T) {
	archive := noise(9, 700<<10)
	x, err := bundle.IndexOf(bytes.NewReader(archive), 0)
	if err != nil {
		t.Fatal(err)
	}
	ref := Ref{Digest: bundle.DigestBytes(archive), Size: int64(len(archive)), Type: bundle.TypeZip}
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	if err := p.Write(0, pieceOf(archive, x, 0)); !errors.Is(err, ErrNoIndex) {
		t.Errorf("writing without an index: %v", err)
	}
	other, err := bundle.IndexOf(bytes.NewReader(noise(8, 700<<10)), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetIndex(other); !errors.Is(err, ErrMismatch) {
		t.Errorf("another archive's index: %v", err)
	}
	if err := p.SetIndex(x); err != nil {
		t.Fatal(err)
	}
	ref.Index = x
	fetchAll(t, s, archive, ref)
}

// A list of piece sums that a liar published passes piece by piece; the whole digest judges it.
func TestLyingIndexIsFoundOut(t *testing.T) {
	archive := noise(9, 700<<10)
	lie := bytes.Clone(archive)
	lie[300<<10] ^= 1
	honest, err := bundle.IndexOf(bytes.NewReader(archive), 0)
	if err != nil {
		t.Fatal(err)
	}
	lies, err := bundle.IndexOf(bytes.NewReader(lie), 0)
	if err != nil {
		t.Fatal(err)
	}
	var sums [][32]byte
	for i := range lies.Len() {
		sums = append(sums, lies.Piece(i).Sum)
	}
	digest := bundle.DigestBytes(archive)
	x, err := bundle.ForeignIndex(int64(len(archive)), lies.PieceSize(), digest, sums)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, Ref{Digest: digest, Size: int64(len(archive)), Type: bundle.TypeZip, Index: x})
	for i := range x.Len() {
		if err := p.Write(i, pieceOf(lie, x, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Finish(t.Context(), false); !errors.Is(err, ErrMismatch) {
		t.Fatalf("the lie passes: %v", err)
	}
	if p.Missing() != 0 {
		t.Errorf("%d pieces are to be fetched again, though no others would be right", p.Missing())
	}
	if err := p.Finish(t.Context(), true); !errors.Is(err, ErrBadIndex) {
		t.Errorf("what was judged once passes: %v", err)
	}
	if err := p.Discard(); err != nil {
		t.Fatal(err)
	}

	p = begin(t, s, Ref{Digest: digest, Size: int64(len(archive)), Type: bundle.TypeZip, Index: x})
	for i := range x.Len() {
		if err := p.Write(i, pieceOf(lie, x, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Finish(t.Context(), true); err != nil { // whoever says the digest said that
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), digest, filepath.Join(t.TempDir(), "tree")); !errors.Is(err, ErrBadIndex) {
		t.Fatalf("what a wrong pin led to is unpacked: %v", err)
	}
	p, _ = s.Partial(digest)
	if err := p.Finish(t.Context(), true); !errors.Is(err, ErrBadIndex) || p.Missing() != 0 {
		t.Errorf("the pin is not found to be wrong: %v, %d missing", err, p.Missing())
	}
	fetchAll(t, s, archive, Ref{Digest: digest, Size: int64(len(archive)), Type: bundle.TypeZip, Index: honest})
}

// Where the index comes from whoever says the digest, a bundle is complete with its last piece: what was verified as it came is not read again. The whole is read if
// any of it was not, and whoever unpacks it compares its digest in any case.
func TestAPinnedIndexVouchesForTheWhole(t *testing.T) {
	first, firstRef := sample(t, 1)
	second, secondRef := sample(t, 2)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	fill := func(p *Partial) {
		t.Helper()
		if err := p.Reuse(t.Context(), func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		for i := range secondRef.Index.Len() {
			if err := p.Write(i, pieceOf(second, secondRef.Index, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rot := func(p *Partial) {
		t.Helper()
		if _, err := p.file.WriteAt([]byte("rot"), secondRef.Index.Piece(3).Offset); err != nil {
			t.Fatal(err)
		}
	}
	p := begin(t, s, secondRef)
	fill(p)
	rot(p)
	if err := p.Finish(t.Context(), true); err != nil {
		t.Fatalf("it was read again: %v", err)
	}
	if err := s.Unpack(t.Context(), secondRef.Digest, filepath.Join(dir, "tree")); !errors.Is(err, ErrMismatch) {
		t.Fatalf("unpacked without a look at its digest: %v", err)
	}
	again, ok := s.Partial(secondRef.Digest) // what Unpack made of it
	if !ok || again.Missing() != 1 {
		t.Fatalf("of the rotten bundle %v", again)
	}
	fill(again)
	rot(again)
	if err := again.Finish(t.Context(), true); !errors.Is(err, ErrMismatch) || again.Missing() != 1 {
		t.Errorf("a partial that came of a rotten bundle is not read again: %v, %d missing", err, again.Missing())
	}
	fill(again)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, Options{Dir: dir, KeepFree: -1})
	after := begin(t, s, secondRef)
	fill(after)
	rot(after)
	if err := after.Finish(t.Context(), true); !errors.Is(err, ErrMismatch) {
		t.Errorf("what an earlier run wrote is not read again: %v", err)
	}
	fill(after)
	if err := after.Finish(t.Context(), true); err != nil {
		t.Error(err)
	}
}

func TestCopyRange(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, flag int) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), flag|os.O_CREATE, 0o600)
		if err == nil && text != "" {
			_, err = f.WriteString(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	from, to := file("from", "abcdefgh", os.O_RDWR), file("to", "0123456789", os.O_RDWR)
	if whole, err := copyRange(to, 2, from, 3, 4); !whole || err != nil || mustRead(t, dir, "to") != "01defg6789" {
		t.Errorf("%v %v %q", whole, err, mustRead(t, dir, "to"))
	}
	if whole, err := copyRange(to, 0, from, 7, 4); whole || err != nil {
		t.Errorf("more than there is: %v %v", whole, err)
	}
	if whole, err := copyRange(file("to", "", os.O_RDONLY), 0, from, 0, 4); whole || err == nil {
		t.Errorf("where nothing can be written: %v %v", whole, err)
	}
	if whole, err := copyBytes(to, 0, from, 0, 3); !whole || err != nil || mustRead(t, dir, "to")[:3] != "abc" {
		t.Errorf("by bytes: %v %v", whole, err)
	}
	if whole, err := copyBytes(to, 0, from, 7, 4); whole || err != nil {
		t.Errorf("more bytes than there are: %v %v", whole, err)
	}
}

func TestWhatCannotFitIsRefused(t *testing.T) {
	_, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1, Limit: ref.Size - 1})
	if _, err := s.Begin(ref); !errors.Is(err, ErrNoSpace) {
		t.Errorf("above the limit: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, KeepFree: 1 << 60})
	if _, err := s.Begin(ref); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a disk that is to be kept free: %v", err)
	}
	if s.Used() != 0 {
		t.Errorf("%d bytes count as used after refusals", s.Used())
	}
	huge := Ref{Digest: ref.Digest, Size: 1 << 41, Type: bundle.TypeTar}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, KeepFree: -1})
	if _, err := s.Begin(huge); !errors.Is(err, ErrNoSpace) {
		t.Errorf("2 TiB: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "partial"))
	if err != nil || len(entries) > 0 {
		t.Errorf("refused bundles leave %v (%v)", entries, err)
	}
}

func TestPinsOutliveARestartAndCollectKeepsThem(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	var refs []Ref
	for seed := range byte(4) {
		archive, ref := sample(t, seed+10)
		fetchAll(t, s, archive, ref)
		refs = append(refs, ref)
	}
	for _, owner := range []string{"shop", "mail"} {
		if err := s.Pin(owner, refs[0].Digest); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unpin("mail", refs[0].Digest); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, KeepFree: -1})
	s.Lookup(refs[1].Digest) // used just now
	deleted, err := s.Collect(t.Context(), refs[0].Size*2+refs[0].Size/2)
	if err != nil || len(deleted) != 2 {
		t.Fatalf("deleted %v (%v)", deleted, err)
	}
	for i, want := range []bool{true, true, false, false} {
		if _, ok := s.Lookup(refs[i].Digest); ok != want {
			t.Errorf("bundle %d here: %v, want %v", i, ok, want)
		}
	}
	if _, err := s.Collect(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := s.Digests(); len(got) != 1 || got[0] != refs[0].Digest {
		t.Errorf("after collecting everything unpinned: %v", got)
	}
	if err := s.Unpin("shop", refs[0].Digest); err != nil {
		t.Fatal(err)
	}
	if deleted, _ := s.Collect(t.Context(), 0); len(deleted) != 1 || s.Used() != 0 {
		t.Errorf("the last pin is gone, deleted %v, %d bytes used", deleted, s.Used())
	}
}

func TestCollectLeavesWhatIsBeingFetched(t *testing.T) {
	_, ref := sample(t, 1)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, KeepFree: -1})
	begin(t, s, ref)
	if deleted, err := s.Collect(t.Context(), 0); err != nil || len(deleted) > 0 {
		t.Fatalf("deleted %v (%v)", deleted, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, KeepFree: -1})
	if deleted, err := s.Collect(t.Context(), 0); err != nil || len(deleted) != 1 {
		t.Fatalf("an abandoned partial stays: %v (%v)", deleted, err)
	}
}

func TestImportIndexesByItself(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	bare := ref
	bare.Index = nil
	if err := s.Import(t.Context(), bare, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	b, ok := s.Lookup(ref.Digest)
	if !ok || b.Ref.Index == nil || b.Ref.Index.Digest() != ref.Index.Digest() {
		t.Fatalf("imported as %+v", b)
	}
	raw := noise(3, 1<<20)
	foreign := Ref{Digest: bundle.DigestBytes(raw), Size: int64(len(raw)), Type: bundle.TypeTgz}
	if err := s.Import(t.Context(), foreign, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	wrong := Ref{Digest: bundle.DigestBytes([]byte("x")), Size: int64(len(raw)), Type: bundle.TypeTgz}
	if err := s.Import(t.Context(), wrong, bytes.NewReader(raw)); !errors.Is(err, ErrMismatch) {
		t.Errorf("another digest: %v", err)
	}
}

func TestRotInACompleteBundleDemotesIt(t *testing.T) {
	archive, ref := sample(t, 1)
	told := 0
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Suspect: func() { told++ }})
	fetchAll(t, s, archive, ref)
	b, _ := s.Lookup(ref.Digest)
	file, err := os.OpenFile(b.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("rot"), ref.Index.Piece(2).Offset); err != nil {
		t.Fatal(err)
	}
	file.Close()
	if _, err := b.ReadPiece(2, nil); !errors.Is(err, ErrMismatch) {
		t.Errorf("rot is served: %v", err)
	}
	if _, err := b.ReadPiece(2, nil); !errors.Is(err, ErrMismatch) || told != 1 || !slices.Equal(s.Suspects(), []bundle.Digest{ref.Digest}) {
		t.Errorf("rot found twice is told %d times; suspects %v", told, s.Suspects())
	}
	if data, err := b.ReadPiece(1, nil); err != nil || !bytes.Equal(data, pieceOf(archive, ref.Index, 1)) {
		t.Errorf("a piece that is good is not served: %v", err)
	}
	dest := filepath.Join(t.TempDir(), "out")
	removeAtEnd(t, dest)
	if err := s.Unpack(t.Context(), ref.Digest, dest); !errors.Is(err, ErrMismatch) {
		t.Errorf("rot is unpacked: %v", err)
	}
	if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was unpacked")
	}
	p := begin(t, s, ref)
	if p.Missing() != 1 {
		t.Errorf("%d pieces to fetch again, want 1", p.Missing())
	}
	if _, err := p.Read(2, nil); !errors.Is(err, fs.ErrNotExist) || len(s.Suspects()) != 0 {
		t.Errorf("a partial hands rot out: %v; suspects %v", err, s.Suspects())
	}
	fetchAll(t, s, archive, ref)
	if err := s.Unpack(t.Context(), ref.Digest, dest); err != nil {
		t.Error(err)
	}
}

// The power is cut before every single durable operation of a whole life; a fresh start must always get to the end.
func TestPowerCutAtEveryStep(t *testing.T) {
	archive, ref := pack(t, fstest.MapFS{"a": {Data: noise(1, 70<<10)}, "b": {Data: noise(2, 70<<10)}, "c": {Data: noise(3, 70<<10)}})
	life := func(dir string, disk *durable.Disk) error {
		s, err := Open(Options{Dir: dir, KeepFree: -1, SyncEvery: 100 << 10, Disk: disk})
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.Pin("g", ref.Digest); err != nil {
			return err
		}
		p, err := s.Begin(ref)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err != nil {
			return err
		}
		have := p.Have()
		for i := range ref.Index.Len() {
			if have.Has(i) {
				if got, err := p.Read(i, nil); err != nil || !bytes.Equal(got, pieceOf(archive, ref.Index, i)) {
					return fmt.Errorf("the bitmap promises piece %d: %v", i, err)
				}
			} else if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
				return err
			}
		}
		return p.Finish(context.Background(), false)
	}
	cutEverywhere(t, life, func(s *Store) error {
		if pins := s.Pins(); len(pins) != 1 {
			return fmt.Errorf("pins %v", pins)
		}
		return s.Recheck(t.Context(), ref.Digest)
	})
}

// TestASuspectThatIsGoodIsNoneAnyMore: what looked wrong once, a bad cable or memory, may be right the next time.
func TestASuspectThatIsGoodIsNoneAnyMore(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, archive, ref)
	b, _ := s.Lookup(ref.Digest)
	if err := os.Truncate(b.Path, ref.Index.Piece(2).Offset+1); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadPiece(2, nil); !errors.Is(err, ErrMismatch) || len(s.Suspects()) != 1 {
		t.Errorf("%v, suspects %v", err, s.Suspects())
	}
	if err := os.WriteFile(b.Path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Recheck(t.Context(), ref.Digest); err != nil || len(s.Suspects()) != 0 {
		t.Errorf("%v, suspects %v", err, s.Suspects())
	}
	if _, ok := s.Lookup(ref.Digest); !ok {
		t.Error("a good bundle is gone")
	}
}

// TestCompletionBesideASync: a bitmap that is being written while the bundle completes is no failure of the write that asked for it.
func TestCompletionBesideASync(t *testing.T) {
	archive, ref := sample(t, 1)
	for range 20 {
		s := open(t, Options{Dir: t.TempDir(), SyncEvery: 1})
		p := begin(t, s, ref)
		x := p.Index()
		var writers sync.WaitGroup
		errs := make(chan error, x.Len())
		for i := range x.Len() {
			writers.Go(func() { errs <- p.Write(i, pieceOf(archive, x, i)) })
		}
		for p.Missing() > 0 {
			runtime.Gosched()
		}
		if err := p.Finish(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Errorf("a write fails because the bundle completed beside it: %v", err)
			}
		}
	}
}
