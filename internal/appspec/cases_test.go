package appspec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// verdict is what CodeDeploy's agent says of a file.
type verdict struct {
	OK         bool
	Normalized map[string]any
	Error      struct{ Class, Message string }
}

// deviations reads the table of docs/reference/appspec.md: the cases in which we differ from the agent on purpose, and what it says of each.
func deviations(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "appspec.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 {
			continue
		}
		for word := range strings.FieldsSeq(cells[2]) {
			if name, ours := strings.CutPrefix(word, "appspec/"); ours {
				out[name] = cells[1]
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("the table names no case; has it another form now?")
	}
	return out
}

// TestCasesReachTheAgentsVerdict runs the files whose verdicts the real agent gave.
func TestCasesReachTheAgentsVerdict(t *testing.T) {
	listed := deviations(t)
	if len(listed) > 12 {
		t.Errorf("%d deviations are too many", len(listed))
	}
	seen := runCases(t, "testdata/cases", listed)
	if seen < 117 {
		t.Errorf("only %d cases found", seen)
	}
}

// TestRealFilesReachTheAgentsVerdict runs files from public repositories, where they lie beside this one.
func TestRealFilesReachTheAgentsVerdict(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "cases", "real")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the real files are not part of this repository and not beside it")
	}
	runCases(t, dir, nil)
}

func runCases(t *testing.T, dir string, listed map[string]string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.appspec.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".appspec.yml")
		t.Run(name, func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := readVerdict(t, strings.TrimSuffix(file, ".appspec.yml")+".verdict.json")
			difference := compare(src, want)
			reason, deviates := listed[name]
			switch {
			case deviates && difference == "":
				t.Errorf("listed as a deviation (%s), but agrees with the agent", reason)
			case !deviates && difference != "":
				t.Error(difference)
			}
		})
	}
	return len(files)
}

func readVerdict(t *testing.T, path string) verdict {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v verdict
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// compare says how our verdict on src differs from the agent's; empty if it does not.
func compare(src []byte, want verdict) string {
	spec, _, err := Parse(src, Options{})
	switch {
	case want.OK && err != nil:
		return "the agent accepts it, we refuse: " + err.Error()
	case !want.OK && err == nil:
		return "we accept it, the agent refuses: " + want.Error.Message
	case !want.OK:
		first := err.(*Error).Problems[0]
		if want.Error.Class == "AppSpecValidationException" && first.Message != want.Error.Message {
			return "message differs:\nwe:    " + first.Message + "\nagent: " + want.Error.Message
		}
		return ""
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err.Error()
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		return err.Error()
	}
	if a, b := compact(got), compact(want.Normalized); !reflect.DeepEqual(a, b) {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return "spec differs:\nwe:    " + string(x) + "\nagent: " + string(y)
	}
	return ""
}

// compact drops what is null or empty, which both sides may leave out.
func compact(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any)
		for key, item := range v {
			item = compact(item)
			if item == nil || reflect.DeepEqual(item, []any{}) || reflect.DeepEqual(item, map[string]any{}) {
				continue
			}
			m[key] = item
		}
		return m
	case []any:
		list := make([]any, 0, len(v))
		for _, item := range v {
			list = append(list, compact(item))
		}
		return list
	}
	return v
}
