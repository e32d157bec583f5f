package rollout

import (
	"slices"
	"strings"
	"time"
)

// Bounds on what is kept and read.
const (
	maxGroups      = 4096
	maxMembers     = 10_000
	maxHistory     = 50      // deployments a group
	maxHistoryRows = 4_000   // host rows with events over all of a group's history
	maxHistoryLogs = 256_000 // bytes of diagnostics over all of a group's history
	maxQuarantine  = 16
	maxGood        = 32
	maxActions     = 16
	maxEvents      = 32 // lifecycle events a host and deployment
	maxPrepare     = 3  // specs a host is asked to be Ready for
	maxTick        = 5 * time.Second
	maxName        = 255
	maxSentence    = 1024
	maxLogTail     = 4096
	maxCommand     = 4 << 20

	maxDeploymentLogs = 64 << 10 // bytes of log tails a deployment; beyond it they are cut to shortLogTail
	shortLogTail      = 256

	defaultSetActive = 20
	catchUpTries     = 3
	catchUpBackoff   = 5 * time.Minute
)

// setState is all of a Machine, in the form in which it is snapshotted: slices
// are sorted by name or id, so that equal states have equal bytes and no
// decision depends on the order of a map.
type setState struct {
	Version     int           `json:"version"`
	Now         time.Duration `json:"now"`
	Index       uint64        `json:"index"`
	Epoch       uint64        `json:"epoch"`
	Leader      string        `json:"leader,omitempty"`
	Term        uint64        `json:"term,omitempty"`
	LedAt       int64         `json:"ledAt,omitempty"` // Unix seconds, by its own clock, of a leader's last command
	Voters      []string      `json:"voters,omitempty"`
	Dead        []deadHost    `json:"dead,omitempty"`
	GrantSeq    uint64        `json:"grantSeq"`
	SetActive   int           `json:"setActive,omitempty"`
	SetInFlight int           `json:"setInFlight,omitempty"`
	Groups      []*group      `json:"groups,omitempty"`
}

type deadHost struct {
	Host  string        `json:"host"`
	Since time.Duration `json:"since"` // may be negative: dead before the clock began
}

// group is the state of one deployment group.
type group struct {
	ID            string           `json:"id"`
	Application   string           `json:"application,omitempty"`
	Name          string           `json:"name,omitempty"`
	Folder        string           `json:"folder,omitempty"`
	Version       uint64           `json:"version"`
	TargetVersion uint64           `json:"targetVersion"`
	Frozen        string           `json:"frozen,omitempty"`
	Orphaned      bool             `json:"orphaned,omitempty"`
	Suspended     bool             `json:"suspended,omitempty"`
	SuspendReason string           `json:"suspendReason,omitempty"` // "" when group.yaml says so
	Paused        *OperatorAction  `json:"paused,omitempty"`
	Actions       []OperatorAction `json:"actions,omitempty"`

	Desired  want          `json:"desired"`
	Members  []MemberInfo  `json:"members,omitempty"`
	Changed  time.Duration `json:"changed,omitempty"` // when Desired last changed while a rollout ran
	FirstNew time.Duration `json:"firstNew,omitempty"`
	Waiting  bool          `json:"waiting,omitempty"` // a superseding target is being coalesced

	Running    Spec          `json:"running,omitzero"` // last good
	RunSigners []string      `json:"runSigners,omitempty"`
	Good       []string      `json:"good,omitempty"` // spec hashes this group ran well, newest last
	Quarantine []Quarantined `json:"quarantine,omitempty"`
	Mixed      bool          `json:"mixed,omitempty"`   // a deployment ended otherwise than well and nothing has tidied up since
	Blocked    bool          `json:"blocked,omitempty"` // until a person or another target
	Count      uint64        `json:"count"`             // deployments so far; part of their ids
	Used       bool          `json:"used,omitempty"`    // a host was granted to change once, or said that it has something of the group

	Hosts    []*host       `json:"hosts,omitempty"`
	Active   *deployment   `json:"active,omitempty"`
	CatchUp  *deployment   `json:"catchUp,omitempty"`
	History  []*deployment `json:"history,omitempty"`  // ended ones, oldest first
	PauseAt  time.Duration `json:"pauseAt,omitempty"`  // since when a person lets nothing be granted; 0 = not
	Handover time.Duration `json:"handover,omitempty"` // since when only the leader's own host is next; 0 = not
}

// want is a target with the policy frozen into it.
type want struct {
	Spec    Spec     `json:"spec,omitzero"`
	Attempt int      `json:"attempt,omitempty"`
	Policy  Policy   `json:"policy"`
	Signers []string `json:"signers,omitempty"`
	Subject string   `json:"subject,omitempty"`
}

