package apply

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// foreign is a directory that no deployment may touch, with names that bundles
// of these tests have too.
type foreign struct{ dir, before string }

func newForeign(w *workbench) *foreign {
	w.t.Helper()
	f := &foreign{dir: filepath.Join(w.dir, "foreign")}
	for _, d := range []string{"sub", "sub/deep"} {
		if err := os.MkdirAll(filepath.Join(f.dir, d), 0o711); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.dir, "sub/key"), []byte("k"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	f.before = f.state(w)
	return f
}

// state also tells of changes that were made and taken back.
func (f *foreign) state(w *workbench) string {
	w.t.Helper()
	out := treeOf(w.t, f.dir)
	for _, path := range []string{"", "sub", "sub/deep", "sub/key"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(f.dir, path), &st); err != nil {
			w.t.Fatal(err)
		}
		out += fmt.Sprintf("\n%s %o %d:%d changed at %d", path, st.Mode, st.Uid, st.Gid, st.Ctim.Nano())
	}
	return out
}

func (f *foreign) untouched(w *workbench) {
	w.t.Helper()
	if got := f.state(w); got != f.before {
		w.t.Errorf("the foreign directory is\n%s\nand was\n%s", got, f.before)
	}
}

// atStep applies with do called before the first step that is asked for, as
// somebody would who owns the directories around the destination.
func (w *workbench) atStep(d Deployment, is func(durable.Op) bool, do func(durable.Op)) Result {
	w.t.Helper()
	var done atomic.Bool
	a := w.applier()
	a.opts.Disk = &durable.Disk{Hook: func(op durable.Op) error {
		if is(op) && done.CompareAndSwap(false, true) {
			do(op)
		}
		return nil
	}}
	res := w.apply(a, d)
	if !done.Load() {
		w.t.Fatal("the step never came")
	}
	return res
}

// swapFor puts a link in the place of a directory.
func (w *workbench) swapFor(dir, target string) {
	w.t.Helper()
	if err := os.Rename(dir, filepath.Join(filepath.Dir(dir), "aside")); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(target, dir); err != nil {
		w.t.Fatal(err)
	}
}

// stageOf finds the top of what is built, given a step below it.
func stageOf(path string) string {
	for !strings.HasPrefix(filepath.Base(path), ".gitopsd-") {
		path = filepath.Dir(path)
	}
	return path
}

const openSpec = "version: 0.0\nos: linux\nfiles: [{source: a, destination: /home/app}]\n" +
	"permissions: [{object: /home/app, pattern: '**', mode: 777, type: [directory]}]\n"

// Whoever owns the directory around a destination may put a link in the place of
// what is being built there; nothing is made or changed where it leads.
func TestStageIsSwappedForALink(t *testing.T) {
	for name, at := range map[string]func(durable.Op) bool{
		"first directory": func(op durable.Op) bool { return op.Kind == "stage" && strings.HasSuffix(op.Path, "/app/sub") },
		"first file":      func(op durable.Op) bool { return op.Kind == "stage" && strings.HasSuffix(op.Path, "/sub/f0") },
		"placing":         func(op durable.Op) bool { return op.Kind == "place" },
		"last file":       func(op durable.Op) bool { return op.Kind == "stage" && strings.HasSuffix(op.Path, "/z") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newBench(t)
			files := map[string]string{"appspec.yml": openSpec, "a/z": "last", "a/sub/deep/link": "-> x"}
			for i := range 100 {
				files[fmt.Sprintf("a/sub/f%d", i)] = "data"
				files[fmt.Sprintf("a/sub/deep/f%d", i)] = "data"
			}
			files["a/sub/large"] = strings.Repeat("x", 3*smallMax)
			f := newForeign(w)
			res := w.atStep(w.deployment("d-1", w.bundle(files)), at, func(op durable.Op) {
				made, err := filepath.Glob(filepath.Join(w.target, ".gitopsd-*.new"))
				if err != nil || len(made) != 1 {
					t.Fatal(made, err)
				}
				w.swapFor(made[0], f.dir)
			})
			f.untouched(w)
			if res.Outcome != OutcomeFailed || !strings.Contains(res.Error.Message, "put in the place of") {
				t.Errorf("%s %+v", res.Outcome, res.Error)
			}
			w.lacks("home/app")
			if strings.Contains(w.tree(), ".gitopsd-") {
				t.Errorf("left:\n%s", w.tree())
			}
		})
	}
}

