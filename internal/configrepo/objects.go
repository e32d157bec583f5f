package configrepo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// objects is one handle on a bare repository's objects. go-git's storage may
// not be shared by goroutines and does not see packs that came after it was
// opened, so handles are cheap, short-lived, and guarded here.
type objects struct {
	dir string
	mu  sync.Mutex
	git *filesystem.Storage
}

// corruptError says that this disk's copy is damaged: the mirror is refetched.
type corruptError struct{ err error }

func (e *corruptError) Error() string { return "the mirror is damaged: " + e.err.Error() }
func (e *corruptError) Unwrap() error { return e.err }

// streamedBytes is the size above which an object is never held as a whole but
// by who asks for its bytes.
const streamedBytes = 1 << 20

// openObjects opens a repository's directory; keep holds pack files open until
// Close, for walks.
func openObjects(dir string, keep bool) *objects {
	fs := osfs.New(dir)
	return &objects{dir: dir, git: filesystem.NewStorageWithOptions(fs, cache.NewObjectLRU(8*cache.MiByte), filesystem.Options{KeepDescriptors: keep, LargeObjectThreshold: streamedBytes})}
}

// Close gives pack files back.
func (o *objects) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.git.Close()
}

// has says whether an object is present; any trouble counts as absent.
func (o *objects) has(id plumbing.Hash) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.git.HasEncodedObject(id) == nil
}

// size gives an object's inflated length.
func (o *objects) size(id plumbing.Hash) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.git.EncodedObjectSize(id)
	return n, objectError(id, err)
}

// read gives an object's bytes after checking type, length and hash.
func (o *objects) read(id plumbing.Hash, t plumbing.ObjectType, limit int64) ([]byte, error) {
	var data []byte
	err := o.stream(id, limit, func(_ plumbing.ObjectType, n int64, r io.Reader) error {
		data = make([]byte, n)
		_, err := io.ReadFull(r, data)
		return err
	}, t)
	return data, err
}

// verify reads an object piece by piece and checks that it matches its name.
func (o *objects) verify(id plumbing.Hash, t plumbing.ObjectType, limit int64) error {
	return o.stream(id, limit, func(_ plumbing.ObjectType, _ int64, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}, t)
}

// stream lets use read an object to its end and checks type, length and hash:
// what use was given is the object only if stream returns nil. types are those
// allowed; none allows all.
func (o *objects) stream(id plumbing.Hash, limit int64, use func(t plumbing.ObjectType, n int64, r io.Reader) error, types ...plumbing.ObjectType) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.git.EncodedObjectSize(id)
	if err != nil {
		return objectError(id, err)
	}
	if n > limit {
		return fmt.Errorf("object %s has %d bytes, more than the %d allowed", id, n, limit)
	}
	obj, err := o.git.EncodedObject(plumbing.AnyObject, id)
	if err != nil {
		return objectError(id, err)
	}
	t := obj.Type()
	if len(types) > 0 && !slices.Contains(types, t) {
		return fmt.Errorf("object %s is a %s, not a %s", id, t, types[0])
	}
	r, err := obj.Reader()
	if err != nil {
		return objectError(id, err)
	}
	defer r.Close()
	c := &checkedReader{r: r, left: n, sum: plumbing.NewHasher(t, n)}
	if err := use(t, n, c); err != nil {
		if c.err == nil {
			return err // not the object's fault
		}
		return objectError(id, err)
	}
	if c.left != 0 || c.sum.Sum() != id {
		return &corruptError{fmt.Errorf("object %s does not match its name", id)}
	}
	return nil
}

// checkedReader hashes what passes, ends where the object should, and remembers
// whether the disk or the object failed.
type checkedReader struct {
	r    io.Reader
	left int64
	sum  plumbing.Hasher
	err  error
}

func (c *checkedReader) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	_, _ = c.sum.Write(p[:n])
	if err == io.EOF && c.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// tooLarge says what to do about an object beyond its limit. Nobody has accepted
// a commit that holds one, so the branch may still be rewritten.
func tooLarge(kind string, id plumbing.Hash, n, limit int64) error {
	return permanent("%s %s has %d bytes, more than the %d allowed: find its commit with `git log --all --find-object=%s` and take that off the branch; large files belong into a bundle",
		kind, id, n, limit, short(id.String()))
}

func objectError(id plumbing.Hash, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return &NotFoundError{ID: id.String()}
	}
	return &corruptError{fmt.Errorf("object %s: %w", id, err)}
}

// commit is a decoded commit and the bytes it came from.
type commit struct {
	id      plumbing.Hash
	tree    plumbing.Hash
	parents []plumbing.Hash
	raw     []byte
}

// commit reads and decodes a commit.
func (o *objects) commit(id plumbing.Hash) (*commit, error) {
	raw, err := o.read(id, plumbing.CommitObject, commitBytesMax)
	if err != nil {
		return nil, err
	}
	c, err := decodeCommit(id, raw)
	if err != nil {
		return nil, fmt.Errorf("commit %s is malformed: %w", id, err)
	}
	return c, nil
}