// host is what a group knows of one host, across deployments.
type host struct {
	Name    string      `json:"name"`
	Storage string      `json:"storage,omitempty"` // of the machine that last was a member under this name, if it is known
	Boot    string      `json:"boot,omitempty"`
	Known   bool        `json:"known,omitempty"`
	Running Spec        `json:"running,omitzero"`
	Whole   bool        `json:"whole,omitempty"` // the last thing installed here was installed to the end
	Check   HealthState `json:"check,omitempty"` // verdict of the checks for Running
	Proof   string      `json:"proof,omitempty"` // its evidence
	Ready   []standing  `json:"ready,omitempty"`
	Grant   *Grant      `json:"grant,omitempty"`
	Last    Token       `json:"last,omitzero"`    // newest grant it has answered: its own record is never older
	Settle  bool        `json:"settle,omitempty"` // succeeded, not yet known healthy

	SettleBy  time.Duration `json:"settleBy,omitempty"`
	SettleFor string        `json:"settleFor,omitempty"` // deployment
	Touched   bool          `json:"touched,omitempty"`   // changed since the group last ran one spec well
	Rebooted  time.Duration `json:"rebooted,omitempty"`  // of the last new boot; 0 = none
	NotUntil  time.Duration `json:"notUntil,omitempty"`  // not granted before
	Joined    time.Duration `json:"joined,omitempty"`    // when it became a member
	Left      time.Duration `json:"left,omitempty"`      // when it ceased to be one, in the middle of a grant; 0 = it is one, or is older than this
	Tries     int           `json:"tries,omitempty"`     // failed catch-ups with TriedOn
	TriedOn   string        `json:"triedOn,omitempty"`   // spec hash that failed here
}

// standing is how a host stands with a spec, as it last said.
type standing struct {
	Ready
	Since time.Duration `json:"since,omitempty"` // when a refusal for the host's own state began
}

