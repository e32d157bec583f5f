package store

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"sync"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// frontMax bounds what one written piece lets the front catch up, in bytes: whoever wrote it has more to do.
const frontMax = 4 << 20

// front is the part of an archive from its beginning on of which every piece is here, hashed as it grows: the digest of the whole is then known soon after the last
// piece came, and not only once everything was read again. What changes on disk after it was hashed is found when it is read or unpacked.
type front struct {
	mu    sync.Mutex
	index *bundle.Index // by which it is counted
	next  int           // piece
	sum   hash.Hash
	buf   []byte
}

// reset forgets what was hashed. The lock is held.
func (f *front) reset(x *bundle.Index) { f.index, f.next, f.sum = x, 0, sha256.New() }

// grow hashes what the front has reached now that piece i is here, whose bytes, if data has any, are known to be right. One that is growing already takes care of it.
func (p *Partial) grow(x *bundle.Index, i int, data []byte) {
	f := &p.front
	if !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	if f.index != x {
		f.reset(x)
	}
	for left := frontMax; left > 0 && f.next < x.Len(); f.next++ {
		size := x.Piece(f.next).Size
		switch {
		case f.next == i && len(data) > 0:
			f.sum.Write(data)
		case !p.holds(x, f.next):
			return
		default:
			if cap(f.buf) < size {
				f.buf = make([]byte, size)
			}
			if _, err := p.file.ReadAt(f.buf[:size], x.Piece(f.next).Offset); err != nil {
				return // Finish meets it again, and says so
			}
			f.sum.Write(f.buf[:size])
		}
		left -= size
	}
}

// holds says whether piece i of x is here.
func (p *Partial) holds(x *bundle.Index, i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index == x && p.gone == nil && p.done == nil && p.have.Has(i)
}

// shrink forgets what was hashed of a piece that turned out to be wrong.
func (p *Partial) shrink(x *bundle.Index) {
	p.front.mu.Lock()
	defer p.front.mu.Unlock()
	p.front.reset(x)
}

// digest is that of the whole archive, from the end of the front on; hashed is how many bytes lay before.
func (p *Partial) digest(ctx context.Context, x *bundle.Index) (digest bundle.Digest, hashed int64, err error) {
	f := &p.front
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index != x || f.sum == nil {
		f.reset(x)
	}
	for n := range f.next {
		hashed += int64(x.Piece(n).Size)
	}
	sum := f.sum
	f.index, f.buf = nil, nil // it cannot be taken twice
	if _, err := copyContext(ctx, sum, io.NewSectionReader(p.file, hashed, p.ref.Size-hashed)); err != nil {
		return "", hashed, err
	}
	return bundle.DigestOf([sha256.Size]byte(sum.Sum(nil))), hashed, nil
}
