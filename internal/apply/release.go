package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// releaseInfo is release.json: an unpacked revision.
type releaseInfo struct {
	Version     int           `json:"version"`
	Sequence    int64         `json:"sequence"` // of the group's releases on this host, from 1; 0 before there was one
	Key         Key           `json:"key"`
	Application string        `json:"application"`
	Commit      string        `json:"commit,omitempty"`
	SpecHash    string        `json:"specHash,omitempty"`
	Digest      bundle.Digest `json:"digest,omitempty"`
	Type        bundle.Type   `json:"type"`
	Created     time.Time     `json:"created"`
	AppSpec     string        `json:"appspec"`          // name of the file used, empty if there is none
	WasGood     bool          `json:"wasGood"`          // a deployment of it succeeded
	Overlay     []string      `json:"overlay"`          // paths that came from git
	Timeless    bool          `json:"timeless"`         // the archive's times mean nothing
	SizeBytes   int64         `json:"sizeBytes"`        // of all files
	Reused      *Key          `json:"reused,omitempty"` // the release it was taken from
	dir         string        // of the unpacked bundle
}

// Prefixes of directories that are being made or removed.
const (
	makingPrefix = ".making-"
	trashPrefix  = ".trash-"
)

// release reads one release; fs.ErrNotExist if it is not there.
func (a *Applier) release(k Key) (*releaseInfo, error) {
	var info releaseInfo
	if err := readState(filepath.Join(a.releaseDir(k), "release.json"), &info); err != nil {
		return nil, err
	}
	if info.Version != stateVersion {
		return nil, fmt.Errorf("cannot read release %s: format version %d is not known, only %d", k, info.Version, stateVersion)
	}
	if info.Key != k { // a crash while it was given to another deployment
		info.Key = k
	}
	info.dir = a.archiveDir(k)
	return &info, nil
}

func (a *Applier) writeRelease(dir string, info *releaseInfo) error {
	return a.writeState(filepath.Join(dir, "release.json"), info)
}

// bundleError marks what is wrong with the bundle itself.
type bundleError struct{ err error }

func (e *bundleError) Error() string { return e.err.Error() }
func (e *bundleError) Unwrap() error { return e.err }

