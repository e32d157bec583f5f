package appspec

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const header = "version: 0.0\nos: linux\n"

// refused parses src, which must be refused.
func refused(t *testing.T, src string) *Error {
	t.Helper()
	spec, _, err := Parse([]byte(src), Options{FileName: "b/appspec.yml"})
	var verdict *Error
	if !errors.As(err, &verdict) || spec != nil || len(verdict.Problems) == 0 {
		t.Fatalf("%q: %v, %v, want a refusal", src, spec, err)
	}
	return verdict
}

// accepted parses src, which must be accepted.
func accepted(t *testing.T, src string) (*Spec, []Warning) {
	t.Helper()
	spec, warnings, err := Parse([]byte(src), Options{})
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	return spec, warnings
}

func TestErrorsNameThePlace(t *testing.T) {
	rows := []struct {
		src          string
		line, column int
	}{
		{"version: 1.0\nos: linux\n", 1, 10},
		{"version: 0.0\nos:   beos\n", 2, 7},
		{header + "hooks:\n  AfterInstall:\n    - location: a\n      timeout: 0\n", 6, 16},
		{header + "hooks:\n  AfterInstall: a.sh\n", 4, 17},
		{header + "files:\n  - source: a\n  - destination: b\n", 4, 5},
		{header + "permissions:\n  - object: /a\n    mode: 0999\n", 5, 11},
		{header + "permissions:\n  - object: /a\n    acls:\n      - u:a:r\n      - u:a:q\n", 7, 9},
		{header + "permissions:\n  - object: /a\n    context: {type: t, range: s9-s1}\n", 5, 31},
		{header + "file_exists_behavior: maybe\n", 3, 23},
		{header + "é: 2024-01-01\n", 3, 4},
		{header + "a: b: c\n", 3, 5},
		{header + "a: caf\xe9\n", 3, 7},
		{header + "a: \x01\n", 3, 4},
	}
	for _, row := range rows {
		p := refused(t, row.src).Problems[0]
		if p.Line != row.line || p.Column != row.column {
			t.Errorf("%q: %d:%d, want %d:%d (%s)", row.src, p.Line, p.Column, row.line, row.column, p.Message)
		}
	}
}

func TestErrorTextIsFileLineColumn(t *testing.T) {
	err := refused(t, "version: '0.0'\nos: windows\n")
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "b/appspec.yml:1:10: The deployment failed because an invalid version value (0.0)") ||
		!strings.HasPrefix(lines[1], "b/appspec.yml:2:5: ") || !strings.Contains(lines[1], "Windows hosts") {
		t.Errorf("unexpected text:\n%s", err)
	}
}

