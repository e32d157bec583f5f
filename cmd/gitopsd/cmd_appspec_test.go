package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// runAppspec runs `gitopsd appspec` with args; code is the exit code.
func runAppspec(t *testing.T, args ...string) (out string, code int, err error) {
	t.Helper()
	var buffer bytes.Buffer
	cmd := appspecCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&buffer)
	cmd.SetErr(&buffer)
	cmd.SetArgs(args)
	err = cmd.Execute()
	var coded exitError
	switch {
	case errors.As(err, &coded):
		code = coded.code
	case err != nil:
		code = codeError
	}
	return buffer.String(), code, err
}

// writeTree writes files below a new folder; names that end in .sh become executable.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const goodAppspec = "version: 0.0\nos: linux\nfiles:\n  - source: web\n    destination: /srv/site\n  - source: app.ini\n    destination: /etc\n" +
	"permissions:\n  - object: /srv/site\n    mode: 644\n    type: [file]\n" +
	"hooks:\n  ApplicationStop:\n    - location: stop.sh\n  AfterInstall:\n    - location: plain\n      timeout: 60\n    - location: gone.sh\n      timeout: 60\n"

func TestAppspecValidatePrintsTheVerdict(t *testing.T) {
	dir := writeTree(t, map[string]string{"good/appspec.yml": goodAppspec, "good/web/x": "", "good/app.ini": "", "good/stop.sh": "", "good/plain": "", "good/gone.sh": "", "bad/appspec.yml": "version: '0.0'\nos: linux\n"})
	out, code, err := runAppspec(t, "validate", filepath.Join(dir, "good"), "-o", "json")
	var verdict struct {
		OK     bool
		Spec   struct{ OS string }
		Errors []struct {
			Line, Column int
			Message      string
		}
		Warnings []any
	}
	if jsonErr := json.Unmarshal([]byte(out), &verdict); jsonErr != nil || err != nil || code != 0 || !verdict.OK || verdict.Spec.OS != "linux" || verdict.Errors == nil {
		t.Errorf("good: exit %d, %v, %v\n%s", code, err, jsonErr, out)
	}
	out, code, _ = runAppspec(t, "validate", filepath.Join(dir, "bad", "appspec.yml"), "-o", "json")
	verdict.OK = true
	if jsonErr := json.Unmarshal([]byte(out), &verdict); jsonErr != nil || code != codeInvalid || verdict.OK || len(verdict.Errors) != 1 || verdict.Errors[0].Line != 1 || verdict.Errors[0].Column != 10 {
		t.Errorf("bad: exit %d, %v\n%s", code, jsonErr, out)
	}
	out, code, _ = runAppspec(t, "validate", filepath.Join(dir, "bad"))
	if code != codeInvalid || !strings.Contains(out, "bad/appspec.yml:1:10: error: The deployment failed") || !strings.Contains(out, "is refused: 1 error, 0 warnings") {
		t.Errorf("table: exit %d\n%s", code, out)
	}
	out, code, _ = runAppspec(t, "validate", filepath.Join(dir, "bad"), "-o", "yaml")
	if code != codeInvalid || !strings.Contains(out, "ok: false") {
		t.Errorf("yaml: exit %d\n%s", code, out)
	}
}

func TestAppspecFindsTheFile(t *testing.T) {
	dir := writeTree(t, map[string]string{"forge/site-1f2e/AppSpec-notes.txt": "", "forge/site-1f2e/appspec.yml": "version: 0.0\nos: linux\n", "alt/appspec.yaml": "version: 0.0\nos: linux\n", "none/x/readme": "", "two/a/appspec.yml": goodAppspec, "two/b": ""})
	for _, name := range []string{"forge", "alt"} {
		if out, code, err := runAppspec(t, "validate", filepath.Join(dir, name)); code != 0 {
			t.Errorf("%s: exit %d, %v\n%s", name, code, err, out)
		}
	}
	for _, name := range []string{"none", "two"} {
		if _, code, err := runAppspec(t, "validate", filepath.Join(dir, name)); code != codeInvalid || err == nil || !strings.Contains(err.Error(), "cannot find appspec.yml") {
			t.Errorf("%s: exit %d, %v", name, code, err)
		}
	}
	if _, code, _ := runAppspec(t, "validate", filepath.Join(dir, "absent")); code != codeError {
		t.Errorf("an absent path ends with %d", code)
	}
	if _, code, _ := runAppspec(t, "validate", dir, "-o", "xml"); code != codeUsage {
		t.Errorf("-o xml ends with %d", code)
	}
}

