package apply

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// version is a revision of one application with a hook.
func version(text, script string) map[string]string {
	return map[string]string{
		"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /app}]\nhooks:\n  ApplicationStart: [{location: s.sh}]\n",
		"s.sh":        script, "f": text,
	}
}

// damages are ways in which a journal loses what it says.
var damages = map[string]func(t *testing.T, path string){
	"flipped": func(t *testing.T, path string) {
		data := readFile(t, path)
		data[40] ^= 0xff
		writeFile(t, path, data)
	},
	"emptied":   func(t *testing.T, path string) { writeFile(t, path, nil) },
	"truncated": func(t *testing.T, path string) { truncateTo(t, path, 1) },
	"cut short": func(t *testing.T, path string) {
		if err := os.Truncate(path, 100); err != nil {
			t.Fatal(err)
		}
	},
	"gone": func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	},
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// truncateTo leaves so many whole records in a journal.
func truncateTo(t *testing.T, path string, records int) {
	t.Helper()
	all, err := durable.ReadLog(path, recordMax)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(8)
	for _, r := range all[:records] {
		size += 8 + int64(len(r))
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// The journal of any ended deployment may be damaged: the group goes on, and no
// hook runs again.
func TestDamagedJournalsStopNothing(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		for which, id := range []string{"d-1", "d-2"} {
			for _, good := range []bool{true, false} {
				w := newBench(t)
				for i, text := range []string{"one", "two"} {
					d := w.deployment([]string{"d-1", "d-2"}[i], w.bundle(version(text, "HOOK")))
					d.HoldGood = !good
					w.succeed(d)
				}
				a := w.applier()
				k := Key{"g1", id, 1}
				damage(t, a.journalFile(k))
				found, err := a.Mend()
				if err != nil || len(found) != 1 || found[0].Key != k || found[0].Blocked {
					t.Fatalf("%s of %s: %+v %v", name, id, found, err)
				}
				if name != "gone" && !exists(found[0].Aside) {
					t.Errorf("%s of %s: %q is not there", name, id, found[0].Aside)
				}
				wantEnded := good || which == 0
				if found[0].Ended != wantEnded {
					t.Errorf("%s of %s: ended %v, want %v", name, id, found[0].Ended, wantEnded)
				}
				if again, err := a.Mend(); err != nil || len(again) != 0 {
					t.Errorf("%s of %s: mended again: %+v %v", name, id, again, err)
				}
				pending, err := a.Pending()
				if err != nil || len(pending) == 0 != wantEnded {
					t.Fatalf("%s of %s: pending %+v %v", name, id, pending, err)
				}
				res, err := a.Resume(context.Background(), k, Undo, nil)
				if err != nil || (res.Outcome == OutcomeSucceeded) != good || res.Undone {
					t.Errorf("%s of %s: %+v %v", name, id, res, err)
				}
				if res.Error != nil && res.Error.Code != CodeAgentRestart {
					t.Errorf("%s of %s: code %d", name, id, res.Error.Code)
				}
				w.succeed(w.deployment("d-3", w.bundle(version("three", "HOOK"))))
				if text := string(readFile(t, filepath.Join(w.target, "app/f"))); text != "three" {
					t.Errorf("%s is in place", text)
				}
				w.once()
			}
		}
	}
}

// A journal that is damaged while the program runs stops the next deployment as
// little as one found at its start.
func TestJournalDamagedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := w.applier()
	d := w.deployment("d-1", w.bundle(version("one", "HOOK")))
	d.HoldGood = true
	w.apply(a, d)
	damages["flipped"](t, a.journalFile(d.Key()))
	if res := w.apply(a, w.deployment("d-2", w.bundle(version("two", "HOOK")))); res.Outcome != OutcomeSucceeded {
		t.Fatal(res.Error)
	}
	w.once()
}

// The journal of a deployment is damaged while it is interrupted in a hook, and the
// same deployment is asked for again: it ends as failed, and no hook runs again.
func TestSameDeploymentAfterItsJournalIsDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		w := newBench(t)
		d, started, goOn := slowHook(w)
		interrupted(t, w, d, started)
		a := w.applier()
		damage(t, a.journalFile(d.Key()))
		writeFile(t, goOn, nil)
		if _, err := a.Apply(context.Background(), d, nil); !errors.Is(err, ErrPending) {
			t.Errorf("%s: applying again: %v", name, err)
		}
		if res, err := a.Resume(context.Background(), d.Key(), Continue, nil); err != nil || res.Outcome != OutcomeFailed || res.Error.Code != CodeAgentRestart {
			t.Errorf("%s: %+v %v", name, res, err)
		}
		w.once()
	}
}

