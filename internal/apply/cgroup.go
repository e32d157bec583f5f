package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups says where a hook's scripts get control groups (cgroup v2) of their
// own, so that a timeout finds every process of a script, whatever session it is
// in. It is part of a supervisor's request.
type cgroups struct {
	Base   string `json:"base,omitempty"`   // they are made below this directory; empty: there are none
	Home   string `json:"home,omitempty"`   // the one that the agent and its supervisors are in
	Reason string `json:"reason,omitempty"` // why there are none
	Limit  int    `json:"limit,omitempty"`  // of processes and threads of one script; 0 means none
}

// cgroupPrefix begins the names of control groups of scripts.
const cgroupPrefix = "gitopsd-hook-"

// findCgroups finds out by trying where control groups can be made. proc is
// /proc/self.
func findCgroups(proc string, limit int) cgroups {
	home, err := cgroupHome(proc)
	if err != nil {
		return cgroups{Reason: err.Error()}
	}
	c := cgroups{Base: home, Home: home, Limit: limit}
	if up := filepath.Dir(home); !delegated(home) && delegated(up) {
		c.Base = up // systemd's DelegateSubgroup=
	}
	probe, err := os.MkdirTemp(c.Base, cgroupPrefix+"probe-")
	if err != nil {
		return cgroups{Reason: fmt.Sprintf("cannot make a control group: %v", err)}
	}
	defer os.Remove(probe)
	if !exists(filepath.Join(probe, "cgroup.procs")) {
		return cgroups{Reason: fmt.Sprintf("%s is no control group", c.Base)}
	}
	// Refused where processes are in the base itself; then nothing is limited.
	writeCgroup(c.Base, "cgroup.subtree_control", "+pids")
	return c
}

// limited tells whether the number of a script's processes can be limited.
func (c cgroups) limited() bool {
	data, _ := os.ReadFile(filepath.Join(c.Base, "cgroup.subtree_control"))
	return slices.Contains(strings.Fields(string(data)), "pids")
}

// cgroupHome returns the directory of the control group this process is in.
func cgroupHome(proc string) (string, error) {
	own, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("cannot find the control group of this process: %w", err)
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return "", fmt.Errorf("cannot find where control groups are mounted: %w", err)
	}
	path := ""
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = p
		}
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") || strings.HasPrefix(path, "/..") {
			continue
		}
		rel, err := filepath.Rel(fields[3], path)
		if err == nil && filepath.IsLocal(rel) {
			return filepath.Join(strings.ReplaceAll(fields[4], `\040`, " "), rel), nil
		}
	}
	return "", errors.New("no cgroup v2 is mounted here that this process is in")
}

// delegated tells whether systemd left a control group to those in it.
func delegated(dir string) bool {
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if value, err := readXattr(dir, name); err == nil && string(value) == "1" {
			return true
		}
	}
	return false
}

// collect removes control groups whose last process has ended.
func (c cgroups) collect() {
	if c.Base == "" {
		return
	}
	entries, _ := os.ReadDir(c.Base)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), cgroupPrefix) {
			(&cgroup{dir: filepath.Join(c.Base, e.Name())}).remove()
		}
	}
}

// CollectControlGroups removes the control groups of scripts whose last process has ended, as every Applier does when it starts and between scripts. It is for
// whoever has ended what the scripts started and starts no Applier any more.
func CollectControlGroups() { findCgroups("/proc/self", 0).collect() }

// cgroup is the control group of one script; nil where there are none.
type cgroup struct {
	dir    string
	limit  int  // of processes and threads; 0: none
	inside bool // the supervisor could not leave it again
}

// newCgroup makes a control group for one script; nil if that cannot be done.
func (c cgroups) newCgroup(name string) (*cgroup, error) {
	dir, err := os.MkdirTemp(c.Base, cgroupPrefix+name+"-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a control group: %w", err)
	}
	g := &cgroup{dir: dir}
	if c.Limit > 0 && writeCgroup(dir, "pids.max", strconv.Itoa(c.Limit)) == nil {
		g.limit = c.Limit
	}
	return g, nil
}

