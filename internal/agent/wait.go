package agent

import (
	"context"
	"fmt"

	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// Exit codes of `gitopsd wait`, as the reference lists them.
const (
	waitSucceeded  = 0
	waitFailed     = 4
	waitRolledBack = 5
	waitStopped    = 6
	waitRefused    = 11
)

// Wait implements status.Source: has commit, or a descendant of it, been verified here, and has the spec it asks of the group come to its end?
func (r *reader) Wait(ctx context.Context, name, commit string) (status.Awaited, error) {
	if done, answer := r.awaitCommit(commit); !done {
		return answer, nil
	}
	group, _, err := r.find(ctx, name)
	if err != nil {
		return status.Awaited{}, err
	}
	w := r.source.current()
	if g, ok := w.group(group.ID); ok && group.Desired.SpecHash != g.SpecHash {
		return status.Awaited{State: "Waiting", Group: group, Message: fmt.Sprintf("the coordinator set has not taken up commit %s yet", w.Commit.Short())}, nil
	}
	return outcomeOf(group), nil
}

// awaitCommit says whether the commit is verified here; otherwise it says what of it.
func (r *reader) awaitCommit(commit string) (bool, status.Awaited) {
	w := r.source.current()
	if refused := r.source.refusal(); refused != nil && commit != "" && refused.Commit == commit {
		return false, status.Awaited{Done: true, Code: waitRefused, State: "Refused", Message: refused.Sentence}
	}
	if w == nil {
		return false, status.Awaited{State: "Waiting", Message: "this host has no verified commit yet"}
	}
	if commit == "" {
		return true, status.Awaited{}
	}
	if here, err := r.repo().IsAncestor(commit, w.Commit.ID); err != nil || !here {
		return false, status.Awaited{State: "Waiting", Message: fmt.Sprintf("commit %.10s is not verified here yet; this host is at %s", commit, w.Commit.Short())}
	}
	return true, status.Awaited{}
}

// outcomeOf judges a group's state.
func outcomeOf(g status.Group) status.Awaited {
	a := status.Awaited{State: g.State, Message: g.Why, Group: g, Done: true}
	switch g.State {
	case rollout.StateSucceeded:
		a.Code = waitSucceeded
	case rollout.StateFailed, rollout.StateBlocked, rollout.StateFrozen:
		a.Code = waitFailed
	case rollout.StateHeldBack:
		a.Code = waitRolledBack
	case rollout.StateStopped, rollout.StatePaused, rollout.StateSuspended, rollout.StateOrphaned:
		a.Code = waitStopped
	default:
		a.Done = false
	}
	return a
}
