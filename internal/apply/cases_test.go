package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
)

// caseStep is one deployment of a case in testdata/deploy, see make.sh,
// steps.json and expected.json there: what CodeDeploy's own agent did.
type caseStep struct {
	Bundle       string   `json:"bundle"`
	Revision     string   `json:"revision"`
	Events       []string `json:"events"`
	Behavior     string   `json:"behavior"`
	Creator      string   `json:"creator"`
	Type         string   `json:"type"`
	AppSpec      string   `json:"appspec"`
	Group        string   `json:"group"`
	MaxRevisions int      `json:"max_revisions"`
	Pre          string   `json:"pre"`
}

type caseExpected struct {
	Outcome string `json:"outcome"`
	Events  []struct {
		Event  string `json:"event"`
		Status string `json:"status"`
	} `json:"events"`
	Error *struct {
		Event string `json:"event"`
		Kind  string `json:"kind"`
		Code  int    `json:"code"`
	} `json:"error"`
	ScriptsLog []string `json:"scripts_log"`
	Target     []struct {
		Path   string   `json:"path"`
		Type   string   `json:"type"`
		Mode   string   `json:"mode"`
		Owner  string   `json:"owner"`
		Group  string   `json:"group"`
		Sha256 string   `json:"sha256"`
		Target string   `json:"target"`
		MTime  int64    `json:"mtime"`
		ACL    []string `json:"acl"`
	} `json:"target"`
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
			if name, ours := strings.CutPrefix(word, "deploy/"); ours {
				out[name] = cells[1]
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("the table names no case; has it another form now?")
	}
	return out
}

// The cases of CodeDeploy's agent: each agrees, or is listed with a reason.
func TestCasesOfTheAgent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the cases set owners, which needs root")
	}
	for _, tool := range []string{"sh", "getfacl", "zip", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the cases need %s", tool)
		}
	}
	listed := deviations(t)
	if len(listed) > 15 {
		t.Errorf("%d deviations are more than 15", len(listed))
	}
	old := unix.Umask(0o022)
	t.Cleanup(func() { unix.Umask(old) })
	for name, value := range map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "USER": ""} {
		t.Setenv(name, value)
	}
	os.Unsetenv("USER")
	cases, err := filepath.Glob("testdata/deploy/*/steps.json")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range cases {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			apart := runCase(t, filepath.Dir(file))
			reason, deviates := listed[name]
			switch {
			case deviates && len(apart) == 0:
				t.Error("listed as a deviation, but it agrees")
			case !deviates && len(apart) > 0:
				t.Error(strings.Join(apart, "\n"))
			case deviates && reason == "":
				t.Error("listed without a reason")
			}
		})
	}
}

