package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// newDiskMember is a member over an applier whose disk fails where faults say.
func newDiskMember(t *testing.T, faults *durable.Faults) (*member, *disk) {
	t.Helper()
	d := newDisk(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d.applier, err = apply.New(apply.Options{StateDir: filepath.Join(t.TempDir(), "apply"), DestinationRoot: t.TempDir(), Supervisor: []string{program, "supervise"},
		Disk: &durable.Disk{Hook: faults.Hook}})
	if err != nil {
		t.Fatal(err)
	}
	m := newGates()
	m.self, m.dir, m.applier, m.log, m.events = "web-1", t.TempDir(), d.applier, slog.New(slog.DiscardHandler), make(chan rollout.MemberEvent, 64)
	return m, d
}

func (d *disk) plain(id, letter string) apply.Deployment {
	return apply.Deployment{ID: id, ApplicationName: "website", GroupName: "website", GroupID: "g1", SpecHash: "hash-" + letter, Commit: "commit-" + letter, Kind: appspec.InPlace,
		Source: d.source(letter, plainSpec), FileExistsBehavior: appspec.Overwrite, HoldGood: true}
}

// told takes what the loop was told of the end of a deployment.
func (m *member) told(t *testing.T) rollout.EvApplied {
	t.Helper()
	for {
		select {
		case ev := <-m.events:
			if applied, ok := ev.(rollout.EvApplied); ok {
				return applied
			}
		default:
			t.Fatal("nobody was told how the deployment ended")
		}
	}
}

// TestErrorNeverLeavesAJournalOpen lets each operation of a deployment fail once, as on a full disk: the deployment ends, and the next one runs.
func TestErrorNeverLeavesAJournalOpen(t *testing.T) {
	count := &durable.Faults{}
	_, d := newDiskMember(t, count)
	before := count.Count()
	if _, err := d.applier.Apply(context.Background(), d.plain("d-1", "1"), nil); err != nil {
		t.Fatal(err)
	}
	undone := 0
	for n := 1; n <= count.Count()-before; n++ {
		if testing.Short() && n%4 != 0 {
			continue
		}
		faults := &durable.Faults{}
		m, d := newDiskMember(t, faults)
		faults.FailAt(faults.Count()+n, syscall.ENOSPC)
		deployment := d.plain("d-1", "1")
		result, err := d.applier.Apply(context.Background(), deployment, nil)
		m.applied(context.Background(), deployment.Key(), result, err)
		if ev := m.told(t); err != nil && ev.Outcome == rollout.OutcomeSucceeded {
			t.Errorf("failure at %d (%v) is reported as %s", n, err, ev.Outcome)
		} else if ev.Outcome == rollout.OutcomeUndone {
			undone++
		}
		if pending, err := d.applier.Pending(); err != nil || len(pending) != 0 {
			t.Errorf("failure at %d: pending %v %v", n, pending, err)
		}
		if result, err := d.applier.Apply(context.Background(), d.plain("d-2", "2"), nil); err != nil || result.Outcome != apply.OutcomeSucceeded {
			t.Errorf("failure at %d: the next deployment: %+v %v", n, result.Error, err)
		}
		if all := m.notices(); len(all) != 0 {
			t.Errorf("failure at %d: notices are left: %v", n, all)
		}
	}
	if undone == 0 {
		t.Error("no failure left anything open; this test tests nothing")
	}
}

// TestOpenDeploymentIsTriedUntilItEnds is about a disk that stays full for a while.
func TestOpenDeploymentIsTriedUntilItEnds(t *testing.T) {
	m, d := newDiskMember(t, &durable.Faults{})
	deployment := d.plain("d-1", "1")
	unlock := holdOpen(t, d, deployment)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.applied(context.Background(), deployment.Key(), apply.Result{}, errors.New("the disk is full"))
	}()
	eventuallyTrue(t, "a notice", func() bool { return len(m.notices()) == 1 })
	if n := m.notices()[0]; n.Kind != "DeploymentOpen" || n.Subject != "g1" || !strings.Contains(n.Message, "the disk is full") {
		t.Errorf("%+v", n)
	}
	unlock()
	<-done
	if ev := m.told(t); ev.Outcome != rollout.OutcomeUndone || !strings.Contains(ev.Message, "the disk is full") {
		t.Errorf("%+v", ev)
	}
	if all := m.notices(); len(all) != 0 {
		t.Errorf("%v", all)
	}
}

// holdOpen leaves a deployment open and its application locked, as if it were at work.
func holdOpen(t *testing.T, d *disk, deployment apply.Deployment) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	deployment.Begin = func(context.Context) error { cancel(); return nil }
	if _, err := d.applier.Apply(ctx, deployment, nil); !errors.Is(err, apply.ErrInterrupted) {
		t.Fatal(err)
	}
	held, free, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	other := deployment
	other.GroupID, other.ID = "g2", "d-other" // of the same application
	other.Begin = func(context.Context) error { close(held); <-free; return errors.New("not now") }
	go func() {
		defer close(done)
		_, _ = d.applier.Apply(context.Background(), other, nil)
	}()
	<-held
	return func() { close(free); <-done }
}

