package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
)

const journalVersion = 1

// record is one line of the journal. Every field but the version is optional.
type record struct {
	Version  int           `json:"v"`
	Time     time.Time     `json:"time"`
	Boot     string        `json:"boot,omitempty"`     // in the first record, and in one after each restart
	Began    bool          `json:"began,omitempty"`    // the point of no return was passed
	Events   []EventReport `json:"events,omitempty"`   // new states of events
	Install  installPhase  `json:"install,omitempty"`  // how far Install came
	Decision Decision      `json:"decision,omitempty"` // what Resume was told
	Result   *Result       `json:"result,omitempty"`   // the end; without ScriptsLog
	Damaged  bool          `json:"damaged,omitempty"`  // the records before this one were set aside
}

// installPhase is how far Install came; each is written before what it names.
type installPhase string

const (
	phaseStaging  installPhase = "staging"  // the plan is durable; copies are made beside their destinations
	phaseRenaming installPhase = "renaming" // all copies are durable; old is being replaced by new
	phaseRenamed  installPhase = "renamed"  // everything is in place and durable; what was saved is removed
	phaseUndoing  installPhase = "undoing"  // old is being restored
	phaseUndone   installPhase = "undone"   // the old version is in place
)

// story is what a journal tells.
type story struct {
	boot     string
	began    bool
	events   map[eventID]EventReport
	install  installPhase
	decision Decision
	result   *Result
	damaged  bool
}

// eventID tells an event of the deployment from the same one run while undoing.
type eventID struct {
	event appspec.Event
	undo  bool
}

func (s *story) add(r record) {
	if r.Boot != "" {
		s.boot = r.Boot
	}
	s.began = s.began || r.Began
	s.damaged = s.damaged || r.Damaged
	for _, e := range r.Events {
		s.events[eventID{e.Event, e.Undo}] = e
	}
	if r.Install != "" {
		s.install = r.Install
	}
	if r.Decision != "" {
		s.decision = r.Decision
	}
	if r.Result != nil {
		s.result = r.Result
	}
}

// errRecord tells that a record is whole and yet says nothing.
var errRecord = errors.New("cannot understand record")

// decodeStory reads the records of a journal.
func decodeStory(records [][]byte) (*story, error) {
	s := &story{events: map[eventID]EventReport{}}
	for i, data := range records {
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("%w %d: %w", errRecord, i+1, err)
		}
		if r.Version != journalVersion {
			return nil, fmt.Errorf("record %d has version %d, this gitopsd knows version %d", i+1, r.Version, journalVersion)
		}
		s.add(r)
	}
	return s, nil
}

func (a *Applier) journalFile(k Key) string { return filepath.Join(a.deploymentDir(k), "journal") }

// readStory reads a deployment's journal beside its writer.
func (a *Applier) readStory(k Key) (*story, error) {
	records, err := durable.ReadLog(a.journalFile(k), recordMax)
	if err != nil {
		return nil, err
	}
	s, err := decodeStory(records)
	if err != nil {
		return nil, fmt.Errorf("cannot read journal %s: %w", a.journalFile(k), err)
	}
	return s, nil
}

// ended tells whether a deployment needs nobody any more: it ended, or it never
// got as far as a journal.
func (a *Applier) ended(k Key) bool {
	s, err := a.readStory(k)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && s.result != nil
}

// deployments lists a group's deployments that have a journal, newest first.
func (a *Applier) deployments(groupID string) ([]Key, error) {
	list, err := a.sequence(groupID)
	keys := make([]Key, len(list))
	for i, d := range list {
		keys[i] = d.key
	}
	return keys, err
}

// placed is a deployment's place in its group's sequence. Those of before there
// was one have 0 and go by the clock.
type placed struct {
	key Key
	seq int64
	at  time.Time
}

