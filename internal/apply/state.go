package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// The state directory:
//
//	version                                    its format
//	locks/                                     flocks: one an application, one a group, one for the host
//	groups/GROUP/installed.json                what the group has in place on this host
//	groups/GROUP/claim.json                    the plan that is being carried out
//	groups/GROUP/good.json, recent.json        the last good release, the one unpacked last
//	groups/GROUP/releases/ID.ATTEMPT/          release.json, files.json, archive/
//	groups/GROUP/deployments/ID.ATTEMPT/       deployment.json, journal, plan.json, hooks/EVENT/;
//	                                           journal.damaged-N was set aside
const stateVersion = 2

// Bounds of what is read back from the state directory, in bytes.
const (
	stateFileMax = 256 << 20
	recordMax    = 1 << 20
)

// Directories are traversable but not listable by others: hooks that run as
// another user must reach their scripts.
const (
	passDir    = 0o711
	privateDir = 0o700
)

func (a *Applier) prepareState() error {
	for _, dir := range []string{a.opts.StateDir, a.groupsDir()} {
		if err := a.opts.Disk.MkdirAll(dir, passDir); err != nil {
			return fmt.Errorf("cannot prepare state directory: %w", err)
		}
	}
	if err := a.opts.Disk.MkdirAll(filepath.Join(a.opts.StateDir, "locks"), privateDir); err != nil {
		return fmt.Errorf("cannot prepare state directory: %w", err)
	}
	file := filepath.Join(a.opts.StateDir, "version")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a.opts.Disk.WriteFile(file, fmt.Appendf(nil, "gitopsd apply %d\n", stateVersion), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot read the state directory's version: %w", err)
	}
	var version int
	if _, err := fmt.Sscanf(string(data), "gitopsd apply %d\n", &version); err != nil || version != stateVersion {
		return fmt.Errorf("cannot use state directory %s: %s says %.60q, this gitopsd knows version %d", a.opts.StateDir, file, data, stateVersion)
	}
	return nil
}

func (a *Applier) groupsDir() string { return filepath.Join(a.opts.StateDir, "groups") }

func (a *Applier) groupDir(groupID string) string { return filepath.Join(a.groupsDir(), groupID) }

func (a *Applier) deploymentsDir(groupID string) string {
	return filepath.Join(a.groupDir(groupID), "deployments")
}

func (a *Applier) releasesDir(groupID string) string {
	return filepath.Join(a.groupDir(groupID), "releases")
}

// name is the key as a directory name within its group.
func (k Key) name() string { return fmt.Sprintf("%s.%d", k.DeploymentID, k.Attempt) }

func (a *Applier) deploymentDir(k Key) string {
	return filepath.Join(a.deploymentsDir(k.GroupID), k.name())
}

func (a *Applier) releaseDir(k Key) string {
	return filepath.Join(a.releasesDir(k.GroupID), k.name())
}

func (a *Applier) archiveDir(k Key) string { return filepath.Join(a.releaseDir(k), "archive") }

// groupIDs lists the groups that ever deployed here.
func (a *Applier) groupIDs() ([]string, error) {
	entries, err := os.ReadDir(a.groupsDir())
	if err != nil {
		return nil, fmt.Errorf("cannot list groups: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && fileName(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// writeState writes v as JSON.
func (a *Applier) writeState(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("internal error: cannot encode %s: %w", path, err)
	}
	return a.opts.Disk.WriteFile(path, append(data, '\n'), 0o600)
}

// readState reads what writeState wrote; fs.ErrNotExist if it is not there.
func readState(path string, v any) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot read state: %w", err)
	}
	if info.Size() > stateFileMax {
		return fmt.Errorf("cannot read %s: its %d bytes are more than %d", path, info.Size(), stateFileMax)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read state: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %w: %w", path, errDamaged, err)
	}
	return nil
}

// errDamaged tells that a state file is there and makes no sense.
var errDamaged = errors.New("it is damaged")

// installedState is groups/GROUP/installed.json.
type installedState struct {
	installedHeader
	Entries []plan.Entry
}

