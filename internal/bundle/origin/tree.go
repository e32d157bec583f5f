package origin

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// tree is a folder of the config repository, as the tar that bundle.Tar makes of it. Every host has that folder in its own verified copy
// of git, so nothing travels.
type tree struct {
	location Location
}

func openTree(l Location) (Origin, error) {
	if l.Tree == nil {
		return nil, errors.New("internal error: no folder given")
	}
	return &tree{location: l}, nil
}

func (t *tree) Size(ctx context.Context) (int64, error) {
	body, err := bundle.Tar(t.location.Tree)
	if err != nil {
		return 0, fail("ask for size of", t.location, err)
	}
	defer body.Close()
	size, err := io.Copy(io.Discard, &contextBody{ctx: ctx, Reader: body, Closer: body})
	return size, fail("ask for size of", t.location, err)
}

func (t *tree) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	err := checkRange(off, n)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fail("read", t.location, err)
	}
	body, err := bundle.Tar(t.location.Tree)
	if err != nil {
		return nil, fail("read", t.location, err)
	}
	inside := &contextBody{ctx: ctx, Reader: body, Closer: body}
	return wholeBody(t.location, inside, off, n), nil
}

// ReadIndex finds none: whoever has the folder can make the whole tar.
func (t *tree) ReadIndex(context.Context) ([]byte, error) {
	return nil, withoutIndex(t.location)
}

// withoutIndex says that this kind of origin never has an index.
func withoutIndex(l Location) error {
	return &Error{Op: "read index of", Where: l.String(), Err: fs.ErrNotExist, Advice: "a revision of this type has none; remove index from group.yaml"}
}

// wholeBody is n bytes from off of a body that can only be read from its start.
func wholeBody(l Location, body io.ReadCloser, off, n int64) io.ReadCloser {
	return &exactBody{body: &skippedBody{ReadCloser: body, skip: off}, left: n, fail: func(err error) error {
		if errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errBroken) {
			return permanent("read", l, errShorter)
		}
		return fail("read", l, err)
	}}
}

// errBroken marks a connection that ended early, as opposed to an archive that did.
var errBroken = errors.New("the connection broke off")

// skippedBody drops the bytes before the range.
type skippedBody struct {
	io.ReadCloser
	skip int64
}

func (s *skippedBody) Read(p []byte) (int, error) {
	if s.skip > 0 {
		n, err := io.CopyN(io.Discard, s.ReadCloser, s.skip)
		s.skip -= n
		if err != nil {
			return 0, err
		}
	}
	return s.ReadCloser.Read(p)
}
