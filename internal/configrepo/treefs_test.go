package configrepo

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTreeGivesPacksBack reads a file of a tree, and looks what this process holds open before and after it is closed.
func TestTreeGivesPacksBack(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	mustSync(t, r)
	tree, err := r.Tree(f.intro)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := fs.ReadFile(tree, "fleet.yaml"); err != nil || string(data) != "name: test\n" {
		t.Fatalf("fleet.yaml is %q, %v", data, err)
	}
	if len(openBelow(t, f.o.Dir)) == 0 {
		t.Error("no pack is held open while files are read")
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if left := openBelow(t, f.o.Dir); len(left) > 0 {
		t.Errorf("still open: %q", left)
	}
}

// openBelow lists files in a directory that this process holds open.
func openBelow(t *testing.T, dir string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && strings.HasPrefix(at, dir+"/") && strings.HasSuffix(at, ".pack") {
			open = append(open, at)
		}
	}
	return open
}

// BenchmarkTree reads all files of a commit with 1,000 of them, as a host does with each commit.
func BenchmarkTree(b *testing.B) {
	f := newFixture(b)
	var files []string
	for i := range 1000 {
		files = append(files, fmt.Sprintf("apps/web-%d.yaml", i), fmt.Sprintf("key: %d\ntags: {role: web}\n", i))
	}
	id := f.commit(f.anna, "hosts", files...)
	r := f.open()
	if _, err := r.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		tree, err := r.Tree(id)
		if err != nil {
			b.Fatal(err)
		}
		list, err := fs.ReadDir(tree, "apps")
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range list {
			file, err := tree.Open("apps/" + e.Name())
			if err != nil {
				b.Fatal(err)
			}
			file.Close()
		}
	}
}
