package rollout

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Group returns a copy of one group's state, by id, folder, or a
// deploymentGroupName that is unique in the set.
func (m *Machine) Group(name string) (GroupView, bool) {
	g := m.lookup(name)
	if g == nil {
		return GroupView{}, false
	}
	return m.view(g), true
}

func (m *Machine) lookup(name string) *group {
	if g, _, ok := m.find(name); ok {
		return g
	}
	var named *group
	for _, g := range m.s.Groups {
		if g.Folder == name && name != "" {
			return g
		}
	}
	for _, g := range m.s.Groups {
		if g.Name != name || name == "" {
			continue
		}
		if named != nil {
			return nil
		}
		named = g
	}
	return named
}

// Groups returns copies of all groups, by folder.
func (m *Machine) Groups() []GroupView {
	out := make([]GroupView, 0, len(m.s.Groups))
	for _, g := range m.s.Groups {
		out = append(out, m.view(g))
	}
	slices.SortStableFunc(out, func(a, b GroupView) int { return strings.Compare(a.Group, b.Group) })
	return out
}

// History returns the deployments of a group, newest first, at most 50 ended
// ones and those under way.
func (m *Machine) History(name string) ([]DeploymentView, bool) {
	g := m.lookup(name)
	if g == nil {
		return nil, false
	}
	var out []DeploymentView
	add := func(d *deployment) {
		if d == nil {
			return
		}
		v := m.deploymentView(d)
		v.Hosts = make([]HostView, 0, len(d.Rows))
		for _, r := range d.Rows {
			v.Hosts = append(v.Hosts, m.hostView(g, d, r, r.Host))
		}
		out = append(out, v)
	}
	add(g.CatchUp)
	add(g.Active)
	for i := len(g.History) - 1; i >= 0; i-- {
		add(g.History[i])
	}
	return out, true
}

func (m *Machine) view(g *group) GroupView {
	v := GroupView{
		Group: g.label(), ID: g.ID, Application: g.Application, Name: g.Name, Desired: g.Desired.Spec, Running: g.Running,
		Attempt: g.Desired.Attempt, TargetVersion: g.TargetVersion, Version: g.Version, Quarantine: slices.Clone(g.Quarantine),
		Suspended: g.Suspended, Orphaned: g.Orphaned, Actions: slices.Clone(g.Actions), Frozen: g.Frozen,
		Policy: copied(g.Desired.Policy), Hosts: []HostView{},
	}
	if g.Paused != nil {
		p := *g.Paused
		v.Paused = &p
	}
	for _, mem := range g.Members {
		mem.Tags = maps.Clone(mem.Tags)
		v.Members = append(v.Members, mem)
	}
	main := g.main()
	if main != nil {
		dv := m.deploymentView(main)
		v.Deployment = &dv
	}
	if g.CatchUp != nil {
		dv := m.deploymentView(g.CatchUp)
		v.CatchUp = &dv
	}
	ordered := slices.Clone(g.Members)
	slices.SortStableFunc(ordered, func(a, b MemberInfo) int { return naturalCompare(a.Host, b.Host) })
	keptBehind := g.keptBehind(m.turn())
	for _, mem := range ordered {
		v.Hosts = append(v.Hosts, m.standing(g, main, mem.Host, keptBehind))
	}
	v.State, v.Reason = g.state(m.turn())
	v.Joining, v.JoinFailed = m.joining(g)
	return v
}

func copied(p Policy) Policy {
	p.Waves, p.AutoRollback = slices.Clone(p.Waves), slices.Clone(p.AutoRollback)
	if p.Zonal != nil {
		z := *p.Zonal
		p.Zonal = &z
	}
	return p
}

// main is the deployment that status speaks of: the one under way, the one that
// brought what is desired and runs, or the last that concerned the whole group.
func (g *group) main() *deployment {
	if g.Active != nil {
		return g.Active
	}
	newest := g.newest()
	if !g.settled() {
		return newest
	}
	for i := len(g.History) - 1; i >= 0; i-- {
		if d := g.History[i]; d.Kind != KindCatchUp && d.Status == StateSucceeded && d.Spec.SpecHash == g.Running.SpecHash {
			return d
		}
	}
	return newest
}

// newest is the last deployment that ended and concerned the whole group.
func (g *group) newest() *deployment {
	for i := len(g.History) - 1; i >= 0; i-- {
		if g.History[i].Kind != KindCatchUp {
			return g.History[i]
		}
	}
	return nil
}

// settled says whether what runs is what is desired, whatever was tried in
// between and changed nothing.
func (g *group) settled() bool {
	return g.Running.SpecHash != "" && g.Running.SpecHash == g.Desired.Spec.SpecHash && !g.Mixed && !g.Blocked
}

// lastCatchUp finds a host's catch-up after the deployment status speaks of.
func (g *group) lastCatchUp(host string, after *deployment) (*deployment, *row) {
	for i := len(g.History) - 1; i >= 0 && g.History[i] != after; i-- {
		if r := g.History[i].row(host); r != nil && g.History[i].Kind == KindCatchUp {
			return g.History[i], r
		}
	}
	return nil, nil
}

