package timerslack

import (
	"errors"
	"io/fs"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// given is the slack of the main thread, where it may be changed.
func given(t *testing.T) uint64 {
	t.Helper()
	usual, err := of("self") // which the main thread itself may always read
	if err == nil {
		err = Relax(time.Duration(usual))
	}
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("the timer slack of threads needs CAP_SYS_NICE: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return usual
}

// TestPrograms relaxes this process, and starts a program from a thread that is relaxed: it gets what this process was given.
func TestPrograms(t *testing.T) {
	usual := given(t)
	relaxed := 3 * time.Millisecond
	if err := Relax(relaxed); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Relax(time.Duration(usual)); err != nil {
			t.Error(err)
		}
	}()
	if now, err := of("self"); err != nil || now != usual {
		t.Errorf("the main thread has %d ns now, %v; it had %d", now, err, usual)
	}
	offMain(func() { programs(t, usual, relaxed) })
}

func programs(t *testing.T, usual uint64, relaxed time.Duration) {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(relaxed), 0, 0, 0); err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(usual), 0, 0, 0) }()
	for _, c := range []struct {
		start func(*exec.Cmd) error
		want  uint64
	}{{(*exec.Cmd).Start, uint64(relaxed)}, {Start, usual}} {
		var out strings.Builder
		cmd := exec.Command("cat", "/proc/self/timerslack_ns")
		cmd.Stdout = &out
		err := c.start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Error(err)
		}
		if got := strings.TrimSpace(out.String()); got != strconv.FormatUint(c.want, 10) {
			t.Errorf("the program has %s ns, want %d", got, c.want)
		}
		if own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || own != int(relaxed) {
			t.Errorf("the thread has %d ns afterwards, %v, want %d", own, err, relaxed)
		}
	}
}

// TestRelax finds a thread that was there relaxed.
func TestRelax(t *testing.T) {
	usual := given(t)
	offMain(func() {
		for _, want := range []time.Duration{4 * time.Millisecond, time.Duration(usual)} {
			if err := Relax(want); err != nil {
				t.Error(err)
			}
			if own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(own) != want {
				t.Errorf("this thread has %v, %v, want %v", time.Duration(own), err, want)
			}
		}
	})
}

// offMain runs f on a thread that is not the main one.
func offMain(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if unix.Gettid() == unix.Getpid() {
			offMain(f) // this one is taken meanwhile
			return
		}
		f()
	}()
	<-done
}
