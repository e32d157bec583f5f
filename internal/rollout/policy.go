package rollout

import (
	"fmt"
	"strings"
	"time"
)

// MinimumType says how a minimum is counted.
type MinimumType string

// The two ways of CodeDeploy's API.
const (
	HostCount    MinimumType = "HOST_COUNT"
	FleetPercent MinimumType = "FLEET_PERCENT"
)

// Minimum is a number of hosts or a share of them. The zero value means none.
type Minimum struct {
	Type  MinimumType `json:"type,omitempty"`
	Value int         `json:"value,omitempty"` // hosts, or percent
}

// Of returns the minimum for n hosts; shares are rounded up. It may exceed n.
func (m Minimum) Of(n int) int {
	if m.Type == FleetPercent {
		return (n*m.Value + 99) / 100
	}
	return m.Value
}

func (m Minimum) set() bool { return m.Type != "" }

// Limit is an upper bound in hosts or percent of them. The zero value means no limit.
type Limit struct {
	Set     bool `json:"set,omitempty"`
	Percent bool `json:"percent,omitempty"`
	Value   int  `json:"value,omitempty"` // hosts, or percent
}

// Of returns the bound for n hosts; shares are rounded down.
func (l Limit) Of(n int) int {
	if l.Percent {
		return n * l.Value / 100
	}
	return l.Value
}

// Wave is one step of a rollout; exactly one of Hosts, Percent, Tag and Rest is meant.
type Wave struct {
	Hosts   int           `json:"hosts,omitempty"`   // so many of the hosts that are left
	Percent int           `json:"percent,omitempty"` // of all N, rounded up
	Tag     string        `json:"tag,omitempty"`     // KEY=VALUE
	Rest    bool          `json:"rest,omitempty"`
	Bake    time.Duration `json:"bake,omitempty"` // replicated time to watch the wave before the next
}

// Zonal is CodeDeploy's ZonalConfig: one zone after the other.
type Zonal struct {
	FirstMonitor time.Duration `json:"firstMonitor,omitempty"` // after the first zone
	Monitor      time.Duration `json:"monitor,omitempty"`      // after every other zone
	PerZone      Minimum       `json:"perZone,omitzero"`       // minimum healthy hosts a zone; none = 0
}

// Unreachable says what happens with hosts that are dead when a rollout starts.
type Unreachable string

// What group.yaml's `unreachable` may say.
const (
	UnreachableSkip Unreachable = "skip" // out of N, Behind, caught up on return (default)
	UnreachableWait Unreachable = "wait" // hold until they are back
	UnreachableFail Unreachable = "fail" // in N, counted as failed, as CodeDeploy does
)

// Supersede says what a new target does to a rollout under way.
type Supersede string

// What group.yaml's `supersede` may say.
const (
	SupersedeFastForward Supersede = "fast-forward"        // hosts in flight finish, the rest go to the newest (default)
	SupersedeQueue       Supersede = "queue"               // the rollout ends first
	SupersedeCancel      Supersede = "cancel-and-rollback" // stop, roll back, then the newest
)

// RollbackEvent names what starts an automatic rollback, in CodeDeploy's words.
type RollbackEvent string

// CodeDeploy's three rollback events.
const (
	RollbackOnFailure RollbackEvent = "DEPLOYMENT_FAILURE"
	RollbackOnAlarm   RollbackEvent = "DEPLOYMENT_STOP_ON_ALARM"
	RollbackOnRequest RollbackEvent = "DEPLOYMENT_STOP_ON_REQUEST"
)

