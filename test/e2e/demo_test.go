package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoPatience is how long the demo may take for its whole story on a slow and busy machine.
const demoPatience = 3 * time.Minute

// demoRun is `gitopsd demo` on its way.
type demoRun struct {
	t    *testing.T
	temp string // its TMPDIR, where all of it should be and nothing should stay
	out  string // file with what it told
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// startDemo starts the demo as somebody with a fresh account would: no home, no git identity. With uid it runs as that user.
func startDemo(t *testing.T, uid int, args ...string) *demoRun {
	t.Helper()
	temp := t.TempDir()
	for dir := temp; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := &demoRun{t: t, temp: temp, out: filepath.Join(t.TempDir(), "story"), done: make(chan struct{})}
	out, err := os.Create(d.out)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d.cmd = exec.Command(binary, append([]string{"demo"}, args...)...)
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=", "TMPDIR=" + temp, "GITOPSD_ADDR=/nonexistent", "GIT_DIR=/nonexistent", "AWS_PROFILE=nonexistent"}
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = "/", out, out
	if uid != os.Getuid() {
		if err := os.Chown(temp, uid, uid); err != nil {
			t.Fatal(err)
		}
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Signal(syscall.SIGTERM) // it ends what it started
		<-d.done
		if t.Failed() {
			t.Logf("--- the demo told\n%s", d.told())
		}
	})
	return d
}

// told is the story so far.
func (d *demoRun) told() string {
	text, err := os.ReadFile(d.out)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// within waits for a condition for as long as the demo may take; it fails when the demo ends before.
func (d *demoRun) within(what string, check func() bool) {
	d.t.Helper()
	deadline := time.NewTimer(demoPatience)
	defer deadline.Stop()
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for !check() {
		select {
		case <-pace.C:
		case <-d.done:
			if !check() {
				d.t.Fatalf("%s: the demo ended: %v", what, d.err)
			}
		case <-deadline.C:
			d.t.Fatalf("%s: not within %s", what, demoPatience)
		}
	}
}

// tells waits until the story contains a text.
func (d *demoRun) tells(text string) {
	d.t.Helper()
	d.within(fmt.Sprintf("the demo tells %q", text), func() bool { return strings.Contains(d.told(), text) })
}

// ends waits for the demo's end.
func (d *demoRun) ends() error {
	d.t.Helper()
	d.within("the demo ends", func() bool {
		select {
		case <-d.done:
			return true
		default:
			return false
		}
	})
	return d.err
}

// processes lists those that have anything to do with the demo's folder.
func (d *demoRun) processes() []string {
	d.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		d.t.Fatal(err)
	}
	var found []string
	for _, file := range lines {
		line, _ := os.ReadFile(file)
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
		if bytes.Contains(line, []byte(d.temp)) || strings.HasPrefix(exe, d.temp) {
			found = append(found, fmt.Sprintf("%s %q", filepath.Base(filepath.Dir(file)), line))
		}
	}
	return found
}

// leavesNothing fails when a process or a file is left.
func (d *demoRun) leavesNothing() {
	d.t.Helper()
	if left := d.processes(); len(left) > 0 {
		d.t.Errorf("processes are left: %s", strings.Join(left, ", "))
	}
	left, err := os.ReadDir(d.temp)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, entry := range left {
		d.t.Errorf("%s is left", filepath.Join(d.temp, entry.Name()))
	}
}

// demoIsWhole checks what `demo --once` promises.
func demoIsWhole(t *testing.T, uid int) {
	before := controlGroups(t)
	d := startDemo(t, uid, "--once")
	if err := d.ends(); err != nil {
		t.Fatalf("the demo failed: %v", err)
	}
	story := d.told()
	for _, want := range []string{"five ports serve release 1.", "five ports serve release 2.", "five ports serve release 2 and only one host ever tried release 3.",
		"five ports served release 2 all the time.", "both reverts moved nothing"} {
		if !strings.Contains(story, want) {
			t.Errorf("the story does not tell %q", want)
		}
	}
	if strings.Contains(story, "\x1b") {
		t.Error("escape sequences were written to a file")
	}
	d.leavesNothing()
	for _, group := range controlGroups(t) {
		if !slices.Contains(before, group) {
			t.Errorf("control group %s is left", group)
		}
	}
}

