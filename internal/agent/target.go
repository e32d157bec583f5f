package agent

import (
	"sort"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// targetOf turns what git says of a group into the proposal its coordinator set decides on. The policy is frozen into it.
func targetOf(w *world, g desired.Group) rollout.Target {
	set := w.State.Sets[g.Coordinators]
	t := rollout.Target{
		Group:       string(g.ID),
		Spec:        specOf(w.Commit, g),
		Attempt:     g.Policy.Attempt,
		Application: g.ApplicationName,
		Name:        g.Name,
		Folder:      g.Folder,
		Policy:      policyOf(g.Policy),
		Suspend:     g.Policy.Suspend || w.Forked != "", // two histories: which of them holds is for people to say
		SuspendWhy:  w.Forked,
		Signers:     w.Commit.Signers,
		Subject:     w.Commit.Subject,
		SetActive:   set.MaxActiveDeployments,
		SetInFlight: set.MaxHostsInFlight,
	}
	for _, name := range g.Members {
		h := w.State.Hosts[name]
		t.Members = append(t.Members, rollout.MemberInfo{Host: string(name), Storage: h.Storage, Zone: h.Zone, Tags: waveTags(g.Policy.Waves, h.Tags)})
	}
	return t
}

// specOf names what a commit says a group should run.
func specOf(c configrepo.Commit, g desired.Group) rollout.Spec {
	return rollout.Spec{Commit: c.ID, SpecHash: g.SpecHash, Digest: string(g.Revision.Digest)}
}

// waveTags keeps the tags that waves name, so that no more travels through raft.
func waveTags(waves []desired.Wave, tags map[string]string) map[string]string {
	kept := map[string]string{}
	for _, wave := range waves {
		if wave.Tag == nil {
			continue
		}
		for key, value := range tags {
			if matches(*wave.Tag, key, value) {
				kept[key] = value
			}
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}

// matches says whether one tag is meant.
func matches(m desired.TagMatch, key, value string) bool {
	return (!m.HasKey || m.Key == key) && (!m.HasValue || m.Value == value)
}

// policyOf turns the committed policy into the replicated one.
func policyOf(p desired.Policy) rollout.Policy {
	out := rollout.Policy{
		ConfigName:      p.DeploymentConfigName,
		MinimumHealthy:  minimumOf(p.MinimumHealthy),
		MaxUnavailable:  limitOf(p.MaxUnavailable),
		MaxFailures:     limitOf(p.MaxFailures),
		Unreachable:     rollout.Unreachable(p.Unreachable),
		MaxUnreachable:  limitOf(&p.MaxUnreachable),
		Supersede:       rollout.Supersede(p.Supersede),
		Checks:          len(p.Checks),
		DeadAfter:       p.DeadAfter,
		ReadyDeadline:   p.ReadyDeadline,
		DeploymentLimit: p.DeploymentDeadline,
	}
	if predefined, err := rollout.Predefined(p.DeploymentConfigName); err == nil && p.DeploymentConfigName != "" {
		out.OneAtATime, out.HalfAtATime, out.MinimumHealthy = predefined.OneAtATime, predefined.HalfAtATime, predefined.MinimumHealthy
	}
	if p.MinimumHealthy.Type == desired.MostConcurrency {
		out.OneAtATime, out.MinimumHealthy = true, rollout.Minimum{}
	}
	if p.MinSuccess != nil {
		out.MinSuccess = minimumFromAmount(*p.MinSuccess)
	}
	for _, w := range p.Waves {
		wave := rollout.Wave{Hosts: w.Hosts, Percent: w.Percent, Rest: w.Rest, Bake: w.Bake}
		if w.Tag != nil {
			wave.Tag = w.Tag.Key + "=" + w.Tag.Value
		}
		out.Waves = append(out.Waves, wave)
	}
	if p.Zonal != nil {
		first := p.Zonal.FirstZoneMonitor
		if first < 0 {
			first = p.Zonal.Monitor
		}
		out.Zonal = &rollout.Zonal{FirstMonitor: first, Monitor: p.Zonal.Monitor, PerZone: minimumOf(p.Zonal.MinimumPerZone)}
	}
	if p.AutoRollback.Enabled {
		for _, e := range p.AutoRollback.Events {
			out.AutoRollback = append(out.AutoRollback, rollout.RollbackEvent(e))
		}
		sort.Slice(out.AutoRollback, func(i, j int) bool { return out.AutoRollback[i] < out.AutoRollback[j] })
	}
	return out
}

func minimumOf(m desired.MinimumHealthy) rollout.Minimum {
	switch m.Type {
	case desired.HostCount, desired.FleetPercent:
		return rollout.Minimum{Type: rollout.MinimumType(m.Type), Value: m.Value}
	}
	return rollout.Minimum{}
}

func minimumFromAmount(a desired.Amount) rollout.Minimum {
	if a.IsShare {
		return rollout.Minimum{Type: rollout.FleetPercent, Value: a.Percent}
	}
	return rollout.Minimum{Type: rollout.HostCount, Value: a.Count}
}

func limitOf(a *desired.Amount) rollout.Limit {
	switch {
	case a == nil:
		return rollout.Limit{}
	case a.IsShare:
		return rollout.Limit{Set: true, Percent: true, Value: a.Percent}
	}
	return rollout.Limit{Set: true, Value: a.Count}
}
