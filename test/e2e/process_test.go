package e2e

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// process is one running program of a test.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// startProcess starts a program whose output goes to the end of a file; the test's end kills it.
func startProcess(t testing.TB, cmd *exec.Cmd, log string) *process {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		out.Close()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill sends KILL and waits.
func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("cannot kill %s: %v", p.cmd.Path, err)
	}
	<-p.done
}

// stop sends TERM and returns how the program ended.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("cannot stop %s: %v", p.cmd.Path, err)
	}
	<-p.done
	return p.err
}

// running says whether the program still runs.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
