package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// Ref names a bundle as a commit pins it.
type Ref = bundle.Ref

// Errors that callers branch on.
var (
	ErrNoSpace  = errors.New("not enough space")               // the bundle cannot fit now; Collect, raise the limit or free the disk
	ErrMismatch = errors.New("content does not match")         // bytes are not what the digest or index says
	ErrNoIndex  = errors.New("the bundle has no index yet")    // SetIndex comes first
	ErrBadIndex = errors.New("the index is not this bundle's") // every piece is as it says, and the whole is not: an ErrMismatch too
	ErrMissing  = errors.New("not in the store")
	ErrClosed   = errors.New("the store is closed")
)

const (
	defaultKeepFree  = 64 << 20
	defaultSyncEvery = 8 << 20
)

// Options configure a store.
type Options struct {
	Dir       string        // made if missing, with mode 0700
	Limit     int64         // bytes all bundles may use together; 0: no limit
	KeepFree  int64         // bytes of the disk that bundles never use; 0: 64 MiB, negative: none
	SyncEvery int64         // bytes written between two durable bitmaps; 0: 8 MiB
	Log       *slog.Logger  // nil: discard
	Suspect   func()        // called when Suspects has one more; must not block; nil: nobody is told
	Disk      *durable.Disk // nil: the plain disk; tests inject faults
}

// Store is a directory of bundles.
type Store struct {
	o      Options
	log    *slog.Logger
	unlock func()

	mu       sync.Mutex
	closed   bool
	partials map[bundle.Digest]*Partial
	complete map[bundle.Digest]*Bundle
	pins     map[bundle.Digest][]string
	busy     map[bundle.Digest]int64         // bytes of what is being begun, demoted or removed just now
	idle     *sync.Cond                      // one of them is over; of mu
	imports  map[bundle.Digest]chan struct{} // ended when that Import is
	suspects map[bundle.Digest]bool          // complete bundles of which a piece is not what it was

	pinWrite sync.Mutex // orders writes of the pins file; guards no data
}

