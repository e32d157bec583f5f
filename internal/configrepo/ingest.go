package configrepo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// A pack is taken in four steps, each of which may refuse it: it travels into a
// temporary file under a budget of bytes, its header having been checked before
// anything else; one pass reads every entry's sizes against the limits; only
// then does go-git build the index; then index and pack are synced and renamed.

const incomingPrefix = "incoming-"

// ingested says what became of a pack.
type ingested struct {
	Name  string // file name without extension; "" if nothing new came
	Bytes int64
}

// ingest lets fill write a pack and adds it to the mirror in dir.
func ingest(ctx context.Context, dir string, l Limits, fill func(io.Writer) error) (got ingested, err error) {
	packs := packDir(dir)
	f, err := os.CreateTemp(packs, incomingPrefix+"*")
	if err != nil {
		return got, err
	}
	defer func() {
		f.Close()
		if err != nil || got.Name == "" {
			os.Remove(f.Name())
		}
	}()
	b := &budget{w: f, limits: l}
	if err := fill(b); err != nil {
		return got, err
	}
	if err := ctx.Err(); err != nil {
		return got, err
	}
	got.Bytes = b.n
	if b.n == 0 || b.n >= 12 && b.objects() == 0 {
		return got, nil
	}
	if b.n < 32 {
		return got, errors.New("the pack is truncated")
	}
	if err := inspect(ctx, f, l); err != nil {
		return got, err
	}
	name, index, err := buildIndex(ctx, f)
	if err != nil {
		return got, err
	}
	if _, err := os.Lstat(filepath.Join(packs, name+".pack")); err == nil {
		return got, nil
	}
	if err := f.Sync(); err != nil {
		return got, err
	}
	if err := f.Chmod(0o444); err != nil {
		return got, err
	}
	// The index first: a pack without one makes go-git refuse the directory.
	if err := durable.WriteFile(filepath.Join(packs, name+".idx"), index, 0o444); err != nil {
		return got, err
	}
	if err := durable.Rename(f.Name(), filepath.Join(packs, name+".pack")); err != nil {
		return got, err
	}
	got.Name = name
	return got, nil
}

func packDir(dir string) string { return filepath.Join(dir, "objects", "pack") }

// removePack takes back a pack that served nothing.
func removePack(dir, name string) {
	if name == "" {
		return
	}
	os.Remove(filepath.Join(packDir(dir), name+".pack"))
	os.Remove(filepath.Join(packDir(dir), name+".idx"))
}

// budget counts bytes and judges the header as soon as it is there.
type budget struct {
	w      io.Writer
	limits Limits
	n      int64
	head   []byte
}

func (b *budget) objects() uint32 { return binary.BigEndian.Uint32(b.head[8:12]) }

func (b *budget) Write(p []byte) (int, error) {
	if b.n+int64(len(p)) > b.limits.PackBytes {
		return 0, permanent("the pack is longer than the %d bytes allowed", b.limits.PackBytes)
	}
	if missing := 12 - len(b.head); missing > 0 {
		b.head = append(b.head, p[:min(missing, len(p))]...)
		if len(b.head) == 12 {
			if !bytes.Equal(b.head[:8], []byte("PACK\x00\x00\x00\x02")) {
				return 0, errors.New("this is not a pack of version 2")
			}
			if n := b.objects(); int64(n) > b.limits.PackObjects {
				return 0, permanent("the pack claims %d objects, more than the %d allowed", n, b.limits.PackObjects)
			}
		}
	}
	n, err := b.w.Write(p)
	b.n += int64(n)
	return n, err
}

// inspect reads all entries once and holds their sizes against the limits; for
// deltas also the size of what they produce, which their header states.
func inspect(ctx context.Context, f *os.File, l Limits) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s := packfile.NewScanner(&ctxReader{ctx: ctx, f: f})
	_, count, err := s.Header()
	if err != nil {
		return packError(err)
	}
	var total int64
	for range count {
		h, err := s.NextObjectHeader()
		if err != nil {
			return packError(err)
		}
		if h.Length > l.ObjectBytes {
			return permanent("the pack holds an object of %d bytes, more than the %d allowed", h.Length, l.ObjectBytes)
		}
		var head prefix
		n, _, err := s.NextObject(&head)
		if err != nil {
			return packError(err)
		}
		if n != h.Length {
			return errors.New("the pack is malformed: an object is shorter than its header says")
		}
		if h.Type.IsDelta() {
			if n, err = deltaResult(head.data); err != nil {
				return err
			}
			if n > l.ObjectBytes {
				return permanent("the pack holds a delta to %d bytes, more than the %d allowed", n, l.ObjectBytes)
			}
		}
		if total += n; total > l.InflateBytes {
			return permanent("the pack inflates to more than the %d bytes allowed", l.InflateBytes)
		}
	}
	return nil
}

// prefix keeps the first bytes written to it.
type prefix struct{ data []byte }

func (p *prefix) Write(b []byte) (int, error) {
	if room := 20 - len(p.data); room > 0 {
		p.data = append(p.data, b[:min(room, len(b))]...)
	}
	return len(b), nil
}

// deltaResult reads the second of the two sizes that begin a delta.
func deltaResult(head []byte) (int64, error) {
	_, n := binary.Uvarint(head)
	if n > 0 {
		if v, m := binary.Uvarint(head[n:]); m > 0 && v < 1<<62 {
			return int64(v), nil
		}
	}
	return 0, errors.New("the pack is malformed: a delta without sizes")
}

// buildIndex lets go-git resolve and hash every object. Deltas against objects
// that are not in the pack are refused there.
func buildIndex(ctx context.Context, f *os.File) (name string, index []byte, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", nil, err
	}
	w := new(idxfile.Writer)
	parser, err := packfile.NewParser(packfile.NewScanner(&ctxReader{ctx: ctx, f: f}), w)
	if err != nil {
		return "", nil, err
	}
	sum, err := parser.Parse()
	if err != nil {
		return "", nil, packError(err)
	}
	idx, err := w.Index()
	if err != nil {
		return "", nil, err
	}
	var out bytes.Buffer
	if _, err := idxfile.NewEncoder(&out).Encode(idx); err != nil {
		return "", nil, err
	}
	return "pack-" + sum.String(), out.Bytes(), nil
}

func packError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the pack is truncated")
	}
	if errors.Is(err, plumbing.ErrObjectNotFound) || errors.Is(err, packfile.ErrReferenceDeltaNotFound) {
		return errors.New("the pack is malformed: a delta against an object it does not hold")
	}
	return fmt.Errorf("the pack is malformed: %s", strings.TrimPrefix(err.Error(), "malformed PACK file: "))
}

// ctxReader makes long passes over a file end with their context.
type ctxReader struct {
	ctx context.Context
	f   *os.File
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}

func (r *ctxReader) Seek(offset int64, whence int) (int64, error) { return r.f.Seek(offset, whence) }
