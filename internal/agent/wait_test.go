package agent

import (
	"testing"

	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

func TestOutcomes(t *testing.T) {
	for state, want := range map[string]int{
		rollout.StateSucceeded: 0, rollout.StateFailed: 4, rollout.StateBlocked: 4, rollout.StateFrozen: 4, rollout.StateHeldBack: 5, rollout.StateStopped: 6, rollout.StatePaused: 6,
		rollout.StateSuspended: 6, rollout.StateOrphaned: 6,
		rollout.StateNone: -1, rollout.StateCreated: -1, rollout.StateQueued: -1, rollout.StateInProgress: -1, rollout.StateBaking: -1, rollout.StateHeld: -1, "Unknown": -1,
	} {
		a := outcomeOf(status.Group{State: state, Why: "because"})
		if a.Done != (want >= 0) || a.Done && a.Code != want || a.Message != "because" || a.State != state {
			t.Errorf("%s: %+v, want %d", state, a, want)
		}
	}
}