// Open prepares Options.Dir and reads what is there: what a crash left half made is deleted, partials wait for Begin to resume them.
// Close releases the directory.
func Open(o Options) (*Store, error) {
	if o.Dir == "" {
		return nil, errors.New("cannot open bundle store: no directory given")
	}
	if o.KeepFree == 0 {
		o.KeepFree = defaultKeepFree
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = defaultSyncEvery
	}
	s := &Store{o: o, log: o.Log, partials: map[bundle.Digest]*Partial{}, complete: map[bundle.Digest]*Bundle{}, busy: map[bundle.Digest]int64{}, imports: map[bundle.Digest]chan struct{}{},
		suspects: map[bundle.Digest]bool{}}
	s.idle = sync.NewCond(&s.mu)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{o.Dir, s.path("partial"), s.path("complete")} {
		if err := o.Disk.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot open bundle store: %w", err)
		}
	}
	unlock, err := durable.Lock(s.path("lock"))
	if err != nil {
		return nil, fmt.Errorf("cannot open bundle store %s: %w", o.Dir, err)
	}
	s.unlock = unlock
	if err := s.load(); err != nil {
		for _, p := range s.partials {
			_ = p.file.Close()
		}
		unlock()
		return nil, fmt.Errorf("cannot open bundle store %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.o.Dir}, parts...)...)
}

// load reads the directory. Anything that is not whole goes, with a word in the log.
func (s *Store) load() error {
	if err := os.RemoveAll(s.path("trash")); err != nil {
		return err
	}
	var err error
	if s.pins, err = readPins(s.path("pins")); err != nil {
		return err
	}
	for _, kind := range []string{"complete", "partial"} {
		entries, err := os.ReadDir(s.path(kind))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			err := s.loadOne(kind, entry.Name())
			if starved(err) {
				return err
			}
			if err != nil {
				s.log.Warn("deleting a damaged bundle directory", "dir", filepath.Join(kind, entry.Name()), "err", err)
				if err := s.trash(s.path(kind, entry.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// starved says that this process may open no more files, or has no memory, which tells nothing of a bundle.
func starved(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

func (s *Store) loadOne(kind, name string) error {
	digest, err := bundle.ParseDigest("sha256:" + name)
	if err != nil {
		return err
	}
	dir := s.path(kind, name)
	ref, used, err := readRef(dir)
	if err != nil {
		return err
	}
	info, err := os.Lstat(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	if ref.Digest != digest || !info.Mode().IsRegular() || info.Size() != ref.Size {
		return fmt.Errorf("it holds %s with %d bytes of %d", ref.Digest, info.Size(), ref.Size)
	}
	if kind == "complete" {
		s.complete[digest] = &Bundle{Path: filepath.Join(dir, "data"), Ref: ref, used: used, store: s}
		return nil
	}
	if _, done := s.complete[digest]; done {
		return errors.New("it is complete already")
	}
	p, err := s.resume(dir, ref)
	if err != nil {
		return err
	}
	s.partials[digest] = p
	return nil
}

// trash takes a directory out of the way in one step and then deletes it; what a crash leaves in trash is deleted at the next start. Where a full disk has no room even for
// the step it is deleted where it lies: what is left of that after a crash is not whole, and goes at the next start too. Whether the step is durable does not matter.
func (s *Store) trash(dir string) error {
	to := s.path("trash", fmt.Sprintf("%s-%d", filepath.Base(dir), time.Now().UnixNano()))
	err := s.o.Disk.MkdirAll(s.path("trash"), 0o700)
	if err == nil {
		err = s.o.Disk.Rename(dir, to)
	}
	switch full := errors.Is(noSpace(err), ErrNoSpace); {
	case full && exists(dir):
		return os.RemoveAll(dir)
	case err != nil && !full && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return os.RemoveAll(to)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// move renames a directory. Its error may be that the disk did not make that durable; moved says what is the case now.
func (s *Store) move(from, to string) (moved bool, err error) {
	err = s.o.Disk.Rename(from, to)
	return err == nil || !exists(from) && exists(to), err
}

// Close makes durable what partials have not yet, and releases the store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for len(s.busy) > 0 {
		s.idle.Wait()
	}
	partials := make([]*Partial, 0, len(s.partials))
	for _, p := range s.partials {
		partials = append(partials, p)
	}
	s.mu.Unlock()
	var errs []error
	for _, p := range partials {
		errs = append(errs, p.close())
	}
	s.unlock()
	return errors.Join(errs...)
}

// Begin starts or resumes a bundle. Without Ref.Index, pieces cannot be written before SetIndex. Begin of a bundle that is being fetched
// returns the same Partial; of a complete one, an error that wraps fs.ErrExist. It waits for whoever begins or removes the bundle just now.
func (s *Store) Begin(ref Ref) (*Partial, error) { return s.beginFor(ref, true) }

// beginFor is Begin; fetch says that the bundle stays from now until it comes to Rest.
func (s *Store) beginFor(ref Ref, fetch bool) (*Partial, error) {
	if err := ref.Check(); err != nil {
		return nil, err
	}
	p, err := s.begin(ref, fetch)
	if err != nil {
		return nil, fmt.Errorf("cannot begin bundle %s: %w", ref.Digest.Short(), err)
	}
	return p, nil
}

func (s *Store) begin(ref Ref, fetch bool) (*Partial, error) {
	s.mu.Lock()
	for _, wait := s.busy[ref.Digest]; wait; _, wait = s.busy[ref.Digest] {
		s.idle.Wait()
	}
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	if b, ok := s.complete[ref.Digest]; ok {
		s.mu.Unlock()
		err := s.refresh(b, ref)
		s.mu.Lock()
		here := s.complete[ref.Digest] == b
		s.mu.Unlock()
		if !here { // removed or demoted meanwhile
			return s.begin(ref, fetch)
		}
		return nil, err
	}
	if p, ok := s.partials[ref.Digest]; ok && p.ref.Size == ref.Size {
		s.mu.Unlock()
		err := p.rejoin(ref)
		s.mu.Lock()
		here := s.partials[ref.Digest] == p
		if here && err == nil && fetch { // where it failed, on a full disk, what nobody fetches must give way
			p.begun = true
		}
		s.mu.Unlock()
		if !here { // removed or completed meanwhile
			return s.begin(ref, fetch)
		}
		return p, err
	} else if ok {
		s.mu.Unlock()
		return nil, fmt.Errorf("it is being fetched as %d bytes, now %d are asked for; discard it first", p.ref.Size, ref.Size)
	}
	if used := s.usedLocked(); s.o.Limit > 0 && used+ref.Size > s.o.Limit {
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: it has %d bytes, %d of the limit of %d are in use (limits.disk)", ErrNoSpace, ref.Size, used, s.o.Limit)
	}
	s.busy[ref.Digest] = ref.Size
	s.mu.Unlock()

	p, err := s.create(ref)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(ref.Digest)
	if err == nil && s.closed {
		err = errors.Join(ErrClosed, p.file.Close())
	}
	if err != nil {
		return nil, err
	}
	p.begun = fetch
	s.partials[ref.Digest] = p
	return p, nil
}

// endLocked notes that nobody begins, demotes or removes a bundle any more.
func (s *Store) endLocked(d bundle.Digest) {
	delete(s.busy, d)
	s.idle.Broadcast()
}

// usedLocked is what all bundles take together, in bytes.
func (s *Store) usedLocked() (used int64) {
	for _, b := range s.complete {
		used += b.Ref.Size
	}
	for _, p := range s.partials {
		used += p.ref.Size
	}
	for _, size := range s.busy {
		used += size
	}
	return used
}

// create makes the partial's directory. The ref is written last: without it the directory counts for nothing. Nothing is durable yet, see settle.
func (s *Store) create(ref Ref) (_ *Partial, err error) {
	dir := s.path("partial", ref.Digest.Hex())
	if err := s.checkFree(ref.Size); err != nil {
		return nil, err
	}
	if exists(dir) { // a Begin that failed could not clean up either
		if err := s.trash(dir); err != nil {
			return nil, err
		}
	}
	if err := s.o.Disk.Step("mkdir", dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.trash(dir))
		}
	}()
	file, err := os.OpenFile(filepath.Join(dir, "data"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	p := newPartial(s, dir, Ref{Digest: ref.Digest, Size: ref.Size, Type: ref.Type}, file)
	err = preallocate(file, ref.Size)
	if err == nil && ref.Index != nil {
		err = p.SetIndex(ref.Index)
	}
	if err == nil {
		err = p.write("ref", encodeRef(p.ref))
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return p, nil
}

// checkFree refuses what would eat into the bytes of the disk that others need.
func (s *Store) checkFree(size int64) error {
	free, err := freeBytes(s.o.Dir)
	if err != nil {
		return err
	}
	if keep := max(0, s.o.KeepFree); size > free-keep {
		return fmt.Errorf("%w: it has %d bytes, the disk of %s has %d free, of which %d are kept for the agent's journal", ErrNoSpace, size, s.o.Dir, free, keep)
	}
	return nil
}

// freeBytes is what an ordinary user may still write on the disk of path.
func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == nil {
			return int64(min(st.Bavail, 1<<40)) * st.Bsize, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("cannot ask for free space of %s: %w", path, err)
		}
	}
}

// preallocate takes the blocks now, so that a full disk is found before anything is fetched. Where the file system cannot, it is sparse.
func preallocate(file *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(file.Fd()), 0, 0, size)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return file.Truncate(size)
		default:
			return noSpace(fmt.Errorf("cannot preallocate %d bytes: %w", size, err))
		}
	}
}

// noSpace marks what the disk refused for want of room.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// refresh takes over a corrected type or a newly pinned index of a bundle that is complete, and says that it is.
func (s *Store) refresh(b *Bundle, ref Ref) error {
	s.mu.Lock()
	changed := b.Ref
	s.mu.Unlock()
	if changed.Size != ref.Size {
		return fmt.Errorf("it is here with %d bytes, the revision says %d: correct the revision's size", changed.Size, ref.Size)
	}
	was := changed
	changed.Type = ref.Type
	dir := filepath.Dir(b.Path)
	if changed.Index == nil && ref.Index != nil && (ref.Index.Framed() || ref.Index.PayloadDigest() == ref.Digest) {
		if err := s.o.Disk.WriteFile(filepath.Join(dir, "index"), ref.Index.Encode(), 0o600); err != nil {
			return err
		}
		changed.Index = ref.Index
	}
	if err := changed.Check(); err != nil { // the next start would take it for damaged
		return err
	}
	if changed.Type != was.Type {
		if err := s.o.Disk.WriteFile(filepath.Join(dir, "ref"), encodeRef(changed), 0o600); err != nil {
			return err
		}
	}
	s.mu.Lock()
	b.Ref, b.used = changed, time.Now()
	s.mu.Unlock()
	return fmt.Errorf("it is complete: %w", fs.ErrExist)
}

// Lookup returns a complete bundle.
func (s *Store) Lookup(d bundle.Digest) (*Bundle, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.complete[d]
	if !ok {
		return nil, false
	}
	b.used = time.Now()
	return &Bundle{Path: b.Path, Ref: b.Ref, used: b.used, store: s}, true
}

// Partial returns a bundle that is on its way.
func (s *Store) Partial(d bundle.Digest) (*Partial, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.partials[d]
	return p, ok
}

// Digests lists complete bundles, those used last first.
func (s *Store) Digests() []bundle.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]bundle.Digest, 0, len(s.complete))
	for d := range s.complete {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b bundle.Digest) int { return s.complete[b].used.Compare(s.complete[a].used) })
	return out
}

// Used returns the bytes all bundles take together, partial ones with their full size.
func (s *Store) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usedLocked()
}
