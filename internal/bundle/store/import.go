package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Import reads a whole archive, in order, from a source that needs no pieces: a file of this host, or an origin of an archive nobody
// indexed. If ref has no index it gets the one the archive carries, else one of fixed pieces. A bundle that is complete is no error.
// One Import of a bundle waits for another.
func (s *Store) Import(ctx context.Context, ref Ref, r io.Reader) error {
	over, err := s.importing(ctx, ref.Digest)
	if err != nil {
		return fmt.Errorf("cannot import bundle %s: %w", ref.Digest.Short(), err)
	}
	defer over()
	p, err := s.beginFor(ref, false) // that it is imported keeps it
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.unlessOver(p.fill(ctx, r)); err != nil {
		return fmt.Errorf("cannot import bundle %s: %w", ref.Digest.Short(), err)
	}
	return p.Finish(ctx, false)
}

// importing waits until nobody else imports a bundle. The caller says when it is over.
func (s *Store) importing(ctx context.Context, d bundle.Digest) (over func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := s.imports[d]; other != nil; other = s.imports[d] {
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	ended := make(chan struct{})
	s.imports[d] = ended
	return func() {
		s.mu.Lock()
		delete(s.imports, d)
		s.mu.Unlock()
		close(ended)
	}, nil
}

// fill writes the archive from a reader and indexes it if nobody has.
func (p *Partial) fill(ctx context.Context, r io.Reader) error {
	if err := p.hold(); err != nil { // nobody sets an index just now
		return err
	}
	p.mu.Lock()
	x := p.index
	p.streams = x == nil
	p.mu.Unlock()
	p.release()
	if x != nil {
		return p.fillPieces(ctx, x, r)
	}
	defer func() {
		p.mu.Lock()
		p.streams = false
		p.mu.Unlock()
	}()
	h := sha256.New()
	written, err := copyContext(ctx, io.MultiWriter(io.NewOffsetWriter(p.file, 0), h), io.LimitReader(r, p.ref.Size))
	if err != nil {
		return noSpace(err)
	}
	if written != p.ref.Size {
		return p.short(written)
	}
	if err := judge([sha256.Size]byte(h.Sum(nil)), p.ref.Digest); err != nil { // its index would stand in the way of the right one
		return err
	}
	if err := p.hold(); err != nil {
		return err
	}
	defer p.release()
	ref := p.Ref()
	if x, err = bundle.ReadIndex(p.file, p.ref.Size); err == nil {
		ref.Index = x
		err = ref.Check() // with another type the next start would take it for damaged
	}
	if err != nil {
		x, err = bundle.IndexOf(io.NewSectionReader(p.file, 0, p.ref.Size), bundle.PieceSizeFor(p.ref.Size))
	}
	if err != nil {
		return err
	}
	defer p.seclude()()
	if err := p.setIndex(x); err != nil {
		return err
	}
	return p.scan(ctx)
}

// fillPieces is fill where the pieces are known: others may fetch them meanwhile.
func (p *Partial) fillPieces(ctx context.Context, x *bundle.Index, r io.Reader) error {
	var buf []byte
	for i := range x.Len() {
		if err := ctx.Err(); err != nil {
			return err
		}
		size := x.Piece(i).Size
		buf = slices.Grow(buf[:0], size)[:size]
		n, err := io.ReadFull(r, buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return p.short(x.Piece(i).Offset + int64(n))
		case err != nil:
			return err
		}
		if err := p.Write(i, buf); err != nil {
			return err
		}
	}
	return nil
}

func (p *Partial) short(got int64) error {
	return fmt.Errorf("the archive has %d bytes, expected %d: %w", got, p.ref.Size, ErrMismatch)
}
