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

// part is what becomes one frame: a run of a chunk, or the whole of it.
type part struct {
	raw []byte
	sum [sha256.Size]byte
}

// partCutter cuts chunks that the previous bundle has not into parts. Only those move to a host that runs it, and a host passes a frame on when it
// has the whole of it: many small frames are everywhere sooner than few large ones.
type partCutter struct {
	known map[[sha256.Size]byte]int // raw sum -> piece of the previous bundle
	plain *chunkers.Chunker
	dense *chunkers.Chunker
	spare int64 // how many frames more than one a chunk there may still be
}

func newPartCutter(previous *Index) (*partCutter, error) {
	p := &partCutter{known: make(map[[sha256.Size]byte]int, previous.Len()), spare: spareFrames(previous)}
	for i, piece := range previous.pieces {
		p.known[piece.RawSum] = i
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

// cut returns what of chunk becomes frames. What the previous bundle has stays as it is there: whole, or in parts as soon as one of them is the
// same. Of what is new, parts are made as long as there are frames to spare. Where they begin and end depends on the bytes of chunk alone.
func (p *partCutter) cut(chunk []byte) ([]part, error) {
	whole := part{raw: chunk, sum: sha256.Sum256(chunk)}
	if _, ok := p.known[whole.sum]; ok {
		return []part{whole}, nil
	}
	chunker, most := p.plain, partMax
	if dense(chunk) {
		chunker, most = p.dense, densePartMax
	}
	if len(chunk) <= most {
		return []part{whole}, nil
	}
	var parts []part
	known := false
	chunker.Reset(bytes.NewReader(chunk))
	for rest := chunk; len(rest) > 0; {
		data, err := chunker.Next()
		if err != nil && err != io.EOF || len(data) == 0 {
			return nil, fmt.Errorf("internal error: cannot cut chunk into parts: %w", err)
		}
		next := part{raw: rest[:len(data)], sum: sha256.Sum256(data)}
		if _, ok := p.known[next.sum]; ok {
			known = true
		}
		parts, rest = append(parts, next), rest[len(data):]
	}
	more := int64(len(parts) - 1)
	switch {
	case known:
		return parts, nil
	case more > p.spare:
		return []part{whole}, nil
	}
	p.spare -= more
	return parts, nil
}
