package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// run is one deployment at work.
type run struct {
	a       *Applier
	d       *Deployment
	key     Key
	c       *checked
	log     *durable.Log
	story   *story
	observe func(EventUpdate)
	// unsaved are events that had nothing to do; they go into the journal with
	// the next record, as losing them loses nothing.
	unsaved  []EventReport
	kept     []string
	warnings []string
}

// Apply runs a deployment to its end. Refusals and failures are in the Result;
// the error is for vetoes, interruption and a state directory that cannot be
// written, after which the deployment may be pending. Applying a deployment
// that has ended returns its recorded Result again and touches nothing. The
// observer may be nil; it is called from this goroutine.
func (a *Applier) Apply(ctx context.Context, d Deployment, observe func(EventUpdate)) (Result, error) {
	if err := d.normalize(); err != nil {
		return Result{}, err
	}
	unlock, err := a.lockApplication(ctx, &d)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	a.reap()
	a.mendGroup(d.GroupID)
	if res, err := a.recorded(d.Key()); res != nil || err != nil {
		if err != nil {
			return Result{}, err
		}
		return *res, nil
	}
	if err := a.nothingPending(ctx, &d); err != nil {
		return Result{}, err
	}
	c, err := a.check(ctx, &d)
	if err != nil {
		return Result{}, fmt.Errorf("cannot prepare deployment %s: %w", d.Key(), err)
	}
	r := &run{a: a, d: &d, key: d.Key(), c: c, observe: observe, story: &story{events: map[eventID]EventReport{}}}
	if !c.report.OK {
		return r.refused(), nil
	}
	if err := r.open(); err != nil {
		if !errors.Is(err, durable.ErrCut) && !errors.Is(err, ErrPending) {
			err = errors.Join(err, os.RemoveAll(a.deploymentDir(r.key))) // nothing has happened
		}
		return Result{}, err
	}
	defer r.log.Close()
	if d.Begin != nil {
		if err := d.Begin(ctx); err != nil {
			r.log.Close()
			if rm := a.discard(a.deploymentDir(r.key)); rm != nil {
				return Result{}, errors.Join(fmt.Errorf("%w: %w", ErrVetoed, err), rm)
			}
			return Result{}, fmt.Errorf("%w: %w", ErrVetoed, err)
		}
	}
	if err := r.write(record{Began: true}); err != nil {
		return Result{}, err
	}
	return r.forward(ctx)
}

// lockApplication takes the application's lock and sweeps up after crashes.
func (a *Applier) lockApplication(ctx context.Context, d *Deployment) (func(), error) {
	unlock, err := a.lock(ctx, "application:"+d.ApplicationName, false)
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("cannot apply deployment %s of application %s: %w", d.ID, d.ApplicationName, ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	group, err := a.lock(ctx, "group:"+d.GroupID, true)
	if err != nil {
		unlock()
		return nil, err
	}
	a.sweep(d.GroupID)
	group()
	a.cgroups.collect()
	return unlock, nil
}

// nothingPending refuses to deploy over another deployment of the group that
// began and did not end.
func (a *Applier) nothingPending(ctx context.Context, d *Deployment) error {
	keys, err := a.deployments(d.GroupID)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !a.ended(k) {
			if s, err := a.readStory(k); err == nil && s.damaged {
				if _, err := a.resume(ctx, k, Undo, nil); err != nil {
					return err
				}
				continue
			}
			return fmt.Errorf("cannot apply deployment %s: deployment %s has not ended: %w", d.Key(), k, ErrPending)
		}
	}
	return nil
}

