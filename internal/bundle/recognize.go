package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrNoArchive is wrapped by Recognize's errors about what is none of the archives that can be deployed.
var ErrNoArchive = errors.New("it is no zip, tar, tgz or tar.zst archive")

// Recognize tells the type of an archive of size bytes from its content, whatever its name says: it begins as one, and its first entry, if it has any, can be read. A
// tar in bzip2 counts as tar, since readers of a tar find out what it is compressed with. An error that wraps ErrRefused is about that entry.
func Recognize(r io.ReaderAt, size int64) (Type, error) {
	magic := make([]byte, min(size, 6))
	if _, err := r.ReadAt(magic, 0); err != nil && err != io.EOF {
		return "", fmt.Errorf("cannot read the archive: %w", err)
	}
	t := TypeTar
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		t = TypeTgz
	case isZstd(magic):
		t = TypeTarZst
	}
	err := firstEntry(r, size, t)
	if t == TypeTar && err != nil && !errors.Is(err, ErrRefused) && (zipEnds(r, size) || beginsAsZip(r)) {
		t = TypeZip // last: a tar may end in a file that is a zip, and a zip may begin with a program
		err = firstEntry(r, size, t)
	}
	switch {
	case err == nil || err == io.EOF: // one with nothing in it, too: an overlay may bring everything
		return t, nil
	case errors.Is(err, ErrRefused):
		return "", err
	case t == TypeTar && (errors.Is(err, tar.ErrHeader) || size > 0 && size < tarBlockBytes): // less than a header: nothing tells that it is cut off
		return "", ErrNoArchive
	}
	return "", fmt.Errorf("%w (%w)", ErrNoArchive, err)
}

// zipEnds says whether there is the end record of a zip.
func zipEnds(r io.ReaderAt, size int64) bool {
	_, _, err := findZipEnd(r, size)
	return err == nil
}

// firstEntry reads as far as the first entry; io.EOF says that there is none.
func firstEntry(r io.ReaderAt, size int64, t Type) error {
	archive, err := Open(r, size, t, Options{})
	if err != nil {
		return err
	}
	defer archive.Close()
	_, err = archive.Next()
	return err
}
