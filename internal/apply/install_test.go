package apply

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/durable"
)

const plainSpec = "version: 0.0\nos: linux\nfiles: [{source: a, destination: /app}]\n"

func (w *workbench) has(path, content string) {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.target, path))
	if err != nil || string(data) != content {
		w.t.Errorf("%s holds %q (%v), not %q", path, data, err, content)
	}
}

func (w *workbench) lacks(path string) {
	w.t.Helper()
	if exists(filepath.Join(w.target, path)) {
		w.t.Errorf("%s exists", path)
	}
}

func (w *workbench) write(path, content string) {
	w.t.Helper()
	full := filepath.Join(w.target, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

func TestRedeployKeepsWhatAUserChanged(t *testing.T) {
	w := newBench(t)
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/one": "1", "a/two": "2", "a/dir/three": "3"})))
	w.write("app/two", "by hand")
	w.write("app/one", "a script's work")
	res := w.succeed(w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/one": "new"})))
	w.has("app/one", "new")
	w.has("app/two", "by hand")
	w.lacks("app/dir")
	if len(res.Kept) != 1 || !strings.HasSuffix(res.Kept[0], "app/two") || !strings.Contains(strings.Join(res.Warnings, "\n"), "app/two was kept") {
		t.Errorf("kept %v, warnings %v", res.Kept, res.Warnings)
	}
}

func TestUnchangedFilesAreLeftAlone(t *testing.T) {
	w := newBench(t)
	files := map[string]string{"appspec.yml": plainSpec, "a/one": "1", "a/two": "2"}
	w.succeed(w.deployment("d-1", w.bundle(files)))
	inode := func(path string) os.FileInfo {
		info, err := os.Stat(filepath.Join(w.target, path))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	one, two := inode("app/one"), inode("app/two")
	d := w.deployment("d-2", w.bundle(files))
	d.CommitTime = d.CommitTime.Add(time.Hour)
	d.Overlay = []OverlayFile{{Path: "a/two", Data: []byte("over")}, {Path: "a/three", Mode: 0o600, Data: []byte("3")}}
	w.succeed(d)
	if now := inode("app/one"); !os.SameFile(one, now) || !now.ModTime().Equal(one.ModTime()) {
		t.Error("an unchanged file was replaced")
	}
	now := inode("app/two")
	if os.SameFile(two, now) || !now.ModTime().Equal(d.CommitTime) {
		t.Errorf("a changed file has the time %v", now.ModTime())
	}
	w.has("app/two", "over")
	if info := inode("app/three"); info.Mode().Perm() != 0o600 {
		t.Errorf("overlay file has mode %v", info.Mode())
	}
}

// A refused deployment leaves the old version running and untouched.
func TestRefusedBeforeApplicationStop(t *testing.T) {
	spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /app}]\nhooks:\n  ApplicationStop: [{location: s.sh}]\n"
	cases := map[string]struct {
		files   map[string]string
		event   string
		invalid bool
	}{
		"no appspec":         {map[string]string{"a/f": "2"}, "BeforeInstall", true},
		"bad appspec":        {map[string]string{"appspec.yml": "version: 1.0\nos: linux\n"}, "BeforeInstall", true},
		"no source":          {map[string]string{"appspec.yml": plainSpec}, "Install", true},
		"no script":          {map[string]string{"appspec.yml": spec + "  AfterInstall: [{location: gone.sh}]\n", "a/f": "2", "s.sh": ""}, "AfterInstall", true},
		"script leads out":   {map[string]string{"appspec.yml": spec + "  AfterInstall: [{location: ../../x.sh}]\n", "a/f": "2", "s.sh": ""}, "AfterInstall", true},
		"double destination": {map[string]string{"appspec.yml": strings.Replace(spec, "[{source: a, ", "[{source: b/f, destination: /app}, {source: a, ", 1), "a/f": "2", "b/f": "3", "s.sh": ""}, "Install", true},
		"bad permission":     {map[string]string{"appspec.yml": spec + "permissions: [{object: /app/f, mode: '600', pattern: 'x*'}]\n", "a/f": "2", "s.sh": ""}, "Install", true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newBench(t)
			w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": spec, "a/f": "1", "s.sh": "HOOK"})))
			before := w.tree()
			d := w.deployment("d-2", w.bundle(c.files))
			d.Begin = func(context.Context) error { t.Error("it was begun"); return nil }
			report, err := w.applier().Preflight(context.Background(), d)
			if err != nil || report.OK || report.Refusal == nil {
				t.Fatalf("%v %+v", err, report)
			}
			res := w.apply(w.applier(), d)
			if res.Outcome != OutcomeFailed || res.Began || string(res.Error.Event) != c.event || res.Error.Invalid != c.invalid || res.Error.Message != report.Refusal.Message {
				t.Errorf("%+v", res.Error)
			}
			if w.tree() != before || len(w.ran()) != 0 {
				t.Error("the old version was touched")
			}
			if pending, err := w.applier().Pending(); err != nil || len(pending) != 0 {
				t.Error(pending, err)
			}
			if releases, err := w.applier().Releases("g1"); err != nil || len(releases) == 0 || !releases[len(releases)-1].Good {
				t.Errorf("%v %+v", err, releases)
			}
		})
	}
}

// A bundle that was refused is mended, and the same deployment is asked for again:
// it is unpacked anew, as nothing but its bytes tells it from the refused one.
func TestRefusedBundleIsMended(t *testing.T) {
	w := newBench(t)
	d := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec}))
	if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed || res.Began {
		t.Fatalf("%+v", res)
	}
	d.Source.Path = w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})
	w.succeed(d)
	if got := string(readFile(t, filepath.Join(w.target, "app/f"))); got != "1" {
		t.Errorf("%q is in place", got)
	}
}

