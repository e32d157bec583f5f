package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

func TestOutcomes(t *testing.T) {
	for state, want := range map[string]int{
		rollout.StateSucceeded: 0, rollout.StateFailed: 4, rollout.StateBlocked: 4, rollout.StateFrozen: 4, rollout.StateNoHosts: 4, rollout.StateHeldBack: 5, rollout.StateStopped: 6, rollout.StatePaused: 6,
		rollout.StateSuspended: 6, rollout.StateOrphaned: 6,
		rollout.StateNone: -1, rollout.StateCreated: -1, rollout.StateQueued: -1, rollout.StateInProgress: -1, rollout.StateBaking: -1, rollout.StateHeld: -1, "Unknown": -1,
	} {
		a := outcomeOf(status.Group{State: state, Why: "because"})
		if a.Done != (want >= 0) || a.Done && a.Code != want || a.Message != "because" || a.State != state {
			t.Errorf("%s: %+v, want %d", state, a, want)
		}
	}
}

// TestNoSuccessWithoutALeader: in the middle of an epoch change nobody can know that all hosts have it; that a group failed stays true.
func TestNoSuccessWithoutALeader(t *testing.T) {
	g := status.Group{State: rollout.StateSucceeded, Why: "coordinator set web has no leader", NoLeader: true}
	if a := withoutLeader(outcomeOf(g)); a.Done || a.Code != status.CodeNoQuorum || a.State != "Waiting" || a.Message != g.Why {
		t.Errorf("%+v", a)
	}
	g.Joining = []string{"web-4"}
	if a := withoutLeader(outcomeOf(g)); a.Done || a.Code != status.CodeNoQuorum {
		t.Errorf("%+v", a)
	}
	g.State = rollout.StateFailed
	if a := withoutLeader(outcomeOf(g)); !a.Done || a.Code != waitFailed || a.State != rollout.StateFailed {
		t.Errorf("%+v", a)
	}
	g.State, g.NoLeader, g.Joining = rollout.StateSucceeded, false, nil
	if a := withoutLeader(outcomeOf(g)); !a.Done || a.Code != waitSucceeded {
		t.Errorf("%+v", a)
	}
}

// TestUnusableFilesAreNoSuccess: a commit whose group cannot be read must not look deployed to whoever waits for it.
func TestUnusableFilesAreNoSuccess(t *testing.T) {
	w := &world{State: &desired.State{Broken: desired.Broken{Groups: []string{"shop/web"}, IDs: []desired.GroupID{"01RENAMED"}}},
		Problems: []desired.Problem{{File: "hosts/a.yaml", Message: "other"}, {File: "shop/web/group.yaml", Line: 16, Column: 1, Message: `unknown key "chekcs"`}}}
	if why, unusable := unusableHere(w, status.Group{Group: "shop/web"}); !unusable || !strings.Contains(why, "chekcs") || !strings.Contains(why, "16") {
		t.Errorf("the broken group: %v, %q", unusable, why)
	}
	if _, unusable := unusableHere(w, status.Group{Group: "shop/old", ID: "01RENAMED"}); !unusable {
		t.Error("a broken group in a renamed folder is taken for sound")
	}
	if _, unusable := unusableHere(w, status.Group{Group: "shop/web2", ID: "01OTHER"}); unusable {
		t.Error("a sound group is taken for broken")
	}
}

// TestWaitSaysThatNobodyLeads stops two voters of three and commits: the one that is left knows the commit, and that nothing comes of it now.
func TestWaitSaysThatNobodyLeads(t *testing.T) {
	f := newTestFleet(t, "web-1", "web-2", "web-3")
	defer f.end()
	for _, h := range f.hosts {
		h.start()
	}
	if a := f.hosts[0].await(f.deploy(f.release("one", ""), "")); a.Code != 0 {
		t.Fatalf("release one: %+v", a)
	}
	f.hosts[1].end()
	f.hosts[2].end()
	f.awaitNobodyLeads("")
	f.saysThatAMajorityIsMissing()
	f.awaitNobodyLeads(f.deploy(f.release("two", ""), ""))
}

// saysThatAMajorityIsMissing waits until the first host says so wherever it says that there is no leader: it takes a moment to find the others gone.
func (f *testFleet) saysThatAMajorityIsMissing() {
	f.t.Helper()
	client, missing := status.NewClient(f.hosts[0].config.Socket), "a majority of "
	until(f.t, func() string {
		report, err := client.Report(context.Background(), "website")
		if err != nil {
			return err.Error()
		}
		refused := client.Operate(context.Background(), status.Operation{Verb: "pause", Group: "website", Actor: "anna"})
		if refused == nil {
			f.t.Fatal("a group is paused by a minority")
		}
		said := []string{report.Groups[0].Why, refused.Error()}
		for _, n := range report.Notices {
			if n.Kind == "NoQuorum" {
				said = append(said, n.Message)
			}
		}
		if len(said) != 3 || slices.ContainsFunc(said, func(s string) bool { return !strings.Contains(s, missing) }) {
			return fmt.Sprintf("that a majority is missing: %q", said)
		}
		return ""
	})
}

// awaitNobodyLeads waits until the first host answers that nothing can be known of a commit, however well the one before went.
func (f *testFleet) awaitNobodyLeads(commit string) {
	f.t.Helper()
	until(f.t, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		a, err := status.NewClient(f.hosts[0].config.Socket).Wait(ctx, "website", commit, false)
		if err != nil {
			return err.Error()
		}
		if a.Done || a.Code != status.CodeNoQuorum || !strings.Contains(a.Message, "has no leader") {
			return fmt.Sprintf("an answer that says so: %+v", a)
		}
		return ""
	})
}
