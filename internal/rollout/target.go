package rollout

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// target takes a proposal in: compare-and-set on the version of the last.
func (m *Machine) target(t *turn, c Target) string {
	if c.Group == "" || c.Spec.SpecHash == "" || c.Spec.Commit == "" {
		return "a target names a group, a commit and a spec hash"
	}
	if _, i, ok := m.find(c.Group); !ok {
		if len(m.s.Groups) >= maxGroups {
			return fmt.Sprintf("this set has %d groups already; name another set in group.yaml", maxGroups)
		}
		m.s.Groups = slices.Insert(m.s.Groups, i, &group{ID: c.Group})
	}
	return m.inGroup(c.Group, func(g *group) string {
		if c.Base != g.TargetVersion {
			return g.staleBase(c.Base)
		}
		c.Members = sortedMembers(c.Members)
		m.s.SetActive, m.s.SetInFlight = c.SetActive, c.SetInFlight
		g.take(t, c)
		return ""
	})
}

// orphan notes that a group left git. One that is known never to have run leaves
// nothing behind that could go on running: it is forgotten, at once or when the
// last of its members has said so.
func (m *Machine) orphan(c Orphan) string {
	forget := false
	refused := m.inGroup(c.Group, func(g *group) string {
		if c.Base != g.TargetVersion {
			return g.staleBase(c.Base)
		}
		if forget = g.neverRan(); !forget && !g.Orphaned {
			g.Orphaned = true
			g.TargetVersion++
		}
		return ""
	})
	if _, i, ok := m.find(c.Group); ok && forget {
		m.s.Groups = slices.Delete(m.s.Groups, i, i+1)
	}
	return refused
}

// neverRan says whether it is known that no host has anything of the group: none
// was ever granted to get it, and every member has said that it has nothing. A
// member that says nothing may run it.
func (g *group) neverRan() bool {
	granted := func(d *deployment) bool { return d != nil && d.Granted > 0 } // of a state older than Used
	if g.Used || g.Running.SpecHash != "" || granted(g.Active) || granted(g.CatchUp) || slices.ContainsFunc(g.History, granted) {
		return false
	}
	return !slices.ContainsFunc(g.Hosts, func(h *host) bool {
		return !h.Known || h.Grant != nil || h.Touched || h.Running.SpecHash != ""
	})
}

func (g *group) staleBase(base uint64) string {
	return fmt.Sprintf("the target of %s has moved on: it is version %d, not %d", g.label(), g.TargetVersion, base)
}

func sortedMembers(list []MemberInfo) []MemberInfo {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b MemberInfo) int { return strings.Compare(a.Host, b.Host) })
	return slices.CompactFunc(list, func(a, b MemberInfo) bool { return a.Host == b.Host })
}

// take makes c the group's target.
func (g *group) take(t *turn, c Target) {
	g.TargetVersion++
	g.Orphaned = false
	g.Application, g.Name, g.Folder = c.Application, c.Name, c.Folder
	g.forgetReplaced(t, c.Members)
	g.Suspended, g.SuspendReason, g.Members = c.Suspend, c.SuspendWhy, c.Members
	moved := c.Spec.SpecHash != g.Desired.Spec.SpecHash || c.Attempt != g.Desired.Attempt
	if moved {
		g.Blocked = false
		if !g.Waiting {
			g.FirstNew = t.now
		}
		g.Changed, g.Waiting = t.now, true
		g.forgetTries()
	}
	if !equalJSON(c.Policy, g.Desired.Policy) {
		// A minimum that could not be kept says nothing of the revision.
		g.Quarantine = slices.DeleteFunc(g.Quarantine, func(q Quarantined) bool {
			d := g.deploymentOf(q.Deployment)
			return d != nil && d.ErrorCode == "HEALTH_CONSTRAINTS_INVALID"
		})
	}
	g.Desired = want{Spec: c.Spec, Attempt: c.Attempt, Policy: c.Policy, Signers: c.Signers, Subject: c.Subject}
	for _, mem := range c.Members {
		h := g.ensureHost(mem.Host, t.now)
		h.Storage = cmp.Or(mem.Storage, h.Storage)
	}
	g.Hosts = slices.DeleteFunc(g.Hosts, func(h *host) bool {
		_, member := g.member(h.Name)
		switch {
		case member:
			h.Left = 0
		case h.Left == 0:
			h.Left = max(1, t.now)
		}
		return !member && h.Grant == nil
	})
}

