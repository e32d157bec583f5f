package configrepo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"

	"github.com/go-git/go-git/v5/plumbing"
)

// packer builds a pack entry by entry.
type packer struct {
	buf  bytes.Buffer
	n    uint32
	last int // where the last entry begins, or another that deltas stand on
}

func newPacker() *packer {
	p := &packer{}
	p.buf.Write(header(0))
	return p
}

// object adds an object as it is.
func (p *packer) object(t plumbing.ObjectType, data []byte) plumbing.Hash {
	p.last = p.buf.Len()
	p.n++
	p.buf.Write(entryHeader(byte(t), int64(len(data))))
	p.buf.Write(deflated(data))
	return plumbing.ComputeHash(t, data)
}

// delta adds instructions against the last entry.
func (p *packer) delta(data []byte) {
	at := p.buf.Len()
	p.sibling(data)
	p.last = at
}

// sibling is delta, and lets the next one stand on the same entry.
func (p *packer) sibling(data []byte) {
	back := p.buf.Len() - p.last
	p.n++
	p.buf.Write(entryHeader(6, int64(len(data))))
	off := []byte{byte(back & 0x7f)}
	for back >>= 7; back > 0; back >>= 7 {
		back--
		off = append([]byte{0x80 | byte(back&0x7f)}, off...)
	}
	p.buf.Write(off)
	p.buf.Write(deflated(data))
}

func (p *packer) sealed() []byte {
	data := bytes.Clone(p.buf.Bytes())
	binary.BigEndian.PutUint32(data[8:], p.n)
	return sealed(data)
}

func commitText(tree plumbing.Hash, message string, parents ...plumbing.Hash) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "tree %s\n", tree)
	for _, p := range parents {
		fmt.Fprintf(&b, "parent %s\n", p)
	}
	fmt.Fprintf(&b, "author M <m@x> 1700000000 +0000\ncommitter M <m@x> 1700000000 +0000\n\n%s", message)
	return []byte(b.String())
}

// signedText is a commit that somebody signed.
func signedText(t testing.TB, by *sign.Key, tree plumbing.Hash, message string, parents ...plumbing.Hash) []byte {
	t.Helper()
	text := commitText(tree, message, parents...)
	signature, err := by.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(text), "\n\n")
	return []byte(head + "\ngpgsig " + strings.ReplaceAll(strings.TrimSuffix(string(signature), "\n"), "\n", "\n ") + "\n\n" + body)
}

// line is one of a tree.
func line(mode, name string, id plumbing.Hash) []byte {
	return append([]byte(mode+" "+name+"\x00"), id[:]...)
}

// hostileStart is a host that stands at the introduction, with the ids of that and its tree.
func hostileStart(t testing.TB) (f *fixture, intro, tree plumbing.Hash) {
	t.Helper()
	f = newFixture(t)
	f.o.Child = testChild()
	r := f.open()
	mustSync(t, r)
	id, err := parseID(f.intro)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.reader().commit(id)
	if err != nil {
		t.Fatal(err)
	}
	return f, id, c.tree
}

