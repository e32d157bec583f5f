package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// VerifyArchive reads an archive of our own format from end to end and checks every frame, raw and stored, against the index it carries,
// and the tar inside against the rules of Reader. It returns the index and the digest of the whole file.
func VerifyArchive(r io.ReaderAt, size int64, o Options) (*Index, Digest, error) {
	decoder, err := NewFrameDecoder()
	if err != nil {
		return nil, "", err
	}
	defer decoder.Close()
	tarHash := sha256.New()
	var raw []byte
	x, digest, err := verifyStored(r, size, func(stored []byte, p Piece) error {
		if raw, err = decoder.Decode(raw[:0], stored, p); err == nil {
			tarHash.Write(raw)
		}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if !bytes.Equal(tarHash.Sum(nil), x.rawSum[:]) {
		return nil, "", errOtherSums
	}
	return x, digest, Walk(r, size, TypeTarZst, o, func(*Entry) error { return nil })
}

// VerifyStored is VerifyArchive without what takes decoding: the stored bytes are those of the index that the archive carries.
func VerifyStored(r io.ReaderAt, size int64) (*Index, Digest, error) {
	return verifyStored(r, size, func([]byte, Piece) error { return nil })
}

var errOtherSums = errors.New("cannot accept bundle: its index names other whole sums than its frames make")

// verifyStored checks every stored byte, and passes each frame on; it is valid until the next.
func verifyStored(r io.ReaderAt, size int64, frame func(stored []byte, p Piece) error) (*Index, Digest, error) {
	x, err := ReadIndex(r, size)
	if err != nil {
		return nil, "", err
	}
	whole := sha256.New()
	var stored []byte
	for i, p := range x.pieces {
		stored = append(stored[:0], make([]byte, p.Size)...)
		if _, err := r.ReadAt(stored, p.Offset); err != nil {
			return nil, "", fmt.Errorf("cannot read frame %d: %w", i, noEOF(err))
		}
		if err := x.Verify(i, stored); err != nil {
			return nil, "", err
		}
		if err := frame(stored, p); err != nil {
			return nil, "", err
		}
		whole.Write(stored)
	}
	if !bytes.Equal(whole.Sum(nil), x.sum[:]) {
		return nil, "", errOtherSums
	}
	whole.Write(x.Tail())
	var sum [sha256.Size]byte
	whole.Sum(sum[:0])
	tail := make([]byte, len(x.Tail()))
	if _, err := r.ReadAt(tail, x.PayloadSize()); err != nil && err != io.EOF {
		return nil, "", fmt.Errorf("cannot read end of bundle: %w", err)
	}
	if !bytes.Equal(tail, x.Tail()) {
		return nil, "", errors.New("cannot accept bundle: what follows its frames is not its index")
	}
	return x, DigestOf(sum), nil
}
