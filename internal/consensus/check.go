package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// bbolt panics on damaged pages, when it opens a file even in a goroutine of its
// own. So the file is checked before bbolt reads more of it than its header.

// errDamaged means that the file's contents are wrong, not that it cannot be read.
var errDamaged = errors.New("the file is damaged")

// guarded runs f, which reads or writes the file by bbolt, and turns panics and
// memory faults of a file that is damaged into errors.
func (s *store) guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: %w: %v", s.path, errDamaged, p)
		}
	}()
	return f()
}

// openError says why a store cannot be opened; only a lock that is held is a
// sign of another agent.
func openError(path string, err error) error {
	var pathErr *fs.PathError
	var errno syscall.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("cannot open the raft store %s (is another agent running on this data directory?): %w", path, err)
	case errors.As(err, &pathErr), errors.As(err, &errno), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("cannot open the raft store %s: %w", path, err)
	}
	return fmt.Errorf("cannot open the raft store %s: %w: %w", path, errDamaged, err)
}

// checkStore reads the whole file; the error wraps errDamaged if its structure
// is not sound. A file that is missing or empty is fine, bbolt makes it.
func checkStore(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return openError(path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("cannot open the raft store %s: it is no file", path)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second}) // locks it
	if err != nil {
		return openError(path, err)
	}
	defer db.Close()
	f, err := os.Open(path)
	if err != nil {
		return openError(path, err)
	}
	defer f.Close()
	if err := checkPages(f, info.Size(), int64(db.Info().PageSize)); err != nil {
		return openError(path, err)
	}
	return nil
}

const (
	pageHeader  = 16
	pageElement = 16
	pageBranch  = 1
	pageLeaf    = 2
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	metaBytes   = 64 // after the page's header
)

// pageCheck walks through the pages of a bbolt file.
type pageCheck struct {
	r    io.ReaderAt
	size int64  // of a page
	high uint64 // first page that was never used
	seen []bool
}

// checkPages checks every page that is reachable: what bbolt itself asserts, and
// that no offset leads out of its page, which it trusts.
func checkPages(r io.ReaderAt, bytes, pageSize int64) error {
	if pageSize < 512 || pageSize > 1<<20 || bytes < 2*pageSize {
		return fmt.Errorf("%d bytes with pages of %d", bytes, pageSize)
	}
	c := &pageCheck{r: r, size: pageSize}
	var root, newest uint64
	for i := range int64(2) {
		b := make([]byte, pageHeader+metaBytes)
		if _, err := r.ReadAt(b, i*pageSize); err != nil {
			return err
		}
		m := b[pageHeader:]
		h := fnv.New64a()
		h.Write(m[:metaBytes-8])
		sound := native.Uint32(m) == boltMagic && native.Uint32(m[4:]) == boltVersion && native.Uint64(m[metaBytes-8:]) == h.Sum64()
		if tx := native.Uint64(m[48:]); sound && (c.high == 0 || tx > newest) {
			root, c.high, newest = native.Uint64(m[16:]), native.Uint64(m[40:]), tx
		}
	}
	if c.high < 2 || c.high > uint64(bytes/pageSize) {
		return fmt.Errorf("it should have %d pages of %d bytes, and has %d bytes", c.high, pageSize, bytes)
	}
	c.seen = make([]bool, c.high)
	_, _, err := c.page(root)
	return err
}

var native = binary.NativeEndian

// page checks one page and all below it, and gives its first and last key.
func (c *pageCheck) page(id uint64) (first, last []byte, err error) {
	if id < 2 || id >= c.high {
		return nil, nil, fmt.Errorf("page %d of %d", id, c.high)
	}
	head := make([]byte, pageHeader)
	if _, err := c.r.ReadAt(head, int64(id)*c.size); err != nil {
		return nil, nil, err
	}
	more := uint64(native.Uint32(head[12:]))
	if native.Uint64(head) != id || id+more >= c.high {
		return nil, nil, fmt.Errorf("page %d says it is page %d and %d more", id, native.Uint64(head), more)
	}
	for i := id; i <= id+more; i++ {
		if c.seen[i] {
			return nil, nil, fmt.Errorf("page %d is in two places", i)
		}
		c.seen[i] = true
	}
	b := make([]byte, int64(more+1)*c.size)
	if _, err := c.r.ReadAt(b, int64(id)*c.size); err != nil {
		return nil, nil, err
	}
	first, last, err = c.elements(b)
	if err != nil {
		err = fmt.Errorf("page %d: %w", id, err)
	}
	return first, last, err
}

// elements checks a page whose bytes are b; inside a bucket's value, too.
func (c *pageCheck) elements(b []byte) (first, last []byte, err error) {
	if len(b) < pageHeader {
		return nil, nil, errShort
	}
	kind, count := native.Uint16(b[8:]), int(native.Uint16(b[10:]))
	if kind != pageBranch && kind != pageLeaf || kind == pageBranch && count == 0 || pageHeader+count*pageElement > len(b) {
		return nil, nil, fmt.Errorf("kind %d with %d elements", kind, count)
	}
	var below []byte // the last key under the element before
	for i := range count {
		e := b[pageHeader+i*pageElement:]
		var key, value []byte
		if kind == pageBranch {
			key, _, err = cut(e, native.Uint32(e), native.Uint32(e[4:]), 0)
		} else {
			key, value, err = cut(e, native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:]))
		}
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			first = key
		} else if bytes.Compare(last, key) >= 0 || below != nil && bytes.Compare(below, key) >= 0 {
			return nil, nil, fmt.Errorf("element %d is out of order", i)
		}
		last = key
		switch {
		case kind == pageBranch:
			var low []byte
			low, below, err = c.page(native.Uint64(e[8:]))
			if err == nil && low != nil && bytes.Compare(low, key) < 0 {
				err = fmt.Errorf("element %d is out of order", i)
			}
		case native.Uint32(e)&1 != 0:
			err = c.bucket(value)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if below != nil {
		last = below
	}
	return first, last, nil
}

// cut gives the key and value of an element, whose position counts from itself.
func cut(e []byte, at, key, value uint32) (k, v []byte, err error) {
	end := uint64(at) + uint64(key) + uint64(value)
	if end > uint64(len(e)) {
		return nil, nil, errShort
	}
	return e[at : at+key], e[at+key : end], nil
}

// bucket checks a bucket: its own pages, or the one within the value.
func (c *pageCheck) bucket(value []byte) error {
	if len(value) < 16 {
		return errShort
	}
	var err error
	if root := native.Uint64(value); root != 0 {
		_, _, err = c.page(root)
	} else {
		_, _, err = c.elements(value[16:])
	}
	return err
}
