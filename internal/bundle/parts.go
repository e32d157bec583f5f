package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
)

// meanFrameMin is how many raw bytes the frames of a bundle have at least on average, as far as cutting chunks into parts goes. Small frames
// compress worse (Go's own sources by 3.7 %, its programs by 1.5 %, with all in parts), and stay as long as their content does: without this
// bound, small changes in many places would turn all of a bundle into parts over the releases.
const meanFrameMin = 96 << 10

// partCutter cuts chunks that the previous bundle has not into parts. Only those move to a host that runs it, and a host passes a frame on when it
// has the whole of it: many small frames are everywhere sooner than few large ones.
type partCutter struct {
	known map[[sha256.Size]byte]int // raw sum -> piece of the previous bundle
	sizes map[int]bool              // raw sizes of those
	plain *chunkers.Chunker
	dense *chunkers.Chunker
	spare int64 // how many frames more than one a chunk there may still be
}

func newPartCutter(previous *Index) (*partCutter, error) {
	p := &partCutter{known: make(map[[sha256.Size]byte]int, previous.Len()), sizes: map[int]bool{}, spare: spareFrames(previous)}
	for i, piece := range previous.pieces {
		p.known[piece.RawSum] = i
		p.sizes[piece.RawSize] = true
	}
	var err, also error
	p.plain, err = chunkers.NewChunker(chunkerName, bytes.NewReader(nil), &chunkers.ChunkerOpts{MinSize: partMin, NormalSize: partAvg, MaxSize: partMax})
	p.dense, also = chunkers.NewChunker(chunkerName, bytes.NewReader(nil), &chunkers.ChunkerOpts{MinSize: densePartMin, NormalSize: densePartAvg, MaxSize: densePartMax})
	if err = errors.Join(err, also); err != nil {
		return nil, fmt.Errorf("internal error: cannot make chunker: %w", err)
	}
	return p, nil
}

// dense says whether the bytes of a chunk are about equally frequent, as those of media, archives and ciphertext are, which no encoder makes smaller: the chance that
// two of them are the same is less than one and a half in 256.
func dense(chunk []byte) bool {
	var counts [256]uint64
	for _, b := range chunk {
		counts[b]++
	}
	var pairs uint64
	for _, n := range counts {
		pairs += n * n
	}
	return 512*pairs < 3*uint64(len(chunk))*uint64(len(chunk))
}

// spareFrames returns how many frames more than the previous one a bundle may have. One of half as many as MaxPieces gets none: that a
// bundle is cut into parts must never be why it cannot be packed.
func spareFrames(previous *Index) int64 {
	return min(previous.RawSize()/meanFrameMin, MaxPieces/2) - int64(previous.Len())
}

// has says whether the previous bundle has a frame of these raw bytes. Hardly any sum is taken where all is new: this is the one step of packing that cannot be shared out.
func (p *partCutter) has(raw []byte) bool {
	if !p.sizes[len(raw)] {
		return false
	}
	_, ok := p.known[sha256.Sum256(raw)]
	return ok
}

// cut returns what of chunk becomes frames, in its memory. What the previous bundle has stays as it is there: whole, or in parts as soon as one of them is the
// same. Of what is new, parts are made as long as there are frames to spare. Where they begin and end depends on the bytes of chunk alone.
func (p *partCutter) cut(chunk []byte) ([][]byte, error) {
	whole := [][]byte{chunk}
	if p.has(chunk) {
		return whole, nil
	}
	chunker, most := p.plain, partMax
	if dense(chunk) {
		chunker, most = p.dense, densePartMax
	}
	if len(chunk) <= most {
		return whole, nil
	}
	var parts [][]byte
	known := false
	chunker.Reset(bytes.NewReader(chunk))
	for rest := chunk; len(rest) > 0; {
		data, err := chunker.Next()
		if err != nil && err != io.EOF || len(data) == 0 {
			return nil, fmt.Errorf("internal error: cannot cut chunk into parts: %w", err)
		}
		next := rest[:len(data)]
		known = known || !constant(next) && p.has(next)
		parts, rest = append(parts, next), rest[len(data):]
	}
	more := int64(len(parts) - 1)
	switch {
	case known:
		return parts, nil
	case more > p.spare:
		return whole, nil
	}
	p.spare -= more
	return parts, nil
}

// constant says whether all bytes are the same, as in the holes of disk images: such a part says nothing of the chunk it lies in.
func constant(raw []byte) bool { return bytes.Equal(raw[1:], raw[:len(raw)-1]) }
