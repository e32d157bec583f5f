package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const lackingAppspec = `version: 0.0
os: linux
files:
  - source: content
    destination: /srv/site
  - source: gone.conf
    destination: /etc
hooks:
  BeforeBlockTraffic:
    - location: hooks/drain.sh
  AfterInstall:
    - location: hooks/plain
    - location: hooks/gone.sh
  ValidateService:
    - location: hooks
`

func lackingBundle(t *testing.T) string {
	t.Helper()
	return writeTree(t, map[string]string{"appspec.yml": lackingAppspec, "content/x": "", "hooks/plain": "#!/bin/sh\n"})
}

// whatLacks is what must be said of lackingBundle, with the place in the file.
var whatLacks = []string{
	"appspec.yml:6:5: error: the source gone.conf is not in the bundle",
	"appspec.yml:13:7: error: the script hooks/gone.sh of AfterInstall is not in the bundle",
	"appspec.yml:15:7: error: the script hooks of ValidateService cannot be used: it is a directory",
	"appspec.yml:10:7: warning: the script hooks/drain.sh of BeforeBlockTraffic is not in the bundle; gitopsd never runs it",
	"appspec.yml:12:7: warning: the script hooks/plain of AfterInstall is not executable",
}

func TestAppspecValidateLooksIntoTheFolder(t *testing.T) {
	dir := lackingBundle(t)
	out, code, _ := runAppspec(t, "validate", dir)
	for _, want := range append(whatLacks, "is refused: 3 errors, 3 warnings") {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != codeInvalid {
		t.Errorf("exit %d, want %d", code, codeInvalid)
	}
	if out, code, err := runAppspec(t, "validate", filepath.Join(dir, "appspec.yml")); code != 0 {
		t.Errorf("the file alone: exit %d, %v\n%s", code, err, out)
	}
	if out, code, _ := runAppspec(t, "validate", dir, "-o", "json"); code != codeInvalid || !strings.Contains(out, `"code": "not-executable"`) || !strings.Contains(out, `"ok": false`) {
		t.Errorf("json: exit %d\n%s", code, out)
	}
}

// TestAppspecVerbsFindWhatPackRefuses: validate called a bundle valid that neither pack nor any host takes.
func TestAppspecVerbsFindWhatPackRefuses(t *testing.T) {
	dir := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\n", "conf/x": ""})
	for name, target := range map[string]string{"up": "../x", "conf/out": "../../y", "conf/in": "../conf/x", "abs": "/srv/shared"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, verb := range []string{"validate", "explain"} {
		out, code, _ := runAppspec(t, verb, dir)
		for _, want := range []string{`error: cannot pack: archive refused: the symbolic link "up" points to "../x", outside of the archive`, `"conf/out" points to "../../y"`} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", verb, want, out)
			}
		}
		if code != codeInvalid || strings.Contains(out, "conf/in") || strings.Contains(out, "/srv/shared") {
			t.Errorf("%s: exit %d\n%s", verb, code, out)
		}
	}
	if out, code, err := runAppspec(t, "validate", filepath.Join(dir, "appspec.yml")); code != 0 {
		t.Errorf("the file alone: exit %d, %v\n%s", code, err, out)
	}
}

// TestAppspecVerbsSayThatAnArchiveIsNone of theirs; they spoke of bytes that are no UTF-8.
func TestAppspecVerbsSayThatAnArchiveIsNone(t *testing.T) {
	dir := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\n"})
	to := t.TempDir()
	packed := filepath.Join(to, "it's.tar.zst")
	if out, code := bundleVerb(t, "pack", dir, "-o", packed); code != 0 {
		t.Fatal(out)
	}
	check := func(errs ...error) {
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	var asTar, asTgz, asZip bytes.Buffer
	files, zipped, archived := tar.NewWriter(&asTar), gzip.NewWriter(&asTgz), zip.NewWriter(&asZip)
	check(files.AddFS(os.DirFS(dir)), files.Close(), archived.AddFS(os.DirFS(dir)), archived.Close())
	_, err := zipped.Write(asTar.Bytes())
	check(err, zipped.Close())
	named := map[string]string{packed: "tar.zst"}
	for kind, data := range map[string][]byte{"tar": asTar.Bytes(), "tgz": asTgz.Bytes(), "zip": asZip.Bytes()} {
		file := filepath.Join(to, "a "+kind) // its content tells, not its name
		check(os.WriteFile(file, data, 0o644))
		named[file] = kind
	}
	for file, kind := range named {
		unpack := "mkdir bundle && tar -xf " + shellWord(file) + " -C bundle\n"
		if kind == "zip" {
			unpack = "unzip " + shellWord(file) + " -d bundle\n"
		}
		for _, verb := range []string{"validate", "explain"} {
			out, code, _ := runAppspec(t, verb, file)
			if want := file + ": error: it is a " + kind + " archive, and no AppSpec file\n    unpack it and name the folder: " + unpack; code != codeInvalid || !strings.HasPrefix(out, want) ||
				!strings.Contains(out, "refused: 1 error") {
				t.Errorf("%s: exit %d\n%s\nwant\n%s", verb, code, out, want)
			}
		}
	}
	zeros := filepath.Join(to, "appspec.yml") // what a crash may leave of a file; it would pass for an empty tar
	check(os.WriteFile(zeros, make([]byte, 4096), 0o644))
	if out, code, _ := runAppspec(t, "validate", zeros); code != codeInvalid || strings.Contains(out, "archive") {
		t.Errorf("zeros: exit %d\n%s", code, out)
	}
}

func TestBundleVerbsRefuseWhatCannotBeDeployed(t *testing.T) {
	dir, to := lackingBundle(t), t.TempDir()
	for _, args := range [][]string{{"pack", dir, "-o", filepath.Join(to, "a.tar.zst")}, {"push", dir, filepath.Join(to, "b.tar.zst")}} {
		out, code := bundleVerb(t, args...)
		for _, want := range whatLacks[:3] {
			if want = strings.Replace(want, "error: ", "", 1); !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", args[0], want, out)
			}
		}
		if code != codeInvalid {
			t.Errorf("%s: exit %d, want %d", args[0], code, codeInvalid)
		}
		if out, code := bundleVerb(t, append(args, "--no-check")...); code != 0 {
			t.Errorf("%s --no-check: exit %d, %s", args[0], code, out)
		}
	}
	if out, code := bundleVerb(t, "pack", t.TempDir(), "-o", filepath.Join(to, "c.tar.zst")); code != codeInvalid || !strings.Contains(out, "there is no appspec.yml") {
		t.Errorf("no AppSpec file: exit %d, %s", code, out)
	}
}

