package strict

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sample is a file with one key of every type.
type sample struct {
	Name    string
	Kind    string
	Fold    string
	Count   int
	Flag    bool
	Wait    time.Duration
	Size    int64
	Rate    int64
	Share   int
	Items   []string
	Nested  struct{ Inner string }
	Labels  map[string]string
	Present *struct{ X int }
}

func table(s *sample) Type {
	text := func(v *string) Type { return String(v, Text(40)) }
	return Object("a sample",
		Need("name", text(&s.Name), "its name"),
		May("kind", Enum(&s.Kind, "one", "two"), ""),
		May("fold", EnumFold(&s.Fold, "DISALLOW", "RETAIN"), ""),
		May("count", Int(&s.Count, 0, 10), ""),
		May("flag", Bool(&s.Flag), ""),
		May("wait", Duration(&s.Wait, 0, time.Hour), ""),
		May("size", Size(&s.Size, 1<<40), ""),
		May("rate", Rate(&s.Rate), ""),
		May("share", Percent(&s.Share), ""),
		May("items", List(&s.Items, 1, 3, text), ""),
		May("nested", Object("", Need("inner", text(&s.Nested.Inner), "")), ""),
		May("labels", Map(&s.Labels, 2, Text(5), text), ""),
		May("present", Optional(&s.Present, func(p *struct{ X int }) Type { return Object("", May("x", Int(&p.X, 0, 9), "")) }), ""),
	)
}

func decode(src string, env Env) (sample, *Doc, string) {
	var s sample
	doc, problems := DecodeEnv("f.yaml", []byte(src), table(&s), env)
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(p.String() + "\n")
	}
	return s, doc, b.String()
}

