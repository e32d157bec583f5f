package apply

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Key names one attempt of one deployment of one group on this host.
type Key struct {
	GroupID      string `json:"groupId"`
	DeploymentID string `json:"deploymentId"`
	Attempt      int    `json:"attempt"` // from 1
}

func (k Key) String() string {
	return fmt.Sprintf("%s of group %s (attempt %d)", k.DeploymentID, k.GroupID, k.Attempt)
}

// StopFailure says what a failing ApplicationStop leads to.
type StopFailure string

// The policies, as group.yaml's applicationStopFailure writes them.
const (
	StopFail     StopFailure = "fail"     // the deployment fails (default)
	StopContinue StopFailure = "continue" // the deployment goes on
	StopUseNew   StopFailure = "use-new"  // the new revision's ApplicationStop scripts run, and decide
)

// Creators that matter to the choice of scripts; see the hook environment.
const CreatorRollback = "codeDeployRollback"

// OverlayFile is one file laid over the unpacked bundle.
type OverlayFile struct {
	Path string `json:"path"` // relative to the bundle's root, with slashes
	Mode uint32 `json:"mode"` // permission bits; 0 means 0644
	Data []byte `json:"data"`
}

// Source is where the bundle's bytes are. The zero Source means that the
// deployment needs no bundle (a host being terminated).
type Source struct {
	Path   string        `json:"path"`
	Type   bundle.Type   `json:"type"`
	Digest bundle.Digest `json:"digest,omitempty"` // verified by the caller, and once more where the archive has no checksums; recorded with the release
	// Release names an earlier release on this host to be used again, overlay
	// included; Path and Type are not needed then.
	Release *Key `json:"release,omitempty"`
}

// S3 is what hooks are told about the object a bundle came from. Empty fields
// are left out of their environment.
type S3 struct {
	Bucket  string `json:"bucket,omitempty"`
	Key     string `json:"key,omitempty"`
	Version string `json:"version,omitempty"`
	ETag    string `json:"etag,omitempty"`
}

// Deployment is one attempt to bring this host to a revision.
type Deployment struct {
	ID              string `json:"id"`
	Attempt         int    `json:"attempt"` // from 1; 0 is taken as 1
	ApplicationName string `json:"applicationName"`
	GroupName       string `json:"groupName"`
	GroupID         string `json:"groupId"`
	Commit          string `json:"commit,omitempty"`   // of the config repository
	SpecHash        string `json:"specHash,omitempty"` // recorded with the release
	// CommitTime is given to new and changed files of tar.zst bundles, which
	// carry no times of their own. Zero: the time of the deployment.
	CommitTime time.Time `json:"commitTime"`
	Creator    string    `json:"creator"` // DEPLOYMENT_CREATOR of the hooks; empty: not set
	// Kind decides which revision's scripts serve which event; empty means InPlace.
	Kind appspec.Kind `json:"kind"`
	// Events to run, in order; empty means those of Kind.
	Events []appspec.Event `json:"events"`

	Source  Source        `json:"source"`
	Overlay []OverlayFile `json:"overlay,omitempty"`
	// AppSpecName is tried first; then appspec.yaml and appspec.yml. Empty means appspec.yml.
	AppSpecName        string                     `json:"appSpecName,omitempty"`
	FileExistsBehavior appspec.FileExistsBehavior `json:"fileExistsBehavior,omitempty"` // where appspec.yml has none; empty means DISALLOW
	StopFailure        StopFailure                `json:"stopFailure,omitempty"`
	S3                 S3                         `json:"s3"`
	BundleCommit       string                     `json:"bundleCommit,omitempty"` // BUNDLE_COMMIT, for revisions from a forge
	Env                map[string]string          `json:"env,omitempty"`          // added to the hooks' environment (GITOPSD_HOST, tags)
	MaxRevisions       int                        `json:"maxRevisions,omitempty"` // whose releases are kept for the group; 0 means 5
	// LiveGroups are the ids of the groups that this host still belongs to. The
	// files of a group that is not among them are taken over by a deployment of
	// the same application; those of any other group are never touched.
	LiveGroups []string `json:"liveGroups,omitempty"`
	// Remove takes the application away: ApplicationStop of the last good release
	// runs, then everything the group has in place is removed. Source is empty.
	Remove bool `json:"remove,omitempty"`
	// HoldGood keeps a successful deployment from becoming the group's last good
	// release until MarkGood is called.
	HoldGood bool `json:"holdGood,omitempty"`

	// Begin is called once, after preflight and before the first lifecycle
	// event, where the point of no return lies. An error vetoes the deployment:
	// nothing has been touched, Apply returns the error wrapped in ErrVetoed.
	Begin func(context.Context) error `json:"-"`
}

