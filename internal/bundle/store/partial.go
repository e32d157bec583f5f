package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// copyBufferBytes is the size of one read when a whole archive is hashed or imported.
const copyBufferBytes = 1 << 20

// writesBeginAt is how many bytes are written before the kernel is told to begin with them.
const writesBeginAt = 2 << 20

// Partial is a bundle on its way.
type Partial struct {
	store *Store
	dir   string // guarded by slot
	ref   Ref    // without index; never changes but for Type
	file  *os.File
	begun bool          // since it last came to rest; guarded by the store's lock
	slot  chan struct{} // held while files of the directory are written or synced, but for data, or the directory moves
	loose bool          // the directory, its ref or its index may not be durable; guarded by slot

	mu      sync.Mutex
	index   *bundle.Index
	claims  []claim
	alone   bool       // nobody may claim pieces
	streams bool       // an archive without an index is being imported
	yielded *sync.Cond // of mu: claims or alone have changed
	have    Bitmap
	missing int
	dirty   int64   // bytes written since the last durable bitmap,
	behind  int64   // and of those, since the kernel was last told to begin with them
	unread  bool    // a piece counts as here that nobody verified since it was opened
	losses  int     // how often what was written ceased to count: the kernel said that it lost it, or another index came
	gone    error   // why it cannot be written any more
	done    *Bundle // once complete
}

func newPartial(s *Store, dir string, ref Ref, file *os.File) *Partial {
	ref.Index = nil
	p := &Partial{store: s, dir: dir, ref: ref, file: file, missing: 1, slot: make(chan struct{}, 1)}
	p.yielded = sync.NewCond(&p.mu)
	return p
}

