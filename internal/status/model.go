// Package status is what operators see: the read model of every deployment group, the HTTP API that serves it on the unix socket and between hosts, the
// client that the command line uses, and the metrics. It decides nothing and changes nothing: reads come from a Source that the agent implements, and the few
// writes (sync, stop, pause, resume, retry) are handed to it.
//
// The JSON here is the contract of the command line's `-o json`: keys are added, never renamed.
package status

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// APIVersion names the shape of every JSON document of this package.
const APIVersion = "gitopsd.io/v1"

// Revision is what runs or should run: the commit that asked for it, the spec hash that identifies it, the digest of its bundle.
type Revision struct {
	Commit   string `json:"commit,omitempty"`
	SpecHash string `json:"specHash,omitempty"`
	Digest   string `json:"digest,omitempty"`
}

// Diagnostics says why a lifecycle event failed, with CodeDeploy's names: Success, ScriptMissing, ScriptNotExecutable, ScriptTimedOut, ScriptFailed,
// UnknownError. LogTail holds at most 4 KiB.
type Diagnostics struct {
	ErrorCode  string `json:"errorCode,omitempty"`
	ScriptName string `json:"scriptName,omitempty"`
	Message    string `json:"message,omitempty"`
	LogTail    string `json:"logTail,omitempty"`
}

// Event is one lifecycle event of one host in one deployment.
type Event struct {
	Event       string       `json:"event"`
	Status      string       `json:"status"`
	StartTime   string       `json:"startTime,omitempty"`
	EndTime     string       `json:"endTime,omitempty"`
	Diagnostics *Diagnostics `json:"diagnostics,omitempty"`
}

// Place names the event and, where one is to blame, its script: a supervisor that ended names none.
func (e Event) Place() string {
	if e.Diagnostics == nil || e.Diagnostics.ScriptName == "" {
		return e.Event
	}
	return e.Event + " " + e.Diagnostics.ScriptName
}

// Host is one member of a group.
type Host struct {
	Name            string  `json:"name"`
	Status          string  `json:"status"`
	Health          string  `json:"health"`
	Evidence        string  `json:"evidence,omitempty"`
	Revision        string  `json:"revision,omitempty"`
	Alive           string  `json:"alive,omitempty"`
	Reason          string  `json:"reason,omitempty"`
	Events          []Event `json:"events"`
	BytesFromOrigin int64   `json:"bytesFromOrigin"`
	BytesFromPeers  int64   `json:"bytesFromPeers"`
	BytesPerSecond  int64   `json:"bytesPerSecond,omitempty"` // while the bundle comes; some seconds old where another host said it
	ETASeconds      int64   `json:"etaSeconds,omitempty"`     // until the bundle is there, at that rate
}

// Deployment is the attempt under way, or the last one.
type Deployment struct {
	ID         string `json:"id"`
	Creator    string `json:"creator"`
	Status     string `json:"status"`
	Wave       int    `json:"wave"`
	Waves      int    `json:"waves"`
	Reason     string `json:"reason,omitempty"`
	Leader     string `json:"leader,omitempty"`
	Term       uint64 `json:"term,omitempty"`
	RollbackOf string `json:"rollbackOf,omitempty"`
}

// Failure is a lifecycle event that failed in an earlier deployment and still decides: it is why a revision is held back.
type Failure struct {
	Deployment string `json:"deployment"`
	Host       string `json:"host"`
	Event
}

// Group is one deployment group.
type Group struct {
	Group       string      `json:"group"`
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Application string      `json:"applicationName"`
	State       string      `json:"state"`
	Why         string      `json:"why"`
	Desired     Revision    `json:"desired"`
	Running     Revision    `json:"running"`
	Deployment  *Deployment `json:"deployment,omitempty"`
	Quarantined []string    `json:"quarantined,omitempty"`
	Failures    []Failure   `json:"failures,omitempty"`
	NoLeader    bool        `json:"noLeader,omitempty"`   // its coordinator set has no leader, so nothing new starts
	Joining     []string    `json:"joining,omitempty"`    // hosts that are still to get what the group runs
	JoinFailed  []string    `json:"joinFailed,omitempty"` // hosts that did not get it in as many tries as there are
	Hosts       []Host      `json:"hosts"`
}

// Report answers `gitopsd status`.
type Report struct {
	APIVersion string   `json:"apiVersion"`
	Host       string   `json:"host"`
	Commit     string   `json:"commit,omitempty"`
	Notices    []Notice `json:"notices"`
	Groups     []Group  `json:"groups"`
}

// Notice is a condition that a person should know of and that no deployment's reason tells: a refused tip, a mirror out of reach, a broken file.
type Notice struct {
	Kind    string `json:"kind"`
	Host    string `json:"host,omitempty"`
	Subject string `json:"subject,omitempty"`
	Message string `json:"message"`
	Since   string `json:"since,omitempty"`
}

