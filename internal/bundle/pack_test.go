package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// noise returns n reproducible bytes that do not compress.
func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	stream := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = stream.Read(out)
	return out
}

// prose returns n reproducible bytes that compress about as source code does.
func prose(seed uint64, n int) []byte {
	words := []string{"func ", "return ", "error", "\n\t", "if err != nil {", "}", "bundle", "index", "0x", "string(", ") ", "range "}
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([]byte, 0, n+16)
	for len(out) < n {
		out = append(out, words[r.IntN(len(words))]...)
		if r.IntN(6) == 0 {
			out = append(out, byte('a'+r.IntN(26)), byte('a'+r.IntN(26)), byte('0'+r.IntN(10)))
		}
	}
	return out[:n]
}

func sampleTree() fstest.MapFS {
	old := time.Unix(1700000000, 5)
	return fstest.MapFS{
		"appspec.yml":        {Data: []byte("version: 0.0\nos: linux\n"), Mode: 0o644, ModTime: old},
		"scripts/start.sh":   {Data: []byte("#!/bin/sh\n"), Mode: 0o755, ModTime: old},
		"bin/app":            {Data: noise(1, 3<<20), Mode: 0o755, ModTime: old},
		"bin/suid":           {Data: []byte("x"), Mode: 0o755 | fs.ModeSetuid, ModTime: old},
		"src/a.go":           {Data: prose(1, 900<<10), Mode: 0o640, ModTime: old},
		"src/small.txt":      {Data: []byte("small"), Mode: 0o600, ModTime: old},
		"src/edge64k":        {Data: prose(2, cutFileBytes), Mode: 0o644, ModTime: old},
		"empty":              {Data: nil, Mode: 0o644, ModTime: old},
		"emptydir":           {Mode: fs.ModeDir | 0o711, ModTime: old},
		"current":            {Data: []byte("bin/app"), Mode: fs.ModeSymlink | 0o777, ModTime: old},
		"Ünïcode/ŋame\nnl":   {Data: []byte("odd"), Mode: 0o644, ModTime: old},
		"long/" + longName(): {Data: []byte("long"), Mode: 0o644, ModTime: old},
	}
}

func longName() string {
	return string(bytes.Repeat([]byte("n"), 200)) + "/" + string(bytes.Repeat([]byte("m"), 200))
}

func pack(t testing.TB, tree fs.FS, o PackOptions) ([]byte, *Index, Digest) {
	t.Helper()
	var out bytes.Buffer
	x, digest, err := Pack(&out, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), x, digest
}

