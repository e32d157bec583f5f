package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// findIndex returns the piece index: from this disk, from a peer, or from the origin, which one host reads for all. Where git pins the index, nothing else is
// accepted; otherwise the final digest judges it.
func (x *exchange) findIndex(ctx context.Context) (*bundle.Index, error) {
	if p, ok := x.s.o.Store.Partial(x.digest); ok && p.Index() != nil && x.pinned(p.Index()) {
		return p.Index(), nil
	}
	begin := time.Now()
	rest := originPause
	for {
		changed := x.changed.wait()
		if index := x.indexFromPeers(ctx); index != nil {
			return index, nil
		}
		index, err := x.indexFromOrigin(ctx)
		if index != nil {
			return index, nil
		}
		x.mu.Lock()
		if err != nil {
			x.why = err.Error()
			rest = min(2*rest, originRestMax)
		}
		why := x.sentence()
		x.mu.Unlock()
		if time.Since(begin) > stallMax {
			return nil, fmt.Errorf("cannot fetch bundle %s yet: no host has its index: %s", x.digest.Short(), why)
		}
		x.followMembers(ctx)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot fetch bundle %s: %w", x.digest.Short(), ctx.Err())
		case <-changed:
		case <-time.After(rest):
		}
	}
}

// pinned says whether an index is the one git pins, or git pins none.
func (x *exchange) pinned(index *bundle.Index) bool {
	return x.job.IndexDigest == "" || index.Digest() == x.job.IndexDigest
}

// indexFromPeers asks every peer that said anything.
func (x *exchange) indexFromPeers(ctx context.Context) *bundle.Index {
	x.mu.Lock()
	var hosts []string
	for host, p := range x.peers {
		if len(p.have) > 0 && x.suspects[host] == "" {
			hosts = append(hosts, host)
		}
	}
	x.mu.Unlock()
	for _, host := range hosts {
		index, err := x.indexFrom(ctx, host)
		switch {
		case err != nil:
			continue
		case !x.pinned(index):
			x.suspect(host, fmt.Sprintf("the index it sent is %s, the commit pins %s", index.Digest().Short(), x.job.IndexDigest.Short()))
			continue
		}
		x.mu.Lock()
		x.provider = host
		x.mu.Unlock()
		return index
	}
	return nil
}

// indexFrom asks one peer.
func (x *exchange) indexFrom(ctx context.Context, host string) (*bundle.Index, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	resp, err := x.get(ctx, host, "index")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, bundle.MaxIndexBytes+1))
	if err != nil {
		return nil, err
	}
	return bundle.DecodeIndex(data)
}

// indexFromOrigin reads the index, or without one the whole archive, if the dealer says that this host may. It returns nil without an error while another host does.
func (x *exchange) indexFromOrigin(ctx context.Context) (*bundle.Index, error) {
	x.mu.Lock()
	early := time.Since(x.started) < hearFirst && !x.heardAll()
	x.mu.Unlock()
	if x.job.Origin == nil || early {
		return nil, nil
	}
	seconds := int64(0)
	if x.job.IndexDigest == "" {
		seconds = x.job.Ref.Size / archiveLeaseBy
	}
	answer, err := x.askLease(ctx, leaseRequest{Index: true, Rate: seconds})
	if err != nil || !answer.Index {
		return nil, err
	}
	if x.job.IndexDigest == "" {
		return x.scout(ctx)
	}
	data, err := x.job.Origin.ReadIndex(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the index of %s: %w", x.job.Where, err)
	}
	index, err := bundle.DecodeIndex(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the index of %s: %w", x.job.Where, err)
	}
	if !x.pinned(index) {
		return nil, fmt.Errorf("cannot use the index of %s: its digest is %s, the commit pins %s", x.job.Where, index.Digest(), x.job.IndexDigest)
	}
	return index, nil
}

// scout reads a whole archive that has no pinned index, once for the fleet: it hashes the pieces and gives the others the index, and its copy is the one copy that
// leaves the origin.
func (x *exchange) scout(ctx context.Context) (*bundle.Index, error) {
	size := x.job.Ref.Size
	if size <= 0 {
		var err error
		if size, err = x.job.Origin.Size(ctx); err != nil {
			return nil, fmt.Errorf("cannot learn the size of %s: %w", x.job.Where, err)
		}
	}
	if size <= 0 || size > bundle.MaxArchiveBytes {
		return nil, fmt.Errorf("cannot fetch %s: its size of %d bytes is out of bounds", x.job.Where, size)
	}
	if err := os.MkdirAll(x.s.o.Scratch, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a place for %s: %w", x.job.Where, err)
	}
	file, err := os.CreateTemp(x.s.o.Scratch, "archive-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a place for %s: %w", x.job.Where, err)
	}
	defer func() { file.Close(); os.Remove(file.Name()) }()
	index, err := x.copyArchive(ctx, file, size)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", x.job.Where, err)
	}
	return index, x.fillFrom(ctx, file, index)
}

// copyArchive copies the archive to a file and makes its index.
func (x *exchange) copyArchive(ctx context.Context, file *os.File, size int64) (*bundle.Index, error) {
	body, err := x.job.Origin.ReadRange(ctx, 0, size)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	index, err := bundle.IndexOf(io.TeeReader(&originReader{x: x, ctx: ctx, r: io.LimitReader(body, size)}, file), bundle.PieceSizeFor(size))
	if err != nil {
		return nil, err
	}
	if index.ArchiveSize() != size {
		return nil, io.ErrUnexpectedEOF
	}
	if got := index.PayloadDigest(); got != x.digest {
		return nil, fmt.Errorf("its bytes have digest %s, the commit pins %s", got, x.digest)
	}
	return index, nil
}

// fillFrom writes every piece of a file that is the archive.
func (x *exchange) fillFrom(ctx context.Context, file *os.File, index *bundle.Index) error {
	ref := x.job.Ref
	ref.Size, ref.Index = index.ArchiveSize(), index
	partial, err := x.s.o.Store.Begin(ref)
	if err != nil {
		return err
	}
	if err := partial.SetIndex(index); err != nil {
		return err
	}
	for i := range index.Len() {
		piece := index.Piece(i)
		data := make([]byte, piece.Size)
		if _, err := file.ReadAt(data, piece.Offset); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := partial.Write(i, data); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// originReader counts and throttles what a scout reads.
type originReader struct {
	x   *exchange
	ctx context.Context
	r   io.Reader
}

func (o *originReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p[:min(len(p), rateBurst)])
	if n > 0 {
		if take(o.ctx, o.x.s.down, n) != nil {
			return n, o.ctx.Err()
		}
		o.x.mu.Lock()
		o.x.fromOrigin += int64(n)
		o.x.lastMove = time.Now()
		o.x.mu.Unlock()
	}
	return n, err
}