func TestAppspecExplainSaysWhatWouldHappen(t *testing.T) {
	bundle := writeTree(t, map[string]string{"appspec.yml": goodAppspec, "stop.sh": "#!/bin/sh\n", "plain": "#!/bin/sh\n", "web/b.html": "", "web/a/x.css": "", "app.ini": ""})
	host := writeTree(t, map[string]string{"etc/app.ini": "old"})
	out, code, _ := runAppspec(t, "explain", bundle, "--destination-root", host, "-o", "json")
	if code != codeInvalid {
		t.Fatalf("exit %d\n%s", code, out)
	}
	var got explanation
	if err := json.Unmarshal([]byte(strings.Replace(out, `"spec"`, `"Spec_"`, 1)), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var steps []string
	for _, e := range got.Events {
		steps = append(steps, string(e.Event)+" from "+string(e.From))
		for _, s := range e.Scripts {
			steps = append(steps, "  run "+s.Location+" "+s.State)
		}
		for _, f := range e.Files {
			steps = append(steps, "  "+f.Action+" "+f.Destination+" "+strings.Join(f.Permissions, ";"))
		}
	}
	want := []string{
		"ApplicationStop from last-successful", "  run stop.sh ready",
		"DownloadBundle from current", "BeforeInstall from current",
		"Install from current", "  make folder /srv ", "  make folder /srv/site ", "  make folder /srv/site/a ", "  copy /srv/site/a/x.css mode 644", "  copy /srv/site/b.html mode 644", "  refuse /etc/app.ini ",
		"AfterInstall from current", "  run plain not executable", "  run gone.sh missing",
		"ApplicationStart from current", "ValidateService from current",
	}
	if strings.Join(steps, "\n") != strings.Join(want, "\n") {
		t.Errorf("steps:\n%s", strings.Join(steps, "\n"))
	}
	if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "/etc/app.ini exists") {
		t.Errorf("problems:\n%s", strings.Join(got.Problems, "\n"))
	}
	if len(got.Errors) != 1 || !strings.Contains(got.Errors[0].Message, "gone.sh") || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0].Message, "plain") {
		t.Errorf("errors: %v, warnings: %v", got.Errors, got.Warnings)
	}
	out, _, _ = runAppspec(t, "explain", bundle, "--destination-root", host)
	if !strings.Contains(out, " 4 Install (gitopsd itself)") || !strings.Contains(out, "on this host: ") {
		t.Errorf("table:\n%s", out)
	}
	if out, code, _ = runAppspec(t, "explain", bundle, "--kind", "termination", "-o", "yaml"); code != codeInvalid || strings.Contains(out, "AfterInstall") && strings.Contains(out, "event: AfterInstall") {
		t.Errorf("termination: exit %d\n%s", code, out)
	}
	if _, code, _ = runAppspec(t, "explain", bundle, "--kind", "sideways"); code != codeUsage {
		t.Errorf("an unknown kind ends with %d", code)
	}
}

