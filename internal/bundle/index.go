package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Bounds of an index. They keep what one index can make its reader allocate at about 100 MiB.
const (
	MaxPieces       = 1 << 20            // pieces of one archive
	MaxFrameRaw     = 512 << 10          // raw bytes of one frame; also the largest chunk
	MaxFrameStored  = MaxFrameRaw + 4096 // stored bytes of one frame: incompressible data grows by 3 bytes a 128 KiB block
	MinForeignPiece = 4 << 10            // bytes
	MaxForeignPiece = 4 << 20            // bytes
	MaxArchiveBytes = 1 << 42            // 4 TiB
	MaxIndexBytes   = indexHeaderBytes + MaxPieces*frameRecordBytes

	// ForeignPieceBytes is the piece size of foreign archives unless another is asked for.
	ForeignPieceBytes = 256 << 10
)

// IndexSuffix is appended to an archive's key or file name to name its index.
const IndexSuffix = ".gitopsd-index"

const (
	indexMagic       = "gitopsdX"
	indexVersion     = 1
	indexHeaderBytes = 8 + 2 + 1 + 1 + 2 + 2 + 4 + 4 + 8 + 8 + sha256.Size + sha256.Size
	frameRecordBytes = 4 + 4 + 2*sha256.Size
	pieceRecordBytes = sha256.Size

	kindFrames  = 1
	kindForeign = 2

	// ChunkerFastCDC names FastCDC 32/128/512 KiB, normalisation 2, with the gear table of go-cdc-chunkers ("fastcdc-v1.0.0"), and
	// 32/64/128 or 16/32/64 KiB for the parts of a chunk.
	ChunkerFastCDC = 1
	// EncoderZstd names klauspost/compress zstd at the level frameLevel. It is information only: frames are told apart by content.
	EncoderZstd = 1

	skippableMagic  = 0x184D2A5B
	skippableHeader = 8
	tailMagic       = "gitopsdT"
	tailFooterBytes = 4 + len(tailMagic)
)

// TailFooterBytes is how many bytes at the end of an archive tell whether it carries an index: see TailIndexLength.
const TailFooterBytes = int64(tailFooterBytes)

// ErrNoIndex says that an archive carries no index of ours: it was made by another tool.
var ErrNoIndex = errors.New("the archive carries no gitopsd index")

// Piece is one run of an archive's stored bytes: a zstd frame of our own format, or a fixed piece of a foreign archive.
type Piece struct {
	Offset  int64             // bytes from the start of the archive
	Size    int               // stored bytes
	Sum     [sha256.Size]byte // of the stored bytes; what a receiver checks before anything else
	RawSize int               // bytes the frame decodes to; 0 in a foreign index
	RawSum  [sha256.Size]byte // of the decoded bytes; zero in a foreign index
}

// Index says how an archive is cut into pieces. It is immutable once made, and safe to share.
type Index struct {
	framed    bool
	chunker   uint8
	encoder   uint16
	pieceSize int // foreign only
	rawSize   int64
	sum       [sha256.Size]byte // of all pieces in order: for a foreign archive that is the file, for ours the file without its tail
	rawSum    [sha256.Size]byte // of the tar; zero if foreign
	pieces    []Piece
	encoded   []byte
	digest    Digest // of encoded
}

// Framed reports whether the pieces are zstd frames of our own format rather than fixed pieces of a foreign archive.
func (x *Index) Framed() bool { return x.framed }

// Len returns the number of pieces.
func (x *Index) Len() int { return len(x.pieces) }

// Piece returns the i-th piece, 0 <= i < Len.
func (x *Index) Piece(i int) Piece { return x.pieces[i] }

// PieceSize is the fixed size of a foreign archive's pieces in bytes (its last may be shorter); 0 for our own format.
func (x *Index) PieceSize() int { return x.pieceSize }

// PayloadSize is the number of bytes all pieces cover, which is where the tail begins.
func (x *Index) PayloadSize() int64 {
	if len(x.pieces) == 0 {
		return 0
	}
	last := x.pieces[len(x.pieces)-1]
	return last.Offset + int64(last.Size)
}

// RawSize is the length of the tar inside in bytes; 0 if the archive is foreign.
func (x *Index) RawSize() int64 { return x.rawSize }

// RawDigest is the digest of the tar inside; "" if the archive is foreign.
func (x *Index) RawDigest() Digest {
	if !x.framed {
		return ""
	}
	return DigestOf(x.rawSum)
}

// PayloadDigest is the digest of all pieces in order. For a foreign archive that is the archive's own digest.
func (x *Index) PayloadDigest() Digest { return DigestOf(x.sum) }

