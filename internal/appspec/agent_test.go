package appspec

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
)

// readLines decodes a file of one JSON document a line.
func readLines[T any](t *testing.T, path string) []T {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var list []T
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, MaxSourceBytes)
	for lines.Scan() {
		var item T
		if err := json.Unmarshal(lines.Bytes(), &item); err != nil {
			t.Fatalf("%s, line %d: %v", path, len(list)+1, err)
		}
		list = append(list, item)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestGeneratedFilesReachTheAgentsVerdict runs random files with odd scalars in every place, judged by the agent's own classes on the
// Ruby, Psych and libyaml of the cases.
func TestGeneratedFilesReachTheAgentsVerdict(t *testing.T) {
	type row struct {
		Src     string
		Verdict verdict
	}
	rows := readLines[row](t, "testdata/generated.jsonl")
	if len(rows) < 200 {
		t.Fatalf("only %d rows", len(rows))
	}
	for i, r := range rows {
		if difference := compare([]byte(r.Src), r.Verdict); difference != "" {
			t.Errorf("line %d: %s\n%s", i+1, difference, r.Src)
		}
	}
}

// TestScalarsResolveAsInTheAgent compares scalars as they stand in a file with what the agent's YAML library makes of them.
func TestScalarsResolveAsInTheAgent(t *testing.T) {
	rows := readLines[[3]string](t, "testdata/scalars.jsonl")
	if len(rows) < 400 {
		t.Fatalf("only %d rows", len(rows))
	}
	for _, row := range rows {
		text, wantKind, want := row[0], row[1], row[2]
		doc, problem := readDocument([]byte("x: " + text + "\n"))
		if problem != nil {
			if wantKind != "refused" {
				t.Errorf("%q is refused (%s), the agent reads %s", text, problem.Message, want)
			}
			continue
		}
		kind, got := kindAndText(doc.root.get("x"))
		if kind != wantKind || got != want {
			t.Errorf("%q is %s %s, the agent reads %s %s", text, kind, got, wantKind, want)
		}
	}
}

// kindAndText names a value as testdata/scalars.jsonl does.
func kindAndText(v *value) (kind, text string) {
	switch {
	case v.isNil():
		return "nil", "nil"
	case v.kind == kindBool:
		return inspect(v), inspect(v)
	case v.kind == kindSymbol:
		return "symbol", v.text
	}
	return [...]string{"nil", "bool", "int", "float", "string", "symbol", "list", "map"}[v.kind], inspect(v)
}
