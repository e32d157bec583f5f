package apply

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// movable is an applier whose supervisor is a program of its own.
func movable(t *testing.T, w *workbench) (a *Applier, program string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(w.dir, "gitopsd")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	o := w.options()
	o.Supervisor = []string{program, "supervise"}
	if a, err = New(o); err != nil {
		t.Fatal(err)
	}
	a.startPauses = []time.Duration{time.Millisecond, time.Millisecond}
	return a, program
}

// A supervisor that cannot be started fails its hook and ends the deployment; the
// next one finds nothing in its way.
func TestSupervisorThatCannotStartFailsTheHook(t *testing.T) {
	w := newBench(t)
	a, program := movable(t, w)
	if err := os.Rename(program, program+".away"); err != nil {
		t.Fatal(err)
	}
	d := w.deployment("d-1", w.bundle(hooked("HOOK", "")))
	res := w.apply(a, d)
	if res.Error == nil || res.Error.Code != CodeUnknown || res.Error.Event != appspec.ApplicationStart || !strings.Contains(res.Error.Message, "could not start") {
		t.Fatalf("%+v", res.Error)
	}
	if pending, err := a.Pending(); err != nil || len(pending) != 0 {
		t.Fatalf("%v %v", pending, err)
	}
	if ran := w.ran(); len(ran) != 0 {
		t.Errorf("ran %v", ran)
	}
	if err := os.Rename(program+".away", program); err != nil {
		t.Fatal(err)
	}
	if res := w.apply(a, w.deployment("d-2", d.Source.Path)); res.Outcome != OutcomeSucceeded {
		t.Error(res.Error)
	}
	w.once()
}

// A supervisor's program that is back within a moment is all that is needed.
func TestSupervisorIsTriedAgain(t *testing.T) {
	w := newBench(t)
	a, program := movable(t, w)
	if err := os.Rename(program, program+".away"); err != nil {
		t.Fatal(err)
	}
	a.startPauses = []time.Duration{time.Millisecond, time.Hour}
	tries := make(chan struct{}, 8)
	a.opts.Disk = hookDisk(func(kind string) {
		if kind != "supervise" {
			return
		}
		if tries <- struct{}{}; len(tries) == 2 {
			if err := os.Rename(program+".away", program); err != nil {
				t.Error(err)
			}
		}
	})
	if res := w.apply(a, w.deployment("d-1", w.bundle(hooked("HOOK", "")))); res.Outcome != OutcomeSucceeded {
		t.Error(res.Error)
	}
	if len(tries) != 2 {
		t.Errorf("%d tries", len(tries))
	}
	w.once()
}

// Waiting for a supervisor ends with the context, and the deployment stays to be
// resumed.
func TestWaitForASupervisorIsInterrupted(t *testing.T) {
	w := newBench(t)
	a, program := movable(t, w)
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	a.startPauses = []time.Duration{time.Hour}
	ctx, cancel := context.WithCancel(context.Background())
	a.opts.Disk = hookDisk(func(kind string) {
		if kind == "supervise" {
			cancel()
		}
	})
	d := w.deployment("d-1", w.bundle(hooked("HOOK", "")))
	if _, err := a.Apply(ctx, d, nil); !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	if res, err := w.applier().Resume(context.Background(), d.Key(), Continue, nil); err != nil || res.Outcome != OutcomeSucceeded {
		t.Errorf("%v %v", res.Error, err)
	}
	w.once()
}

// A hook fills the disk that holds the state: what it did counts, and the
// deployment ends.
func TestHookThatFillsTheDisk(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"0", "3"} {
		w := newBench(t)
		o := w.options()
		if err := os.Mkdir(o.StateDir, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", o.StateDir, "tmpfs", 0, "size=4m"); err != nil {
			t.Skip("a full disk needs the right to mount one:", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(o.StateDir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		a := w.applier()
		d := w.deployment("d-1", w.bundle(hooked("HOOK; head -c 8000000 /dev/zero > "+o.StateDir+"/fill; echo x; exit "+code, "")))
		d.HoldGood = true
		res := w.apply(a, d)
		if want := code == "0"; (res.Outcome == OutcomeSucceeded) != want {
			t.Errorf("exit %s: %+v", code, res.Error)
		}
		if res.Error != nil && code == "3" && res.Error.Code != CodeScriptFailed {
			t.Errorf("exit %s: %+v", code, res.Error)
		}
		if err := os.WriteFile(filepath.Join(o.StateDir, "more"), bytes.Repeat([]byte("x"), 1<<20), 0o600); err == nil {
			t.Error("the disk was not full")
		}
		if pending, err := a.Pending(); err != nil || len(pending) != 0 {
			t.Errorf("%v %v", pending, err)
		}
		w.once()
	}
}

// hookDisk is a disk that tells of each operation.
func hookDisk(tell func(kind string)) *durable.Disk {
	return &durable.Disk{Hook: func(op durable.Op) error {
		tell(op.Kind)
		return nil
	}}
}

// An event that CodeDeploy does not have runs the hooks of its name where it is asked for, as with codedeploy-local, and nowhere else.
func TestEventOfOnesOwn(t *testing.T) {
	w := newBench(t)
	dir := w.bundle(map[string]string{
		"appspec.yml": "version: 0.0\nos: linux\nhooks: {HealthCheck: [{location: check.sh}]}\n", "check.sh": "HOOK",
	})
	w.succeed(w.deployment("d-1", dir))
	d := w.deployment("d-2", dir)
	d.Events = events("DownloadBundle Install HealthCheck")
	w.succeed(d)
	if got := strings.Join(w.ran(), "; "); got != "d-2/HealthCheck" {
		t.Errorf("ran %q", got)
	}
	d = w.deployment("d-3", dir)
	d.Events = events("DownloadBundle Install HelthCheck")
	if res := w.apply(w.applier(), d); res.Outcome != OutcomeFailed || res.Began || res.Error.Event != "HelthCheck" {
		t.Errorf("%s %+v", res.Outcome, res.Error)
	}
}
