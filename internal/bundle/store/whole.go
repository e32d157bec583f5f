package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// checkWhole compares an archive with its digest.
func checkWhole(ctx context.Context, archive io.ReaderAt, size int64, want bundle.Digest) error {
	sum, err := hashFile(ctx, archive, size)
	return cmp.Or(err, judge(sum, want))
}

func judge(sum [sha256.Size]byte, want bundle.Digest) error {
	if got := bundle.DigestOf(sum); got != want {
		return &DigestError{Got: got, Want: want}
	}
	return nil
}

// DigestError says what the digest of a whole archive is instead of the one that was asked for. It is an ErrMismatch.
type DigestError struct{ Got, Want bundle.Digest }

func (e *DigestError) Error() string {
	return fmt.Sprintf("its digest is %s, not %s: %v", e.Got.Short(), e.Want.Short(), ErrMismatch)
}

// Unwrap implements errors.Unwrap.
func (e *DigestError) Unwrap() error { return ErrMismatch }

const (
	hashedBytes  = 1 << 20 // of one block
	hashedBlocks = 4       // read and not yet hashed, at most
)

// hashing is an archive that is hashed beside its reading front to back: reading it twice costs as much as writing what is in it.
type hashing struct {
	archive io.ReaderAt
	seen    int64  // bytes from the beginning that were taken over
	open    []byte // the last of them, a block that is not full
	made    int    // blocks
	blocks  chan []byte
	used    chan []byte
	sum     chan [sha256.Size]byte
}

func newHashing(archive io.ReaderAt) *hashing {
	h := &hashing{archive: archive, blocks: make(chan []byte, hashedBlocks), used: make(chan []byte, hashedBlocks), sum: make(chan [sha256.Size]byte, 1)}
	go func() {
		sum := sha256.New()
		for block := range h.blocks {
			sum.Write(block)
			h.used <- block
		}
		h.sum <- [sha256.Size]byte(sum.Sum(nil))
	}()
	return h
}

// ReadAt implements io.ReaderAt, for one goroutine. What is read before its turn is not taken over.
func (h *hashing) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.archive.ReadAt(p, off)
	if off <= h.seen && off+int64(n) > h.seen {
		h.take(p[h.seen-off : n])
	}
	return n, err
}

// take copies what comes next.
func (h *hashing) take(p []byte) {
	h.seen += int64(len(p))
	for len(p) > 0 {
		if h.open == nil {
			h.open = h.block()[:0]
		}
		n := copy(h.open[len(h.open):cap(h.open)], p)
		h.open, p = h.open[:len(h.open)+n], p[n:]
		if len(h.open) == cap(h.open) {
			h.flush()
		}
	}
}

func (h *hashing) flush() {
	if h.open != nil {
		h.blocks <- h.open
		h.open = nil
	}
}

// block gives one of hashedBytes.
func (h *hashing) block() []byte {
	if h.made < hashedBlocks {
		h.made++
		return make([]byte, hashedBytes)
	}
	return (<-h.used)[:hashedBytes]
}

// finish reads what was not read, and gives the sum of the whole. It must be called once.
func (h *hashing) finish(ctx context.Context, size int64) (sum [sha256.Size]byte, err error) {
	h.flush()
	for h.seen < size && err == nil {
		block, n := h.block(), 0
		if err = ctx.Err(); err == nil {
			n, err = h.archive.ReadAt(block[:min(hashedBytes, size-h.seen)], h.seen)
		}
		if n > 0 && err == io.EOF {
			err = nil
		}
		h.seen += int64(n)
		h.blocks <- block[:n]
	}
	close(h.blocks)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return <-h.sum, rotten(err)
}