// TestProblemsComeInTheAgentsOrder: the first one is where the agent stops, whatever the order in the file.
func TestProblemsComeInTheAgentsOrder(t *testing.T) {
	src := "file_exists_behavior: x\npermissions:\n  - mode: 9\nfiles:\n  - source: a\nhooks:\n  AfterInstall:\n    - timeout: 1\nos: beos\nversion: 3\n"
	var got []string
	for _, p := range refused(t, src).Problems {
		for _, word := range []string{"version value", "operating system", "no location", "only a source", "no object", "file_exists_behavior value"} {
			if strings.Contains(p.Message, word) {
				got = append(got, word)
			}
		}
	}
	want := []string{"version value", "operating system", "no location", "only a source", "no object", "file_exists_behavior value"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHintsSayWhatToDo(t *testing.T) {
	rows := []struct{ src, hint string }{
		{"\uFEFF" + header, "byte order mark"},
		{"Version: 0.0\nos: linux\n", `line 1 has "Version"`},
		{"version:0.0\nos:linux\n", "blank after each colon"},
		{"version: '0.0'\nos: linux\n", "without quotes"},
		{"version: 0.0\nos: Linux\n", "lower case"},
		{header + "file_exists_behavior: overwrite\n", "upper case"},
		{header + "permissions: [{object: /a, mode: 0755}]\n", "'0755' in quotes"},
		{header + "permissions: [{object: /a, type: file}]\n", "type: [file]"},
		{header + "permissions: [{object: /a, except: x}]\n", "except: [x]"},
		{header + "files: {source: a, destination: /b}\n", "dash"},
		{header + "files: [build/output]\n", "blank after each colon"},
		{header + "\tos: linux\n", "blanks"},
	}
	for _, row := range rows {
		p := refused(t, row.src).Problems[0]
		if !strings.Contains(p.Hint, row.hint) {
			t.Errorf("%q: hint %q (%s), want %q", row.src, p.Hint, p.Message, row.hint)
		}
	}
}

func TestWarnings(t *testing.T) {
	hook := func(text string) string { return header + "hooks:\n  AfterInstall:\n    - location: a.sh\n" + text }
	permission := func(text string) string { return header + "permissions:\n  - object: /srv\n" + text }
	rows := []struct {
		src  string
		code WarningCode
		line int
		text string
	}{
		{header + "Files: []\n", WarnUnknownKey, 3, "did you mean files?"},
		{header + "Resources: []\n", WarnUnknownKey, 3, `no key "Resources"`},
		{hook("      time: 3\n"), WarnUnknownKey, 6, `no key "time"`},
		{permission("    context: {user: u, type: t, range: s0}\n"), WarnUnknownKey, 5, "given as name"},
		{header + "files:\n  - {source: a, destination: /b, owner: x}\n", WarnUnknownKey, 4, "owner"},
		{header + "hooks: {Afterinstall: [{location: a}]}\n", WarnUnknownHook, 3, "did you mean AfterInstall?"},
		{header + "hooks: {Install: [{location: a}]}\n", WarnUnscriptable, 3, "never run"},
		{"os: linux\n" + header, WarnDuplicateKey, 3, "line 1"},
		{permission("    mode: 0644\n"), WarnOctalMode, 5, "mode set is 420"},
		{hook("      timeout: 3601\n"), WarnTimeoutOverMax, 4, "3601 seconds"},
		{hook("    - location: b.sh\n"), WarnTimeoutOverMax, 4, "7200 seconds"},
		{hook("      timeout: 1:30\n"), WarnTimeoutForm, 6, "5400 seconds"},
		{hook("      timeout: 5 minutes\n"), WarnTimeoutForm, 6, "5 seconds"},
		{hook("      timeout: 0100\n"), WarnTimeoutForm, 6, "64 seconds"},
		{hook("      sudo: 'false'\n"), WarnTruthy, 6, "counts as true"},
		{hook("      runas: ''\n"), WarnUnusable, 6, "empty name"},
		{header + "hooks: {AfterInstall: [{location: a.sh -v}]}\n", WarnPath, 3, "arguments"},
		{header + "hooks: {AfterInstall: [{location: ../a.sh}]}\n", WarnPath, 3, "out of the bundle"},
		{header + "hooks: {AfterInstall: [{location: /b/../../a.sh}]}\n", WarnPath, 3, "out of the bundle"},
		{header + "files: [{source: ../a, destination: /b}]\n", WarnPath, 3, "out of the bundle"},
		{header + "files: [{source: a, destination: b}]\n", WarnPath, 3, "absolute"},
		{header + "files: [source and destination]\n", WarnPath, 3, "the words"},
		{header + "files: [{source: 7, destination: /b}]\n", WarnUnusable, 3, "Install will fail"},
		{permission("    owner: 33\n"), WarnUnusable, 5, "must be a name"},
		{permission("    pattern: 'a?'\n"), WarnMatch, 4, "only * is special"},
		{permission("    pattern: 'a/b'\n"), WarnMatch, 4, "direct children"},
		{permission("    type: []\n"), WarnMatch, 5, "matches nothing"},
		{permission("    context: {type: t}\n"), WarnMatch, 4, "range"},
		{header + "files: &f []\npermissions: *f\n", WarnAlias, 4, "Ruby"},
		{header + "---\nos: x\n", WarnMoreDocuments, 3, "first YAML document"},
		{"  version: 0.0\n  os: linux\nhooks: {}\n", WarnMoreDocuments, 3, "ignored"},
	}
	for _, row := range rows {
		_, warnings := accepted(t, row.src)
		found := false
		for _, w := range warnings {
			found = found || w.Code == row.code && w.Line == row.line && strings.Contains(w.Message, row.text)
		}
		if !found {
			t.Errorf("%q: no warning %s in line %d with %q, but %v", row.src, row.code, row.line, row.text, warnings)
		}
	}
}

func TestAnOrdinaryFileWarnsOfNothing(t *testing.T) {
	_, warnings := accepted(t, header+"files:\n  - source: /\n    destination: /srv\npermissions:\n  - object: /srv\n    mode: 644\n    type: [file]\nhooks:\n  ApplicationStop:\n    - location: s/../s/stop.sh\n      timeout: 60\n      runas: root\n")
	if len(warnings) > 0 {
		t.Errorf("%v", warnings)
	}
}

// TestAliases: what the agent accepts on older Rubies only, with Psych's merge rule that a merge replaces what stands before it.
func TestAliases(t *testing.T) {
	spec, _ := accepted(t, header+"x: &base {location: a.sh, timeout: 5}\nhooks:\n  AfterInstall:\n    - {<<: *base, timeout: 7}\n    - {timeout: 7, <<: *base}\n  BeforeInstall: &same\n    - *base\n  ApplicationStart: *same\n")
	got := fmt.Sprintln(spec.Hooks[AfterInstall][0].TimeoutSeconds, spec.Hooks[AfterInstall][1].TimeoutSeconds, spec.Hooks[ApplicationStart][0].Location)
	if got != "7 5 a.sh\n" {
		t.Errorf("%s", got)
	}
}

func TestBounds(t *testing.T) {
	bomb := header + "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 'b'; i < 'k'; i++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", i, i, strings.TrimSuffix(strings.Repeat("*"+string(i-1)+", ", 10), ", "))
	}
	rows := []struct{ name, src, text string }{
		{"size", strings.Repeat("#", MaxSourceBytes+1), "bytes"},
		{"values", header + "x: [" + strings.Repeat("a,", maxMarks) + "]", "too many values"},
		{"depth", header + "x: " + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1), "depth"},
		{"digits", header + "x: " + strings.Repeat("7", maxDigits+1), "digits"},
		{"alias bomb", bomb, "aliases make the file too large"},
		{"alias bomb of text", header + "a: &a " + strings.Repeat("x", 5000) + "\nb: [" + strings.Repeat("*a, ", 200) + "]\n", "aliases make the file too large"},
		{"alias of itself", header + "a: &a [*a]\n", "within what it refers to"},
		{"alias of nothing", header + "a: *b\n", "unknown anchor"},
	}
	for _, row := range rows {
		if p := refused(t, row.src).Problems[0]; !strings.Contains(p.Message, row.text) {
			t.Errorf("%s: %s", row.name, p.Message)
		}
	}
	many := header + "hooks:\n"
	for i := range 2 * maxProblems {
		many += fmt.Sprintf("  Event%d: [{timeout: 1}]\n", i)
	}
	if n := len(refused(t, many).Problems); n != maxProblems {
		t.Errorf("%d problems are reported", n)
	}
	if text := refused(t, header+"file_exists_behavior: "+strings.Repeat("y", 100000)).Error(); len(text) > 1000 {
		t.Errorf("a message of %d bytes", len(text))
	}
}

