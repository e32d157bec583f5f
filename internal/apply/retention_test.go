package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// keeping is an applier with bounds on what it keeps.
func keeping(t *testing.T, w *workbench, r Retention) *Applier {
	t.Helper()
	o := w.options()
	o.Retention = func() Retention { return r }
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// releaseIDs lists the group's releases, newest first.
func releaseIDs(t *testing.T, a *Applier) string {
	t.Helper()
	list, err := a.Releases("g1")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range list {
		ids = append(ids, r.DeploymentID)
	}
	return strings.Join(ids, " ")
}

// age makes releases and deployments older.
func age(t *testing.T, a *Applier, by time.Duration, ids ...string) {
	t.Helper()
	for _, id := range ids {
		k := Key{"g1", id, 1}
		info, err := a.release(k)
		if err != nil {
			t.Fatal(err)
		}
		info.Created = time.Now().Add(-by)
		if err := a.writeRelease(a.releaseDir(k), info); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(a.deploymentDir(k), "deployment.json"), info.Created, info.Created); err != nil {
			t.Fatal(err)
		}
	}
}

// sized is a revision of so many bytes.
func sized(bytes int) map[string]string {
	return map[string]string{"appspec.yml": plainSpec, "a/f": strings.Repeat("x", bytes)}
}

func TestOldReleasesGo(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{ReleaseAge: 24 * time.Hour})
	for i := range 4 {
		w.apply(a, w.deployment(fmt.Sprintf("d-%d", i), w.bundle(sized(10))))
	}
	age(t, a, 25*time.Hour, "d-0", "d-2")
	age(t, a, -25*time.Hour, "d-1") // from before the clock was set back
	w.apply(a, w.deployment("d-4", w.bundle(sized(11))))
	if got := releaseIDs(t, a); got != "d-4 d-3 d-1" {
		t.Errorf("releases %s", got)
	}
}

func TestReleasesBeyondTheBytesGo(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{ReleaseBytes: 3500})
	for i := range 4 {
		w.apply(a, w.deployment(fmt.Sprintf("d-%d", i), w.bundle(sized(1000))))
	}
	if got := releaseIDs(t, a); got != "d-3 d-2 d-1" {
		t.Errorf("releases %s", got)
	}
	w.apply(a, w.deployment("d-4", w.bundle(sized(10000))))
	if got := releaseIDs(t, a); got != "d-4" {
		t.Errorf("releases %s", got)
	}
}

// Whatever the bounds say, the running and the last good release stay, also
// where they are two; and going back to the last good one needs no bundle.
func TestBoundsSpareRunningAndLastGood(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Retention{
		"bytes": {ReleaseBytes: 1, LogBytes: 1}, "age": {ReleaseAge: time.Minute, LogAge: time.Minute}, "number": {},
	} {
		w := newBench(t)
		a := keeping(t, w, r)
		good := w.deployment("d-good", w.bundle(version("good", "HOOK")))
		w.apply(a, good)
		before := w.tree()
		bad := w.bundle(version("bad", "HOOK; exit 1"))
		for i := range 3 {
			d := w.deployment(fmt.Sprintf("d-bad%d", i), bad)
			d.MaxRevisions = 1
			w.apply(a, d)
			age(t, a, time.Hour, "d-good", d.ID)
		}
		if got := releaseIDs(t, a); got != "d-bad2 d-good" {
			t.Fatalf("%s: releases %s", name, got)
		}
		list, err := a.Releases("g1")
		if err != nil || !list[0].Installed || !list[1].Good {
			t.Fatalf("%s: %+v %v", name, list, err)
		}
		for _, source := range []string{good.Source.Path, bad} {
			if err := os.RemoveAll(source); err != nil {
				t.Fatal(err)
			}
		}
		from := good.Key()
		back := w.deployment("d-back", "")
		back.Source, back.MaxRevisions = Source{Release: &from}, 1
		if res := w.apply(a, back); res.Outcome != OutcomeSucceeded {
			t.Fatalf("%s: %+v", name, res.Error)
		}
		if got := w.tree(); got != before {
			t.Errorf("%s: going back left\n%s\nand not\n%s", name, got, before)
		}
		w.once()
	}
}

// A release whose record makes no sense is of use to nobody: it goes with the next
// ones, unless it is one that must stay, and does not keep the others from going.
func TestReleasesWithDamagedRecords(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{})
	damage := func(id string) string {
		dir := a.releaseDir(Key{"g1", id, 1})
		if err := os.WriteFile(filepath.Join(dir, "release.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	deploy := func(id, hook string) {
		d := w.deployment(id, w.bundle(version(id, hook)))
		d.MaxRevisions = 2
		w.apply(a, d)
	}
	deploy("d-1", "HOOK")
	deploy("d-2", "HOOK")
	old := damage("d-1")
	deploy("d-3", "HOOK")
	if exists(old) {
		t.Error("a release that cannot be read stays")
	}
	good := damage("d-3")
	for _, id := range []string{"d-4", "d-5", "d-6", "d-7"} {
		deploy(id, "HOOK; exit 1")
	}
	if got := releaseIDs(t, a); len(strings.Fields(got)) > 2 {
		t.Errorf("releases %s", got)
	}
	if !exists(good) || !a.Unpacked("g1", "d-3") || a.Unpacked("g1", "d-1") {
		t.Errorf("the last good release is there: %v", exists(good))
	}
}

// ofSpec is a deployment of a spec of the config repository.
func (w *workbench) ofSpec(id, spec string, files map[string]string) Deployment {
	d := w.deployment(id, w.bundle(files))
	d.SpecHash = spec
	return d
}

// A revision that fails and is rolled back, again and again, was five releases
// soon: the one before the last good one was gone with its bundle.
func TestRepeatedDeploymentsDisplaceNoRevision(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{})
	good, bad := version("good", "HOOK"), version("bad", "HOOK; exit 1")
	w.apply(a, w.ofSpec("d-1", "one", good))
	w.apply(a, w.ofSpec("d-4", "four", good))
	for i := range 4 {
		w.apply(a, w.ofSpec(fmt.Sprintf("d-5%d", i), "five", bad))
		if got := len(strings.Fields(releaseIDs(t, a))); got > 5 {
			t.Errorf("%d releases of three revisions stay: %s", got, releaseIDs(t, a))
		}
		w.apply(a, w.ofSpec(fmt.Sprintf("d-4%d", i), "four", good))
	}
	if got := releaseIDs(t, a); got != "d-43 d-53 d-42 d-52 d-1" {
		t.Errorf("releases %s", got)
	}
	w.apply(a, w.ofSpec("d-6", "six", good))
	w.apply(a, w.ofSpec("d-7", "seven", good))
	if got := releaseIDs(t, a); got != "d-7 d-6 d-43 d-53 d-1" {
		t.Errorf("releases of five revisions %s", got)
	}
	w.apply(a, w.ofSpec("d-8", "eight", bad))
	if got := releaseIDs(t, a); got != "d-8 d-7 d-6 d-43 d-53" {
		t.Errorf("the last five revisions are not %s", got)
	}
}

