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
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// A pack is taken in four steps, each of which may refuse it: it travels into a
// temporary file under a budget of bytes, its header having been checked before
// anything else; one pass reads every entry's sizes against the limits; only then
// are deltas resolved for the index (index.go); then index and pack are synced and
// renamed.

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
	name, index, err := indexOf(ctx, f, l)
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