func TestUnusable(t *testing.T) {
	spec, _ := accepted(t, header+"files:\n  - {source: 7, destination: /b}\n  - {source: a, destination: \"/b\\0\"}\n  - {source: a, destination: /b}\npermissions:\n  - {object: /b, owner: 33, group: ''}\n  - {object: /b, owner: no, pattern: 5, except: [1, a]}\n  - {object: /b, owner: web}\n")
	if got := len(spec.Unusable()); got != 2 {
		t.Errorf("%d files cannot be installed: %v", got, spec.Unusable())
	}
	for i, want := range []int{2, 2, 0} {
		if got := spec.Permissions[i].Unusable; len(got) != want {
			t.Errorf("permission %d: %v", i, got)
		}
	}
	if spec.Permissions[1].Owner != "" {
		t.Errorf("owner: no changes the owner to %q", spec.Permissions[1].Owner)
	}
}

// TestSpecsMadeByHandMarshal: a Spec that was not read from a file has the same JSON.
func TestSpecsMadeByHandMarshal(t *testing.T) {
	spec := &Spec{OS: Linux, FileExistsBehavior: Retain, Files: []File{{Source: "a", Destination: "/b"}},
		Permissions: []Permission{{Object: "/b", Pattern: "**", Types: []string{ObjectFile}, Except: []string{"x"}, Mode: "644", Owner: "web", ACLs: []ACE{}, Context: &Context{Type: "t"}}},
		Hooks:       map[Event][]Script{AfterInstall: {{Location: "a.sh", TimeoutSeconds: 5, Sudo: true, RunAs: "web"}}}}
	data, err := json.Marshal(spec)
	want := `{"version":0,"os":"linux","file_exists_behavior":"RETAIN","files":[{"source":"a","destination":"/b"}],"permissions":[{"object":"/b","pattern":"**","except":["x"],"type":["file"],"owner":"web","group":null,"mode":"644","acls":[],"context":{"user":null,"type":"t","range":null}}],"hooks":{"AfterInstall":[{"location":"a.sh","runas":"web","sudo":true,"timeout":5}]}}`
	if err != nil || string(data) != want {
		t.Errorf("%s, %v", data, err)
	}
}