// ensureRelease unpacks the deployment's bundle with its overlay, unless that
// has been done. A *bundleError tells that the bundle is at fault. The caller
// holds the group's lock.
func (a *Applier) ensureRelease(ctx context.Context, d *Deployment) (*releaseInfo, error) {
	info, err := a.release(d.Key())
	if err == nil {
		var again bool
		if again, err = a.unpacksAgain(d); err == nil && again {
			err = a.discard(a.releaseDir(d.Key()))
		}
		if err != nil || !again {
			return info, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir := a.releasesDir(d.GroupID)
	if err := a.opts.Disk.MkdirAll(dir, passDir); err != nil {
		return nil, err
	}
	if info, err := a.takePrepared(d); info != nil || err != nil {
		return info, err
	}
	making := filepath.Join(dir, makingPrefix+d.Key().name())
	if err := os.RemoveAll(making); err != nil {
		return nil, fmt.Errorf("cannot clear an unfinished release: %w", err)
	}
	if err := os.Mkdir(making, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make release directory: %w", err)
	}
	info, err = a.fillRelease(ctx, d, making)
	if err != nil {
		os.RemoveAll(making)
		return nil, err
	}
	if err := os.Chmod(making, passDir); err != nil {
		return nil, fmt.Errorf("cannot open release directory to hooks: %w", err)
	}
	if err := a.opts.Disk.SyncFS(making); err != nil {
		return nil, err
	}
	if err := a.opts.Disk.Rename(making, a.releaseDir(d.Key())); err != nil {
		return nil, err
	}
	info.dir = a.archiveDir(d.Key())
	return info, nil
}

// unpacksAgain tells whether a release that is there may be of other bytes than the
// deployment's: without a digest nothing tells, and nothing has used it.
func (a *Applier) unpacksAgain(d *Deployment) (bool, error) {
	if d.Source.Digest != "" || d.Source.Release != nil || exists(a.deploymentDir(d.Key())) {
		return false, nil
	}
	keep, err := a.kept(d.GroupID)
	return !keep[d.Key()], err
}

// takePrepared gives the deployment a release that was unpacked for the same
// spec by a Preflight under another id and that no deployment has used, nil if
// there is none.
func (a *Applier) takePrepared(d *Deployment) (*releaseInfo, error) {
	if d.SpecHash == "" || d.Source.Digest == "" {
		return nil, nil
	}
	infos, err := a.releases(d.GroupID)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		if info.SpecHash != d.SpecHash || info.Digest != d.Source.Digest || info.AppSpec == "" || exists(a.deploymentDir(info.Key)) {
			continue
		}
		from := a.releaseDir(info.Key)
		info.Key, info.Commit, info.Application, info.Created = d.Key(), d.Commit, d.ApplicationName, time.Now().UTC()
		info.Sequence = infos[0].Sequence + 1
		info.AppSpec = findAppSpec(filepath.Join(from, "archive"), d.AppSpecName)
		if err := a.writeRelease(from, info); err != nil {
			return nil, err
		}
		if err := a.opts.Disk.Rename(from, a.releaseDir(d.Key())); err != nil {
			return nil, err
		}
		info.dir = a.archiveDir(d.Key())
		return info, nil
	}
	return nil, nil
}

func (a *Applier) fillRelease(ctx context.Context, d *Deployment, making string) (*releaseInfo, error) {
	info := &releaseInfo{
		Version: stateVersion, Key: d.Key(), Application: d.ApplicationName, Commit: d.Commit, SpecHash: d.SpecHash,
		Digest: d.Source.Digest, Type: d.Source.Type, Created: time.Now().UTC(),
		Timeless: d.Source.Type == bundle.TypeTarZst || d.Source.Type == bundle.TypeDirectory,
	}
	others, err := a.releases(d.GroupID)
	if err != nil {
		return nil, err
	}
	info.Sequence = 1
	if len(others) > 0 {
		info.Sequence += others[0].Sequence
	}
	archive := filepath.Join(making, "archive")
	if err := a.unpack(ctx, d, info, archive); err != nil {
		return nil, err
	}
	for _, f := range d.Overlay {
		if err := overlay(archive, f); err != nil {
			return nil, err
		}
		info.Overlay = append(info.Overlay, filepath.ToSlash(filepath.Clean(f.Path)))
	}
	info.AppSpec = findAppSpec(archive, d.AppSpecName)
	err = a.writeRecords(filepath.Join(making, listingFile), listingHeader{stateVersion}, func(w *recordWriter) error {
		return listRelease(ctx, archive, nil, func(n listedNode) error {
			info.SizeBytes += n.Node.Size
			return w.put(n.plain())
		})
	})
	if errors.Is(err, syscall.ENAMETOOLONG) { // an archive is unpacked name by name, which allows what a whole path does not
		return nil, &bundleError{err}
	}
	if err != nil {
		return nil, err
	}
	return info, a.writeRelease(making, info)
}

// unpack brings the bundle's tree to archive.
func (a *Applier) unpack(ctx context.Context, d *Deployment, info *releaseInfo, archive string) error {
	switch {
	case d.Source.Release != nil:
		from, err := a.release(*d.Source.Release)
		if err != nil {
			return fmt.Errorf("cannot take the bundle from an earlier release: %w", err)
		}
		info.Type, info.Timeless, info.Digest, info.Reused = from.Type, from.Timeless, from.Digest, d.Source.Release
		info.Overlay = append([]string(nil), from.Overlay...)
		return cloneTree(ctx, from.dir, archive)
	case d.Source.Type == bundle.TypeDirectory:
		stat, err := os.Stat(d.Source.Path)
		if err != nil {
			return &bundleError{fmt.Errorf("cannot read bundle: %w", err)}
		}
		if !stat.IsDir() {
			return &bundleError{fmt.Errorf("cannot read bundle %s: it is not a directory", d.Source.Path)}
		}
		return copyTree(ctx, d.Source.Path, archive, a.umask)
	}
	err := store.UnpackArchive(ctx, d.Source.Path, d.Source.Type, archive, store.UnpackOptions{Digest: d.Source.Digest})
	if err != nil && !ofThisHost(err) {
		return &bundleError{err}
	}
	return err
}

// ofThisHost says whether a bundle could not be unpacked for a reason that another host need not have: it was stopped, the disk is full or has changed the archive,
// or the system refused something for another reason than the names in it.
func ofThisHost(err error) bool {
	for _, own := range []error{context.Canceled, context.DeadlineExceeded, store.ErrNoSpace, store.ErrMismatch} {
		if errors.Is(err, own) {
			return true
		}
	}
	if errors.Is(err, bundle.ErrRefused) {
		return false
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		return false
	}
	return !slices.Contains([]syscall.Errno{syscall.ENAMETOOLONG, syscall.EEXIST, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.EINVAL, syscall.EILSEQ}, number)
}

// overlay lays one file from git over the unpacked bundle.
func overlay(archive string, f OverlayFile) error {
	name := filepath.Clean(filepath.FromSlash(f.Path))
	if name == "." || !filepath.IsLocal(name) {
		return &bundleError{fmt.Errorf("cannot lay %q over the bundle: the path leads out of it", f.Path)}
	}
	root, err := os.OpenRoot(archive)
	if err != nil {
		return fmt.Errorf("cannot open release: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return &bundleError{fmt.Errorf("cannot lay %s over the bundle: %w", f.Path, err)}
	}
	if err := root.RemoveAll(name); err != nil {
		return &bundleError{fmt.Errorf("cannot lay %s over the bundle: %w", f.Path, err)}
	}
	mode := fs.FileMode(f.Mode).Perm()
	if mode == 0 {
		mode = 0o644
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return &bundleError{fmt.Errorf("cannot lay %s over the bundle: %w", f.Path, err)}
	}
	defer file.Close()
	if _, err := file.Write(f.Data); err != nil {
		return fmt.Errorf("cannot lay %s over the bundle: %w", f.Path, err)
	}
	if err := file.Chmod(mode); err != nil {
		return fmt.Errorf("cannot lay %s over the bundle: %w", f.Path, err)
	}
	return file.Close()
}

// findAppSpec returns the name of the release's appspec file, empty if it has none.
func findAppSpec(archive, name string) string {
	for _, n := range []string{name, "appspec.yaml", "appspec.yml"} {
		if !filepath.IsLocal(n) {
			continue
		}
		if info, err := os.Stat(filepath.Join(archive, n)); err == nil && info.Mode().IsRegular() {
			return n
		}
	}
	return ""
}

// spec reads and checks the release's appspec file.
func (r *releaseInfo) spec() (*appspec.Spec, []appspec.Warning, error) {
	if r.AppSpec == "" {
		return nil, nil, &bundleError{fmt.Errorf("the CodeDeploy agent did not find an AppSpec file within the unpacked revision directory at revision-relative path \"appspec.yml\". The revision was unpacked to directory %q", r.dir)}
	}
	path := filepath.Join(r.dir, r.AppSpec)
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read AppSpec file: %w", err)
	}
	if info.Size() > appspec.MaxSourceBytes {
		return nil, nil, &bundleError{fmt.Errorf("the AppSpec file %s has %d bytes, more than %d", r.AppSpec, info.Size(), appspec.MaxSourceBytes)}
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read AppSpec file: %w", err)
	}
	spec, warnings, err := appspec.Parse(src, appspec.Options{FileName: r.AppSpec})
	if err != nil {
		return nil, warnings, &bundleError{err}
	}
	return spec, warnings, nil
}

// Releases lists a group's releases on this host, newest first.
func (a *Applier) Releases(groupID string) ([]Release, error) {
	infos, err := a.releases(groupID)
	if err != nil {
		return nil, err
	}
	good, err := a.pointedKey(groupID, goodFile) // the record of that release may be damaged
	if err != nil {
		return nil, err
	}
	installed, err := a.installedHead(groupID)
	if err != nil {
		return nil, err
	}
	out := make([]Release, 0, len(infos))
	for _, i := range infos {
		out = append(out, Release{
			GroupID: groupID, ApplicationName: i.Application, DeploymentID: i.Key.DeploymentID, Attempt: i.Key.Attempt,
			Commit: i.Commit, SpecHash: i.SpecHash, Digest: i.Digest, Created: i.Created, Dir: i.dir,
			WasGood: i.WasGood, Deployed: exists(a.deploymentDir(i.Key)), Good: good == i.Key, Installed: installed.Release == i.Key,
		})
	}
	return out, nil
}

// Unpacked says whether a deployment's release is there, be its record readable just
// now or not; also where that cannot be told.
func (a *Applier) Unpacked(groupID, deploymentID string) bool {
	keys, err := a.releaseKeys(groupID)
	return err != nil || slices.ContainsFunc(keys, func(k Key) bool { return k.DeploymentID == deploymentID })
}

// releaseKeys lists the releases that lie there, read by nobody yet.
func (a *Applier) releaseKeys(groupID string) (keys []Key, err error) {
	if !fileName(groupID) {
		return nil, fmt.Errorf("cannot list releases: %q is no group id", groupID)
	}
	entries, err := os.ReadDir(a.releasesDir(groupID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list releases: %w", err)
	}
	for _, e := range entries {
		if k, ok := parseName(groupID, e.Name()); ok {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// releases lists what is unpacked for a group, newest first. Releases that
// cannot be read are left out and logged.
func (a *Applier) releases(groupID string) ([]*releaseInfo, error) {
	keys, err := a.releaseKeys(groupID)
	if err != nil {
		return nil, err
	}
	var out []*releaseInfo
	for _, k := range keys {
		info, err := a.release(k)
		if err != nil {
			a.log.Warn("cannot read a release", "group", groupID, "release", k.name(), "error", err)
			continue
		}
		out = append(out, info)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Sequence != out[j].Sequence {
			return out[i].Sequence > out[j].Sequence
		}
		if !out[i].Created.Equal(out[j].Created) {
			return out[i].Created.After(out[j].Created)
		}
		return out[i].Key.name() > out[j].Key.name()
	})
	return out, nil
}

// parseName reads a directory name made by Key.name.
func parseName(groupID, name string) (Key, bool) {
	dot := strings.LastIndexByte(name, '.')
	k := Key{GroupID: groupID}
	if dot <= 0 {
		return k, false
	}
	if _, err := fmt.Sscanf(name[dot+1:], "%d", &k.Attempt); err != nil {
		return k, false
	}
	k.DeploymentID = name[:dot]
	return k, k.name() == name && fileName(k.DeploymentID)
}

// MarkGood makes the release of a deployment the group's last good one.
func (a *Applier) MarkGood(k Key) error {
	info, err := a.release(k)
	if err != nil {
		return fmt.Errorf("cannot mark release %s good: %w: %w", k, ErrUnknown, err)
	}
	if !info.WasGood {
		info.WasGood = true
		if err := a.writeRelease(a.releaseDir(k), info); err != nil {
			return err
		}
	}
	return a.point(goodFile, k)
}