// installedHeader is its first line; an entry a line follows.
type installedHeader struct {
	Version     int    `json:"version"`
	Application string `json:"application"`
	Release     Key    `json:"release"`
	Entries     int    `json:"entries"` // how many follow
}

func (a *Applier) installedFile(groupID string) string {
	return filepath.Join(a.groupDir(groupID), "installed.json")
}

// installed returns what a group has in place, nothing if it never installed.
func (a *Applier) installed(groupID string) (installedState, error) {
	s := installedState{installedHeader: installedHeader{Version: stateVersion}}
	err := readRecords(a.installedFile(groupID), stateVersion, &s.installedHeader, func(e plan.Entry) {
		if s.Entries == nil {
			s.Entries = make([]plan.Entry, 0, ahead(s.installedHeader.Entries))
		}
		s.Entries = append(s.Entries, verbatimEntry(e))
	})
	switch {
	case missing(err):
		return s, nil
	case errors.Is(err, errDamaged):
		return a.lastInstalled(groupID, err)
	}
	return s, err
}

// ahead is for how many records room is made on a header's word alone.
func ahead(promised int) int { return min(max(promised, 0), 1<<20) }

// installedHead returns all but the entries.
func (a *Applier) installedHead(groupID string) (installedHeader, error) {
	h := installedHeader{Version: stateVersion}
	err := readHeader(a.installedFile(groupID), stateVersion, &h)
	switch {
	case missing(err):
		return h, nil
	case errors.Is(err, errDamaged):
		s, err := a.lastInstalled(groupID, err)
		return s.installedHeader, err
	}
	return h, err
}

// writeInstalled records what a group has in place.
func (a *Applier) writeInstalled(groupID string, s installedState) error {
	s.installedHeader.Version, s.installedHeader.Entries = stateVersion, len(s.Entries)
	return a.writeRecords(a.installedFile(groupID), s.installedHeader, func(w *recordWriter) error {
		for _, e := range s.Entries {
			e.Source = ""
			if err := w.put(plainEntry(e)); err != nil {
				return err
			}
		}
		return nil
	})
}

// pointer names a release of a group: good.json and recent.json.
type pointer struct {
	Version int `json:"version"`
	Key     Key `json:"key"`
}

const (
	goodFile   = "good.json"
	recentFile = "recent.json"
)

// pointed returns the release a group's pointer names, if it is still there.
func (a *Applier) pointed(groupID, file string) (*releaseInfo, error) {
	key, err := a.pointedKey(groupID, file)
	if err != nil || key == (Key{}) {
		return nil, err
	}
	info, err := a.release(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return info, err
}

// pointedKey names the release that pointed reads; the zero Key if there is none.
func (a *Applier) pointedKey(groupID, file string) (Key, error) {
	var p pointer
	err := readState(filepath.Join(a.groupDir(groupID), file), &p)
	if errors.Is(err, fs.ErrNotExist) {
		return Key{}, nil
	}
	return p.Key, err
}

func (a *Applier) point(file string, k Key) error {
	return a.writeState(filepath.Join(a.groupDir(k.GroupID), file), pointer{Version: stateVersion, Key: k})
}

// lockRetry is the pause between two tries for a lock somebody else holds.
const lockRetry = 20 * time.Millisecond

// lockGrace is how long a lock that is taken is tried for without wait: a
// process that is just being started holds a copy of one that was given back,
// until it becomes its program.
const lockGrace = 500 * time.Millisecond

// lock takes a lock of the state directory. Without wait it returns
// durable.ErrLocked when somebody has it.
func (a *Applier) lock(ctx context.Context, name string, wait bool) (func(), error) {
	sum := sha256.Sum256([]byte(name))
	kind, _, _ := strings.Cut(name, ":")
	path := filepath.Join(a.opts.StateDir, "locks", kind+"-"+hex.EncodeToString(sum[:8]))
	for since := time.Now(); ; {
		unlock, err := durable.Lock(path)
		if err == nil || !errors.Is(err, durable.ErrLocked) || !wait && time.Since(since) > lockGrace {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w while waiting for the lock %s: %w", ErrInterrupted, path, ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}
