package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Retention bounds what is kept of a group beyond what is needed; zero means no
// bound. The number of revisions is Deployment.MaxRevisions. What runs, the last
// good release, the one unpacked last and those of deployments that have not
// ended stay, whatever the bounds, and so does their output.
type Retention struct {
	ReleaseAge   time.Duration // since a release was unpacked
	ReleaseBytes int64         // of the files of all releases of a group
	LogAge       time.Duration // of hooks' output, since its deployment began
	LogBytes     int64         // of all hooks' output of a group; 0 means 64 MiB, negative no bound
}

// logBytesKept is Retention.LogBytes if nothing is said: that of a dozen
// deployments whose every hook fills its log.
const logBytesKept = 64 << 20

// deploymentsKept is how many ended deployments keep their journal and output
// beyond those whose release is kept.
const deploymentsKept = 10

// retain removes old releases of a group so that at most max revisions stay and
// the bounds of Retention hold, the journals of deployments that have no release
// any more, and old output. Where there are more releases than max, because a
// revision was deployed several times, its older ones go first, so that they
// displace no other revision. The release that is about to be used stays. The
// caller holds the group's lock.
func (a *Applier) retain(groupID string, max int, used Key) error {
	infos, err := a.releases(groupID)
	if err != nil {
		return err
	}
	keep, err := a.kept(groupID)
	if err != nil {
		return err
	}
	keep[used] = true
	if err := a.discardDamaged(groupID, keep); err != nil {
		return err
	}
	bound := a.opts.Retention()
	p := pile{bytesMax: bound.ReleaseBytes, revisions: map[string]int{}}
	for _, info := range infos {
		p.releases++
		p.revisions[info.revision()]++
		p.bytes += info.SizeBytes
	}
	spare := a.spared(infos, keep)
	discard := func(info *releaseInfo) error {
		p.releases--
		p.bytes -= info.SizeBytes
		if p.revisions[info.revision()]--; p.revisions[info.revision()] == 0 {
			delete(p.revisions, info.revision())
		}
		return a.discard(a.releaseDir(info.Key))
	}
	var left []*releaseInfo
	for _, info := range slices.Backward(infos) {
		if spare[info.Key] || p.releases <= max && !p.tooLarge() {
			left = append(left, info)
		} else if err := discard(info); err != nil {
			return err
		}
	}
	needed := map[string]bool{}
	for _, info := range left {
		needed[info.revision()] = needed[info.revision()] || keep[info.Key]
	}
	for _, info := range oldestRevisionFirst(left) {
		tooMany := len(p.revisions) > max && !needed[info.revision()]
		if keep[info.Key] || !tooMany && !p.tooLarge() && !tooOld(info.Created, bound.ReleaseAge) {
			continue
		}
		if err := discard(info); err != nil {
			return err
		}
	}
	if err := a.retainJournals(groupID, keep); err != nil {
		return err
	}
	return a.retainOutput(groupID, keep, bound)
}

// discardDamaged removes releases whose record is damaged or gone: they would be in
// no list, and so never go. What merely could not be read stays.
func (a *Applier) discardDamaged(groupID string, keep map[Key]bool) error {
	keys, err := a.releaseKeys(groupID)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := a.release(k); keep[k] || err == nil || !errors.Is(err, errDamaged) && !missing(err) {
			continue
		}
		if err := a.discard(a.releaseDir(k)); err != nil {
			return err
		}
	}
	return nil
}

// pile counts the releases of a group while some are removed.
type pile struct {
	bytesMax  int64
	releases  int
	bytes     int64
	revisions map[string]int // releases of each
}

func (p *pile) tooLarge() bool { return p.bytesMax > 0 && p.bytes > p.bytesMax }

// revision names what a release is of: its spec. One that comes from no config
// repository is a revision of its own, as CodeDeploy's agent counts deployments.
func (r *releaseInfo) revision() string {
	if r.SpecHash == "" {
		return "deployment " + r.Key.name()
	}
	return "spec " + r.SpecHash
}

