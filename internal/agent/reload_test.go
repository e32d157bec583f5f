package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

func TestReload(t *testing.T) {
	f := newTestFleet(t, "web-1")
	h := f.hosts[0]
	level := new(slog.LevelVar)
	next, wrong := h.config, error(nil)
	a, err := New(Options{Config: h.config, Log: slog.New(slog.NewTextHandler(&h.log, nil)), LogLevel: level, Reload: func() (Config, error) { return next, wrong }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	next.Log.Level, next.Repository.Poll, next.Fence.Groups, next.Retention.Releases = slog.LevelDebug, time.Hour, []string{"shop/**"}, 9
	if err := a.Reload(); err != nil {
		t.Error(err)
	}
	if level.Level() != slog.LevelDebug || a.config().Repository.Poll != time.Hour || len(a.config().Fence.Groups) != 1 || a.config().Retention.Releases != 9 {
		t.Errorf("in force: %+v", a.config())
	}
	next.Host, next.DataDir, next.Listen, next.Timing, next.Limits.Disk, next.Join = "web-9", "/elsewhere", "127.0.0.1:1", "standard", 1, []Join{{"web-2", "x:1"}}
	err = a.Reload()
	for _, key := range []string{"host", "dataDir", "listen", "timing", "limits.disk", "join"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named: %v", key, err)
		}
	}
	if c := a.config(); c.Host != "web-1" || c.DataDir != h.config.DataDir || c.Limits.Disk != 0 || len(c.Join) != 0 {
		t.Errorf("what cannot change has changed: %+v", c)
	}
	wrong = errors.New("gitopsd.yaml:1:1: it is broken")
	if err := a.Reload(); err == nil || !strings.Contains(err.Error(), "stays in force") {
		t.Errorf("%v", err)
	}
	wrong, next = nil, h.config
	next.Repository.AllowedSigners = "/nowhere"
	if err := a.Reload(); err == nil || a.config().Repository.AllowedSigners != h.config.Repository.AllowedSigners {
		t.Errorf("a reload whose repository cannot be opened: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	next = h.config
	if err := a.Reload(); err == nil || !strings.Contains(err.Error(), "has stopped") {
		t.Errorf("a stopped agent: %v", err)
	}
}

// TestAReloadTriesAtOnceWhatWasRefused: the file that was mended may be what kept this host from being ready.
func TestAReloadTriesAtOnceWhatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		machine, err := rollout.NewMember("web-1", nil)
		if err != nil {
			t.Fatal(err)
		}
		spec := rollout.Spec{Commit: "c1", SpecHash: "s1"}
		for _, ev := range []rollout.MemberEvent{rollout.EvStarted{}, rollout.EvSynced{Set: "web", Assignments: []rollout.Assignment{{Group: "g1", Member: true, Known: true, Prepare: []rollout.Spec{spec}}}},
			rollout.EvVerified{Group: "g1", Commit: "c1", SpecHash: "s1", OK: true}, rollout.EvBundle{Group: "g1", SpecHash: "s1"}, rollout.EvPreflight{Group: "g1", SpecHash: "s1", Refused: rollout.RefusedByHost, Reason: "fenced"}} {
			machine.Step(ev, 0)
		}
		asked := make(chan struct{})
		m := &member{self: "web-1", machine: machine, start: time.Now(), again: newWake(), news: newWake(), checks: &checks{}, log: slog.New(slog.DiscardHandler), sets: &sets{},
			deploy: &deployer{applier: &apply.Applier{}, verifier: &verifier{world: func() *world { close(asked); return nil }}}}
		refusedAt, _ := machine.Deadline()
		a := &Agent{member: m}
		a.lookAgain()
		stop := make(chan struct{})
		go func() { <-asked; close(stop) }()
		if err := m.wait(ctx, stop); err != nil {
			t.Error(err)
		}
		if took := m.now(); took >= refusedAt {
			t.Errorf("it was tried after %v, no sooner than by itself", took)
		}
		cancel()
		m.work.Wait()
	})
}

