package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Bundle is a complete bundle.
type Bundle struct {
	Path  string // the archive file; read only
	Ref   Ref    // with its index, if it is known
	used  time.Time
	store *Store
}

// ReadPiece reads piece i and verifies it. ErrMismatch says that the disk changed or lost it: the bundle is among Store.Suspects from then on. The result lies in buf where that has room for it.
func (b *Bundle) ReadPiece(i int, buf []byte) ([]byte, error) {
	if b.Ref.Index == nil {
		return nil, fmt.Errorf("cannot read piece of bundle %s: %w", b.Ref.Digest.Short(), ErrNoIndex)
	}
	if i < 0 || i >= b.Ref.Index.Len() {
		return nil, fmt.Errorf("cannot read piece of bundle %s: piece %d of %d does not exist", b.Ref.Digest.Short(), i, b.Ref.Index.Len())
	}
	file, err := os.Open(b.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot read piece of bundle %s: %w", b.Ref.Digest.Short(), err)
	}
	defer file.Close()
	data, err := readPiece(file, b.Ref.Index, i, buf)
	if err == io.EOF {
		err = fmt.Errorf("%w: the file is shorter than it was", ErrMismatch)
	}
	if errors.Is(err, ErrMismatch) {
		b.store.suspect(b.Ref.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read piece of bundle %s: %w", b.Ref.Digest.Short(), err)
	}
	return data, nil
}

// Suspect says that a complete bundle was found to be not what its digest says; it is rechecked like one of which a piece was.
func (s *Store) Suspect(d bundle.Digest) { s.suspect(d) }

// suspect takes down that a complete bundle rotted.
func (s *Store) suspect(d bundle.Digest) {
	s.mu.Lock()
	_, here := s.complete[d]
	news := here && !s.suspects[d]
	if news {
		s.suspects[d] = true
	}
	s.mu.Unlock()
	if news && s.o.Suspect != nil {
		s.o.Suspect()
	}
}

// Suspects lists the complete bundles that turned out to be wrong and were not rechecked since.
func (s *Store) Suspects() []bundle.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.suspects))
}

// Recheck verifies the whole digest of a complete bundle. One that does not match is no longer complete: what is still good of it becomes
// a Partial, and the error is ErrMismatch. It is ErrBadIndex too if all of it is as its index says: a bundle that a pinned index vouched for, and not what the digest says.
func (s *Store) Recheck(ctx context.Context, d bundle.Digest) error {
	s.mu.Lock()
	b, ok := s.complete[d]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("cannot check bundle %s: %w", d.Short(), ErrMissing)
	}
	got, unread := digestOfFile(ctx, b.Path)
	if unread != nil && !errors.Is(unread, ErrMismatch) {
		return fmt.Errorf("cannot check bundle %s: %w", d.Short(), unread)
	}
	if unread == nil && got == d {
		s.mu.Lock()
		delete(s.suspects, d)
		s.mu.Unlock()
		return nil
	}
	p, same, err := s.demote(ctx, d, b)
	if _, whole := s.Lookup(d); !same && whole { // somebody else was quicker, and it is mended by now
		return s.Recheck(ctx, d)
	}
	if p != nil && err == nil && p.Missing() == 0 { // what follows the pieces rotted, or the index is wrong
		return p.Finish(ctx, false)
	}
	if unread == nil {
		unread = fmt.Errorf("its bytes changed on disk and are %s now: %w", got.Short(), ErrMismatch)
	}
	return errors.Join(fmt.Errorf("cannot use bundle %s: %w", d.Short(), unread), err)
}

func digestOfFile(ctx context.Context, path string) (bundle.Digest, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	sum, err := hashFile(ctx, file, info.Size())
	return bundle.DigestOf(sum), err
}

// demote makes a partial of a complete bundle that rotted; nil without index or with another length, where nothing of it can be told good. same is false if it is not what
// is complete any more. Where the disk refuses, the bundle stays, and suspect.
func (s *Store) demote(ctx context.Context, d bundle.Digest, b *Bundle) (p *Partial, same bool, err error) {
	s.mu.Lock()
	if s.closed { // the directory may be another's
		s.mu.Unlock()
		return nil, true, ErrClosed
	}
	if s.complete[d] != b {
		s.mu.Unlock()
		return nil, false, nil
	}
	delete(s.complete, d)
	delete(s.suspects, d)
	s.busy[d] = b.Ref.Size
	ref := b.Ref
	s.mu.Unlock()
	p, err = s.salvage(ctx, b.Path, ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.endLocked(d)
	switch {
	case p != nil:
		s.partials[d] = p
	case err != nil && exists(b.Path):
		s.complete[d], s.suspects[d] = b, true
	}
	return p, true, err
}

// salvage moves a rotten bundle to where partial ones are. The partial is nil if nothing of it can be used.
func (s *Store) salvage(ctx context.Context, path string, ref Ref) (*Partial, error) {
	info, err := os.Lstat(path)
	if ref.Index == nil || err != nil || info.Size() != ref.Size {
		return nil, s.trash(filepath.Dir(path))
	}
	dir := s.path("partial", ref.Digest.Hex())
	if moved, err := s.move(filepath.Dir(path), dir); !moved {
		return nil, err
	}
	p, err := s.resume(dir, ref)
	if err != nil { // nobody would know of it there before the next start, and a Begin delete it
		_, back := s.move(dir, filepath.Dir(path))
		return nil, errors.Join(err, back)
	}
	return p, p.scan(ctx) // pieces are verified when they are read, should the scan not end
}
