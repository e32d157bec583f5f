package apply

import (
	"fmt"
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
	state, err := (&Applier{opts: Options{StateDir: dir}}).installed(groupID)
	return state.Entries, err
}
