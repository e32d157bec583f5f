package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// Damage is a journal that says too little, or nothing, of its deployment.
type Damage struct {
	Key Key
	// Aside is the file the journal was kept in; empty if it stayed in its place.
	Aside string
	// Ended tells that the deployment is known to have ended; else Resume ends it
	// as failed with code 7, and starts nothing.
	Ended bool
	// Blocked tells that nothing was done, as the journal is another version's or
	// could not be read at this time; its group takes no deployment until that changes.
	Blocked bool
	// Reason is what is wrong with it.
	Reason string
}

// String says in one sentence what is wrong and what was done.
func (d Damage) String() string {
	switch {
	case d.Blocked:
		return fmt.Sprintf("the journal of deployment %s cannot be used: %s; its group takes no deployment before that is mended", d.Key, d.Reason)
	case d.Ended:
		return fmt.Sprintf("the journal of deployment %s was damaged (%s) and is kept as %s; the deployment had ended", d.Key, d.Reason, d.Aside)
	}
	return fmt.Sprintf("the journal of deployment %s was damaged (%s) and is kept as %s; how far the deployment came is not known, so it counts as failed", d.Key, d.Reason, d.Aside)
}

// errLost tells that a journal lacks records that were in it.
var errLost = errors.New("records at its end are missing")

// Mend puts journals that are damaged aside, as journal.damaged-N beside them,
// and closes those whose end is told elsewhere: by a release that was called
// good, or by a later deployment, which begins only after the one before it
// ended. It is for the time before anything is at work. The error is for a state
// directory that cannot be read at all.
func (a *Applier) Mend() ([]Damage, error) {
	groups, err := a.groupIDs()
	if err != nil {
		return nil, err
	}
	var found []Damage
	for _, g := range groups {
		found = append(found, a.mendGroup(g)...)
	}
	return found, nil
}

// mendGroup mends the journals of one group, whose application nobody deploys.
func (a *Applier) mendGroup(groupID string) []Damage {
	list, err := a.sequence(groupID)
	if err != nil {
		return []Damage{{Key: Key{GroupID: groupID}, Blocked: true, Reason: err.Error()}}
	}
	var found []Damage
	for i, d := range list {
		superseded := i > 0 && d.seq > 0
		damage, err := a.mend(d.key, superseded)
		if err != nil {
			damage = &Damage{Key: d.key, Blocked: true, Reason: err.Error()}
		}
		if damage != nil {
			a.log.Error(damage.String(), "group", groupID, "deployment", d.key.DeploymentID)
			found = append(found, *damage)
		}
	}
	return found
}

// mend mends one journal, nil if there is nothing wrong with it.
func (a *Applier) mend(k Key, superseded bool) (*Damage, error) {
	s, wrong := a.readStory(k)
	missing := errors.Is(wrong, fs.ErrNotExist)
	switch {
	case missing && !a.acted(k):
		return nil, nil // a crash before it was made
	case missing, wrong == nil && s.result == nil && !s.damaged && a.lost(k, s):
		wrong = errLost
	case wrong == nil && (s.result != nil || s.damaged && !superseded):
		return nil, nil
	case wrong != nil && !damaged(wrong):
		return nil, wrong
	}
	info, _ := a.release(k)
	good := info != nil && info.WasGood
	d, unreadable := a.readDeployment(k)
	if wrong == nil {
		wrong = unreadable
	}
	ended := good || superseded || unreadable != nil
	if wrong == nil && !ended {
		return nil, nil // it is open, and whole as far as anybody can tell
	}
	if wrong == nil {
		wrong = errLost
	}
	if s == nil {
		s = &story{events: map[eventID]EventReport{}}
	}
	rec := record{Boot: a.boot, Began: true, Damaged: true}
	if ended {
		rec.Result = a.endOf(d, s, good)
	}
	aside, err := a.setAside(k, rec)
	if err != nil {
		return nil, err
	}
	return &Damage{Key: k, Aside: aside, Ended: ended, Reason: wrong.Error()}, nil
}

// damaged tells whether a journal is broken for good, rather than another
// version's or out of reach.
func damaged(err error) bool {
	return errors.Is(err, durable.ErrCorrupt) || errors.Is(err, errRecord) || errors.Is(err, errLost)
}

// acted tells whether a deployment did something that its journal must name.
func (a *Applier) acted(k Key) bool {
	hooks, _ := os.ReadDir(filepath.Join(a.deploymentDir(k), "hooks"))
	return len(hooks) > 0 || exists(filepath.Join(a.deploymentDir(k), "plan.json"))
}

// lost tells whether a deployment did more than its journal says it set out to:
// each step is written down before it is taken.
func (a *Applier) lost(k Key, s *story) bool {
	hooks, _ := os.ReadDir(filepath.Join(a.deploymentDir(k), "hooks"))
	for _, h := range hooks {
		v := variant(filepath.Ext(h.Name()))
		event := appspec.Event(h.Name()[:len(h.Name())-len(v)])
		_, known := s.events[eventID{event, v == undoVariant}]
		if !known && exists(filepath.Join(a.hookDir(k, event, v), requestFile)) {
			return true
		}
	}
	in, err := a.installed(k.GroupID)
	return err == nil && in.Release == k && s.install != phaseRenamed
}