// decodeCommit is strict about what trust hangs on: one tree, then parents.
func decodeCommit(id plumbing.Hash, raw []byte) (*commit, error) {
	c := &commit{id: id, raw: raw}
	rest := raw
	next := func(prefix string) (plumbing.Hash, bool, error) {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		value, has := bytes.CutPrefix(line, []byte(prefix))
		if !ok || !has {
			return plumbing.ZeroHash, false, nil
		}
		h, err := parseID(string(value))
		rest = after
		return h, true, err
	}
	var ok bool
	var err error
	if c.tree, ok, err = next("tree "); err != nil || !ok {
		return nil, fmt.Errorf("no tree (%v)", err)
	}
	for {
		p, ok, err := next("parent ")
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if len(c.parents) >= 1024 {
			return nil, errors.New("more than 1024 parents")
		}
		c.parents = append(c.parents, p)
	}
	if !bytes.HasPrefix(rest, []byte("author ")) {
		return nil, errors.New("no author after the parents")
	}
	return c, nil
}

// describe fills in what people want to see.
func (c *commit) describe(signers []string) Commit {
	out := Commit{ID: c.id.String(), Tree: c.tree.String(), Signers: signers}
	for _, p := range c.parents {
		out.Parents = append(out.Parents, p.String())
	}
	head, message, _ := bytes.Cut(c.raw, []byte("\n\n"))
	for _, line := range strings.Split(string(head), "\n") {
		if v, ok := strings.CutPrefix(line, "author "); ok && out.Author == "" {
			out.Author, _ = splitIdentity(v)
		}
		if v, ok := strings.CutPrefix(line, "committer "); ok && out.When.IsZero() {
			_, out.When = splitIdentity(v)
		}
	}
	subject, _, _ := strings.Cut(strings.TrimLeft(string(message), "\n"), "\n")
	out.Subject = oneLine(subject)
	return out
}

// splitIdentity cuts NAME <EMAIL> SECONDS ZONE.
func splitIdentity(s string) (string, time.Time) {
	i := strings.LastIndexByte(s, '>')
	if i < 0 {
		return oneLine(s), time.Time{}
	}
	f := strings.Fields(s[i+1:])
	var at time.Time
	if len(f) >= 1 {
		if sec, err := strconv.ParseInt(f[0], 10, 64); err == nil && sec >= 0 && sec < 1<<40 {
			at = time.Unix(sec, 0).UTC()
		}
	}
	return oneLine(s[:i+1]), at
}

// entry is one line of a tree.
type entry struct {
	name string
	mode filemode.FileMode
	id   plumbing.Hash
}

func (e entry) isTree() bool { return e.mode == filemode.Dir }

// tree reads and decodes a tree; the zero id is the empty tree.
func (o *objects) tree(id plumbing.Hash) ([]entry, error) {
	if id.IsZero() || id == emptyTree {
		return nil, nil
	}
	raw, err := o.read(id, plumbing.TreeObject, treeBytesMax)
	if err != nil {
		return nil, err
	}
	entries, err := decodeTree(raw)
	if err != nil {
		return nil, fmt.Errorf("tree %s is malformed: %w", id, err)
	}
	return entries, nil
}

// emptyTree is git's name for a tree without entries, which need not be stored.
var emptyTree = plumbing.ComputeHash(plumbing.TreeObject, nil)

// decodeTree refuses names that could mean another path, and doubles.
func decodeTree(raw []byte) ([]entry, error) {
	var out []entry
	seen := map[string]bool{}
	for len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte{0})
		mode, name, ok2 := bytes.Cut(head, []byte(" "))
		if !ok || !ok2 || len(rest) < 20 {
			return nil, errors.New("a truncated entry")
		}
		m, err := strconv.ParseUint(string(mode), 8, 32)
		if err != nil {
			return nil, fmt.Errorf("mode %q", mode)
		}
		e := entry{name: string(name), mode: filemode.FileMode(m)}
		copy(e.id[:], rest[:20])
		raw = rest[20:]
		switch e.name {
		case "", ".", "..":
			return nil, fmt.Errorf("an entry named %q", e.name)
		}
		if strings.ContainsRune(e.name, '/') || seen[e.name] {
			return nil, fmt.Errorf("the entry %q, which is a path or appears twice", e.name)
		}
		switch e.mode {
		case filemode.Dir, filemode.Regular, filemode.Deprecated, filemode.Executable, filemode.Symlink, filemode.Submodule:
		default:
			return nil, fmt.Errorf("mode %q of %q", mode, e.name)
		}
		seen[e.name] = true
		out = append(out, e)
	}
	return out, nil
}

// blob reads a file's content.
func (o *objects) blob(id plumbing.Hash, limit int64) ([]byte, error) {
	return o.read(id, plumbing.BlobObject, limit)
}

// lookup finds the entry of a path below a tree.
func (o *objects) lookup(tree plumbing.Hash, path string) (entry, bool, error) {
	at := entry{mode: filemode.Dir, id: tree}
	for _, name := range strings.Split(path, "/") {
		if !at.isTree() {
			return entry{}, false, nil
		}
		entries, err := o.tree(at.id)
		if err != nil {
			return entry{}, false, err
		}
		found := false
		for _, e := range entries {
			if e.name == name {
				at, found = e, true
				break
			}
		}
		if !found {
			return entry{}, false, nil
		}
	}
	return at, true, nil
}