// spared lists the releases that are no repetitions of others: of each revision
// the newest that ran well, and the newest of all if none did or if no deployment
// has used it yet; and what is to be kept anyway. The releases come newest first.
func (a *Applier) spared(infos []*releaseInfo, keep map[Key]bool) map[Key]bool {
	spare, well, seen := maps.Clone(keep), map[string]bool{}, map[string]bool{}
	for _, info := range infos {
		if info.WasGood && !well[info.revision()] {
			well[info.revision()], spare[info.Key] = true, true
		}
	}
	for _, info := range infos {
		newest := !seen[info.revision()]
		seen[info.revision()] = true
		if newest && (!well[info.revision()] || !exists(a.deploymentDir(info.Key))) {
			spare[info.Key] = true
		}
	}
	return spare
}

// oldestRevisionFirst sorts releases, which come oldest first, by the newest of
// their revision.
func oldestRevisionFirst(infos []*releaseInfo) []*releaseInfo {
	newest := map[string]int{}
	for i, info := range infos {
		newest[info.revision()] = i
	}
	sorted := slices.Clone(infos)
	slices.SortStableFunc(sorted, func(x, y *releaseInfo) int { return newest[x.revision()] - newest[y.revision()] })
	return sorted
}

// tooOld tells whether something is older than a bound; 0 is none.
func tooOld(since time.Time, bound time.Duration) bool {
	return bound > 0 && time.Since(since) > bound
}

// kept lists the deployments of a group whose releases must stay.
func (a *Applier) kept(groupID string) (map[Key]bool, error) {
	keep := map[Key]bool{}
	for _, file := range []string{goodFile, recentFile} {
		key, err := a.pointedKey(groupID, file) // the release's own record may be damaged
		if err != nil {
			return nil, err
		}
		keep[key] = true
	}
	installed, err := a.installed(groupID)
	if err != nil {
		return nil, err
	}
	keep[installed.Release] = true
	keys, err := a.deployments(groupID)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if !a.ended(k) {
			keep[k] = true
		}
	}
	return keep, nil
}

func (a *Applier) retainJournals(groupID string, keep map[Key]bool) error {
	keys, err := a.deployments(groupID)
	if err != nil {
		return err
	}
	extra := 0
	for _, k := range keys {
		if _, err := os.Stat(a.releaseDir(k)); keep[k] || err == nil {
			continue
		}
		if extra++; extra > deploymentsKept {
			if err := a.discard(a.deploymentDir(k)); err != nil {
				return err
			}
		}
	}
	return nil
}

// retainOutput removes the output of the hooks of ended deployments that is too
// old, and the oldest beyond the bound in bytes.
func (a *Applier) retainOutput(groupID string, keep map[Key]bool, bound Retention) error {
	if bound.LogBytes == 0 {
		bound.LogBytes = logBytesKept
	}
	list, err := a.sequence(groupID)
	if err != nil {
		return err
	}
	var bytes int64
	for _, p := range list { // newest first
		dir := filepath.Join(a.deploymentDir(p.key), "hooks")
		size := sizeOf(dir)
		bytes += size
		tooMuch := bound.LogBytes > 0 && bytes > bound.LogBytes
		if size == 0 || keep[p.key] || !tooMuch && !tooOld(p.at, bound.LogAge) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cannot remove old output: %w", err)
		}
		bytes -= size
	}
	return nil
}

// sizeOf returns the bytes of the files below a directory.
func sizeOf(dir string) (bytes int64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}

// discard removes a directory so that a crash leaves it whole or as trash.
func (a *Applier) discard(dir string) error {
	trash := filepath.Join(filepath.Dir(dir), trashPrefix+filepath.Base(dir))
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("cannot remove: %w", err)
	}
	if err := a.opts.Disk.Rename(dir, trash); err != nil {
		return err
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("cannot remove: %w", err)
	}
	return nil
}

// sweep removes what a crash left half made or half removed in a group. The
// caller holds the group's lock.
func (a *Applier) sweep(groupID string) {
	for _, dir := range []string{a.releasesDir(groupID), a.deploymentsDir(groupID)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), makingPrefix) || strings.HasPrefix(e.Name(), trashPrefix) {
				os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	}
}