// ArchiveSize is the size of the whole archive file in bytes, tail included.
func (x *Index) ArchiveSize() int64 { return x.PayloadSize() + int64(x.tailSize()) }

// Digest is the digest of the encoded index: what a revision's `index:` pins.
func (x *Index) Digest() Digest { return x.digest }

// Encode returns the index in its stored form. The caller must not change it.
func (x *Index) Encode() []byte { return x.encoded }

func (x *Index) tailSize() int {
	if !x.framed {
		return 0
	}
	return skippableHeader + len(x.encoded) + tailFooterBytes
}

// Tail returns what follows the pieces in the archive file: for our own format the skippable frame that holds this very index,
// nothing for a foreign archive. It is no piece: whoever has the index can write it.
func (x *Index) Tail() []byte {
	if !x.framed {
		return nil
	}
	tail := make([]byte, 0, x.tailSize())
	tail = binary.LittleEndian.AppendUint32(tail, skippableMagic)
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(x.encoded)+tailFooterBytes))
	tail = append(tail, x.encoded...)
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(x.encoded)))
	return append(tail, tailMagic...)
}

// Verify checks the stored bytes of piece i.
func (x *Index) Verify(i int, data []byte) error {
	if i < 0 || i >= len(x.pieces) {
		return fmt.Errorf("cannot verify piece %d: the index has %d", i, len(x.pieces))
	}
	p := x.pieces[i]
	if len(data) != p.Size {
		return fmt.Errorf("cannot accept piece %d: it has %d bytes, expected %d", i, len(data), p.Size)
	}
	if sum := sha256.Sum256(data); sum != p.Sum {
		return fmt.Errorf("cannot accept piece %d: got %s, expected %s", i, DigestOf(sum), DigestOf(p.Sum))
	}
	return nil
}

// EncodeIndex fills x.encoded and is the one place that writes the stored form (all integers little-endian):
//
//	magic[8] version u16 kind u8 chunker u8 encoder u16 reserved u16 pieceSize u32 count u32 payloadSize u64 rawSize u64
//	sum[32] rawSum[32]
//	frames:  count times {stored u32, raw u32, sum[32], rawSum[32]}
//	foreign: count times {sum[32]}
func (x *Index) encode() {
	record, kind := frameRecordBytes, byte(kindFrames)
	if !x.framed {
		record, kind = pieceRecordBytes, kindForeign
	}
	out := make([]byte, 0, indexHeaderBytes+record*len(x.pieces))
	out = append(out, indexMagic...)
	out = binary.LittleEndian.AppendUint16(out, indexVersion)
	out = append(out, kind, x.chunker)
	out = binary.LittleEndian.AppendUint16(out, x.encoder)
	out = binary.LittleEndian.AppendUint16(out, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(x.pieceSize))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(x.pieces)))
	out = binary.LittleEndian.AppendUint64(out, uint64(x.PayloadSize()))
	out = binary.LittleEndian.AppendUint64(out, uint64(x.rawSize))
	out = append(out, x.sum[:]...)
	out = append(out, x.rawSum[:]...)
	for _, p := range x.pieces {
		if x.framed {
			out = binary.LittleEndian.AppendUint32(out, uint32(p.Size))
			out = binary.LittleEndian.AppendUint32(out, uint32(p.RawSize))
		}
		out = append(out, p.Sum[:]...)
		if x.framed {
			out = append(out, p.RawSum[:]...)
		}
	}
	x.encoded, x.digest = out, DigestBytes(out)
}

// DecodeIndex reads an encoded index. It refuses anything but the one encoding an index has, so that equal indexes have equal digests.
func DecodeIndex(data []byte) (*Index, error) {
	x, err := decodeIndex(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read bundle index: %w", err)
	}
	return x, nil
}

