// Package docs holds the documentation. This test follows its links and looks up the files and tests it names.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// top is the repository's folder, seen from here.
const top = ".."

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	named    = regexp.MustCompile("`((?:internal|test|cmd|configs|dist)/[A-Za-z0-9_./-]+)`")
	testName = regexp.MustCompile(`\b(Test[A-Z][A-Za-z0-9]+)\b`)
	notSlug  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// documents reads every Markdown file of the project.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != top || d.Name() == "testdata" || d.Name() == "bin"):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 25 {
		t.Fatalf("only %d documents were found", len(all))
	}
	return all
}

// slug is the anchor that forges make of a heading.
func slug(title string) string {
	return strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}

func TestLinksResolve(t *testing.T) {
	all := documents(t)
	for file, text := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path := file
			if target != "" {
				path = filepath.Join(filepath.Dir(file), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: link to %s: there is no such file", file, m[1])
				continue
			}
			if anchor != "" && !hasHeading(all[path], anchor) {
				t.Errorf("%s: link to %s: there is no such heading", file, m[1])
			}
		}
	}
}

// hasHeading says whether a document has a heading with this anchor.
func hasHeading(text, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		if slug(m[1]) == anchor {
			return true
		}
	}
	return false
}

func TestEveryPageIsInTheIndex(t *testing.T) {
	all := documents(t)
	index := all[filepath.Join(top, "docs", "README.md")]
	for file := range all {
		page, inside := strings.CutPrefix(filepath.ToSlash(file), "../docs/")
		if inside && page != "README.md" && !strings.Contains(index, "("+page+")") {
			t.Errorf("docs/README.md does not list %s", page)
		}
	}
}

func TestNamedFilesAndTestsExist(t *testing.T) {
	tests := testsOfTheProject(t)
	for file, text := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
	}
}

// testsOfTheProject lists the names of all tests.
func testsOfTheProject(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDeviationsAreCases looks up every case that the table of differences names; the packages' tests read the same table.
func TestDeviationsAreCases(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("reference", "appspec.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(` (deploy|appspec)/([a-z-]+)`).FindAllStringSubmatch(string(page), -1)
	if len(names) < 16 {
		t.Errorf("only %d cases are named", len(names))
	}
	for _, m := range names {
		file := filepath.Join(top, "internal", "apply", "testdata", "deploy", m[2], "expected.json")
		if m[1] == "appspec" {
			file = filepath.Join(top, "internal", "appspec", "testdata", "cases", m[2]+".appspec.yml")
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("docs/reference/appspec.md names %s, which is no case: %v", m[0], err)
		}
	}
}

// TestDeviationFilesAreTheTable compares the table with the files that the comparison with CodeDeploy's agent reads: a line a case, each with a reason.
func TestDeviationFilesAreTheTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("reference", "appspec.md"))
	if err != nil {
		t.Fatal(err)
	}
	for kind, file := range map[string]string{"appspec": "internal/appspec/testdata/deviations.txt", "deploy": "internal/apply/testdata/deviations.txt"} {
		text, err := os.ReadFile(filepath.Join(top, file))
		if err != nil {
			t.Fatal(err)
		}
		listed := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
			if listed[name] = true; strings.TrimSpace(reason) == "" {
				t.Errorf("%s: %s has no reason", file, name)
			}
			if !regexp.MustCompile(` ` + kind + `/` + name + `\b`).Match(page) {
				t.Errorf("%s lists %s, the table of docs/reference/appspec.md does not", file, name)
			}
		}
		for _, m := range regexp.MustCompile(` `+kind+`/([a-z-]+)`).FindAllStringSubmatch(string(page), -1) {
			if !listed[m[1]] {
				t.Errorf("docs/reference/appspec.md names %s, %s does not", m[1], file)
			}
		}
	}
}
