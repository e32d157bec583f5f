package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// Resume ends a pending deployment as decided. Events that ended before are
// reported to the observer again. Resuming one that has ended returns its
// recorded result.
//
// Continue goes on at the next unstarted step: it waits for a hook that runs,
// and begins an unfinished Install again after restoring the old version. Undo
// waits for a hook that runs, restores the old files if Install did not finish,
// and then runs ApplicationStart and ValidateService of the release in place,
// unless neither a hook nor Install had begun. After an Install that finished the new
// files stay: going back is a new deployment.
func (a *Applier) Resume(ctx context.Context, k Key, decision Decision, observe func(EventUpdate)) (Result, error) {
	if decision != Continue && decision != Undo {
		return Result{}, fmt.Errorf("cannot resume deployment %s: %q is neither continue nor undo", k, decision)
	}
	if !fileName(k.GroupID) || !fileName(k.DeploymentID) {
		return Result{}, fmt.Errorf("cannot resume deployment %s: %w", k, ErrUnknown)
	}
	d, err := a.readDeployment(k)
	if errors.Is(err, fs.ErrNotExist) {
		return Result{}, fmt.Errorf("cannot resume deployment %s: %w", k, ErrUnknown)
	}
	if err != nil {
		return Result{}, err
	}
	unlock, err := a.lockApplication(ctx, d)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	return a.resume(ctx, k, decision, observe)
}

// resume is Resume with the application's lock held.
func (a *Applier) resume(ctx context.Context, k Key, decision Decision, observe func(EventUpdate)) (Result, error) {
	d, err := a.readDeployment(k)
	if err != nil {
		return Result{}, err
	}
	a.reap()
	r := &run{a: a, d: d, key: k, observe: observe}
	err = r.reopen()
	if damaged(err) { // since the last Mend
		a.mendGroup(k.GroupID)
		err = r.reopen()
	}
	if err != nil {
		return Result{}, err
	}
	defer r.log.Close()
	if r.story.result != nil {
		res := *r.story.result
		res.ScriptsLog = a.scriptsLog(d)
		return res, nil
	}
	if r.story.damaged {
		return r.abandon(ctx)
	}
	if r.story.decision == Undo {
		decision = Undo // there is no way back from giving up
	}
	if err := r.write(record{Boot: a.boot, Decision: decision}); err != nil {
		return Result{}, err
	}
	if decision == Undo {
		return r.backward(ctx)
	}
	if !r.story.began {
		if err := r.write(record{Began: true}); err != nil {
			return Result{}, err
		}
	}
	return r.forward(ctx)
}

// reopen reads the journal and what the deployment depends on.
func (r *run) reopen() error {
	if !exists(r.a.journalFile(r.key)) && r.a.acted(r.key) {
		return fmt.Errorf("cannot resume deployment %s: %w", r.key, errLost)
	}
	log, records, err := r.a.opts.Disk.OpenLog(r.a.journalFile(r.key), recordMax)
	if err != nil {
		return fmt.Errorf("cannot resume deployment %s: %w", r.key, err)
	}
	r.log = log
	if err := log.Reserve(journalReserve); err != nil {
		r.a.log.Warn("cannot reserve space for the journal", "deployment", r.key.String(), "error", err)
	}
	if r.story, err = decodeStory(records); err == nil && r.story.result == nil {
		if _, lost := r.a.release(r.key); r.story.began && r.d.Source != (Source{}) && (missing(lost) || errors.Is(lost, errDamaged)) {
			r.story.damaged = true // without the release nobody can go on, or say what is in place
		}
		err = r.recheck()
	}
	if err != nil {
		log.Close()
		return fmt.Errorf("cannot resume deployment %s: %w", r.key, err)
	}
	return nil
}

// recheck reads again what preflight found: the releases, but not the plan.
func (r *run) recheck() error {
	c := &checked{report: PreflightReport{OK: true}}
	if r.story.damaged { // nothing of any release will run
		r.c = c
		return nil
	}
	var err error
	if c.previous, err = r.a.revisionAt(r.d.GroupID, goodFile, c); err != nil {
		return err
	}
	if c.recent, err = r.a.revisionAt(r.d.GroupID, recentFile, c); err != nil {
		return err
	}
	r.c = c
	if r.d.Source == (Source{}) {
		return nil
	}
	if c.release, err = r.a.release(r.key); err != nil {
		return err
	}
	c.spec, _, err = c.release.spec()
	return err
}