func TestDecodeEverything(t *testing.T) {
	s, doc, problems := decode(`
name: 1.10
kind: two
fold: dIsAllow
count: 7
flag: true
wait: 1h
size: 64MiB
rate: 10MiB/s
share: 20%
items: [010, true, "x"]
nested: {inner: 2020-01-01}
labels: {a: b}
present: {}
`, nil)
	if problems != "" {
		t.Fatal(problems)
	}
	want := sample{Name: "1.10", Kind: "two", Fold: "DISALLOW", Count: 7, Flag: true, Wait: time.Hour, Size: 64 << 20, Rate: 10 << 20, Share: 20,
		Items: []string{"010", "true", "x"}, Labels: map[string]string{"a": "b"}, Present: &struct{ X int }{}}
	want.Nested.Inner = "2020-01-01"
	if got, want := fmt.Sprintf("%+v", s), fmt.Sprintf("%+v", want); strings.Split(got, "Present")[0] != strings.Split(want, "Present")[0] || s.Present == nil {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for path, at := range map[string]Pos{"items[1]": {11, 14}, "nested.inner": {12, 17}, "nested.nothing": {12, 9}, "nothing": {2, 1}, "count": {5, 8}} {
		if doc.At(path) != at {
			t.Errorf("%s is at %v, want %v", path, doc.At(path), at)
		}
	}
}

func TestProblemsWithPlaces(t *testing.T) {
	cases := []struct {
		name, src string
		want      []string
	}{
		{"empty", "", []string{"f.yaml:1:1: the file is empty"}},
		{"comment only", "# x\n", []string{"the file is empty"}},
		{"not utf-8", "name: \xff\n", []string{"f.yaml:1:7: the file is not UTF-8"}},
		{"utf-16", "\xff\xfea\x00", []string{"f.yaml:1:1: the file is not UTF-8"}},
		{"tab", "name: a\n\tkind: one\n", []string{"f.yaml:2:1: not YAML"}},
		{"unclosed", "name: [a\n", []string{"not YAML"}},
		{"unknown alias", "name: *x\n", []string{"not YAML: unknown anchor"}},
		{"known alias", "name: &x a\nkind: *x\n", []string{"f.yaml:1:7: anchors are not allowed", "f.yaml:2:7: aliases are not allowed"}},
		{"merge key", "name: a\n<<: {kind: one}\n", []string{"f.yaml:2:1: merge keys are not allowed"}},
		{"key twice", "name: a\nname: b\n", []string{"f.yaml:2:1: key \"name\" is there twice, first on line 1 (keep one of them)"}},
		{"free key twice", "name: a\nlabels: {x: a, x: b}\n", []string{"f.yaml:2:16: labels: key \"x\" is there twice"}},
		{"unknown key", "name: a\nkount: 1\n", []string{`f.yaml:2:1: unknown key "kount" (did you mean count?)`}},
		{"swapped letters", "name: a\nfalg: true\n", []string{`unknown key "falg" (did you mean flag?)`}},
		{"shortened key", "name: a\npres: {x: 1}\n", []string{`unknown key "pres" (did you mean present?)`}},
		{"inner key outside", "name: a\ninner: b\n", []string{`unknown key "inner" (write it below nested)`}},
		{"optional inner key outside", "name: a\nx: 1\n", []string{`unknown key "x" (write it below present)`}},
		{"duration without unit", "name: a\nwait: 5\n", []string{`want a duration, got "5" (write 5s)`}},
		{"unknown inner key", "name: a\nnested: {iner: a}\n", []string{`nested: unknown key "iner" (did you mean inner?)`, `nested: key "inner" is missing`}},
		{"key that is a list", "name: a\n? [x]\n: 1\n", []string{"a key must be text, got a list"}},
		{"root is a list", "- a\n", []string{"f.yaml:1:1: want a mapping, got a list (for example {name: ...})"}},
		{"root is null", "---\n", []string{"want a mapping, got nothing"}},
		{"second document", "name: a\n---\n", []string{"a second document begins here"}},
		{"bad second document", "name: a\n---\n[", []string{"not YAML"}},
		{"many at once", "name: {}\nkind: thre\ncount: 11\nflag: no\nwait: 2h\nsize: 64MB\nrate: 10MiB\nshare: 101%\nitems: []\nlabels: {abcdef: x}\n", []string{
			"f.yaml:1:7: name: want text, got a mapping", "f.yaml:2:7: kind: \"thre\" is not one of one, two", "f.yaml:3:8: count: 11 is not between 0 and 10",
			"f.yaml:4:7: flag: want true or false, got \"no\" (write true or false)", "f.yaml:5:7: wait: 2h is not between 0s and 1h", "f.yaml:6:7: size: want a size, got \"64MB\" (for example 64MiB)",
			"f.yaml:7:7: rate: want a rate, got \"10MiB\" (for example 10MiB/s)", "f.yaml:8:8: share: want a percentage", "f.yaml:9:8: items: a list of 1 to 3 values is wanted, got 0",
			"f.yaml:10:10: labels: key \"abcdef\" is longer than 5 bytes"}},
		{"control character", "name: \"a\\nb\"\n", []string{"holds control characters"}},
		{"float for int", "name: a\ncount: 1.5\n", []string{`count: want a whole number, got "1.5"`}},
		{"hex for int", "name: a\ncount: 0x5\n", []string{`count: want a whole number, got "0x5"`}},
		{"custom tag", "name: !x a\n", []string{"f.yaml:1:7: tags are not allowed: !x"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, problems := decode(c.src, nil)
			if strings.Count(problems, "\n") != len(c.want) {
				t.Errorf("want %d problems, got:\n%s", len(c.want), problems)
			}
			for _, want := range c.want {
				if !strings.Contains(problems, want) {
					t.Errorf("no problem says %q:\n%s", want, problems)
				}
			}
		})
	}
}

func TestBounds(t *testing.T) {
	cases := map[string]string{
		"bytes":    strings.Repeat("#", MaxBytes+1),
		"nested":   "name: " + strings.Repeat("[", MaxDepth+2) + strings.Repeat("]", MaxDepth+2),
		"values":   "name: [" + strings.Repeat("a,", MaxNodes) + "]",
		"problems": many("x%d: 1\n", MaxProblems+50),
	}
	for name, src := range cases {
		var s sample
		_, problems := Decode("f.yaml", []byte(src), table(&s))
		if len(problems) == 0 || len(problems) > MaxProblems+1 {
			t.Errorf("%s: %d problems", name, len(problems))
		}
	}
	if _, _, problems := decode(cases["problems"], nil); !strings.Contains(problems, "51 more problems") {
		t.Errorf("the rest is not counted: %s", problems[len(problems)-200:])
	}
}

func many(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func TestEnvironmentBeatsFile(t *testing.T) {
	env := Lookup("APP_", func(name string) (string, bool) {
		v, ok := map[string]string{"APP_COUNT": "9", "APP_ITEMS": "a, b", "APP_NESTED_INNER": "deep", "APP_FLAG": "true", "APP_KIND": ""}[name]
		return v, ok
	})
	s, _, problems := decode("name: a\ncount: bad\nkind: one\n", env)
	if problems != "" || s.Count != 9 || len(s.Items) != 2 || s.Items[1] != "b" || s.Nested.Inner != "deep" || !s.Flag || s.Kind != "one" {
		t.Errorf("got %+v, %s", s, problems)
	}
	bad := Lookup("APP_", func(name string) (string, bool) { return "maybe", name == "APP_FLAG" })
	if _, _, problems := decode("name: a\n", bad); !strings.Contains(problems, "environment variable APP_FLAG: flag: want true or false, got \"maybe\"") {
		t.Error(problems)
	}
	if got := EnvName("GITOPSD_", "repository.allowLocalPath"); got != "GITOPSD_REPOSITORY_ALLOW_LOCAL_PATH" {
		t.Error(got)
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "10s": 10 * time.Second, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "10", "-1s", "1.5s", "1d", "9999999999h", "10 s", "s"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q = %v", text, got)
		}
	}
	for text, want := range map[string]int64{"0": 0, "7": 7, "7B": 7, "1KiB": 1 << 10, "1TiB": 1 << 40} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "1MB", "1.5MiB", "-1", "9223372036854775808", "9000000TiB", "1iB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q = %v", text, got)
		}
	}
	for _, text := range []string{"", "1", "1MiB", "1/s", "MiB/s"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q = %v", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "ms")) * time.Millisecond
		if d%time.Second != 0 && d > time.Second {
			d = d.Truncate(time.Second)
		}
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%s was read back as %v, %v", FormatDuration(d), got, err)
		}
	})
}

