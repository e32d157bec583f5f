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

// tarSource reads a tar, compressed or not, front to back.
type tarSource struct {
	tar    *tar.Reader
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
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, err
		}
		return &tarSource{tar: tar.NewReader(unzipped), closer: func() {}}, nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return &tarSource{tar: tar.NewReader(bzip2.NewReader(buffered)), closer: func() {}}, nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, errors.New("it is compressed with xz; pack it as .tar.zst or .tgz")
	case isZstd(magic):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindowBytes), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return &tarSource{tar: tar.NewReader(decoder), closer: decoder.Close}, nil
	}
	return &tarSource{tar: tar.NewReader(buffered), closer: func() {}}, nil
}

// isZstd recognises a frame or a skippable frame.
func isZstd(magic []byte) bool {
	return len(magic) >= 4 && (bytes.Equal(magic[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) || magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}))
}

func (s *tarSource) close() { s.closer() }

func (s *tarSource) next() (*Entry, bool, error) {
	h, err := s.tar.Next()
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