// A journal that is lost between two looks at it does not make Resume begin anew,
// and without the deployment's own file too nothing of it is run or removed.
func TestJournalLostBeforeResume(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	d, started, goOn := slowHook(w)
	interrupted(t, w, d, started)
	a := w.applier()
	writeFile(t, goOn, nil)
	damages["gone"](t, a.journalFile(d.Key()))
	if res, err := a.Resume(context.Background(), d.Key(), Continue, nil); err != nil || res.Outcome != OutcomeFailed {
		t.Errorf("%+v %v", res, err)
	}
	damages["gone"](t, a.journalFile(d.Key()))
	damages["gone"](t, filepath.Join(a.deploymentDir(d.Key()), "deployment.json"))
	if res, err := a.Apply(context.Background(), d, nil); err == nil {
		t.Errorf("it was begun anew: %+v", res)
	}
	w.once()
}

// A file of the state that is not needed to take an Install back is damaged while
// one is half done: the old version is restored, and the group goes on.
func TestDamagedStateStopsNoUndo(t *testing.T) {
	t.Parallel()
	for _, file := range []string{goodFile, recentFile, "releases/d-new.1/release.json", "releases/d-old.1/release.json"} {
		h := newCrashHost(t, false)
		a := h.applier()
		a.opts.Disk = &durable.Disk{Hook: cutAfter("place", 2)}
		if _, err := a.Apply(context.Background(), h.d, nil); !errors.Is(err, durable.ErrCut) {
			t.Fatalf("not cut: %v", err)
		}
		if h.tree() == h.old {
			t.Fatal("nothing was put in place")
		}
		a = h.applier()
		writeFile(t, filepath.Join(a.groupDir("g1"), file), []byte("{"))
		if res, err := a.Resume(context.Background(), h.d.Key(), Undo, nil); err != nil || res.Outcome != OutcomeFailed {
			t.Errorf("%s: %+v %v", file, res, err)
		}
		if got := h.tree(); got != h.old {
			t.Errorf("%s: the tree is not\n%s\nbut\n%s", file, h.old, got)
		}
		again := h.d
		again.ID = "d-again"
		h.succeed(again)
	}
}

// What a group has in place is known from its last plan too: a damaged record
// stops neither the group nor its neighbours, and no file is forgotten.
func TestDamagedRecordOfWhatIsInPlace(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"without its end": func(all []byte) []byte { return all[:len(all)-8] },
		"header":          func(all []byte) []byte { return append([]byte("{,"), all[2:]...) },
		"entry":           func(all []byte) []byte { return bytes.Replace(all, []byte(`"path"`), []byte(`"path`), 1) },
	} {
		w := newBench(t)
		w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "a/g": "1"})))
		failed := map[string]string{"appspec.yml": plainSpec + "hooks: {AfterInstall: [{location: h}]}\n", "h": "exit 1", "a/f": "2", "a/h": "2"}
		if res := w.apply(w.applier(), w.deployment("d-2", w.bundle(failed))); res.Outcome != OutcomeFailed {
			t.Fatal(res)
		}
		file := w.applier().installedFile("g1")
		writeFile(t, file, damage(readFile(t, file)))
		other := w.deployment("d-3", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "3"}))
		other.GroupID, other.ApplicationName = "g2", "other"
		if res := w.apply(w.applier(), other); res.Error == nil || !strings.Contains(res.Error.Message, "belongs to group g1 of application app") {
			t.Errorf("%s: a neighbour: %+v", name, res.Error)
		}
		other.ID, other.Source.Path = "d-4", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/elsewhere"), "a/f": "3"})
		w.succeed(other)
		if list, err := Installed(w.applier().opts.StateDir, "g1"); err != nil || len(list) != 3 {
			t.Errorf("%s: in place are %v (%v)", name, list, err)
		}
		w.succeed(w.deployment("d-5", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "5"})))
		w.has("app/f", "5")
		w.lacks("app/g")
		w.lacks("app/h")
		if list, err := Installed(w.applier().opts.StateDir, "g1"); err != nil || len(list) != 2 {
			t.Errorf("%s: in place are %v (%v)", name, list, err)
		}
		writeFile(t, file, nil)
		writeFile(t, w.applier().journalFile(Key{"g1", "d-5", 1}), nil)
		if _, err := Installed(w.applier().opts.StateDir, "g1"); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "cannot be made anew") {
			t.Errorf("%s: both are damaged: %v", name, err)
		}
	}
}

