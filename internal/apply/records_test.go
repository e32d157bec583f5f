package apply

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// Names are bytes, and JSON has text only: what a deployment put in place under
// such a name is found again by the next one, which removes it.
func TestNamesThatAreNoText(t *testing.T) {
	w := newBench(t)
	name, link := "caf\xe9 \xff", "-> \xfe"
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/" + name: "1", "a/dir\xc3/" + name: "1", "a/l\x80": link})))
	res := w.succeed(w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/" + name: "2"})))
	got, err := os.ReadFile(filepath.Join(w.target, "app", name))
	if err != nil || string(got) != "2" {
		t.Errorf("the file is %q, %v", got, err)
	}
	if tree := w.tree(); strings.Contains(tree, "dir\xc3") || strings.Contains(tree, "l\x80") {
		t.Errorf("not removed:\n%s\nkept: %v", tree, res.Kept)
	}
}

func TestPlainAndBack(t *testing.T) {
	for _, name := range []string{"", "plain", "é", "\xff", "a\xe9b", "\xf0\x9f", "\x00", "\uFFFD", "\xff\xfe/\xfd"} {
		text := plain(name)
		if strings.ToValidUTF8(text, "?") != text || name != "\x00" && verbatim(text) != name {
			t.Errorf("%q becomes %q and %q", name, text, verbatim(text))
		}
	}
}

// A file of records that lost its end, or has it twice, is damaged, and one of
// another version is refused with both numbers.
func TestRecordsThatAreMissing(t *testing.T) {
	a := newBench(t).applier()
	file := filepath.Join(t.TempDir(), "f")
	want := []plan.Entry{{Path: "/a", Kind: plan.File, Size: 1}, {Path: "/b", Kind: plan.Dir}}
	err := a.writeRecords(file, installedHeader{Version: stateVersion, Application: "app"}, func(w *recordWriter) error {
		for _, e := range want {
			if err := w.put(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	whole := string(readFile(t, file))
	read := func(version int) (got []plan.Entry, err error) {
		var h installedHeader
		err = readRecords(file, version, &h, func(e plan.Entry) { got = append(got, e) })
		return got, err
	}
	if got, err := read(stateVersion); err != nil || !slices.EqualFunc(got, want, func(a, b plan.Entry) bool { return a.Path == b.Path && a.Kind == b.Kind && a.Size == b.Size }) {
		t.Errorf("read %v, %v", got, err)
	}
	lines := strings.SplitAfter(whole, "\n")
	for name, damaged := range map[string]string{
		"no end":       strings.Join(lines[:3], ""),
		"a lost line":  lines[0] + lines[2] + lines[3],
		"half a line":  whole[:len(whole)/2],
		"half an end":  whole[:len(whole)-3],
		"another line": lines[0] + lines[1] + whole[len(lines[0]):],
		"nonsense":     lines[0] + "{]\n" + strings.Join(lines[2:], ""),
		"empty":        "",
		"only a head":  lines[0],
	} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := read(stateVersion); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: read %v, %v", name, got, err)
		}
	}
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(7); err == nil || !strings.Contains(err.Error(), "version 2 is not known, only 7") {
		t.Errorf("another version: %v", err)
	}
}

// A listing is read beside a walk in the same order, whatever the names: what is
// listed for a file that did not change is taken, and no other file's.
func TestListingKnowsEveryUnchangedFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	names := []string{"a", "a-b", "a.c", "b/c", "b/d/e", "b-x", "b.y/z", "caf\xe9", "é", "z\xff/f"}
	for i := range 300 { // more than are read ahead
		names = append(names, "many/f"+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), []byte(name))
	}
	a, file := newBench(t).applier(), filepath.Join(t.TempDir(), listingFile)
	err := a.writeRecords(file, listingHeader{stateVersion}, func(w *recordWriter) error {
		return listRelease(t.Context(), dir, nil, func(n listedNode) error {
			if n.Node.Kind == plan.File {
				n.Node.SHA256 = "known " + plain(n.Path)
			}
			return w.put(n.plain())
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "b/c")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "b/d/e"), []byte("changed"))
	writeFile(t, filepath.Join(dir, "b/new"), []byte("new"))
	known, err := openListing(file)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	err = listRelease(t.Context(), dir, known, func(n listedNode) error {
		found[n.Path] = n.Node.SHA256
		return nil
	})
	if err := errors.Join(err, known.close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if was, now := "known "+plain(name), found[name]; (was == now) == (name == "b/c" || name == "b/d/e") {
			t.Errorf("%q has the digest %q", name, now)
		}
	}
	if len(found["b/new"]) != 64 || len(found["b/d/e"]) != 64 {
		t.Errorf("the new and the changed file have %q and %q", found["b/new"], found["b/d/e"])
	}
}

// Reading a listing ends when the walk does, and tells of damage that it met.
func TestListingClosesEarlyAndTellsOfDamage(t *testing.T) {
	a, file := newBench(t).applier(), filepath.Join(t.TempDir(), listingFile)
	err := a.writeRecords(file, listingHeader{stateVersion}, func(w *recordWriter) error {
		for range 10000 {
			if err := w.put(listedNode{Path: "f"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	known, err := openListing(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := known.close(); err != nil {
		t.Error(err)
	}
	data := readFile(t, file)
	writeFile(t, file, data[:len(data)-5])
	if known, err = openListing(file); err != nil {
		t.Fatal(err)
	}
	known.find("g")
	if err := known.close(); err == nil {
		t.Error("damage is not told")
	}
}

// FuzzRecords reads arbitrary bytes as each kind of state file. What is read
// without an error is written and read again as the same.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		`{"version":2,"application":"app","release":{"groupId":"g","deploymentId":"d-1","attempt":1},"entries":1}` + "\n" + `{"path":"/a","kind":"file"}` + "\n" + `{"records":1}` + "\n",
		`{"version":2,"entries":-1}` + "\n" + `{"path":"/a","kind":"dir"}` + "\n" + `{"records":1}` + "\n",
		`{"version":2,"tag":"t","installed":-1,"units":-1}` + "\n" + `{"installed":{"path":"/a","kind":"file"}}` + "\n" + `{"unit":{}}` + "\n" + `{"removal":"/b"}` + "\n" + `{"records":3}` + "\n",
		`{"version":2}` + "\n" + `{"path":"a","node":{"kind":"file"}}` + "\n" + `{"records":1}`,
	} {
		f.Add([]byte(seed))
	}
	w := newBench(f)
	a := w.applier()
	r := &run{a: a, key: Key{GroupID: "g", DeploymentID: "d-1", Attempt: 1}, c: &checked{}}
	if err := os.MkdirAll(filepath.Dir(r.planFile()), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.MkdirAll(a.groupDir("g"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, file := range []string{a.installedFile("g"), a.claimFile("g"), r.planFile()} {
			writeFile(t, file, data)
		}
		if s, err := a.installed("g"); err == nil {
			if err := a.writeInstalled("g", s); err != nil {
				t.Fatal(err)
			}
			again, err := a.installed("g")
			if err != nil || len(again.Entries) != len(s.Entries) {
				t.Fatalf("%d entries became %d, %v", len(s.Entries), len(again.Entries), err)
			}
		}
		if c, err := a.claim("g"); err == nil && c == nil {
			t.Fatal("no claim where there is a file")
		}
		if in, err := r.savedInstall(); err == nil {
			if err := r.savePlan(in); err != nil {
				t.Fatal(err)
			}
			again, err := r.savedInstall()
			if err != nil || !reflect.DeepEqual(again.plan.Removals, in.plan.Removals) || len(again.plan.Units) != len(in.plan.Units) || len(again.plan.Installed) != len(in.plan.Installed) {
				t.Fatalf("another plan: %v", err)
			}
		}
		if known, err := openListing(r.planFile()); err == nil {
			known.find("\xff")
			known.close()
		}
	})
}
