package agent

import (
	"errors"
	"fmt"
	"sync"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// commitsCached bounds the states of older commits kept in memory: a rollout asks for its target's and its last good release's.
const commitsCached = 6

// verifier answers for this host's own copy of git: what a commit of the accepted history says of a group.
type verifier struct {
	repo  func() *configrepo.Repo
	world func() *world

	mu     sync.Mutex
	states map[string]*desired.State
	order  []string
}

// errCommitMissing says that a commit is not in the accepted history yet.
type errCommitMissing struct{ commit string }

func (e errCommitMissing) Error() string {
	return fmt.Sprintf("commit %.10s is not in this host's verified history yet", e.commit)
}

// group returns what a commit of the accepted history says of a group.
func (v *verifier) group(id, commit string) (desired.Group, configrepo.Commit, error) {
	w := v.world()
	if w == nil {
		return desired.Group{}, configrepo.Commit{}, errCommitMissing{commit}
	}
	if commit != w.Commit.ID {
		inside, err := v.repo().IsAncestor(commit, w.Commit.ID)
		if err != nil || !inside {
			return desired.Group{}, configrepo.Commit{}, errCommitMissing{commit}
		}
	}
	about, err := v.repo().Commit(commit)
	if err != nil {
		return desired.Group{}, configrepo.Commit{}, fmt.Errorf("cannot read commit %.10s: %w", commit, err)
	}
	state, err := v.state(commit)
	if err != nil {
		return desired.Group{}, about, err
	}
	group, ok := state.Group(desired.GroupID(id))
	if !ok {
		return desired.Group{}, about, fmt.Errorf("commit %s has no group with id %s", about.Short(), id)
	}
	return group, about, nil
}

// state loads a commit's tree, keeping the last few.
func (v *verifier) state(commit string) (*desired.State, error) {
	if w := v.world(); w != nil && w.Commit.ID == commit {
		return w.State, nil
	}
	v.mu.Lock()
	state, ok := v.states[commit]
	v.mu.Unlock()
	if ok {
		return state, nil
	}
	state, _, err := readState(v.repo(), commit)
	if err != nil {
		return nil, fmt.Errorf("cannot read commit %.10s: %w", commit, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, ok := v.states[commit]; ok {
		return known, nil
	}
	if v.states == nil {
		v.states = map[string]*desired.State{}
	}
	if len(v.order) >= commitsCached {
		delete(v.states, v.order[0])
		v.order = v.order[1:]
	}
	v.states[commit] = state
	v.order = append(v.order, commit)
	return state, nil
}

// verify answers rollout's question: does this host's own git yield the spec hash at that commit, and is the commit not older than lastGood's?
func (v *verifier) verify(group string, spec rollout.Spec, lastGood string) rollout.EvVerified {
	answer := rollout.EvVerified{Group: group, Commit: spec.Commit, SpecHash: spec.SpecHash}
	g, about, err := v.group(group, spec.Commit)
	switch {
	case err != nil:
		_, answer.Wait = err.(errCommitMissing)
		answer.Reason = err.Error()
		return answer
	case g.SpecHash != spec.SpecHash:
		answer.Reason = fmt.Sprintf("commit %s yields %s here, the grant says %s", about.Short(), g.SpecHash, spec.SpecHash)
		return answer
	}
	if lastGood != "" && lastGood != spec.Commit {
		older, err := v.repo().IsAncestor(spec.Commit, lastGood)
		var foreign *configrepo.NotFoundError // of a repository this host followed before
		switch {
		case err != nil && !errors.As(err, &foreign):
			answer.Wait, answer.Reason = true, fmt.Sprintf("whether commit %s is older than %.10s, which this host ran last, cannot be told: %v", about.Short(), lastGood, err)
			return answer
		case older:
			answer.Reason = fmt.Sprintf("commit %s is older than %.10s, which this host ran last", about.Short(), lastGood)
			return answer
		}
	}
	answer.OK = true
	return answer
}