// backward gives the deployment up.
func (r *run) backward(ctx context.Context) (Result, error) {
	fault := &Error{Event: r.firstUnfinished(), Kind: KindAgent, Code: CodeAgentRestart, ErrorCode: CodeName(CodeAgentRestart),
		Message: "the deployment was interrupted and given up"}
	installed := false
	for _, e := range r.d.Events {
		rep, known := r.story.events[eventID{e, false}]
		if !known {
			continue
		}
		if rep.Status == StatusInProgress {
			var err error
			if rep, err = r.giveUp(ctx, rep, fault); err != nil {
				return Result{}, err
			}
		} else {
			r.tell(rep)
		}
		installed = installed || e == appspec.Install && rep.Status == StatusSucceeded
		if rep.Error != nil {
			fault = rep.Error
		}
	}
	if r.touched() && !installed {
		if err := r.startPrevious(ctx); err != nil {
			return Result{}, err
		}
	}
	res := r.result(fault)
	res.Undone, res.Began = true, r.story.began
	if err := r.write(record{Result: &res}); err != nil {
		return Result{}, err
	}
	r.cleanUp()
	res.ScriptsLog = r.a.scriptsLog(r.d)
	return res, nil
}

// touched tells whether a hook or Install began, so that the previous release
// may have been stopped.
func (r *run) touched() bool {
	for _, e := range r.d.Events {
		if exists(filepath.Join(r.a.hookDir(r.key, e, ownVariant), requestFile)) {
			return true
		}
	}
	return r.story.install != ""
}

func (r *run) firstUnfinished() appspec.Event {
	for _, e := range r.d.Events {
		if rep, ok := r.story.events[eventID{e, false}]; !ok || rep.Status == StatusInProgress {
			return e
		}
	}
	return r.d.Events[len(r.d.Events)-1]
}

// giveUp ends the event that was in progress: a hook is waited for, Install is
// undone, or finished if only its cleaning up was left.
func (r *run) giveUp(ctx context.Context, rep EventReport, fault *Error) (EventReport, error) {
	if rep.Event == appspec.Install {
		in, err := r.unfinished()
		if err != nil {
			return rep, err
		}
		if r.story.install == phaseRenamed {
			return r.finishInstall(rep, in)
		}
		if err := r.undoInstall(in); err != nil {
			return rep, err
		}
		return r.finish(rep, fault, record{})
	}
	for _, v := range []variant{ownVariant, newVariant} {
		if err := waitSupervisor(ctx, r.a.hookDir(r.key, rep.Event, v)); err != nil {
			return rep, err
		}
	}
	dir, v := r.a.hookDir(r.key, rep.Event, newVariant), newVariant
	if !exists(dir) {
		dir, v = r.a.hookDir(r.key, rep.Event, ownVariant), ownVariant
	}
	res, err := readResult(dir)
	if err != nil {
		return rep, err
	}
	if res == nil {
		return r.finish(rep, fault, record{})
	}
	rep.Warnings = append(rep.Warnings, res.Warnings...)
	return r.finish(rep, r.a.fault(r.key, rep.Event, v, res), record{})
}

// startPrevious starts again the release whose files are in place: the last good
// one, or a later one that nobody has called good yet.
func (r *run) startPrevious(ctx context.Context) error {
	previous := r.inPlace()
	if previous == nil {
		return nil
	}
	for _, e := range []appspec.Event{appspec.ApplicationStart, appspec.ValidateService} {
		scripts := previous.spec.Hooks[e]
		if len(scripts) == 0 {
			continue
		}
		rep, known := r.story.events[eventID{e, true}]
		if known && rep.Status != StatusInProgress {
			r.tell(rep)
		} else {
			if !known {
				rep = EventReport{Event: e, Undo: true, Status: StatusInProgress, Start: time.Now().UTC()}
			}
			var err error
			if rep, err = r.hook(ctx, rep, scripts, previous.info, known); err != nil {
				return err
			}
		}
		if rep.Status == StatusFailed {
			r.warnings = append(r.warnings, "the previous release could not be started again: "+rep.Error.Error())
			return nil
		}
	}
	return nil
}

// inPlace reads the release whose files are in place, nil if there is none. Where
// that is not known, or it cannot be read any more, it is the last good one.
func (r *run) inPlace() *revision {
	installed, err := r.a.installedHead(r.d.GroupID)
	if err == nil && (installed.Release == Key{} || r.c.previous != nil && installed.Release == r.c.previous.info.Key) {
		return r.c.previous
	}
	var info *releaseInfo
	if err == nil {
		info, err = r.a.release(installed.Release)
	}
	if err == nil {
		var spec *appspec.Spec
		if spec, _, err = info.spec(); err == nil {
			return &revision{info, spec}
		}
	}
	r.warnings = append(r.warnings, fmt.Sprintf("the release whose files are in place cannot be started again, the last good one is: %v", err))
	return r.c.previous
}
