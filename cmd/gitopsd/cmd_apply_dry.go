package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/apply"
)

// stateFileMax bounds one file that a dry run copies, as the applier bounds what it reads.
const stateFileMax = 16 << 30

// dryRun checks a deployment without a trace: a copy of the state's small files, with links to the releases, stands for the state directory,
// and the bundle is unpacked beside it. Both are gone afterwards.
func (f *applyFlags) dryRun(ctx context.Context, d apply.Deployment) (report apply.PreflightReport, err error) {
	state, err := filepath.Abs(f.stateDir)
	if err != nil {
		return report, fmt.Errorf("cannot find state directory %s: %w", f.stateDir, err)
	}
	scratch, err := os.MkdirTemp("", "gitopsd-dry-run-")
	if err != nil {
		return report, fmt.Errorf("cannot unpack the bundle for a dry run: %w", err)
	}
	defer func() {
		if removeErr := os.RemoveAll(scratch); err == nil && removeErr != nil {
			err = fmt.Errorf("cannot clear up after the dry run: %w", removeErr)
		}
	}()
	if err := mirrorState(state, scratch, d.GroupID); err != nil {
		return report, fmt.Errorf("cannot read the state directory: %w", err)
	}
	a, err := apply.New(apply.Options{StateDir: scratch, DestinationRoot: f.destinationRoot, Supervisor: []string{"unused"}})
	if err != nil {
		return report, err
	}
	if report, err = a.Preflight(ctx, d); err != nil {
		return report, err
	}
	for _, texts := range [][]string{report.Problems, report.Warnings} {
		for i := range texts {
			texts[i] = strings.ReplaceAll(texts[i], scratch, state)
		}
	}
	if report.Refusal != nil {
		report.Refusal.Message = strings.ReplaceAll(report.Refusal.Message, scratch, state)
	}
	return report, nil
}

// mirrorState copies what a preflight reads: of every group what it has in place, of the group at hand its releases too.
func mirrorState(state, scratch, groupID string) error {
	if err := copyState(state, scratch, "version"); err != nil {
		return err
	}
	groups, err := os.ReadDir(filepath.Join(state, "groups"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, g := range groups {
		if !g.IsDir() {
			continue
		}
		if err := copyState(state, scratch, filepath.Join("groups", g.Name(), "installed.json"), filepath.Join("groups", g.Name(), "claim.json")); err != nil {
			return err
		}
	}
	if groupID == "" || groupID == ".." || filepath.Base(groupID) != groupID {
		return nil // refused when it is used
	}
	group := filepath.Join("groups", groupID)
	if err := copyState(state, scratch, filepath.Join(group, "good.json"), filepath.Join(group, "recent.json")); err != nil {
		return err
	}
	releases, err := os.ReadDir(filepath.Join(state, group, "releases"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, r := range releases {
		dir := filepath.Join(group, "releases", r.Name())
		if !r.IsDir() || strings.HasPrefix(r.Name(), ".") {
			continue
		}
		if err := copyState(state, scratch, filepath.Join(dir, "release.json"), filepath.Join(dir, "files.json")); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(state, dir, "archive"), filepath.Join(scratch, dir, "archive")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// copyState copies files of the state; one that is missing stays missing.
func copyState(state, scratch string, names ...string) error {
	for _, name := range names {
		if err := copyStateFile(filepath.Join(state, name), filepath.Join(scratch, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyStateFile(name, to string) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(from, stateFileMax+1))
	if err == nil && n > stateFileMax {
		err = fmt.Errorf("%s has more than %d bytes", name, int64(stateFileMax))
	}
	return errors.Join(err, f.Close())
}

// permissionHint adds to a lack of permission what the user uid can do about it.
func (f *applyFlags) permissionHint(err error, uid int) error {
	if err == nil || !errors.Is(err, fs.ErrPermission) || uid == 0 {
		return err
	}
	return fmt.Errorf("%w; %s", err, f.withPermission())
}

// withPermission says how a deployment gets what it may not do.
func (f *applyFlags) withPermission() string {
	return fmt.Sprintf("run it as root, or name directories of your own with --state-dir and --destination-root (now %s and %s)", f.stateDir, f.destinationRoot)
}