// TestFilesSayWhatTheyMean: any plain Spec, written down with every string in quotes, is read as it was meant.
func TestFilesSayWhatTheyMean(t *testing.T) {
	text := rapid.StringMatching(`[a-zA-Z0-9 _./:#'"{}\[\],&*!|>%@~é-]{1,12}`).Filter(func(s string) bool { return rubyStrip(s) == s })
	rapid.Check(t, func(t *rapid.T) {
		src, want := header, &Spec{}
		for range rapid.IntRange(0, 3).Draw(t, "files") {
			f := File{Source: text.Draw(t, "source"), Destination: text.Draw(t, "destination")}
			want.Files = append(want.Files, f)
		}
		if len(want.Files) > 0 {
			src += "files:\n"
		}
		for _, f := range want.Files {
			src += "  - source: " + quote(f.Source) + "\n    destination: " + quote(f.Destination) + "\n"
		}
		scripts := rapid.IntRange(1, 3).Draw(t, "scripts")
		src += "hooks:\n  AfterInstall:\n"
		for range scripts {
			s := Script{Location: text.Draw(t, "location"), TimeoutSeconds: rapid.Int64Range(1, 1<<40).Draw(t, "timeout"), Sudo: rapid.Bool().Draw(t, "sudo")}
			src += fmt.Sprintf("    - location: %s\n      timeout: %d\n      sudo: %v\n", quote(s.Location), s.TimeoutSeconds, s.Sudo)
			want.Hooks = map[Event][]Script{AfterInstall: append(want.Hooks[AfterInstall], s)}
		}
		got, _, err := Parse([]byte(src), Options{})
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		for i, f := range got.Files {
			if f.Source != want.Files[i].Source || f.Destination != want.Files[i].Destination {
				t.Fatalf("file %d is %q, %q\n%s", i, f.Source, f.Destination, src)
			}
		}
		for i, s := range got.Hooks[AfterInstall] {
			w := want.Hooks[AfterInstall][i]
			if s.Location != w.Location || s.TimeoutSeconds != w.TimeoutSeconds || s.Sudo != w.Sudo {
				t.Fatalf("script %d is %+v\n%s", i, s, src)
			}
		}
		if len(got.Files) != len(want.Files) || len(got.Hooks[AfterInstall]) != scripts {
			t.Fatalf("something is lost:\n%s", src)
		}
	})
}