// A directory inside is swapped for a link, by somebody who can get in.
func TestDirectoryInsideTheStageIsSwappedForALink(t *testing.T) {
	w := newBench(t)
	f := newForeign(w)
	files := map[string]string{"appspec.yml": openSpec, "a/sub/deep/f": "1", "a/sub/g": "2", "a/z": "last"}
	is := func(op durable.Op) bool { return op.Kind == "stage" && strings.HasSuffix(op.Path, "/z") }
	res := w.atStep(w.deployment("d-1", w.bundle(files)), is, func(op durable.Op) {
		w.swapFor(filepath.Join(stageOf(op.Path), "app/sub"), filepath.Join(f.dir, "sub"))
	})
	f.untouched(w)
	if res.Outcome != OutcomeFailed {
		t.Errorf("%s", res.Outcome)
	}
	w.lacks("home/app")
}

// What was just made is known from what somebody else made, or had there before.
func TestStageIsOneOfOurOwn(t *testing.T) {
	dir := scratch(t)
	for name, c := range map[string]struct {
		uid  int
		with string
		ok   bool
	}{"ours": {os.Geteuid(), "", true}, "full": {os.Geteuid(), "x", false}, "another's": {os.Geteuid() + 1, "", false}} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(path, c.with), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, c.uid, -1); err != nil {
			t.Skipf("giving a directory away needs root: %v", err)
		}
		fd, err := openPlain(unix.AT_FDCWD, path)
		if err != nil {
			t.Fatal(err)
		}
		s := &staging{unit: &plan.Unit{Stage: path}, base: name, top: newOpenDir(fd)}
		if _, err := s.own(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		s.top.done()
		if list, err := os.ReadDir(path); err != nil || len(list) != len(c.with) {
			t.Errorf("%s: left %v, %v", name, list, err)
		}
	}
}

// The name of a single file that is built is taken by a link.
func TestFileOfTheStageIsALink(t *testing.T) {
	w := newBench(t)
	f := newForeign(w)
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})))
	for i, target := range []string{"sub/key", "sub/none"} {
		d := w.deployment(fmt.Sprintf("d-%d", i+2), w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "2"}))
		res := w.atStep(d, func(op durable.Op) bool { return op.Kind == "stage" }, func(op durable.Op) {
			if err := os.Symlink(filepath.Join(f.dir, target), op.Path); err != nil {
				t.Fatal(err)
			}
		})
		f.untouched(w)
		if res.Outcome != OutcomeFailed {
			t.Errorf("%s", res.Outcome)
		}
		w.has("app/f", "1")
	}
}

// A directory whose attributes change is swapped for a link before that, or
// before they are taken back.
func TestChangedDirectoryIsSwappedForALink(t *testing.T) {
	for _, kind := range []string{"change", "restore"} {
		t.Run(kind, func(t *testing.T) {
			w := newBench(t)
			f := newForeign(w)
			files := func(mode string) string {
				spec := strings.ReplaceAll(openSpec, "777", mode)
				return w.bundle(map[string]string{"appspec.yml": spec, "a/sub/f": "1"})
			}
			w.succeed(w.deployment("d-1", files("777")))
			sub := filepath.Join(w.target, "home/app/sub")
			a := w.applier()
			done := false
			a.opts.Disk = &durable.Disk{Hook: func(op durable.Op) error {
				if op.Kind == kind && op.Path == sub && !done {
					done = true
					w.swapFor(sub, filepath.Join(f.dir, "sub"))
				}
				if kind == "restore" && op.Kind == "place" {
					return unix.ENOSPC
				}
				return nil
			}}
			d := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(openSpec, "777", "755"), "a/sub/f": "2"}))
			res := w.apply(a, d)
			f.untouched(w)
			if !done || res.Outcome != OutcomeFailed {
				t.Errorf("swapped %v: %s %+v", done, res.Outcome, res.Error)
			}
		})
	}
}

