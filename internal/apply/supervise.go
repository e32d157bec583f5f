package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// aliveFD is the descriptor of the pipe that tells others that this supervisor
// is alive.
const aliveFD = 3

// SuperviseMain is the body of the hidden verb that Options.Supervisor runs:
// it runs one lifecycle event's scripts and writes down how they ended. args
// are what follows the verb. It returns the process's exit code.
func SuperviseMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "supervise: this verb is gitopsd's own; it takes the directory of a hook")
		return 2
	}
	unix.CloseOnExec(aliveFD)
	// Whoever stops gitopsd must not stop the hook. A handler, unlike an ignored
	// signal, is not inherited by the scripts.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := supervise(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
		return 1
	}
	return 0
}

func supervise(dir string) error {
	var req hookRequest
	if err := readState(filepath.Join(dir, requestFile), &req); err != nil {
		return err
	}
	if req.Version != hookVersion {
		return fmt.Errorf("cannot run the hook: request version %d is not known, only %d", req.Version, hookVersion)
	}
	out, err := newOutput(dir)
	if err != nil {
		return err
	}
	reserve, err := reserveResult(dir)
	if err != nil {
		return err
	}
	defer reserve.Close()
	if err := markBegun(dir); err != nil {
		return err
	}
	s := &supervisor{req: &req, out: out}
	out.entry("LifecycleEvent - " + string(req.Event))
	res := hookResult{Version: hookVersion}
	for i := range req.Scripts {
		script := &req.Scripts[i]
		if res.Code, res.Message = s.script(script); res.Code != CodeSuccess {
			res.Script = script.Location
			break
		}
	}
	res.Warnings, res.Detached = s.warnings, s.left > 0
	res.Cgroups, res.Uncontained = s.removeGroups(), s.uncontained
	res.DroppedBytes = out.sync()
	if err := writeResult(dir, reserve, &res); err != nil {
		return err
	}
	if err := unix.Close(aliveFD); err != nil && res.Detached {
		return fmt.Errorf("cannot close the pipe: %w", err)
	}
	s.readers.Wait()
	s.removeGroups()
	return nil
}

// markBegun makes the durable mark after which this hook never starts again.
func markBegun(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, begunFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot begin the hook: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot begin the hook: %w", err)
	}
	return durable.SyncDir(dir)
}

// resultReserve is the space in bytes that is taken for the result before the
// first script runs, so that a full disk makes no success a failure.
const resultReserve = 64 << 10

func reserveResult(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, reserveFile), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make room for the hook's result: %w", err)
	}
	if err := durable.Reserve(f, resultReserve); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make room for the hook's result: %w", err)
	}
	return f, nil
}

// writeResult writes the result into the space taken for it and gives it its
// name. What has no room is left out.
func writeResult(dir string, reserve *os.File, res *hookResult) error {
	data, err := json.Marshal(res)
	if err == nil && len(data) > resultReserve {
		short := *res
		short.Warnings, short.Message = nil, short.Message[:min(len(short.Message), 1<<10)]
		data, err = json.Marshal(short)
	}
	if err != nil {
		return fmt.Errorf("internal error: cannot encode the hook's result: %w", err)
	}
	if _, err := reserve.WriteAt(data, 0); err != nil {
		return fmt.Errorf("cannot write the hook's result: %w", err)
	}
	reserve.Truncate(int64(len(data))) // what was not used; failing costs only space
	if err := reserve.Sync(); err != nil {
		return fmt.Errorf("cannot write the hook's result: %w", err)
	}
	return durable.Rename(filepath.Join(dir, reserveFile), filepath.Join(dir, resultFile))
}

// supervisor runs the scripts of one event.
type supervisor struct {
	req      *hookRequest
	out      *output
	readers  sync.WaitGroup // of the scripts' output
	left     int            // streams that somebody still holds open
	warnings []string

	group       *cgroup // of the script that runs; nil where there is none
	groups      []*cgroup
	uncontained string // why there is none
}

// script runs one script to its end and returns CodeDeploy's code with a
// message.
func (s *supervisor) script(script *hookScript) (int, string) {
	path, err := scriptPath(s.req.Archive, script.Location)
	if err != nil {
		return CodeScriptMissing, err.Error()
	}
	info, err := os.Stat(path)
	if err != nil {
		return CodeScriptMissing, "Script does not exist at specified location: " + path
	}
	if info.Mode().Perm()&0o111 == 0 {
		if err := unix.Chmod(path, unixMode(info)|0o111); err != nil {
			return CodeNotExecutable, fmt.Sprintf("Unable to set script at specified location: %s as executable", script.Location)
		}
	}
	s.out.entry("Script - " + script.Location)
	who := script.Location
	if script.RunAs != "" {
		who += " run as user " + script.RunAs
	}
	proc, streams, err := s.start(script, path)
	if err != nil {
		return CodeScriptFailed, fmt.Sprintf("Script at specified location: %s failed with error %v", who, err)
	}
	state, timedOut := s.wait(proc, script.Timeout)
	refused := s.group.refused()
	if refused > 0 {
		s.group.kill()
	}
	s.settle(streams, script)
	if refused > 0 || timedOut {
		s.group.removeKilled()
	} else {
		s.group.release()
	}
	if timedOut && s.group == nil {
		s.warnings = append(s.warnings, fmt.Sprintf("processes of %s in other sessions may go on, as it had no control group: %s", script.Location, s.uncontained))
	}
	return verdict(script, who, state, timedOut, refused, s.req.Cgroups.Limit)
}

