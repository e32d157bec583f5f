package configrepo

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"github.com/go-git/go-git/v5/plumbing"
)

func TestSyncFollowsTheBranch(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	if _, ok := r.Accepted(); ok {
		t.Fatal("something is accepted before the first sync")
	}
	out := mustSync(t, r)
	wantAccepted(t, out, f.intro)
	if !out.Moved || out.Mirror != f.src {
		t.Fatalf("%+v", out)
	}
	c2 := f.commit(f.bo, "second", "shop/production/website/group.yaml", "id: 1\n")
	out = mustSync(t, r)
	wantAccepted(t, out, c2)
	if !out.Moved || !slices.Equal(out.Accepted.Signers, []string{"bo"}) || out.Accepted.Subject != "second" {
		t.Fatalf("%+v", out.Accepted)
	}
	if out = mustSync(t, r); out.Moved || out.Fetched != 0 || out.Accepted.ID != c2 {
		t.Fatalf("an idle poll: %+v", out)
	}
	paths, err := r.DiffPaths(f.intro, c2)
	if err != nil || !slices.Equal(paths, []string{"shop/production/website/group.yaml"}) {
		t.Fatalf("paths %q, %v", paths, err)
	}
	list, err := r.Log(10)
	if err != nil || len(list) != 2 || list[1].ID != f.intro || !slices.Equal(list[1].Signers, []string{"anna"}) {
		t.Fatalf("log %+v, %v", list, err)
	}
	if on, err := r.IsAncestor(f.intro, c2); err != nil || !on {
		t.Fatal(on, err)
	}
	if on, err := r.IsAncestor(c2, f.intro); err != nil || on {
		t.Fatal(on, err)
	}
	again := f.open()
	if c, ok := again.Accepted(); !ok || c.ID != c2 || !slices.Equal(c.Signers, []string{"bo"}) {
		t.Fatalf("after a restart: %+v", c)
	}
	wantAccepted(t, mustSync(t, again), c2)
}