// Nobody else may enter what is built before it is whole, whatever its mode will be.
func TestStageIsClosedToOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("who is not root makes a directory with the mode it is to keep")
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	w := newBench(t)
	home := filepath.Join(w.target, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := strings.ReplaceAll(openSpec, "777", "700")
	seen := 0
	a := w.applier()
	a.opts.Disk = &durable.Disk{Hook: func(op durable.Op) error {
		if op.Kind != "stage" || op.Path == stageOf(op.Path) {
			return nil
		}
		seen++
		if info, err := os.Stat(stageOf(op.Path)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("at %s: %v %v", op.Path, info, err)
		}
		return nil
	}}
	res := w.apply(a, w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": spec, "a/sub/f": "1", "a/g": "2"})))
	if res.Outcome != OutcomeSucceeded || seen == 0 {
		t.Errorf("%s %+v, %d steps seen", res.Outcome, res.Error, seen)
	}
	if info, err := os.Stat(filepath.Join(home, "app")); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("the destination is not what its making gives: %v %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(home, "app/sub")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
}

// New directories get from the one they are made in what it gives: its group and
// its default access list.
func TestNewDirectoriesInherit(t *testing.T) {
	w := newBench(t)
	made := func(parent string) string {
		if err := os.Mkdir(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(parent, 0o2775); err != nil {
			t.Fatal(err)
		}
		// user::rwx, user:7:rwx, group::r-x, mask::rwx, other::---
		acl := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
		if err := unix.Lsetxattr(parent, xattrDefault, acl, 0); err != nil {
			t.Skipf("no access lists here: %v", err)
		}
		return filepath.Join(parent, "app")
	}
	plain := made(filepath.Join(w.dir, "plain"))
	if err := os.MkdirAll(filepath.Join(plain, "sub/deep"), 0o777); err != nil {
		t.Fatal(err)
	}
	made(filepath.Join(w.target, "home"))
	spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /home/app}]\n"
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": spec, "a/sub/deep/l": "-> x"})))
	if err := os.Remove(filepath.Join(w.target, "home/app/sub/deep/l")); err != nil {
		t.Fatal(err)
	}
	if got, want := treeOf(t, filepath.Join(w.target, "home")), treeOf(t, filepath.Dir(plain)); got != want {
		t.Errorf("made\n%s\nand mkdir makes\n%s", got, want)
	}
}

// Directories that hold only what the group deployed are after a redeployment what a first one makes, whatever permissions gave them before;
// so is what is made in them.
func TestRedeployedDirectoriesAreAsNew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the permissions of the first revision give files away")
	}
	// user::rwx, user:7:rwx, group::r-x, mask::rwx, other::---
	list := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	given := "permissions: [{object: /home/app, type: [directory], mode: '2770', group: daemon, acls: ['u:nobody:rx', 'd:u:nobody:rwx']}]\n"
	for name, home := range map[string]func(dir string) error{
		"plain":  func(string) error { return nil },
		"setgid": func(dir string) error { return errors.Join(unix.Chown(dir, 0, 7), unix.Chmod(dir, 0o2775)) },
		"list":   func(dir string) error { return unix.Lsetxattr(dir, xattrDefault, list, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /home/app/deep}]\n"
			first := map[string]string{"appspec.yml": spec + given, "a/sub/f": "1", "a/g": "2"}
			second := map[string]string{"appspec.yml": spec, "a/sub/f": "new", "a/g": "2", "a/sub/made/h": "3", "a/sub/h": "4"}
			made := func(revisions ...map[string]string) string {
				w := newBench(t)
				dir := filepath.Join(w.target, "home")
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := home(dir); err != nil {
					t.Skipf("such a home cannot be made here: %v", err)
				}
				for i, files := range revisions {
					w.succeed(w.deployment(fmt.Sprintf("d-%d", i+1), w.bundle(files)))
				}
				return w.tree()
			}
			if got, want := made(first, second), made(second); got != want {
				t.Errorf("after a redeployment\n%s\nand after a first one\n%s", got, want)
			}
			if got, want := made(second, first), made(first, second, first); got != want {
				t.Errorf("the first revision\n%s\nand again\n%s", got, want)
			}
		})
	}
}

// Trees deeper than the directories that are kept open.
func TestDeepTree(t *testing.T) {
	w := newBench(t)
	deep := strings.Repeat("d/", 3*chainMax)
	spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /home/app}]\npermissions: [{object: /home/app, pattern: '**', mode: 750, type: [directory]}]\n"
	files := map[string]string{"appspec.yml": spec, "a/" + deep + "f": "deep", "a/d/d/g": "2", "a/e/f": "3"}
	for i := range 2 * chainMax {
		files["a/"+deep[:2*(i+1)]+"side/f"] = "side"
	}
	w.succeed(w.deployment("d-1", w.bundle(files)))
	w.has("home/app/"+deep+"f", "deep")
	w.has("home/app/e/f", "3")
	info, err := os.Stat(filepath.Join(w.target, "home/app", deep))
	if err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v %v", info, err)
	}
}

