package rollout

import "time"

// Spec names what should run: a commit, the spec hash its tree yields for the
// group, and the bundle's digest.
type Spec struct {
	Commit   string `json:"commit,omitempty"`
	SpecHash string `json:"specHash,omitempty"`
	Digest   string `json:"digest,omitempty"`
}

// Token fences grants: a host acts only on a token above the highest it has
// persisted for the group. Seq alone rises strictly within an epoch; Index is
// the raft index of the command that caused the grant.
type Token struct {
	Epoch uint64 `json:"epoch"`
	Index uint64 `json:"index"`
	Seq   uint64 `json:"seq"`
}

// Less orders tokens by epoch, then by sequence.
func (t Token) Less(o Token) bool {
	if t.Epoch != o.Epoch {
		return t.Epoch < o.Epoch
	}
	return t.Seq < o.Seq
}

// Command is one entry for Machine.Apply. Encode makes its bytes, Decode reads
// them. Every command may be applied twice: the second time changes nothing.
type Command interface{ kind() kind }

// Lead is the first command of a leader in each term, and again when voters
// change. Who may send it: Host itself. Until it is applied nothing else from
// the leader counts.
type Lead struct {
	Host   string   `json:"host"`
	Epoch  uint64   `json:"epoch"`
	Voters []string `json:"voters"` // of the set, sorted or not
}

// Tick advances the replicated clock. Leader only. Elapsed is monotonic time
// since the leader's last applied Tick (or its Lead); more than 5 s counts as 5 s.
type Tick struct {
	Elapsed time.Duration `json:"elapsed"`
}

// Liveness says which hosts gossip believes dead or alive. Leader only, changes
// only (compare with Machine.Dead).
type Liveness struct {
	Hosts []HostLife `json:"hosts"`
}

// HostLife is one host's liveness and for how long it has been so.
type HostLife struct {
	Host  string        `json:"host"`
	Alive bool          `json:"alive"`
	For   time.Duration `json:"for,omitempty"`
}

// MemberInfo is one member of a group, as the commit's inventory has it.
type MemberInfo struct {
	Host    string            `json:"host"`
	Storage string            `json:"storage,omitempty"` // its storage id; with another one it is another machine, of which nothing is known
	Zone    string            `json:"zone,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"` // only those that waves name need be here
}

// Target proposes what a group should run. Leader only, and only when its tip
// descends from the state's target. Base is a compare-and-set on
// GroupView.TargetVersion. A Target with the same spec hash and attempt starts
// no deployment: it updates members, policy, names and suspend.
type Target struct {
	Group       string       `json:"group"` // the identity for life
	Base        uint64       `json:"base"`
	Spec        Spec         `json:"spec"`
	Attempt     int          `json:"attempt,omitempty"`
	Application string       `json:"application,omitempty"`
	Name        string       `json:"name,omitempty"`   // deploymentGroupName
	Folder      string       `json:"folder,omitempty"` // how people address it
	Members     []MemberInfo `json:"members"`
	Policy      Policy       `json:"policy"`
	Suspend     bool         `json:"suspend,omitempty"`
	SuspendWhy  string       `json:"suspendWhy,omitempty"`  // "" when group.yaml says so
	Signers     []string     `json:"signers,omitempty"`     // data for the history
	Subject     string       `json:"subject,omitempty"`     // of the commit; data for the history
	SetActive   int          `json:"setActive,omitempty"`   // maxActiveDeployments of the set; 0 = 20
	SetInFlight int          `json:"setInFlight,omitempty"` // maxHostsInFlight of the set; 0 = no limit
}

// Orphan says that a group left git. Leader only. Nothing is uninstalled and
// nothing new starts; a Target brings the group back.
type Orphan struct {
	Group string `json:"group"`
	Base  uint64 `json:"base"`
}

// Hello is what a host says of itself after a start, on a new boot and whenever
// the replicated state is wrong about it. From the host itself, as are Ready,
// Answer, Progress, Done and Health.
type Hello struct {
	Group   string `json:"group"`
	Boot    string `json:"boot"`             // the kernel's boot id
	Running Spec   `json:"running,omitzero"` // what is installed here; empty when nothing is
	Whole   bool   `json:"whole,omitempty"`  // Running was installed to the end (or came back by undo)
}

// RefusalKind says what a refusal is due to.
type RefusalKind string

// Rule 9: the spec fails the deployment, the host counts as that host's
// failure, bytes are waited for.
const (
	RefusedBySpec  RefusalKind = "spec"
	RefusedByHost  RefusalKind = "host"
	RefusedByBytes RefusalKind = "bytes"
)

// RefusedNoMore takes a Ready's earlier refusal back: the host is on its way
// again, and what it was refused for is over.
const RefusedNoMore RefusalKind = "no more"

// Ready says whether a host could start on a spec now: commit verified, bundle
// complete, preflight passed.
type Ready struct {
	Group    string      `json:"group"`
	SpecHash string      `json:"specHash"`
	Commit   string      `json:"commit"`
	Refused  RefusalKind `json:"refused,omitempty"` // "" = ready
	Reason   string      `json:"reason,omitempty"`
	LastGood string      `json:"lastGood,omitempty"` // spec hash of the last good release on this disk
}

