// Package timerslack lets the kernel wake this process a little late, and keeps that from the programs it starts.
//
// Go's runtime has a thread that looks, every 20 µs while anything runs, whether another thread is stuck. On a host that gets and passes on a bundle that is over a
// thousand wakes a second, of which hardly one finds anything to do. The timer slack of prctl(2) is how late a sleep may end, so that several end at once: 50 µs unless
// somebody says otherwise. A program inherits it from the thread that starts it, and must not: hooks start the services of this host.
package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Relax gives every thread of this process that slack but the main one, by which Start knows what this process was given. Call it early: threads inherit it from
// those that start them. Needs CAP_SYS_NICE; without it nothing changes, and the error says so.
func Relax(by time.Duration) error {
	main, err := os.Readlink("/proc/self")
	if err != nil {
		return fmt.Errorf("cannot set the timer slack: %w", err)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return fmt.Errorf("cannot set the timer slack: %w", err)
	}
	for _, path := range threads {
		thread := filepath.Base(path)
		if thread == main {
			continue
		}
		err := os.WriteFile(file(thread), strconv.AppendInt(nil, by.Nanoseconds(), 10), 0)
		if err != nil && !os.IsNotExist(err) { // a thread may have ended
			return fmt.Errorf("cannot set the timer slack: %w", err)
		}
	}
	return nil
}

// Start starts a command with the slack of the main thread.
func Start(cmd *exec.Cmd) error {
	usual, err := of("self")
	if err != nil { // then Relax could change nothing either
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil && uint64(own) != usual && unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(usual), 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0) }()
	}
	return cmd.Start()
}

func file(thread string) string { return filepath.Join("/proc", thread, "timerslack_ns") }

// of reads a thread's slack in nanoseconds.
func of(thread string) (uint64, error) {
	text, err := os.ReadFile(file(thread))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