func decodeIndex(data []byte) (*Index, error) {
	if len(data) < indexHeaderBytes {
		return nil, fmt.Errorf("it has %d bytes, its header alone %d", len(data), indexHeaderBytes)
	}
	if string(data[:8]) != indexMagic {
		return nil, errors.New("it does not begin as an index does")
	}
	if v := binary.LittleEndian.Uint16(data[8:]); v != indexVersion {
		return nil, fmt.Errorf("it has version %d, this program knows version %d", v, indexVersion)
	}
	x := &Index{chunker: data[11], encoder: binary.LittleEndian.Uint16(data[12:])}
	pieceSize, count := binary.LittleEndian.Uint32(data[16:]), binary.LittleEndian.Uint32(data[20:])
	payload, raw := binary.LittleEndian.Uint64(data[24:]), binary.LittleEndian.Uint64(data[32:])
	copy(x.sum[:], data[40:])
	copy(x.rawSum[:], data[40+sha256.Size:])
	if count == 0 || count > MaxPieces {
		return nil, fmt.Errorf("it lists %d pieces, between 1 and %d are possible", count, MaxPieces)
	}
	if payload == 0 || payload > MaxArchiveBytes || raw > MaxArchiveBytes {
		return nil, fmt.Errorf("it speaks of %d stored and %d raw bytes, at most %d are possible", payload, raw, int64(MaxArchiveBytes))
	}
	x.rawSize = int64(raw)
	var err error
	switch data[10] {
	case kindFrames:
		x.framed = true
		err = x.decodeFrames(data[indexHeaderBytes:], int(count), int64(payload))
	case kindForeign:
		err = x.decodeForeign(data[indexHeaderBytes:], int(count), int64(payload), pieceSize)
	default:
		err = fmt.Errorf("kind %d is unknown", data[10])
	}
	if err != nil {
		return nil, err
	}
	if x.encode(); !bytes.Equal(x.encoded, data) {
		return nil, errors.New("it has fields that its kind must leave empty")
	}
	return x, nil
}

func (x *Index) decodeFrames(data []byte, count int, payload int64) error {
	if len(data) != count*frameRecordBytes {
		return fmt.Errorf("%d frames need %d bytes, it has %d", count, count*frameRecordBytes, len(data))
	}
	x.pieces = make([]Piece, 0, count)
	var offset, raw int64
	for i := range count {
		record := data[i*frameRecordBytes:]
		stored, rawLen := binary.LittleEndian.Uint32(record), binary.LittleEndian.Uint32(record[4:])
		if stored == 0 || stored > MaxFrameStored || rawLen == 0 || rawLen > MaxFrameRaw {
			return fmt.Errorf("frame %d has %d stored and %d raw bytes, outside of 1..%d and 1..%d", i, stored, rawLen, MaxFrameStored, MaxFrameRaw)
		}
		p := Piece{Offset: offset, Size: int(stored), RawSize: int(rawLen)}
		copy(p.Sum[:], record[8:])
		copy(p.RawSum[:], record[8+sha256.Size:])
		x.pieces = append(x.pieces, p)
		offset += int64(stored)
		raw += int64(rawLen)
	}
	if offset != payload || raw != x.rawSize {
		return fmt.Errorf("its frames have %d stored and %d raw bytes, its header says %d and %d", offset, raw, payload, x.rawSize)
	}
	return nil
}

func (x *Index) decodeForeign(data []byte, count int, payload int64, pieceSize uint32) error {
	if pieceSize < MinForeignPiece || pieceSize > MaxForeignPiece {
		return fmt.Errorf("its pieces have %d bytes, outside of %d..%d", pieceSize, MinForeignPiece, MaxForeignPiece)
	}
	if want := (payload + int64(pieceSize) - 1) / int64(pieceSize); int64(count) != want {
		return fmt.Errorf("%d bytes make %d pieces of %d, it lists %d", payload, want, pieceSize, count)
	}
	if len(data) != count*pieceRecordBytes {
		return fmt.Errorf("%d pieces need %d bytes, it has %d", count, count*pieceRecordBytes, len(data))
	}
	x.pieceSize = int(pieceSize)
	x.pieces = make([]Piece, count)
	for i := range x.pieces {
		offset := int64(i) * int64(pieceSize)
		x.pieces[i] = Piece{Offset: offset, Size: int(min(int64(pieceSize), payload-offset))}
		copy(x.pieces[i].Sum[:], data[i*pieceRecordBytes:])
	}
	return nil
}