func eventuallyTrue(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestFullDiskHoldsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newGates()
		m.self, m.dir, m.log = "web-1", "/data", slog.New(slog.DiscardHandler)
		tries := 0
		done := make(chan error, 1)
		go func() {
			done <- m.whileFull(context.Background(), func() error {
				if tries++; tries < 20 {
					return unix.ENOSPC
				}
				return nil
			})
		}()
		synctest.Wait()
		if all := m.notices(); len(all) != 1 || all[0].Kind != "DiskFull" || !strings.Contains(all[0].Message, "/data is full") {
			t.Errorf("%v", all)
		}
		if err := <-done; err != nil || tries != 20 {
			t.Errorf("%v after %d tries", err, tries)
		}
		if all := m.notices(); len(all) != 0 {
			t.Errorf("%v", all)
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() { done <- m.whileFull(ctx, func() error { return unix.ENOSPC }) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, errStopped) {
			t.Errorf("%v", err)
		}
		if err := m.whileFull(context.Background(), func() error { return unix.EIO }); !errors.Is(err, unix.EIO) {
			t.Errorf("%v", err)
		}
	})
}

func TestMemberStateTakesOverTheOldFile(t *testing.T) {
	m := newGates()
	m.dir, m.log = t.TempDir(), slog.New(slog.DiscardHandler)
	path := filepath.Join(m.dir, memberStateFile)
	if err := durable.WriteFile(path, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"as it was", "newer"} {
		state, err := m.openState(context.Background())
		if err != nil || string(state) != want {
			t.Errorf("%q %v, want %q", state, err, want)
		}
		if err := m.persist(context.Background(), []byte("newer")); err != nil {
			t.Error(err)
		}
		m.state.Close()
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() < 1<<20 {
		t.Errorf("%v %v", info, err)
	}
}

// TestDamagedJournalIsANotice is about the journal of an old deployment.
func TestDamagedJournalIsANotice(t *testing.T) {
	d := newDisk(t)
	m := newGates()
	m.self, m.applier, m.log = "web-1", d.applier, slog.New(slog.DiscardHandler)
	deploy := &deployer{releases: func() int { return 5 }, applier: d.applier, log: m.log, fence: func() FenceConfig { return FenceConfig{} }}
	d.deploy("d-1", "1")
	d.deploy("d-2", "2")
	releases, err := d.applier.Releases("g1")
	if err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(filepath.Dir(releases[0].Dir), "../../deployments/d-2.1/journal")
	if err := os.WriteFile(journal, []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.mend(); err != nil {
		t.Fatal(err)
	}
	if all := m.notices(); len(all) != 1 || all[0].Kind != "JournalDamaged" || all[0].Subject != "g1" || !strings.Contains(all[0].Message, "journal.damaged-1") {
		t.Errorf("%+v", all)
	}
	key, open, err := deploy.pendingKey("g1", "d-2")
	if err != nil || !open {
		t.Fatalf("%v %v", open, err)
	}
	if spec, whole, ok := deploy.installed("g1"); !ok || whole || spec.SpecHash != "hash-2" {
		t.Errorf("%+v %v %v", spec, whole, ok)
	}
	result, err := d.applier.Resume(context.Background(), key, apply.Undo, nil)
	if err != nil || result.Undone || result.Error.Code != apply.CodeAgentRestart {
		t.Errorf("%+v %v", result, err)
	}
	d.deploy("d-3", "3")
}

// TestAnotherHostsStateSaysWhatToDo: a data directory that was copied is whole; whoever reads that it is damaged would look in the wrong place.
func TestAnotherHostsStateSaysWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		state, want string
		config      bool
	}{
		"another host":    {"\x01{\"version\":1,\"host\":\"web-2\"}", "it belongs to host \"web-2\", and this one is web-1", true},
		"a newer gitopsd": {"\x09{}", "start the newer one", false},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, memberStateFile)
		slots, _, err := durable.OpenSlots(path, 100)
		if err == nil {
			err = slots.Write([]byte(c.state))
		}
		if err != nil {
			t.Fatal(err)
		}
		slots.Close()
		m := &member{self: "web-1", dir: dir, log: slog.New(slog.DiscardHandler)}
		if err = m.begin(context.Background()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
		if errors.As(err, new(*ConfigError)) != c.config {
			t.Errorf("%s: is gitopsd.yaml at fault? %T", name, err)
		}
		m.state.Close()
	}
}

// TestDamagedStateSaysWhatToDo is about a state in which neither slot is whole, and one that never was any.
func TestDamagedStateSaysWhatToDo(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"no whole slot": func(data []byte) []byte { clear(data[4096:]); return data },
		"garbage":       func([]byte) []byte { return []byte("garbage") },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, memberStateFile)
		slots, _, err := durable.OpenSlots(path, 10)
		if err != nil {
			t.Fatal(err)
		}
		slots.Close()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(data), 0o600); err != nil {
			t.Fatal(err)
		}
		m := &member{self: "web-1", dir: dir, log: slog.New(slog.DiscardHandler)}
		err = m.begin(context.Background())
		for _, word := range []string{path, "it is damaged", "restore-a-host.md"} {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not say %q", name, err, word)
			}
		}
		if m.state != nil {
			m.state.Close()
		}
	}
}
