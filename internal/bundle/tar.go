package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindowBytes is the largest zstd window accepted, which is what the zstd tool accepts without being told more; it bounds the memory
// a foreign archive can make the decoder take.
const maxWindowBytes = 128 << 20

const readBufferBytes = 256 << 10

// modeBits are the bits of a mode that survive unpacking.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// maxTrailBytes is how much may follow a tar's end mark in what a compressed one unpacks to: packers fill it up to some round number.
const maxTrailBytes = 16 << 20

// tarSource reads a tar, compressed or not, front to back.
type tarSource struct {
	tar    *tar.Reader
	rest   io.Reader // what the tar is read from; nil if nothing behind its end mark says whether it is whole
	closer func()
}

// openTar finds the compression by the first bytes, as tar does.
func openTar(r io.Reader) (source, error) {
	buffered := bufio.NewReaderSize(r, readBufferBytes)
	magic, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case len(magic) == 0:
		return nil, errors.New("it is empty")
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		unzipped, err := newGunzip(buffered)
		if err != nil {
			return nil, err
		}
		return &tarSource{tar: tar.NewReader(unzipped), rest: unzipped, closer: func() {}}, nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		unzipped := bzip2.NewReader(buffered)
		return &tarSource{tar: tar.NewReader(unzipped), rest: unzipped, closer: func() {}}, nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, errors.New("it is compressed with xz; pack it as .tar.zst or .tgz")
	case isZstd(magic):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindowBytes), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return &tarSource{tar: tar.NewReader(decoder), rest: decoder, closer: decoder.Close}, nil
	}
	return &tarSource{tar: tar.NewReader(buffered), closer: func() {}}, nil
}

// isZstd recognises a frame or a skippable frame.
func isZstd(magic []byte) bool {
	return len(magic) >= 4 && (bytes.Equal(magic[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) || magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}))
}

func (s *tarSource) close() { s.closer() }

// noBzip2 is what follows a bzip2 stream and is none, which bunzip2 ignores.
const noBzip2 = bzip2.StructuralError("bad magic value in continuation file")

// end reads a compressed tar on behind its end mark: there the checksums are, without which damage would pass for content. It returns io.EOF if all is well.
func (s *tarSource) end() error {
	if s.rest == nil {
		return io.EOF
	}
	_, err := io.CopyN(io.Discard, s.rest, maxTrailBytes+1)
	switch {
	case err == nil:
		return refuse("more than %d bytes follow the end of the tar", maxTrailBytes)
	case err == io.EOF || err == noBzip2:
		return io.EOF
	}
	return fmt.Errorf("it is damaged or cut off: %w", endsEarly(err))
}

// gunzip reads one gzip member after another, and as gzip does what fills up the archive with zeros. Anything else between or behind them is an error.
type gunzip struct {
	member *gzip.Reader
	stored *bufio.Reader
}

func newGunzip(stored *bufio.Reader) (*gunzip, error) {
	member, err := gzip.NewReader(stored)
	if err != nil {
		return nil, err
	}
	member.Multistream(false)
	return &gunzip{member, stored}, nil
}

func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.member.Read(p)
	if err != io.EOF {
		return n, err
	}
	if err := g.skipZeros(); err != nil {
		return n, err
	}
	if err := g.member.Reset(g.stored); err != nil {
		return n, noEOF(err)
	}
	g.member.Multistream(false)
	return n, nil
}

// skipZeros returns io.EOF at the archive's end.
func (g *gunzip) skipZeros() error {
	for {
		b, err := g.stored.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return g.stored.UnreadByte()
		}
	}
}

func (s *tarSource) next() (*Entry, bool, error) {
	h, err := s.tar.Next()
	if err == io.EOF {
		return nil, false, s.end()
	}
	if err != nil {
		if errors.Is(err, tar.ErrHeader) {
			err = fmt.Errorf("this is no tar archive, or it is damaged: %w", err)
		}
		return nil, false, err
	}
	e := &Entry{Name: h.Name, Mode: h.FileInfo().Mode() & modeBits, ModTime: h.ModTime, UID: h.Uid, GID: h.Gid, User: h.Uname, Group: h.Gname}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Type, e.Size, e.Content = File, h.Size, s.tar
		e.Sparse = h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != ""
	case tar.TypeDir:
		e.Type = Dir
	case tar.TypeSymlink:
		e.Type, e.Link = Symlink, h.Linkname
	case tar.TypeLink:
		e.Type, e.Link = Hardlink, h.Linkname
	case tar.TypeXGlobalHeader, 'V':
		return nil, true, nil // a comment, such as the commit that git archive notes; a volume's label
	case tar.TypeChar, tar.TypeBlock:
		return nil, false, refuse("%.200q is a device", h.Name)
	case tar.TypeFifo:
		return nil, false, refuse("%.200q is a named pipe", h.Name)
	default:
		return nil, false, refuse("%.200q is of tar type %q, which is neither file, directory nor link", h.Name, h.Typeflag)
	}
	return e, false, nil
}