// What was taken over from a group does not come back to it: its last plan tells
// what it had, but there is no record left that could be damaged.
func TestRecordOfADisownedGroup(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1", "a/g": "1"})))
	successor := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "2"}))
	successor.GroupID = "g2"
	w.succeed(successor)
	if file := w.applier().installedFile("g1"); exists(file) {
		writeFile(t, file, nil)
	}
	if list, err := Installed(w.applier().opts.StateDir, "g1"); err != nil || len(list) != 0 {
		t.Errorf("in place are %v (%v)", list, err)
	}
	other := w.deployment("d-3", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/g": "3"}))
	other.GroupID, other.ApplicationName = "g3", "other"
	w.succeed(other)
}

// cutAfter cuts the power after so many operations of a kind.
func cutAfter(kind string, count int) func(durable.Op) error {
	seen := 0
	return func(op durable.Op) error {
		if seen == count {
			return durable.ErrCut
		}
		if op.Kind == kind {
			seen++
		}
		return nil
	}
}

// A deployment without a bundle has no release to lose: one that was cut short
// is gone on with.
func TestResumeWithoutABundle(t *testing.T) {
	w := newBench(t)
	w.succeed(w.deployment("d-1", w.bundle(version("one", "HOOK"))))
	a := w.applier()
	d := w.deployment("d-2", "")
	d.Source, d.Remove = Source{}, true
	ctx, cancel := context.WithCancel(context.Background())
	d.Begin = func(context.Context) error { cancel(); return nil }
	if _, err := a.Apply(ctx, d, nil); !errors.Is(err, ErrInterrupted) {
		t.Fatalf("interrupted: %v", err)
	}
	if res, err := a.Resume(context.Background(), d.Key(), Continue, nil); err != nil || res.Outcome != OutcomeSucceeded {
		t.Errorf("%+v %v", res, err)
	}
	if tree := w.tree(); tree != "" {
		t.Errorf("not removed:\n%s", tree)
	}
}

// The journal of a deployment whose hook runs is damaged: the hook is waited
// for, and nothing else is started.
func TestDamagedJournalOfARunningHook(t *testing.T) {
	w := newBench(t)
	d, started, goOn := slowHook(w)
	interrupted(t, w, d, started)
	a := w.applier()
	damages["flipped"](t, a.journalFile(d.Key()))
	if found, err := a.Mend(); err != nil || len(found) != 1 || found[0].Ended || !strings.Contains(found[0].String(), "counts as failed") {
		t.Fatalf("%+v %v", found, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Resume(ctx, d.Key(), Undo, nil); err == nil {
		t.Error("the hook was not waited for")
	}
	writeFile(t, goOn, nil)
	res, err := a.Resume(context.Background(), d.Key(), Continue, nil)
	if err != nil || res.Outcome != OutcomeFailed || res.Error.Code != CodeAgentRestart || !strings.Contains(statuses(res), "ApplicationStart=Succeeded") {
		t.Errorf("%+v %v", res, err)
	}
	w.once()
}

// A deployment is cut short at every operation and its journal damaged: the files
// are the old or the new ones, and the group goes on.
func TestDamagedJournalAtEveryOperation(t *testing.T) {
	t.Parallel()
	tree, operations := newTree(t, false)
	eachPoint(t, operations, func(t *testing.T, n int) int {
		if !sampled(4, "damage", n) {
			return 0
		}
		h := newCrashHost(t, false)
		h.new = tree
		o := h.options()
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		faults := &durable.Faults{}
		faults.CutAt(n, false)
		a.opts.Disk = &durable.Disk{Hook: faults.Hook}
		a.Apply(context.Background(), h.d, nil)
		a = h.applier()
		journal := a.journalFile(h.d.Key())
		if !exists(journal) {
			return 0
		}
		damages["emptied"](t, journal)
		h.cutMending(t, n)
		if found, err := a.Mend(); err != nil || len(found) > 1 || len(found) == 1 && found[0].Blocked {
			t.Fatalf("cut at %d: %+v %v", n, found, err)
		}
		if _, err := a.Resume(context.Background(), h.d.Key(), Undo, nil); err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if got := h.tree(); got != h.old && got != h.new {
			t.Fatalf("cut at %d: the tree is neither\n%s\nnor\n%s\nbut\n%s", n, h.old, h.new, got)
		}
		again := h.d
		again.ID = "d-again"
		h.succeed(again)
		if pending, err := a.Pending(); err != nil || len(pending) != 0 {
			t.Fatalf("cut at %d: pending %v %v", n, pending, err)
		}
		return 1
	})
}

// An Install that is cut short before the journal names its plan claims nothing
// any more once it is given up: another application may have the paths.
func TestUndoForgetsAClaim(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := w.applier()
	faults := &durable.Faults{}
	faults.Observe(func(n int, op durable.Op) {
		if strings.HasSuffix(op.Path, "plan.json") {
			faults.CutAt(n+1, false)
		}
	})
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	d := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "1"}))
	if _, err := a.Apply(context.Background(), d, nil); !errors.Is(err, durable.ErrCut) || !exists(a.claimFile("g1")) {
		t.Fatalf("no claim is there: %v", err)
	}
	a = w.applier()
	if _, err := a.Resume(context.Background(), d.Key(), Undo, nil); err != nil {
		t.Fatal(err)
	}
	other := w.deployment("d-2", d.Source.Path)
	other.GroupID, other.GroupName, other.ApplicationName = "g2", "other", "other"
	w.succeed(other)
}