// Existing files are refused early unless a script might still move them; then
// at the start of Install, before any old file is removed.
func TestExistingFileWithAndWithoutScripts(t *testing.T) {
	for _, script := range []string{"", "HOOK", "HOOK; rm $GITOPSD_DESTINATION_ROOT/app/new"} {
		w := newBench(t)
		w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/old": "1"})))
		w.write("app/new", "in the way")
		files := map[string]string{"appspec.yml": plainSpec, "a/new": "2"}
		if script != "" {
			files["appspec.yml"] += "hooks:\n  BeforeInstall: [{location: b.sh}]\n"
			files["b.sh"] = script
		}
		res := w.apply(w.applier(), w.deployment("d-2", w.bundle(files)))
		if strings.Contains(script, "rm") {
			if res.Outcome != OutcomeSucceeded {
				t.Errorf("a script made room, yet: %v", res.Error)
			}
			continue
		}
		if res.Error == nil || res.Error.Event != appspec.Install || res.Error.Invalid || !strings.Contains(res.Error.Message, "a specified file already exists at this location: "+w.target+"/app/new") {
			t.Errorf("%+v", res.Error)
		}
		if res.Began != (script != "") || len(w.ran()) != len(script)/4 {
			t.Errorf("with script %q: began %v, ran %v", script, res.Began, w.ran())
		}
		w.has("app/old", "1")
		w.has("app/new", "in the way")
	}
}

func TestFailedScriptLeavesTheNewFiles(t *testing.T) {
	w := newBench(t)
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})))
	res := w.apply(w.applier(), w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": plainSpec + "hooks:\n  AfterInstall: [{location: b.sh}]\n", "a/f": "2", "b.sh": "exit 1"})))
	if res.Outcome != OutcomeFailed || res.Error.Code != CodeScriptFailed {
		t.Fatalf("%+v", res.Error)
	}
	w.has("app/f", "2")
	releases, err := w.applier().Releases("g1")
	if err != nil || len(releases) != 2 || !releases[0].Installed || releases[0].Good || !releases[1].Good || !releases[1].WasGood {
		t.Fatalf("%v %+v", err, releases)
	}
	d := w.deployment("d-3", "")
	from := Key{"g1", "d-1", 1}
	d.Source = Source{Release: &from} // going back needs nothing but what is here
	if err := os.RemoveAll(filepath.Join(w.dir, "bundle-1")); err != nil {
		t.Fatal(err)
	}
	w.succeed(d)
	w.has("app/f", "1")
}

