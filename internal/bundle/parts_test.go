package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/fstest"
)

// noiseTree has n files of a MiB that do not compress, each its own.
func noiseTree(n int) fstest.MapFS {
	tree := fstest.MapFS{}
	for i := range n {
		tree[fmt.Sprintf("lib/%02d", i)] = &fstest.MapFile{Data: noise(uint64(i), 1<<20), Mode: 0o644}
	}
	return tree
}

// codeTree is some 6 MB of code, in files of which every twentieth is large: about as many frames for its size as Go's own tree has.
func codeTree(r *rand.Rand) fstest.MapFS {
	tree, content := fstest.MapFS{}, codeContent()
	for i := range 200 {
		size := 2000 + i*7919%40_000
		if i%20 == 0 {
			size += 150_000
		}
		tree[codeFile(i)] = &fstest.MapFile{Data: content(r, size), Mode: 0o644}
	}
	return tree
}

func codeFile(i int) string { return fmt.Sprintf("src/%02d/%d", i/10, i) }

// codeContent makes text that loses as much in small frames as Go's own sources do.
func codeContent() func(r *rand.Rand, n int) []byte {
	rich := sourceText()
	return func(r *rand.Rand, n int) []byte {
		if r.IntN(3) == 0 {
			return rich(r, n)
		}
		return prose(r.Uint64(), n)
	}
}

// release packs tree after the release before it, and returns it as the previous one of the next, with the frames that move.
func release(t *testing.T, tree fstest.MapFS, before *Previous) (*Previous, []Piece) {
	t.Helper()
	archive, x, _ := pack(t, tree, PackOptions{Previous: before})
	var moved []Piece
	if before != nil {
		for i, j := range Reuse(x, before.Index) {
			if j < 0 {
				moved = append(moved, x.Piece(i))
			}
		}
	}
	return &Previous{Index: x, Archive: bytes.NewReader(archive)}, moved
}

func largest(pieces []Piece) int {
	most := 0
	for _, p := range pieces {
		most = max(most, p.RawSize)
	}
	return most
}

func rawBytes(pieces []Piece) int {
	sum := 0
	for _, p := range pieces {
		sum += p.RawSize
	}
	return sum
}

