package configrepo

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"github.com/go-git/go-git/v5/plumbing"
)

func receive(t testing.TB, r *Repo, pack []byte, tip string) Outcome {
	t.Helper()
	out, err := r.Receive(context.Background(), bytes.NewReader(pack), tip)
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	return out
}

// packOf is Pack into memory; nil when there is nothing to give.
func packOf(r *Repo, have string) ([]byte, error) {
	var b bytes.Buffer
	n, err := r.Pack(have, &b)
	if err == nil && n != int64(b.Len()) {
		err = fmt.Errorf("%d bytes written, %d told", b.Len(), n)
	}
	return b.Bytes(), err
}

// A host without git gets everything from a peer, then deltas, then reverts.
func TestPeersPacks(t *testing.T) {
	f := newFixture(t)
	var files []string
	for i := range 40 {
		files = append(files, "many/"+strings.Repeat("d", i+1), strings.Repeat("content ", i+1))
	}
	f.commit(f.anna, "many", files...)
	one := f.commit(f.anna, "one", "shop/production/g", "1")
	giver := f.open()
	wantAccepted(t, mustSync(t, giver), one)

	f.o.URLs = nil
	taker := f.host("taker")
	if taker.Have() != "" {
		t.Fatal(taker.Have())
	}
	all, err := packOf(giver, "")
	if err != nil {
		t.Fatal(err)
	}
	wantAccepted(t, receive(t, taker, all, one), one)
	if taker.Have() != one {
		t.Fatal(taker.Have())
	}
	if p, err := packOf(giver, one); p != nil || err != nil {
		t.Fatal("a pack for a peer that has it all")
	}
	f.commit(f.bo, "two", "shop/production/g", "2")
	f.commit(nil, "unsigned below", "shop/production/h", "2")
	f.commit(f.bo, "three", "shop/production/g", "3")
	back := f.commit(f.bo, "revert to one", "shop/production/g", "1", "shop/production/h", "-")
	wantAccepted(t, mustSync(t, giver), back)
	delta, err := packOf(giver, one)
	if err != nil {
		t.Fatal(err)
	}
	if len(delta) > 4000 || len(delta) > len(all) {
		t.Fatalf("delta of %d bytes, everything %d", len(delta), len(all))
	}
	out := receive(t, taker, delta, back)
	wantAccepted(t, out, back)
	if !out.Moved || out.Fetched != int64(len(delta)) {
		t.Fatalf("%+v", out)
	}
	// Every tree on the way is there, so that it can build on any of them.
	for id := back; id != f.intro; {
		tree, err := taker.Tree(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				_, err = fs.ReadFile(tree, p)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		c, err := taker.Commit(id)
		if err != nil {
			t.Fatal(err)
		}
		id = c.Parents[0]
	}
	if again := receive(t, taker, delta, back); again.Moved || again.Accepted.ID != back {
		t.Fatalf("%+v", again)
	}
}

// A tree that goes and comes back, as by a revert, is listed with all its parts
// in whatever order the commits stand in a map: packs lacked folders that had
// never changed.
func TestARevertedTreeIsListedWhole(t *testing.T) {
	f := newFixture(t)
	back := f.revert()
	o := openObjects(f.src, true)
	defer o.Close()
	for _, have := range []string{"", f.intro} {
		for range 64 {
			wantListed(t, o, have, back)
		}
	}
}

// Histories with merges in which the same few trees and files come again and again.
func TestWhatIsListedIsAllThatIsNew(t *testing.T) {
	f := newFixture(t)
	r := rand.New(rand.NewPCG(1, 2))
	contents := []string{"-", "1", "2"}
	o := openObjects(f.src, false)
	defer o.Close()
	for range 10 {
		line := []string{f.intro}
		for range 12 {
			c := sign.Change{Aside: true, Files: map[string][]byte{}, Modes: map[string]fs.FileMode{}, Parents: []string{line[max(0, len(line)-1-r.IntN(3))]}}
			if other := line[r.IntN(len(line))]; r.IntN(3) == 0 && other != c.Parents[0] {
				c.Parents = append(c.Parents, other)
			}
			for _, path := range []string{"a/x/f", "a/y/f", "a/y/g", "b/f", "b/g"} {
				if r.IntN(2) == 0 {
					maps.Copy(c.Files, pairs([]string{path, contents[r.IntN(len(contents))]}))
				}
			}
			switch r.IntN(4) { // a submodule may have any id, also that of a file which comes later
			case 0:
				c.Files["b/s"], c.Modes["b/s"] = []byte(plumbing.ComputeHash(plumbing.BlobObject, []byte("file")).String()), fs.ModeIrregular
			case 1:
				c.Files["b/s"] = []byte("file")
			}
			line = append(line, f.change(c))
		}
		tip := line[len(line)-1]
		wantListed(t, o, "", tip)
		wantListed(t, o, line[r.IntN(len(line)-1)], tip)
	}
}

// revert commits a folder, a change beside it and the way back.
func (f *fixture) revert() (tip string) {
	f.t.Helper()
	f.commit(f.anna, "one", "shop/kept/.gitkeep", "", "shop/g", "1")
	f.commit(f.anna, "two", "shop/g", "2")
	return f.commit(f.anna, "revert to one", "shop/g", "1")
}

// wantListed compares what is listed with what a plain walk finds.
func wantListed(t testing.TB, o *objects, have, tip string) {
	t.Helper()
	var haves []plumbing.Hash
	had, got := map[plumbing.Hash]bool{}, map[plumbing.Hash]bool{}
	if have != "" {
		haves = []plumbing.Hash{plumbing.NewHash(have)}
		had = everything(t, o, haves[0])
	}
	if err := newObjects(o, newGraph(), haves, plumbing.NewHash(tip), 1<<20, func(id plumbing.Hash, _ plumbing.ObjectType) error {
		if got[id] {
			t.Errorf("%s is listed twice", id)
		}
		got[id] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for id := range everything(t, o, plumbing.NewHash(tip)) {
		if !got[id] && !had[id] {
			t.Fatalf("from %q to %s: %s is not listed", have, tip, id)
		}
	}
}

// everything finds all that is reachable from a commit, and fails where something is not there.
func everything(t testing.TB, o *objects, tip plumbing.Hash) map[plumbing.Hash]bool {
	t.Helper()
	all := map[plumbing.Hash]bool{}
	var tree func(id plumbing.Hash)
	tree = func(id plumbing.Hash) {
		if all[id] {
			return
		}
		all[id] = true
		entries, err := o.tree(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch {
			case isSubmodule(e):
			case e.isTree():
				tree(e.id)
			case !o.has(e.id):
				t.Fatalf("%s, file %s, is not there", e.id, e.name)
			default:
				all[e.id] = true
			}
		}
	}
	for queue := []plumbing.Hash{tip}; len(queue) > 0; queue = queue[1:] {
		c, err := o.commit(queue[0])
		if err != nil {
			t.Fatal(err)
		}
		if !all[c.id] {
			all[c.id] = true
			tree(c.tree)
			queue = append(queue, c.parents...)
		}
	}
	return all
}

// The look before the ratchet moves walks the same way: nothing may be missing
// from a pack, whichever object it is.
func TestAPackThatLacksAnyOneObjectIsRefused(t *testing.T) {
	f := newFixture(t)
	giver := f.open()
	wantAccepted(t, mustSync(t, giver), f.intro)
	f.o.URLs = nil
	taker := f.host("taker")
	all, err := packOf(giver, "")
	if err != nil {
		t.Fatal(err)
	}
	wantAccepted(t, receive(t, taker, all, f.intro), f.intro)
	back := f.revert()
	o := openObjects(f.src, true)
	defer o.Close()
	fresh := everything(t, o, plumbing.NewHash(back))
	for id := range everything(t, o, plumbing.NewHash(f.intro)) {
		delete(fresh, id)
	}
	ids := slices.Collect(maps.Keys(fresh))
	for range 8 {
		for i, id := range ids {
			var pack bytes.Buffer
			if err := encodePack(o, slices.Delete(slices.Clone(ids), i, i+1), Limits{}.withDefaults(), &pack); err != nil {
				t.Fatal(err)
			}
			if out, err := taker.Receive(context.Background(), &pack, back); err == nil || out.Moved {
				t.Fatalf("accepted without %s", id)
			}
		}
	}
}

func TestHostilePeers(t *testing.T) {
	for _, child := range [][]string{nil, testChild()} {
		f := newFixture(t)
		giver := f.open()
		wantAccepted(t, mustSync(t, giver), f.intro)
		f.o.URLs, f.o.Child = nil, child
		f.o.Limits.ObjectBytes = 1 << 20
		taker := f.host("taker")
		all, err := packOf(giver, "")
		if err != nil {
			t.Fatal(err)
		}
		wantAccepted(t, receive(t, taker, all, f.intro), f.intro)
		f.commit(f.bo, "two", "a", "2")
		three := f.commit(f.bo, "three", "a", "3")
		wantAccepted(t, mustSync(t, giver), three)
		good, err := packOf(giver, f.intro)
		if err != nil {
			t.Fatal(err)
		}
		o := openObjects(f.src, false)
		only := new(bytes.Buffer)
		// A pack that has the tip but not what is below it.
		if err := writeOnly(o, only, three); err != nil {
			t.Fatal(err)
		}
		o.Close()
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1
		for name, pack := range map[string][]byte{
			"nothing":          nil,
			"truncated":        good[:len(good)-30],
			"without checksum": good[:len(good)-20],
			"bit flipped":      flipped,
			"no pack":          []byte("<html>hello</html> and more text that is no pack at all"),
			"object bomb":      header(0xEE000000),
			"count too high":   sealed(header(3)),
			"size bomb":        sealed(append(header(1), entryHeader(3, 1<<40)...)),
			"inflation bomb":   sealed(append(append(header(1), entryHeader(3, 4<<20)...), deflated(make([]byte, 4<<20))...)),
			"longer than said": sealed(append(append(header(1), entryHeader(3, 5)...), deflated(make([]byte, 900))...)),
			"delta bomb":       sealed(deltaBomb()),
			"delta on nothing": sealed(append(append(append(header(1), entryHeader(7, 4)...), make([]byte, 20)...), deflated([]byte{1, 1, 0x90, 1})...)),
			"incomplete":       only.Bytes(),
		} {
			out, err := taker.Receive(context.Background(), bytes.NewReader(pack), three)
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, %+v", name, err, out)
			}
			if c, _ := taker.Accepted(); c.ID != f.intro {
				t.Fatalf("%s: accepted %s", name, c.ID)
			}
			if left, _ := filepath.Glob(filepath.Join(packDir(taker.mirrorDir()), "*")); len(left) != 2 {
				t.Errorf("%s: left %q", name, left)
			}
		}
		if _, err := taker.Receive(context.Background(), bytes.NewReader(good), "not an id"); err == nil {
			t.Error("a tip that is no id")
		}
		f.commit(nil, "unsigned", "a", "4")
		evil := new(bytes.Buffer)
		src := openObjects(f.src, false)
		tip, _ := f.git.Tip()
		h, _ := parseID(tip)
		base, _ := parseIDs([]string{f.intro})
		if err := writePack(src, newGraph(), base, h, Limits{}.withDefaults(), evil); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, receive(t, taker, evil.Bytes(), tip), ReasonUnsigned, three)
		wantAccepted(t, receive(t, taker, good, three), three)
	}
}

func TestALostMirrorIsFilledByAPeer(t *testing.T) {
	f := newFixture(t)
	giver := f.open()
	wantAccepted(t, mustSync(t, giver), f.intro)
	f.o.URLs = nil
	taker := f.host("taker")
	all, _ := packOf(giver, taker.Have())
	wantAccepted(t, receive(t, taker, all, f.intro), f.intro)
	next := f.commit(f.anna, "next", "a", "1")
	wantAccepted(t, mustSync(t, giver), next)
	if err := os.RemoveAll(taker.mirrorDir()); err != nil {
		t.Fatal(err)
	}
	if _, err := taker.Tree(f.intro); err == nil {
		t.Fatal("read from nothing")
	}
	if have := taker.Have(); have != "" {
		t.Fatalf("have %s", have)
	}
	pack, err := packOf(giver, "")
	if err != nil {
		t.Fatal(err)
	}
	wantAccepted(t, receive(t, taker, pack, next), next)
	if _, err := taker.Tree(f.intro); err != nil {
		t.Fatal(err)
	}
}

func writeOnly(o *objects, w *bytes.Buffer, id string) error {
	h, err := parseID(id)
	if err != nil {
		return err
	}
	raw, err := o.commit(h)
	if err != nil {
		return err
	}
	w.Write(sealed(append(append(header(1), entryHeader(1, int64(len(raw.raw)))...), deflated(raw.raw)...)))
	return nil
}

func header(objects uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), objects)
}

