package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// everyPoint tells whether the crash tests go through each point, as `make soak`
// asks them to, or a sample.
func everyPoint() bool { return os.Getenv("GITOPSD_SOAK") != "" }

// sampled tells whether a point of so many alike is tried.
func sampled(stride int, what ...any) bool {
	if everyPoint() {
		return true
	}
	h := fnv.New32a()
	fmt.Fprint(h, what...)
	return h.Sum32()%uint32(stride) == 0
}

// caseSweep is a case of CodeDeploy's agent on a host that crashes. Everything
// that a crash leaves lies below live, and is put back between two points.
type caseSweep struct {
	t      *testing.T
	name   string
	live   string
	saved  string
	source string
	runs   string // the hooks append "DEPLOYMENT EVENT SCRIPT" lines here
	steps  []caseStep
	self   string

	step     int
	d        Deployment
	old, new string         // the target before and after
	want     Result         // of the deployment without a crash
	hooks    map[string]int // how often each ran without a crash
}

// The power is cut, and the process killed with -9, at the operations of every
// deployment of the agent's cases. After a restart the files are the old or the new
// ones, nothing else lies about, and no hook has started twice.
func TestCrashPointsOfTheCases(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the cases set owners, which needs root")
	}
	for _, tool := range []string{"sh", "cp", "zip", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the cases need %s", tool)
		}
	}
	cases, err := filepath.Glob("testdata/deploy/*/steps.json")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	var cuts, kills atomic.Int64
	t.Run("cases", func(t *testing.T) {
		for _, file := range cases {
			t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
				t.Parallel()
				s := newCaseSweep(t, filepath.Dir(file))
				for i := range s.steps {
					s.sweepStep(i, &cuts, &kills)
				}
			})
		}
	})
	t.Logf("crash points tried: %d (%d power cuts, %d kills) in %d cases", cuts.Load()+kills.Load(), cuts.Load(), kills.Load(), len(cases))
}

func newCaseSweep(t *testing.T, dir string) *caseSweep {
	t.Helper()
	root := scratch(t)
	s := &caseSweep{t: t, name: filepath.Base(dir), live: filepath.Join(root, "live"), saved: filepath.Join(root, "saved"), source: filepath.Join(root, "bundles"), runs: filepath.Join(root, "runs")}
	err := json.Unmarshal(readFile(t, filepath.Join(dir, "steps.json")), &s.steps)
	if err == nil {
		s.self, err = os.Executable()
	}
	for _, d := range []string{s.live, s.target(), s.source} {
		err = errors.Join(err, os.Mkdir(d, 0o755))
	}
	maker, abs := filepath.Abs(filepath.Join(dir, "make.sh"))
	writeFile(t, s.runs, nil)
	if err := errors.Join(err, abs, os.Chmod(s.runs, 0o666)); err != nil {
		t.Fatal(err)
	}
	shell(t, s.source, s.target(), "set -e; . "+maker)
	s.countHooks()
	return s
}

func (s *caseSweep) target() string { return filepath.Join(s.live, "target") }

func (s *caseSweep) options() Options {
	return Options{StateDir: filepath.Join(s.live, "state"), WorkDir: s.live, Supervisor: []string{s.self, "supervise"}, KillGrace: 50 * time.Millisecond, OutputGrace: 50 * time.Millisecond}
}

