package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// hooked is a bundle with one script at ApplicationStart.
func hooked(script, options string) map[string]string {
	return map[string]string{
		"appspec.yml": "version: 0.0\nos: linux\nhooks:\n  ApplicationStart:\n    - {location: start.sh" + options + "}\n",
		"start.sh":    script,
	}
}

func (w *workbench) hook(script, options string) Result {
	w.t.Helper()
	return w.apply(w.applier(), w.deployment("d-1", w.bundle(hooked(script, options))))
}

func TestHookOutcomes(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, script, options string
		code                  int
		message               string
	}{
		{"succeeds", "HOOK", "", CodeSuccess, ""},
		{"fails", "HOOK; exit 3", "", CodeScriptFailed, "failed with exit code 3"},
		{"dies of a signal", "kill -9 $$", "", CodeScriptFailed, "killed by signal"},
		{"is too slow", "exec sleep 60", ", timeout: 1", CodeTimedOut, "failed to complete in 1 seconds"},
		{"ignores TERM", "trap '' TERM; while :; do sleep 0.1; done", ", timeout: 1", CodeTimedOut, "failed to complete in 1 seconds"},
		{"has no interpreter", "#!/no/such/interpreter\n", "", CodeScriptFailed, "no such file"},
		{"has no first line", "", "", CodeSuccess, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newBench(t)
			res := w.hook(c.script, c.options)
			if c.code == CodeSuccess {
				if res.Outcome != OutcomeSucceeded {
					t.Fatal(res.Error)
				}
				return
			}
			if res.Error == nil || res.Error.Code != c.code || res.Error.Kind != KindScript || res.Error.ScriptName != "start.sh" || !strings.Contains(res.Error.Message, c.message) {
				t.Fatalf("%+v", res.Error)
			}
			if got := statuses(res); !strings.HasSuffix(got, "AfterInstall=Succeeded ApplicationStart=Failed ValidateService=Skipped") {
				t.Error(got)
			}
		})
	}
}