func TestAppspecThatIsAPipe(t *testing.T) {
	bundle := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(bundle, "appspec.yml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code, err := runAppspec(t, "validate", bundle); code != codeInvalid || !strings.Contains(out, "was empty") {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}
}

func TestAppspecExplainFindsWhatWouldFail(t *testing.T) {
	rows := []struct {
		text, want string
		code       int
	}{
		{"files: [{source: ../x, destination: /a}]\n", "leads out of the bundle", codeInvalid},
		{"files: [{source: nope, destination: /a}]\n", "the source nope is not in the bundle", codeInvalid},
		{"files: [{source: f, destination: /a}, {source: f, destination: /a}]\n", "written twice", 0},
		{"files: [{source: f, destination: /a}]\npermissions: [{object: /a, mode: 644}, {object: /a, mode: 600}]\n", "given 2 times", 0},
		{"files: [{source: 7, destination: /a}]\n", "must be a path", codeInvalid},
		{"permissions: [{object: /a, owner: no-such-user-here}]\n", "no user no-such-user-here", 0},
		{"hooks: {AfterInstall: [{location: .}]}\n", "a directory", codeInvalid},
		{"hooks: {AfterInstall: [{location: gone.sh}]}\n", "gone.sh of AfterInstall is not in the bundle", codeInvalid},
		{"hooks: {BeforeAllowTraffic: [{location: gone.sh}]}\n", "gitopsd never runs it", 0},
	}
	for _, row := range rows {
		bundle := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\n" + row.text, "f": ""})
		out, code, err := runAppspec(t, "explain", bundle, "--destination-root", t.TempDir())
		if code != row.code || strings.Count(out, row.want) == 0 {
			t.Errorf("%q: exit %d, %v, want %q\n%s", row.text, code, err, row.want, out)
		}
		for _, path := range []string{bundle, filepath.Join(bundle, "appspec.yml")} { // one verdict, whoever is asked
			validated, wantCode, _ := runAppspec(t, "validate", path)
			explained, code, _ := runAppspec(t, "explain", path, "--destination-root", t.TempDir())
			if lines := strings.Split(validated, "\n"); code != wantCode || !strings.HasSuffix(explained, lines[len(lines)-2]+"\n") {
				t.Errorf("%q of %s: validate ends with %d, explain with %d\n%s%s", row.text, path, wantCode, code, validated, explained)
			}
		}
	}
	bundle := writeTree(t, map[string]string{"appspec.yml": "version: 1\nos: linux\n"})
	if out, code, _ := runAppspec(t, "explain", bundle); code != codeInvalid || !strings.Contains(out, "version value (1)") {
		t.Errorf("a refused file: exit %d\n%s", code, out)
	}
}

// TestAppspecExplainWarns of what the agent passes over in silence, with the place of each.
func TestAppspecExplainWarns(t *testing.T) {
	bundle := writeTree(t, map[string]string{"f": "", "s.sh": "", "plain": "", "appspec.yml": `version: 0.0
os: linux
Files: []
files:
  - source: f
    destination: /a
    mode: 1
permissions:
  - object: /a
    mode: 0644
    mode: 0640
hooks:
  AfterInstal:
    - location: s.sh
  ApplicationStop:
    - location: gone.sh
  BeforeInstall:
    - location: absent.sh
      timeout: 4000
  ApplicationStart:
    - location: plain
  AfterAllowTraffic:
    - location: s.sh
`})
	out, code, err := runAppspec(t, "explain", bundle, "--destination-root", t.TempDir())
	for _, want := range []string{
		`appspec.yml:3:1: warning: the AppSpec file has no key "Files"`,
		`appspec.yml:7:5: warning: an element of files has no key "mode"`,
		"appspec.yml:11:5: warning: the key mode stands already in line 10",
		"appspec.yml:11:11: warning: YAML reads the unquoted mode 0640 as the number 416",
		`appspec.yml:13:3: warning: no deployment has a lifecycle event "AfterInstal"`,
		"appspec.yml:17:3: warning: the scripts of BeforeInstall may take 4000 seconds together",
		"appspec.yml:16:7: error: the script gone.sh of ApplicationStop is not in the bundle",
		"appspec.yml:18:7: error: the script absent.sh of BeforeInstall is not in the bundle",
		"appspec.yml:21:7: warning: the script plain of ApplicationStart is not executable",
		"appspec.yml:23:7: AfterAllowTraffic: its scripts are not run in a deployment of kind in-place",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if code != codeInvalid || t.Failed() {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}
}

// TestAppspecExplainSaysWhoseScriptsRun where that depends on the kind.
func TestAppspecExplainSaysWhoseScriptsRun(t *testing.T) {
	bundle := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\n"})
	for kind, want := range map[string]string{
		"blue-green-original":             "BeforeBlockTraffic (scripts of the revision deployed before)",
		"blue-green-rollback-replacement": "BeforeBlockTraffic (scripts of the revision downloaded last)",
		"blue-green-rollback-original":    "BeforeAllowTraffic (scripts of the revision deployed before)",
		"blue-green-replacement":          "BeforeAllowTraffic (no scripts)",
	} {
		if out, code, err := runAppspec(t, "explain", bundle, "--kind", kind); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, %v, want %s\n%s", kind, code, err, want, out)
		}
	}
}

func TestAppspecExplainTakesTheBehaviorOfTheDeployment(t *testing.T) {
	host := writeTree(t, map[string]string{"a/f": "old"})
	for behavior, want := range map[string]string{"retain": "keep", "OVERWRITE": "overwrite", "DISALLOW": "refuse"} {
		bundle := writeTree(t, map[string]string{"f": "", "appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /a}]\n"})
		out, code, err := runAppspec(t, "explain", bundle, "--destination-root", host, "--file-exists-behavior", behavior)
		if code != 0 || !strings.Contains(out, "     "+want+"  ") {
			t.Errorf("%s: exit %d, %v, want %s\n%s", behavior, code, err, want, out)
		}
	}
	if _, code, _ := runAppspec(t, "explain", host, "--file-exists-behavior", "sometimes"); code != codeUsage {
		t.Errorf("an unknown behavior ends with %d", code)
	}
}

// TestAppspecExplainKnowsWhatTheGroupHasInPlace after a real deployment of an earlier bundle.
func TestAppspecExplainKnowsWhatTheGroupHasInPlace(t *testing.T) {
	const spec = "version: 0.0\nos: linux\nfiles: [{source: web, destination: /srv/site}]\n"
	dir := t.TempDir()
	state, root := filepath.Join(dir, "state"), filepath.Join(dir, "root")
	before := writeTree(t, map[string]string{"appspec.yml": spec, "web/index.html": "1", "web/old.html": "1"})
	if out, err := runApply(t, before, "--state-dir", state, "--destination-root", root, "--group", "site"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(root, "srv/site/theirs.html"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	next := writeTree(t, map[string]string{"appspec.yml": spec, "web/index.html": "2", "web/new.html": "2", "web/theirs.html": "2"})
	out, code, err := runAppspec(t, "explain", next, "--destination-root", root, "--state-dir", state, "--group-id", "site", "-o", "json")
	var got explanation
	if jsonErr := json.Unmarshal([]byte(strings.Replace(out, `"spec"`, `"Spec_"`, 1)), &got); jsonErr != nil || code != 0 {
		t.Fatalf("exit %d, %v, %v\n%s", code, err, jsonErr, out)
	}
	var steps []string
	for _, e := range got.Events {
		for _, f := range e.Files {
			steps = append(steps, f.Action+" "+f.Destination)
		}
	}
	want := "replace /srv/site/index.html, copy /srv/site/new.html, refuse /srv/site/theirs.html, remove /srv/site/old.html"
	if strings.Join(steps, ", ") != want || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "no deployment of the group put it there") {
		t.Errorf("%s, want %s\n%v", steps, want, got.Problems)
	}
	if _, code, err := runAppspec(t, "explain", next, "--group-id", "../site"); code != codeError || err == nil {
		t.Errorf("an id that is a path: exit %d, %v", code, err)
	}
}