func TestSchemaIsJSONAndKnowsEveryKey(t *testing.T) {
	text, err := json.Marshal(Schema("sample", "a sample", table(&sample{})))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties           map[string]any
		Required             []string
		AdditionalProperties bool
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	if len(schema.Properties) != 13 || len(schema.Required) != 1 || schema.AdditionalProperties {
		t.Errorf("schema = %s", text)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"name: a\n", "name: [", "a: &x [*x]\n", "<<: {}\n", "? {a: b}\n: c\n", "--- !x\n", "name: \"\\x00\"\n", "%YAML 1.1\n---\n", "labels: {a: 1, a: 2}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var s sample
		doc, problems := Decode("f.yaml", src, table(&s))
		if doc == nil || len(problems) > MaxProblems+1 {
			t.Fatalf("doc %v, %d problems", doc, len(problems))
		}
		for _, p := range problems {
			if p.Message == "" || p.Line < 0 || strings.ContainsAny(p.Message, "\n\r") {
				t.Errorf("problem %+v", p)
			}
		}
		if len(problems) == 0 && s.Name == "" {
			t.Error("a file without a name passed")
		}
	})
}

// TestOnlyANearNameIsMeant: a guess at random sends one to the wrong host.
func TestOnlyANearNameIsMeant(t *testing.T) {
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("database-%02d.dc1.example.org", i))
	}
	for _, c := range []struct {
		name  string
		names []string
		want  string
	}{
		{"web-22", []string{"web-1", "web-2"}, "did you mean web-2?"},
		{"wbe-1", []string{"db-1", "web-1"}, "did you mean web-1?"},
		{"web-9", []string{"web-2", "web-1"}, "known here: web-1, web-2"},
		{"bsh", []string{"zsh", "bash"}, "did you mean bash?"},
		{"database-prod-eu", []string{"datastore-prod-eu"}, "known here: datastore-prod-eu"},
		{"database-prod-ue", []string{"database-prod-eu", "web"}, "did you mean database-prod-eu?"},
		{"databse-0.dc1.example.org", many[:1], "did you mean database-00.dc1.example.org?"},
		{"data", []string{"database", "web"}, "did you mean database?"},
		{"web-1", nil, ""},
		{"database-20.dc1.example.org", many, "known here: " + strings.Join(many[:6], ", ") + " and 14 others"},
	} {
		if got := NearOrKnown(c.name, c.names); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