func TestScriptWithoutFirstLineRunsInShell(t *testing.T) {
	w := newBench(t)
	dir := w.bundle(hooked("", ""))
	if err := os.WriteFile(filepath.Join(dir, "start.sh"), []byte("echo from $0 | sed 's/.*archive/in/'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if res := w.succeed(w.deployment("d-1", dir)); !strings.Contains(strings.Join(res.ScriptsLog, "\n"), "[stdout]in/start.sh") {
		t.Error(res.ScriptsLog)
	}
}

// The whole process group goes, with a child that ignores TERM.
func TestTimeoutEndsTheProcessGroup(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	pid := filepath.Join(w.dir, "pid")
	res := w.hook("(trap '' TERM; while :; do sleep 0.05; done) &\necho $! > "+pid+"\nsleep 60", ", timeout: 1")
	if res.Error == nil || res.Error.Code != CodeTimedOut {
		t.Fatalf("%+v", res.Error)
	}
	until(t, "the child to be gone", func() bool { return !alive(t, pid) })
}

func alive(t *testing.T, pidFile string) bool {
	t.Helper()
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// A daemon that keeps the script's output neither hangs the event nor dies of
// it, and what it writes later is read.
func TestBackgroundProcessThatHoldsOutput(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	pid, goOn := filepath.Join(w.dir, "pid"), filepath.Join(w.dir, "go-on")
	res := w.hook("(while [ ! -e "+goOn+" ]; do sleep 0.05; done; echo later; echo still; sleep 60) &\necho $! > "+pid+"\necho up", "")
	if res.Outcome != OutcomeSucceeded || len(res.Warnings) == 0 || !strings.Contains(strings.Join(res.Warnings, "\n"), "start.sh left a process behind that holds its stdout open") {
		t.Fatalf("%v %q", res.Error, res.Warnings)
	}
	defer func() {
		data, _ := os.ReadFile(pid)
		n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		syscall.Kill(n, syscall.SIGKILL)
	}()
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := w.applier().hookDir(Key{"g1", "d-1", 1}, appspec.ApplicationStart, ownVariant)
	until(t, "what the daemon wrote later", func() bool { return strings.Contains(string(readOutput(dir)), "[stdout]still") })
	if !alive(t, pid) {
		t.Error("the daemon is dead")
	}
}

func TestOutputIsBoundedAndSafe(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	res := w.hook("printf 'a\\377b\\n'; echo first; head -c 20000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo; echo last; printf unended; exit 1", "")
	log := strings.Join(res.ScriptsLog, "\n")
	if len(log) > headMax+3*tailMax {
		t.Errorf("%d bytes of log", len(log))
	}
	for _, want := range []string{"[stdout]a?b", "[stdout]first", "[stdout]last", "[stdout]unended", "bytes of output are left out"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if tail := res.Error.LogTail; len(tail) > logTailMax || !strings.HasSuffix(tail, "[stdout]unended\n") {
		t.Errorf("log tail of %d bytes", len(tail))
	}
}

// A gigabyte without an end of line, beside a process that holds the output.
func TestGigabyteOfOutput(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	pid := filepath.Join(w.dir, "pid")
	res := w.hook("sleep 60 &\necho $! > "+pid+"\nhead -c 1000000000 /dev/zero; printf 'last \\377\\n' >&2; exit 1", "")
	defer killPID(t, pid)
	if res.Error == nil || res.Error.Code != CodeScriptFailed || !utf8.ValidString(res.Error.LogTail) || len(res.Error.LogTail) > logTailMax {
		t.Fatalf("%+v", res.Error)
	}
	log := strings.Join(res.ScriptsLog, "\n")
	if len(log) > headMax+3*tailMax || !utf8.ValidString(log) || !strings.Contains(log, "[stderr]last ?") {
		t.Errorf("%d bytes of log", len(log))
	}
	if r := resultOf(t, w.applier()); r.DroppedBytes < 990_000_000 {
		t.Errorf("%d bytes were dropped", r.DroppedBytes)
	}
}

func TestHookEnvironment(t *testing.T) {
	w := newBench(t)
	t.Setenv("NOTIFY_SOCKET", "/run/secret")
	t.Setenv("OF_THE_AGENT", "kept")
	d := w.deployment("d-1", w.bundle(hooked("env | sort; pwd | sed 's/^/cwd /'; echo stdin $(wc -c)", "")))
	d.Commit, d.Creator, d.S3, d.BundleCommit = "abc", "user", S3{Bucket: "b", Key: "k", ETag: "e"}, "fff"
	d.Env = map[string]string{"GITOPSD_HOST": "web-1", "GITOPSD_TAG_ROLE": "web"}
	log := strings.Join(w.succeed(d).ScriptsLog, "\n") + "\n"
	for _, want := range []string{
		"LIFECYCLE_EVENT=ApplicationStart", "DEPLOYMENT_ID=d-1", "APPLICATION_NAME=app", "DEPLOYMENT_GROUP_NAME=group", "DEPLOYMENT_GROUP_ID=g1",
		"BUNDLE_BUCKET=b", "BUNDLE_KEY=k", "BUNDLE_ETAG=e", "BUNDLE_COMMIT=fff", "DEPLOYMENT_CREATOR=user", "GITOPSD_COMMIT=abc",
		"GITOPSD_HOST=web-1", "GITOPSD_TAG_ROLE=web", "GITOPSD_DESTINATION_ROOT=" + w.target, "OF_THE_AGENT=kept", "cwd " + w.dir, "stdin 0",
	} {
		if !strings.Contains(log, "[stdout]"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	for _, no := range []string{"BUNDLE_VERSION", "NOTIFY_SOCKET", "GITOPSD_PREVIOUS_RELEASE"} {
		if strings.Contains(log, no+"=") {
			t.Errorf("%s is set", no)
		}
	}
	d = w.deployment("d-2", d.Source.Path)
	if log := strings.Join(w.succeed(d).ScriptsLog, "\n"); !strings.Contains(log, "GITOPSD_PREVIOUS_RELEASE="+w.applier().archiveDir(Key{"g1", "d-1", 1})) {
		t.Error("the second deployment is not told of the first")
	}
}

func TestRunAs(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	w := newBench(t)
	log := strings.Join(w.hook("id -un", ", runas: "+me.Username).ScriptsLog, "\n")
	if !strings.Contains(log, "[stdout]"+me.Username) {
		t.Errorf("as itself: %s", log)
	}
	w = newBench(t)
	res := w.apply(w.applier(), w.deployment("d-2", w.bundle(hooked("id", ", runas: no-such-user-here"))))
	if res.Error == nil || res.Began || !strings.Contains(res.Error.Message, "no such user") {
		t.Errorf("unknown user: %+v", res.Error)
	}
	if me.Uid != "0" {
		t.Skip("becoming another user needs root")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("this host has no user nobody")
	}
	w = newBench(t)
	log = strings.Join(w.hook("id -un", ", runas: ''").ScriptsLog, "\n")
	if !strings.Contains(log, "[stdout]root") {
		t.Errorf("an empty name, which su takes for root: %s", log)
	}
	w = newBench(t)
	log = strings.Join(w.hook("id -un; id -G; echo home=$HOME user=$USER", ", runas: nobody").ScriptsLog, "\n")
	if !strings.Contains(log, "[stdout]nobody") || !strings.Contains(log, "[stdout]"+nobody.Gid) || !strings.Contains(log, "home="+nobody.HomeDir+" user=nobody") {
		t.Errorf("as nobody: %s", log)
	}
}

// Who runs `gitopsd apply` in a home that nobody else may enter, as root in its own, has hooks of other users as CodeDeploy's agent has, which starts them with su.
func TestRunAsFromADirectoryThatUserMayNotEnter(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	if _, err := user.Lookup("nobody"); err != nil {
		t.Skip("this host has no user nobody")
	}
	w := newBench(t)
	home := t.TempDir()
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	o := w.options()
	o.WorkDir = home
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	log := strings.Join(w.apply(a, w.deployment("d-1", w.bundle(hooked("id -un; pwd -P", ", runas: nobody")))).ScriptsLog, "\n")
	if !strings.Contains(log, "[stdout]nobody") || !strings.Contains(log, "[stdout]"+home) {
		t.Errorf("in %s: %s", home, log)
	}
}

func TestIDsOfAUser(t *testing.T) {
	u := &user.User{Username: "www", Uid: "33", Gid: "34"}
	got, err := idsOf(u, []string{"34", "4", "no number", "1000"})
	if want := (&syscall.Credential{Uid: 33, Gid: 34, Groups: []uint32{34, 4, 1000}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := idsOf(&user.User{Uid: "-1", Gid: "0"}, nil); err == nil {
		t.Error("a user below zero")
	}
}

// A script leads a group of its own, which its timeout can end, in the session of its supervisor, which no signal for the agent's reaches.
func TestHookHasAGroupAndASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	log := strings.Join(newBench(t).hook(`set -- $(sed 's/.*) //' /proc/$$/stat); echo "script $$ group $3 supervisor $2 session $4"`, "").ScriptsLog, "\n")
	var script, group, supervisor, session int
	_, at, _ := strings.Cut(log, "[stdout]")
	if _, err := fmt.Sscanf(at, "script %d group %d supervisor %d session %d", &script, &group, &supervisor, &session); err != nil {
		t.Fatalf("%v in %q", err, log)
	}
	mine, err := unix.Getsid(0)
	if err != nil || group != script || session != supervisor || session == mine {
		t.Errorf("script %d is in group %d, its supervisor %d in session %d, and so is the agent in %d (%v)", script, group, supervisor, session, mine, err)
	}
}

// interrupted begins a deployment, waits until its hook runs, and interrupts it.
func interrupted(t *testing.T, w *workbench, d Deployment, started string) *Applier {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	a := w.applier()
	go func() {
		_, err := a.Apply(ctx, d, nil)
		done <- err
	}()
	until(t, "the hook to start", func() bool { return exists(started) })
	cancel()
	if err := <-done; !errors.Is(err, ErrInterrupted) {
		t.Fatalf("interrupted: %v", err)
	}
	return a
}

func slowHook(w *workbench) (d Deployment, started, goOn string) {
	started, goOn = filepath.Join(w.dir, "started"), filepath.Join(w.dir, "go-on")
	d = w.deployment("d-1", w.bundle(hooked("HOOK; touch "+started+"; while [ ! -e "+goOn+" ] && [ -e "+started+" ]; do sleep 0.02; done; echo done", "")))
	return d, started, goOn
}

func TestResumeAdoptsARunningHook(t *testing.T) {
	w := newBench(t)
	d, started, goOn := slowHook(w)
	interrupted(t, w, d, started)
	a := w.applier()
	if _, err := a.Apply(context.Background(), d, nil); !errors.Is(err, ErrPending) {
		t.Fatalf("applying again: %v", err)
	}
	other := w.deployment("d-2", d.Source.Path)
	if _, err := a.Apply(context.Background(), other, nil); !errors.Is(err, ErrPending) {
		t.Fatalf("applying another: %v", err)
	}
	pending, err := a.Pending()
	if err != nil || len(pending) != 1 || !pending[0].Running || !pending[0].Began || !pending[0].SameBoot {
		t.Fatalf("%+v %v", pending, err)
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var told []string
	res, err := a.Resume(context.Background(), d.Key(), Continue, func(u EventUpdate) {
		told = append(told, string(u.Report.Event)+"="+string(u.Report.Status))
	})
	if err != nil || res.Outcome != OutcomeSucceeded || !strings.Contains(strings.Join(res.ScriptsLog, "\n"), "[stdout]done") {
		t.Fatalf("%v %+v", err, res)
	}
	if len(told) != 7 {
		t.Errorf("told %v", told)
	}
	w.once()
}

// killSupervisor kills the process that holds a hook's pipe, and the hook.
func killSupervisor(t *testing.T, dir string) {
	t.Helper()
	found := false
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		cmd, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(cmd), "supervise\x00"+dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		found = true
	}
	if !found {
		t.Fatal("no supervisor found")
	}
}

func TestDeadSupervisorFailsTheEvent(t *testing.T) {
	t.Parallel()
	for _, decision := range []Decision{Continue, Undo} {
		w := newBench(t)
		d, started, goOn := slowHook(w)
		a := interrupted(t, w, d, started)
		dir := a.hookDir(d.Key(), appspec.ApplicationStart, ownVariant)
		killSupervisor(t, dir)
		until(t, "the supervisor's death to be noticed", func() bool { return !supervisorAlive(dir) })
		res, err := w.applier().Resume(context.Background(), d.Key(), decision, nil)
		if err != nil || res.Error == nil || res.Error.Code != CodeAgentRestart || res.Error.ErrorCode != "UnknownError" || res.Error.Event != appspec.ApplicationStart {
			t.Fatalf("%s: %v %+v", decision, err, res.Error)
		}
		os.WriteFile(goOn, nil, 0o600) // lets the orphaned script end
		w.once()
	}
}

// undoneInBeforeInstall interrupts a deployment in its first script, lets that end, and goes back.
func undoneInBeforeInstall(t *testing.T, w *workbench, id string) (Result, error) {
	t.Helper()
	started, goOn := filepath.Join(w.dir, "started"), filepath.Join(w.dir, "go-on")
	d := w.deployment(id, w.bundle(map[string]string{
		"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /app}]\nhooks:\n  BeforeInstall: [{location: s.sh}]\n",
		"s.sh":        "HOOK; touch " + started + "; while [ ! -e " + goOn + " ]; do sleep 0.02; done", "f": "new",
	}))
	interrupted(t, w, d, started)
	os.WriteFile(goOn, nil, 0o600)
	return w.applier().Resume(context.Background(), d.Key(), Undo, nil)
}

func TestUndoWaitsAndStartsThePreviousRelease(t *testing.T) {
	t.Parallel()
	w := newBench(t)
	w.succeed(w.deployment("d-0", w.bundle(map[string]string{
		"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /app}]\nhooks:\n  ApplicationStart: [{location: s.sh}]\n  ValidateService: [{location: s.sh}]\n",
		"s.sh":        "echo old $LIFECYCLE_EVENT; HOOK", "f": "old",
	})))
	before := w.tree()
	res, err := undoneInBeforeInstall(t, w, "d-1")
	if err != nil || !res.Undone || res.Outcome != OutcomeFailed || res.Error == nil {
		t.Fatalf("%v %+v", err, res)
	}
	want := "BeforeInstall=Succeeded Install=Skipped AfterInstall=Skipped ApplicationStart=Skipped ValidateService=Skipped undo ApplicationStart=Succeeded undo ValidateService=Succeeded"
	if got := statuses(res); !strings.HasSuffix(got, want) {
		t.Errorf("%s", got)
	}
	if w.tree() != before {
		t.Error("the old files are not in place")
	}
	if log := strings.Join(res.ScriptsLog, "\n"); !strings.Contains(log, "[stdout]old ValidateService") {
		t.Error(log)
	}
	w.once()
}

// What is in place is not the last good release where the group has yet to call it good.
func TestUndoStartsWhatIsInPlace(t *testing.T) {
	t.Parallel()
	release := func(w *workbench, id, says string) Deployment {
		d := w.deployment(id, w.bundle(map[string]string{
			"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /app}]\nhooks:\n  ApplicationStart: [{location: s.sh}]\n",
			"s.sh":        "echo " + says + " $LIFECYCLE_EVENT; HOOK", "f": says,
		}))
		d.HoldGood = true
		return d
	}
	for name, good := range map[string]bool{"an older one is good": true, "none is good": false} {
		t.Run(name, func(t *testing.T) {
			w := newBench(t)
			if good {
				d := release(w, "d-0", "oldest")
				w.succeed(d)
				if err := w.applier().MarkGood(d.Key()); err != nil {
					t.Fatal(err)
				}
			}
			w.succeed(release(w, "d-1", "old"))
			before := w.tree()
			res, err := undoneInBeforeInstall(t, w, "d-2")
			if err != nil || !res.Undone || w.tree() != before {
				t.Fatalf("%v %+v", err, res)
			}
			if log := strings.Join(res.ScriptsLog, "\n"); !strings.Contains(log, "[stdout]old ApplicationStart") || strings.Contains(log, "oldest") {
				t.Errorf("%s\n%s", statuses(res), log)
			}
			w.once()
		})
	}
}

// Giving up a deployment that began and did nothing does not start again what
// was never stopped.
func TestUndoOfNothing(t *testing.T) {
	w := newBench(t)
	files := map[string]string{"appspec.yml": "version: 0.0\nos: linux\nhooks:\n  ApplicationStop: [{location: s.sh}]\n  ApplicationStart: [{location: s.sh}]\n", "s.sh": "HOOK"}
	w.succeed(w.deployment("d-1", w.bundle(files)))
	before := len(w.ran())
	ctx, cancel := context.WithCancel(context.Background())
	d := w.deployment("d-2", w.bundle(files))
	d.Begin = func(context.Context) error { cancel(); return nil }
	if _, err := w.applier().Apply(ctx, d, nil); !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	res, err := w.applier().Resume(context.Background(), d.Key(), Undo, nil)
	if err != nil || !res.Undone || !res.Began || len(w.ran()) != before {
		t.Fatalf("%v %+v ran %v", err, res, w.ran())
	}
}

func TestStopFailure(t *testing.T) {
	t.Parallel()
	spec := "version: 0.0\nos: linux\nhooks:\n  ApplicationStop: [{location: stop.sh}]\n"
	for policy, want := range map[StopFailure]string{
		StopFail: "ApplicationStop=Failed DownloadBundle=Skipped", StopContinue: "ApplicationStop=Failed DownloadBundle=Succeeded", StopUseNew: "ApplicationStop=Succeeded DownloadBundle=Succeeded",
	} {
		w := newBench(t)
		w.succeed(w.deployment("d-0", w.bundle(map[string]string{"appspec.yml": spec, "stop.sh": "exit 7"})))
		d := w.deployment("d-1", w.bundle(map[string]string{"appspec.yml": spec, "stop.sh": "echo new one"}))
		d.StopFailure = policy
		res := w.apply(w.applier(), d)
		if got := statuses(res); !strings.HasPrefix(got, want) || (res.Outcome == OutcomeSucceeded) != (policy != StopFail) {
			t.Errorf("%s: %s %s", policy, res.Outcome, got)
		}
		if ranNew := strings.Contains(strings.Join(res.ScriptsLog, "\n"), "new one"); ranNew != (policy == StopUseNew) {
			t.Errorf("%s: the new revision's script ran: %v", policy, ranNew)
		}
	}
}

// The new revision's ApplicationStop decides: if it fails too, or there is none,
// the deployment has failed and no file is touched.
func TestStopFailureOfBothRevisions(t *testing.T) {
	t.Parallel()
	spec := "version: 0.0\nos: linux\nfiles: [{source: f, destination: /app}]\n"
	stop := "hooks:\n  ApplicationStop: [{location: stop.sh}]\n"
	for want, files := range map[string]map[string]string{
		"exit code 8": {"appspec.yml": spec + stop, "stop.sh": "exit 8", "f": "new"},
		"exit code 7": {"appspec.yml": spec, "f": "new"},
	} {
		w := newBench(t)
		w.succeed(w.deployment("d-0", w.bundle(map[string]string{"appspec.yml": spec + stop, "stop.sh": "exit 7", "f": "old"})))
		d := w.deployment("d-1", w.bundle(files))
		d.StopFailure = StopUseNew
		res := w.apply(w.applier(), d)
		if res.Error == nil || res.Error.Event != appspec.ApplicationStop || !strings.Contains(res.Error.Message, want) {
			t.Errorf("%s: %+v", want, res.Error)
		}
		if text := string(readFile(t, filepath.Join(w.target, "app/f"))); text != "old" {
			t.Errorf("%s: %s is in place", want, text)
		}
	}
}

// A supervisor that was started but did not begin has run nothing, so the hook
// may start after all.
func TestSupervisorThatNeverBegan(t *testing.T) {
	w := newBench(t)
	d := w.deployment("d-1", w.bundle(hooked("HOOK", "")))
	o := w.options()
	o.Supervisor = []string{"/bin/false"}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	res := w.apply(a, d)
	if res.Error == nil || res.Error.Kind != KindAgent || !strings.Contains(res.Error.Message, "could not start") {
		t.Fatalf("%+v", res.Error)
	}
	if len(w.ran()) != 0 {
		t.Error("the hook ran")
	}
}

func TestCopyLines(t *testing.T) {
	out := &output{dir: t.TempDir()}
	var err error
	if out, err = newOutput(out.dir); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("y", lineMax+10)
	out.copyLines(strings.NewReader("one\n\ntwo\r\n"+long+"\nend"), "[x]")
	got := strings.Split(string(readOutput(out.dir)), "\n")
	want := []string{"[x]one", "[x]", "[x]two\r", "[x]" + long[:lineMax], "[x]" + long[lineMax:], "[x]end", ""}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%d lines", len(got))
	}
}

func TestVetoTouchesNothing(t *testing.T) {
	w := newBench(t)
	d := w.deployment("d-1", w.bundle(hooked("HOOK", "")))
	lapsed := errors.New("the grant has lapsed")
	d.Begin = func(context.Context) error { return lapsed }
	a := w.applier()
	if _, err := a.Apply(context.Background(), d, nil); !errors.Is(err, ErrVetoed) || !errors.Is(err, lapsed) {
		t.Fatal(err)
	}
	if pending, err := a.Pending(); err != nil || len(pending) != 0 || len(w.ran()) != 0 {
		t.Fatal(pending, err, w.ran())
	}
	d.Begin = nil
	w.succeed(d)
}

func TestBusyApplication(t *testing.T) {
	w := newBench(t)
	d, started, goOn := slowHook(w)
	done := make(chan error, 1)
	go func() {
		_, err := w.applier().Apply(context.Background(), d, nil)
		done <- err
	}()
	until(t, "the hook to start", func() bool { return exists(started) })
	d2 := w.deployment("d-2", d.Source.Path)
	d2.GroupID = "g2"
	if _, err := w.applier().Apply(context.Background(), d2, nil); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	os.WriteFile(goOn, nil, 0o600)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the first deployment does not end")
	}
}
