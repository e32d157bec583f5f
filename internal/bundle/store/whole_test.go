package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"
)

// However an archive is read, its sum is that of the whole.
func TestHashingBesideReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{0, 1, hashedBytes - 1, hashedBytes, hashedBytes + 1, 7*hashedBytes + 3}).Draw(t, "size")
		data := bytes.Repeat([]byte("0123456789 and so on"), size/20+1)[:size]
		h, at := newHashing(bytes.NewReader(data)), 0
		for range rapid.IntRange(0, 20).Draw(t, "reads") {
			if rapid.IntRange(0, 3).Draw(t, "seeks") == 0 {
				at = rapid.IntRange(0, size).Draw(t, "at")
			}
			p := make([]byte, rapid.IntRange(1, hashedBytes*5/4).Draw(t, "bytes"))
			n, err := h.ReadAt(p, int64(at))
			if !bytes.Equal(p[:n], data[at:at+n]) || n < len(p) != (err == io.EOF) {
				t.Fatalf("read %d bytes of %d at %d: %v", n, len(p), at, err)
			}
			at += n
		}
		if sum, err := h.finish(context.Background(), int64(size)); err != nil || sum != sha256.Sum256(data) {
			t.Fatalf("the sum is wrong (%v)", err)
		}
	})
}

func TestHashingOfWhatCannotBeRead(t *testing.T) {
	if _, err := newHashing(bytes.NewReader(make([]byte, 10))).finish(t.Context(), 11); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a byte less than expected: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newHashing(bytes.NewReader(make([]byte, 10))).finish(ctx, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
