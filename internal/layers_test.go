package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
)

const module = "github.com/gitopsd/gitopsd/"

// layer says what a package may import beyond the standard library and its own sub-packages.
type layer struct {
	ours   []string // our packages, relative to internal/
	theirs []string // module path prefixes
	pure   bool     // decides and encodes only: no operating system, network, clock, lock or goroutine
}

// anything lets a shell package import all of ours.
const anything = "*"

// layers is the map of ARCHITECTURE.md as a table. A new package begins with a line here.
var layers = map[string]layer{
	"appspec":       {theirs: []string{"go.yaml.in/yaml"}, pure: true},
	"desired":       {ours: []string{"bundle", "appspec"}, theirs: []string{"go.yaml.in/yaml"}, pure: true},
	"bundle":        {theirs: []string{"github.com/klauspost/compress", "github.com/PlakarKorp/go-cdc-chunkers"}, pure: true},
	"rollout":       {ours: []string{"desired"}, pure: true},
	"durable":       {theirs: []string{"golang.org/x/sys"}},
	"timerslack":    {theirs: []string{"golang.org/x/sys"}},
	"transport":     {theirs: []string{"github.com/hashicorp/yamux", "golang.org/x/crypto/ssh", "golang.org/x/time", "golang.org/x/net", "golang.org/x/sys"}},
	"gossip":        {ours: []string{"transport"}, theirs: []string{"github.com/hashicorp/memberlist", "github.com/hashicorp/go-metrics", "github.com/hashicorp/go-hclog"}},
	"consensus":     {ours: []string{"transport", "durable"}, theirs: []string{"github.com/hashicorp/raft", "go.etcd.io/bbolt", "github.com/hashicorp/go-hclog", "github.com/hashicorp/go-metrics"}},
	"bundle/store":  {ours: []string{"bundle", "durable"}, theirs: []string{"golang.org/x/sys"}},
	"bundle/origin": {ours: []string{"bundle"}, theirs: []string{"github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go"}},
	"swarm":         {ours: []string{"bundle", "bundle/store", "transport"}, theirs: []string{"golang.org/x/time", "golang.org/x/sync"}},
	"swarm/plan":    {pure: true},
	"apply":         {ours: []string{"appspec", "bundle", "bundle/store", "durable", "timerslack"}, theirs: []string{"golang.org/x/sys"}},
	"apply/plan":    {ours: []string{"appspec"}, pure: true},
	"health":        {ours: []string{"desired", "timerslack"}},
	"configrepo":    {ours: []string{"durable"}, theirs: []string{"github.com/go-git", "github.com/hiddeco/sshsig", "github.com/ProtonMail/go-crypto", "golang.org/x/crypto", "golang.org/x/sys", "go.yaml.in/yaml"}},
	"status":        {ours: []string{"desired", "desired/strict", "rollout", "durable"}, theirs: []string{"github.com/prometheus/client_golang"}},
	"agent":         {ours: []string{anything}, theirs: []string{"github.com/coreos/go-systemd", "golang.org/x/sync", "golang.org/x/sys", "github.com/prometheus/client_golang"}},
	"demo":          {ours: []string{anything}, theirs: []string{"github.com/johannesboyne/gofakes3", "golang.org/x/term", "golang.org/x/sys", "golang.org/x/crypto"}},
}

// impure is what a pure package may not import.
var impure = []string{"os", "os/exec", "os/user", "net", "net/http", "sync", "sync/atomic", "context", "log", "log/slog", "syscall", "runtime", "unsafe", "math/rand", "math/rand/v2", "crypto/rand", "path/filepath"}

// source is one parsed non-test file.
type source struct {
	pkg  string // relative to internal/
	path string
	file *ast.File
	set  *token.FileSet
}

// sources parses every non-test file below internal/.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "testdata" {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{pkg: filepath.ToSlash(filepath.Dir(path)), path: path, file: file, set: set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no source found below internal/")
	}
	return all
}

// layerOf finds the line that governs pkg: its own, or that of the nearest parent.
func layerOf(pkg string) (string, layer, bool) {
	for name := pkg; name != "." && name != ""; name = filepath.ToSlash(filepath.Dir(name)) {
		if l, ok := layers[name]; ok {
			return name, l, true
		}
	}
	return "", layer{}, false
}

// mayImport judges one import of a file in the layer called name.
func mayImport(name string, l layer, path string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(path, module+"internal/"):
		return mayImportOurs(name, l, strings.TrimPrefix(path, module+"internal/"))
	case strings.HasPrefix(path, module):
		return "imports " + path + ", which is not below internal/"
	case strings.Contains(first, "."):
		for _, prefix := range l.theirs {
			if path == prefix || strings.HasPrefix(path, prefix+"/") {
				return ""
			}
		}
		return "imports " + path + ", which another package owns"
	}
	if l.pure {
		for _, banned := range impure {
			if path == banned {
				return "is pure and imports " + path
			}
		}
	}
	return ""
}