// resume opens a partial that an earlier run left. Its bitmap is believed only as far as Read's and Finish's own checks allow.
func (s *Store) resume(dir string, ref Ref) (*Partial, error) {
	file, err := os.OpenFile(filepath.Join(dir, "data"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := sweep(dir); err != nil {
		_ = file.Close()
		return nil, err
	}
	p := newPartial(s, dir, ref, file)
	p.loose = true // or not: nobody knows
	if ref.Index == nil {
		return p, nil
	}
	p.index = ref.Index
	data, err := readBounded(filepath.Join(dir, "have"), maxMetaBytes)
	if starved(err) {
		_ = file.Close()
		return nil, err
	}
	p.have = decodeHave(p.index, data)
	p.missing = p.index.Len() - p.have.Count()
	p.unread = true
	return p, nil
}

// sweep deletes what a crash left of a file that was being replaced: it would move with the directory.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if err == nil && durable.IsTemp(entry.Name()) {
			err = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
	return err
}

// rejoin takes over what a new Begin knows better.
func (p *Partial) rejoin(ref Ref) error {
	if p.Ref().Type != ref.Type {
		if err := p.setType(ref.Type); err != nil {
			return err
		}
	}
	if ref.Index != nil {
		return p.SetIndex(ref.Index)
	}
	return nil
}

func (p *Partial) setType(t bundle.Type) error {
	if err := p.hold(); err != nil {
		return err
	}
	defer p.release()
	now := p.Ref()
	now.Type = t
	if err := now.Check(); err != nil { // with the index it has the next start would take it for damaged
		return err
	}
	if err := p.write("ref", encodeRef(now)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ref.Type = t
	return nil
}

// hold takes the slot. The error says why it is no partial any more; fs.ErrExist if it is complete.
func (p *Partial) hold() error {
	p.slot <- struct{}{}
	err := p.over()
	if err != nil {
		p.release()
	}
	return err
}

// tryHold takes the slot if it is free and the partial is still one.
func (p *Partial) tryHold() bool {
	select {
	case p.slot <- struct{}{}:
	default:
		return false
	}
	if p.over() != nil {
		p.release()
		return false
	}
	return true
}

func (p *Partial) release() { <-p.slot }

func (p *Partial) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil {
		return fmt.Errorf("it is complete: %w", fs.ErrExist)
	}
	return p.gone
}

// write replaces ref or index, for whoever holds the slot. A fetch does not begin with waiting for the disk: settle makes them durable before anything counts on them.
func (p *Partial) write(name string, data []byte) error {
	p.loose = true
	return p.store.o.Disk.Replace(filepath.Join(p.dir, name), data, 0o600)
}

// settle makes the directory with ref and index durable, for whoever holds the slot. A power cut before that leaves nothing, or what load deletes.
func (p *Partial) settle() error {
	if !p.loose {
		return nil
	}
	disk := p.store.o.Disk
	err := disk.SyncFile(filepath.Join(p.dir, "ref"))
	if err == nil && p.Index() != nil {
		err = disk.SyncFile(filepath.Join(p.dir, "index"))
	}
	for _, dir := range []string{p.dir, filepath.Dir(p.dir)} {
		if err == nil {
			err = disk.SyncDir(dir)
		}
	}
	p.loose = err != nil
	return err
}

// Ref returns what is being fetched, with the index once it is known.
func (p *Partial) Ref() Ref {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref := p.ref
	ref.Index = p.index
	return ref
}

// Index returns the index, or nil while it is unknown.
func (p *Partial) Index() *bundle.Index {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index
}

// SetIndex gives a partial its index. The caller has checked it against what git pins or the leader published. Setting an equal one again
// is no error; another one takes its place, and every piece counts as missing again.
func (p *Partial) SetIndex(x *bundle.Index) error {
	ref := p.Ref()
	if ref.Index != nil && ref.Index.Digest() == x.Digest() {
		return nil
	}
	ref.Index = x
	if err := ref.Check(); err != nil {
		return fmt.Errorf("cannot use index: %w", err)
	}
	if !x.Framed() && x.PayloadDigest() != ref.Digest {
		return fmt.Errorf("cannot use index: it belongs to %s, not to %s: %w", x.PayloadDigest().Short(), ref.Digest.Short(), ErrMismatch)
	}
	if err := p.hold(); err != nil {
		return fmt.Errorf("cannot set index of bundle %s: %w", ref.Digest.Short(), err)
	}
	defer p.release()
	p.mu.Lock()
	now, streams := p.index, p.streams
	p.mu.Unlock()
	if now != nil && now.Digest() == x.Digest() {
		return nil // somebody else was quicker
	}
	if streams {
		return fmt.Errorf("cannot set index of bundle %s: it is being imported just now", ref.Digest.Short())
	}
	defer p.seclude()()
	return p.setIndex(x)
}

// setIndex is SetIndex for whoever holds the slot and lets nobody claim pieces.
func (p *Partial) setIndex(x *bundle.Index) error {
	if err := p.write("index", x.Encode()); err != nil {
		return noSpace(fmt.Errorf("cannot write index of bundle %s: %w", p.ref.Digest.Short(), err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index, p.have, p.missing, p.dirty, p.unread = x, NewBitmap(x.Len()), x.Len(), 0, false
	p.losses++
	return nil
}

// Have returns a copy of the bitmap of pieces that are here; nil while the index is unknown.
func (p *Partial) Have() Bitmap {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.have)
}

// Missing returns the number of pieces still missing; 1 while the index is unknown.
func (p *Partial) Missing() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missing
}

// piece looks piece i up; here says whether it is stored.
func (p *Partial) piece(i int) (x *bundle.Index, here bool, done *Bundle, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.done != nil:
		return p.index, true, p.done, nil
	case p.gone != nil:
		return nil, false, nil, p.gone
	case p.index == nil:
		return nil, false, nil, ErrNoIndex
	case i < 0 || i >= p.index.Len():
		return nil, false, nil, fmt.Errorf("piece %d of %d does not exist", i, p.index.Len())
	}
	return p.index, p.have.Has(i), nil, nil
}

// Write verifies and stores piece i. Writing a piece twice is no error. ErrMismatch says that the bytes are wrong and nothing was written.
func (p *Partial) Write(i int, data []byte) error {
	x, here, done, err := p.piece(i)
	if err != nil || here || done != nil {
		return p.wrap("write piece of", err)
	}
	if err := x.Verify(i, data); err != nil {
		return p.wrap("write piece of", fmt.Errorf("%w: %w", ErrMismatch, err))
	}
	due, err := p.put(x, i, data)
	if err == nil && due {
		err = p.sync()
	}
	return p.wrap("write piece of", p.unlessOver(err))
}

// put stores piece i of x, whose bytes were verified. due says that the bitmap should be made durable.
func (p *Partial) put(x *bundle.Index, i int, data []byte) (due bool, err error) {
	c, err := p.claim(x, i, 1)
	if err != nil || c.n == 0 {
		return false, err
	}
	defer p.yield(c)
	if _, err := p.file.WriteAt(data, x.Piece(i).Offset); err != nil {
		return false, noSpace(err)
	}
	p.beginWrites(len(data))
	return p.note(c, i, 1, len(data))
}

// beginWrites lets the kernel begin with what is written, so that whoever syncs at the end has little to wait for.
func (p *Partial) beginWrites(size int) {
	p.mu.Lock()
	p.behind += int64(size)
	due := p.behind >= writesBeginAt
	if due {
		p.behind = 0
	}
	p.mu.Unlock()
	if due {
		beginSync(p.file, 0, 0)
	}
}

// note enters that n claimed pieces from the i-th on are written, and that so many bytes are to be made durable before long. due says that the bitmap should be made
// durable.
func (p *Partial) note(c claim, i, n, size int) (due bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return false, p.gone
	}
	if p.losses != c.losses {
		return false, errLost
	}
	for ; n > 0; i, n = i+1, n-1 {
		p.have.Set(i)
		p.missing--
	}
	p.dirty += int64(size)
	return p.dirty >= p.store.o.SyncEvery, nil
}

