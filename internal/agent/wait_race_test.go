package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// TestWaitNeverTakesTheStateBeforeForTheOutcome: the set takes a commit up while `wait` looks. What the group was before, here a group without hosts, is over then.
func TestWaitNeverTakesTheStateBeforeForTheOutcome(t *testing.T) {
	o := newOffice(t, commitA, idle)
	first := simpleWorld(commitA, "web")
	o.setWorld(first)
	o.awaitOpen("web")
	first.State.Groups[0].Members = nil
	o.take(first, first.State.Groups[0])
	r := newReader(t, o)
	run := o.list()["web"]
	propose := func(w *world) {
		var target rollout.Target
		run.set.View(func(consensus.Machine) { target, _ = run.machine.TargetNeeded(targetOf(w, w.State.Groups[0])) })
		data, err := rollout.Encode(target, time.Unix(1_700_000_000, 0))
		if err == nil {
			_, err = run.set.Lead(context.Background(), run.set.Status().Term, data)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for round := range 40 {
		none, some := simpleWorld(commitA, "web"), simpleWorld(commitA, "web")
		none.State.Groups[0].Members = nil
		some.State.Groups[0].Members = []desired.HostName{"web-1"}
		some.State.Groups[0].SpecHash = fmt.Sprintf("%064d", round)
		propose(none)
		r.source.mu.Lock()
		r.source.world = some
		r.source.mu.Unlock()
		taken := make(chan struct{})
		go func() { defer close(taken); propose(some) }()
		for waiting := true; waiting; {
			a, err := r.Wait(context.Background(), "shop/web", "")
			if err != nil || a.Done {
				t.Fatalf("round %d: %+v %v", round, a, err)
			}
			waiting = strings.Contains(a.Message, "has not taken up")
		}
		<-taken
	}
}
