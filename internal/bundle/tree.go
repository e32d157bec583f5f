package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

// cutFileBytes is the size from which a file's content begins and ends a chunk, so that neither its own header nor a neighbour's change
// moves its frames.
const cutFileBytes = 64 << 10

const tarBlockBytes = 512

// packTime is the one mtime of every entry: the first a zip could express too, and one that tar does not call implausibly old.
func packTime() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }

// treeReader turns a tree into the bytes of a deterministic tar, read in segments: at a forced cut Read returns io.EOF once, until
// resume is called; at the true end done is set.
type treeReader struct {
	tree    fs.FS
	guard   *guard      // what no host would unpack is not packed
	levels  []treeLevel // open directories, outermost first
	pending bytes.Buffer
	file    fs.File
	name    string // of file
	left    int64  // bytes of file still to come
	padding int    // zero bytes after file
	large   bool   // file is one whose content is cut out
	cutNext bool   // cut when pending is empty
	cut     bool
	ended   bool // the trailer is written
	done    bool
	entries int
}

type treeLevel struct {
	dir  string // "." or a clean path
	rest []fs.DirEntry
}

func newTreeReader(tree fs.FS) (*treeReader, error) {
	t := &treeReader{tree: tree, guard: newTreeGuard()}
	return t, t.descend(".")
}

func (t *treeReader) descend(dir string) error {
	entries, err := fs.ReadDir(t.tree, dir)
	if err != nil {
		return fmt.Errorf("cannot pack: %w", err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	t.levels = append(t.levels, treeLevel{dir: dir, rest: entries})
	return nil
}

// resume goes on after a forced cut; false means that there is nothing more.
func (t *treeReader) resume() bool {
	t.cut = false
	return !t.done
}

// Read implements io.Reader as the type says.
func (t *treeReader) Read(p []byte) (int, error) {
	for {
		switch {
		case t.cut || t.done:
			return 0, io.EOF
		case t.pending.Len() > 0:
			return t.pending.Read(p)
		case t.cutNext:
			t.cutNext, t.cut = false, true
		case t.file != nil:
			if n, err := t.readFile(p); n > 0 || err != nil {
				return n, err
			}
		case t.ended:
			t.done = true
		default:
			if err := t.nextEntry(); err != nil {
				return 0, err
			}
		}
	}
}

// Tar returns the deterministic tar of tree, uncompressed: what Pack compresses. The same tree gives the same bytes with every version of
// this program.
func Tar(tree fs.FS) (io.ReadCloser, error) {
	t, err := newTreeReader(tree)
	if err != nil {
		return nil, err
	}
	return tarReader{t}, nil
}

// tarReader reads through the forced cuts.
type tarReader struct{ tree *treeReader }

func (r tarReader) Read(p []byte) (int, error) {
	for {
		n, err := r.tree.Read(p)
		if n > 0 || err != io.EOF || !r.tree.resume() {
			return n, err
		}
	}
}

func (r tarReader) Close() error {
	r.tree.close()
	return nil
}

func (t *treeReader) readFile(p []byte) (int, error) {
	if t.left == 0 {
		t.pending.Write(make([]byte, t.padding))
		t.cutNext = t.large
		err := t.file.Close()
		t.file = nil
		return 0, err
	}
	n, err := t.file.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	if err == io.EOF && t.left > 0 {
		err = fmt.Errorf("cannot pack %s: it became %d bytes shorter while it was read", t.name, t.left)
	} else if err == io.EOF {
		err = nil
	} else if err != nil {
		err = fmt.Errorf("cannot pack %s: %w", t.name, err)
	}
	return n, err
}

// nextEntry writes the next header to pending and opens the file behind it.
func (t *treeReader) nextEntry() error {
	for len(t.levels) > 0 {
		level := &t.levels[len(t.levels)-1]
		if len(level.rest) == 0 {
			t.levels = t.levels[:len(t.levels)-1]
			continue
		}
		entry := level.rest[0]
		level.rest = level.rest[1:]
		t.entries++
		return t.writeEntry(path.Join(level.dir, entry.Name()), entry)
	}
	if t.entries == 0 {
		return errors.New("cannot pack: the directory is empty")
	}
	t.ended = true
	t.pending.Write(make([]byte, 2*tarBlockBytes))
	return nil
}

func (t *treeReader) writeEntry(name string, entry fs.DirEntry) error {
	header, err := headerOf(t.tree, name, entry, t.guard)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg:
		return t.writeFile(name, header)
	case tar.TypeDir:
		if err := t.writeHeader(header); err != nil {
			return err
		}
		return t.descend(name)
	}
	return t.writeHeader(header)
}

// headerOf is what an entry becomes in the tar; the size of a file is left to whoever opens it. What no host would unpack is refused.
func headerOf(tree fs.FS, name string, entry fs.DirEntry, g *guard) (*tar.Header, error) {
	info, err := entry.Info()
	if err != nil {
		return nil, fmt.Errorf("cannot pack %s: %w", name, err)
	}
	header := &tar.Header{Name: name, Mode: tarMode(info.Mode()), ModTime: packTime()}
	judged := &Entry{Name: name}
	switch info.Mode().Type() {
	case 0:
		header.Typeflag = tar.TypeReg
		judged.Type, judged.Size = File, info.Size()
	case fs.ModeDir:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		judged.Type = Dir
	case fs.ModeSymlink:
		header.Typeflag, header.Mode = tar.TypeSymlink, 0o777
		if header.Linkname, err = fs.ReadLink(tree, name); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", name, err)
		}
		judged.Type, judged.Link = Symlink, header.Linkname
	default:
		return nil, fmt.Errorf("cannot pack %s: it is a %s, neither file, directory nor symbolic link", name, info.Mode().Type())
	}
	if _, err := g.judge(judged); err != nil {
		return nil, fmt.Errorf("cannot pack: %w", err)
	}
	return header, nil
}

// newTreeGuard judges as one of an archive, whose size nobody knows yet.
func newTreeGuard() *guard { return newGuard(math.MaxInt64, Options{}) }

// CheckTree calls bad with Pack's error for every entry of tree that it would refuse. No file is opened.
func CheckTree(tree fs.FS, bad func(error)) {
	g := newTreeGuard()
	_ = fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error { // the function returns no error
		if err != nil {
			bad(fmt.Errorf("cannot pack: %w", err))
		} else if name != "." {
			if _, err := headerOf(tree, name, entry, g); err != nil {
				bad(err)
			}
		}
		return nil
	})
}

func (t *treeReader) writeFile(name string, header *tar.Header) error {
	file, err := t.tree.Open(name)
	if err != nil {
		return fmt.Errorf("cannot pack: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it was replaced while it was read")
	}
	if err == nil {
		header.Size = info.Size()
		err = t.writeHeader(header)
	}
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("cannot pack %s: %w", name, err)
	}
	t.file, t.name, t.left = file, name, header.Size
	t.padding = int(-header.Size & (tarBlockBytes - 1))
	t.large = header.Size >= cutFileBytes
	t.cutNext = t.large
	return nil
}

// writeHeader encodes one header. A fresh writer each time, because content goes around it.
func (t *treeReader) writeHeader(header *tar.Header) error {
	if err := tar.NewWriter(&t.pending).WriteHeader(header); err != nil {
		return fmt.Errorf("cannot pack %s: %w", header.Name, err)
	}
	return nil
}

// close gives back what is still open after an error.
func (t *treeReader) close() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}

func tarMode(mode fs.FileMode) int64 {
	out := int64(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		out |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		out |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		out |= 0o1000
	}
	return out
}
