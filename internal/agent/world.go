package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// Bounds of the file that keeps the world over restarts.
const (
	effectiveVersion = 1
	effectiveMax     = 64 << 10 // bytes
	keptMax          = 16       // commits that a world may be pieced together from
)

// world is what one accepted commit says. It is never changed after it was published.
type world struct {
	Commit   configrepo.Commit
	State    *desired.State
	Problems []desired.Problem
	Held     string // why the newest commit does not take effect and this one still does, or ""
	HeldID   string // that commit
	Forked   string // why no forward change may start: two histories exist; or ""

	kept []string // earlier commits, oldest first, from which broken files were kept
}

// group finds a group by id in a world that may be nil.
func (w *world) group(id string) (desired.Group, bool) {
	if w == nil {
		return desired.Group{}, false
	}
	return w.State.Group(desired.GroupID(id))
}

// readState loads the tree of one commit.
func readState(repo *configrepo.Repo, commit string) (*desired.State, []desired.Problem, error) {
	tree, err := repo.Tree(commit)
	if err != nil {
		return nil, nil, err
	}
	defer tree.Close()
	state, problems := desired.Load(tree)
	if state == nil {
		return nil, nil, fmt.Errorf("cannot read commit %.10s: it has %d problems", commit, len(problems))
	}
	return state, problems, nil
}

// effectiveDoc is the file that keeps which commit is in effect, so that a held commit stays held and what is broken stays kept over a restart.
type effectiveDoc struct {
	Version      int      `json:"version"`
	Introduction string   `json:"introduction"` // of the repository that the commits belong to
	Commit       string   `json:"commit"`
	Kept         []string `json:"kept,omitempty"`
}

// writeEffective notes the world in effect.
func writeEffective(file, introduction string, w *world) error {
	data, err := json.Marshal(effectiveDoc{Version: effectiveVersion, Introduction: introduction, Commit: w.Commit.ID, Kept: w.kept})
	if err != nil {
		return fmt.Errorf("internal error: cannot encode the commit in effect: %w", err)
	}
	if err := durable.WriteFile(file, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot note the commit in effect: %w", err)
	}
	return nil
}

// readEffective reads what writeEffective wrote; an empty document when there is none, or when it is of another repository. Errors say what to do: without
// the file a held commit takes effect, so that nobody but a person may remove it.
func readEffective(file, introduction string) (effectiveDoc, error) {
	var doc effectiveDoc
	data, err := readMost(file, effectiveMax)
	if errors.Is(err, fs.ErrNotExist) {
		return doc, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &doc)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return effectiveDoc{}, fmt.Errorf("cannot read which commit is in effect: %w; let the agent's user read it", err)
	case err != nil:
		return effectiveDoc{}, unreadableEffective(file, err.Error())
	case doc.Version > effectiveVersion:
		return effectiveDoc{}, fmt.Errorf("cannot read which commit is in effect from %s: it has version %d, this gitopsd knows %d; run the gitopsd that wrote it, or a newer one", file, doc.Version, effectiveVersion)
	case doc.Version != effectiveVersion:
		return effectiveDoc{}, unreadableEffective(file, fmt.Sprintf("it has version %d, not %d", doc.Version, effectiveVersion))
	case doc.Introduction != introduction:
		return effectiveDoc{}, nil
	}
	for _, id := range append([]string{doc.Commit}, doc.Kept...) {
		if !commitPattern.MatchString(id) {
			return effectiveDoc{}, unreadableEffective(file, fmt.Sprintf("%.60q is not a commit", id))
		}
	}
	return doc, nil
}

// unreadableEffective says what to do about a file that is damaged.
func unreadableEffective(file, why string) error {
	return fmt.Errorf("cannot read which commit is in effect from %s: %s; if git/ beside it is whole, stop the agent, remove the file and start it again: "+
		"the newest commit accepted here is then in effect, even one that was held", file, why)
}

// restore pieces the world that was in effect together again; nil when there was none, or when this host's mirror no longer has it.
func (d effectiveDoc) restore(repo *configrepo.Repo) (*world, error) {
	if d.Commit == "" {
		return nil, nil
	}
	commit, err := repo.Commit(d.Commit)
	var missing *configrepo.NotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var state *desired.State
	for _, id := range append(d.Kept[:len(d.Kept):len(d.Kept)], d.Commit) {
		next, _, err := readState(repo, id)
		if err != nil {
			return nil, err
		}
		state = desired.Keep(state, next)
	}
	return &world{Commit: commit, State: state, kept: d.Kept}, nil
}

// follow makes the world of a commit that comes after old, which may be nil: what is merely broken is kept, and a mass removal is held.
func (w *world) follow(old *world) *world {
	if old == nil {
		return w
	}
	if old.Commit.ID == w.Commit.ID {
		w.State, w.kept = old.State, old.kept
		return w
	}
	kept := desired.Keep(old.State, w.State)
	if held := heldRemoval(old, w); held != "" {
		return &world{Commit: old.Commit, State: old.State, kept: old.kept, Problems: w.Problems, Held: held, HeldID: w.Commit.ID}
	}
	if kept != w.State {
		w.kept = append(old.kept[:len(old.kept):len(old.kept)], old.Commit.ID)
		if len(w.kept) > keptMax { // the oldest knows most of what was broken first
			w.kept = append(w.kept[:1:1], w.kept[2:]...)
		}
		w.State = kept
	}
	return w
}

// heldRemoval says why a commit that removes much is held, or "". A later commit allows it by naming either the commit in effect or its own parent.
func heldRemoval(old, next *world) string {
	removal := desired.Removed(old.State, next.State)
	for _, parent := range append([]string{old.Commit.ID}, next.Commit.Parents...) {
		if removal.Allowed(next.State, parent) {
			return ""
		}
	}
	return fmt.Sprintf("commit %s is held: %s; if that is meant, commit `allowMassRemoval: %s` in fleet.yaml", next.Commit.Short(), removal.Reason, old.Commit.ID)
}