func TestOwnership(t *testing.T) {
	w := newBench(t)
	first := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "a/g": "1"}))
	w.succeed(first)
	other := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": plainSpec + "file_exists_behavior: OVERWRITE\n", "a/f": "2"}))
	other.GroupID, other.ApplicationName = "g2", "other"
	if res := w.apply(w.applier(), other); res.Error == nil || !strings.Contains(res.Error.Message, "belongs to group g1 of application app") {
		t.Fatalf("another application: %+v", res.Error)
	}
	again := w.deployment("d-3", other.Source.Path)
	again.GroupID, again.LiveGroups = "g3", []string{"g1", "g3"}
	if res := w.apply(w.applier(), again); res.Error == nil || res.Began {
		t.Fatalf("a live group of the application: %+v", res.Error)
	}
	again.ID, again.LiveGroups = "d-4", []string{"g3"}
	w.succeed(again)
	w.has("app/f", "2")
	w.lacks("app/g")
	releases, err := w.applier().installed("g1")
	if err != nil || len(releases.Entries) != 0 {
		t.Errorf("the old group still owns %v (%v)", releases.Entries, err)
	}
}

// A file has one owner whichever link leads to it, and is the same file for its
// own group when a destination is spelled anew.
func TestOwnershipThroughALink(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	through := strings.ReplaceAll(plainSpec, "/app", "/link")
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "a/g": "1"})))
	if err := os.Symlink("app", filepath.Join(w.target, "link")); err != nil {
		t.Fatal(err)
	}
	other := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": through + "file_exists_behavior: OVERWRITE\n", "a/f": "2"}))
	other.GroupID, other.ApplicationName = "g2", "other"
	if res := w.apply(w.applier(), other); res.Error == nil || !strings.Contains(res.Error.Message, "/link/f ("+w.target+"/app/f) belongs to group g1") {
		t.Fatalf("another application: %+v", res.Error)
	}
	w.has("app/f", "1")
	w.succeed(w.deployment("d-3", w.bundle(map[string]string{"appspec.yml": through, "a/f": "1", "a/h": "3"})))
	w.has("app/f", "1")
	w.has("app/h", "3")
	w.lacks("app/g")
	if res := w.apply(w.applier(), other); res.Error == nil || !strings.Contains(res.Error.Message, "belongs to group g1") {
		t.Fatalf("another application, the owner spells it as it does: %+v", res.Error)
	}
}

// A link of the old revision gives way to a directory of the new one; what it
// led to stays as it is.
func TestALinkBecomesADirectory(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	outside := filepath.Join(w.dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	first := w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})
	if err := os.Symlink(outside, filepath.Join(first, "a", "data")); err != nil {
		t.Fatal(err)
	}
	w.succeed(w.deployment("d-1", first))
	w.succeed(w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "a/data/x": "2"})))
	if n, err := os.Lstat(filepath.Join(w.target, "app", "data")); err != nil || !n.IsDir() {
		t.Errorf("%v %v", n, err)
	}
	w.has("app/data/x", "2")
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside has %v (%v)", left, err)
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	dir := w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})
	bad := w.bundle(map[string]string{"appspec.yml": plainSpec + "hooks:\n  AfterInstall: [{location: b.sh}]\n", "a/f": "2", "b.sh": "exit 1"})
	w.succeed(w.deployment("d-good", dir))
	for i := range 6 {
		d := w.deployment(fmt.Sprintf("d-%d", i), bad)
		d.MaxRevisions = 2
		if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed {
			t.Fatal(res)
		}
	}
	releases, err := w.applier().Releases("g1")
	if err != nil || len(releases) != 2 || releases[0].DeploymentID != "d-5" || releases[1].DeploymentID != "d-good" || !releases[1].Good {
		t.Fatalf("%v %+v", err, releases)
	}
	if log, err := w.applier().Log(Key{"g1", "d-5", 1}, "AfterInstall"); err != nil {
		t.Error(err)
	} else if text, _ := io.ReadAll(log); !strings.HasPrefix(string(text), "LifecycleEvent - AfterInstall\nScript - b.sh\n") {
		t.Errorf("log %q", text)
	}
}