// Nothing stays open, however a deployment ends.
func TestInstallClosesWhatItOpens(t *testing.T) {
	w := newBench(t)
	files := map[string]string{"appspec.yml": openSpec}
	for i := range 300 {
		files[fmt.Sprintf("a/d%d/f%d", i%30, i)] = "x"
	}
	dir := w.bundle(files)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("open files cannot be counted without proc:", err)
		}
		return len(entries)
	}
	w.applier()
	before := count()
	for _, stop := range []int{1, 50, 200, 330} {
		a := w.applier()
		a.opts.Disk = &durable.Disk{Hook: func(op durable.Op) error {
			if op.Kind == "stage" {
				stop--
			}
			if stop == 0 {
				stop--
				return unix.ENOSPC
			}
			return nil
		}}
		if res := w.apply(a, w.deployment(fmt.Sprintf("d-%d", stop), dir)); res.Outcome != OutcomeFailed {
			t.Fatal(res.Outcome)
		}
	}
	w.succeed(w.deployment("d-good", dir))
	if after := count(); after > before {
		t.Errorf("%d descriptors were open before, %d after", before, after)
	}
}

// Directories that their owner may not read are changed and removed as well, and
// a link among them leads nowhere.
func TestUnreadableDirectories(t *testing.T) {
	dir := scratch(t)
	foreign, tree := filepath.Join(dir, "foreign"), filepath.Join(dir, "tree")
	for _, d := range []string{foreign, filepath.Join(tree, "a/b")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(foreign, filepath.Join(tree, "a/link")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/b", "a", ""} {
		if err := os.Chmod(filepath.Join(tree, d), 0o100); err != nil {
			t.Fatal(err)
		}
	}
	a := filepath.Join(tree, "a")
	if err := change(a, plan.Attr{Mode: 0o310, UID: -1, GID: -1}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(a); err != nil || info.Mode().Perm() != 0o310 {
		t.Errorf("%v %v", info, err)
	}
	if err := removeTree(tree); err != nil || exists(tree) {
		t.Error(err)
	}
	if info, err := os.Stat(foreign); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", info, err)
	}
}

// A link that leads nowhere is no file that exists: what is deployed at its name is made where it leads, whoever put the link there, and is
// found there by the next deployment.
func TestFileGoesThroughALinkThatLeadsNowhere(t *testing.T) {
	w := newBench(t)
	for link, target := range map[string]string{
		"etc/plain": "data", "etc/up": "../var/up", "etc/absolute": filepath.Join(w.target, "var/absolute"), "etc/far": "hop", "etc/hop": "../side/hop", "side": "var",
	} {
		for _, dir := range []string{"etc", "var"} {
			if err := os.MkdirAll(filepath.Join(w.target, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(target, filepath.Join(w.target, link)); err != nil {
			t.Fatal(err)
		}
	}
	spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /etc}]\npermissions: [{object: /etc, pattern: up, mode: '600'}]\n"
	for i, text := range []string{"1", "2"} {
		w.succeed(w.deployment(fmt.Sprintf("d-%d", i+1), w.bundle(map[string]string{
			"appspec.yml": spec, "a/plain": text + "p", "a/up": text + "u", "a/absolute": text + "a", "a/far": text + "f",
		})))
		for path, want := range map[string]string{"etc/data": "p", "var/up": "u", "var/absolute": "a", "var/hop": "f"} {
			w.has(path, text+want)
		}
	}
	if info, err := os.Stat(filepath.Join(w.target, "etc/up")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the permission for the link's name: %v %v", info, err)
	}
	for link, target := range map[string]string{"etc/no": "where/no", "etc/loop": "loop", "etc/dir": "new/"} {
		if err := os.Symlink(target, filepath.Join(w.target, link)); err != nil {
			t.Fatal(err)
		}
		before := w.tree()
		res := w.apply(w.applier(), w.deployment("d-"+filepath.Base(link), w.bundle(map[string]string{"appspec.yml": spec, "a/" + filepath.Base(link): "x"})))
		if res.Outcome != OutcomeFailed || w.tree() != before {
			t.Errorf("%s -> %s: %s", link, target, res.Outcome)
		}
	}
}