// Policy is how a group rolls out. It is frozen into the Target that the leader
// proposes, so that every replica judges by the same text. Durations left zero
// take the default written beside them.
type Policy struct {
	ConfigName      string          `json:"configName,omitempty"`      // for display: CodeDeployDefault.OneAtATime, ...
	MinimumHealthy  Minimum         `json:"minimumHealthy,omitzero"`   // not used when OneAtATime
	OneAtATime      bool            `json:"oneAtATime,omitempty"`      // window 1, m = N-1
	HalfAtATime     bool            `json:"halfAtATime,omitempty"`     // 50 %, and a group of one is deployed all the same
	MaxUnavailable  Limit           `json:"maxUnavailable,omitzero"`   // narrows the window further
	MaxFailures     Limit           `json:"maxFailures,omitzero"`      // more failures than this fail the deployment
	MinSuccess      Minimum         `json:"minSuccess,omitzero"`       // 100 % allowed
	Waves           []Wave          `json:"waves,omitempty"`           // empty: one wave of all; hosts left over form a last wave
	Zonal           *Zonal          `json:"zonal,omitempty"`           // instead of Waves
	Unreachable     Unreachable     `json:"unreachable,omitempty"`     // "" = skip
	MaxUnreachable  Limit           `json:"maxUnreachable,omitzero"`   // not set: 20 %; at least one host when not 0
	Supersede       Supersede       `json:"supersede,omitempty"`       // "" = fast-forward
	AutoRollback    []RollbackEvent `json:"autoRollback,omitempty"`    // empty = off
	Checks          int             `json:"checks,omitempty"`          // number of health checks; 0: a host that succeeded is healthy
	ReadyDeadline   time.Duration   `json:"readyDeadline,omitempty"`   // 5 min: wait for every host's Ready before the first grant
	HealthDeadline  time.Duration   `json:"healthDeadline,omitempty"`  // 10 min: from Done to a healthy verdict
	DeadAfter       time.Duration   `json:"deadAfter,omitempty"`       // 60 s of silence: unreachable
	LostAfter       time.Duration   `json:"lostAfter,omitempty"`       // 15 min of silence in mid-rollout: the deployment ends without it
	OutageGrace     time.Duration   `json:"outageGrace,omitempty"`     // 60 s: reboots inside it count together as one outage
	SupersedeQuiet  time.Duration   `json:"supersedeQuiet,omitempty"`  // 30 s without another target before one supersedes; 5 min at most
	DeploymentLimit time.Duration   `json:"deploymentLimit,omitempty"` // 8 h from the first grant, or from the opening while there is none, as CodeDeploy
	BusyRetry       time.Duration   `json:"busyRetry,omitempty"`       // 5 s before a busy host is granted again
	HandoverWait    time.Duration   `json:"handoverWait,omitempty"`    // 30 s for leadership to move before the leader's host is granted anyhow
}

// Predefined returns the policy of one of CodeDeploy's predefined deployment
// configurations for hosts; "" is OneAtATime. The prefix CodeDeployDefault. may
// be left out.
func Predefined(name string) (Policy, error) {
	switch strings.TrimPrefix(name, "CodeDeployDefault.") {
	case "", "OneAtATime":
		return Policy{ConfigName: "CodeDeployDefault.OneAtATime", OneAtATime: true}, nil
	case "HalfAtATime":
		return Policy{ConfigName: "CodeDeployDefault.HalfAtATime", HalfAtATime: true}, nil
	case "AllAtOnce":
		return Policy{ConfigName: "CodeDeployDefault.AllAtOnce", MinimumHealthy: Minimum{Type: HostCount}}, nil
	}
	return Policy{}, fmt.Errorf("cannot find deployment configuration %q: it is neither CodeDeployDefault.OneAtATime, HalfAtATime nor AllAtOnce", name)
}

// Minimum returns m for n hosts before any cap: the hosts that must stay healthy.
func (p Policy) Minimum(n int) int {
	switch {
	case p.OneAtATime:
		return max(0, n-1)
	case p.HalfAtATime:
		return (n + 1) / 2
	}
	return p.MinimumHealthy.Of(n)
}

// Budget returns B = N - m: how many of n hosts may be down at once. It is
// negative when the minimum exceeds the group.
func (p Policy) Budget(n int) int {
	if p.HalfAtATime && n == 1 {
		return 1 // half of one: AWS does not say; ours deploys it, and it must succeed
	}
	return n - p.Minimum(n)
}

func (p Policy) unreachable() Unreachable {
	if p.Unreachable == "" {
		return UnreachableSkip
	}
	return p.Unreachable
}

func (p Policy) supersede() Supersede {
	if p.Supersede == "" {
		return SupersedeFastForward
	}
	return p.Supersede
}

func (p Policy) rollsBackOn(e RollbackEvent) bool {
	for _, have := range p.AutoRollback {
		if have == e {
			return true
		}
	}
	return false
}

// maxUnreachable is how many of n members may be left out at the start.
func (p Policy) maxUnreachable(n int) int {
	l := p.MaxUnreachable
	if !l.Set {
		l = Limit{Set: true, Percent: true, Value: 20}
	}
	if l.Value == 0 {
		return 0
	}
	return max(1, l.Of(n))
}

// supersedeMax bounds how long superseding targets are coalesced.
const supersedeMax = 5 * time.Minute

func (p Policy) readyDeadline() time.Duration  { return or(p.ReadyDeadline, 5*time.Minute) }
func (p Policy) healthDeadline() time.Duration { return or(p.HealthDeadline, 10*time.Minute) }
func (p Policy) deadAfter() time.Duration      { return or(p.DeadAfter, time.Minute) }
func (p Policy) lostAfter() time.Duration      { return or(p.LostAfter, 15*time.Minute) }
func (p Policy) outageGrace() time.Duration    { return or(p.OutageGrace, time.Minute) }
func (p Policy) supersedeQuiet() time.Duration { return or(p.SupersedeQuiet, 30*time.Second) }
func (p Policy) limit() time.Duration          { return or(p.DeploymentLimit, 8*time.Hour) }
func (p Policy) busyRetry() time.Duration      { return or(p.BusyRetry, 5*time.Second) }
func (p Policy) handoverWait() time.Duration   { return or(p.HandoverWait, 30*time.Second) }

func or(d, byDefault time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return byDefault
}
