package apply

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// contained is an applier whose hooks get control groups.
func contained(t *testing.T, w *workbench) *Applier {
	t.Helper()
	a := w.applier()
	if a.cgroups.Base == "" {
		t.Skip("hooks get no control groups here: " + a.cgroups.Reason)
	}
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("needs setsid")
	}
	return a
}

// resultOf reads how the hook of ApplicationStart ended.
func resultOf(t *testing.T, a *Applier) *hookResult {
	t.Helper()
	res, err := readResult(a.hookDir(Key{"g1", "d-1", 1}, appspec.ApplicationStart, ownVariant))
	if err != nil || res == nil {
		t.Fatalf("no result: %v", err)
	}
	return res
}

func killPID(t *testing.T, file string) {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(string(readFile(t, file))))
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

// daemon is a line of a script that leaves a process in a session of its own,
// which does what body says and has its id in a file.
func daemon(pidFile, body string) string {
	return "setsid sh -c 'echo $$ > " + pidFile + "; " + body + "' > /dev/null 2>&1 < /dev/null &\nwhile [ ! -s " + pidFile + " ]; do sleep 0.01; done\n"
}

// Children in other sessions get TERM at the timeout, and KILL if they ignore it.
func TestTimeoutFindsOtherSessions(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := contained(t, w)
	polite, stubborn, told := filepath.Join(w.dir, "polite"), filepath.Join(w.dir, "stubborn"), filepath.Join(w.dir, "told")
	script := daemon(polite, `trap "echo x >> `+told+`; exit" TERM; while :; do sleep 0.02; done`) +
		daemon(stubborn, `trap "" TERM; while :; do sleep 0.02; done`) + "sleep 60"
	res := w.apply(a, w.deployment("d-1", w.bundle(hooked(script, ", timeout: 1"))))
	if res.Error == nil || res.Error.Code != CodeTimedOut || len(res.Warnings) != 0 {
		t.Fatalf("%+v %q", res.Error, res.Warnings)
	}
	if got := string(readFile(t, told)); got != "x\n" {
		t.Errorf("TERM arrived as %q", got)
	}
	for _, file := range []string{polite, stubborn} {
		until(t, file+" to be gone", func() bool { return !alive(t, file) })
	}
	if res := resultOf(t, a); len(res.Cgroups) != 0 || res.Uncontained != "" {
		t.Errorf("%+v", res)
	}
}

// What a script left behind lives on, in its control group, which goes with it.
func TestDaemonsOutliveTheirHook(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := contained(t, w)
	pid := filepath.Join(w.dir, "pid")
	if res := w.apply(a, w.deployment("d-1", w.bundle(hooked(daemon(pid, "exec sleep 60"), "")))); res.Outcome != OutcomeSucceeded || len(res.Warnings) != 0 {
		t.Fatalf("%+v", res)
	}
	groups := resultOf(t, a).Cgroups
	if len(groups) != 1 || !exists(groups[0]) {
		t.Fatalf("groups %v", groups)
	}
	w.applier()
	if !alive(t, pid) || !exists(groups[0]) {
		t.Error("the daemon did not outlive its hook")
	}
	killPID(t, pid)
	until(t, "the control group to be collected at a start", func() bool {
		w.applier()
		return !exists(groups[0])
	})
}

// The application that an event's first script started does not die of the
// second one's timeout.
func TestTimeoutSparesEarlierScripts(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := contained(t, w)
	pid := filepath.Join(w.dir, "pid")
	files := hooked(daemon(pid, "exec sleep 60"), "}\n    - {location: slow.sh, timeout: 1")
	files["slow.sh"] = "sleep 60"
	res := w.apply(a, w.deployment("d-1", w.bundle(files)))
	if res.Error == nil || res.Error.Code != CodeTimedOut || res.Error.ScriptName != "slow.sh" {
		t.Fatalf("%+v", res.Error)
	}
	if !alive(t, pid) {
		t.Error("the first script's daemon is dead")
	}
	killPID(t, pid)
	until(t, "its control group to be collected", func() bool {
		a.cgroups.collect()
		return !exists(resultOf(t, a).Cgroups[0])
	})
}