func writeCgroup(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot write to control group: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("cannot write to control group: %w", err)
	}
	return nil
}

// dirs lists the control group and what its processes made below it, the
// innermost first.
func (g *cgroup) dirs() []string {
	var out []string
	filepath.WalkDir(g.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			out = append(out, path)
		}
		return nil
	})
	slices.Reverse(out)
	return out
}

// pids lists the processes in it, without this one.
func (g *cgroup) pids() []int {
	var out []int
	for _, dir := range g.dirs() {
		data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, text := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(text); err == nil && pid > 0 && pid != os.Getpid() {
				out = append(out, pid)
			}
		}
	}
	return out
}

// empty tells whether no process is left in it.
func (g *cgroup) empty() bool { return g == nil || len(g.pids()) == 0 }

// signal sends a signal to its processes outside a process group. Each is held
// by a descriptor and looked for again, so that no reused id gets it.
func (g *cgroup) signal(sig unix.Signal, except int) {
	if g == nil {
		return
	}
	held := map[int]int{}
	for _, pid := range g.pids() {
		if pgid, err := unix.Getpgid(pid); err != nil || pgid == except {
			continue
		}
		if len(held) == 512 {
			break // those beyond get KILL
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held[pid] = fd
		}
	}
	still := g.pids()
	for pid, fd := range held {
		if slices.Contains(still, pid) {
			unix.PidfdSendSignal(fd, sig, nil, 0)
		}
		unix.Close(fd)
	}
}

// kill ends every process in it at once; where the kernel is older than 5.14
// again and again until none is left, as they may fork meanwhile.
func (g *cgroup) kill() {
	if g == nil || !g.inside && writeCgroup(g.dir, "cgroup.kill", "1") == nil {
		return
	}
	for range 500 {
		pids := g.pids()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// refused tells how often the limit of processes was hit.
func (g *cgroup) refused() int64 {
	if g == nil || g.limit == 0 {
		return 0
	}
	data, _ := os.ReadFile(filepath.Join(g.dir, "pids.events"))
	for line := range strings.Lines(string(data)) {
		if count, ok := strings.CutPrefix(strings.TrimSpace(line), "max "); ok {
			n, _ := strconv.ParseInt(count, 10, 64)
			return n
		}
	}
	return 0
}

// release takes the limit away from what a script left behind: the hook is
// over, the application is not.
func (g *cgroup) release() {
	if g != nil && g.limit > 0 {
		writeCgroup(g.dir, "pids.max", "max")
	}
}

// remove removes it if no process is left in it.
func (g *cgroup) remove() bool {
	if g == nil {
		return true
	}
	for _, dir := range g.dirs() {
		unix.Rmdir(dir)
	}
	return !exists(g.dir)
}

// removeKilled removes it as soon as the processes that were killed are gone.
func (g *cgroup) removeKilled() {
	for range 250 {
		if g.remove() {
			return
		}
		time.Sleep(4 * time.Millisecond)
	}
}

// start starts a process in it.
func (g *cgroup) start(c cgroups, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	dir, err := os.Open(g.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	sys := *attr.Sys
	sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
	in := *attr
	in.Sys = &sys
	proc, err := os.StartProcess(argv[0], argv, &in)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.ENODEV) {
		return proc, err
	}
	// Before Linux 5.7 no process could be started in another control group. This
	// one enters it for the moment.
	if err := writeCgroup(g.dir, "cgroup.procs", "0"); err != nil {
		return nil, err
	}
	proc, err = os.StartProcess(argv[0], argv, attr)
	if leave := writeCgroup(c.Home, "cgroup.procs", "0"); leave != nil {
		g.inside = true
	}
	return proc, err
}
