package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long processes get to end.
type patience struct {
	leave time.Duration // programs, after TERM
	soft  time.Duration // what they left behind, after TERM
	hard  time.Duration // and after KILL
}

// endPatience is short of what somebody who pressed Ctrl-C bears.
func endPatience() patience {
	return patience{leave: 6 * time.Second, soft: 3 * time.Second, hard: 5 * time.Second}
}

const (
	endPause  = 20 * time.Millisecond
	reapPause = 2 * time.Second
)

// processes starts programs and sees to it that none is left, be it a grandchild whose parent ended: as a subreaper this process inherits those.
type processes struct {
	spawn chan func()
	ended chan struct{}
	was   map[int]bool // children from before, which are none of ours

	mu      sync.Mutex
	tracked map[int]*process // by pid, until waited for
}

// process is one program of ours.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended, once done is closed
}

// newProcesses makes this process inherit its descendants' orphans.
func newProcesses() (*processes, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become the parent of what hooks leave behind: %w", err)
	}
	table, err := readProcesses()
	if err != nil {
		return nil, err
	}
	p := &processes{spawn: make(chan func()), ended: make(chan struct{}), was: map[int]bool{}, tracked: map[int]*process{}}
	for _, e := range table {
		if e.parent == os.Getpid() {
			p.was[e.pid] = true
		}
	}
	go p.run()
	return p, nil
}

// run starts programs from one thread that lives as long as they do: the kernel ends a child with PDEATHSIG when the thread that started it ends, not the process.
func (p *processes) run() {
	runtime.LockOSThread()
	defer close(p.ended)
	for f := range p.spawn {
		f()
	}
}

// start starts a program in a process group of its own, so that Ctrl-C reaches the demo alone, and writes its output to log.
func (p *processes) start(name string, cmd *exec.Cmd, log string) (*process, error) {
	if log != "" {
		out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("cannot open the log of %s: %w", name, err)
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	one := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	p.spawn <- func() {
		p.mu.Lock()
		err := cmd.Start()
		if err == nil {
			p.tracked[cmd.Process.Pid] = one
		}
		p.mu.Unlock()
		started <- err
	}
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	go func() {
		one.err = cmd.Wait()
		p.mu.Lock()
		delete(p.tracked, cmd.Process.Pid)
		p.mu.Unlock()
		close(one.done)
	}()
	return one, nil
}

// output runs a program to its end, which is that of ctx at the latest, and returns what it wrote.
func (p *processes) output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	name := strings.Join(cmd.Args, " ")
	one, err := p.start(name, cmd, "")
	if err != nil {
		return "", err
	}
	select {
	case <-one.done:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-one.done
		return "", fmt.Errorf("cannot run %s: %w", name, ctx.Err())
	}
	if one.err != nil {
		return "", fmt.Errorf("cannot run %s: %w: %s", name, one.err, strings.TrimSpace(out.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// end tells the programs to leave, then ends whatever is left of them and of their descendants. It returns once none is left; the error names those it could not end.
func (p *processes) end(programs []*process, given patience) error {
	leave := time.NewTimer(given.leave)
	defer leave.Stop()
	for _, one := range programs {
		_ = one.cmd.Process.Signal(syscall.SIGTERM)
	}
	expired := false
	for _, one := range programs {
		select {
		case <-one.done:
			continue
		default:
		}
		if !expired {
			select {
			case <-one.done:
				continue
			case <-leave.C:
				expired = true
			}
		}
		_ = one.cmd.Process.Kill()
	}
	err := p.endStrays(syscall.SIGTERM, given.soft)
	if err != nil {
		err = p.endStrays(syscall.SIGKILL, given.hard)
	}
	close(p.spawn)
	<-p.ended
	return err
}

// endStrays signals every descendant again and again until none is left or patience is over.
func (p *processes) endStrays(sig syscall.Signal, patience time.Duration) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	pace := time.NewTicker(endPause)
	defer pace.Stop()
	told := map[entry]bool{}
	for {
		left, err := p.strays()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, e := range left {
			if key := (entry{pid: e.pid, began: e.began}); !told[key] {
				told[key] = true
				e.signal(sig)
			}
		}
		select {
		case <-pace.C:
		case <-deadline.C:
			return fmt.Errorf("cannot end %s", describe(left))
		}
	}
}

// describe names processes for people.
func describe(left []entry) string {
	var names []string
	for _, e := range left {
		names = append(names, fmt.Sprintf("process %d (%s)", e.pid, e.name))
	}
	return strings.Join(names, ", ")
}

// strays reaps what ended and lists the living descendants.
func (p *processes) strays() ([]entry, error) {
	table, err := readProcesses()
	if err != nil {
		return nil, err
	}
	p.mu.Lock() // after the reading: whoever is in the table is tracked by now
	defer p.mu.Unlock()
	var living []entry
	for _, e := range descendants(table, os.Getpid(), p.was) {
		switch {
		case e.state != 'Z':
			living = append(living, e)
		case e.parent == os.Getpid() && p.tracked[e.pid] == nil:
			_, _ = unix.Wait4(e.pid, nil, unix.WNOHANG, nil)
		}
	}
	return living, nil
}

// reap takes care of orphans that ended, for as long as the demo stays up.
func (p *processes) reap(ctx context.Context) {
	pace := time.NewTicker(reapPause)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
			_, _ = p.strays()
		}
	}
}

// entry is one process as /proc shows it.
type entry struct {
	pid, parent int
	state       byte
	began       uint64 // clock ticks since boot; tells a process from a later one with its number
	name        string
}

// signal reaches the very process that was listed, or none.
func (e entry) signal(sig syscall.Signal) {
	fd, err := unix.PidfdOpen(e.pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if now, ok := readProcess(e.pid); ok && now.began == e.began {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}

// readProcesses lists every process.
func readProcesses() ([]entry, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var table []entry
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if e, ok := readProcess(pid); ok {
				table = append(table, e)
			}
		}
	}
	if len(table) == 0 {
		return nil, errors.New("cannot list processes: /proc shows none; is it mounted?")
	}
	return table, nil
}

func readProcess(pid int) (entry, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return entry{}, false
	}
	return parseStat(string(text))
}

