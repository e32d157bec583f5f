package configrepo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// The index of a pack full of deltas is byte for byte go-git's own, whichever way
// deltas name their bases.
func TestIndexIsThatOfGoGit(t *testing.T) {
	f := newFixture(t)
	text := strings.Repeat("a line of a file that hardly changes\n", 400)
	for i := range 30 {
		f.commit(f.anna, "change", "shop/file", text+strings.Repeat(fmt.Sprintln("line", i), i), fmt.Sprint("shop/other", i), fmt.Sprint(i))
	}
	o := openObjects(f.src, true)
	defer o.Close()
	tip, err := f.git.Tip()
	if err != nil {
		t.Fatal(err)
	}
	id, err := parseID(tip)
	if err != nil {
		t.Fatal(err)
	}
	var ids []plumbing.Hash
	if err := newObjects(o, newGraph(), nil, id, 1<<20, func(id plumbing.Hash, _ plumbing.ObjectType) error {
		ids = append(ids, id)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, refs := range []bool{false, true} {
		file, err := os.Create(filepath.Join(t.TempDir(), "pack"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := packfile.NewEncoder(file, o.git, refs).Encode(ids, 10); err != nil {
			t.Fatal(err)
		}
		l := Limits{}.withDefaults()
		name, index, err := indexOf(context.Background(), file, l)
		if err != nil {
			t.Fatal(err)
		}
		want := new(idxfile.Writer)
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		parser, err := packfile.NewParser(packfile.NewScanner(file), want)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := parser.Parse()
		if err != nil {
			t.Fatal(err)
		}
		idx, err := want.Index()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := idxfile.NewEncoder(&b).Encode(idx); err != nil {
			t.Fatal(err)
		}
		if name != "pack-"+sum.String() || !bytes.Equal(index, b.Bytes()) {
			t.Errorf("ref deltas %v: another index than go-git's, of %s (%s)", refs, name, sum)
		}
		l.MemoryBytes = 4 * 1024
		if _, _, err := indexOf(context.Background(), file, l); err == nil || !isPermanent(err) || !strings.Contains(err.Error(), "need more than the 1024 bytes") {
			t.Errorf("ref deltas %v: chains of deltas are held without a bound: %v", refs, err)
		}
	}
}

// A file beyond the limit is refused by name, with what to do, whether it comes
// from git or from a peer; once it is off the branch all goes on.
func TestAFileBeyondTheLimitIsNamed(t *testing.T) {
	f := newFixture(t)
	f.o.Limits.ObjectBytes = 1 << 20
	f.o.Child = testChild()
	giver := f.open()
	wantAccepted(t, mustSync(t, giver), f.intro)
	film := make([]byte, 2<<20)
	tip := f.commit(f.anna, "a film by mistake", "film.bin", string(film))
	blob := plumbing.ComputeHash(plumbing.BlobObject, film).String()
	says := func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "blob "+blob+" has 2097152 bytes") && strings.Contains(err.Error(), "--find-object="+blob[:10])
	}
	if _, err := giver.Sync(context.Background()); !says(err) {
		t.Errorf("from git: %v", err)
	}
	pack := sealed(append(append(header(1), entryHeader(3, int64(len(film)))...), deflated(film)...))
	if _, err := giver.Receive(context.Background(), bytes.NewReader(pack), tip); !says(err) {
		t.Errorf("from a peer: %v", err)
	}
}
