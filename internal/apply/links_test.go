package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/durable"
)

func (w *workbench) link(path, target string) {
	w.t.Helper()
	full := filepath.Join(w.target, path)
	if err := os.Remove(full); err != nil && !isMissing(err) {
		w.t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.Symlink(target, full)); err != nil {
		w.t.Fatal(err)
	}
}

// Install goes on and is undone where it began, wherever a link on the way leads by then.
func TestLinkIsRepointedDuringInstall(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	w.write("one/old", "")
	w.write("two/new", "a user's")
	w.link("cur", "one")
	spec := strings.ReplaceAll(plainSpec, "/app", "/cur")
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": spec, "a/both": "1", "a/gone": "1"})))
	before := w.tree()
	d := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": spec, "a/both": "2", "a/new": "2"}))
	for _, kind := range []string{"stage", "place", "save", "remove", "restore"} {
		for _, decision := range []Decision{Undo, Continue} {
			d.ID = "d-" + kind + string(decision)
			a := w.applier()
			cut, failed := false, false
			a.opts.Disk = &durable.Disk{Hook: func(op durable.Op) error {
				switch {
				case kind == "restore" && op.Kind == "place" && strings.HasSuffix(op.Path, "/new"):
					failed = true
					return errors.New("a fault")
				case cut || op.Kind == kind && (kind != "place" || strings.HasSuffix(op.Path, "/new")):
					cut = true
					return durable.ErrCut
				}
				return nil
			}}
			if _, err := a.Apply(context.Background(), d, nil); !errors.Is(err, durable.ErrCut) || failed != (kind == "restore") {
				t.Fatalf("%s: %v %v", kind, err, failed)
			}
			w.link("cur", "two")
			if decision == Continue { // a refusal, as a file is in the way there
				settleOn(t, w.applier(), d, decision)
			} else if _, err := w.applier().Resume(context.Background(), d.Key(), Undo, nil); err != nil {
				t.Fatal(err)
			}
			w.link("cur", "one")
			if now := w.tree(); now != before {
				t.Fatalf("cut at %s, %s:\n%s\nand was\n%s", kind, decision, now, before)
			}
		}
	}
}

// A directory that a link makes look like ours is another group's, and is not replaced.
func TestDirectoryOfAnotherGroupIsNotReplaced(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	w.write("one/x", "")
	w.write("two/x", "")
	w.link("cur", "one")
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/cur"), "a/d/f": "same"})))
	other := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/two"), "a/d/f": "same"}))
	other.GroupID, other.ApplicationName = "g2", "other"
	w.succeed(other)
	w.link("cur", "two")
	d := w.deployment("d-3", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/cur"), "a/d": "a file now"}))
	d.LiveGroups = []string{"g1", "g2"}
	if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed {
		t.Errorf("%s", w.tree())
	}
	w.has("two/d/f", "same")
}

// A link that is repointed to where another group deploys takes nothing away from
// that group, which spells its files without it.
func TestRepointedLinkTakesNoFile(t *testing.T) {
	t.Parallel()
	for _, root := range []string{"", "above"} {
		w := newBench(t)
		w.write("one/x", "")
		w.write("two/x", "")
		w.link("cur", "one")
		if root != "" {
			if err := os.Symlink(w.target, filepath.Join(w.dir, root)); err != nil {
				t.Fatal(err)
			}
			w.target = filepath.Join(w.dir, root)
		}
		first := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/cur"), "a/f": "same"}))
		other := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/two"), "a/f": "same"}))
		other.GroupID, other.ApplicationName = "g2", "other"
		first.LiveGroups, other.LiveGroups = []string{"g1", "g2"}, []string{"g1", "g2"}
		w.succeed(first)
		w.succeed(other)
		w.link("cur", "two")
		other.ID = "d-3"
		w.succeed(other)
		first.ID = "d-4"
		if res := w.apply(w.applier(), first); res.Error == nil || !strings.Contains(res.Error.Message, "belongs to group g2") {
			t.Errorf("%+v", res.Error)
		}
		first.ID, first.Source, first.Remove = "d-5", Source{}, true
		w.succeed(first)
		w.has("two/f", "same")
	}
}

// Links that nobody deployed lead into what this revision replaces.
func TestLinkLeadsIntoWhatIsReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first, second string
		target        string
	}{
		"a directory becomes a file":   {"a/d/f", "a/d", "d/x"},
		"a directory is removed":       {"a/d/f", "a/e", "d/x"},
		"a file becomes a directory":   {"a/d", "a/d/f", "d"},
		"a file is removed":            {"a/d", "a/e", "d"},
		"to a directory that is new":   {"a/e", "a/d/f", "d/x"},
		"to a file that is new":        {"a/e", "a/x", "x"},
		"to itself":                    {"a/e", "a/x", "z"},
		"out of a removed directory":   {"a/d/f", "a/e", "d/../x"},
		"to a file in a kept one":      {"a/d/f", "a/d/g", "d/f"},
		"to the directory it is in":    {"a/e", "a/x", "."},
		"to a file that stays as ours": {"a/e", "a/e", "e"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, behavior := range []string{"DISALLOW", "OVERWRITE", "RETAIN"} {
				w := newBench(t)
				spec := plainSpec + "file_exists_behavior: " + behavior + "\n"
				w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": spec, c.first: "1"})))
				w.link("app/z", c.target)
				before := w.tree()
				d := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": spec, c.second: "2", "a/z": "through"}))
				report, err := w.applier().Preflight(context.Background(), d)
				if err != nil {
					t.Fatal(err)
				}
				res := w.apply(w.applier(), d)
				if report.OK != (res.Outcome == OutcomeSucceeded) {
					t.Errorf("%s: preflight %v, Install %v", behavior, report, res.Error)
				}
				if res.Outcome != OutcomeSucceeded {
					if w.tree() != before {
						t.Errorf("%s: the tree is\n%s\nand was\n%s", behavior, w.tree(), before)
					}
					continue
				}
				w.vouch("g1")
				gone := w.deployment("d-3", "")
				gone.Source, gone.Remove = Source{}, true
				w.succeed(gone)
				w.link("app/z", "nowhere")
				os.Remove(filepath.Join(w.target, "app/z"))
				os.Remove(filepath.Join(w.target, "app"))
				if left := w.tree(); left != "" {
					t.Errorf("%s: left\n%s", behavior, left)
				}
			}
		})
	}
}