// mayImportOurs judges an import of our package target.
func mayImportOurs(name string, l layer, target string) string {
	root := strings.Split(name, "/")[0]
	if target == "agent" && name != "demo" || target == "demo" {
		return "imports " + target + ", which nothing may but the shell above it"
	}
	if target == name || strings.HasPrefix(target, name+"/") || len(l.ours) > 0 && l.ours[0] == anything {
		return ""
	}
	for _, ok := range l.ours {
		if target == ok || strings.HasPrefix(target, ok+"/") && !isListed(target) {
			return ""
		}
	}
	if _, own := layers[target]; !own && strings.Split(target, "/")[0] == root {
		return ""
	}
	return "may not import " + target
}

// isListed says whether a package has a line of its own, so that its parent's permission does not cover it.
func isListed(pkg string) bool {
	_, ok := layers[pkg]
	return ok
}

func TestPackagesImportOnlyTheirNeighbours(t *testing.T) {
	for _, s := range sources(t) {
		name, l, ok := layerOf(s.pkg)
		if !ok {
			t.Errorf("%s: package %s has no line in the table of layers", s.path, s.pkg)
			continue
		}
		for _, imp := range s.file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if why := mayImport(name, l, path); why != "" {
				t.Errorf("%s: %s %s", s.set.Position(imp.Pos()), s.pkg, why)
			}
		}
	}
}

func TestPurePackagesStartNothingAndReadNoClock(t *testing.T) {
	for _, s := range sources(t) {
		if _, l, ok := layerOf(s.pkg); !ok || !l.pure {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: pure package %s starts a goroutine", s.set.Position(n.Pos()), s.pkg)
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && (n.Sel.Name == "Now" || n.Sel.Name == "Since" || n.Sel.Name == "Sleep" || n.Sel.Name == "After") {
					t.Errorf("%s: pure package %s reads the clock", s.set.Position(n.Pos()), s.pkg)
				}
			}
			return true
		})
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string]int{}
	for _, s := range sources(t) {
		if s.file.Doc != nil {
			comments[s.pkg]++
			if want := "Package " + s.file.Name.Name + " "; !strings.HasPrefix(s.file.Doc.Text(), want) {
				t.Errorf("%s: the package comment does not begin with %q", s.path, want)
			}
		} else if comments[s.pkg] == 0 {
			comments[s.pkg] = 0
		}
	}
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want exactly one", pkg, n)
		}
	}
}

// budgets of house style: reported here, and enforced where a file has outgrown any excuse.
const (
	fileLines, functionLines, packageLines = 600, 70, 2500
	fileLinesMax, functionLinesMax         = 700, 120
)

func TestSizesStayReadable(t *testing.T) {
	total := map[string]int{}
	for _, s := range sources(t) {
		text, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(string(text), "\n")
		total[s.pkg] += lines
		report(t, s.path, "lines", lines, fileLines, fileLinesMax)
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				n := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1
				report(t, s.set.Position(f.Pos()).String()+" "+f.Name.Name, "lines in a function", n, functionLines, functionLinesMax)
			}
		}
	}
	var names []string
	for pkg := range total {
		names = append(names, pkg)
	}
	sort.Strings(names)
	for _, pkg := range names {
		if total[pkg] > packageLines {
			t.Logf("package %s: %d lines, budget %d", pkg, total[pkg], packageLines)
		}
	}
}

// report logs what is over budget and fails what is over the hard limit.
func report(t *testing.T, where, what string, n, budget, limit int) {
	t.Helper()
	switch {
	case n > limit:
		t.Errorf("%s: %d %s, at most %d", where, n, what, limit)
	case n > budget:
		t.Logf("%s: %d %s, budget %d", where, n, what, budget)
	}
}

// TestPurePackagesRunWithoutTheRaceDetector compares the list in scripts/test with the table: what is pure has no races, and takes ten times as long with the detector;
// all else needs it.
func TestPurePackagesRunWithoutTheRaceDetector(t *testing.T) {
	script, err := os.ReadFile("../scripts/test")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(script), "\npure=\"")
	list, _, _ := strings.Cut(rest, "\"")
	got := strings.Fields(list)
	sort.Strings(got)
	var want []string
	for name, l := range layers {
		if l.pure {
			want = append(want, name)
		}
	}
	sort.Strings(want)
	if !slices.Equal(got, want) {
		t.Errorf("scripts/test runs %q without the race detector, pure are %q", got, want)
	}
}