// cutMending cuts the power while a journal is mended.
func (h *crashHost) cutMending(t *testing.T, n int) {
	t.Helper()
	faults := &durable.Faults{}
	a := h.applier()
	faults.CutAt(1+n%9, n%2 == 0)
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	if _, err := a.Mend(); err != nil {
		t.Fatal(err)
	}
	if !exists(a.journalFile(h.d.Key())) {
		t.Fatal("there is a moment without a journal")
	}
}

// A journal of a newer version is left alone; only its group is blocked.
func TestJournalOfAnotherVersionBlocksItsGroup(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	d := w.deployment("d-1", w.bundle(version("one", "HOOK")))
	w.succeed(d)
	a := w.applier()
	data := readFile(t, a.journalFile(d.Key()))
	data[7]++
	writeFile(t, a.journalFile(d.Key()), data)
	found, err := a.Mend()
	if err != nil || len(found) != 1 || !found[0].Blocked {
		t.Fatalf("%+v %v", found, err)
	}
	if _, err := a.Apply(context.Background(), w.deployment("d-2", d.Source.Path), nil); err == nil {
		t.Error("its group goes on")
	}
	other := w.deployment("d-2", w.bundle(hooked("HOOK", "")))
	other.GroupID, other.GroupName, other.ApplicationName = "g2", "other", "other"
	w.succeed(other)
}

// The order of deployments does not depend on the clock.
func TestSequenceIsNotTheClocks(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	for _, id := range []string{"d-9", "d-5", "d-7"} {
		w.succeed(w.deployment(id, w.bundle(hooked("HOOK", ""))))
	}
	a := w.applier()
	for day, id := range []string{"d-7", "d-5", "d-9"} { // as if the clock ran backwards
		k := Key{"g1", id, 1}
		when := time.Unix(1700000000, 0).AddDate(0, 0, day)
		if err := os.Chtimes(filepath.Join(a.deploymentDir(k), "deployment.json"), when, when); err != nil {
			t.Fatal(err)
		}
		info, err := a.release(k)
		if err != nil {
			t.Fatal(err)
		}
		info.Created = when
		if err := a.writeRelease(a.releaseDir(k), info); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := a.deployments("g1")
	if err != nil || len(keys) != 3 || keys[0].DeploymentID != "d-7" || keys[2].DeploymentID != "d-9" {
		t.Errorf("%v %v", keys, err)
	}
	releases, err := a.Releases("g1")
	if err != nil || len(releases) != 3 || releases[0].DeploymentID != "d-7" || releases[2].DeploymentID != "d-9" {
		t.Errorf("%v %v", releases, err)
	}
}

// The release of a deployment whose hook runs is lost: the hook is waited for,
// the deployment ends, and the group goes on.
func TestLostReleaseOfARunningHook(t *testing.T) {
	t.Parallel()
	for _, decision := range []Decision{Continue, Undo} {
		w := newBench(t)
		d, started, goOn := slowHook(w)
		interrupted(t, w, d, started)
		a := w.applier()
		if err := os.RemoveAll(filepath.Join(a.groupDir("g1"), "releases")); err != nil {
			t.Fatal(err)
		}
		writeFile(t, goOn, nil)
		res, err := a.Resume(context.Background(), d.Key(), decision, nil)
		if err != nil || res.Outcome != OutcomeFailed {
			t.Errorf("%s: %+v %v", decision, res, err)
		}
		if pending, err := a.Pending(); err != nil || len(pending) != 0 {
			t.Errorf("%s: pending %+v %v", decision, pending, err)
		}
		next := w.deployment("d-3", w.bundle(version("three", "HOOK")))
		next.FileExistsBehavior = appspec.Overwrite // what is in place is nobody's any more
		w.succeed(next)
	}
}
