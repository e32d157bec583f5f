package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
	claimHeader
	Entries []plan.Entry // path and kind, without directories
}

// claimHeader is its first line; an entry a line follows.
type claimHeader struct {
	Version     int    `json:"version"`
	Application string `json:"application"`
	Release     Key    `json:"release"`
}

type claimEntry struct {
	Path string    `json:"path"`
	Kind plan.Kind `json:"kind"`
}

func (a *Applier) claimFile(groupID string) string {
	return filepath.Join(a.groupDir(groupID), "claim.json")
}

// claim reads a group's claim, nil if it has none.
func (a *Applier) claim(groupID string) (*claimState, error) {
	var s claimState
	err := readRecords(a.claimFile(groupID), stateVersion, &s.claimHeader, func(e claimEntry) {
		s.Entries = append(s.Entries, plan.Entry{Path: verbatim(e.Path), Kind: e.Kind})
	})
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// claimHead reads a claim without its entries, nil if there is none.
func (a *Applier) claimHead(groupID string) (*claimHeader, error) {
	var h claimHeader
	err := readHeader(a.claimFile(groupID), stateVersion, &h)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &h, nil
}

// writeClaim claims what a plan puts in place.
func (r *run) writeClaim(p *plan.Plan) error {
	head := claimHeader{Version: stateVersion, Application: r.d.ApplicationName, Release: r.key}
	return r.a.writeRecords(r.a.claimFile(r.d.GroupID), head, func(w *recordWriter) error {
		for i := range p.Installed {
			e := &p.Installed[i]
			if e.Kind == plan.Dir {
				continue
			}
			if err := w.put(claimEntry{plain(e.Path), e.Kind}); err != nil {
				return err
			}
		}
		return nil
	})
}

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
	return r.savedInstall()
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
	in := r.newInstaller(p)
	for _, c := range p.Changes {
		before, err := readAttr(c.Path)
		if err != nil {
			return nil, installFault(err.Error(), false), nil
		}
		if c.New.Context == nil { // nor is it to be set when it is undone
			before.Context = nil
		}
		in.before = append(in.before, before)
	}
	if err := r.writeClaim(p); err != nil {
		return nil, nil, err
	}
	if err := r.savePlan(in); err != nil {
		return nil, nil, err
	}
	return in, nil, nil
}

// unclaim forgets the plan of an Install that was cut short before the journal
// named it: what it claims would be kept from other groups for good.
func (r *run) unclaim() error {
	claim, err := r.a.claimHead(r.d.GroupID)
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
	state := installedState{installedHeader{Application: r.d.ApplicationName, Release: r.key}, in.plan.Installed}
	for _, group := range in.plan.Adopted {
		// They became ours. An empty record could be damaged, and be made anew from the plan of a time when they were not.
		if err := r.a.opts.Disk.Remove(r.a.installedFile(group)); err != nil {
			return rep, err
		}
	}
	if err := r.a.writeInstalled(r.d.GroupID, state); err != nil {
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