func TestPackIsDeterministicAndVerifies(t *testing.T) {
	tree := sampleTree()
	first, x, digest := pack(t, tree, PackOptions{})
	for _, f := range tree {
		f.ModTime = time.Now()
	}
	second, _, _ := pack(t, tree, PackOptions{})
	if !bytes.Equal(first, second) {
		t.Fatal("the same tree with other times makes another bundle")
	}
	if DigestBytes(first) != digest {
		t.Fatal("the digest returned is not that of the bytes written")
	}
	got, gotDigest, err := VerifyArchive(bytes.NewReader(first), int64(len(first)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if gotDigest != digest || got.Digest() != x.Digest() || x.ArchiveSize() != int64(len(first)) {
		t.Fatalf("verify found %s, index %s, size %d; pack said %s, %s, %d", gotDigest, got.Digest(), len(first), digest, x.Digest(), x.ArchiveSize())
	}
}

func TestPackedTreeReadsBackEqual(t *testing.T) {
	tree := sampleTree()
	archive, _, _ := pack(t, tree, PackOptions{})
	found := 0
	err := Walk(bytes.NewReader(archive), int64(len(archive)), TypeTarZst, Options{}, func(e *Entry) error {
		want, ok := tree[e.Name]
		if !ok {
			if e.Type != Dir {
				t.Errorf("unexpected %s %q", e.Type, e.Name)
			}
			return nil
		}
		found++
		if !e.ModTime.Equal(packTime()) || e.UID != 0 || e.GID != 0 {
			t.Errorf("%s: mtime %s, owner %d:%d", e.Name, e.ModTime, e.UID, e.GID)
		}
		if e.Type == Symlink {
			if e.Link != string(want.Data) {
				t.Errorf("%s points to %s", e.Name, e.Link)
			}
			return nil
		}
		if e.Mode != want.Mode&modeBits {
			t.Errorf("%s: mode %s, want %s", e.Name, e.Mode, want.Mode)
		}
		if e.Type == File {
			data, err := io.ReadAll(e.Content)
			if err != nil || !bytes.Equal(data, want.Data) {
				t.Errorf("%s: other content (%v)", e.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != len(tree) {
		t.Fatalf("%d of %d entries found", found, len(tree))
	}
}

func TestTarToolUnpacksABundle(t *testing.T) {
	for _, tool := range []string{"tar", "zstd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: %v", tool, err)
		}
	}
	tree := sampleTree()
	for _, name := range []string{"bin", "scripts", "src", "Ünïcode", "long", path.Dir("long/" + longName())} {
		tree[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755} // a MapFS's own directories are read-only: no ordinary user could clean up
	}
	archive, _, _ := pack(t, tree, PackOptions{})
	dir := t.TempDir()
	file := filepath.Join(dir, "b.tar.zst")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "--zstd", "-C", dir, "-xf", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "bin/app"))
	if err != nil || !bytes.Equal(got, noise(1, 3<<20)) {
		t.Fatalf("tar unpacked something else (%v)", err)
	}
}

func TestPreviousFramesAreReused(t *testing.T) {
	tree := sampleTree()
	old, oldIndex, _ := pack(t, tree, PackOptions{})
	tree["src/small.txt"].Data = []byte("another text")
	plain, plainIndex, _ := pack(t, tree, PackOptions{})
	next, nextIndex, _ := pack(t, tree, PackOptions{Previous: &Previous{Index: oldIndex, Archive: bytes.NewReader(old)}})
	if !bytes.Equal(plain, next) {
		t.Error("with one encoder, a previous bundle changes the bytes")
	}
	var moved int64
	for i, j := range Reuse(nextIndex, oldIndex) {
		if j < 0 {
			moved += int64(nextIndex.Piece(i).Size)
		}
	}
	if moved == 0 || moved > 300<<10 {
		t.Errorf("%d of %d bytes move for a small file's change", moved, nextIndex.PayloadSize())
	}
	// Another encoder: the old bundle's frames, stored raw, must be taken over as they are.
	foreign, foreignIndex := repack(t, old, oldIndex)
	kept, keptIndex, _ := pack(t, sampleTreeWith(tree), PackOptions{Previous: &Previous{Index: foreignIndex, Archive: bytes.NewReader(foreign)}})
	reused := 0
	for _, j := range Reuse(keptIndex, foreignIndex) {
		if j >= 0 {
			reused++
		}
	}
	if reused < keptIndex.Len()-3 {
		t.Errorf("%d of %d frames of another encoder reused", reused, keptIndex.Len())
	}
	if _, _, err := VerifyArchive(bytes.NewReader(kept), int64(len(kept)), Options{}); err != nil {
		t.Error(err)
	}
	if plainIndex.Digest() == keptIndex.Digest() {
		t.Error("frames of the other encoder were not taken")
	}
	// A previous archive that lies is not believed.
	lying := bytes.Repeat([]byte{7}, len(foreign))
	honest, _, _ := pack(t, tree, PackOptions{Previous: &Previous{Index: foreignIndex, Archive: bytes.NewReader(lying)}})
	if !bytes.Equal(honest, plain) {
		t.Error("a damaged previous archive changed the bundle")
	}
}

// TestAPreviousBundleCannotPutItsOwnContentIn: it comes from where bundles are stored, which is trusted for nothing. Its index and its frames agree, but the frames hold
// something else than the index says.
func TestAPreviousBundleCannotPutItsOwnContentIn(t *testing.T) {
	tree, evil := fstest.MapFS{"run.sh": {Data: []byte("#!/bin/sh\necho good\n")}}, fstest.MapFS{"run.sh": {Data: []byte("#!/bin/sh\necho evil\n")}}
	want, x, _ := pack(t, tree, PackOptions{})
	frames, frame, _ := pack(t, evil, PackOptions{})
	if x.Len() != 1 || frame.Len() != 1 || x.RawSize() != frame.RawSize() {
		t.Fatal("the trees are not alike")
	}
	for name, raw := range map[string]Piece{"other bytes": x.Piece(0), "more bytes": {RawSize: x.Piece(0).RawSize, RawSum: x.Piece(0).RawSum}} {
		stored := frames[:frame.Piece(0).Size]
		if name == "more bytes" {
			stored = append(bytes.Clone(want[:x.Piece(0).Size]), stored...)
		}
		forged := &Index{framed: true, chunker: ChunkerFastCDC, encoder: EncoderZstd, rawSize: x.RawSize(),
			pieces: []Piece{{Size: len(stored), Sum: sum256(stored), RawSize: raw.RawSize, RawSum: raw.RawSum}}}
		forged.encode()
		got, _, _ := pack(t, tree, PackOptions{Previous: &Previous{Index: forged, Archive: bytes.NewReader(stored)}})
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the previous bundle changed what is packed", name)
		}
	}
}

func sampleTreeWith(tree fstest.MapFS) fstest.MapFS { return tree }

// repack stands for another release of the encoder: every frame is encoded twice as its own frame with a skippable frame before it.
func repack(t *testing.T, archive []byte, x *Index) ([]byte, *Index) {
	t.Helper()
	p := &Packer{tree: &treeReader{guard: newTreeGuard()}, w: &bytes.Buffer{}, hash: newHash(), rawHash: newHash(), index: Index{framed: true, chunker: ChunkerFastCDC, encoder: EncoderZstd + 1}}
	decoder, err := NewFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	for i := range x.Len() {
		piece := x.Piece(i)
		stored := archive[piece.Offset : piece.Offset+int64(piece.Size)]
		raw, err := decoder.Decode(nil, stored, piece)
		if err != nil {
			t.Fatal(err)
		}
		c := Chunk{raw: raw, stored: slices.Concat([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, stored)}
		if len(c.stored) > MaxFrameStored {
			t.Fatal("frame too long")
		}
		c.sum, c.rawSum = sum256(c.stored), piece.RawSum
		p.rawHash.Write(raw)
		p.rawSize += int64(len(raw))
		if err := p.Write(&c); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := p.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return p.w.(*bytes.Buffer).Bytes(), out
}

func TestLargeFilesKeepTheirFrames(t *testing.T) {
	tree := fstest.MapFS{}
	for i := range 8 {
		tree[string(rune('a'+i))+"/small"] = &fstest.MapFile{Data: prose(uint64(i), 3000), Mode: 0o644}
		tree[string(rune('a'+i))+"/t-large"] = &fstest.MapFile{Data: noise(uint64(i), 1<<20), Mode: 0o644}
	}
	_, before, _ := pack(t, tree, PackOptions{})
	for i := range 8 {
		tree[string(rune('a'+i))+"/small"] = &fstest.MapFile{Data: prose(uint64(i)+50, 4000), Mode: 0o600}
	}
	_, after, _ := pack(t, tree, PackOptions{})
	var moved int64
	for i, j := range Reuse(after, before) {
		if j < 0 {
			moved += int64(after.Piece(i).Size)
		}
	}
	if moved > 64<<10 {
		t.Errorf("%d bytes move though no large file changed", moved)
	}
}

func TestPackRefusals(t *testing.T) {
	cases := map[string]fstest.MapFS{
		"the directory is empty":         {},
		"neither file, directory nor sy": {"dev": {Mode: fs.ModeDevice}},
	}
	for want, tree := range cases {
		_, _, err := Pack(io.Discard, tree, PackOptions{})
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestCheckTreeFindsAllThatPackRefuses, where packing ends at the first.
func TestCheckTreeFindsAllThatPackRefuses(t *testing.T) {
	tree := sampleTree()
	CheckTree(tree, func(err error) { t.Errorf("a good tree: %v", err) })
	tree["src/up"] = &fstest.MapFile{Data: []byte("../../x"), Mode: fs.ModeSymlink | 0o777}
	tree["pipe"] = &fstest.MapFile{Mode: fs.ModeNamedPipe | 0o644}
	deep := strings.Repeat("d/", maxDepth) + "e/f"
	tree[deep] = &fstest.MapFile{}
	var found []string
	CheckTree(tree, func(err error) { found = append(found, err.Error()) })
	want := []string{
		fmt.Sprintf("cannot pack: archive refused: %.200q is more than 256 directories deep", deep),
		"cannot pack pipe: it is a p---------, neither file, directory nor symbolic link",
		`cannot pack: archive refused: the symbolic link "src/up" points to "../../x", outside of the archive`,
	}
	if !slices.Equal(found, want) {
		t.Errorf("%q, want %q", found, want)
	}
	if _, _, err := Pack(io.Discard, tree, PackOptions{}); err == nil || err.Error() != want[0] {
		t.Errorf("Pack says %v", err)
	}
}

// What hosts would take for a decompression bomb is not packed.
func TestPackRefusesABomb(t *testing.T) {
	p, err := NewPacker(io.Discard, sampleTree(), PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := NewFrameEncoder()
	if err != nil {
		t.Fatal(err)
	}
	var c Chunk
	for err = p.Next(&c); err == nil; err = p.Next(&c) {
		p.Encode(encoder, &c)
		if err := p.Write(&c); err != nil {
			t.Fatal(err)
		}
	}
	p.tree.guard.bytes = ratioFreeBytes + 1
	if _, _, err := p.Finish(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "decompression bomb") {
		t.Errorf("of %d bytes: %v", p.tree.guard.bytes, err)
	}
}
