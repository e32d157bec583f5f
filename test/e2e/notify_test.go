package e2e

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemdIsTold reads what an agent tells systemd (sd_notify(3)): that it is ready, that it reloads, that the watchdog is fed, and that it stops.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 1, voters: 1, late: []int{0}})
	path := filepath.Join(f.dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	told := func(what string) {
		t.Helper()
		var heard []string
		buffer := make([]byte, 4096)
		if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for !slices.Contains(heard, what) {
			n, err := socket.Read(buffer)
			if err != nil {
				t.Fatalf("systemd was not told %s (%v), only %q", what, err, heard)
			}
			heard = append(heard, strings.Split(string(buffer[:n]), "\n")...)
		}
	}
	h := f.hosts[0]
	h.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=300000"}
	h.start()
	told("READY=1")
	told("WATCHDOG=1")
	if err := h.process.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	told("RELOADING=1")
	told("READY=1")
	if err := h.process.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
	<-h.process.done
	if h.process.err != nil {
		t.Errorf("the agent ended with %v", h.process.err)
	}
}