// TestVerdictThatComesBeforeTheEndIsNotLost is about checks that were started afresh before the Member knew that the deployment had ended: it forgot their verdict,
// and no other came.
func TestVerdictThatComesBeforeTheEndIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		c := &checks{self: "web-1", log: slog.New(slog.DiscardHandler), news: make(chan string, 8)}
		check := desired.Check{Name: "up", Exec: &desired.ExecCheck{Command: []string{"/bin/true"}}, Interval: time.Hour, Timeout: time.Second, HealthyAfter: 1, UnhealthyAfter: 1}
		c.follow(ctx, &world{State: &desired.State{Groups: []desired.Group{{ID: "g1", Members: []desired.HostName{"web-1"}, Checks: []desired.Check{check}}}, Hosts: map[desired.HostName]desired.Host{"web-1": {}}}})
		machine, err := rollout.NewMember("web-1", nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{State: &desired.State{}}
		m := &member{self: "web-1", dir: t.TempDir(), world: func() *world { return w }, machine: machine, checks: c, bundles: &bundles{changed: newWake()}, start: time.Now(), log: slog.New(slog.DiscardHandler)}
		if err := m.take(ctx, rollout.EvApplied{Group: "g1", Deployment: "d-1"}); err != nil {
			t.Fatal(err)
		}
		if verdict, _ := c.verdict("g1"); verdict.State != "unknown" {
			t.Errorf("after the end of a deployment the checks say %s", verdict.State)
		}
		if len(m.bundles.changed) != 1 {
			t.Error("the bundles of the new release are not kept")
		}
		cancel()
		c.wait()
	})
}

func TestClonesAreForgotten(t *testing.T) {
	f := newTestFleet(t, "web-1")
	a, err := New(Options{Config: f.hosts[0].config})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.noteClone("web-1", "seen twice")
	if all := a.hostNotices(); len(all) != 1 || all[0].Kind != "ClonedHost" || !strings.Contains(all[0].Message, "host init") {
		t.Errorf("%+v", all)
	}
	a.clones["web-1"] = clone{"seen twice", time.Now().Add(-2 * clonesKept)}
	if all := a.hostNotices(); len(all) != 0 || len(a.clones) != 0 {
		t.Errorf("%+v", all)
	}
}

func TestSignalAndWake(t *testing.T) {
	var s signal
	s.Notify() // nobody waits
	first := s.Changed()
	if first != s.Changed() {
		t.Error("two waiters have two channels")
	}
	s.Notify()
	<-first
	if second := s.Changed(); second == first {
		t.Error("an old signal is given again")
	}
	w := newWake()
	w.Wake()
	w.Wake()
	if len(w) != 1 {
		t.Errorf("%d wakes are kept", len(w))
	}
}

func TestAppliedOf(t *testing.T) {
	key := apply.Key{GroupID: "g1", DeploymentID: "d-1", Attempt: 1}
	fault := &apply.Error{Event: "ValidateService", Code: apply.CodeScriptFailed, ErrorCode: "ScriptFailed", ScriptName: "v.sh", Message: "Script at specified location: v.sh failed with exit code 3", LogTail: "tail"}
	reports := []apply.EventReport{{Event: "ValidateService", Status: apply.StatusFailed, Start: time.Unix(1, 0), Error: fault}, {Event: "ApplicationStart", Status: apply.StatusSucceeded, Undo: true}}
	for name, c := range map[string]struct {
		result apply.Result
		want   rollout.Outcome
	}{
		"succeeded": {apply.Result{Outcome: apply.OutcomeSucceeded}, rollout.OutcomeSucceeded},
		"failed":    {apply.Result{Outcome: apply.OutcomeFailed, Error: fault, Events: reports}, rollout.OutcomeFailed},
		"undone":    {apply.Result{Outcome: apply.OutcomeFailed, Error: fault, Events: reports, Undone: true}, rollout.OutcomeUndone},
		"given up after Install, whose files stay": {apply.Result{Outcome: apply.OutcomeFailed, Error: fault, Undone: true,
			Events: append([]apply.EventReport{{Event: "Install", Status: apply.StatusSucceeded}}, reports...)}, rollout.OutcomeFailed},
	} {
		ev := appliedOf(key, c.result)
		if ev.Group != "g1" || ev.Deployment != "d-1" || ev.Outcome != c.want {
			t.Errorf("%s: %+v", name, ev)
		}
		if c.result.Error == nil {
			continue
		}
		if ev.Event != "ValidateService" || ev.ExitCode != 3 || ev.ErrorCode != "ScriptFailed" {
			t.Errorf("%s: %+v", name, ev)
		}
		last := ev.Events[len(ev.Events)-1]
		if last.Event != "ValidateService" || last.Diagnostics == nil || last.Diagnostics.LogTail != "tail" || last.StartTime != status.Stamp(time.Unix(1, 0)) || last.EndTime != "" {
			t.Errorf("%s: what ran for the previous release is among the events: %+v", name, ev.Events)
		}
	}
	down := apply.Result{Outcome: apply.OutcomeFailed, Error: fault, Undone: true, Events: []apply.EventReport{{Event: "ApplicationStart", Status: apply.StatusFailed, Undo: true, Error: fault}}}
	if ev := appliedOf(key, down); ev.Outcome != rollout.OutcomeFailed || ev.Event != "" || !strings.Contains(ev.Message, "the previous release could not be started again: ValidateService failed") {
		t.Errorf("a host that stayed down counts as one that went back: %+v", ev)
	}
}
