package configrepo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/durable"
)

const ratchetVersion = 1

// ratchet is what must survive everything else in Dir: the newest commit this
// host accepted. Nothing but a descendant of it is ever accepted again.
type ratchet struct {
	Version      int    `json:"version"`
	Introduction string `json:"introduction"`
	Accepted     Commit `json:"accepted"`
}

func ratchetPath(dir string) string { return filepath.Join(dir, "ratchet.json") }

// loadRatchet gives the accepted commit, or nil on a new host. A damaged file
// is an error: guessing would reopen old commits.
func loadRatchet(dir, introduction string) (*Commit, error) {
	path := ratchetPath(dir)
	data, err := readBounded(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the ratchet: %w", err)
	}
	var r ratchet
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("cannot read the ratchet %s: %w; remove it only if the data directory has its effective-commit, or older commits may return (docs/how-to/restore-a-host.md)", path, err)
	}
	if r.Version != ratchetVersion {
		return nil, fmt.Errorf("cannot read the ratchet %s: it has version %d, this gitopsd knows %d", path, r.Version, ratchetVersion)
	}
	if _, err := parseID(r.Accepted.ID); err != nil {
		return nil, fmt.Errorf("cannot read the ratchet %s: %w", path, err)
	}
	if r.Introduction != introduction {
		return nil, &OptionsError{fmt.Errorf("the ratchet %s belongs to the introduction %s, but %s is pinned now: after moving to another repository, remove %s", path, r.Introduction, introduction, dir)}
	}
	return &r.Accepted, nil
}

// saveRatchet moves it; the objects it stands on were synced before.
func saveRatchet(dir, introduction string, c Commit) error {
	data, err := json.MarshalIndent(ratchet{Version: ratchetVersion, Introduction: introduction, Accepted: c}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(ratchetPath(dir), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot move the ratchet to %s: %w", c.ID, err)
	}
	return nil
}