// counting is an applier whose hooks' processes are counted: by cgroup v2, or by
// v1 where that has the controller, which differs in nothing that matters here
// but the lack of cgroup.kill.
func counting(t *testing.T, w *workbench, limit int) *Applier {
	t.Helper()
	a := w.applier()
	a.cgroups.Limit = limit
	if a.cgroups.Base != "" && a.cgroups.limited() {
		return a
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("this process is in no control group that it could limit:", err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && fields[1] == "pids" {
			home := filepath.Join("/sys/fs/cgroup/pids", fields[2])
			if base, err := os.MkdirTemp(home, "gitopsd-test-"); err == nil {
				t.Cleanup(func() {
					if err := os.Remove(base); err != nil {
						t.Error(err)
					}
				})
				a.cgroups = cgroups{Base: base, Home: home, Limit: limit}
				return a
			}
		}
	}
	t.Skip("no pids controller can be used here")
	return nil
}

// A script that forks without end fails for that reason, and nothing is left.
func TestForkBomb(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{"ends well": "exit 0", "fails": "exit 3", "does not end": "while :; do sleep 0.1; done"} {
		w := newBench(t)
		a := counting(t, w, 30)
		script := "i=0; while [ $i -lt 50 ]; do (exec sleep 60) & i=$((i+1)); done 2>/dev/null\n" + end
		res := w.apply(a, w.deployment("d-1", w.bundle(hooked("HOOK\nsh -c '"+script+"' || true\n"+end, ", timeout: 2"))))
		if res.Error == nil || !strings.Contains(res.Error.Message, "it reached its limit of 30 processes and threads") {
			t.Errorf("%s: %+v", name, res.Error)
		} else if want := map[bool]int{true: CodeTimedOut, false: CodeScriptFailed}[name == "does not end"]; res.Error.Code != want {
			t.Errorf("%s: code %d", name, res.Error.Code)
		}
		if groups := resultOf(t, a).Cgroups; len(groups) != 0 {
			t.Errorf("%s: processes are left in %v", name, groups)
		}
		w.once()
	}
}

// The limit is that of the script, not of the application it started.
func TestLimitEndsWithTheScript(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := counting(t, w, 30)
	pid := filepath.Join(w.dir, "pid")
	if res := w.apply(a, w.deployment("d-1", w.bundle(hooked(daemon(pid, "exec sleep 60"), "")))); res.Outcome != OutcomeSucceeded {
		t.Fatal(res.Error)
	}
	groups := resultOf(t, a).Cgroups
	if len(groups) != 1 || string(readFile(t, filepath.Join(groups[0], "pids.max"))) != "max\n" {
		t.Errorf("%v", groups)
	}
	killPID(t, pid)
	until(t, "the control group to be removed", func() bool { return (&cgroup{dir: groups[0]}).remove() })
}

// Without control groups hooks work as before; a timeout says what it could not do.
func TestHooksWithoutControlGroups(t *testing.T) {
	t.Parallel()
	for _, c := range []cgroups{{Reason: "no cgroup v2 is mounted"}, {Base: "/proc/self/none", Home: "/proc/self/none"}} {
		w := newBench(t)
		a := w.applier()
		a.cgroups = c
		res := w.apply(a, w.deployment("d-1", w.bundle(hooked("HOOK; exec sleep 60", ", timeout: 1"))))
		if res.Error == nil || res.Error.Code != CodeTimedOut || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "may go on, as it had no control group: "+c.Reason) {
			t.Errorf("%+v %q", res.Error, res.Warnings)
		}
		if r := resultOf(t, a); r.Uncontained == "" || len(r.Cgroups) != 0 {
			t.Errorf("%+v", r)
		}
		w.once()
	}
}

// A group that looks right and takes no process: the hook runs without one.
func TestControlGroupThatTakesNoProcess(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := w.applier()
	a.cgroups = cgroups{Base: w.dir, Home: w.dir, Limit: 10}
	if res := w.apply(a, w.deployment("d-1", w.bundle(hooked("HOOK", "")))); res.Outcome != OutcomeSucceeded {
		t.Fatal(res.Error)
	}
	if r := resultOf(t, a); !strings.Contains(r.Uncontained, "cannot start a process in a control group") {
		t.Errorf("%+v", r)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, cgroupPrefix+"*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	w.once()
}

// Somebody else collects empty control groups while hooks make theirs.
func TestCollectingBesideHooks(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	a := contained(t, w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			a.cgroups.collect()
		}
	}()
	defer func() { cancel(); <-done }()
	for i := range 5 {
		if res := w.apply(a, w.deployment(fmt.Sprintf("d-%d", i), w.bundle(hooked("HOOK", "")))); res.Outcome != OutcomeSucceeded {
			t.Fatal(res.Error)
		}
	}
	w.once()
}

func TestFindCgroups(t *testing.T) {
	const hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n41 31 0:38 / MOUNT rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
	cases := []struct{ name, own, mounts, home, reason string }{
		{"root", "0::/\n", hybrid, "", ""},
		{"service", "8:pids:/x\n0::/system.slice/gitopsd.service\n", hybrid, "system.slice/gitopsd.service", ""},
		{"namespace", "0::/box/app\n", strings.ReplaceAll(hybrid, "/ MOUNT", "/box MOUNT"), "app", ""},
		{"outside", "0::/../other\n", hybrid, "", "no cgroup v2 is mounted here that this process is in"},
		{"v1", "8:pids:/x\n", strings.ReplaceAll(hybrid, "cgroup2", "tmpfs"), "", "no cgroup v2 is mounted here that this process is in"},
		{"no directory", "0::/gone\n", hybrid, "gone", "cannot make a control group"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			proc, mount := t.TempDir(), t.TempDir()
			writeFile(t, filepath.Join(proc, "cgroup"), []byte(c.own))
			writeFile(t, filepath.Join(proc, "mountinfo"), []byte(strings.ReplaceAll(c.mounts, "MOUNT", mount)))
			if c.name != "no directory" {
				if err := os.MkdirAll(filepath.Join(mount, c.home), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got := findCgroups(proc, 5)
			if c.reason == "" {
				home, err := cgroupHome(proc)
				if err != nil || home != filepath.Join(mount, c.home) {
					t.Errorf("home %s %v", home, err)
				}
				c.reason = home + " is no control group" // plain directories get no cgroup.procs
			}
			if got.Base != "" || !strings.Contains(got.Reason, c.reason) {
				t.Errorf("%+v", got)
			}
			if left, _ := os.ReadDir(filepath.Join(mount, c.home)); len(left) != 0 && c.home != "" {
				t.Errorf("left %v", left)
			}
		})
	}
}

// Where there are no control groups the log says so once.
func TestMissingControlGroupsAreLoggedOnce(t *testing.T) {
	w := newBench(t)
	var log bytes.Buffer
	o := w.options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.apply(a, w.deployment("d-1", w.bundle(hooked("HOOK", ""))))
	want := 0
	if a.cgroups.Base == "" {
		want = 1
	}
	if got := strings.Count(log.String(), "hooks get no control groups"); got != want {
		t.Errorf("said %d times:\n%s", got, log.String())
	}
}
