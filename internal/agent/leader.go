package agent

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// Pace of a leader.
const (
	tickInterval    = time.Second            // replicated clock, while a timer is armed
	leadTimeout     = 5 * time.Second        // one command of the leader
	leadPause       = 250 * time.Millisecond // before a refused or failed proposal is made again
	handoverTimeout = 5 * time.Second
	silentAfter     = 20 * time.Second // no stream contact for this long: gossip alone is believed
	behindMax       = 30 * time.Second // then another voter leads
)

// leader injects what this host knows into the sets it leads: who leads, what git says, who is alive, and time. It decides nothing.
type leader struct {
	self      string
	world     func() *world
	worldMove func() <-chan struct{}
	repo      func() *configrepo.Repo
	alive     func() life // what gossip believes now
	aliveMove func() <-chan struct{}
	log       *slog.Logger
}

// term is one period of leading one set.
type term struct {
	number   uint64
	lastTick time.Time
	handover time.Time // when leadership was last offered
	refused  string    // to whom that failed, already logged
	behind   time.Time // since when the set knows a commit that this host lacks; zero: it does not
}

// Run watches one set and leads it whenever raft says so, until ctx ends.
func (l *leader) Run(ctx context.Context, run *setRun) {
	check := time.NewTicker(setsCheck)
	defer check.Stop()
	var t *term
	for {
		changed, world, alive := run.changed.Changed(), l.worldMove(), l.aliveMove()
		st := run.set.Status()
		switch {
		case !st.Leading:
			t = nil
		case t == nil || t.number != st.Term:
			t = l.begin(ctx, run, st.Term)
		}
		wait := check.C
		if t != nil && !l.act(ctx, run, t) {
			wait = time.After(leadPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-world:
		case <-alive:
		case <-wait:
		}
	}
}

// begin announces this host as leader of a term; nil when that did not work.
func (l *leader) begin(ctx context.Context, run *setRun, number uint64) *term {
	var voters []string
	for _, v := range run.spec.Voters {
		voters = append(voters, v.Host)
	}
	slices.Sort(voters)
	if !l.propose(ctx, run, number, rollout.Lead{Host: l.self, Epoch: run.spec.Epoch, Voters: voters}) {
		return nil
	}
	l.log.Info("leading a coordinator set", "set", run.spec.Name, "term", number)
	return &term{number: number, lastTick: time.Now()}
}

// act makes every proposal that the state lacks; false when one failed.
func (l *leader) act(ctx context.Context, run *setRun, t *term) bool {
	ok := l.reportLiveness(ctx, run, t)
	w := l.world()
	if l.behind(run, t, w) {
		l.passOn(ctx, run, t)
	} else {
		ok = l.proposeTargets(ctx, run, t, w) && ok
	}
	var needs rollout.Needs
	run.set.View(func(consensus.Machine) { needs = run.machine.Needs() })
	if !needs.Tick {
		t.lastTick = time.Now()
	} else if elapsed := time.Since(t.lastTick); elapsed >= tickInterval {
		if ok = l.propose(ctx, run, t.number, rollout.Tick{Elapsed: elapsed}) && ok; ok {
			t.lastTick = t.lastTick.Add(elapsed)
		}
	}
	if needs.Handover != "" {
		l.handOver(ctx, run, t, needs.Handover, "this host is next")
	}
	return ok
}

// handOver moves leadership off this host, to any voter if to is "".
func (l *leader) handOver(ctx context.Context, run *setRun, t *term, to, why string) {
	if time.Since(t.handover) <= handoverTimeout {
		return
	}
	t.handover = time.Now()
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	err := run.set.TransferLeadership(ctx, to)
	switch {
	case err == nil:
		l.log.Info("leadership handed over", "set", run.spec.Name, "to", to, "because", why)
	case t.refused != to+why:
		t.refused = to + why
		l.log.Warn("leadership could not be handed over; it is tried again", "set", run.spec.Name, "to", to, "because", why, "error", err)
	}
}

// behind says whether the set knows a commit of any group that is not in this host's history: then this host must not say what git wants.
func (l *leader) behind(run *setRun, t *term, w *world) bool {
	if w == nil {
		return true
	}
	var commits []string
	run.set.View(func(consensus.Machine) {
		for _, g := range run.machine.Groups() {
			commits = append(commits, g.Desired.Commit)
		}
	})
	slices.Sort(commits)
	for _, commit := range slices.Compact(commits) {
		if commit == "" || commit == w.Commit.ID {
			continue
		}
		if known, err := l.repo().IsAncestor(commit, w.Commit.ID); err == nil && known {
			continue
		}
		if t.behind.IsZero() {
			t.behind = time.Now()
			l.log.Info("this leader lacks a commit that its set knows; it proposes nothing until it has it", "set", run.spec.Name, "commit", commit)
		}
		return true
	}
	t.behind = time.Time{}
	return false
}

// passOn gives leadership to another voter once this host has been behind for long.
func (l *leader) passOn(ctx context.Context, run *setRun, t *term) {
	if !t.behind.IsZero() && time.Since(t.behind) >= behindMax && len(run.spec.Voters) > 1 {
		l.handOver(ctx, run, t, "", "this host lacks a commit that the set knows")
	}
}

// proposeTargets proposes what git says of each group of the set, and orphans those git no longer names.
func (l *leader) proposeTargets(ctx context.Context, run *setRun, t *term, w *world) bool {
	ok := true
	for _, g := range w.State.Groups {
		if g.Coordinators != run.spec.Name || g.Policy.Removed {
			continue
		}
		var target rollout.Target
		var needed bool
		run.set.View(func(consensus.Machine) { target, needed = run.machine.TargetNeeded(targetOf(w, g)) })
		if needed {
			ok = l.propose(ctx, run, t.number, target) && ok
		}
	}
	return l.orphan(ctx, run, t, w) && ok
}

// orphan reports groups that left git or this set. A group whose file is broken has not left.
func (l *leader) orphan(ctx context.Context, run *setRun, t *term, w *world) bool {
	var views []rollout.GroupView
	run.set.View(func(consensus.Machine) { views = run.machine.Groups() })
	ok := true
	for _, v := range views {
		if isBroken(w, v) {
			continue
		}
		if g, still := w.group(v.ID); still && g.Coordinators == run.spec.Name && !g.Policy.Removed {
			continue
		}
		var orphan rollout.Orphan
		var needed bool
		run.set.View(func(consensus.Machine) { orphan, needed = run.machine.OrphanNeeded(v.ID) })
		if needed {
			ok = l.propose(ctx, run, t.number, orphan) && ok
		}
	}
	return ok
}

// isBroken says whether the files of a group that the set knows cannot be used in a commit.
func isBroken(w *world, v rollout.GroupView) bool {
	return slices.Contains(w.State.Broken.Groups, v.Group) || slices.Contains(w.State.Broken.IDs, desired.GroupID(v.ID))
}

// reportLiveness proposes who died and who came back. A host is alive when gossip says so or when a voter hears its stream.
func (l *leader) reportLiveness(ctx context.Context, run *setRun, t *term) bool {
	hosts := map[string]bool{}
	var dead []string
	run.set.View(func(consensus.Machine) {
		for _, g := range run.machine.Groups() {
			for _, m := range g.Members {
				hosts[m.Host] = true
			}
		}
		dead = run.machine.Dead()
	})
	for _, v := range run.spec.Voters {
		hosts[v.Host] = true
	}
	heard, lives := run.set.Reachable(), l.alive()
	var news []rollout.HostLife
	for host := range hosts {
		alive, since := lives(host)
		if last, ok := heard[host]; ok && !alive && time.Since(last) < silentAfter {
			alive, since = true, last
		}
		if host == l.self {
			alive = true
		}
		if was := !slices.Contains(dead, host); was != alive {
			news = append(news, rollout.HostLife{Host: host, Alive: alive, For: max(0, time.Since(since))})
		}
	}
	if len(news) == 0 {
		return true
	}
	slices.SortFunc(news, func(a, b rollout.HostLife) int {
		if a.Host < b.Host {
			return -1
		}
		return 1
	})
	return l.propose(ctx, run, t.number, rollout.Liveness{Hosts: news})
}

// propose submits one command of the leader in its term.
func (l *leader) propose(ctx context.Context, run *setRun, number uint64, command rollout.Command) bool {
	data, err := rollout.Encode(command, time.Now())
	if err != nil {
		l.log.Error("internal error: a command cannot be encoded", "set", run.spec.Name, "error", err)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, leadTimeout)
	defer cancel()
	result, err := run.set.Lead(ctx, number, data)
	if err != nil {
		l.log.Debug("a proposal failed; it is made again if still needed", "set", run.spec.Name, "error", err)
		return false
	}
	if why := refusedBy(result.Response); why != "" {
		l.log.Debug("a proposal was refused", "set", run.spec.Name, "why", why)
		return false
	}
	return true
}