// AnswerVerdict is a host's answer to a grant.
type AnswerVerdict string

// Busy and Refused spend the grant; nothing has happened on the host.
const (
	Accepted AnswerVerdict = "accepted"
	Busy     AnswerVerdict = "busy"
	Refused  AnswerVerdict = "refused"
)

// Answer answers a grant.
type Answer struct {
	Group   string        `json:"group"`
	Grant   Token         `json:"grant"`
	Verdict AnswerVerdict `json:"verdict"`
	Kind    RefusalKind   `json:"kind,omitempty"` // of a refusal; "" = try again later (lapsed)
	Reason  string        `json:"reason,omitempty"`
	Boot    string        `json:"boot,omitempty"`
}

// Diagnostics tell why a lifecycle event failed, in CodeDeploy's fields.
type Diagnostics struct {
	ErrorCode  string `json:"errorCode,omitempty"` // Success, ScriptMissing, ScriptNotExecutable, ScriptTimedOut, ScriptFailed, UnknownError
	ScriptName string `json:"scriptName,omitempty"`
	Message    string `json:"message,omitempty"`
	LogTail    string `json:"logTail,omitempty"` // at most 4 KiB, the last
}

// EventRecord is one lifecycle event on one host. Times are the host's wall
// clock, RFC 3339, for people only.
type EventRecord struct {
	Event       string       `json:"event"`
	Status      string       `json:"status"` // Pending, InProgress, Succeeded, Failed, Skipped, Unknown
	StartTime   string       `json:"startTime,omitempty"`
	EndTime     string       `json:"endTime,omitempty"`
	Diagnostics *Diagnostics `json:"diagnostics,omitempty"`
}

// Progress tells of a grant under way. Stopped means the point of no return:
// ApplicationStop has begun (or is about to). Events holds those that changed,
// each with its newest status.
type Progress struct {
	Group      string        `json:"group"`
	Grant      Token         `json:"grant"`
	Stopped    bool          `json:"stopped,omitempty"`
	Events     []EventRecord `json:"events,omitempty"`
	FromOrigin int64         `json:"fromOrigin,omitempty"` // bytes
	FromPeers  int64         `json:"fromPeers,omitempty"`  // bytes
}

// Outcome is how a grant ended on the host.
type Outcome string

// Lapsed: nothing was changed here. Undone: it began, and the previous release
// is back and was started.
const (
	OutcomeSucceeded Outcome = "succeeded"
	OutcomeFailed    Outcome = "failed"
	OutcomeLapsed    Outcome = "lapsed"
	OutcomeUndone    Outcome = "undone"
)

// Done ends a grant.
type Done struct {
	Group      string        `json:"group"`
	Grant      Token         `json:"grant"`
	Outcome    Outcome       `json:"outcome"`
	Stopped    bool          `json:"stopped,omitempty"` // the point of no return had been passed
	Event      string        `json:"event,omitempty"`   // the lifecycle event that failed
	ExitCode   int           `json:"exitCode,omitempty"`
	ErrorCode  string        `json:"errorCode,omitempty"`
	Message    string        `json:"message,omitempty"`
	Events     []EventRecord `json:"events,omitempty"` // all of them
	FromOrigin int64         `json:"fromOrigin,omitempty"`
	FromPeers  int64         `json:"fromPeers,omitempty"`
}

// HealthState is the verdict of a group's checks on one host.
type HealthState string

// Unknown is never counted as healthy.
const (
	HealthHealthy   HealthState = "healthy"
	HealthUnhealthy HealthState = "unhealthy"
	HealthUnknown   HealthState = "unknown"
)

// Health is the verdict of the checks on what the host runs now. After a Done
// only verdicts measured after it may be sent with its spec hash.
type Health struct {
	Group    string      `json:"group"`
	SpecHash string      `json:"specHash"`
	State    HealthState `json:"state"`
	Evidence string      `json:"evidence,omitempty"`
}

// Verb is what an operator may ask.
type Verb string

// Stop ends the deployment under way, Pause stops new grants, Resume takes
// Pause back, Retry lifts the quarantine of the desired spec and a Blocked
// state, Skip ends the present bake.
const (
	VerbStop   Verb = "stop"
	VerbPause  Verb = "pause"
	VerbResume Verb = "resume"
	VerbRetry  Verb = "retry"
	VerbSkip   Verb = "skip"
)

// Operator is a person's request, from any host. ID makes it idempotent.
type Operator struct {
	Group  string `json:"group"`
	ID     string `json:"id"`
	Verb   Verb   `json:"verb"`
	Actor  string `json:"actor"`
	Reason string `json:"reason,omitempty"`
}

// Raise moves the set to a newer version of commands and snapshots. Leader
// only. A replica that does not support it stops (Machine.Err).
type Raise struct {
	Version int `json:"version"`
}

// Response is what Machine.Apply answers, as JSON.
type Response struct {
	OK      bool   `json:"ok"`
	Refused string `json:"refused,omitempty"` // one sentence
}