// sequence lists a group's deployments, newest first.
func (a *Applier) sequence(groupID string) ([]placed, error) {
	entries, err := os.ReadDir(a.deploymentsDir(groupID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list deployments: %w", err)
	}
	var found []placed
	for _, e := range entries {
		k, ok := parseName(groupID, e.Name())
		if !ok {
			continue
		}
		file := filepath.Join(a.deploymentDir(k), "deployment.json")
		info, err := os.Stat(file)
		if err != nil {
			continue
		}
		var s deploymentState
		if err := readState(file, &s); err != nil {
			s.Sequence = 0
		}
		found = append(found, placed{k, s.Sequence, info.ModTime()})
	}
	sort.Slice(found, func(i, j int) bool {
		if found[i].seq != found[j].seq {
			return found[i].seq > found[j].seq
		}
		if !found[i].at.Equal(found[j].at) {
			return found[i].at.After(found[j].at)
		}
		return found[i].key.name() > found[j].key.name()
	})
	return found, nil
}

// Pending lists the deployments that have begun and not ended. One whose
// journal cannot be read is left out of the list and named in the error.
func (a *Applier) Pending() ([]Journal, error) {
	groups, err := a.groupIDs()
	if err != nil {
		return nil, err
	}
	var out []Journal
	var wrong []error
	for _, g := range groups {
		keys, err := a.deployments(g)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		for _, k := range keys {
			j, err := a.pendingJournal(k)
			if err != nil {
				wrong = append(wrong, err)
			} else if j != nil {
				out = append(out, *j)
			}
		}
	}
	return out, errors.Join(wrong...)
}

// Open tells whether a deployment has begun and not ended.
func (a *Applier) Open(k Key) (bool, error) {
	s, err := a.readStory(k)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && s.result == nil, err
}

// Ended returns the recorded result of a deployment that ended; false for any
// other. It waits for nobody who deploys the same application.
func (a *Applier) Ended(k Key) (Result, bool) {
	if !fileName(k.GroupID) || !fileName(k.DeploymentID) {
		return Result{}, false
	}
	s, err := a.readStory(k)
	if err != nil || s.result == nil {
		return Result{}, false
	}
	d, err := a.readDeployment(k)
	if err != nil {
		return Result{}, false
	}
	s.result.ScriptsLog = a.scriptsLog(d)
	return *s.result, true
}

// Find returns the key of a deployment of a group that has begun and not ended;
// false if there is none. The error is for a journal of it that cannot be read.
func (a *Applier) Find(groupID, deploymentID string) (Key, bool, error) {
	if !fileName(groupID) {
		return Key{}, false, fmt.Errorf("cannot find deployment %q: %q is no group id", deploymentID, groupID)
	}
	keys, err := a.deployments(groupID)
	if err != nil {
		return Key{}, false, err
	}
	for _, k := range keys {
		if k.DeploymentID != deploymentID {
			continue
		}
		if open, err := a.Open(k); open || err != nil {
			return k, open, err
		}
	}
	return Key{}, false, nil
}

// pendingJournal describes one deployment, nil if it ended.
func (a *Applier) pendingJournal(k Key) (*Journal, error) {
	s, err := a.readStory(k)
	if errors.Is(err, fs.ErrNotExist) || err == nil && s.result != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := a.readDeployment(k)
	if err != nil {
		return nil, err
	}
	j := &Journal{Key: k, Deployment: *d, SameBoot: s.boot == a.boot, Began: s.began}
	for _, undo := range []bool{false, true} {
		for _, e := range d.Events {
			if r, ok := s.events[eventID{e, undo}]; ok {
				j.Events = append(j.Events, r)
				j.Installing = j.Installing || e == appspec.Install && r.Status == StatusInProgress
				if r.Status == StatusInProgress && supervisorAlive(a.hookDir(k, e, variantOf(undo))) {
					j.Running = true
				}
			}
		}
	}
	return j, nil
}

// deploymentState is deployment.json.
type deploymentState struct {
	Version    int        `json:"version"`
	Sequence   int64      `json:"sequence"` // of the group's deployments on this host, from 1
	Deployment Deployment `json:"deployment"`
}

func (a *Applier) readDeployment(k Key) (*Deployment, error) {
	var s deploymentState
	if err := readState(filepath.Join(a.deploymentDir(k), "deployment.json"), &s); err != nil {
		return nil, err
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("cannot read deployment %s: format version %d is not known, only %d", k, s.Version, stateVersion)
	}
	return &s.Deployment, nil
}