// controlGroups lists those of hooks, wherever they may be.
func controlGroups(t *testing.T) []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/gitopsd-hook-*", "/sys/fs/cgroup/*/gitopsd-hook-*", "/sys/fs/cgroup/*/*/gitopsd-hook-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func TestDemoOnce(t *testing.T) { demoIsWhole(t, os.Getuid()) }

func TestDemoAsAnOrdinaryUser(t *testing.T) {
	const nobody = 65534
	if os.Getuid() != 0 {
		t.Skip("only root can become another user; TestDemoOnce ran as an ordinary one")
	}
	demoIsWhole(t, nobody)
}

// printed is a line of the closing words that is to be pasted.
var printed = regexp.MustCompile(`(?m)^    (\S.*)$`)

func TestDemoPrintsCommandsThatWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a demo's folder")
	d := startDemo(t, os.Getuid(), "--hosts", "3", "--dir", dir)
	d.tells("Ctrl-C here ends every process")
	closing := d.told()[strings.LastIndex(d.told(), "The fleet stays up"):]
	sites := regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindAllString(closing, 3)
	if len(sites) != 3 {
		t.Fatalf("the demo names sites %v, want three", sites)
	}
	left := map[string]bool{"status": true, "why": true, "history": true, "logs": true, "log": true, "bundle": true, "commit": true, "push": true, "wait": true, "revert": true, "tail": true}
	page := "My first deployment"
	lines := printed.FindAllStringSubmatch(closing, -1)
	if len(lines) == 0 || !strings.HasPrefix(lines[0][1], "cd ") {
		t.Fatalf("the first of the commands %q does not enter the demo's folder", lines)
	}
	for _, m := range lines[1:] {
		out := pasted(t, lines[0][1]+"\n"+m[1])
		verb := ""
		for _, word := range strings.Fields(m[1]) {
			if _, known := left[word]; known {
				verb, left[word] = word, false
				break
			}
		}
		switch verb {
		case "log":
			if good := strings.Count(out, " G "); good < 6 || good != strings.Count(out, "\n") {
				t.Errorf("not every commit has a good signature:\n%s", out)
			}
		case "revert":
			page = "The shop, release 1"
		case "wait":
			for _, site := range sites {
				if text := fetched(t, site); !strings.Contains(text, page) {
					t.Errorf("%s serves %q, want %q in it", site, text, page)
				}
			}
		}
	}
	for verb, missing := range left {
		if missing {
			t.Errorf("no printed command contains %s", verb)
		}
	}
	d.leaves(dir)
}

// pasted runs a line as a shell does that somebody with settings of their own for AWS pasted it into.
func pasted(t *testing.T, line string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "HOME=", "AWS_PROFILE=nonexistent"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// leaves presses Ctrl-C and fails unless the demo ends well, with no process left and the user's folder kept.
func (d *demoRun) leaves(dir string) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		d.t.Fatal(err)
	}
	if err := d.ends(); err != nil {
		d.t.Errorf("Ctrl-C ends the demo with %v, want 0", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "web-1", "agent.log")); err != nil {
		d.t.Errorf("what --dir names was not kept: %v", err)
	}
	d.leavesNothing()
}

// fetched is what a site serves.
func fetched(t *testing.T, site string) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(site)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDemoLeavesNothingWhenItIsTerminated(t *testing.T) {
	d := startDemo(t, os.Getuid(), "--hosts", "3", "--once")
	d.tells("   commit ") // hooks are about to start
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.ends(); err == nil {
		t.Error("an interrupted demo --once exits 0")
	}
	if !strings.Contains(d.told(), "interrupted") {
		t.Error("the demo does not say that it was interrupted")
	}
	d.leavesNothing()
}

func TestDemoThatIsKilledLeavesNoProcess(t *testing.T) {
	d := startDemo(t, os.Getuid(), "--hosts", "1")
	d.tells("serves release 1.")
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.done
	eventually(t, "agents and applications end", func() string { return strings.Join(d.processes(), ", ") })
}

func TestDemoSaysWhyItCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a full folder": {[]string{"--dir", "/proc"}, "is not empty"},
		"too many":      {[]string{"--hosts", "1000"}, "choose 1 to 25"},
		"an argument":   {[]string{"now"}, "takes no argument"},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDemo(t, os.Getuid(), c.args...)
			<-d.done
			if d.err == nil || !strings.Contains(d.told(), c.want) {
				t.Errorf("the demo ended with %v and told %q, want %q", d.err, d.told(), c.want)
			}
			d.leavesNothing()
		})
	}
}