// deployment is one attempt to bring hosts to a spec.
type deployment struct {
	ID         string        `json:"id"`
	Kind       Kind          `json:"kind"`
	Creator    string        `json:"creator"`
	Spec       Spec          `json:"spec"`
	Attempt    int           `json:"attempt,omitempty"`
	Policy     Policy        `json:"policy"`
	Signers    []string      `json:"signers,omitempty"`
	Status     string        `json:"status"`
	ErrorCode  string        `json:"errorCode,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	RollbackOf string        `json:"rollbackOf,omitempty"`
	RolledBack string        `json:"rolledBackBy,omitempty"`
	StartTime  string        `json:"startTime,omitempty"`
	EndTime    string        `json:"endTime,omitempty"`
	Leader     string        `json:"leader,omitempty"`
	Term       uint64        `json:"term,omitempty"`
	N          int           `json:"n"`
	M          int           `json:"m"`
	B          int           `json:"b"`
	U          int           `json:"u,omitempty"` // unhealthy at the start
	First      bool          `json:"first,omitempty"`
	Planned    bool          `json:"planned,omitempty"`
	Opened     bool          `json:"opened,omitempty"` // the gate of Ready is behind us
	Thin       bool          `json:"thin,omitempty"`   // old: only failed hosts are kept
	Created    time.Duration `json:"created"`
	OpenedAt   time.Duration `json:"openedAt,omitempty"` // 0 also in a state that is older than it
	Granted    time.Duration `json:"granted,omitempty"`  // of the first grant; 0 = none
	Wave       int           `json:"wave"`               // index into Waves of the one under way
	Waves      []wave        `json:"waves,omitempty"`
	BakeBy     time.Duration `json:"bakeBy,omitempty"` // end of the bake under way; 0 = none
	Rows       []*row        `json:"rows,omitempty"`   // in the order of the plan
}

type wave struct {
	Hosts int           `json:"hosts"`
	Bake  time.Duration `json:"bake,omitempty"`
	Zone  string        `json:"zone,omitempty"`
	ZoneM int           `json:"zoneM,omitempty"` // minimum healthy in that zone
	Zonal bool          `json:"zonal,omitempty"`
}

// row is one host of one deployment.
type row struct {
	Host       string        `json:"host"`
	Zone       string        `json:"zone,omitempty"`
	Wave       int           `json:"wave"`                 // index
	Broken     bool          `json:"broken,omitempty"`     // unhealthy when the deployment began
	ChecksOnly bool          `json:"checksOnly,omitempty"` // ... by its checks alone
	Status     rowStatus     `json:"status"`
	Out        bool          `json:"out,omitempty"`     // not counted in N
	Left       bool          `json:"left,omitempty"`    // ... because it left the group
	Unmoved    bool          `json:"unmoved,omitempty"` // succeeded without being touched, and is not watched
	Stopped    bool          `json:"stopped,omitempty"` // it passed the point of no return
	Spent      int           `json:"spent,omitempty"`   // grants that changed nothing
	Token      Token         `json:"token,omitzero"`
	Reason     string        `json:"reason,omitempty"`
	Events     []EventRecord `json:"events,omitempty"`
	FromOrigin int64         `json:"fromOrigin,omitempty"`
	FromPeers  int64         `json:"fromPeers,omitempty"`
}

type rowStatus string

const (
	rowPending     rowStatus = "Pending"
	rowGranted     rowStatus = "Granted"    // not yet answered
	rowInProgress  rowStatus = "InProgress" // accepted
	rowVerifying   rowStatus = "Verifying"  // done, not yet known healthy
	rowSucceeded   rowStatus = "Succeeded"
	rowUnavailable rowStatus = "Unavailable" // done, checks red, as they were before
	rowFailed      rowStatus = "Failed"
	rowSkipped     rowStatus = "Skipped"
	rowBehind      rowStatus = "Behind"  // left out, or undone; caught up alone later
	rowLost        rowStatus = "Unknown" // in flight and silent for too long
)

func (s rowStatus) inFlight() bool {
	return s == rowGranted || s == rowInProgress || s == rowVerifying
}

func (s rowStatus) over() bool { return s != rowPending && !s.inFlight() }

// ended says whether no more grants come from the deployment.
func (d *deployment) ended() bool {
	switch d.Status {
	case StateSucceeded, StateFailed, StateStopped, StateSuperseded, StateBlocked:
		return true
	}
	return false
}

func (d *deployment) row(host string) *row {
	if d == nil {
		return nil
	}
	for _, r := range d.Rows {
		if r.Host == host {
			return r
		}
	}
	return nil
}

func (d *deployment) count(is func(*row) bool) int {
	n := 0
	for _, r := range d.Rows {
		if is(r) {
			n++
		}
	}
	return n
}

func (g *group) host(name string) *host {
	i, ok := slices.BinarySearchFunc(g.Hosts, name, func(h *host, n string) int { return strings.Compare(h.Name, n) })
	if !ok {
		return nil
	}
	return g.Hosts[i]
}

// ensureHost makes the state of a host that is new now.
func (g *group) ensureHost(name string, now time.Duration) *host {
	i, ok := slices.BinarySearchFunc(g.Hosts, name, func(h *host, n string) int { return strings.Compare(h.Name, n) })
	if !ok {
		g.Hosts = slices.Insert(g.Hosts, i, &host{Name: name, Joined: now})
	}
	return g.Hosts[i]
}

func (g *group) member(name string) (MemberInfo, bool) {
	i, ok := slices.BinarySearchFunc(g.Members, name, func(m MemberInfo, n string) int { return strings.Compare(m.Host, n) })
	if !ok {
		return MemberInfo{}, false
	}
	return g.Members[i], true
}

// deploymentOf finds a deployment that may still hear from its hosts.
func (g *group) deploymentOf(id string) *deployment {
	if g.Active != nil && g.Active.ID == id {
		return g.Active
	}
	if g.CatchUp != nil && g.CatchUp.ID == id {
		return g.CatchUp
	}
	for i := len(g.History) - 1; i >= 0; i-- {
		if g.History[i].ID == id {
			return g.History[i]
		}
	}
	return nil
}

func (g *group) quarantined(specHash string, attempt int) *Quarantined {
	for i := range g.Quarantine {
		q := &g.Quarantine[i]
		if q.SpecHash == specHash && q.Attempt >= attempt {
			return q
		}
	}
	return nil
}

func (g *group) ranWell(specHash string) bool { return slices.Contains(g.Good, specHash) }

// markGood remembers that the group ran the spec well.
func (g *group) markGood(s Spec, signers []string) {
	g.Running, g.RunSigners = s, signers
	g.Good = slices.DeleteFunc(g.Good, func(h string) bool { return h == s.SpecHash })
	g.Good = append(g.Good, s.SpecHash)
	if len(g.Good) > maxGood {
		g.Good = slices.Delete(g.Good, 0, len(g.Good)-maxGood)
	}
}

// naturalLess orders web-2 before web-10.
func naturalCompare(a, b string) int {
	for len(a) > 0 && len(b) > 0 {
		na, ra := digits(a)
		nb, rb := digits(b)
		if na != "" && nb != "" {
			ta, tb := strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
			if len(ta) != len(tb) {
				return len(ta) - len(tb)
			}
			if c := strings.Compare(ta, tb); c != 0 {
				return c
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) (run, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}