// forgetReplaced forgets what hosts ran whose names other machines have by now:
// these say it themselves. One with a grant keeps nothing but it, for the new
// machine to answer that it knows nothing of it; also where the one before left in
// the middle and the new one comes later. What a deployment under way had brought
// to the machine before is to be brought to the new one.
func (g *group) forgetReplaced(t *turn, members []MemberInfo) {
	for _, mem := range members {
		h := g.host(mem.Host)
		if h == nil {
			continue
		}
		was, _ := g.member(mem.Host) // a state of an earlier version knows it from there alone
		if before := cmp.Or(h.Storage, was.Storage); before == "" || mem.Storage == "" || before == mem.Storage {
			continue
		}
		*h = host{Name: h.Name, Joined: t.now, Grant: h.Grant}
		for _, d := range []*deployment{g.Active, g.CatchUp} {
			if r := d.row(h.Name); r != nil && h.Grant == nil {
				d.again(r)
			}
		}
	}
}

// again gives a host's place in the plan to a machine to which nothing was brought
// yet, in the wave under way. A watch over that begins anew once it is done. A
// failure stays one, and who was left out stays out.
func (d *deployment) again(r *row) {
	if r.Out || !(r.Status.inFlight() || r.Status == rowSucceeded || r.Status == rowUnavailable) {
		return
	}
	*r = row{Host: r.Host, Zone: r.Zone, Wave: max(r.Wave, d.Wave), Status: rowPending}
	if r.Wave == d.Wave {
		d.BakeBy = 0
	}
}

func (g *group) forgetTries() {
	for _, h := range g.Hosts {
		h.Tries, h.TriedOn, h.NotUntil = 0, "", 0
	}
}

// TargetNeeded returns t with Base filled in, and whether proposing it would
// change the group. The leader calls it for every group of its tip; a commit
// that changes nothing for a group costs no entry.
func (m *Machine) TargetNeeded(t Target) (Target, bool) {
	g, _, ok := m.find(t.Group)
	if !ok {
		t.Base = 0
		return t, true
	}
	t.Base = g.TargetVersion
	if g.Orphaned || g.TargetVersion == 0 {
		return t, true
	}
	t.Members = sortedMembers(t.Members)
	return t, !m.asks(g, t) || t.SuspendWhy != g.SuspendReason
}

// Taken says whether the set has taken up what t asks of its group: then the
// group's state speaks of it. Why a group is suspended each host words itself.
func (m *Machine) Taken(t Target) bool {
	g, _, ok := m.find(t.Group)
	if !ok || g.Orphaned || g.TargetVersion == 0 {
		return false
	}
	t.Members = sortedMembers(t.Members)
	return m.asks(g, t)
}

// asks says whether t is the target of g. The members of t are sorted.
func (m *Machine) asks(g *group, t Target) bool {
	return t.Spec.SpecHash == g.Desired.Spec.SpecHash && t.Attempt == g.Desired.Attempt &&
		t.Application == g.Application && t.Name == g.Name && t.Folder == g.Folder && t.Suspend == g.Suspended &&
		t.SetActive == m.s.SetActive && t.SetInFlight == m.s.SetInFlight &&
		equalJSON(t.Members, g.Members) && equalJSON(t.Policy, g.Desired.Policy)
}

// OrphanNeeded returns the command that says the group left git, and whether
// proposing it would change anything: it has not been said yet, or the group can
// be forgotten by now.
func (m *Machine) OrphanNeeded(group string) (Orphan, bool) {
	g, _, ok := m.find(group)
	if !ok {
		return Orphan{}, false
	}
	return Orphan{Group: group, Base: g.TargetVersion}, !g.Orphaned || g.neverRan()
}

// equalJSON compares two values as they would travel: nil and empty are equal.
func equalJSON[T any](a, b T) bool {
	ja, errA := json.Marshal(a)
	jb, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(ja, jb)
}
