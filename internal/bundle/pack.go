package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the chunker used below
)

// Chunk sizes in bytes. They are part of the format: other values cut elsewhere and would share no frames with bundles packed before.
const (
	chunkMin = 32 << 10
	chunkAvg = 128 << 10
	chunkMax = MaxFrameRaw
)

// Part sizes in bytes: a chunk that is new since the previous bundle is cut into parts. They are part of the format in the same sense: with
// other values a release would share no parts with the bundle before it. What does not compress loses nothing in small frames.
const (
	partMin      = 32 << 10
	partAvg      = 64 << 10
	partMax      = 128 << 10
	densePartMin = 16 << 10
	densePartAvg = 32 << 10
	densePartMax = 64 << 10
)

const chunkerName = "fastcdc-v1.0.0"

// Previous is an earlier bundle, best the one that the hosts have: its frames are reused, and what is not in it gets smaller frames.
type Previous struct {
	Index   *Index
	Archive io.ReaderAt
}

// PackOptions tune packing.
type PackOptions struct {
	Previous *Previous // nil: every chunk is a frame, encoded anew
}

// Chunk is one run of the tar, a chunk or a part of one, on its way to become a frame. Its buffers are reused when it is passed to Next again.
type Chunk struct {
	raw    []byte
	stored []byte
	sum    [sha256.Size]byte
	rawSum [sha256.Size]byte
	reused bool
}

// Packer packs a tree in three steps, so that the middle one can run in parallel: Next cuts, Encode compresses, Write appends.
//
//	one goroutine:  Next, Next, Next, ... until io.EOF
//	any:            Encode, each goroutine with an encoder of its own
//	one goroutine:  Write, in the order of Next; then Finish
//
// A chunk that the previous bundle has stays whole or in parts, as it is there. One that it has not is cut into parts, as long as the frames
// of the previous bundle, with those added, have meanFrameMin raw bytes on average.
type Packer struct {
	tree     *treeReader
	chunker  *chunkers.Chunker
	rawHash  hash.Hash
	rawSize  int64
	previous *Previous
	fine     *partCutter // nil without previous
	parts    [][]byte    // of the chunk that was cut last, still to come from Next; they lie in the chunker's buffer

	w      io.Writer
	hash   hash.Hash
	index  Index
	reused int64
}