func TestTreeIsAFileSystem(t *testing.T) {
	f := newFixture(t)
	id := f.change(sign.Change{Signer: f.anna, Message: "odd entries",
		Files: map[string][]byte{"a/b/run.sh": []byte("#!/bin/sh\n"), "a/con": []byte("x"), "git~1": []byte("y"), "tab\there": []byte("z"),
			"a/link": []byte("/etc/passwd"), "sub": []byte(f.intro)},
		Modes: map[string]fs.FileMode{"a/b/run.sh": 0o755, "a/link": fs.ModeSymlink, "sub": fs.ModeIrregular}})
	r := f.open()
	wantAccepted(t, mustSync(t, r), id)
	tree, err := r.Tree(id)
	if err != nil {
		t.Fatal(err)
	}
	data, err := fs.ReadFile(tree, "a/b/run.sh")
	if err != nil || string(data) != "#!/bin/sh\n" {
		t.Fatal(string(data), err)
	}
	modes := map[string]fs.FileMode{"a/b/run.sh": 0o555, "a/link": fs.ModeSymlink | 0o777, "sub": fs.ModeIrregular, "a": fs.ModeDir | 0o555, "fleet.yaml": 0o444}
	for name, want := range modes {
		info, err := fs.Stat(tree, name)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v", name, info, err)
		}
	}
	for _, name := range []string{"a/link", "sub"} {
		if _, err := tree.Open(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	if _, err := fs.ReadFile(tree, "nothing/here"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var seen []string
	if err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			seen = append(seen, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 8 {
		t.Fatalf("walked %q", seen)
	}
	plain, err := r.Tree(f.intro)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(plain, "fleet.yaml", "trust.yaml"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Tree(strings.Repeat("ab", 20)); err == nil {
		t.Fatal("a tree of an unknown commit")
	}
}

func TestFilesAreBounded(t *testing.T) {
	f := newFixture(t)
	f.o.Limits.FileBytes = 1000
	id := f.commit(f.anna, "big", "big.bin", strings.Repeat("x", 1001), "small.bin", strings.Repeat("x", 1000))
	r := f.open()
	wantAccepted(t, mustSync(t, r), id)
	tree, _ := r.Tree(id)
	if _, err := fs.ReadFile(tree, "big.bin"); err == nil || !strings.Contains(err.Error(), "1001 bytes") {
		t.Fatal(err)
	}
	if _, err := fs.ReadFile(tree, "small.bin"); err != nil {
		t.Fatal(err)
	}
}

func TestMirrorsInOrder(t *testing.T) {
	f := newFixture(t)
	missing := filepath.Join(t.TempDir(), "nowhere.git")
	empty := filepath.Join(t.TempDir(), "empty.git")
	if _, err := sign.Init(empty, "main"); err != nil {
		t.Fatal(err)
	}
	f.o.URLs = []string{missing, empty, f.src}
	r := f.open()
	out := mustSync(t, r)
	wantAccepted(t, out, f.intro)
	if out.Mirror != f.src {
		t.Fatal(out.Mirror)
	}
	f.o.URLs = []string{missing, empty}
	r = f.open()
	_, err := r.Sync(context.Background())
	var se *SyncError
	if !errors.As(err, &se) || len(se.Mirrors) != 2 || !se.Permanent() {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{missing + ": ", "is not a git repository", empty + ": there is no branch main"} {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%q lacks %q", err, want)
		}
	}
	f.o.URLs = nil
	if _, err := f.open().Sync(context.Background()); !errors.Is(err, ErrNoMirrors) {
		t.Fatal(err)
	}
}

// A stale or hostile first mirror does not hide what the second one has, nor
// does the second hide that the first refuses.
func TestASecondMirrorIsAskedAfterARefusal(t *testing.T) {
	f := newFixture(t)
	other := filepath.Join(t.TempDir(), "other.git")
	if err := os.CopyFS(other, os.DirFS(f.src)); err != nil {
		t.Fatal(err)
	}
	good, err := sign.Open(other, "main")
	if err != nil {
		t.Fatal(err)
	}
	better, err := good.Commit(sign.Change{Signer: f.bo, Message: "on the second", Files: pairs([]string{"a", "1"})})
	if err != nil {
		t.Fatal(err)
	}
	bad := f.commit(nil, "unsigned", "b", "1")
	f.o.URLs = []string{f.src, other}
	out := mustSync(t, f.open())
	wantRefused(t, out, ReasonUnsigned, better)
	if !out.Moved || out.Refused.Commit != bad {
		t.Fatalf("%+v", out)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	f := newFixture(t)
	for name, breakIt := range map[string]func(*Options){
		"dataDir":           func(o *Options) { o.Dir = "relative" },
		"introduction":      func(o *Options) { o.Introduction = "abc" },
		"allowedSigners is": func(o *Options) { o.AllowedSigners = "" },
		"allowedSigners:":   func(o *Options) { o.AllowedSigners = filepath.Join(f.src, "none") },
		"branch":            func(o *Options) { o.Branch = "--upload-pack=x" },
		"allowLocalPath":    func(o *Options) { o.AllowLocalPath = false },
		"scheme":            func(o *Options) { o.URLs = []string{"git://example.com/x"} },
		"passwordFile":      func(o *Options) { o.URLs = []string{"ssh://a:b@example.com/x", "https://u:p@example.com/x"} },
	} {
		o := f.o
		breakIt(&o)
		_, err := New(o)
		if name == "passwordFile" {
			name = "password"
		}
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInTheChild(t *testing.T) {
	f := newFixture(t)
	f.o.Child = testChild()
	r := f.open()
	wantAccepted(t, mustSync(t, r), f.intro)
	id := f.commit(f.anna, "two", "a", "1")
	wantAccepted(t, mustSync(t, r), id)
	f.o.Limits.ObjectBytes = 100
	big := f.commit(f.anna, "three", "b", strings.Repeat("x", 200))
	r = f.open()
	_, err := r.Sync(context.Background())
	var se *SyncError
	if !errors.As(err, &se) || !se.Permanent() || !strings.Contains(err.Error(), "more than the 100 allowed") {
		t.Fatalf("%v (%s)", err, big)
	}
	r.o.Child = []string{"/bin/sh", "-c", "echo oops >&2; exit 7"}
	if _, err = r.Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "oops") {
		t.Fatal(err)
	}
}

func TestManyPacksBecomeOne(t *testing.T) {
	f := newFixture(t)
	f.o.Limits.Packs = 4
	r := f.open()
	var first fs.FS
	id := f.intro
	for i := range 7 {
		wantAccepted(t, mustSync(t, r), id)
		if first == nil {
			first, _ = r.Tree(f.intro)
		}
		id = f.commit(f.anna, "more", "n", strings.Repeat("x", i+1))
	}
	packs, _ := filepath.Glob(filepath.Join(r.mirrorDir(), "objects/pack/*.pack"))
	if len(packs) > 4 || len(packs) == 0 {
		t.Fatalf("%d packs", len(packs))
	}
	if data, err := fs.ReadFile(first, "fleet.yaml"); err != nil || string(data) != "name: test\n" {
		t.Fatalf("a tree from before the rewriting: %q, %v", data, err)
	}
	wantAccepted(t, mustSync(t, f.open()), id)
}

// What is left out of the one pack is gone from this disk.
func TestOnePackOfManyHoldsAllOfThem(t *testing.T) {
	f := newFixture(t)
	f.o.Limits.Packs = 1
	r := f.open()
	wantAccepted(t, mustSync(t, r), f.intro)
	for range 6 {
		back := f.revert()
		wantAccepted(t, mustSync(t, r), back)
		o := openObjects(r.mirrorDir(), false)
		everything(t, o, plumbing.NewHash(back))
		o.Close()
		f.commit(f.anna, "gone", "shop/kept/.gitkeep", "-", "shop/g", "-")
	}
}