func (m *Machine) deploymentView(d *deployment) DeploymentView {
	v := DeploymentView{
		ID: d.ID, Creator: d.Creator, Kind: d.Kind, Commit: d.Spec.Commit, SpecHash: d.Spec.SpecHash, Digest: d.Spec.Digest,
		Signers: slices.Clone(d.Signers), Status: d.Status, ErrorCode: d.ErrorCode, Waves: len(d.Waves), Reason: d.Reason,
		Leader: d.Leader, Term: d.Term, RollbackOf: d.RollbackOf, RolledBack: d.RolledBack, StartTime: d.StartTime, EndTime: d.EndTime,
		N: d.N, Minimum: d.M, Budget: d.B,
	}
	if d.Granted > 0 || d.BakeBy > 0 || d.Wave > 0 || d.ended() {
		v.Wave = d.Wave + 1
	}
	if d.BakeBy > m.s.Now {
		v.BakeLeft = d.BakeBy - m.s.Now
	}
	return v
}

// hostView shows a host as a deployment saw it; d and r may be nil.
func (m *Machine) hostView(g *group, d *deployment, r *row, name string) HostView {
	v := HostView{Name: name, Status: "Pending", Health: HealthUnknown, Alive: !m.isDead(name), Events: []EventRecord{}}
	h := g.host(name)
	if h != nil {
		v.Revision, v.SpecHash = h.Running.Commit, h.Running.SpecHash
		v.Health = g.shownHealth(m, h)
	}
	if r == nil {
		switch {
		case h != nil && g.Running.SpecHash != "" && g.runs(h, g.Running):
			v.Status = "Succeeded"
		case h != nil && g.Running.SpecHash != "":
			v.Status = "Behind"
		}
		return v
	}
	v.Wave, v.Reason, v.FromOrigin, v.FromPeers = r.Wave+1, r.Reason, r.FromOrigin, r.FromPeers
	for _, e := range r.Events {
		if e.Diagnostics != nil {
			diag := *e.Diagnostics
			e.Diagnostics = &diag
		}
		v.Events = append(v.Events, e)
	}
	switch r.Status {
	case rowGranted, rowInProgress, rowVerifying:
		v.Status = "InProgress"
	case rowSucceeded, rowUnavailable:
		v.Status = "Succeeded"
		if d.ended() && h != nil && !h.Known && h.Running.SpecHash == "" { // another machine has its name by now
			v.Status, v.Reason = "Behind", "it has not said yet what it runs"
		}
	case rowBehind:
		v.Status = "Behind"
		if h != nil && g.runs(h, g.Running) {
			v.Status = "Succeeded"
		}
	case rowPending:
		v.Status = "Pending"
		if ready, ok := readyOf(h, d.Spec.SpecHash); ok && ready.Refused == "" {
			v.Status = "Ready"
		} else if ok {
			v.Reason = ready.Reason
		}
	default:
		v.Status = string(r.Status)
		if r.Status == rowFailed && h != nil && !h.Whole && h.Running.SpecHash == d.Spec.SpecHash && neverInstalled(r.Events) {
			v.Revision = "" // it counts as the deployment's, whose files never came; which are in place it says after its next start
		}
	}
	return v
}

// neverInstalled says whether a deployment ended before its files were in place; an Install that fails is undone.
func neverInstalled(events []EventRecord) bool {
	return slices.ContainsFunc(events, func(e EventRecord) bool { return e.Event == "Install" && e.Status != "Succeeded" })
}

func readyOf(h *host, specHash string) (standing, bool) {
	if h == nil {
		return standing{}, false
	}
	return h.readyFor(specHash)
}

func (g *group) shownHealth(m *Machine, h *host) HealthState {
	switch {
	case !h.Known || m.isDead(h.Name) || h.Grant != nil || h.Settle, h.Running.SpecHash == "": // what was never deployed to is not ill
		return HealthUnknown
	case !h.Whole:
		return HealthUnhealthy
	case g.Desired.Policy.Checks == 0:
		return HealthHealthy
	case h.Check == "":
		return HealthUnknown
	}
	return h.Check
}

// Assignments returns what the state wants of one host, by group id.
func (m *Machine) Assignments(name string) []Assignment {
	var out []Assignment
	for _, g := range m.s.Groups {
		h := g.host(name)
		if h == nil || g.TargetVersion == 0 {
			continue
		}
		_, member := g.member(name)
		a := Assignment{
			Group: g.ID, Member: member, LastGood: g.Running, Boot: h.Boot, Running: h.Running, Known: h.Known, Whole: h.Whole,
			Last: h.Last, Checks: g.Desired.Policy.Checks, Paused: g.Paused != nil,
		}
		for _, r := range h.Ready {
			a.Ready = append(a.Ready, r.Ready)
		}
		if member && !g.Orphaned && g.Frozen == "" {
			a.Prepare = g.prepare()
		}
		if h.Check != "" {
			a.Health = Health{Group: g.ID, SpecHash: h.Running.SpecHash, State: h.Check, Evidence: h.Proof}
		}
		if h.Grant != nil && g.Frozen == "" {
			grant := *h.Grant
			a.Grant = &grant
		}
		out = append(out, a)
	}
	return out
}

// bakeLeft is how long the bake under way lasts.
func (d *deployment) bakeLeft(now time.Duration) time.Duration { return max(0, d.BakeBy-now) }