// Past is one deployment of a group's history.
type Past struct {
	ID         string   `json:"id"`
	Creator    string   `json:"creator"`
	Commit     string   `json:"commit"`
	Signers    []string `json:"signers"`
	SpecHash   string   `json:"specHash"`
	Digest     string   `json:"digest"`
	Status     string   `json:"status"`
	StartTime  string   `json:"startTime,omitempty"`
	EndTime    string   `json:"endTime,omitempty"`
	RollbackOf string   `json:"rollbackOf,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Hosts      []Host   `json:"hosts"`
}

// History answers `gitopsd history GROUP`, newest first.
type History struct {
	APIVersion  string `json:"apiVersion"`
	Group       string `json:"group"`
	Deployments []Past `json:"deployments"`
}

// LogQuery says which hook output is wanted. Empty fields mean: the host asked, the newest deployment that ran something there, every event.
type LogQuery struct {
	Group      string
	Host       string
	Deployment string
	Event      string
}

// Operation is a write of an operator: it steers execution, never what should run.
type Operation struct {
	Verb   string `json:"verb"` // sync | stop | pause | resume | retry | skip
	Group  string `json:"group,omitempty"`
	Actor  string `json:"actor,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// missing names the fields without which an operation means nothing: sync steers no group, and nobody is kept with it.
func (op Operation) missing() []string {
	var names []string
	for _, f := range []struct {
		name, value string
		ofGroup     bool
	}{{"verb", op.Verb, false}, {"group", op.Group, true}, {"actor (who asks)", op.Actor, true}} {
		if f.value == "" && !(f.ofGroup && op.Verb == "sync") {
			names = append(names, f.name)
		}
	}
	return names
}

// Awaited answers one question of `gitopsd wait`.
type Awaited struct {
	Done    bool   `json:"done"`
	Code    int    `json:"code"` // of an answer that is not final: CodeNoQuorum, or 0
	State   string `json:"state"`
	Message string `json:"message"`
	Group   Group  `json:"group"`
}

// CodeNoQuorum is the exit code of whoever gives up waiting while nothing can be decided.
const CodeNoQuorum = 8

// Progress is what of an answer is worth a line while one waits: the state, whether nobody leads, and how many hosts stand how. It stays the same while only times and numbers of bytes
// move on.
func (a Awaited) Progress() string {
	state, counts, order := a.State, map[string]int{}, []string{}
	if !a.Done && a.Code == CodeNoQuorum {
		state += " without a leader"
	}
	for _, h := range a.Group.Hosts {
		if counts[h.Status] == 0 {
			order = append(order, h.Status)
		}
		counts[h.Status]++
	}
	slices.Sort(order)
	parts := make([]string, 0, len(order))
	for _, s := range order {
		parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
	}
	if len(parts) == 0 {
		return state
	}
	hosts := "hosts"
	if len(a.Group.Hosts) == 1 {
		hosts = "host"
	}
	return fmt.Sprintf("%s: of %d %s %s", state, len(a.Group.Hosts), hosts, strings.Join(parts, ", "))
}

// StateInvalidConfig is the state of a group whose files in the commit in effect cannot be used: nothing new starts, and what runs goes on.
const StateInvalidConfig = "InvalidConfig"

// Find picks the group that name means: its folder, its id, or, where that is unique, its deployment group name, and after that the last part of its folder.
func (r Report) Find(name string) (Group, error) {
	var named, ending []Group
	for _, g := range r.Groups {
		switch {
		case name == "":
		case g.Group == name || g.ID == name:
			return g, nil
		case g.Name == name:
			named = append(named, g)
		case path.Base(g.Group) == name:
			ending = append(ending, g)
		}
	}
	what := "are named"
	if len(named) == 0 {
		named, what = ending, "have a folder named"
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return Group{}, unknownGroup(name, r.near(name))
	}
	return Group{}, fmt.Errorf("cannot choose a group: %d groups %s %q; name one by its folder, for instance %q", len(named), what, name, named[0].Group)
}

// UnknownGroupError says that no group has a name, and which one was perhaps meant.
type UnknownGroupError struct{ Message string }

func (e *UnknownGroupError) Error() string { return e.Message }

// unknownGroup words the error; near may be empty.
func unknownGroup(name, near string) error {
	if near == "" {
		return &UnknownGroupError{fmt.Sprintf("cannot find group %q: `gitopsd status` lists the groups", name)}
	}
	return &UnknownGroupError{fmt.Sprintf("cannot find group %q: did you mean %q?", name, near)}
}

// near finds the group whose folder or name is as near as a typing mistake.
func (r Report) near(name string) string {
	var names []string
	for _, g := range r.Groups {
		names = append(names, g.Group, g.Name)
	}
	slices.Sort(names)
	return strict.Nearest(name, slices.Compact(names))
}

// Stamp renders a time the way every document here does; the zero time is empty.
func Stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