// IndexOf reads a foreign archive to its end and indexes it in pieces of pieceSize bytes (0: ForeignPieceBytes, grown by doubling
// where the archive would otherwise have too many is left to the caller, who knows its size: see PieceSizeFor).
func IndexOf(r io.Reader, pieceSize int) (*Index, error) {
	if pieceSize == 0 {
		pieceSize = ForeignPieceBytes
	}
	if pieceSize < MinForeignPiece || pieceSize > MaxForeignPiece {
		return nil, fmt.Errorf("cannot index archive: pieces of %d bytes are outside of %d..%d", pieceSize, MinForeignPiece, MaxForeignPiece)
	}
	x := &Index{pieceSize: pieceSize}
	whole, buf := sha256.New(), make([]byte, pieceSize)
	var offset int64
	for {
		n, err := io.ReadFull(r, buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("cannot index archive: %w", err)
		}
		if n > 0 {
			if len(x.pieces) == MaxPieces {
				return nil, fmt.Errorf("cannot index archive: it has more than %d pieces of %d bytes, choose larger pieces", MaxPieces, pieceSize)
			}
			whole.Write(buf[:n])
			x.pieces = append(x.pieces, Piece{Offset: offset, Size: n, Sum: sha256.Sum256(buf[:n])})
			offset += int64(n)
		}
		if err != nil {
			break
		}
	}
	if len(x.pieces) == 0 {
		return nil, errors.New("cannot index archive: it is empty")
	}
	whole.Sum(x.sum[:0])
	x.encode()
	return x, nil
}

// ForeignIndex makes an index from piece sums that others have computed, for an archive of size bytes with the given digest.
func ForeignIndex(size int64, pieceSize int, digest Digest, sums [][sha256.Size]byte) (*Index, error) {
	sum, ok := digest.Sum()
	if !ok || size <= 0 || size > MaxArchiveBytes || len(sums) > MaxPieces {
		return nil, fmt.Errorf("cannot make index: digest %.80q, %d bytes, %d pieces", digest, size, len(sums))
	}
	x := &Index{sum: sum}
	flat := bytes.Join(asSlices(sums), nil)
	if pieceSize < 0 {
		return nil, fmt.Errorf("cannot make index: pieces of %d bytes", pieceSize)
	}
	if err := x.decodeForeign(flat, len(sums), size, uint32(min(pieceSize, MaxForeignPiece+1))); err != nil {
		return nil, fmt.Errorf("cannot make index: %w", err)
	}
	x.encode()
	return x, nil
}

func asSlices(sums [][sha256.Size]byte) [][]byte {
	out := make([][]byte, len(sums))
	for i := range sums {
		out[i] = sums[i][:]
	}
	return out
}

// PieceSizeFor returns the piece size in bytes for a foreign archive of size bytes: ForeignPieceBytes, doubled while there would be
// more than 65,536 pieces.
func PieceSizeFor(size int64) int {
	piece := ForeignPieceBytes
	for piece < MaxForeignPiece && size/int64(piece) > 1<<16 {
		piece *= 2
	}
	return piece
}

// ReadIndex finds the index at the end of an archive of our own format. ErrNoIndex says that there is none.
func ReadIndex(r io.ReaderAt, size int64) (*Index, error) {
	if size < int64(skippableHeader+indexHeaderBytes+tailFooterBytes) {
		return nil, ErrNoIndex
	}
	footer := make([]byte, tailFooterBytes)
	if _, err := r.ReadAt(footer, size-int64(len(footer))); err != nil {
		return nil, fmt.Errorf("cannot read end of archive: %w", err)
	}
	length, ok := TailIndexLength(footer, size)
	if !ok {
		return nil, ErrNoIndex
	}
	data := make([]byte, length)
	if _, err := r.ReadAt(data, size-TailFooterBytes-length); err != nil {
		return nil, fmt.Errorf("cannot read bundle index: %w", err)
	}
	x, err := DecodeIndex(data)
	if err != nil {
		return nil, err
	}
	if !x.framed || x.ArchiveSize() != size {
		return nil, fmt.Errorf("cannot use bundle index: it speaks of an archive of %d bytes, this one has %d", x.ArchiveSize(), size)
	}
	return x, nil
}

// TailIndexLength reads the last TailFooterBytes of an archive of size bytes: an encoded index of length bytes stands before them. ok is
// false if the archive carries none.
func TailIndexLength(footer []byte, size int64) (length int64, ok bool) {
	if len(footer) != tailFooterBytes || string(footer[4:]) != tailMagic {
		return 0, false
	}
	length = int64(binary.LittleEndian.Uint32(footer))
	return length, length >= indexHeaderBytes && length <= MaxIndexBytes && length <= size-TailFooterBytes-skippableHeader
}

// Reuse says which pieces of next are already stored in have: for each piece of next the index of an equal piece of have, or -1.
func Reuse(next, have *Index) []int {
	bySum := make(map[[sha256.Size]byte]int, have.Len())
	for i, p := range slices.Backward(have.pieces) {
		bySum[p.Sum] = i
	}
	out := make([]int, next.Len())
	for i, p := range next.pieces {
		out[i] = -1
		if j, ok := bySum[p.Sum]; ok && have.pieces[j].Size == p.Size {
			out[i] = j
		}
	}
	return out
}