func TestRemove(t *testing.T) {
	w := newBench(t)
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec + "hooks:\n  ApplicationStop: [{location: s.sh}]\n", "a/f": "1", "s.sh": "HOOK"})))
	d := w.deployment("d-2", "")
	d.Source, d.Remove = Source{}, true
	w.succeed(d)
	if w.tree() != "" || len(w.ran()) != 1 {
		t.Errorf("left:\n%s\nran %v", w.tree(), w.ran())
	}
}

func TestHoldGood(t *testing.T) {
	w := newBench(t)
	d := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"}))
	d.HoldGood = true
	w.succeed(d)
	a := w.applier()
	if r, err := a.Releases("g1"); err != nil || r[0].Good || !r[0].Installed || !r[0].Deployed {
		t.Fatalf("%v %+v", err, r)
	}
	if err := a.MarkGood(d.Key()); err != nil {
		t.Fatal(err)
	}
	if r, _ := a.Releases("g1"); !r[0].Good || !r[0].WasGood {
		t.Fatalf("%+v", r)
	}
	if err := a.MarkGood(Key{"g1", "nope", 1}); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// A deployment without Install, as of a blue/green rollback's traffic events, leaves the files and so the last good release as they are.
func TestOnlyInstallMakesAReleaseGood(t *testing.T) {
	w := newBench(t)
	dir := w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})
	w.succeed(w.deployment("d-1", dir))
	d := w.deployment("d-2", dir)
	d.Events = []appspec.Event{appspec.BeforeAllowTraffic, appspec.AfterAllowTraffic}
	w.succeed(d)
	releases, err := w.applier().Releases("g1")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range releases {
		if r.Good != (r.DeploymentID == "d-1") {
			t.Errorf("%s good: %v", r.DeploymentID, r.Good)
		}
	}
}

// What Preflight unpacked for a spec serves the deployment of that spec.
func TestPreparedReleaseIsTakenOver(t *testing.T) {
	w := newBench(t)
	d := w.deployment("prepare-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"}))
	d.SpecHash, d.Source.Digest = "spec", "sha256:x"
	a := w.applier()
	if report, err := a.Preflight(context.Background(), d); err != nil || !report.OK || report.Changes.Written != 2 {
		t.Fatalf("%v %+v", err, report)
	}
	if err := os.RemoveAll(d.Source.Path); err != nil { // it is not needed again
		t.Fatal(err)
	}
	d.ID = "d-1"
	w.succeed(d)
	if r, err := a.Releases("g1"); err != nil || len(r) != 1 || r[0].DeploymentID != "d-1" {
		t.Fatalf("%v %+v", err, r)
	}
}