func sealed(pack []byte) []byte {
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

func entryHeader(kind byte, size int64) []byte {
	b := kind<<4 | byte(size&15)
	size >>= 4
	var out []byte
	for size > 0 {
		out = append(out, b|0x80)
		b = byte(size & 0x7f)
		size >>= 7
	}
	return append(out, b)
}

func deflated(data []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// deltaBomb is a small blob and a delta that copies it into a terabyte.
func deltaBomb() []byte {
	p := append(append(header(2), entryHeader(3, 4)...), deflated([]byte("base"))...)
	at := len(p)
	delta := binary.AppendUvarint([]byte{4}, 1<<40)
	delta = append(delta, 0x90, 4)
	p = append(p, entryHeader(6, int64(len(delta)))...)
	p = append(p, byte(at-12))
	return append(p, deflated(delta)...)
}

func FuzzReceive(f *testing.F) {
	fx := newFixture(f)
	giver := fx.open()
	mustSync(f, giver)
	all, err := packOf(giver, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(all)
	f.Add(header(0xEE000000))
	f.Add(sealed(deltaBomb()))
	f.Add(all[:len(all)/2])
	dir := f.TempDir()
	if err := initMirror(dir, "main"); err != nil {
		f.Fatal(err)
	}
	l := Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, InflateBytes: 4 << 20, PackObjects: 1000}.withDefaults()
	f.Fuzz(func(t *testing.T, pack []byte) {
		got, err := ingest(context.Background(), dir, l, func(w io.Writer) error {
			_, err := w.Write(pack)
			return err
		})
		if err != nil && got.Name != "" {
			t.Fatal("a refused pack was kept")
		}
		removePack(dir, got.Name)
		if left, _ := os.ReadDir(packDir(dir)); len(left) != 0 {
			t.Fatalf("left %v", left)
		}
	})
}