// quote writes text as a YAML string in double quotes.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// FuzzParse holds any text against what must be true of every verdict.
func FuzzParse(f *testing.F) {
	for _, src := range []string{"", header, header + "hooks: {AfterInstall: [{location: a, timeout: 1:30}]}\n", "\uFEFF" + header, "a: &a [*a]", "%YAML 1.1\n--- |\n\ta\n", "- ? : x\n\t#", "'a'#\n'b'#"} {
		f.Add([]byte(src))
	}
	cases, err := filepath.Glob("testdata/cases/*.appspec.yml")
	if err != nil || len(cases) == 0 {
		f.Fatal("no cases to begin with", err)
	}
	for _, file := range cases {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		spec, warnings, err := Parse(src, Options{})
		again, _, errAgain := Parse(src, Options{})
		if fmt.Sprint(err) != fmt.Sprint(errAgain) || (spec == nil) != (again == nil) || (spec == nil) == (err == nil) {
			t.Fatalf("two verdicts: %v and %v", err, errAgain)
		}
		lines := len(splitLines(src)) + 1
		for _, w := range warnings {
			if w.Line < 1 || w.Line > lines || w.Column < 1 || w.Message == "" || w.Code == "" {
				t.Fatalf("warning %+v of %d lines", w, lines)
			}
		}
		if err != nil {
			for _, p := range err.(*Error).Problems {
				if p.Line < 0 || p.Line > lines || p.Message == "" {
					t.Fatalf("problem %+v of %d lines", p, lines)
				}
			}
			return
		}
		for event, scripts := range spec.Hooks {
			for _, s := range scripts {
				if s.Location == "" || s.TimeoutSeconds < 1 || s.Position.Line < 1 {
					t.Fatalf("%s: %+v", event, s)
				}
			}
		}
		if _, err := json.Marshal(spec); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBracketsAndDirectives: measured with the agent's parser.
func TestBracketsAndDirectives(t *testing.T) {
	rows := []struct {
		src     string
		refused bool
	}{
		{"%YAML 1.1\n---\n" + header, false},
		{"%YAML 1.2\n---\n" + header, false},
		{"# x\n%YAML 1.2 # y\n---\n" + header, false},
		{"%YAML 1.3\n---\n" + header, true},
		{"%YAML 2.2\n---\n" + header, true},
		{"%YAML 1.22\n---\n" + header, true},
		{header + "x: [:]\n", true},
		{header + "x: [: a]\n", true},
		{header + "x: {: a}\n", true},
		{header + "x: {a: b, : c}\n", true},
		{header + "x: {? : c}\n", false},
		{header + "x: {?\n  : c}\n", false},
		{header + "x: {? a\n  b : c}\n", false},
		{header + "x: {? a\n  : c}\n", false},
		{header + "x: {a\n  b: c}\n", true},
		{header + "x: {a\n  : c}\n", true},
		{header + "x: {a\n  b, c: d}\n", false},
		{header + "x: [a\n  b: c]\n", true},
		{header + "x: {a: b,\n  c: d\n    e}\n", false},
		{header + "x: {a: b, \"c\": d}\n", false},
	}
	for _, row := range rows {
		_, _, err := Parse([]byte(row.src), Options{})
		if (err != nil) != row.refused {
			t.Errorf("%q: %v", row.src, err)
		}
	}
}

// TestBytesThatAreNoTextAreShown: a tag can put any byte into a value that a message shows.
func TestBytesThatAreNoTextAreShown(t *testing.T) {
	_, _, err := Parse([]byte(header+"permissions:\n  - object: /srv\n    context: {name: !!binary 4P9h}\n"), Options{})
	if err == nil || !strings.Contains(err.Error(), `({"name"=>"\xE0\xFFa"})`) {
		t.Errorf("%v", err)
	}
}