var errLost = errors.New("the disk lost what was written meanwhile")

// sync makes the bitmap durable: first the data it speaks of, then itself. One at a time; whoever comes meanwhile is covered by the next.
func (p *Partial) sync() error {
	if !p.tryHold() {
		return nil
	}
	defer p.release()
	return p.syncNow()
}

// syncNow is sync for whoever holds the slot, and with it the directory's place.
func (p *Partial) syncNow() error {
	p.mu.Lock()
	if p.dirty == 0 || p.index == nil {
		p.mu.Unlock()
		return nil
	}
	x, snapshot, dirty := p.index, bytes.Clone(p.have), p.dirty
	p.mu.Unlock()

	err := p.syncData()
	if err == nil {
		err = p.settle()
	}
	if err == nil {
		err = p.store.o.Disk.WriteFile(filepath.Join(p.dir, "have"), encodeHave(x, snapshot), 0o600)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.index == x {
		p.dirty = max(0, p.dirty-dirty)
	}
	return noSpace(err)
}

// syncData makes the data durable. The kernel tells once that it lost something, not what: then nothing counts as here any more.
func (p *Partial) syncData() error {
	err := p.store.o.Disk.Step("sync", p.file.Name()) // where it was first: the directory may be moving
	if err == nil {
		err = dataSync(p.file)
	}
	if err != nil {
		p.lose()
	}
	return err
}

// lose takes down that nothing counts as here any more; of a bundle that somebody completed meanwhile, that it is suspect.
func (p *Partial) lose() {
	p.mu.Lock()
	done := p.done != nil
	p.losses++
	if p.index != nil && p.gone == nil && !done {
		p.have, p.missing = NewBitmap(p.index.Len()), p.index.Len()
	}
	p.mu.Unlock()
	if done {
		p.store.suspect(p.ref.Digest)
	}
}

// dataSync holds the descriptor while it is used: the file may be closed at the same time.
func dataSync(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(fd uintptr) {
		for result = unix.Fdatasync(int(fd)); errors.Is(result, unix.EINTR); {
			result = unix.Fdatasync(int(fd))
		}
	})
	return errors.Join(err, result)
}

// Read returns piece i, verified; fs.ErrNotExist if it is missing. A piece that is here but no longer what it was counts as missing from
// then on, and the error is ErrMismatch. The result lies in buf where that has room for it.
func (p *Partial) Read(i int, buf []byte) ([]byte, error) {
	x, here, done, err := p.piece(i)
	switch {
	case err != nil:
		return nil, p.wrap("read piece of", err)
	case done != nil:
		return done.ReadPiece(i, buf)
	case !here:
		return nil, p.wrap("read piece of", fs.ErrNotExist)
	}
	data, err := readPiece(p.file, x, i, buf)
	if errors.Is(err, os.ErrClosed) { // it is over meanwhile
		_, _, done, gone := p.piece(i)
		if done != nil {
			return done.ReadPiece(i, buf)
		}
		err = cmp.Or(gone, err)
	}
	if errors.Is(err, ErrMismatch) && p.forget(x, i) {
		p.store.suspect(p.ref.Digest)
	}
	return data, p.wrap("read piece of", err)
}