// recorded returns the result of a deployment that ended, ErrPending for one
// that did not, and neither for one that is new.
func (a *Applier) recorded(k Key) (*Result, error) {
	s, err := a.readStory(k)
	if errors.Is(err, fs.ErrNotExist) && !a.acted(k) {
		// A crash before the journal was made: nothing has happened.
		if err := os.RemoveAll(a.deploymentDir(k)); err != nil {
			return nil, fmt.Errorf("cannot clear an unbegun deployment: %w", err)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if s.result == nil {
		return nil, fmt.Errorf("cannot apply deployment %s: %w", k, ErrPending)
	}
	d, err := a.readDeployment(k)
	if err != nil {
		return nil, err
	}
	s.result.ScriptsLog = a.scriptsLog(d)
	return s.result, nil
}

// journalReserve is the space in bytes that a journal takes before the point of
// no return, so that a full disk keeps no deployment from ending.
const journalReserve = 256 << 10

// open makes the deployment's directory and journal.
func (r *run) open() error {
	dir := r.a.deploymentDir(r.key)
	if err := r.a.opts.Disk.MkdirAll(filepath.Dir(dir), privateDir); err != nil {
		return err
	}
	if err := r.a.opts.Disk.MkdirAll(filepath.Join(dir, "hooks"), privateDir); err != nil {
		return err
	}
	d := *r.d
	d.Overlay = nil // it is in the release
	others, err := r.a.sequence(d.GroupID)
	if err != nil {
		return err
	}
	next := int64(1)
	if len(others) > 0 {
		next += others[0].seq
	}
	if err := r.a.writeState(filepath.Join(dir, "deployment.json"), deploymentState{Version: stateVersion, Sequence: next, Deployment: d}); err != nil {
		return err
	}
	log, records, err := r.a.opts.Disk.OpenLog(r.a.journalFile(r.key), recordMax)
	if err != nil {
		return err
	}
	if len(records) > 0 {
		log.Close()
		return fmt.Errorf("cannot begin deployment %s: %w", r.key, ErrPending)
	}
	r.log = log
	if err := log.Reserve(journalReserve); err != nil {
		log.Close()
		return err
	}
	if err := r.write(record{Boot: r.a.boot}); err != nil {
		log.Close()
		return err
	}
	return nil
}

// write appends a record, with the events not yet written.
func (r *run) write(rec record) error {
	rec.Version, rec.Time = journalVersion, time.Now().UTC()
	rec.Events = append(r.unsaved, rec.Events...)
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("internal error: cannot encode journal record: %w", err)
	}
	if err := r.log.Append(data); err != nil {
		return fmt.Errorf("cannot write the journal of deployment %s: %w", r.key, err)
	}
	r.unsaved = nil
	r.story.add(rec)
	return nil
}

// tell passes an event's state to the observer.
func (r *run) tell(rep EventReport) {
	if r.observe != nil {
		r.observe(EventUpdate{Key: r.key, Report: rep})
	}
}

// refused is the result of a deployment that preflight turned down: nothing has
// been touched. Events before the refused one that have nothing to do count as
// done.
func (r *run) refused() Result {
	refusal := r.c.report.Refusal
	res := Result{Outcome: OutcomeFailed, Error: refusal, Warnings: r.c.report.Warnings}
	before := true
	for _, e := range r.d.Events {
		rep := EventReport{Event: e, Status: StatusSkipped}
		scripts, _ := r.c.scripts(r.d, e)
		switch {
		case e == refusal.Event:
			rep.Status, rep.Error, before = StatusFailed, refusal, false
		case before && e == appspec.DownloadBundle, before && e != appspec.Install && len(scripts) == 0, before && e == appspec.Install && r.c.idle:
			rep.Status = StatusSucceeded
		}
		res.Events = append(res.Events, rep)
		r.tell(rep)
	}
	return res
}

// forward runs the events that have not ended, and ends the deployment.
func (r *run) forward(ctx context.Context) (Result, error) {
	for _, e := range r.d.Events {
		rep, known := r.story.events[eventID{e, false}]
		if known && rep.Status != StatusInProgress {
			r.tell(rep)
		} else {
			var err error
			if rep, err = r.event(ctx, e, known); err != nil {
				return Result{}, err
			}
		}
		if rep.Status == StatusFailed && !r.tolerated(e) {
			return r.end(rep.Error)
		}
	}
	return r.end(nil)
}

// tolerated tells whether the deployment goes on although an event failed.
func (r *run) tolerated(e appspec.Event) bool {
	return e == appspec.ApplicationStop && r.d.StopFailure == StopContinue
}

// event runs one event. resumed tells that it had begun before a restart.
func (r *run) event(ctx context.Context, e appspec.Event, resumed bool) (EventReport, error) {
	if err := ctx.Err(); err != nil {
		return EventReport{}, fmt.Errorf("%w before %s: %w", ErrInterrupted, e, err)
	}
	rep := EventReport{Event: e, Status: StatusInProgress, Start: time.Now().UTC()}
	if resumed {
		rep = r.story.events[eventID{e, false}]
	}
	scripts, info := r.c.scripts(r.d, e)
	var err error
	switch {
	case e == appspec.DownloadBundle:
		if r.c.release != nil {
			err = r.a.point(recentFile, r.c.release.Key)
		}
	case e == appspec.Install:
		return r.install(ctx, rep, resumed)
	case len(scripts) > 0:
		return r.hook(ctx, rep, scripts, info, resumed)
	}
	if err != nil {
		return rep, err
	}
	rep.Status, rep.End = StatusSucceeded, time.Now().UTC()
	r.unsaved = append(r.unsaved, rep)
	r.tell(rep)
	return rep, nil
}

// begin writes down that an event starts, before it does.
func (r *run) begin(rep EventReport) error {
	if err := r.write(record{Events: []EventReport{rep}}); err != nil {
		return err
	}
	r.tell(rep)
	return nil
}

// finish writes down how an event ended.
func (r *run) finish(rep EventReport, fault *Error, rec record) (EventReport, error) {
	rep.Status, rep.End, rep.Error = StatusSucceeded, time.Now().UTC(), fault
	if fault != nil {
		rep.Status = StatusFailed
	}
	rec.Events = append(rec.Events, rep)
	if err := r.write(rec); err != nil {
		return rep, err
	}
	r.tell(rep)
	return rep, nil
}

// end writes down how the deployment ended, and keeps what is worth keeping.
func (r *run) end(fault *Error) (Result, error) {
	res := r.result(fault)
	if fault == nil && r.c.release != nil && !r.d.HoldGood && slices.Contains(r.d.Events, appspec.Install) {
		if err := r.a.MarkGood(r.c.release.Key); err != nil {
			return Result{}, err
		}
	}
	if err := r.write(record{Result: &res}); err != nil {
		return Result{}, err
	}
	r.cleanUp()
	res.ScriptsLog = r.a.scriptsLog(r.d)
	return res, nil
}

// cleanUp removes old releases; failing to is no failure of the deployment.
func (r *run) cleanUp() {
	r.log.Trim()
	unlock, err := r.a.lock(context.Background(), "group:"+r.d.GroupID, false)
	if err != nil {
		return // somebody prepares the next deployment; it will clean up
	}
	defer unlock()
	if err := r.a.retain(r.d.GroupID, r.d.MaxRevisions, r.key); err != nil {
		r.a.log.Warn("cannot remove old releases", "group", r.d.GroupID, "error", err)
	}
}

func (r *run) result(fault *Error) Result {
	res := Result{Outcome: OutcomeSucceeded, Error: fault, Began: true, Kept: r.kept, Warnings: append(r.c.report.Warnings, r.warnings...)}
	if fault != nil {
		res.Outcome = OutcomeFailed
	}
	known := map[eventID]EventReport{}
	for id, rep := range r.story.events {
		known[id] = rep
	}
	for _, rep := range r.unsaved {
		known[eventID{rep.Event, rep.Undo}] = rep
	}
	for _, undo := range []bool{false, true} {
		for _, e := range r.d.Events {
			rep, ok := known[eventID{e, undo}]
			if !ok && undo {
				continue
			}
			if !ok {
				rep = EventReport{Event: e, Status: StatusSkipped}
			}
			res.Events = append(res.Events, rep)
			res.Warnings = append(res.Warnings, rep.Warnings...)
		}
	}
	return res
}