// A link that leads to where files go changes by the very revision that sends them
// there: where they would be afterwards is not where they were to be.
func TestLinkOnTheWayIsReplaced(t *testing.T) {
	t.Parallel()
	spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /app}, {source: b, destination: /far/way}]\n"
	for name, c := range map[string]struct {
		link          string // /far/way, somebody's
		first, second map[string]string
		installs      bool
	}{
		"to another directory":       {"../app/cur", map[string]string{"a/cur": "-> TARGET/one"}, map[string]string{"a/cur": "-> TARGET/two"}, false},
		"gone":                       {"../app/cur", map[string]string{"a/cur": "-> TARGET/one"}, map[string]string{"a/x": "1"}, false},
		"by a file":                  {"../app/cur", map[string]string{"a/cur": "-> TARGET/one"}, map[string]string{"a/cur": "1"}, false},
		"the same":                   {"../app/cur", map[string]string{"a/cur": "-> TARGET/one"}, map[string]string{"a/cur": "-> TARGET/one"}, true},
		"a directory by a file":      {"../app/d", map[string]string{"a/d/x": "1"}, map[string]string{"a/d": "1"}, false},
		"a directory by a link":      {"../app/d", map[string]string{"a/d/x": "1"}, map[string]string{"a/d": "-> TARGET/one"}, false},
		"one further down by a file": {"../app", map[string]string{"a/d/x": "1"}, map[string]string{"a/d": "1"}, true},
		"one that stays empty":       {"../app/e/way", map[string]string{"a/e/way/x": "1"}, map[string]string{"a/x": "1", "b/f": ""}, true},
		"a directory that is gone":   {"../app/d", map[string]string{"a/d/x": "1"}, map[string]string{"a/x": "1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newBench(t)
			w.write("one/x", "")
			w.write("two/f", "a user's")
			for i, files := range []map[string]string{c.first, c.second} {
				for p, text := range files {
					files[p] = strings.ReplaceAll(text, "TARGET", w.target)
				}
				files["appspec.yml"] = spec
				if text, given := files["b/f"]; given && text == "" {
					delete(files, "b/f")
					files["appspec.yml"] = strings.Replace(spec, "{source: b, destination: /far/way}", "{source: a, destination: /far/way/..}", 1)
				} else {
					files["b/f"] = "sent"
				}
				if i > 0 {
					break
				}
				files["appspec.yml"] = plainSpec
				w.succeed(w.deployment("d-1", w.bundle(files)))
				w.link("far/way", c.link)
			}
			before := w.tree()
			d := w.deployment("d-2", w.bundle(c.second))
			report, err := w.applier().Preflight(context.Background(), d)
			if err != nil {
				t.Fatal(err)
			}
			res := w.apply(w.applier(), d)
			if report.OK != c.installs || (res.Outcome == OutcomeSucceeded) != c.installs {
				t.Fatalf("preflight %v, Install %v\n%s", report.Problems, res.Error, w.tree())
			}
			if !c.installs {
				if w.tree() != before {
					t.Errorf("the tree is\n%s\nand was\n%s", w.tree(), before)
				}
				return
			}
			w.vouch("g1")
			if files := c.second; files["b/f"] != "" {
				w.has("far/way/f", "sent")
			}
			d.ID = "d-3"
			w.succeed(d)
			d.ID, d.Source, d.Remove = "d-4", Source{}, true
			w.succeed(d)
			w.lacks("app")
		})
	}
}