// readPiece reads and verifies a piece, in buf where that has room for it.
func readPiece(file io.ReaderAt, x *bundle.Index, i int, buf []byte) ([]byte, error) {
	data := slices.Grow(buf[:0], x.Piece(i).Size)[:x.Piece(i).Size]
	if _, err := file.ReadAt(data, x.Piece(i).Offset); err != nil {
		return nil, rotten(err)
	}
	if err := x.Verify(i, data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return data, nil
}

// forget clears a piece whose bytes turned out to be wrong. done says that the bundle is complete meanwhile.
func (p *Partial) forget(x *bundle.Index, i int) (done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.index == x && p.have.Has(i) {
		p.have.Clear(i)
		p.missing++
		p.dirty++
	}
	return p.done != nil
}

// scan compares every piece with the index and sets the bitmap accordingly, for whoever lets nobody claim pieces.
func (p *Partial) scan(ctx context.Context) error {
	p.mu.Lock()
	x, losses := p.index, p.losses
	p.mu.Unlock()
	found := NewBitmap(x.Len())
	var buf []byte
	for i := range x.Len() {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := readPiece(p.file, x, i, buf)
		if err == nil {
			buf = data
			found.Set(i)
		} else if !errors.Is(err, ErrMismatch) {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.losses != losses { // what was read is in memory only
		return errLost
	}
	p.have, p.missing, p.dirty = found, x.Len()-found.Count(), p.dirty+1
	return nil
}

// unlessOver is err, unless it is no partial any more: then nil if it is complete, else why. The file of either is closed, which is what err says.
func (p *Partial) unlessOver(err error) error {
	if err == nil {
		return nil
	}
	switch over := p.over(); {
	case errors.Is(over, fs.ErrExist):
		return nil
	case over != nil:
		return over
	}
	return err
}

// Rest says that nobody fetches it for now: unless it is pinned it may be collected.
func (p *Partial) Rest() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.begun = false
}

// Discard deletes the partial. Whoever still holds it gets ErrMissing.
func (p *Partial) Discard() error {
	s, d := p.store, p.ref.Digest
	s.mu.Lock()
	mine := s.partials[d] == p
	if mine {
		delete(s.partials, d)
		s.busy[d] = p.ref.Size
	}
	s.mu.Unlock()
	left, err := p.discard()
	if mine {
		s.mu.Lock()
		if left {
			s.partials[d] = p
		}
		s.endLocked(d)
		s.mu.Unlock()
	}
	return err
}

// discard is Discard for whoever has taken the partial out of sight. left says that the disk refuses, and that it is a partial as before.
func (p *Partial) discard() (left bool, err error) {
	if p.hold() != nil {
		return false, nil
	}
	defer p.release()
	err = p.store.trash(p.dir)
	if err != nil && exists(p.dir) {
		return true, p.wrap("discard", err)
	}
	p.mu.Lock()
	p.gone = ErrMissing
	p.mu.Unlock()
	return false, p.wrap("discard", errors.Join(p.file.Close(), err))
}

func (p *Partial) close() error {
	if p.hold() != nil {
		return nil
	}
	defer p.release()
	err := p.syncNow()
	p.mu.Lock()
	p.gone = ErrClosed
	p.mu.Unlock()
	return errors.Join(err, p.file.Close())
}

func (p *Partial) wrap(verb string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot %s bundle %s: %w", verb, p.ref.Digest.Short(), err)
}

func hashFile(ctx context.Context, r io.ReaderAt, size int64) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err := copyContext(ctx, h, io.NewSectionReader(r, 0, size)); err != nil {
		return sum, rotten(err)
	}
	h.Sum(sum[:0])
	return sum, nil
}

// rotten is err, and an ErrMismatch where it says that the disk, or a file system that keeps checksums, cannot give back what was written: that is written anew as wrong
// bytes are, for which a disk has sectors in reserve.
func rotten(err error) error {
	for _, lost := range []unix.Errno{unix.EIO, unix.EUCLEAN, unix.EBADMSG} {
		if errors.Is(err, lost) {
			return fmt.Errorf("%w: %w", ErrMismatch, err)
		}
	}
	return err
}

// copyContext copies until the end, an error, or ctx.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf := make([]byte, copyBufferBytes)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
