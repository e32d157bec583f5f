package main

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
)

// What a seeded tree is made of, in bytes.
const (
	largeBytes = 1 << 20  // and up to four times that
	smallBytes = 16 << 10 // is less than this
	runBytes   = 128 << 10
)

// Which files a change may choose, by size in bytes.
func largeFiles(size int) bool { return size >= largeBytes }
func smallFiles(size int) bool { return size < smallBytes }

// tree is a folder of seeded files: in each of its parts one large file of random bytes, and 170 small ones of words.
type tree struct {
	dir   string
	words [][]byte
}

func newTree(dir string) *tree {
	t := &tree{dir: dir, words: make([][]byte, 3000)}
	r := rand.New(rand.NewPCG(5, 6))
	for i := range t.words {
		for range 2 + r.IntN(8) {
			t.words[i] = append(t.words[i], 'a'+byte(r.IntN(26)))
		}
		t.words[i] = append(t.words[i], []string{" ", ", ", "(", ") {\n\t", "\n"}[r.IntN(5)]...)
	}
	return t
}

// write makes the tree of so many MiB.
func (t *tree) write(mib int) error {
	r := rand.New(rand.NewPCG(1, 2))
	left := mib << 20
	for part := 0; left > 0; part++ {
		dir := filepath.Join(t.dir, "part-"+strconv.Itoa(100+part))
		size := min(left, largeBytes+r.IntN(3*largeBytes))
		if err := t.file(filepath.Join(dir, "large.bin"), r, size); err != nil {
			return err
		}
		left -= size
		for f := 0; f < 170 && left > 0; f++ {
			size := min(left, 200+r.IntN(smallBytes-200))
			if err := t.file(filepath.Join(dir, "src", strconv.Itoa(100+f/10), "file-"+strconv.Itoa(f%10)), r, size); err != nil {
				return err
			}
			left -= size
		}
	}
	return nil
}

// file makes one file, with content that no other has.
func (t *tree) file(path string, r *rand.Rand, size int) error {
	return write(path, string(t.content(r, size)))
}

// content is random bytes for a large file, and words for a small one.
func (t *tree) content(r *rand.Rand, size int) []byte {
	if largeFiles(size) {
		var seed [32]byte
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		out := make([]byte, size)
		_, _ = rand.NewChaCha8(seed).Read(out) // never fails
		return out
	}
	out := make([]byte, 0, size+16)
	for len(out) < size {
		out = append(out, t.words[r.IntN(len(t.words))]...)
	}
	return out[:size]
}

// change is what two versions of a tree differ in.
type change struct {
	files, runs int
	bytes       int64 // of the changed files
	worth       int64 // bytes of all changed files under zstd -3, and 128 KiB for each run of neighbours
}

// change gives new content to files that pick chooses, in a seeded order, until they are worth 1 % of the bytes, and another mtime to all.
func (t *tree) change(pick func(size int) bool) (change, error) {
	names, sizes, err := t.list()
	if err != nil {
		return change{}, err
	}
	total := 0
	for _, size := range sizes {
		total += size
	}
	r := rand.New(rand.NewPCG(3, 4))
	touched := map[string]bool{}
	for left := total / 100; left > 0; {
		i := r.IntN(len(names))
		if touched[names[i]] || !pick(sizes[i]) {
			continue
		}
		touched[names[i]] = true
		left -= sizes[i]
		if err := t.file(names[i], r, sizes[i]+r.IntN(1+sizes[i]/10)); err != nil {
			return change{}, err
		}
	}
	return worth(names, touched)
}

// list gives the files of the tree in the order of an archive, and their sizes in bytes.
func (t *tree) list() (names []string, sizes []int, err error) {
	err = filepath.WalkDir(t.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		names, sizes = append(names, path), append(sizes, int(info.Size()))
		return nil
	})
	return names, sizes, err
}

// worth touches the mtime of every file, and measures those that were changed.
func worth(names []string, touched map[string]bool) (change, error) {
	c := change{files: len(touched)}
	var together []byte
	later, inRun := time.Now().Add(time.Hour), false
	for _, name := range names {
		if err := os.Chtimes(name, later, later); err != nil {
			return change{}, err
		}
		if touched[name] {
			text, err := os.ReadFile(name)
			if err != nil {
				return change{}, err
			}
			together = append(together, text...)
			if !inRun {
				c.runs++
			}
		}
		inRun = touched[name]
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)))
	if err != nil {
		return change{}, err
	}
	defer encoder.Close()
	c.bytes = int64(len(together))
	c.worth = int64(len(encoder.EncodeAll(together, nil))) + int64(c.runs)*runBytes
	return c, nil
}