// parseStat reads a line of /proc/PID/stat: the name may hold anything, so the fields after it are counted from its last parenthesis.
func parseStat(line string) (entry, bool) {
	open, shut := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || shut < open {
		return entry{}, false
	}
	fields := strings.Fields(line[shut+1:])
	if len(fields) < 20 {
		return entry{}, false
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(line[:open]))
	parent, err2 := strconv.Atoi(fields[1])
	began, err3 := strconv.ParseUint(fields[19], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return entry{}, false
	}
	return entry{pid: pid, parent: parent, state: fields[0][0], began: began, name: line[open+1 : shut]}, true
}

// descendants are the processes below root, without the trees of those to leave out.
func descendants(table []entry, root int, without map[int]bool) []entry {
	children := map[int][]entry{}
	for _, e := range table {
		if !without[e.pid] {
			children[e.parent] = append(children[e.parent], e)
		}
	}
	var all []entry
	todo := []int{root}
	for len(todo) > 0 {
		next := children[todo[0]]
		delete(children, todo[0])
		todo = todo[1:]
		for _, e := range next {
			all = append(all, e)
			todo = append(todo, e.pid)
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return a.pid - b.pid })
	return all
}

// environment is this process's, without what would steer git, AWS or gitopsd another way, and with bin first in PATH.
func environment(environ []string, bin, lock string) []string {
	path := "/usr/local/bin:/usr/bin:/bin"
	var env []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case name == "PATH" && value != "":
			path = value
		case name == "PATH", name == "NOTIFY_SOCKET", name == "WATCHDOG_USEC", name == "WATCHDOG_PID", name == "SSH_ASKPASS", name == "EDITOR", name == lockVariable:
		case strings.HasPrefix(name, "GITOPSD_"), strings.HasPrefix(name, "GIT_"), strings.HasPrefix(name, "AWS_"), strings.HasPrefix(name, "LISTEN_"):
		default:
			env = append(env, pair)
		}
	}
	return append(env, "PATH="+bin+":"+path, "AWS_CONFIG_FILE="+os.DevNull, lockVariable+"="+lock)
}
