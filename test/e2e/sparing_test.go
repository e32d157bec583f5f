package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAgentsThreadsMayBeWokenLate: at least one thread of an agent, that of the runtime's monitor, has 8 ms of timer slack; the main one has what it was given.
func TestAgentsThreadsMayBeWokenLate(t *testing.T) {
	t.Parallel()
	slack := func(thread string) (string, error) {
		text, err := os.ReadFile(filepath.Join("/proc", thread, "timerslack_ns"))
		return strings.TrimSpace(string(text)), err
	}
	if _, err := slack(fmt.Sprint(os.Getppid())); errors.Is(err, fs.ErrPermission) {
		t.Skipf("the timer slack of another process needs CAP_SYS_NICE: %v", err)
	}
	f := newFleet(t, fleetOptions{hosts: 1, voters: 1})
	agent := fmt.Sprint(f.hosts[0].process.cmd.Process.Pid)
	eventually(t, "a thread may be woken late", func() string {
		threads, err := filepath.Glob(filepath.Join("/proc", agent, "task", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range threads {
			thread := filepath.Base(path)
			if got, err := slack(thread); err == nil && thread != agent && got == "8000000" {
				return ""
			}
		}
		return fmt.Sprintf("none of %d", len(threads))
	})
	given, err := slack(fmt.Sprint(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := slack(agent); err != nil || got != given {
		t.Errorf("the main thread has %s ns, %v, and was given %s", got, err, given)
	}
}