// TestCutsAreThoseOfTheFormat: a release that cuts elsewhere shares no frames with bundles packed before. What the encoder makes of them is
// not part of that.
func TestCutsAreThoseOfTheFormat(t *testing.T) {
	cuts := func(x *Index) string {
		h := sha256.New()
		for _, p := range x.pieces {
			_, _ = fmt.Fprintf(h, "%d %x\n", p.RawSize, p.RawSum)
		}
		return fmt.Sprintf("%d frames %x", x.Len(), h.Sum(nil)[:8])
	}
	tree := noiseTree(16)
	first, _ := release(t, tree, nil)
	tree["lib/03"].Data = noise(100, 1<<20)
	fresh, _ := release(t, tree, nil)
	second, _ := release(t, tree, first)
	tree["lib/05"].Data = prose(7, 1<<20)
	third, _ := release(t, tree, second)
	for name, c := range map[string]struct {
		x    *Index
		want string
	}{
		"alone":                   {fresh.Index, "140 frames fdaeb7f5b202bcea"},
		"after a previous bundle": {second.Index, "164 frames e37f3e235a8f0066"},
		"after one, with text":    {third.Index, "170 frames 9681f82fde2223df"},
	} {
		if got := cuts(c.x); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestWhatIsNewMovesInParts(t *testing.T) {
	tree := noiseTree(16)
	first, _ := release(t, tree, nil)
	tree["lib/03"].Data = noise(100, 1<<20)
	fresh, _ := release(t, tree, nil)
	var whole []Piece
	for i, j := range Reuse(fresh.Index, first.Index) {
		if j < 0 {
			whole = append(whole, fresh.Index.Piece(i))
		}
	}
	second, parts := release(t, tree, first)
	if largest(whole) <= densePartMax || largest(parts) > densePartMax || len(parts) < 3*len(whole) {
		t.Errorf("%d frames of up to %d bytes move, %d of up to %d without the previous bundle", len(parts), largest(parts), len(whole), largest(whole))
	}
	if rawBytes(parts) != rawBytes(whole) {
		t.Errorf("%d bytes move, %d without the previous bundle: what it has is not left as it is", rawBytes(parts), rawBytes(whole))
	}
	if second.Index.RawDigest() != fresh.Index.RawDigest() {
		t.Error("with a previous bundle another tar is packed")
	}
	if third, moved := release(t, tree, second); len(moved) > 0 || third.Index.Digest() != second.Index.Digest() {
		t.Errorf("%d frames move though nothing changed", len(moved))
	}
}

// TestPartsStayParts also where nothing new would be cut into parts any more.
func TestPartsStayParts(t *testing.T) {
	tree := noiseTree(16)
	previous, _ := release(t, tree, nil)
	tree["lib/00"].Data = noise(100, 1<<20)
	previous, moved := release(t, tree, previous)
	if largest(moved) > densePartMax {
		t.Fatalf("a frame of %d bytes moves", largest(moved))
	}
	for i := 4; i < 16; i++ { // what stays has small frames
		delete(tree, fmt.Sprintf("lib/%02d", i))
	}
	if previous, moved = release(t, tree, previous); len(moved) > 1 || spareFrames(previous.Index) > 0 {
		t.Fatalf("%d frames move for files that went; then %d are to spare", len(moved), spareFrames(previous.Index))
	}
	// Three releases, each of which changes a few bytes of one chunk that lies in parts, always another one.
	for i, at := range []int{200 << 10, 500 << 10, 800 << 10} {
		tree["lib/00"].Data = bytes.Clone(tree["lib/00"].Data)
		copy(tree["lib/00"].Data[at:], "changed")
		if previous, moved = release(t, tree, previous); len(moved) == 0 || len(moved) > 2 || largest(moved) > densePartMax {
			t.Errorf("release %d: %d frames of up to %d bytes move for 7 bytes that changed", i, len(moved), largest(moved))
		}
	}
	// New content next to them is one frame a chunk, and leaves them where they are.
	tree["lib/00"].Data = append(bytes.Clone(tree["lib/00"].Data[:700<<10]), noise(200, 324<<10)...)
	if _, moved = release(t, tree, previous); largest(moved) <= densePartMax || rawBytes(moved) > (324+MaxFrameRaw>>10)<<10 {
		t.Errorf("%d frames, %d bytes, of up to %d bytes move for 324 KiB that changed", len(moved), rawBytes(moved), largest(moved))
	}
}

// TestANewTreeIsNotAllParts: where all is new there are frames enough, and parts would only make it larger.
func TestANewTreeIsNotAllParts(t *testing.T) {
	const most = 1.01
	previous, _ := release(t, codeTree(rand.New(rand.NewPCG(8, 9))), nil)
	tree := codeTree(rand.New(rand.NewPCG(10, 11)))
	fresh, _ := release(t, tree, nil)
	next, moved := release(t, tree, previous)
	ratio := float64(next.Index.ArchiveSize()) / float64(fresh.Index.ArchiveSize())
	t.Logf("%d frames instead of %d, %.4f times the size", next.Index.Len(), fresh.Index.Len(), ratio)
	if len(moved) < next.Index.Len()-1 || next.Index.Len() <= fresh.Index.Len() {
		t.Fatal("not all is new, or nothing in parts")
	}
	if largest(moved) <= partMax || ratio > most {
		t.Errorf("%.4f times the size of a bundle packed alone, at most %.2f; the largest frame has %d bytes", ratio, most, largest(moved))
	}
}

// TestManyReleasesStaySmall: 2 % of the files are new in each of 60 releases.
func TestManyReleasesStaySmall(t *testing.T) {
	const releases, most = 60, 1.06 / 1.04 // what `zstd -3` makes of Go's tree may grow from 1.04 to 1.06 times
	r := rand.New(rand.NewPCG(6, 9))
	tree, content := codeTree(r), codeContent()
	previous, _ := release(t, tree, nil)
	for range releases {
		for range len(tree) / 50 {
			i := r.IntN(len(tree))
			file := tree[codeFile(i)]
			file.Data = content(r, len(file.Data))
		}
		previous, _ = release(t, tree, previous)
	}
	fresh, _ := release(t, tree, nil)
	ratio := float64(previous.Index.ArchiveSize()) / float64(fresh.Index.ArchiveSize())
	t.Logf("%d frames instead of %d, %.4f times the size", previous.Index.Len(), fresh.Index.Len(), ratio)
	if ratio > most || previous.Index.Len() <= fresh.Index.Len() {
		t.Errorf("after %d releases %d frames instead of %d, %.4f times the size, at most %.4f", releases, previous.Index.Len(), fresh.Index.Len(), ratio, most)
	}
}

func TestDense(t *testing.T) {
	var packed bytes.Buffer
	if _, _, err := Pack(&packed, fstest.MapFS{"text": {Data: prose(7, 1<<20)}}, PackOptions{}); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		data []byte
		want bool
	}{
		"noise":           {noise(1, 128<<10), true},
		"little of it":    {noise(1, densePartMax+1), true},
		"compressed text": {packed.Bytes()[:96<<10], true},
		"text":            {prose(7, 128<<10), false},
		"zeros":           {make([]byte, 512<<10), false},
		"hexadecimals":    {[]byte(hex.EncodeToString(noise(1, 64<<10))), false},
		"base64":          {[]byte(base64.StdEncoding.EncodeToString(noise(1, 64<<10))), false},
		"half zeros":      {append(noise(1, 64<<10), make([]byte, 64<<10)...), false},
	}
	for name, c := range cases {
		if got := dense(c.data); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestHolesAreNoKnownParts: a run of zeros that the previous bundle has too makes no parts of the rest of its chunk where none are to spare.
func TestHolesAreNoKnownParts(t *testing.T) {
	hole := make([]byte, partMax)
	p, err := newPartCutter(&Index{framed: true, rawSize: partMax, pieces: []Piece{{RawSize: partMax, RawSum: sha256.Sum256(hole)}}})
	if err != nil {
		t.Fatal(err)
	}
	if !p.has(hole) || p.spare > 1 {
		t.Fatalf("the hole is not known, or %d frames are to spare", p.spare)
	}
	if parts, err := p.cut(append(make([]byte, 2*partMax), prose(1, 2*partMax)...)); err != nil || len(parts) != 1 {
		t.Errorf("%d parts (%v)", len(parts), err)
	}
}

func TestSpareFrames(t *testing.T) {
	cases := map[string]struct {
		frames int
		raw    int64
		want   int64
	}{
		"frames of 128 KiB":        {300, 300 << 17, 100},
		"frames of 96 KiB":         {400, 400 * 96 << 10, 0},
		"smaller frames":           {600, 400 * 96 << 10, -200},
		"half of what may be":      {MaxPieces / 2, MaxPieces / 2 << 17, 0},
		"near half of what may be": {MaxPieces/2 - 10, MaxPieces / 2 << 17, 10},
	}
	for name, c := range cases {
		if got := spareFrames(&Index{framed: true, rawSize: c.raw, pieces: make([]Piece, c.frames)}); got != c.want {
			t.Errorf("%s: %d to spare, want %d", name, got, c.want)
		}
	}
}

// TestAPreviousIndexThatLiesPacksTheTree: its sums are those of parts and chunks of the tree, its archive holds something else; or it knows of none.
func TestAPreviousIndexThatLiesPacksTheTree(t *testing.T) {
	tree := noiseTree(8)
	first, _ := release(t, tree, nil)
	tree["lib/03"].Data = noise(100, 1<<20)
	want, _ := release(t, tree, first)
	other := &Index{framed: true, chunker: ChunkerFastCDC, encoder: EncoderZstd, rawSize: want.Index.rawSize, pieces: shifted(want.Index.pieces)}
	other.encode()
	for name, before := range map[string]*Previous{
		"another archive":  {Index: want.Index, Archive: bytes.NewReader(noise(9, int(want.Index.ArchiveSize())))},
		"no archive":       {Index: want.Index, Archive: bytes.NewReader(nil)},
		"sums of no frame": {Index: other, Archive: want.Archive},
	} {
		archive, x, _ := pack(t, tree, PackOptions{Previous: before})
		if _, _, err := VerifyArchive(bytes.NewReader(archive), int64(len(archive)), Options{}); err != nil || x.RawDigest() != want.Index.RawDigest() {
			t.Errorf("%s: another tree is packed (%v)", name, err)
		}
	}
}

// shifted gives each piece the sums of the next.
func shifted(pieces []Piece) []Piece {
	out := append([]Piece(nil), pieces...)
	for i := range out {
		next := pieces[(i+1)%len(pieces)]
		out[i].Sum, out[i].RawSum = next.Sum, next.RawSum
	}
	return out
}