// Key returns the deployment's key.
func (d *Deployment) Key() Key {
	return Key{GroupID: d.GroupID, DeploymentID: d.ID, Attempt: max(1, d.Attempt)}
}

// normalize fills in the defaults and refuses what cannot be used in paths.
func (d *Deployment) normalize() error {
	d.Attempt = max(1, d.Attempt)
	if d.Kind == "" {
		d.Kind = appspec.InPlace
	}
	if len(d.Events) == 0 && d.Remove {
		d.Events = []appspec.Event{appspec.ApplicationStop, appspec.Install}
	}
	if len(d.Events) == 0 {
		d.Events = appspec.Order(d.Kind)
	}
	if d.AppSpecName == "" {
		d.AppSpecName = "appspec.yml"
	}
	if d.StopFailure == "" {
		d.StopFailure = StopFail
	}
	if d.MaxRevisions <= 0 {
		d.MaxRevisions = 5
	}
	for what, name := range map[string]string{"deployment id": d.ID, "group id": d.GroupID} {
		if !fileName(name) {
			return fmt.Errorf("cannot apply a deployment with %s %q: it must be 1 to 128 letters, digits, dots, dashes or underscores and not begin with a dot", what, name)
		}
	}
	if d.ApplicationName == "" {
		return fmt.Errorf("cannot apply deployment %s: it has no application name", d.ID)
	}
	return d.checkValues()
}

func (d *Deployment) checkValues() error {
	switch d.StopFailure {
	case StopFail, StopContinue, StopUseNew:
	default:
		return fmt.Errorf("cannot apply deployment %s: applicationStopFailure is %q, not fail, continue or use-new", d.ID, d.StopFailure)
	}
	if len(d.Events) > 64 {
		return fmt.Errorf("cannot apply deployment %s: %d lifecycle events are more than 64", d.ID, len(d.Events))
	}
	if d.Remove && d.Source != (Source{}) {
		return fmt.Errorf("cannot apply deployment %s: it removes the application, yet it names a bundle", d.ID)
	}
	seen := map[appspec.Event]bool{}
	for _, e := range d.Events {
		if !fileName(string(e)) {
			return fmt.Errorf("cannot apply deployment %s: %q is no name of a lifecycle event", d.ID, e)
		}
		if seen[e] {
			return fmt.Errorf("cannot apply deployment %s: lifecycle event %s is listed twice", d.ID, e)
		}
		seen[e] = true
	}
	if seen[appspec.Install] && d.Source == (Source{}) && !d.Remove {
		return fmt.Errorf("cannot apply deployment %s: Install needs a bundle", d.ID)
	}
	return nil
}