func (s *caseSweep) applier() *Applier {
	s.t.Helper()
	a, err := New(s.options())
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// countHooks makes every script of the bundles count its runs.
func (s *caseSweep) countHooks() {
	s.t.Helper()
	err := filepath.WalkDir(s.source, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if first, rest, ok := strings.Cut(string(data), "\n"); ok && strings.HasPrefix(first, "#!/bin/") {
			return os.WriteFile(path, []byte(first+"\necho $DEPLOYMENT_ID $LIFECYCLE_EVENT \"$0\" >> "+s.runs+"\n"+rest), 0)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// counted tells how often each hook has run, and forgets it.
func (s *caseSweep) counted() map[string]int {
	s.t.Helper()
	out := map[string]int{}
	for line := range strings.Lines(string(readFile(s.t, s.runs))) {
		out[strings.TrimSpace(line)]++
	}
	if err := os.Truncate(s.runs, 0); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// replace makes one directory a copy of another, attributes included.
func (s *caseSweep) replace(to, from string) {
	s.t.Helper()
	if err := os.RemoveAll(to); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
}

// sweepStep goes through the crash points of one deployment, and leaves the host
// as it is when there is no crash.
func (s *caseSweep) sweepStep(i int, cuts, kills *atomic.Int64) {
	s.t.Helper()
	count := map[string]int{}
	for _, step := range s.steps[:i+1] {
		s.d = step.deployment(s.source, count)
	}
	s.step, s.d.CommitTime = i, time.Unix(1700000000, 0)
	if pre := s.steps[i].Pre; pre != "" {
		shell(s.t, s.target(), s.target(), pre+"\n:")
	}
	a := s.applier()
	s.replace(s.saved, s.live)
	s.old = treeOf(s.t, s.target())
	faults := &durable.Faults{}
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	var err error
	if s.want, err = a.Apply(context.Background(), s.d, nil); err != nil {
		s.t.Fatal(err)
	}
	s.new, s.hooks = treeOf(s.t, s.target()), s.counted()
	after := s.saved + "-after"
	s.replace(after, s.live)
	for n := 1; n <= faults.Count()+3; n++ {
		for variant, decision := range []Decision{Continue, Undo} {
			if n <= faults.Count() && sampled(s.stride(24), s.name, i, n, variant) {
				cuts.Add(1)
				s.cut(n, (n+variant)%2 == 0, decision)
			}
		}
		if sampled(s.stride(96), s.name, i, n) {
			kills.Add(1)
			s.kill(n, []Decision{Continue, Undo}[n%2])
		}
	}
	s.replace(s.live, after)
}

// stride thins out the sample where a hook takes seconds.
func (s *caseSweep) stride(n int) int {
	if s.name == "hook-timeout" {
		return 4 * n
	}
	return n
}

// cut cuts the power at the n-th operation.
func (s *caseSweep) cut(n int, tear bool, decision Decision) {
	s.t.Helper()
	s.replace(s.live, s.saved)
	a := s.applier()
	faults := &durable.Faults{}
	faults.CutAt(n, tear)
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	if _, err := a.Apply(context.Background(), s.d, nil); err != nil && !errors.Is(err, durable.ErrCut) {
		s.t.Error(err)
	}
	s.settle(decision, fmt.Sprintf("cut at %d", n))
	a.reap()
}

// kill kills the process at the n-th operation; supervisors go on.
func (s *caseSweep) kill(n int, decision Decision) {
	s.t.Helper()
	s.replace(s.live, s.saved)
	options, deployment := s.saved+"-options", s.saved+"-deployment"
	writeJSON(s.t, options, s.options())
	writeJSON(s.t, deployment, s.d)
	killedAt(s.t, options, deployment, n)
	s.settle(decision, fmt.Sprintf("killed at %d", n))
}

// settle goes on after a crash and judges what became of it.
func (s *caseSweep) settle(decision Decision, when string) {
	s.t.Helper()
	a := s.applier()
	res, resumed := settleOn(s.t, a, s.d, decision)
	want := s.old
	for _, e := range res.Events {
		if e.Event == "Install" && e.Status == StatusSucceeded {
			want = s.new
		}
	}
	if got := treeOf(s.t, s.target()); got != want {
		s.t.Errorf("%s: the tree is\n%s\nand should be\n%s", statuses(res), got, want)
	}
	if !resumed || decision == Continue {
		if got, want := fmt.Sprint(statuses(res), code(res)), fmt.Sprint(statuses(s.want), code(s.want)); got != want {
			s.t.Errorf("it ended as\n%s\nand without a crash as\n%s", got, want)
		}
	}
	for line, times := range s.counted() {
		if times > max(1, s.hooks[line]) {
			s.t.Errorf("%s ran %d times, without a crash %d", line, times, s.hooks[line])
		}
	}
	noLeftovers(s.t, a)
	if s.t.Failed() {
		s.t.Fatalf("step %d, %s, %s", s.step+1, when, decision)
	}
}

func code(res Result) int {
	if res.Error == nil {
		return CodeSuccess
	}
	return res.Error.Code
}

// settleOn resumes what is pending, or applies again, and wants the end to last.
func settleOn(t *testing.T, a *Applier, d Deployment, decision Decision) (res Result, resumed bool) {
	t.Helper()
	pending, err := a.Pending()
	if err != nil || len(pending) > 1 {
		t.Fatalf("pending %v %v", pending, err)
	}
	if resumed = len(pending) == 1; resumed {
		res, err = a.Resume(context.Background(), pending[0].Key, decision, nil)
	} else {
		res, err = a.Apply(context.Background(), d, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !res.Began {
		return res, resumed // refused, which is not recorded
	}
	if again, err := a.Apply(context.Background(), d, nil); err != nil || again.Outcome != res.Outcome {
		t.Errorf("applying again: %v %v, it had ended as %v", again.Outcome, err, res.Outcome)
	}
	if pending, err := a.Pending(); err != nil || len(pending) != 0 {
		t.Errorf("still pending: %v %v", pending, err)
	}
	return res, resumed
}

// noLeftovers wants nothing half made in the state directory.
func noLeftovers(t *testing.T, a *Applier) {
	t.Helper()
	err := filepath.WalkDir(a.groupsDir(), func(path string, e fs.DirEntry, err error) error {
		if e.IsDir() && e.Name() == "archive" {
			return fs.SkipDir
		}
		if name := e.Name(); strings.HasPrefix(name, makingPrefix) || strings.HasPrefix(name, trashPrefix) || name == "claim.json" {
			t.Errorf("%s is left over", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// killedAt applies in a process that dies of -9 at its n-th durable operation.
func killedAt(t *testing.T, options, deployment string, n int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(self, "apply-and-die", options, deployment, fmt.Sprint(n)).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("at %d: %v\n%s", n, err, out)
	}
}