func TestArchives(t *testing.T) {
	w := newBench(t)
	path := filepath.Join(w.dir, "b.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(f)
	for name, content := range map[string]string{"top-abc/appspec.yml": plainSpec, "top-abc/a/f": "from tar"} {
		tw.WriteHeader(&tar.Header{Name: name, Mode: 0o640, Size: int64(len(content)), ModTime: time.Unix(86400, 0)})
		io.WriteString(tw, content)
	}
	if err := errors.Join(tw.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	d := w.deployment("d-1", path)
	d.Source.Type = bundle.TypeTar
	res := w.apply(w.applier(), d)
	if res.Outcome != OutcomeSucceeded {
		t.Fatalf("%+v", res.Error)
	}
	w.has("app/f", "from tar")
	if info, err := os.Stat(filepath.Join(w.target, "app/f")); err != nil || info.ModTime().Unix() != 86400 || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.WriteFile(path, []byte("no archive at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.ID = "d-2"
	if res := w.apply(w.applier(), d); res.Error == nil || res.Error.Event != appspec.DownloadBundle || !res.Error.Invalid {
		t.Errorf("%+v", res.Error)
	}
	w.has("app/f", "from tar")
}

func TestOverlayCannotLeaveTheBundle(t *testing.T) {
	for _, path := range []string{"../out", "/etc/out", "link/out"} {
		w := newBench(t)
		d := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "link": "-> /tmp"}))
		d.Overlay = []OverlayFile{{Path: path, Data: []byte("x")}}
		if res := w.apply(w.applier(), d); res.Error == nil || res.Began {
			t.Errorf("%s: %+v", path, res.Error)
		}
	}
}

func TestNotEnoughSpace(t *testing.T) {
	w := newBench(t)
	o := w.options()
	o.KeepFree = 1 << 60
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	res := w.apply(a, w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})))
	if res.Error == nil || res.Began || !strings.Contains(res.Error.Message, "No space left on device") {
		t.Errorf("%+v", res.Error)
	}
}

// There are not enough inodes, which is found out before anything is stopped.
func TestOutOfInodes(t *testing.T) {
	w := newBench(t)
	if err := unix.Mount("tmpfs", w.target, "tmpfs", 0, "size=4m,nr_inodes=12"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(w.target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	o := w.options()
	o.KeepFree = -1
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if res := w.apply(a, w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "a/d/g": "2"}))); res.Outcome != OutcomeSucceeded {
		t.Fatal(res.Error)
	}
	before := w.tree()
	files := map[string]string{"appspec.yml": plainSpec}
	for i := range 20 {
		files[fmt.Sprintf("a/new/%d", i)] = "x"
	}
	res := w.apply(a, w.deployment("d-2", w.bundle(files)))
	if res.Error == nil || res.Began || res.Error.Event != appspec.Install || res.Error.Code != CodeUnknown || !strings.Contains(res.Error.Message, "free inodes (no space left on device)") {
		t.Fatalf("%+v", res.Error)
	}
	if got := w.tree(); got != before {
		t.Errorf("the tree is\n%s\nand was\n%s", got, before)
	}
	big := w.deployment("d-3", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/big": strings.Repeat("x", 5<<20)}))
	if res := w.apply(a, big); res.Error == nil || res.Began || w.tree() != before {
		t.Errorf("%+v", res.Error)
	}
	if res := w.apply(a, w.deployment("d-4", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "3"}))); res.Outcome != OutcomeSucceeded {
		t.Error(res.Error)
	}
}

// Releases that were only prepared do not pile up.
func TestPreparedReleasesAreBounded(t *testing.T) {
	w := newBench(t)
	dir := w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"})
	w.succeed(w.deployment("d-1", dir))
	a := w.applier()
	for i := range 8 {
		if report, err := a.Preflight(context.Background(), w.deployment(fmt.Sprintf("prepare-%d", i), dir)); err != nil || !report.OK {
			t.Fatal(err, report)
		}
	}
	if r, err := a.Releases("g1"); err != nil || len(r) != 5 || r[4].DeploymentID != "d-1" {
		t.Errorf("%v %+v", err, r)
	}
}

// A target that cannot be written is refused before the old version's ApplicationStop, unless a script of the new one may mend that.
func TestReadOnlyTarget(t *testing.T) {
	w := newBench(t)
	files := map[string]string{"appspec.yml": plainSpec + "hooks:\n  ApplicationStop: [{location: s.sh}]\n", "a/f": "1", "s.sh": "HOOK"}
	w.succeed(w.deployment("d-1", w.bundle(files)))
	makeReadOnly(t, filepath.Join(w.target, "app"))
	before, ran := w.tree(), len(w.ran())
	files["a/f"] = "2"
	res := w.apply(w.applier(), w.deployment("d-2", w.bundle(files)))
	if res.Error == nil || res.Began || res.Error.Event != appspec.Install || !strings.Contains(res.Error.Message, w.target+"/app is not to be written") {
		t.Errorf("%+v", res.Error)
	}
	if got := w.tree(); got != before || len(w.ran()) != ran {
		t.Errorf("the tree is\n%s\nand was\n%s; ran %v", got, before, w.ran())
	}
	files["appspec.yml"] = plainSpec + "hooks:\n  BeforeInstall: [{location: s.sh}]\n"
	report, err := w.applier().Preflight(t.Context(), w.deployment("d-3", w.bundle(files)))
	if err != nil || !report.OK || !strings.Contains(strings.Join(report.Warnings, "\n"), "unless a script mends it before Install: cannot install: ") {
		t.Errorf("%+v, %v", report, err)
	}
}

