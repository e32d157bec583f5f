package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// fileState tells whether a file is the one it was: whatever is written to it, or takes its place, changes one of these. The zero value is that of no file.
type fileState struct {
	dev, ino, size  int64
	modified, moved unix.Timespec
}

func stateOf(path string) fileState {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return fileState{}
	}
	return stateFrom(&st)
}

func stateOfFile(file *os.File) fileState {
	var st unix.Stat_t
	if unix.Fstat(int(file.Fd()), &st) != nil {
		return fileState{}
	}
	return stateFrom(&st)
}

func stateFrom(st *unix.Stat_t) fileState {
	return fileState{int64(st.Dev), int64(st.Ino), st.Size, st.Mtim, st.Ctim}
}

// distrust has every piece that is reused from now on verified: something on this disk was not what it should be, although nobody wrote to it.
func (s *Store) distrust() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.complete {
		b.sound = fileState{}
	}
}

// Reusable says which missing pieces other bundles of this store have, as their indexes tell; nothing without an index.
func (p *Partial) Reusable() Bitmap {
	x, have := p.Index(), p.Have()
	if x == nil {
		return nil
	}
	found := NewBitmap(x.Len())
	for _, b := range p.others() {
		for i, j := range bundle.Reuse(x, b.Ref.Index) {
			if j >= 0 && !have.Has(i) {
				found.Set(i)
			}
		}
	}
	return found
}

// others lists the complete bundles whose pieces are known.
func (p *Partial) others() (all []*Bundle) {
	for _, d := range p.store.Digests() {
		if b, ok := p.store.Lookup(d); ok && b.Ref.Index != nil {
			all = append(all, b)
		}
	}
	return all
}

// Reuse takes every missing piece that another bundle of this store has from there, and tells which ones once they are taken: n from the i-th on. Others may write
// pieces meanwhile.
func (p *Partial) Reuse(ctx context.Context, taken func(i, n int)) error {
	x := p.Index()
	if x == nil {
		return p.wrap("reuse pieces for", ErrNoIndex)
	}
	err := atEase(func() error {
		for _, b := range p.others() {
			if p.Missing() == 0 {
				break
			}
			if err := p.reuseFrom(ctx, b, x, taken); err != nil {
				return err
			}
		}
		return p.settleEarly()
	})
	return p.wrap("reuse pieces for", err)
}

// settleEarly settles while others still fetch, so that completing finds it done.
func (p *Partial) settleEarly() error {
	if !p.tryHold() {
		return nil // whoever has the slot settles
	}
	defer func() { <-p.slot }()
	return noSpace(p.settle())
}

// tryHold takes the slot if it is free and the partial is still one.
func (p *Partial) tryHold() bool {
	select {
	case p.slot <- struct{}{}:
	default:
		return false
	}
	p.mu.Lock()
	over := p.gone != nil || p.done != nil
	p.mu.Unlock()
	if over {
		<-p.slot
	}
	return !over
}

// atEasePriority is the nice value (-20 to 19) that work has which nobody waits for until all the rest is here.
const atEasePriority = 10

// atEase runs f on a thread of its own, behind what else this host does: its services, and what the agent itself fetches and passes on meanwhile. The thread ends with
// it, since not everybody may take a lower priority back.
func atEase(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                                                 // and never unlock
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), atEasePriority) // where that is not allowed it runs like all else
		done <- f()
	}()
	return <-done
}

// reuseMax bounds what is copied at once, in bytes.
const reuseMax = 4 << 20

// reuseFrom copies pieces of b for x, those that follow each other in both at once and by the kernel, which shares blocks where the file system can, and verifies the
// copies unless b is sound. What cannot be read there, or is not what it was, is simply fetched, as if it had never been there.
func (p *Partial) reuseFrom(ctx context.Context, b *Bundle, x *bundle.Index, taken func(i, n int)) error {
	file, err := os.Open(b.Path)
	if err != nil {
		return nil
	}
	defer file.Close()
	old := b.Ref.Index
	from := bundle.Reuse(x, old)
	sound := b.sound != fileState{} && b.sound == stateOfFile(file)
	var behind, behindSize int64
	var buf []byte
	for i := 0; i < len(from); {
		if err := ctx.Err(); err != nil {
			return err
		}
		have := p.Have() // others write pieces meanwhile
		for i < len(from) && (from[i] < 0 || have.Has(i)) {
			i++
		}
		if i == len(from) {
			break
		}
		n, size := 1, x.Piece(i).Size
		for i+n < len(from) && from[i+n] == from[i]+n && !have.Has(i+n) && size+x.Piece(i+n).Size <= reuseMax {
			size += x.Piece(i + n).Size
			n++
		}
		whole, err := copyRange(p.file, x.Piece(i).Offset, file, old.Piece(from[i]).Offset, size)
		if err != nil {
			return noSpace(err)
		}
		if !whole {
			p.forget(x, i, n)
		} else if sound {
			if _, err := p.note(x, i, n, 0); err != nil {
				return err
			}
			taken(i, n)
		} else if buf, err = p.takeOver(x, i, n, buf, taken); err != nil {
			return err
		}
		beginSync(p.file, x.Piece(i).Offset, int64(size))
		if err := p.awaitSync(behind, behindSize); err != nil {
			return err
		}
		behind, behindSize = x.Piece(i).Offset, int64(size)
		i += n
	}
	return nil
}

// awaitSync waits for what was copied before, so that never more is on its way to the disk than two copies: others that wait for it, to note a commit or a vote, stand
// in the same queue. It holds the slot: an error that is told here is told to nobody else, and must be taken down before the bundle can become complete.
func (p *Partial) awaitSync(off, size int64) error {
	if size == 0 || !p.tryHold() { // or somebody syncs it all
		return nil
	}
	defer func() { <-p.slot }()
	err := p.store.o.Disk.Step("writeback", filepath.Join(p.dir, "data"))
	if err == nil {
		err = awaitSync(p.file, off, size)
	}
	if err != nil {
		p.lose()
	}
	return noSpace(err)
}

// takeOver reads n copied pieces of x from the i-th on, and enters those that are right.
func (p *Partial) takeOver(x *bundle.Index, i, n int, buf []byte, taken func(i, n int)) ([]byte, error) {
	for end := i + n; i < end; {
		good := i
		for ; good < end; good++ {
			data, err := readPiece(p.file, x, good, buf)
			if errors.Is(err, ErrMismatch) {
				p.forget(x, good, 1) // somebody may have written it before the copy did
				break
			}
			if err != nil {
				return buf, err
			}
			buf = data
		}
		if good > i {
			if _, err := p.note(x, i, good-i, 0); err != nil { // after a crash they are copied again
				return buf, err
			}
			taken(i, good-i)
		}
		i = good + 1
	}
	return buf, nil
}
