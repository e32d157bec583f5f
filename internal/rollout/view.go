package rollout

import "time"

// GroupView is an immutable copy of one group's state for readers. Its JSON is
// that of `gitopsd status`.
type GroupView struct {
	Group         string           `json:"group"` // the folder; the id when there is none
	ID            string           `json:"id"`
	Application   string           `json:"application,omitempty"`
	Name          string           `json:"name,omitempty"`
	State         string           `json:"state"`
	Reason        string           `json:"reason,omitempty"`
	Desired       Spec             `json:"desired"`
	Running       Spec             `json:"running"` // the last good
	Attempt       int              `json:"attempt,omitempty"`
	TargetVersion uint64           `json:"targetVersion"` // Target.Base of the next Target
	Version       uint64           `json:"version"`       // rises with every change of this group
	Deployment    *DeploymentView  `json:"deployment,omitempty"`
	CatchUp       *DeploymentView  `json:"catchUp,omitempty"` // a host that is brought to the running revision alone
	Hosts         []HostView       `json:"hosts"`
	Quarantine    []Quarantined    `json:"quarantine,omitempty"`
	Suspended     bool             `json:"suspended,omitempty"`
	Orphaned      bool             `json:"orphaned,omitempty"`
	Paused        *OperatorAction  `json:"paused,omitempty"`
	Actions       []OperatorAction `json:"actions,omitempty"` // the last 16
	Policy        Policy           `json:"policy"`
	Members       []MemberInfo     `json:"members,omitempty"`
	Frozen        string           `json:"frozen,omitempty"`     // why this group's machine stopped
	Joining       []string         `json:"joining,omitempty"`    // members that are still to get what the group runs, and will be given it
	JoinFailed    []string         `json:"joinFailed,omitempty"` // members that did not get it in as many tries as there are
}

// States of a group (GroupView.State), beside CodeDeploy's own words.
const (
	StateNone       = "None"    // no target yet
	StateCreated    = "Created" // waiting for every host's Ready
	StateQueued     = "Queued"  // waiting for bytes, for hosts or for other deployments
	StateInProgress = "InProgress"
	StateBaking     = "Baking"
	StateHeld       = "Held" // an outage or a used-up budget; nothing is granted
	StatePaused     = "Paused"
	StateSuspended  = "Suspended"
	StateSucceeded  = "Succeeded" // desired runs
	StateFailed     = "Failed"
	StateStopped    = "Stopped"
	StateHeldBack   = "HeldBack" // desired X is quarantined, last good Y runs
	StateBlocked    = "Blocked"  // a rollback failed: a person is needed
	StateNoHosts    = "NoHosts"  // its targets match no host, as CodeDeploy's NO_INSTANCES
	StateOrphaned   = "Orphaned"
	StateFrozen     = "Frozen"
	StateSuperseded = "Superseded" // of deployments only
)

// DeploymentView is one deployment as status and history show it.
type DeploymentView struct {
	ID         string        `json:"id"`
	Creator    string        `json:"creator"`
	Kind       Kind          `json:"kind"`
	Commit     string        `json:"commit"`
	SpecHash   string        `json:"specHash"`
	Digest     string        `json:"digest,omitempty"`
	Signers    []string      `json:"signers,omitempty"`
	Status     string        `json:"status"`
	ErrorCode  string        `json:"errorCode,omitempty"` // CodeDeploy's: HEALTH_CONSTRAINTS, INVALID_REVISION, MANUAL_STOP, ...
	Wave       int           `json:"wave"`                // from 1; 0 before the first grant
	Waves      int           `json:"waves"`
	Reason     string        `json:"reason"`
	Leader     string        `json:"leader,omitempty"`
	Term       uint64        `json:"term,omitempty"`
	RollbackOf string        `json:"rollbackOf,omitempty"`
	RolledBack string        `json:"rolledBackBy,omitempty"`
	StartTime  string        `json:"startTime,omitempty"` // RFC 3339, wall clock of whoever caused it
	EndTime    string        `json:"endTime,omitempty"`
	N          int           `json:"n"`
	Minimum    int           `json:"minimumHealthy"`
	Budget     int           `json:"budget"`
	BakeLeft   time.Duration `json:"bakeLeft,omitempty"`
	Hosts      []HostView    `json:"hosts,omitempty"` // in history only
}