// fileName tells whether a name can be part of a path of ours as it is.
func fileName(name string) bool {
	if name == "" || len(name) > 128 || name[0] == '.' {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// Status is the state of a lifecycle event, named as CodeDeploy names it.
type Status string

// The states.
const (
	StatusPending    Status = "Pending"
	StatusInProgress Status = "InProgress"
	StatusSucceeded  Status = "Succeeded"
	StatusFailed     Status = "Failed"
	StatusSkipped    Status = "Skipped"
)

// Outcome is how a deployment ended on this host.
type Outcome string

// The outcomes.
const (
	OutcomeSucceeded Outcome = "Succeeded"
	OutcomeFailed    Outcome = "Failed"
)

// Codes of an Error, CodeDeploy's.
const (
	CodeSuccess       = 0
	CodeScriptMissing = 1
	CodeNotExecutable = 2
	CodeTimedOut      = 3
	CodeScriptFailed  = 4
	CodeUnknown       = 5
	CodeOutputsOpen   = 6 // never reported by gitopsd; such scripts succeed with a warning
	CodeAgentRestart  = 7
)

// Kinds of an Error.
const (
	KindScript = "script" // a hook's script failed
	KindAgent  = "agent"  // anything else
)

// Error says why a lifecycle event failed.
type Error struct {
	Event      appspec.Event `json:"event"`
	Kind       string        `json:"kind"` // KindScript or KindAgent
	Code       int           `json:"code"`
	ErrorCode  string        `json:"errorCode"` // the code's name: ScriptMissing, ScriptNotExecutable, ScriptTimedOut, ScriptFailed, UnknownError
	ScriptName string        `json:"scriptName,omitempty"`
	Message    string        `json:"message"`
	LogTail    string        `json:"logTail,omitempty"` // the last 4 KiB of the event's output, valid UTF-8
	// Invalid tells that the bundle or its spec is at fault on any host
	// (INVALID_REVISION), as opposed to this host's state.
	Invalid bool `json:"invalid,omitempty"`
}

// Error gives the event and the message.
func (e *Error) Error() string { return string(e.Event) + " failed: " + e.Message }

// CodeName returns CodeDeploy's name of a code.
func CodeName(code int) string {
	switch code {
	case CodeSuccess:
		return "Success"
	case CodeScriptMissing:
		return "ScriptMissing"
	case CodeNotExecutable:
		return "ScriptNotExecutable"
	case CodeTimedOut:
		return "ScriptTimedOut"
	case CodeScriptFailed:
		return "ScriptFailed"
	}
	return "UnknownError"
}

// EventReport is the state of one lifecycle event.
type EventReport struct {
	Event    appspec.Event `json:"event"`
	Status   Status        `json:"status"`
	Start    time.Time     `json:"startTime,omitzero"`
	End      time.Time     `json:"endTime,omitzero"`
	Error    *Error        `json:"error,omitempty"`
	Warnings []string      `json:"warnings,omitempty"` // such as processes left holding a hook's output, files kept
	Undo     bool          `json:"undo,omitempty"`     // the event ran for the previous release, while undoing
}

// EventUpdate tells an observer that an event changed its state.
type EventUpdate struct {
	Key    Key
	Report EventReport
}

// Result is how a deployment ended.
type Result struct {
	Outcome Outcome       `json:"outcome"`
	Events  []EventReport `json:"events"`
	Error   *Error        `json:"error,omitempty"`
	// ScriptsLog is the output of the deployment's hooks in CodeDeploy's form:
	// "LifecycleEvent - NAME", "Script - LOCATION", "[stdout]line". Bounded: of
	// each event the head and the tail are kept.
	ScriptsLog []string `json:"scriptsLog"`
	Kept       []string `json:"kept,omitempty"`     // files of the previous revision that were not removed because somebody changed them
	Warnings   []string `json:"warnings,omitempty"` // what a person should know although it worked
	Undone     bool     `json:"undone,omitempty"`   // the deployment was given up and the old version started again
	Began      bool     `json:"began,omitempty"`    // the point of no return was passed
}

// PreflightReport is what Preflight found.
type PreflightReport struct {
	OK       bool       `json:"ok"`
	Refusal  *Error     `json:"refusal,omitempty"` // the first problem, as Apply would report it
	Problems []string   `json:"problems,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
	Changes  PlanCounts `json:"changes"`
}

// PlanCounts says what Install would do as the disk is now.
type PlanCounts struct {
	Written   int   `json:"written"`   // files, links and directories put in place
	Unchanged int   `json:"unchanged"` // left alone
	Removed   int   `json:"removed"`
	Kept      int   `json:"kept"`
	Bytes     int64 `json:"bytes"` // to be copied
}

// Journal describes a deployment that has begun and not ended.
type Journal struct {
	Key        Key
	Deployment Deployment // without Overlay and Begin
	SameBoot   bool       // the host has not been rebooted since it began
	Began      bool       // the point of no return was passed
	Events     []EventReport
	// Running tells that a hook's supervisor is alive.
	Running bool
	// Installing tells that Install began and did not finish.
	Installing bool
}

// Decision is what becomes of a pending deployment.
type Decision string

// The decisions.
const (
	Continue Decision = "continue" // go on at the next unstarted step
	Undo     Decision = "undo"     // restore the old files if Install did not finish and start the previous release again
)

// Release is one unpacked revision on this host.
type Release struct {
	GroupID         string        `json:"groupId"`
	ApplicationName string        `json:"applicationName"`
	DeploymentID    string        `json:"deploymentId"`
	Attempt         int           `json:"attempt"`
	Commit          string        `json:"commit,omitempty"`
	SpecHash        string        `json:"specHash,omitempty"`
	Digest          bundle.Digest `json:"digest,omitempty"`
	Good            bool          `json:"good"`      // the last good release of the group
	WasGood         bool          `json:"wasGood"`   // a deployment of it succeeded at some time
	Installed       bool          `json:"installed"` // its files are the ones in place
	Deployed        bool          `json:"deployed"`  // a deployment has used it; else Preflight alone unpacked it
	Created         time.Time     `json:"created"`
	Dir             string        `json:"dir"` // the unpacked bundle with its overlay
}
