package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// TestWaitForACommitThatLetsAHostJoin: the set has to hear of the host, and the host has to get what the group runs.
func TestWaitForACommitThatLetsAHostJoin(t *testing.T) {
	o := newOffice(t, commitA, idle)
	w := simpleWorld(commitA, "web")
	w.State.Groups[0].Members = []desired.HostName{"web-1"}
	o.setWorld(w)
	o.awaitOpen("web")
	o.take(w, w.State.Groups[0])
	r, run := newReader(t, o), o.list()["web"]
	lead := func(c rollout.Command) {
		t.Helper()
		data, err := rollout.Encode(c, time.Unix(1_700_000_000, 0))
		if err == nil {
			_, err = run.set.Lead(context.Background(), run.set.Status().Term, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := rollout.Encode(rollout.Hello{Group: "g-web", Boot: "b", Running: specOf(w.Commit, w.State.Groups[0]), Whole: true}, time.Now())
	if err == nil {
		_, err = run.set.Submit(context.Background(), data)
	}
	if err != nil {
		t.Fatal(err)
	}
	lead(rollout.Tick{Elapsed: time.Second})
	waits := func(when string, done bool, says string) {
		t.Helper()
		a, err := r.Wait(context.Background(), "shop/web", "")
		if err != nil || a.Done != done || a.Code != waitSucceeded || !strings.Contains(a.Message, says) {
			t.Errorf("%s: %+v %v", when, a, err)
		}
	}
	waits("with what runs", true, "")
	next := simpleWorld(strings.Repeat("b", 40), "web") // of web-1 and web-2
	r.source.mu.Lock()
	r.source.world = next
	r.source.mu.Unlock()
	waits("before the set has heard of web-2", false, "has not taken up commit")
	var target rollout.Target
	run.set.View(func(consensus.Machine) { target, _ = run.machine.TargetNeeded(targetOf(next, next.State.Groups[0])) })
	lead(target)
	lead(rollout.Tick{Elapsed: time.Second})
	waits("while web-2 has nothing", false, "still to be brought to web-2")
	lead(rollout.Liveness{Hosts: []rollout.HostLife{{Host: "web-2", For: time.Hour}}})
	waits("while the others do not know web-2 yet", false, "still to be brought to web-2")
	for range 12 {
		lead(rollout.Tick{Elapsed: 5 * time.Second})
	}
	waits("once web-2 has been silent for a minute", true, "")
}

func TestOutcomeWithHostsThatJoin(t *testing.T) {
	g := status.Group{State: rollout.StateSucceeded, Why: "behind: d", Joining: []string{"a", "b", "c", "d"}}
	if a := outcomeOf(g); a.Done || a.State != "Waiting" || a.Message != "what the group runs is still to be brought to a, b, c and 1 more: behind: d" {
		t.Errorf("%+v", a)
	}
	g.JoinFailed = []string{"d"}
	if a := outcomeOf(g); !a.Done || a.Code != waitFailed || a.State != rollout.StateFailed || a.Message != "what the group runs could not be brought to d: behind: d" {
		t.Errorf("%+v", a)
	}
	g.State = rollout.StateHeldBack
	if a := outcomeOf(g); !a.Done || a.Code != waitRolledBack {
		t.Errorf("%+v", a)
	}
}

// TestTakenByASetThatIsNotFollowed: the report of another host carries the spec and the members.
func TestTakenByASetThatIsNotFollowed(t *testing.T) {
	g := desired.Group{SpecHash: "s", Members: []desired.HostName{"web-1", "web-2"}}
	told := status.Group{State: rollout.StateSucceeded, Desired: status.Revision{SpecHash: "s"}, Hosts: []status.Host{{Name: "web-2"}, {Name: "web-1"}}}
	if !takenElsewhere(told, g) {
		t.Error("all of it is said not to be taken up")
	}
	told.Hosts = told.Hosts[1:]
	if takenElsewhere(told, g) {
		t.Error("a host that the set has not heard of is overlooked")
	}
	told.Desired.SpecHash = "before"
	if takenElsewhere(told, g) {
		t.Error("another spec is overlooked")
	}
	if !takenElsewhere(status.Group{State: stateUnknown}, g) {
		t.Error("that nobody could be asked is kept back")
	}
}

// TestAHostThatWaitsToBeListed starts an agent before the commit that lists its host, as whoever adds one may: the wait for that commit ends once it is served, and
// the status says what its bundle cost it.
func TestAHostThatWaitsToBeListed(t *testing.T) {
	f := newTestFleet(t, "web-1", "web-2", "web-3")
	defer f.end()
	f.host("web-4")
	late := f.hosts[3]
	late.pin()
	for _, h := range f.hosts {
		h.start()
	}
	if a := f.hosts[0].await(f.deploy(f.heavyRelease("one", "", 300_000), "")); a.Code != 0 {
		t.Fatalf("release one: %+v", a)
	}
	a := f.hosts[0].await(f.origin.commit("hosts/web-4.yaml", f.inventory["web-4"]))
	if a.Code != 0 || len(a.Group.Hosts) != 4 || f.count("one ValidateService web-4") != 1 {
		t.Fatalf("with web-4: %+v", a)
	}
	if h := a.Group.Hosts[3]; h.Name != "web-4" || h.Status != "Succeeded" || h.BytesFromOrigin+h.BytesFromPeers < 300_000 {
		t.Errorf("%+v", h)
	}
}

// TestBytesAreOfTheDeploymentTheyCameFor: a rollback and a retry deploy what is here, and move nothing.
func TestBytesAreOfTheDeploymentTheyCameFor(t *testing.T) {
	f := newTestFleet(t, "web-1")
	defer f.end()
	h := f.hosts[0]
	h.start()
	if a := h.await(f.deploy(f.heavyRelease("one", "", 300_000), "")); a.Code != 0 {
		t.Fatalf("release one: %+v", a)
	}
	bad := f.deploy(f.heavyRelease("two", "exit 3", 300_000), "autoRollbackConfiguration: {enabled: true, events: [DEPLOYMENT_FAILURE]}\n")
	client, ctx := status.NewClient(h.config.Socket), context.Background()
	shows := func(when string, deployments int) {
		t.Helper()
		a := h.await(bad)
		history, err := client.History(ctx, "website")
		if err != nil || a.Code != waitRolledBack || len(history.Deployments) != deployments {
			t.Fatalf("%s: %v %+v, %+v", when, err, a, history)
		}
		if g := a.Group.Hosts[0]; g.BytesFromOrigin+g.BytesFromPeers != 0 {
			t.Errorf("%s moved %d and %d bytes", when, g.BytesFromOrigin, g.BytesFromPeers)
		}
		for i, d := range history.Deployments {
			first := d.RollbackOf == "" && i >= deployments-2
			if len(d.Hosts) != 1 || (d.Hosts[0].BytesFromOrigin > 0) != first {
				t.Errorf("%s: deployment %s, %d before the newest: %+v", when, d.ID, i, d.Hosts)
			}
		}
	}
	shows("the rollback", 3)
	if err := client.Operate(ctx, status.Operation{Verb: "retry", Group: "website", Actor: "anna"}); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		if f.count("two ApplicationStart web-1") < 2 {
			return "the second try"
		}
		return ""
	})
	shows("the rollback of the retry", 5)
}