// Whoever may push, and every mirror and peer, can put commits on top of what is
// accepted; who may sign only some of it, folders. None of it may cost the memory
// of the agent, which is the host's.
func TestMemoryDoesNotFollowHostileHistories(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's own memory would be measured")
	}
	for name, attack := range map[string]struct {
		most int64 // KiB
		make func(f *fixture, p *packer, intro, tree plumbing.Hash) (tip plumbing.Hash)
		says string
	}{
		"unsigned commits with long messages": {agentPeak, func(f *fixture, p *packer, intro, tree plumbing.Hash) plumbing.Hash {
			at, message := intro, strings.Repeat("a", 1<<20-1000)
			for range 200 {
				at = p.object(plumbing.CommitObject, commitText(tree, message, at))
			}
			return at
		}, "not signed"},
		"unsigned commits with many parents": {192 << 10, func(f *fixture, p *packer, intro, tree plumbing.Hash) plumbing.Hash {
			side := make([]plumbing.Hash, 0, 1000)
			for i := range cap(side) {
				side = append(side, p.object(plumbing.CommitObject, commitText(tree, fmt.Sprint(i), intro)))
			}
			first := p.object(plumbing.CommitObject, commitText(tree, "first", append([]plumbing.Hash{intro}, side...)...))
			text := commitText(tree, "first", append([]plumbing.Hash{intro}, side...)...)
			at := first
			const from = 5 + 40 + 1 + 7 // of the first parent
			for range 2500 {
				p.sibling(slices.Concat(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(text))), uint64(len(text))),
					[]byte{0x90, from, 40}, []byte(at.String()), copyFrom(from+40, len(text)-from-40)))
				copy(text[from:], at.String())
				at = plumbing.ComputeHash(plumbing.CommitObject, text)
			}
			return at
		}, "not signed"},
		"paths with long names": {256 << 10, func(f *fixture, p *packer, intro, tree plumbing.Hash) plumbing.Hash {
			blob := p.object(plumbing.BlobObject, []byte("x"))
			var files []byte
			for i := range 1000 {
				files = append(files, line("100644", fmt.Sprintf("%04d", i), blob)...)
			}
			folder := p.object(plumbing.TreeObject, files)
			root := p.object(plumbing.TreeObject, line("40000", strings.Repeat("a", 1<<20), folder))
			return p.object(plumbing.CommitObject, signedText(f.t, f.ci, root, "x", intro))
		}, "paths changed at once have more than"},
		"large folders in one another": {512 << 10, func(f *fixture, p *packer, intro, tree plumbing.Hash) plumbing.Hash {
			blob := p.object(plumbing.BlobObject, []byte("x"))
			files := line("40000", "!", emptyTree)
			head := len(files)
			for i := range 150_000 {
				files = append(files, line("100644", fmt.Sprintf("%06d", i), blob)...)
			}
			folder := p.object(plumbing.TreeObject, files)
			for range 40 {
				p.delta(slices.Concat(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(files))), uint64(len(files))),
					[]byte{byte(head)}, line("40000", "!", folder), copyFrom(head, len(files)-head)))
				copy(files, line("40000", "!", folder))
				folder = plumbing.ComputeHash(plumbing.TreeObject, files)
			}
			return p.object(plumbing.CommitObject, signedText(f.t, f.ci, folder, "x", intro))
		}, "lie in one another"},
	} {
		t.Run(name, func(t *testing.T) {
			f, intro, tree := hostileStart(t)
			p := newPacker()
			tip := attack.make(f, p, intro, tree)
			pack := p.sealed()
			if err := os.WriteFile(f.src+".pack", pack, 0o600); err != nil {
				t.Fatal(err)
			}
			peak, said := f.refusalOf(tip.String())
			t.Logf("%d KiB of pack, %d KiB resident: %s", len(pack)>>10, peak, said)
			if !strings.Contains(said, attack.says) {
				t.Errorf("it said %q, not %q", said, attack.says)
			}
			if peak > attack.most {
				t.Errorf("the agent took %d KiB, more than %d", peak, attack.most)
			}
		})
	}
}

// copyFrom is a delta's instruction to copy from its base.
func copyFrom(at, size int) []byte {
	return []byte{0xff, byte(at), byte(at >> 8), byte(at >> 16), byte(at >> 24), byte(size), byte(size >> 8), byte(size >> 16)}
}

// A name that a tree gives to a folder as if it were a file must not hide the folder
// from those who look whether all is there.
func TestAFolderThatIsNamedAsAFileToo(t *testing.T) {
	f, intro, _ := hostileStart(t)
	r := f.open()
	p := newPacker()
	lost := plumbing.ComputeHash(plumbing.BlobObject, []byte("nobody has it"))
	folder := p.object(plumbing.TreeObject, line("100644", "f", lost))
	c, err := r.reader().commit(intro)
	if err != nil {
		t.Fatal(err)
	}
	was, err := r.reader().tree(c.tree)
	if err != nil {
		t.Fatal(err)
	}
	root := line("100644", "a", folder)
	for _, e := range was {
		root = append(root, line("100644", e.name, e.id)...)
	}
	root = append(root, line("40000", "z", folder)...)
	tip := p.object(plumbing.CommitObject, signedText(t, f.anna, p.object(plumbing.TreeObject, root), "x", intro))
	out, err := r.Receive(context.Background(), bytes.NewReader(p.sealed()), tip.String())
	if err == nil || out.Moved {
		t.Fatalf("accepted %s without all of its files", out.Accepted.ID)
	}
	if c, _ := r.Accepted(); c.ID != f.intro {
		t.Fatalf("accepted %s", c.ID)
	}
}