// endOf is the result of a deployment that ended, from what is left of its story.
func (a *Applier) endOf(d *Deployment, s *story, good bool) *Result {
	res := &Result{Outcome: OutcomeSucceeded, Began: true}
	status := StatusSucceeded
	if !good {
		res.Outcome, res.Error, status = OutcomeFailed, unknownEnd(""), StatusSkipped
	}
	if d == nil {
		return res
	}
	for _, e := range d.Events {
		rep, known := s.events[eventID{e, false}]
		if !known || rep.Status == StatusInProgress {
			rep = EventReport{Event: e, Status: status, Start: rep.Start}
		}
		res.Events = append(res.Events, rep)
	}
	return res
}

func unknownEnd(e appspec.Event) *Error {
	return &Error{Event: e, Kind: KindAgent, Code: CodeAgentRestart, ErrorCode: CodeName(CodeAgentRestart),
		Message: "the deployment's journal was damaged; how far it came is not known, and nothing of it is run again"}
}

// setAside keeps a journal under another name and puts one with a single record
// in its place, so that there is a whole one at every moment.
func (a *Applier) setAside(k Key, rec record) (string, error) {
	dir, journal := a.deploymentDir(k), a.journalFile(k)
	fresh := journal + ".mended"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot mend journal: %w", err)
	}
	log, _, err := a.opts.Disk.OpenLog(fresh, recordMax)
	if err != nil {
		return "", err
	}
	r := &run{a: a, key: k, log: log, story: &story{events: map[eventID]EventReport{}}}
	err = r.write(rec)
	if err = errors.Join(err, log.Close()); err != nil {
		return "", err
	}
	aside := ""
	for n := 1; aside == ""; n++ {
		name := fmt.Sprintf("%s.damaged-%d", journal, n)
		if err := a.opts.Disk.Step("link", name); err != nil {
			return "", err
		}
		switch err := os.Link(journal, name); {
		case err == nil:
			aside = name
		case errors.Is(err, fs.ErrNotExist):
			aside = "nothing"
		case !errors.Is(err, fs.ErrExist):
			return "", fmt.Errorf("cannot set a damaged journal aside: %w", err)
		}
	}
	if err := a.opts.Disk.SyncDir(dir); err != nil {
		return "", err
	}
	return aside, a.opts.Disk.Rename(fresh, journal)
}

// abandon ends a deployment whose journal was damaged: hooks that run are waited
// for, files that are being put in place are taken back, and nothing is started.
func (r *run) abandon(ctx context.Context) (Result, error) {
	hooks, _ := os.ReadDir(filepath.Join(r.a.deploymentDir(r.key), "hooks"))
	for _, h := range hooks {
		if err := waitSupervisor(ctx, filepath.Join(r.a.deploymentDir(r.key), "hooks", h.Name())); err != nil {
			return Result{}, err
		}
	}
	if err := r.takeBack(); err != nil {
		return Result{}, err
	}
	in, err := r.a.installedHead(r.d.GroupID)
	if err != nil {
		return Result{}, err
	}
	for _, e := range r.d.Events {
		rep := EventReport{Event: e, Status: StatusSucceeded, End: time.Now().UTC()}
		res, err := readResult(r.a.hookDir(r.key, e, ownVariant))
		switch {
		case err == nil && res != nil:
			if rep.Error = r.a.fault(r.key, e, ownVariant, res); rep.Error != nil {
				rep.Status = StatusFailed
			}
		case e == appspec.Install && in.Release == r.key:
		case r.a.started(r.key, e):
			rep.Status, rep.Error = StatusFailed, unknownEnd(e)
		default:
			continue
		}
		r.unsaved = append(r.unsaved, rep)
		r.tell(rep)
	}
	return r.end(unknownEnd(r.firstUnfinished()))
}

// started tells whether an event's hook may have been started.
func (a *Applier) started(k Key, e appspec.Event) bool {
	return exists(filepath.Join(a.hookDir(k, e, ownVariant), requestFile))
}

// takeBack restores the old version if an Install was under way: then, and only
// then, there is a claim, and what was saved is still there. After one that came
// to its end what was saved goes.
func (r *run) takeBack() error {
	claim, err := r.a.claimHead(r.d.GroupID)
	if err != nil {
		return err
	}
	installed, err := r.a.installedHead(r.d.GroupID)
	if err != nil {
		return err
	}
	claimed, done := claim != nil && claim.Release == r.key, installed.Release == r.key
	in, err := r.savedInstall()
	switch {
	case err != nil:
		if claimed {
			r.warnings = append(r.warnings, "Install was under way and its plan cannot be read; what it was to replace may be half done")
		}
	case done:
		if err := in.clean(); err != nil {
			return err
		}
	case claimed:
		if err := in.undo(true); err != nil {
			return err
		}
	}
	if !claimed {
		return nil
	}
	return r.a.opts.Disk.Remove(r.a.claimFile(r.d.GroupID))
}