// makeReadOnly keeps this process from writing into a directory until the test ends.
func makeReadOnly(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o755) })
		return
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("root is kept from writing by a mount only, and cannot mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

func TestBadDeployments(t *testing.T) {
	w := newBench(t)
	good := w.deployment("d-1", "x")
	for name, spoil := range map[string]func(*Deployment){
		"id":            func(d *Deployment) { d.ID = "../x" },
		"group":         func(d *Deployment) { d.GroupID = "" },
		"application":   func(d *Deployment) { d.ApplicationName = "" },
		"stop failure":  func(d *Deployment) { d.StopFailure = "maybe" },
		"event twice":   func(d *Deployment) { d.Events = events("Install Install") },
		"event's name":  func(d *Deployment) { d.Events = events("../Install") },
		"no bundle":     func(d *Deployment) { d.Source = Source{} },
		"remove bundle": func(d *Deployment) { d.Remove = true },
	} {
		d := good
		spoil(&d)
		if _, err := w.applier().Apply(context.Background(), d, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestStateVersion(t *testing.T) {
	w := newBench(t)
	w.applier()
	if err := os.WriteFile(filepath.Join(w.dir, "state", "version"), []byte("gitopsd apply 9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(w.options()); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Error(err)
	}
}

func TestMergeContext(t *testing.T) {
	for _, c := range []struct{ old, typ, user, level, want string }{
		{"system_u:object_r:var_t:s0\x00", "etc_t", "", "", "system_u:object_r:etc_t:s0"},
		{"system_u:object_r:var_t", "etc_t", "me_u", "s0:c1,c2", "me_u:object_r:etc_t:s0:c1,c2"},
		{"nonsense", "etc_t", "", "", ""},
	} {
		got, err := mergeContext(c.old, &plan.Context{User: c.user, Type: c.typ, Range: c.level})
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: %q %v", c.old, got, err)
		}
	}
}

func FuzzDecodeStory(f *testing.F) {
	f.Add([]byte(`{"v":1,"boot":"x","events":[{"event":"Install","status":"InProgress"}],"install":"staging"}`))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeStory([][]byte{data, data})
		if err == nil && s.events == nil {
			t.Fatal("a story without events")
		}
	})
}

// TestSyncsDoNotFollowFiles counts what goes to the disk: a sync for each file would make trees of small files ten times slower.
func TestSyncsDoNotFollowFiles(t *testing.T) {
	syncs := func(files int) (count int) {
		w := newBench(t)
		tree := map[string]string{"appspec.yml": plainSpec}
		for i := range files {
			tree[fmt.Sprintf("a/d%d/f%d", i%40, i)] = "x"
		}
		o := w.options()
		o.Disk = &durable.Disk{Hook: func(op durable.Op) error {
			if strings.HasPrefix(op.Kind, "sync") {
				count++
			}
			return nil
		}}
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if res := w.apply(a, w.deployment("d-1", w.bundle(tree))); res.Outcome != OutcomeSucceeded {
			t.Fatal(res.Error)
		}
		return count
	}
	few, many := syncs(40), syncs(2000)
	if few != many || many == 0 || many > 10+40 {
		t.Errorf("40 files are synced with %d calls and 2,000 in the same 40 directories with %d, want the same and at most 50", few, many)
	}
}
