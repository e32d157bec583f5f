package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
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
	if commit != "" && !commitPattern.MatchString(commit) {
		return status.Awaited{}, fmt.Errorf("%w: %.60q is not a full commit id of 40 hexadecimal digits; `git rev-parse` prints it", status.ErrRefused, commit)
	}
	if r.verify != nil && r.doubted(commit) {
		r.verify(ctx)
	}
	if verified, answer := r.awaitCommit(commit); !verified {
		return answer, nil
	}
	group, run, err := r.find(ctx, name)
	if err != nil {
		return status.Awaited{}, err
	}
	w := r.source.current()
	if why, unusable := unusableHere(w, group); unusable {
		return status.Awaited{Done: true, Code: waitRefused, State: "Refused", Message: why, Group: group}, nil
	}
	taken := true
	if g, inGit := w.group(group.ID); inGit && run == nil {
		taken = takenElsewhere(group, g)
	} else if inGit { // one look at the set decides both: a second one may find taken up what the first has not seen begin
		group = r.followed(run, g, w, func(m *rollout.Machine) { taken = m.Taken(targetOf(w, g)) })
	}
	if !taken {
		not := fmt.Sprintf("the coordinator set has not taken up commit %s yet", w.Commit.Short())
		if run != nil {
			not = withLeader(not, run.set.Status(), r.alive)
		}
		return withoutLeader(status.Awaited{State: "Waiting", Group: group, Message: not}), nil
	}
	if commit == "" {
		if answer, newer := r.newerThanHere(w, group); newer {
			return answer, nil
		}
	}
	answer := withoutLeader(outcomeOf(group))
	if commit == "" {
		answer.Message = r.withHearsay(answer.Message, "")
	}
	return answer, nil
}

// withoutLeader marks an answer about a set without a leader. That a group has ended well cannot be known then: nobody hears of hosts that joined or lost what they
// had. That it ended otherwise is a fact already.
func withoutLeader(a status.Awaited) status.Awaited {
	if !a.Group.NoLeader || a.Done && a.Code != waitSucceeded {
		return a
	}
	if a.Done {
		a.Done, a.State = false, "Waiting"
	}
	a.Code = status.CodeNoQuorum
	return a
}

// newerThanHere says whether git has a newer commit that does not take effect: whoever waits for the newest one must not take the state before it for its outcome.
// Only what this host has seen itself counts: what others say is not signed.
func (r *reader) newerThanHere(w *world, g status.Group) (status.Awaited, bool) {
	still := fmt.Sprintf("%s is still as commit %s says, %s", g.Group, w.Commit.Short(), g.State)
	if w.Held != "" {
		return status.Awaited{Done: true, Code: waitRolledBack, State: rollout.StateHeldBack, Message: w.Held + "; " + still, Group: g}, true
	}
	own := r.source.refusal()
	if own == nil || own.Reason == configrepo.ReasonBehind && r.accepts(own.Commit) { // Behind and not accepted: it lacks what ran here or in the fleet
		return status.Awaited{}, false
	}
	return status.Awaited{Done: true, Code: waitRefused, State: "Refused", Message: own.Sentence + "; " + still, Group: g}, true
}

// takenElsewhere says, for all that another host's report carries, whether its set has taken up what the newest commit asks of a group: the spec and the members.
func takenElsewhere(told status.Group, g desired.Group) bool {
	if told.State == stateUnknown { // its own reason says more
		return true
	}
	hosts, members := []string{}, []string{}
	for _, h := range told.Hosts {
		hosts = append(hosts, h.Name)
	}
	for _, m := range g.Members {
		members = append(members, string(m))
	}
	slices.Sort(hosts)
	slices.Sort(members)
	return told.Desired.SpecHash == g.SpecHash && slices.Equal(hosts, members)
}

// unusableHere says whether the files of a group are wrong in the commit in effect, so that nothing of it can be deployed.
func unusableHere(w *world, g status.Group) (string, bool) {
	if !slices.Contains(w.State.Broken.Groups, g.Group) && !slices.Contains(w.State.Broken.IDs, desired.GroupID(g.ID)) {
		return "", false
	}
	for _, p := range w.Problems {
		if !p.Warning && strings.HasPrefix(p.File, g.Group+"/") {
			return fmt.Sprintf("the group's files in commit %s cannot be used: %s", w.Commit.Short(), p), true
		}
	}
	return fmt.Sprintf("the group's files in commit %s cannot be used; `gitopsd status` lists the problems", w.Commit.Short()), true
}

// awaitCommit says whether the commit is verified here; otherwise it says what of it.
func (r *reader) awaitCommit(commit string) (bool, status.Awaited) {
	w := r.source.current()
	if why, refused := r.refusalOf(commit); refused && commit != "" {
		return false, status.Awaited{Done: true, Code: waitRefused, State: "Refused", Message: why}
	}
	if w == nil {
		return false, status.Awaited{State: "Waiting", Message: r.withHearsay("this host has no verified commit yet", commit)}
	}
	if commit == "" {
		return true, status.Awaited{}
	}
	if w.Held != "" && r.source.knows(commit) {
		if here, err := r.repo().IsAncestor(commit, w.Commit.ID); err == nil && !here {
			return false, status.Awaited{Done: true, Code: waitRolledBack, State: rollout.StateHeldBack, Message: w.Held}
		}
	}
	if here, err := r.repo().IsAncestor(commit, w.Commit.ID); err != nil || !here {
		return false, status.Awaited{State: "Waiting", Message: r.withHearsay(fmt.Sprintf("commit %.10s is not verified here yet; this host is at %s", commit, w.Commit.Short()), commit)}
	}
	return true, status.Awaited{}
}

// outcomeOf judges a group's state.
func outcomeOf(g status.Group) status.Awaited {
	a := status.Awaited{State: g.State, Message: g.Why, Group: g, Done: true}
	switch g.State {
	case rollout.StateSucceeded:
		return joined(a)
	case rollout.StateFailed, rollout.StateBlocked, rollout.StateFrozen, rollout.StateNoHosts:
		a.Code = waitFailed
	case rollout.StateHeldBack:
		a.Code = waitRolledBack
	case rollout.StateStopped, rollout.StatePaused, rollout.StateSuspended, rollout.StateOrphaned:
		a.Code = waitStopped
	case status.StateInvalidConfig:
		a.Code = waitRefused
	default:
		a.Done = false
	}
	return a
}

// joined judges a group that runs what is desired: not all of it does while hosts that joined are still to get it.
func joined(a status.Awaited) status.Awaited {
	a.Code = waitSucceeded
	switch g := a.Group; {
	case len(g.JoinFailed) > 0:
		a.Code, a.State = waitFailed, rollout.StateFailed
		a.Message = fmt.Sprintf("what the group runs could not be brought to %s: %s", several(g.JoinFailed), g.Why)
	case len(g.Joining) > 0:
		a.Done, a.State = false, "Waiting"
		a.Message = fmt.Sprintf("what the group runs is still to be brought to %s: %s", several(g.Joining), g.Why)
	}
	return a
}

// several names the first few of hosts.
func several(hosts []string) string {
	const most = 3
	if len(hosts) <= most {
		return strings.Join(hosts, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(hosts[:most], ", "), len(hosts)-most)
}