// runCase runs one case and returns where it differs.
func runCase(t *testing.T, dir string) []string {
	t.Helper()
	var steps []caseStep
	var want []caseExpected
	for file, into := range map[string]any{"steps.json": &steps, "expected.json": &want} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root := scratch(t)
	target, work, source := filepath.Join(root, "target"), filepath.Join(root, "cwd"), filepath.Join(root, "bundles")
	for _, d := range []string{target, work, source} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	maker, err := filepath.Abs(filepath.Join(dir, "make.sh"))
	if err != nil {
		t.Fatal(err)
	}
	shell(t, source, target, "set -e; . "+maker)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{StateDir: filepath.Join(root, "state"), WorkDir: work, Supervisor: []string{self, "supervise"}, KillGrace: time.Second, OutputGrace: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	norm := strings.NewReplacer(target, "@TARGET@", source, "@SRC@", root, "@ROOT@").Replace
	count := map[string]int{}
	var apart []string
	for i, step := range steps {
		if step.Pre != "" {
			shell(t, target, target, step.Pre+"\n:")
		}
		res, err := a.Apply(context.Background(), step.deployment(source, count), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, difference := range compareCase(t, res, want[i], target, norm) {
			apart = append(apart, fmt.Sprintf("step %d %s", i+1, difference))
		}
	}
	return apart
}

func shell(t *testing.T, dir, target, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TARGET="+target)
	if out, err := cmd.CombinedOutput(); err != nil && !strings.HasSuffix(script, ":") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (s caseStep) deployment(source string, count map[string]int) Deployment {
	group := s.Group
	if group == "" {
		group = "dg-1"
	}
	count[group]++
	d := Deployment{
		ID: fmt.Sprintf("d-%09d", count[group]), ApplicationName: "demo-app", GroupName: "demo-group", GroupID: group,
		Creator: s.Creator, AppSpecName: s.AppSpec, MaxRevisions: s.MaxRevisions, Events: events(strings.Join(s.Events, " ")),
		FileExistsBehavior: appspec.FileExistsBehavior(strings.ToUpper(s.Behavior)),
		Source:             Source{Path: filepath.Join(source, s.Bundle), Type: bundle.TypeDirectory},
	}
	if kind, s3 := strings.CutPrefix(s.Revision, "s3-"); s.Revision != "" {
		d.Source.Type = bundle.Type(kind)
		if s3 {
			d.S3 = S3{Bucket: "demo-bucket", Key: fmt.Sprintf("rev/%s.%s", d.ID, kind), ETag: "abc123"}
		}
	}
	if s.Type == "BLUE_GREEN" {
		d.Kind = appspec.BlueGreenReplacement
		if s.Creator == CreatorRollback {
			d.Kind = appspec.BlueGreenRollbackReplacement
		}
	}
	return d
}

// compareCase names what differs between a result and what the agent did.
func compareCase(t *testing.T, res Result, want caseExpected, target string, norm func(string) string) []string {
	t.Helper()
	var apart []string
	differ := func(what string, got, wanted any) {
		if g, w := fmt.Sprint(got), fmt.Sprint(wanted); g != w {
			apart = append(apart, fmt.Sprintf("%s: we %s, agent %s", what, g, w))
		}
	}
	differ("outcome", res.Outcome, want.Outcome)
	var ours, theirs []string
	for _, e := range res.Events {
		if e.Status != StatusSkipped {
			ours = append(ours, string(e.Event)+" "+string(e.Status))
		}
	}
	for _, e := range want.Events {
		theirs = append(theirs, e.Event+" "+e.Status)
	}
	differ("events", ours, theirs)
	got, wanted := "none", "none"
	if e := res.Error; e != nil {
		got = fmt.Sprintf("%s %s %d", e.Event, e.Kind, e.Code)
	}
	if e := want.Error; e != nil {
		wanted = fmt.Sprintf("%s %s %d", e.Event, e.Kind, e.Code)
	}
	differ("error", got, wanted)
	differ("output", hookOutput(res.ScriptsLog, norm), hookOutput(want.ScriptsLog, func(s string) string { return s }))
	mine, agents := caseTree(t, target, norm), map[string]string{}
	for _, e := range want.Target {
		mode, sum := e.Mode, e.Sha256
		if e.Type == "symlink" {
			mode = ""
		}
		sort.Strings(e.ACL)
		agents[e.Path] = fmt.Sprintf("%s %s %s:%s %s %s %d %v", e.Type, mode, e.Owner, e.Group, sum, e.Target, e.MTime, e.ACL)
	}
	for path := range agents {
		differ(path, mine[path], agents[path])
	}
	for path := range mine {
		if _, both := agents[path]; !both {
			differ(path, mine[path], "")
		}
	}
	return apart
}

func hookOutput(lines []string, norm func(string) string) []string {
	var out []string
	for _, l := range lines {
		if strings.HasPrefix(l, "[stdout]") || strings.HasPrefix(l, "[stderr]") {
			out = append(out, norm(l))
		}
	}
	sort.Strings(out)
	return out
}

// caseTree describes the target as expected.json does.
func caseTree(t *testing.T, target string, norm func(string) string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(target, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == target {
			return err
		}
		n, _, err := statNode(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(target, path)
		kind, mode, sum, link, mtime := string(n.Kind), fmt.Sprintf("%04o", n.Mode), "", "", int64(0)
		var acl []string
		switch kind {
		case "link":
			kind, mode, link = "symlink", "", norm(n.Target)
		case "file":
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = "binary"
			if utf8.Valid(data) {
				digest := sha256.Sum256([]byte(norm(string(data))))
				sum = hex.EncodeToString(digest[:])
			}
			if n.MTimeNS < 1e18 {
				mtime = n.MTimeNS / 1e9
			}
		}
		if kind != "symlink" {
			acl = getfacl(t, path)
		}
		out[rel] = fmt.Sprintf("%s %s %s:%s %s %s %d %v", kind, mode, nameOf(n.UID, false), nameOf(n.GID, true), sum, link, mtime, acl)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func getfacl(t *testing.T, path string) []string {
	t.Helper()
	text, err := exec.Command("getfacl", "-cpE", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
	if len(lines) <= 3 {
		return nil
	}
	sort.Strings(lines)
	return lines
}

func nameOf(id int, group bool) string {
	text := fmt.Sprint(id)
	if group {
		if g, err := user.LookupGroupId(text); err == nil {
			return g.Name
		}
	} else if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}
