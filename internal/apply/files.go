package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// tagOf names a deployment in temporary file names.
func tagOf(k Key) string {
	sum := sha256.Sum256([]byte(k.GroupID + "/" + k.name()))
	return hex.EncodeToString(sum[:4])
}

func (d *Deployment) behavior() appspec.FileExistsBehavior { return d.FileExistsBehavior }

// claimState is claim.json: what a group is putting in place.
type claimState struct {
	Version     int          `json:"version"`
	Application string       `json:"application"`
	Release     Key          `json:"release"`
	Entries     []plan.Entry `json:"entries"`
}

func (a *Applier) claimFile(groupID string) string {
	return filepath.Join(a.groupDir(groupID), "claim.json")
}

func (a *Applier) claim(groupID string) (*claimState, error) {
	var s claimState
	err := readState(a.claimFile(groupID), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && s.Version != stateVersion {
		err = fmt.Errorf("cannot read %s: format version %d is not known, only %d", a.claimFile(groupID), s.Version, stateVersion)
	}
	if err != nil {
		return nil, err
	}
	return &s, nil
}

func (r *run) planFile() string { return filepath.Join(r.a.deploymentDir(r.key), "plan.json") }

// install carries out the Install event. A failure restores the old version; an
// interruption does too, and leaves the event to be begun again.
func (r *run) install(ctx context.Context, rep EventReport, resumed bool) (EventReport, error) {
	if !resumed {
		if err := r.begin(rep); err != nil {
			return rep, err
		}
	}
	if unfinished, err := r.unfinished(); err != nil {
		return rep, err
	} else if r.story.install == phaseRenamed {
		return r.finishInstall(rep, unfinished)
	} else if err := r.undoInstall(unfinished); err != nil {
		return rep, err
	}
	in, fault, err := r.prepareInstall(ctx)
	if err != nil {
		return rep, err
	}
	if fault != nil {
		return r.finish(rep, fault, record{})
	}
	if err := r.write(record{Install: phaseStaging}); err != nil {
		return rep, err
	}
	err = in.stage(ctx)
	if err == nil {
		if err = r.write(record{Install: phaseRenaming}); err != nil {
			return rep, err
		}
		err = in.commit()
	}
	if errors.Is(err, durable.ErrCut) {
		return rep, err
	}
	if err != nil {
		if undo := r.undoInstall(in); undo != nil {
			return rep, fmt.Errorf("cannot undo a failed Install (%w): %w", err, undo)
		}
		if errors.Is(err, ErrInterrupted) {
			return rep, err
		}
		return r.finish(rep, installFault(err.Error(), false), record{})
	}
	if err := r.write(record{Install: phaseRenamed}); err != nil {
		return rep, err
	}
	return r.finishInstall(rep, in)
}

func installFault(message string, invalid bool) *Error {
	return &Error{Event: appspec.Install, Kind: KindAgent, Code: CodeUnknown, ErrorCode: CodeName(CodeUnknown), Message: message, Invalid: invalid}
}

// unfinished reads the plan of an Install that was cut short, nil if there is
// nothing to finish or undo.
func (r *run) unfinished() (*installer, error) {
	if r.story.install == "" || r.story.install == phaseUndone {
		return nil, nil
	}
	var s savedPlan
	if err := readState(r.planFile(), &s); err != nil {
		return nil, err
	}
	if s.Version != plan.Version {
		return nil, fmt.Errorf("cannot read plan %s: format version %d is not known, only %d", r.planFile(), s.Version, plan.Version)
	}
	return r.newInstaller(&s), nil
}

func (r *run) newInstaller(s *savedPlan) *installer {
	in := &installer{a: r.a, plan: s.Plan, before: s.Before}
	if r.c.release != nil {
		in.archive = r.c.release.dir
	}
	return in
}

// prepareInstall makes the plan and makes it durable, after which the paths in
// it are ours. The host's lock keeps two plans from claiming one path.
func (r *run) prepareInstall(ctx context.Context) (*installer, *Error, error) {
	unlock, err := r.a.lock(ctx, "host", true)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := r.a.opts.Disk.MkdirAll(r.a.opts.DestinationRoot, 0o755); err != nil {
		return nil, installFault(err.Error(), false), nil
	}
	p, problems, err := r.a.makePlan(ctx, r.d, r.c, false)
	if err != nil {
		return nil, nil, err
	}
	if len(problems) > 0 {
		return nil, installFault(problems[0].Message, problems[0].Class == plan.Invalid), nil
	}
	if err := r.a.checkSpace(p); err != nil {
		return nil, installFault(err.Error(), false), nil
	}
	s := &savedPlan{Version: plan.Version, Plan: p}
	for _, c := range p.Changes {
		before, err := readAttr(c.Path)
		if err != nil {
			return nil, installFault(err.Error(), false), nil
		}
		s.Before = append(s.Before, before)
	}
	claim := claimState{Version: stateVersion, Application: r.d.ApplicationName, Release: r.key}
	for _, e := range p.Installed {
		if e.Kind != plan.Dir {
			claim.Entries = append(claim.Entries, plan.Entry{Path: e.Path, Kind: e.Kind})
		}
	}
	if err := r.a.writeState(r.a.claimFile(r.d.GroupID), claim); err != nil {
		return nil, nil, err
	}
	if err := r.a.writeState(r.planFile(), s); err != nil {
		return nil, nil, err
	}
	return r.newInstaller(s), nil, nil
}

// unclaim forgets the plan of an Install that was cut short before the journal
// named it: what it claims would be kept from other groups for good.
func (r *run) unclaim() error {
	claim, err := r.a.claim(r.d.GroupID)
	if err != nil || claim == nil || claim.Release != r.key {
		return err
	}
	return r.a.opts.Disk.Remove(r.a.claimFile(r.d.GroupID))
}

// undoInstall restores the old version and forgets the plan.
func (r *run) undoInstall(in *installer) error {
	if in == nil {
		return r.unclaim()
	}
	placed := r.story.install == phaseRenaming || r.story.install == phaseUndoing
	if placed && r.story.install != phaseUndoing {
		if err := r.write(record{Install: phaseUndoing}); err != nil {
			return err
		}
	}
	if err := in.undo(placed); err != nil {
		return err
	}
	if err := r.a.opts.Disk.Remove(r.a.claimFile(r.d.GroupID)); err != nil {
		return err
	}
	return r.write(record{Install: phaseUndone})
}

// finishInstall records what is in place now, and removes what was saved.
func (r *run) finishInstall(rep EventReport, in *installer) (EventReport, error) {
	state := installedState{Version: stateVersion, Application: r.d.ApplicationName, Release: r.key, Entries: in.plan.Installed}
	for _, group := range in.plan.Adopted {
		if err := r.disown(group); err != nil {
			return rep, err
		}
	}
	if err := r.a.writeState(r.a.installedFile(r.d.GroupID), state); err != nil {
		return rep, err
	}
	if err := r.a.opts.Disk.Remove(r.a.claimFile(r.d.GroupID)); err != nil {
		return rep, err
	}
	if err := in.clean(); err != nil {
		return rep, err
	}
	if in.cleans() { // else what was removed could come back with the power
		if err := in.sync(); err != nil {
			return rep, err
		}
	}
	for _, k := range in.plan.Kept {
		r.kept = append(r.kept, k.Path)
		rep.Warnings = append(rep.Warnings, fmt.Sprintf("%s was kept: %s", k.Path, k.Reason))
	}
	if extra := len(rep.Warnings) - 20; extra > 0 {
		rep.Warnings = append(rep.Warnings[:20], fmt.Sprintf("%d more files were kept", extra))
	}
	return r.finish(rep, nil, record{})
}

// disown takes a group's files away from it: they became ours.
func (r *run) disown(group string) error {
	s, err := r.a.installed(group)
	if err != nil {
		return err
	}
	s.Entries = nil
	return r.a.writeState(r.a.installedFile(group), s)
}
