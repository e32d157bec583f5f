package bundle

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// zeros is n zero bytes.
func zeros(n int) []byte { return make([]byte, n) }

// overlapping makes a zip whose n records all point to one member of size zero bytes: small to store, large to unpack.
func overlapping(t testing.TB, n, size int) []byte {
	t.Helper()
	var packed, out bytes.Buffer
	deflate, err := flate.NewWriter(&packed, flate.BestCompression)
	if err == nil {
		_, err = deflate.Write(zeros(size))
	}
	if err == nil {
		err = deflate.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(&out)
	f, err := w.CreateRaw(&zip.FileHeader{Name: "000000", Method: zip.Deflate, CRC32: crc32.ChecksumIEEE(zeros(size)), CompressedSize64: uint64(packed.Len()), UncompressedSize64: uint64(size)})
	if err == nil {
		_, err = f.Write(packed.Bytes())
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return repeatRecord(out.Bytes(), n, uint16(n))
}

func TestBombsOfEveryKindAreRefused(t *testing.T) {
	promise := func(compress func(io.Writer) io.WriteCloser) []byte {
		var out bytes.Buffer
		w := compress(&out)
		if err := tar.NewWriter(w).WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 3 << 30}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	plain := promise(func(w io.Writer) io.WriteCloser { return unclosed{w} })
	sparse := makeSparse(t, 1<<45)
	cases := map[string]struct {
		kind Type
		data []byte
	}{
		"tgz": {TypeTgz, gzipped(t, plain)}, "tar": {TypeTar, plain}, "zip": {TypeZip, overlapping(t, 200, 16<<20)}, "sparse": {TypeTar, sparse},
	}
	for name, c := range cases {
		entries := 0
		err := Walk(bytes.NewReader(c.data), int64(len(c.data)), c.kind, Options{}, func(*Entry) error { entries++; return nil })
		if !errors.Is(err, ErrRefused) || int64(entries)*16<<20 > 3<<30 {
			t.Errorf("%s of %d bytes: %d entries, %v", name, len(c.data), entries, err)
		}
	}
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// makeSparse makes the header of a file that is one large hole, as GNU tar's old form has it.
func makeSparse(t *testing.T, size int64) []byte {
	t.Helper()
	header := makeTar(t, member{name: "hole", data: ""})[:tarBlockBytes]
	header[156] = 'S'
	copy(header[257:], "ustar  \x00")
	copy(header[483:495], base256(size))
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:], octal(sum))
	return append(bytes.Clone(header), zeros(2*tarBlockBytes)...)
}

func base256(n int64) []byte {
	out := make([]byte, 12)
	binary.BigEndian.PutUint64(out[4:], uint64(n))
	out[0] = 0x80
	return out
}

func octal(n int) string {
	const digits = "01234567"
	out := []byte("000000\x00 ")
	for i := 5; i >= 0; i-- {
		out[i], n = digits[n&7], n>>3
	}
	return string(out)
}

func TestAMemberThatInflatesBeyondItsSizeIsRefused(t *testing.T) {
	data := makeZip(t, member{name: "f", data: string(zeros(1 << 20))})
	at := bytes.Index(data, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(data[at+24:], 1000)
	var got int64
	err := Walk(bytes.NewReader(data), int64(len(data)), TypeZip, Options{}, func(e *Entry) error {
		n, err := io.Copy(io.Discard, e.Content)
		got += n
		return err
	})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "more bytes than the directory says") || got > 1000 {
		t.Errorf("%d bytes, %v", got, err)
	}
}

// TestAFrameThatDecodesToMoreThanItsIndexSays: neither the frame's own word nor its window nor a second frame makes the decoder go on.
func TestAFrameThatDecodesToMoreThanItsIndexSays(t *testing.T) {
	wide, err := zstd.NewWriter(nil, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer wide.Close()
	decoder, err := NewFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	var streamed bytes.Buffer // no content size in its header
	stream, err := zstd.NewWriter(&streamed, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if _, err := stream.Write(zeros(1 << 20)); err != nil {
			t.Fatal(err)
		}
		if err := stream.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	small := wide.EncodeAll(zeros(1000), nil)
	for name, stored := range map[string][]byte{"64 MiB": wide.EncodeAll(zeros(64<<20), nil), "64 MiB without a size": streamed.Bytes(), "two frames": append(bytes.Clone(small), small...)} {
		checkFrame(t, decoder, stored, 1000)
		if _, err := decoder.Decode(nil, stored, Piece{Size: len(stored), RawSize: 1000, RawSum: sum256(zeros(1000))}); err == nil {
			t.Errorf("%s in %d bytes decode to 1000", name, len(stored))
		}
	}
}

// checkFrame decodes into a buffer and looks at what lies behind the bytes the index allows.
func checkFrame(t *testing.T, decoder *FrameDecoder, stored []byte, rawSize int) {
	t.Helper()
	buffer := bytes.Repeat([]byte{0xa5}, rawSize+4096)
	out, err := decoder.Decode(buffer[:0], stored, Piece{Size: len(stored), RawSize: rawSize})
	if err == nil && len(out) != rawSize {
		t.Fatalf("%d bytes came out, the index says %d", len(out), rawSize)
	}
	if !bytes.Equal(buffer[rawSize:], bytes.Repeat([]byte{0xa5}, 4096)) {
		t.Fatalf("bytes were written beyond the %d that the index says", rawSize)
	}
}

func FuzzFrame(f *testing.F) {
	encoder, err := NewFrameEncoder()
	if err != nil {
		f.Fatal(err)
	}
	decoder, err := NewFrameDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(decoder.Close)
	for _, raw := range [][]byte{[]byte("abcabcabcabc"), zeros(100_000), noise(3, 2000), bytes.Repeat([]byte("word and word; "), 900)} {
		stored := encoder.Encode(nil, raw)
		f.Add(stored, uint32(len(raw)))
		f.Add(stored, uint32(len(raw)/2+1))
		f.Add(append(bytes.Clone(stored), stored...), uint32(len(raw)))
	}
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}, uint32(1))
	f.Fuzz(func(t *testing.T, stored []byte, rawSize uint32) {
		checkFrame(t, decoder, stored, 1+int(rawSize%MaxFrameRaw))
	})
}

func FuzzReadIndex(f *testing.F) {
	whole, x, _ := pack(f, sampleTree(), PackOptions{})
	f.Add(whole[x.PayloadSize():], int64(len(whole)))
	f.Add(whole[len(whole)-100:], int64(len(whole)))
	f.Add(whole, int64(len(whole)))
	f.Fuzz(func(t *testing.T, tail []byte, size int64) {
		if size < int64(len(tail)) || size > MaxArchiveBytes {
			return
		}
		got, err := ReadIndex(behind{tail, size}, size)
		if err == nil && (got.ArchiveSize() != size || !got.Framed()) {
			t.Fatalf("an index of %d bytes for an archive of %d", got.ArchiveSize(), size)
		}
	})
}

// behind is an archive of size bytes, zeros but for its tail.
type behind struct {
	tail []byte
	size int64
}

// ReadAt implements io.ReaderAt.
func (b behind) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > b.size {
		return 0, io.EOF
	}
	clear(p)
	if at := off - (b.size - int64(len(b.tail))); at >= 0 {
		copy(p, b.tail[at:])
	} else if -at < int64(len(p)) {
		copy(p[-at:], b.tail)
	}
	return len(p), nil
}
