package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// startAs starts the agent from a copy of the program that is the host's own.
func (h *host) startAs(program string) {
	h.f.t.Helper()
	cmd := exec.Command(program, "agent", "--config", h.config)
	cmd.Env = append(os.Environ(), "E2E_LOG="+h.f.truth(), "E2E_BINARY="+binary, "E2E_DIR="+h.dir, "E2E_GATES="+filepath.Join(h.f.dir, "gates"))
	h.process = startProcess(h.f.t, cmd, filepath.Join(h.dir, "agent.log"))
}

// ownProgram copies the program into a host's folder.
func (h *host) ownProgram() string {
	h.f.t.Helper()
	from, err := os.Open(binary)
	if err != nil {
		h.f.t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(h.dir, "gitopsd")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		h.f.t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		h.f.t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		h.f.t.Fatal(err)
	}
	return path
}

// awaitFailure waits until another host reports that an event failed on a host because its hook could not start.
func (f *fleet) awaitFailure(h *host, event string) {
	f.t.Helper()
	f.hosts[0].awaitGroup(h.name+"'s failure at "+event, func(g status.Group) string {
		for _, m := range g.Hosts {
			for _, e := range m.Events {
				if m.Name == h.name && e.Event == event && e.Status == "Failed" && e.Diagnostics != nil && strings.Contains(e.Diagnostics.Message, "could not start") {
					return ""
				}
			}
		}
		return "not yet"
	})
}

// TestSupervisorCannotStartOnce takes the program's execute bits away between two hooks, as a careless upgrade does.
func TestSupervisorCannotStartOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 2, voters: 1, late: []int{1}})
	victim := f.hosts[1]
	program := victim.ownProgram()
	victim.startAs(program)
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.awaitSettled()
	f.deploy(release{name: "two", start: `if [ "$GITOPSD_HOST" = web-2 ]; then chmod -x "$E2E_DIR/gitopsd"; fi` + "\n"}, allAtOnce)
	f.awaitFailure(victim, "ValidateService")
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	f.deploy(release{name: "three"}, allAtOnce)
	f.awaitRelease("three")
	f.awaitSettled()
	if !victim.process.running() {
		t.Error("the agent has ended")
	}
	f.assertOnce()
}

// TestDamagedJournalsStopNoAgent overwrites the journals of all deployments that have ended.
func TestDamagedJournalsStopNoAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 2, voters: 1})
	victim := f.hosts[1]
	for _, name := range []string{"one", "two"} {
		f.deploy(release{name: name}, allAtOnce)
		f.awaitRelease(name)
		f.awaitSettled()
	}
	victim.kill9()
	journals, err := filepath.Glob(filepath.Join(victim.dir, "data/apply/groups/*/deployments/*/journal"))
	if err != nil || len(journals) != 2 {
		t.Fatalf("%v %v", journals, err)
	}
	for _, journal := range journals {
		if err := os.WriteFile(journal, []byte("rotten"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	victim.start()
	victim.awaitUp()
	eventually(t, "the log names both journals", func() string {
		if n := strings.Count(victim.agentLog(), "was damaged"); n != 2 {
			return fmt.Sprintf("it names %d", n)
		}
		return ""
	})
	f.awaitSettled()
	f.deploy(release{name: "three"}, allAtOnce)
	f.awaitRelease("three")
	f.awaitSettled()
	f.assertOnce()
}

// TestFullDataDirectory fills the disk of an agent's data from within a hook.
func TestFullDataDirectory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 2, voters: 1, late: []int{1}})
	victim := f.hosts[1]
	data := filepath.Join(victim.dir, "data")
	kept := data + ".kept"
	if err := os.Rename(data, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=192m"); err != nil {
		t.Skip("a full disk needs the right to mount one:", err)
	}
	t.Cleanup(func() {
		victim.process.kill()
		if err := syscall.Unmount(data, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(data, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(data, "host.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	victim.start()
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.awaitSettled()
	f.deploy(release{name: "two", start: `if [ "$GITOPSD_HOST" = web-2 ]; then cat /dev/zero > "$E2E_DIR/data/fill" 2>/dev/null; fi` + "\n"}, allAtOnce)
	f.awaitFailure(victim, "ValidateService") // what comes after the disk is full cannot start
	if !victim.process.running() {
		t.Fatal("the agent ended:\n" + victim.agentLog())
	}
	if _, _, ok := victim.status(website); !ok {
		t.Error("the agent does not answer")
	}
	if err := os.Remove(filepath.Join(data, "fill")); err != nil {
		t.Fatal(err)
	}
	f.deploy(release{name: "three"}, allAtOnce)
	f.awaitRelease("three")
	f.awaitSettled()
	f.assertOnce()
}