// What ran well is kept rather than a later deployment of it that failed: a host
// goes back alone only to what ran well on it.
func TestReleaseThatRanWellOutlivesFailuresOfItsRevision(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{})
	good, bad := version("good", "HOOK"), version("bad", "HOOK; exit 1")
	for _, d := range []Deployment{
		w.ofSpec("d-1", "one", good), w.ofSpec("d-1-bad", "one", bad), w.ofSpec("d-2", "two", good), w.ofSpec("d-3", "three", good),
	} {
		d.MaxRevisions = 3
		w.apply(a, d)
	}
	if got := releaseIDs(t, a); got != "d-3 d-2 d-1" {
		t.Errorf("releases %s", got)
	}
}

// A release that is unpacked for a deployment to come is no repetition.
func TestPreparedReleaseStaysBesideTheOneBefore(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{})
	for i := range 3 {
		d := w.ofSpec(fmt.Sprintf("d-%d", i), fmt.Sprint("spec-", i), version("good", "HOOK"))
		d.MaxRevisions = 3
		w.apply(a, d)
	}
	for _, i := range []int{0, 2} {
		d := w.ofSpec(fmt.Sprintf("prepare-%d", i), fmt.Sprint("spec-", i), version("good", "HOOK"))
		d.MaxRevisions = 3
		if _, err := a.Preflight(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if got := releaseIDs(t, a); got != "prepare-2 prepare-0 d-2 d-1 d-0" {
		t.Errorf("releases %s", got)
	}
}

// Beyond the bytes repetitions go first, too.
func TestRepetitionsGoBeforeRevisionsBeyondTheBytes(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{ReleaseBytes: 3500})
	for i, spec := range []string{"one", "two", "two", "two"} {
		w.apply(a, w.ofSpec(fmt.Sprintf("d-%d", i), spec, sized(1000)))
	}
	if got := releaseIDs(t, a); got != "d-3 d-2 d-0" {
		t.Errorf("releases %s", got)
	}
}

// logged tells of which deployments there is output.
func logged(a *Applier, ids []string) string {
	var out []string
	for _, id := range ids {
		if exists(filepath.Join(a.hookDir(Key{"g1", id, 1}, appspec.ApplicationStart, ownVariant), headFile)) {
			out = append(out, id)
		}
	}
	return strings.Join(out, " ")
}

func TestOutputIsKeptWithinBounds(t *testing.T) {
	t.Parallel()
	ids := []string{"d-0", "d-1", "d-2", "d-3", "d-4"}
	for want, r := range map[string]Retention{
		"d-0 d-1 d-2 d-3 d-4": {},
		"d-3 d-4":             {LogBytes: 250 << 10},
		"d-4":                 {LogBytes: 1},
		"d-1 d-3 d-4":         {LogAge: time.Hour},
	} {
		w := newBench(t)
		a := keeping(t, w, r)
		talks := w.bundle(hooked("head -c 100000 /dev/zero | tr '\\0' x | fold -w 99", ""))
		for _, id := range ids {
			if id == "d-4" {
				age(t, a, 2*time.Hour, "d-0", "d-2")
			}
			w.apply(a, w.deployment(id, talks))
		}
		if got := logged(a, ids); got != want {
			t.Errorf("%+v keeps the output of %s, not of %s", r, got, want)
		}
		if got := releaseIDs(t, a); got != "d-4 d-3 d-2 d-1 d-0" {
			t.Errorf("releases %s", got)
		}
		if res, err := a.recorded(Key{"g1", "d-0", 1}); err != nil || res.Outcome != OutcomeSucceeded {
			t.Errorf("%+v %v", res, err)
		}
	}
}

// Deployments without a release keep their output for a while.
func TestNumberOfJournalsIsBounded(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := keeping(t, w, Retention{})
	dir := w.bundle(hooked("HOOK", ""))
	for i := range deploymentsKept + 4 {
		d := w.deployment(fmt.Sprintf("d-%02d", i), dir)
		d.MaxRevisions = 1
		w.apply(a, d)
	}
	keys, err := a.deployments("g1")
	if err != nil || len(keys) != deploymentsKept+1 || slices.Contains(keys, Key{"g1", "d-02", 1}) || !slices.Contains(keys, Key{"g1", "d-03", 1}) {
		t.Errorf("%v %v", keys, err)
	}
}