// A link of the old revision becomes a directory; links where it led say nothing
// of what is in the new one.
func TestLinksBehindALinkThatGoes(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	w.write("else/where", "")
	w.link("out/sub", "../else")
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/data": "-> " + w.target + "/out", "a/self": "-> " + w.target + "/app"})))
	for _, id := range []string{"d-2", "d-3"} {
		w.succeed(w.deployment(id, w.bundle(map[string]string{"appspec.yml": plainSpec, "a/data/sub/f": "1", "a/self/self/self/f": "2"})))
		w.has("app/data/sub/f", "1")
		w.has("app/self/self/self/f", "2")
		w.lacks("else/f")
		w.vouch("g1")
	}
}

// A link of ours is where another group's way led before: its files are where
// that leads.
func TestAnotherGroupDeploysThroughOurLink(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	w.write("out/x", "")
	w.link("app/data", "../out")
	other := w.deployment("d-2", w.bundle(map[string]string{"appspec.yml": strings.ReplaceAll(plainSpec, "/app", "/app/data"), "a/f": "theirs"}))
	other.GroupID, other.ApplicationName = "g2", "other"
	w.succeed(other)
	w.has("out/f", "theirs")
	if err := os.Remove(filepath.Join(w.target, "app/data")); err != nil {
		t.Fatal(err)
	}
	w.succeed(w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": plainSpec, "a/data": "-> " + w.target + "/out"})))
	for _, dest := range []string{"/out", "/app/data"} {
		spec := strings.ReplaceAll(plainSpec, "/app", dest) + "file_exists_behavior: OVERWRITE\n"
		d := w.deployment("d"+strings.ReplaceAll(dest, "/", "-"), w.bundle(map[string]string{"appspec.yml": spec, "a/f": "ours"}))
		if res := w.apply(w.applier(), d); res.Error == nil || !strings.Contains(res.Error.Message, "belongs to group g2") {
			t.Errorf("%s: %+v", dest, res.Error)
		}
		w.has("out/f", "theirs")
	}
}

// vouch wants all that a group has in place to be there.
func (w *workbench) vouch(group string) {
	w.t.Helper()
	entries, err := Installed(filepath.Join(w.dir, "state"), group)
	if err != nil {
		w.t.Error(err)
	}
	h := newHost()
	for _, e := range entries {
		if n := h.Lstat(e.Path); n.Kind != e.Kind || n.Kind == plan.Link && n.Target != e.Target || n.Kind == plan.File && !h.Same(e) {
			w.t.Errorf("%s is to be a %s, not %s", e.Path, e.Kind, n.Kind)
		}
	}
}

// A path longer than the kernel takes is refused, and not walked through.
func TestEndlessPaths(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	long := strings.Repeat("/"+strings.Repeat("d", 200), 20)
	for i, c := range []struct {
		destination, object, file string
		installs                  bool
	}{
		{strings.Repeat("/a", 400_000), "/app", "f", false},
		{"/" + strings.Repeat("x", 256), "/app", "f", false},
		{"/" + strings.Repeat("x", 255), "/app", "f", true},
		{strings.Repeat("/..", 300_000) + "/app", "/app", "f", false},
		{strings.Repeat("/..", 1000) + "/app", "/app", "f", true},
		{long, "/app", "sub/" + strings.Repeat("f", 200), false},
		{"/app", strings.Repeat("/a", 400_000), "g", true},
	} {
		spec := fmt.Sprintf("version: 0.0\nos: linux\nfiles: [{source: a, destination: %s}]\npermissions: [{object: %s, mode: '600'}]\n", c.destination, c.object)
		d := w.deployment(fmt.Sprintf("d-%d", i), w.bundle(map[string]string{"appspec.yml": spec, "a/" + c.file: "1"}))
		report, err := w.applier().Preflight(context.Background(), d)
		if err != nil {
			t.Fatal(err)
		}
		res := w.apply(w.applier(), d)
		if report.OK != c.installs || (res.Outcome == OutcomeSucceeded) != c.installs {
			t.Errorf("%d: preflight %v, Install %v", i, report.OK, res.Error)
		}
	}
}
