package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

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
	var out writeback
	for _, b := range p.others() {
		if p.Missing() == 0 {
			break
		}
		if err := p.unlessOver(p.reuseFrom(ctx, b, x, &out, taken)); err != nil {
			return p.wrap("reuse pieces for", err)
		}
	}
	return p.wrap("reuse pieces for", p.settleEarly())
}

// settleEarly settles while others still fetch, so that completing finds it done.
func (p *Partial) settleEarly() error {
	if !p.tryHold() {
		return nil // whoever has the slot settles
	}
	defer p.release()
	return noSpace(p.settle())
}

// reuseMax bounds what is copied at once, in bytes.
const reuseMax = 4 << 20

// reuseFrom copies pieces of b for x, those that follow each other in both at once and by the kernel, which shares blocks where the file system can, and verifies the
// copies. What cannot be read there, or is not what it was, is simply fetched, as if it had never been there.
func (p *Partial) reuseFrom(ctx context.Context, b *Bundle, x *bundle.Index, out *writeback, taken func(i, n int)) error {
	file, err := os.Open(b.Path)
	if err != nil {
		return nil
	}
	defer file.Close()
	old := b.Ref.Index
	from := bundle.Reuse(x, old)
	var buf []byte
	for i := 0; i < len(from); {
		if err := ctx.Err(); err != nil {
			return err
		}
		have := p.Have()
		for i < len(from) && (from[i] < 0 || have.Has(i)) {
			i++
		}
		if i == len(from) {
			break
		}
		n, size := 1, x.Piece(i).Size
		for i+n < len(from) && from[i+n] == from[i]+n && size+x.Piece(i+n).Size <= reuseMax {
			size += x.Piece(i + n).Size
			n++
		}
		c, err := p.claim(x, i, n)
		if err != nil {
			return err
		}
		if c.n == 0 { // somebody else has written it meanwhile, or all of it
			i++
			continue
		}
		copied, good, err := p.copyFrom(file, old.Piece(from[i]).Offset, x, c, &buf)
		for _, run := range good { // nothing is claimed any more: whoever is told may finish, which waits for claims if a piece rotted
			taken(run.from, run.n)
		}
		if err != nil {
			return err
		}
		if err := p.writeOut(out, x.Piece(i).Offset, copied); err != nil {
			return err
		}
		i += c.n
	}
	return nil
}

// copyFrom copies claimed pieces of x, which lie in file from off on, and yields them. good are those that are entered.
func (p *Partial) copyFrom(file *os.File, off int64, x *bundle.Index, c claim, buf *[]byte) (size int64, good []claim, err error) {
	defer p.yield(c)
	first, last := x.Piece(c.from), x.Piece(c.from+c.n-1)
	size = last.Offset + int64(last.Size) - first.Offset
	whole, err := copyRange(p.file, first.Offset, file, off, int(size))
	if err != nil {
		return size, nil, noSpace(err)
	}
	if whole {
		good, err = p.takeOver(x, c, buf)
	}
	return size, good, err
}

// writeback is the copy that is on its way to the disk.
type writeback struct{ off, size int64 }

// writeOut lets the disk begin with a copy and waits for the one before, so that never more than two are on their way: others that wait for the disk, to note a commit or
// a vote, stand in the same queue. It holds the slot while it waits: an error that is told here is told to nobody else, and must be taken down before the bundle can
// become complete.
func (p *Partial) writeOut(before *writeback, off, size int64) error {
	beginSync(p.file, off, size)
	wait := *before
	*before = writeback{off, size}
	if wait.size == 0 || !p.tryHold() { // or somebody syncs it all
		return nil
	}
	defer p.release()
	err := p.store.o.Disk.Step("writeback", filepath.Join(p.dir, "data"))
	if err == nil {
		err = awaitSync(p.file, wait.off, wait.size)
	}
	if err != nil {
		p.lose()
	}
	return noSpace(err)
}

// takeOver reads the copied pieces of x, and enters those that are right.
func (p *Partial) takeOver(x *bundle.Index, c claim, buf *[]byte) (good []claim, err error) {
	for i, end := c.from, c.from+c.n; i < end; {
		next := i
		for ; next < end; next++ {
			data, err := readPiece(p.file, x, next, *buf)
			if errors.Is(err, ErrMismatch) {
				break
			}
			if err != nil {
				return good, err
			}
			*buf = data
		}
		if next > i {
			if _, err := p.note(c, i, next-i, 1); err != nil { // after a crash they are copied again, and so they ask for no bitmap
				return good, err
			}
			good = append(good, claim{from: i, n: next - i})
		}
		i = next + 1
	}
	return good, nil
}