// TestBundlePushLooksIntoArchives: one of other tools may lack what a folder may lack.
func TestBundlePushLooksIntoArchives(t *testing.T) {
	to := filepath.Join(t.TempDir(), "a.tgz")
	archive := func(dir string) string {
		file := filepath.Join(t.TempDir(), "site.tgz")
		out, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		packed := gzip.NewWriter(out)
		files := tar.NewWriter(packed)
		for _, err := range []error{files.AddFS(os.DirFS(dir)), files.Close(), packed.Close(), out.Close()} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return file
	}
	lacking := archive(lackingBundle(t))
	out, code := bundleVerb(t, "push", lacking, to)
	for _, want := range append(whatLacks[:3:3], "cannot use "+lacking+" as a bundle", lacking+"/appspec.yml:") {
		if want = strings.Replace(want, "error: ", "", 1); !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != codeInvalid || strings.Contains(out, "gitopsd-outline-") {
		t.Errorf("exit %d, want %d\n%s", code, codeInvalid, out)
	}
	if out, code := bundleVerb(t, "push", archive(writeTree(t, map[string]string{"page": "x"})), to); code != codeInvalid || !strings.Contains(out, "there is no appspec.yml in its top folder") {
		t.Errorf("no AppSpec file: exit %d, %s", code, out)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("what was refused was stored")
	}
	whole := bundleTree(t, "x")
	forge := filepath.Join(t.TempDir(), "repo-1f2e")
	if err := os.CopyFS(forge, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(forge, "hosts")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{archive(whole)}, {archive(filepath.Dir(forge))}, {lacking, "--no-check"}} {
		if out, code := bundleVerb(t, append([]string{"push", args[0], filepath.Join(t.TempDir(), "a.tgz")}, args[1:]...)...); code != 0 {
			t.Errorf("%v: exit %d, %s", args, code, out)
		}
	}
}

// TestBundlePushCountsTheOverlayOfItsGroup takes what a group's codedeploy/ brings for present.
func TestBundlePushCountsTheOverlayOfItsGroup(t *testing.T) {
	dir := lackingBundle(t)
	group := writeTree(t, map[string]string{
		"codedeploy/hooks/gone.sh": "#!/bin/sh\n", "codedeploy/gone.conf": "",
		"codedeploy/appspec.yml":  strings.ReplaceAll(lackingAppspec, "location: hooks\n", "location: project-conf.d/check.sh\n"),
		"project-conf.d/check.sh": "#!/bin/sh\n",
		"group.yaml":              "id: A\nrevision: {revisionType: Directory, directoryLocation: {path: /x, bundleType: tar.zst}, digest: x}\n",
	})
	if out, code := bundleVerb(t, "push", dir, filepath.Join(t.TempDir(), "a.tar.zst"), "--group", group); code != 0 {
		t.Errorf("exit %d, %s", code, out)
	}
	if err := os.Remove(filepath.Join(group, "codedeploy", "gone.conf")); err != nil {
		t.Fatal(err)
	}
	if out, code := bundleVerb(t, "push", dir, filepath.Join(t.TempDir(), "a.tar.zst"), "--group", group); code != codeInvalid || !strings.Contains(out, "codedeploy/appspec.yml:6:5: the source gone.conf") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// TestFlagsOfVerbsThatWriteAFile: --output is the long form of -o, as in every other verb.
func TestFlagsOfVerbsThatWriteAFile(t *testing.T) {
	dir, to := bundleTree(t, "x"), t.TempDir()
	for i, flag := range []string{"-o", "--output", "--out"} {
		file := filepath.Join(to, "bundle"+string(rune('a'+i))+".tar.zst")
		if out, code := bundleVerb(t, "pack", dir, flag, file, "--format", "json"); code != 0 || !strings.Contains(out, `"digest": "sha256:`) {
			t.Errorf("pack %s: exit %d, %s", flag, code, out)
		}
		if out, code := bundleVerb(t, "pin", file, flag, file+".index"); code != 0 {
			t.Errorf("pin %s: exit %d, %s", flag, code, out)
		}
		if _, err := os.Stat(file + ".index"); err != nil {
			t.Error(err)
		}
	}
}
