package apply

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// Installed lists what a group has in place on this host, by the state directory alone, without writing to it; nothing if the group never
// installed there. Paths are absolute, with the destination root before them.
func Installed(stateDir, groupID string) ([]plan.Entry, error) {
	if !fileName(groupID) {
		return nil, fmt.Errorf("cannot use %q as a group's id", groupID)
	}
	dir, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot find state directory %s: %w", stateDir, err)
	}
	state, err := (&Applier{opts: Options{StateDir: dir}, log: slog.New(slog.DiscardHandler)}).installed(groupID)
	return state.Entries, err
}

// lastInstalled finds out what a damaged installed.json said: the plan of the last Install that came to its end tells it too. The next Install
// writes a new one.
func (a *Applier) lastInstalled(groupID string, damage error) (installedState, error) {
	s, err := a.installedBy(groupID)
	if err != nil {
		return s, fmt.Errorf("%w; it cannot be made anew: %w. Without the file the group counts as one that never installed here, and what it has in place as somebody's files", damage, err)
	}
	a.log.Warn("the record of what is in place is damaged; the last deployment's plan tells the same", "group", groupID, "error", damage)
	return s, nil
}

// installedBy reads what is in place from the deployment that put it there.
func (a *Applier) installedBy(groupID string) (installedState, error) {
	keys, err := a.deployments(groupID)
	if err != nil {
		return installedState{}, err
	}
	for _, k := range keys {
		st, err := a.readStory(k)
		if err == nil && st.damaged {
			err = fmt.Errorf("the journal of %s was damaged", k)
		}
		if err != nil {
			return installedState{}, err
		}
		if st.install != phaseRenamed {
			continue
		}
		d, err := a.readDeployment(k)
		if err != nil {
			return installedState{}, err
		}
		in, err := (&run{a: a, key: k, d: d, c: &checked{}}).savedInstall()
		if err != nil {
			return installedState{}, err
		}
		return installedState{installedHeader{stateVersion, d.ApplicationName, k, len(in.plan.Installed)}, in.plan.Installed}, nil
	}
	return installedState{}, fmt.Errorf("no deployment of group %s that is known here came as far", groupID)
}
