package bundle

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
)

// deltaTree is a seeded tree of some 40 MB: 12 files from 1 to 4 MiB, and thousands from 200 bytes to 16 KiB between them.
func deltaTree(content func(r *rand.Rand, n int) []byte) fstest.MapFS {
	r := rand.New(rand.NewPCG(1, 2))
	tree := fstest.MapFS{}
	for d := range 12 {
		dir := "app/part-" + string(rune('a'+d)) + "/"
		tree[dir+"large.bin"] = &fstest.MapFile{Data: content(r, 1<<20+r.IntN(3<<20)), Mode: 0o755}
		for f := range 150 {
			tree[dir+"src/"+string(rune('a'+f/10))+"/file-"+string(rune('0'+f%10))] = &fstest.MapFile{Data: content(r, 200+r.IntN(16<<10-200)), Mode: 0o644}
		}
	}
	return tree
}

// sourceText makes content that compresses two to three times, out of a fixed vocabulary.
func sourceText() func(r *rand.Rand, n int) []byte {
	w := rand.New(rand.NewPCG(5, 6))
	words := make([][]byte, 3000)
	for i := range words {
		for range 2 + w.IntN(8) {
			words[i] = append(words[i], 'a'+byte(w.IntN(26)))
		}
		words[i] = append(words[i], []string{" ", ", ", "(", ") {\n\t", "\n"}[w.IntN(5)]...)
	}
	return func(r *rand.Rand, n int) []byte {
		out := make([]byte, 0, n+16)
		for len(out) < n {
			out = append(out, words[r.IntN(len(words))]...)
		}
		return out[:n]
	}
}

func incompressible(r *rand.Rand, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

// changedTree gives new content to files that pick chooses, in a seeded order, until they are worth 1 % of the bytes, and a new mtime to all.
// It returns the new tree, and what the changed files are worth: zstd -3 of them all, and 128 KiB for each run of neighbours.
func changedTree(t testing.TB, tree fstest.MapFS, content func(*rand.Rand, int) []byte, pick func(size int) bool) (next fstest.MapFS, worth int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	names := make([]string, 0, len(tree))
	total := 0
	next = fstest.MapFS{}
	for name, f := range tree {
		names, total = append(names, name), total+len(f.Data)
		next[name] = &fstest.MapFile{Data: f.Data, Mode: f.Mode, ModTime: time.Unix(1_800_000_000, 0)}
	}
	slices.Sort(names)
	touched := map[string]bool{}
	for left := total / 100; left > 0; {
		name := names[r.IntN(len(names))]
		size := len(tree[name].Data)
		if touched[name] || !pick(size) {
			continue
		}
		touched[name], left = true, left-size
		next[name].Data = content(r, size+r.IntN(1+size/10))
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	runs, inRun := 0, false
	var together []byte
	err = fs.WalkDir(tree, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if touched[name] {
			together = append(together, next[name].Data...)
			if !inRun {
				runs++
			}
		}
		inRun = touched[name]
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	compressed := len(encoder.EncodeAll(together, nil))
	t.Logf("%d of %d files changed in %d runs: %d of %d bytes, compressed %d", len(touched), len(names), runs, len(together), total, compressed)
	return next, int64(compressed) + int64(runs)*128<<10
}

// TestOnlyWhatChangedMoves: with every mtime touched and whole files worth 1 % of the bytes changed, a host fetches at most 1.3 times what
// the changed files and 128 KiB around each run of them are worth. Packed after the bundle before it comes in frames of at most 128 KiB raw, of 64
// if they do not compress, or about so on average where it is spread over more of the bundle than may be in parts.
func TestOnlyWhatChangedMoves(t *testing.T) {
	contents := map[string]func(*rand.Rand, int) []byte{"sources": sourceText(), "incompressible": incompressible}
	picks := map[string]func(int) bool{"large": func(n int) bool { return n >= 1<<20 }, "scattered small": func(n int) bool { return n < 16<<10 }}
	most := map[string]int{"sources": partMax, "incompressible": densePartMax}
	for kind, content := range contents {
		tree := deltaTree(content)
		archive, before, _ := pack(t, tree, PackOptions{})
		for size, pick := range picks {
			t.Run(strings.ReplaceAll(size+" files of "+kind, " ", "_"), func(t *testing.T) {
				next, worth := changedTree(t, tree, content, pick)
				movesLittle(t, next, PackOptions{}, before, worth)
				moved := movesLittle(t, next, PackOptions{Previous: &Previous{Index: before, Archive: bytes.NewReader(archive)}}, before, worth)
				if size == "large" && largest(moved) > most[kind] {
					t.Errorf("a frame of %d bytes moves", largest(moved))
				}
				if mean := rawBytes(moved) / len(moved); mean > partMax {
					t.Errorf("frames of %d bytes on average move", mean)
				}
			})
		}
	}
}

// movesLittle returns the frames that move when tree is packed.
func movesLittle(t *testing.T, tree fs.FS, o PackOptions, before *Index, worth int64) []Piece {
	t.Helper()
	const most = 1.3
	after, _, err := Pack(io.Discard, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	var moved []Piece
	var stored int64
	for i, j := range Reuse(after, before) {
		if j < 0 {
			moved = append(moved, after.Piece(i))
			stored += int64(after.Piece(i).Size)
		}
	}
	ratio := float64(stored) / float64(worth)
	t.Logf("%d bytes move of %d, in %d frames of up to %d raw bytes, %.2f times what the change is worth", stored, after.PayloadSize(), len(moved), largest(moved), ratio)
	if ratio > most {
		t.Errorf("%d bytes move, %.2f times the %d that the change is worth; at most %.1f", stored, ratio, worth, most)
	}
	return moved
}
