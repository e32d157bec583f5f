package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// directory is an archive on a disk of this host: a mounted share, or a development machine.
type directory struct {
	location Location
}

func openDirectory(l Location) (Origin, error) {
	if !filepath.IsAbs(l.Path) {
		return nil, fmt.Errorf("path %q is not absolute", l.Path)
	}
	return &directory{location: l}, nil
}

func (d *directory) open() (*os.File, int64, error) {
	file, err := os.Open(d.location.Path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func (d *directory) Size(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fail("ask for size of", d.location, err)
	}
	file, size, err := d.open()
	if err != nil {
		return 0, fail("ask for size of", d.location, err)
	}
	return size, file.Close()
}

func (d *directory) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	err := checkRange(off, n)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fail("read", d.location, err)
	}
	file, size, err := d.open()
	if err != nil {
		return nil, fail("read", d.location, err)
	}
	if off > size-n {
		_ = file.Close()
		return nil, fail("read", d.location, fmt.Errorf("it has %d bytes, asked for %d from %d: %w", size, n, off, errShorter))
	}
	body := &contextBody{ctx: ctx, Reader: io.NewSectionReader(file, off, n), Closer: file}
	return &exactBody{body: body, left: n, fail: func(err error) error { return fail("read", d.location, err) }}, nil
}

// contextBody ends with its context, as a network body does.
type contextBody struct {
	ctx context.Context
	io.Reader
	io.Closer
}

func (b *contextBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}

func (d *directory) ReadIndex(ctx context.Context) ([]byte, error) {
	beside := d.location.index()
	file, err := os.Open(beside.Path)
	if err == nil {
		data, err := readWhole(file, bundle.MaxIndexBytes)
		return data, fail("read index of", d.location, err)
	}
	if data, tailErr := tailIndex(ctx, d); tailErr != nil || data != nil {
		return data, tailErr
	}
	return nil, fail("read index of", d.location, err)
}

const temporaryPrefix = ".gitopsd-put-"

// putDirectory writes beside the target and renames, so that a reader sees all or nothing.
func putDirectory(ctx context.Context, l Location, body io.ReaderAt, size int64, sent func(int64)) (err error) {
	if !filepath.IsAbs(l.Path) {
		return fmt.Errorf("path %q is not absolute", l.Path)
	}
	file, err := os.CreateTemp(filepath.Dir(l.Path), temporaryPrefix)
	if err != nil {
		return withoutTemporary(err)
	}
	defer func() {
		if err != nil {
			_ = file.Close() // an error before this one is what counts
			err = errors.Join(withoutTemporary(err), os.Remove(file.Name()))
		}
	}()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		if err = ctx.Err(); err != nil {
			return err
		}
		n, readErr := body.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 && readErr != nil {
			return readErr
		}
		if _, err = file.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
		sent(off)
	}
	if err = file.Chmod(0o644); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(file.Name(), l.Path)
	}
	if err != nil {
		return err
	}
	return file.Close()
}

// withoutTemporary takes the temporary file's name off an error: what it becomes is named by the caller.
func withoutTemporary(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path) && strings.HasPrefix(filepath.Base(path.Path), temporaryPrefix):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