// HostView is one host of a group or of a deployment.
type HostView struct {
	Name       string        `json:"name"`
	Status     string        `json:"status"` // Pending, Ready, InProgress, Succeeded, Failed, Skipped, Unknown, Behind
	Health     HealthState   `json:"health"`
	Revision   string        `json:"revision"` // commit of what it runs
	SpecHash   string        `json:"specHash,omitempty"`
	Wave       int           `json:"wave,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	Alive      bool          `json:"alive"`
	Events     []EventRecord `json:"events"`
	FromOrigin int64         `json:"bytesFromOrigin"`
	FromPeers  int64         `json:"bytesFromPeers"`
}

// Quarantined is a spec that failed here and is not tried again by itself.
type Quarantined struct {
	SpecHash   string `json:"specHash"`
	Attempt    int    `json:"attempt,omitempty"`
	Commit     string `json:"commit,omitempty"`
	Deployment string `json:"deployment,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

// OperatorAction records who asked for what.
type OperatorAction struct {
	ID     string `json:"id"`
	Verb   Verb   `json:"verb"`
	Actor  string `json:"actor"`
	Reason string `json:"reason,omitempty"`
	Time   string `json:"time,omitempty"`
}

// Kind is the kind of a deployment.
type Kind string

// Forward goes to a spec that has not run here; Revert goes back to one that
// ran well, because git says so; Rollback goes back by itself; CatchUp brings
// one host to what the group runs.
const (
	KindForward  Kind = "forward"
	KindRevert   Kind = "revert"
	KindRollback Kind = "rollback"
	KindCatchUp  Kind = "catch-up"
)

// Grant is the permission for one host to change, part of the replicated state.
type Grant struct {
	Token      Token  `json:"token"`
	Group      string `json:"group"`
	Deployment string `json:"deployment"`
	Host       string `json:"host"`
	Kind       Kind   `json:"kind"`
	Creator    string `json:"creator"`
	Attempt    int    `json:"attempt"` // of the deployment on this host; always 1 so far
	Spec       Spec   `json:"spec"`
	Accepted   bool   `json:"accepted,omitempty"` // as replicated
	Stopped    bool   `json:"stopped,omitempty"`  // as replicated
}

// Assignment is what the replicated state wants of one host in one group, and
// what it already knows of it. Member compares it with the host's own truth.
type Assignment struct {
	Group    string  `json:"group"`
	Member   bool    `json:"member"`            // still listed
	Prepare  []Spec  `json:"prepare,omitempty"` // be Ready for these, most urgent first; at most 3
	Grant    *Grant  `json:"grant,omitempty"`   // open grant
	Last     Token   `json:"last,omitzero"`     // newest grant this host has answered
	LastGood Spec    `json:"lastGood,omitzero"` // what the group runs well
	Boot     string  `json:"boot,omitempty"`
	Running  Spec    `json:"running,omitzero"`
	Known    bool    `json:"known"` // a Hello was heard
	Whole    bool    `json:"whole,omitempty"`
	Ready    []Ready `json:"ready,omitempty"` // as replicated, of this host
	Health   Health  `json:"health,omitzero"` // as replicated, of this host
	Checks   int     `json:"checks,omitempty"`
	Paused   bool    `json:"paused,omitempty"` // by an operator
}

// Needs is what the leader should do for the machine, beside injecting targets
// and liveness.
type Needs struct {
	Tick     bool   // a timer is armed: send Tick about every second
	Handover string // not empty: transfer leadership to this voter, whose own host may stay up
}