// NewPacker begins to pack tree into w.
func NewPacker(w io.Writer, tree fs.FS, o PackOptions) (*Packer, error) {
	p := &Packer{w: w, hash: sha256.New(), rawHash: sha256.New(), index: Index{framed: true, chunker: ChunkerFastCDC, encoder: EncoderZstd}}
	var err error
	if p.tree, err = newTreeReader(tree); err != nil {
		return nil, err
	}
	sizes := &chunkers.ChunkerOpts{MinSize: chunkMin, NormalSize: chunkAvg, MaxSize: chunkMax}
	if p.chunker, err = chunkers.NewChunker(chunkerName, p.tree, sizes); err != nil {
		return nil, fmt.Errorf("internal error: cannot make chunker: %w", err)
	}
	if o.Previous != nil && o.Previous.Index.Framed() {
		p.previous = o.Previous
		if p.fine, err = newPartCutter(o.Previous.Index); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Next cuts the next chunk, or part of one, into c, or returns io.EOF.
func (p *Packer) Next(c *Chunk) error {
	for len(p.parts) == 0 {
		data, err := p.chunker.Next()
		if err != nil && err != io.EOF {
			p.tree.close()
			return err
		}
		if len(data) > 0 {
			p.rawHash.Write(data)
			p.rawSize += int64(len(data))
			if p.parts, err = p.partsOf(data); err != nil {
				p.tree.close()
				return err
			}
		} else if p.tree.resume() {
			p.chunker.Reset(p.tree)
		} else {
			return io.EOF
		}
	}
	c.raw = append(c.raw[:0], p.parts[0]...)
	p.parts = p.parts[1:]
	return nil
}

// partsOf returns what of chunk becomes frames. Without a previous bundle that is all of it.
func (p *Packer) partsOf(chunk []byte) ([][]byte, error) {
	if p.fine == nil {
		return [][]byte{chunk}, nil
	}
	return p.fine.cut(chunk)
}

// Encode makes the chunk's frame, or takes it from the previous bundle. It touches nothing but the chunk and the encoder.
func (p *Packer) Encode(e *FrameEncoder, c *Chunk) {
	c.rawSum = sha256.Sum256(c.raw)
	if c.reused = p.reuse(e, c); c.reused {
		return
	}
	c.stored = e.Encode(c.stored[:0], c.raw)
	c.sum = sha256.Sum256(c.stored)
}

// reuse copies the frame of equal raw bytes. A previous archive that does not hold what its index says is no reason to fail. What a frame decodes to is not believed
// either: what the previous bundle was kept in may have been written to by others, and would decide what is deployed.
func (p *Packer) reuse(e *FrameEncoder, c *Chunk) bool {
	if p.fine == nil {
		return false
	}
	i, ok := p.fine.known[c.rawSum]
	if !ok {
		return false
	}
	piece := p.previous.Index.Piece(i)
	if piece.RawSize != len(c.raw) {
		return false
	}
	c.stored = append(c.stored[:0], make([]byte, piece.Size)...)
	if _, err := p.previous.Archive.ReadAt(c.stored, piece.Offset); err != nil && err != io.EOF {
		return false
	}
	c.sum = sha256.Sum256(c.stored)
	return c.sum == piece.Sum && e.holds(c.stored, piece)
}

// Write appends an encoded chunk.
func (p *Packer) Write(c *Chunk) error {
	if len(p.index.pieces) == MaxPieces {
		return fmt.Errorf("cannot pack: more than %d frames would be needed", MaxPieces)
	}
	piece := Piece{Offset: p.index.PayloadSize(), Size: len(c.stored), Sum: c.sum, RawSize: len(c.raw), RawSum: c.rawSum}
	if piece.Size == 0 || piece.Size > MaxFrameStored {
		return fmt.Errorf("internal error: a frame of %d bytes for %d raw ones", piece.Size, piece.RawSize)
	}
	if c.reused {
		p.reused += int64(piece.Size)
	}
	p.index.pieces = append(p.index.pieces, piece)
	p.hash.Write(c.stored)
	if _, err := p.w.Write(c.stored); err != nil {
		return fmt.Errorf("cannot write bundle: %w", err)
	}
	return nil
}

// Finish appends the index and returns it with the digest of everything written.
func (p *Packer) Finish() (*Index, Digest, error) {
	if len(p.index.pieces) == 0 {
		return nil, "", errors.New("internal error: nothing was packed")
	}
	x := &p.index
	x.rawSize = p.rawSize
	p.hash.Sum(x.sum[:0])
	p.rawHash.Sum(x.rawSum[:0])
	x.encode()
	p.tree.guard.stored = x.ArchiveSize()
	if err := p.tree.guard.checkRatio(); err != nil {
		return nil, "", fmt.Errorf("cannot pack: %w", err)
	}
	tail := x.Tail()
	p.hash.Write(tail)
	if _, err := p.w.Write(tail); err != nil {
		return nil, "", fmt.Errorf("cannot write bundle: %w", err)
	}
	var whole [sha256.Size]byte
	p.hash.Sum(whole[:0])
	return x, DigestOf(whole), nil
}

// Reused returns how many stored bytes came from the previous bundle.
func (p *Packer) Reused() int64 { return p.reused }

// Pack packs tree into w, one frame after the other, and returns the index and the digest of everything written. The same tree, previous
// bundle and version of this program give the same bytes. Packer does the same in steps that may run in parallel; store.Pack does so.
func Pack(w io.Writer, tree fs.FS, o PackOptions) (*Index, Digest, error) {
	p, err := NewPacker(w, tree, o)
	if err != nil {
		return nil, "", err
	}
	encoder, err := NewFrameEncoder()
	if err != nil {
		return nil, "", err
	}
	var c Chunk
	for {
		if err := p.Next(&c); err == io.EOF {
			return p.Finish()
		} else if err != nil {
			return nil, "", err
		}
		p.Encode(encoder, &c)
		if err := p.Write(&c); err != nil {
			return nil, "", err
		}
	}
}
