package agent

import (
	"context"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// leads takes in whether a set has a leader, as this host hears it.
func (m *member) leads(set string, lead bool) {
	m.mu.Lock()
	if m.led == nil {
		m.led, m.quorum = map[string]bool{}, map[string]bool{}
	}
	known, told := m.led[set]
	m.led[set] = lead
	m.quorum[set] = lead
	m.mu.Unlock()
	if !told || known != lead {
		m.news.Wake()
	}
}

// feedQuorum feeds what leads took in since the last time.
func (m *member) feedQuorum(ctx context.Context) error {
	m.mu.Lock()
	quorum := m.quorum
	m.quorum = map[string]bool{}
	m.mu.Unlock()
	for set, lead := range quorum {
		if err := m.step(ctx, rollout.EvQuorum{Set: set, Lead: lead}); err != nil {
			return err
		}
	}
	return nil
}

// feedTips feeds what the verified tip asks this host to run, for every group where that or what is on the disk has changed.
func (m *member) feedTips(ctx context.Context) error {
	now := m.tips()
	for id := range m.tipped {
		if _, still := now[id]; !still {
			now[id] = rollout.EvTip{Group: id}
		}
	}
	for id, tip := range now {
		if m.tipped[id] == tip {
			continue
		}
		if err := m.step(ctx, tip); err != nil {
			return err
		}
	}
	m.tipped = now
	return nil
}

// tips lists what the tip asks for: nothing in a group that is suspended or broken, and nothing at all while two histories exist or the tip is held.
func (m *member) tips() map[string]rollout.EvTip {
	w := m.world()
	all := map[string]rollout.EvTip{}
	for _, g := range w.State.GroupsOf(desired.HostName(m.self)) {
		id := string(g.ID)
		tip := rollout.EvTip{Group: id, Set: g.Coordinators}
		if !g.Policy.Suspend && w.Forked == "" && w.Held == "" && !slices.Contains(w.State.Broken.IDs, g.ID) {
			tip.Spec = specOf(w.Commit, g)
			tip.RanWell = m.deploy.ranWell(id, g.SpecHash)
		}
		all[id] = tip
	}
	return all
}

// ranWell tells whether a release of a spec is on this disk that was deployed here with success.
func (d *deployer) ranWell(group, specHash string) bool {
	releases, err := d.applier.Releases(group)
	return err == nil && slices.ContainsFunc(releases, func(r apply.Release) bool { return r.SpecHash == specHash && r.WasGood })
}

// noteAlone keeps, for status, what this host does without quorum.
func (m *member) noteAlone() {
	var all []status.Notice
	for id := range m.tipped {
		if text := m.machine.Alone(id); text != "" {
			all = append(all, status.Notice{Kind: "WentBackAlone", Host: m.self, Subject: id, Message: text, Since: status.Stamp(time.Now())})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, n := range all {
		if j := slices.IndexFunc(m.alone, func(o status.Notice) bool { return o.Subject == n.Subject && o.Message == n.Message }); j >= 0 {
			all[i].Since = m.alone[j].Since
		}
	}
	m.alone = all
}
