package configrepo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// packEntry is what the pass over a pack tells of one entry.
type packEntry struct {
	offset int64
	length int64               // inflated; of a delta: its instructions
	kind   plumbing.ObjectType // as stored
	crc    uint32
	hash   plumbing.Hash // of a delta: zero until it is resolved
	base   int64         // offset of an ofs-delta's base
	ref    plumbing.Hash // name of a ref-delta's base
}

// survey reads all entries once, holding none, and holds their sizes against the
// limits; for deltas also the size of what they produce, which their header states.
// It returns the entries in the pack's order and the pack's checksum.
func survey(s *packfile.Scanner, l Limits) (entries []packEntry, sum plumbing.Hash, err error) {
	_, count, err := s.Header()
	if err != nil {
		return nil, sum, packError(err)
	}
	var total int64
	for range count {
		h, err := s.NextObjectHeader()
		if err != nil {
			return nil, sum, packError(err)
		}
		e := packEntry{offset: h.Offset, length: h.Length, kind: h.Type, base: h.OffsetReference, ref: h.Reference}
		if e.length > l.ObjectBytes {
			return nil, sum, tooLargeEntry(s, e, l.ObjectBytes)
		}
		if total += e.length; total > l.InflateBytes {
			return nil, sum, permanent("the pack inflates to more than the %d bytes allowed", l.InflateBytes)
		}
		var head prefix
		hasher := plumbing.NewHasher(e.kind, e.length)
		n, crc, err := s.NextObject(io.MultiWriter(&head, hasher))
		if err != nil {
			return nil, sum, packError(err)
		}
		if n != e.length {
			return nil, sum, errors.New("the pack is malformed: an object is shorter than its header says")
		}
		e.crc = crc
		if !e.kind.IsDelta() {
			e.hash = hasher.Sum()
		} else if n, err = deltaResult(head.data); err != nil {
			return nil, sum, err
		} else if n > l.ObjectBytes {
			return nil, sum, permanent("the pack holds a delta to %d bytes, more than the %d allowed", n, l.ObjectBytes)
		} else if total += n; total > l.InflateBytes {
			return nil, sum, permanent("the pack inflates to more than the %d bytes allowed", l.InflateBytes)
		}
		entries = append(entries, e)
	}
	if sum, err = s.Checksum(); err != nil {
		return nil, sum, packError(err)
	}
	return entries, sum, nil
}

// tooLargeEntry refuses an entry, by name if that can be found out at some cost.
func tooLargeEntry(s *packfile.Scanner, e packEntry, limit int64) error {
	if !e.kind.IsDelta() && e.length <= 64*limit {
		hasher := plumbing.NewHasher(e.kind, e.length)
		if n, _, err := s.NextObject(hasher); err == nil && n == e.length {
			return tooLarge(e.kind.String(), hasher.Sum(), n, limit)
		}
	}
	return permanent("the pack holds an object of %d bytes, more than the %d allowed", e.length, limit)
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

// indexOf makes the index of a pack. Only bases of deltas are read a second time:
// a large file without deltas is never held in memory. Deltas against objects that
// are not in the pack are refused.
func indexOf(ctx context.Context, f *os.File, l Limits) (name string, index []byte, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", nil, err
	}
	s := packfile.NewScanner(&ctxReader{ctx: ctx, f: f})
	entries, sum, err := survey(s, l)
	if err != nil {
		return "", nil, err
	}
	if err := resolve(s, entries, l.MemoryBytes/4); err != nil {
		return "", nil, err
	}
	w := new(idxfile.Writer)
	if err := w.OnHeader(uint32(len(entries))); err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		w.Add(e.hash, uint64(e.offset), e.crc)
	}
	if err := w.OnFooter(sum); err != nil {
		return "", nil, err
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

// resolve finds the hash of what every delta makes, from each base to all that
// stands on it. It holds the objects between a base and the delta it is at, but
// not those that nothing more stands on; together at most most bytes.
func resolve(s *packfile.Scanner, entries []packEntry, most int64) error {
	onOffset, onHash := map[int][]int{}, map[plumbing.Hash][]int{}
	waiting := 0
	for i, e := range entries {
		switch e.kind {
		case plumbing.OFSDeltaObject:
			base, ok := slices.BinarySearchFunc(entries[:i], e.base, func(e packEntry, at int64) int { return cmp.Compare(e.offset, at) })
			if !ok {
				return packError(plumbing.ErrObjectNotFound)
			}
			onOffset[base] = append(onOffset[base], i)
			waiting++
		case plumbing.REFDeltaObject:
			onHash[e.ref] = append(onHash[e.ref], i)
			waiting++
		}
	}
	r := resolver{s: s, entries: entries, most: most, waiting: waiting, on: func(i int) []int {
		list := append(onOffset[i], onHash[entries[i].hash]...)
		delete(onOffset, i)
		delete(onHash, entries[i].hash)
		return list
	}}
	for i, e := range entries {
		if !e.kind.IsDelta() {
			if err := r.from(i); err != nil {
				return err
			}
		}
	}
	if r.waiting > 0 {
		return packError(plumbing.ErrObjectNotFound)
	}
	return nil
}

// resolver walks the trees of deltas of one pack.
type resolver struct {
	s       *packfile.Scanner
	entries []packEntry
	on      func(i int) []int // deltas that stand on an entry whose hash is known; each once
	most    int64             // bytes held at a time
	waiting int               // deltas that are not resolved yet
}

// standing is an object that deltas stand on.
type standing struct {
	data []byte
	on   []int
}

// from resolves what stands on an entry that is no delta.
func (r *resolver) from(i int) error {
	first := standing{on: r.on(i)}
	if len(first.on) == 0 {
		return nil
	}
	var err error
	if first.data, err = r.read(i); err != nil {
		return err
	}
	held := int64(len(first.data))
	for stack := []standing{first}; len(stack) > 0; {
		top := &stack[len(stack)-1]
		j, base := top.on[0], top.data
		if top.on = top.on[1:]; len(top.on) == 0 {
			held -= int64(len(base))
			stack = stack[:len(stack)-1]
		}
		delta, err := r.read(j)
		if err != nil {
			return err
		}
		data, err := packfile.PatchDelta(base, delta)
		if err != nil {
			return packError(err)
		}
		r.entries[j].hash = plumbing.ComputeHash(r.entries[i].kind, data)
		r.waiting--
		if on := r.on(j); len(on) > 0 {
			if held += int64(len(data)); held > r.most {
				return permanent("the pack's deltas need more than the %d bytes allowed at a time", r.most)
			}
			stack = append(stack, standing{data: data, on: on})
		}
	}
	return nil
}

// read inflates an entry, whose size was within the limits.
func (r *resolver) read(i int) ([]byte, error) {
	e := r.entries[i]
	if _, err := r.s.SeekObjectHeader(e.offset); err != nil {
		return nil, packError(err)
	}
	buf := bytes.NewBuffer(make([]byte, 0, e.length))
	if n, _, err := r.s.NextObject(buf); err != nil || n != e.length {
		return nil, packError(errors.Join(err, fmt.Errorf("an object of %d bytes became one of %d", e.length, n)))
	}
	return buf.Bytes(), nil
}
