package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Finish makes the bundle complete once every piece is here. pinned says that the index comes from whoever says the digest: then it vouches for the bundle as the digest
// does, and pieces that were all verified as they came, since this process opened the partial, are not read again; Unpack compares the digest before anything is used.
// Otherwise the whole is read and its digest compared. On ErrMismatch the pieces that do not match the index are missing again; if all match, the index is not this
// bundle's, which ErrBadIndex says, and they stay: no others would be right.
func (p *Partial) Finish(ctx context.Context, pinned bool) error {
	return p.wrap("finish", p.unlessOver(p.finish(ctx, pinned)))
}

func (p *Partial) finish(ctx context.Context, pinned bool) error {
	x, losses, unread, err := p.end()
	if err != nil {
		return err
	}
	if pinned && !unread {
		return p.complete(x, losses)
	}
	synced := make(chan error, 1)
	go func() { synced <- p.syncData() }() // as slow as hashing, and of no harm if the sum is wrong
	sum, err := hashFile(ctx, p.file, p.ref.Size)
	if syncErr := <-synced; err == nil {
		err = noSpace(syncErr)
	}
	if errors.Is(err, ErrMismatch) { // it cannot be read
		return cmp.Or(p.rescan(ctx), err)
	}
	if err != nil {
		return err
	}
	if got := bundle.DigestOf(sum); got != p.ref.Digest {
		err := p.mismatch(ctx, got)
		p.store.suspect(p.ref.Digest) // if somebody who believes the index completed it meanwhile
		return err
	}
	return p.complete(x, losses)
}

// end writes what follows the pieces, once all are here, which holds for as long as there are no more losses. unread says that nobody verified all of them. Whoever
// finishes writes it, be it there or not: a disk may have lost it, or another index have left its own.
func (p *Partial) end() (x *bundle.Index, losses int, unread bool, err error) {
	if err := p.hold(); err != nil {
		return nil, 0, false, err
	}
	defer p.release()
	p.mu.Lock()
	x, losses, unread = p.index, p.losses, p.unread
	missing := p.missing
	p.mu.Unlock()
	if missing > 0 {
		return nil, 0, false, fmt.Errorf("%d pieces are missing", missing)
	}
	if tail := x.Tail(); tail != nil {
		if _, err := p.file.WriteAt(tail, x.PayloadSize()); err != nil {
			return nil, 0, false, noSpace(err)
		}
	}
	return x, losses, unread, nil
}

func (p *Partial) mismatch(ctx context.Context, got bundle.Digest) error {
	if err := p.rescan(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unread = true // whoever vouches for this index
	return badIndex(p.index, got, p.ref.Digest)
}

// rescan scans, and says how many pieces turned out to be missing.
func (p *Partial) rescan(ctx context.Context) error {
	defer p.seclude()()
	err := p.scan(ctx)
	if missing := p.Missing(); err == nil && missing > 0 {
		err = changedOnDisk(missing)
	}
	return err
}

func changedOnDisk(pieces int) error {
	return fmt.Errorf("%w: %d pieces changed on disk", ErrMismatch, pieces)
}

func badIndex(x *bundle.Index, got, want bundle.Digest) error {
	return fmt.Errorf("%w: %w: every piece is as index %s says, but the whole is %s instead of %s", ErrMismatch, ErrBadIndex, x.Digest().Short(), got, want)
}

// complete makes the data durable and moves the directory over, if all pieces of x are here and nothing was lost since. After a crash before that the pieces since the
// last durable bitmap are fetched again.
func (p *Partial) complete(x *bundle.Index, losses int) error {
	if err := p.hold(); err != nil {
		return err
	}
	defer p.release()
	err := p.syncData()
	if err == nil {
		err = p.settle()
	}
	if err != nil {
		return noSpace(err)
	}
	p.mu.Lock()
	missing, now, lost := p.missing, p.index, p.losses != losses
	p.mu.Unlock()
	switch {
	case now != x:
		return errReplaced
	case missing > 0: // somebody read a piece meanwhile, and found it changed
		return changedOnDisk(missing)
	case lost: // the pieces are here again, and what follows them is not
		return errLost
	}
	if err := p.moveOver(p.store.path("complete", p.ref.Digest.Hex())); err != nil {
		return noSpace(err)
	}
	b := &Bundle{Path: filepath.Join(p.dir, "data"), Ref: p.Ref(), used: time.Now(), store: p.store}
	own := *b
	p.mu.Lock()
	p.done = &own
	p.mu.Unlock()
	p.store.mu.Lock()
	p.store.complete[p.ref.Digest] = b
	delete(p.store.partials, p.ref.Digest)
	p.store.mu.Unlock()
	p.mu.Lock()
	doubtful := p.missing > 0 || p.losses != losses
	p.mu.Unlock()
	if doubtful { // the same, while it was moved
		p.store.suspect(p.ref.Digest)
	}
	return p.file.Close()
}

// moveOver moves the directory, durably, for whoever holds the slot. Where only the latter failed, the next call does it.
func (p *Partial) moveOver(dir string) error {
	disk := p.store.o.Disk
	if p.dir == dir {
		return errors.Join(disk.SyncDir(filepath.Dir(dir)), disk.SyncDir(p.store.path("partial")))
	}
	if exists(dir) { // a bundle that nobody knows: it could not be deleted
		if err := p.store.trash(dir); err != nil {
			return err
		}
	}
	moved, err := p.store.move(p.dir, dir)
	if moved {
		p.dir = dir
	}
	return err
}