// verdict says how a script ended.
func verdict(script *hookScript, who string, state *os.ProcessState, timedOut bool, refused int64, limit int) (int, string) {
	many := ""
	if refused > 0 {
		many = fmt.Sprintf(": it reached its limit of %d processes and threads, and new ones were refused %d times; all of them were killed", limit, refused)
	}
	switch {
	case timedOut:
		return CodeTimedOut, fmt.Sprintf("Script at specified location: %s failed to complete in %d seconds%s", who, int64(script.Timeout/time.Second), many)
	case refused > 0:
		return CodeScriptFailed, fmt.Sprintf("Script at specified location: %s failed%s", who, many)
	case state == nil:
		return CodeScriptFailed, fmt.Sprintf("Script at specified location: %s ended in a way that could not be found out", who)
	case state.Success():
		return CodeSuccess, ""
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return CodeScriptFailed, fmt.Sprintf("Script at specified location: %s failed: killed by signal %s", who, ws.Signal())
	}
	return CodeScriptFailed, fmt.Sprintf("Script at specified location: %s failed with exit code %d", who, state.ExitCode())
}

// stream is one of a script's outputs being read.
type stream struct {
	name string
	done chan struct{}
}

// start starts a script in a process group of its own, with its output being
// read.
func (s *supervisor) start(script *hookScript, path string) (*os.Process, []*stream, error) {
	argv, env, cred, err := identity(script, path, s.req.Env)
	if err != nil {
		return nil, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	files := []*os.File{null}
	var streams []*stream
	var readers []*os.File
	defer func() {
		for _, f := range files[1:] {
			f.Close()
		}
	}()
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		files, readers = append(files, w), append(readers, r)
	}
	// No Dir: the supervisor was started in WorkDir and its scripts are, too. To enter it anew after the ids
	// are set would fail where that user may not, as in root's home, and su does not do it either.
	attr := &os.ProcAttr{Env: env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true, Credential: cred}}
	proc, err := s.launch(argv, attr)
	if errors.Is(err, unix.ENOEXEC) { // no #! line
		proc, err = s.launch(append([]string{"/bin/sh"}, argv...), attr)
	}
	if err != nil {
		for _, r := range readers {
			r.Close()
		}
		return nil, nil, err
	}
	for i, name := range []string{"stdout", "stderr"} {
		st := &stream{name: name, done: make(chan struct{})}
		streams = append(streams, st)
		s.readers.Add(1)
		go func() {
			defer s.readers.Done()
			defer close(st.done)
			defer readers[i].Close()
			s.out.copyLines(readers[i], "["+name+"]")
		}()
	}
	return proc, streams, nil
}

// launch starts a process in a control group of its own, or without one where
// none can be had: that must not fail a hook.
func (s *supervisor) launch(argv []string, attr *os.ProcAttr) (*os.Process, error) {
	c := s.req.Cgroups
	s.group, s.uncontained = nil, c.Reason
	for range 10 {
		if c.Base == "" {
			break
		}
		g, err := c.newCgroup(string(s.req.Event))
		if err != nil {
			s.uncontained = err.Error()
			break
		}
		proc, err := g.start(c, argv, attr)
		if err == nil {
			s.group, s.uncontained = g, ""
			s.groups = append(s.groups, g)
			return proc, nil
		}
		s.uncontained = fmt.Sprintf("cannot start a process in a control group: %v", err)
		if exists(g.dir) { // else somebody who collects the empty ones took it away
			g.remove()
			break
		}
	}
	return os.StartProcess(argv[0], argv, attr)
}

// removeGroups removes the control groups in which nothing is left, and returns
// those that stay.
func (s *supervisor) removeGroups() (left []string) {
	for _, g := range s.groups {
		if !g.remove() {
			left = append(left, g.dir)
		}
	}
	return left
}

// wait waits for a script; past its timeout its process group and what else is in
// its control group get TERM, and after the grace KILL.
func (s *supervisor) wait(proc *os.Process, timeout time.Duration) (state *os.ProcessState, timedOut bool) {
	ended := make(chan *os.ProcessState, 1)
	go func() {
		state, _ := proc.Wait()
		ended <- state
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case state = <-ended:
		return state, false
	case <-timer.C:
	}
	unix.Kill(-proc.Pid, unix.SIGTERM)
	s.group.signal(unix.SIGTERM, proc.Pid)
	s.waitGroup(proc.Pid)
	unix.Kill(-proc.Pid, unix.SIGKILL)
	s.group.kill()
	return <-ended, true
}

// waitGroup waits until a process group and its control group are empty, at most
// for the grace.
func (s *supervisor) waitGroup(pgid int) {
	deadline := time.NewTimer(s.req.KillGrace)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-deadline.C:
			return
		case <-tick.C:
			if errors.Is(unix.Kill(-pgid, 0), unix.ESRCH) && s.group.empty() {
				return
			}
		}
	}
}

// settle waits for the output of a script that ended. What a process it left
// behind still holds is read on beside whatever follows, so that such a process
// neither hangs the event nor dies of a closed pipe.
func (s *supervisor) settle(streams []*stream, script *hookScript) {
	grace := time.NewTimer(s.req.OutputGrace)
	defer grace.Stop()
	expired := false
	var held []string
	for _, st := range streams {
		if !expired {
			select {
			case <-st.done:
				continue
			case <-grace.C:
				expired = true
			}
		}
		select {
		case <-st.done:
		default:
			held = append(held, st.name)
		}
	}
	if len(held) == 0 {
		return
	}
	s.left += len(held)
	for _, name := range held {
		s.warnings = append(s.warnings, fmt.Sprintf("%s left a process behind that holds its %s open; it goes on on its own (redirect its output in the script)", script.Location, name))
	}
}
