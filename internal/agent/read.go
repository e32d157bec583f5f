package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// remoteTimeout bounds a question passed on to another host.
const remoteTimeout = 5 * time.Second

// reader answers operators from the replicated state of the sets this host follows. With ask set, it asks another host for the groups of other sets; hosts answer
// each other without it, so that no question goes in a circle.
type reader struct {
	self    string
	source  *source
	sets    *sets
	repo    func() *configrepo.Repo
	applier *apply.Applier
	ask     func(host string) *status.Client     // nil: answer for this host alone
	heard   func() map[string]configrepo.Refusal // what other hosts refuse, by host; may be nil
	verify  func(context.Context)                // looks for itself, within a bound, at what may be refused; nil: only answers
	alive   func() life
	shelf   shelf
	coming  func() map[string][]coming // how fast bundles come, by host; may be nil
	extra   func() []status.Notice
	outcast func() string // why no other host takes this one for who it says it is, or ""; may be nil
	changed *signal
	log     *slog.Logger
	remotes *remotes // answers of other sets' voters; nil without ask
}

var _ status.Source = (*reader)(nil)

// Changed implements status.Source.
func (r *reader) Changed() <-chan struct{} { return r.changed.Changed() }

// Ready implements status.Source.
func (r *reader) Ready() error {
	w := r.source.current()
	if w == nil {
		return errors.New("no verified commit yet")
	}
	if r.outcast != nil {
		if why := r.outcast(); why != "" { // it follows no set, so that none lacks a leader
			return errors.New(why)
		}
	}
	if missing := r.sets.missing(w); len(missing) > 0 {
		return fmt.Errorf("coordinator sets %v are not followed yet", missing)
	}
	for name, run := range r.sets.list() {
		if st := run.set.Status(); !st.Quorum {
			return fmt.Errorf("coordinator set %s has no leader", name)
		}
	}
	return nil
}

// Report implements status.Source.
func (r *reader) Report(ctx context.Context, name string) (status.Report, error) {
	report := status.Report{APIVersion: status.APIVersion, Host: r.self, Notices: r.notices(), Groups: []status.Group{}}
	w := r.source.current()
	switch {
	case w == nil && name != "":
		return status.Report{}, errNoWorld
	case w == nil:
		return report, nil
	}
	report.Commit = w.Commit.ID
	report.Groups = r.groups(ctx, w, name)
	if name == "" {
		return report, nil
	}
	group, err := report.Find(name)
	if err != nil {
		return status.Report{}, err
	}
	report.Groups = []status.Group{group}
	return report, nil
}

// errNoWorld answers questions that come too early.
var errNoWorld = errors.New("this host has no verified commit yet, so it knows no groups; `gitopsd status` says what it waits for")

// notices collects what a person should know, in an order that stays the same.
func (r *reader) notices() []status.Notice {
	all := append(r.source.notices(), r.sets.notices()...)
	all = append(all, r.refusals()...)
	if r.extra != nil {
		all = append(all, r.extra()...)
	}
	for i, n := range all {
		all[i] = advised(n)
	}
	slices.SortStableFunc(all, func(a, b status.Notice) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Message, b.Message))
	})
	if all == nil {
		all = []status.Notice{}
	}
	return all
}

// groups reports every group of the world and those that left git, sorted by folder. With a name that means a group followed here, no other host is asked.
func (r *reader) groups(ctx context.Context, w *world, name string) []status.Group {
	open := r.sets.list()
	all := []status.Group{}
	seen, elsewhere := map[string]bool{}, map[string][]desired.Group{}
	for _, g := range w.State.Groups {
		run := open[g.Coordinators]
		if run == nil {
			elsewhere[g.Coordinators] = append(elsewhere[g.Coordinators], g)
			continue
		}
		all = append(all, r.followed(run, g, w, nil))
		seen[string(g.ID)] = true
	}
	for _, run := range open {
		var views []rollout.GroupView
		run.set.View(func(consensus.Machine) { views = run.machine.Groups() })
		for _, v := range views {
			if g, still := w.group(v.ID); seen[v.ID] || still && g.Coordinators != run.spec.Name {
				continue
			}
			seen[v.ID] = true
			all = append(all, absent(v, groupOfView(v, run.set.Status(), r.alive), w))
		}
	}
	r.addRates(all) // those of other hosts' groups they have put there themselves
	all = append(all, neverTaken(w, all)...)
	if _, err := (status.Report{Groups: all}).Find(name); r.ask != nil && (name == "" || err != nil) {
		all = append(all, r.elsewhere(ctx, w, elsewhere)...)
	}
	slices.SortFunc(all, func(a, b status.Group) int { return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.ID, b.ID)) })
	return all
}

// absent reports a group that the set knows and the commit does not.
func absent(v rollout.GroupView, g status.Group, w *world) status.Group {
	if !v.Orphaned && isBroken(w, v) {
		why, _ := unusableHere(w, g)
		g.Why = fmt.Sprintf("%s. Nothing new starts; before, the group was %s: %s", strings.TrimSuffix(why, "."), g.State, g.Why)
		g.State = status.StateInvalidConfig
	}
	return g
}

// neverTaken reports the groups whose files cannot be used and that no set followed here has ever known.
func neverTaken(w *world, known []status.Group) []status.Group {
	var all []status.Group
	for _, folder := range w.State.Broken.Groups {
		if slices.ContainsFunc(known, func(g status.Group) bool { return g.Group == folder }) {
			continue
		}
		g := status.Group{Group: folder, Name: folder, State: status.StateInvalidConfig, Hosts: []status.Host{}}
		g.Why, _ = unusableHere(w, g)
		all = append(all, g)
	}
	return all
}

// elsewhere asks the voters of every set that this host does not follow, all at once.
func (r *reader) elsewhere(ctx context.Context, w *world, sets map[string][]desired.Group) []status.Group {
	var mu sync.Mutex
	var all []status.Group
	var asking sync.WaitGroup
	for set, groups := range sets {
		asking.Go(func() {
			answer := r.remote(ctx, w, set, groups)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, answer...)
		})
	}
	asking.Wait()
	return all
}

// followed reports a group whose set this host follows. also looks at the set at the same moment; it may be nil.
func (r *reader) followed(run *setRun, g desired.Group, w *world, also func(*rollout.Machine)) status.Group {
	var view rollout.GroupView
	var past []rollout.DeploymentView
	found := false
	run.set.View(func(consensus.Machine) {
		if view, found = run.machine.Group(string(g.ID)); found && heldFor(view) != "" {
			past, _ = run.machine.History(string(g.ID))
		}
		if also != nil {
			also(run.machine)
		}
	})
	st := run.set.Status()
	if !found {
		out := status.Group{Group: g.Folder, ID: string(g.ID), Name: g.Name, Application: g.ApplicationName, State: rollout.StateNone, Hosts: []status.Host{},
			Desired: revisionOf(specOf(w.Commit, g)), Why: "the coordinator set has not taken this group up yet"}
		if len(g.Members) == 0 {
			out.State, out.Why = rollout.StateNoHosts, noHosts(w, g)
		}
		for _, m := range g.Members {
			out.Hosts = append(out.Hosts, status.Host{Name: string(m), Status: "Pending", Health: "unknown", Events: []status.Event{}})
		}
		return withQuorum(out, st, r.alive)
	}
	out := groupOfView(view, st, r.alive)
	out.Failures = failuresOf(heldFor(view), past)
	if out.State == rollout.StateSuspended && g.Policy.Suspend && w.Forked == "" {
		out.Why = withLeader(fmt.Sprintf("`suspend: true` stands in %s/group.yaml; a commit without it lets the group go on", g.Folder), st, r.alive)
	}
	if out.State == rollout.StateNoHosts && len(g.Members) == 0 {
		out.Why = withLeader(noHosts(w, g), st, r.alive)
	}
	return out
}

// heldFor is the earlier deployment that the desired spec of a group failed in, or "".
func heldFor(v rollout.GroupView) string {
	for _, q := range v.Quarantine {
		if q.SpecHash == v.Desired.SpecHash && (v.Deployment == nil || v.Deployment.ID != q.Deployment) {
			return q.Deployment
		}
	}
	return ""
}

// failuresOf lists what failed in one deployment, host by host.
func failuresOf(deployment string, past []rollout.DeploymentView) []status.Failure {
	var all []status.Failure
	for _, d := range past {
		if d.ID != deployment {
			continue
		}
		for _, h := range hostsOf(d.Hosts) {
			for _, e := range h.Events {
				if e.Status == "Failed" {
					all = append(all, status.Failure{Deployment: d.ID, Host: h.Name, Event: e})
				}
			}
		}
	}
	return all
}

// withQuorum adds that nothing can be decided now.
func withQuorum(g status.Group, st consensus.Status, alive func() life) status.Group {
	g.Why, g.NoLeader = withLeader(g.Why, st, alive), !st.Quorum
	return g
}

// withLeader puts before a sentence that nothing can be decided now, if so, and what is waited for.
func withLeader(why string, st consensus.Status, alive func() life) string {
	if st.Quorum {
		return why
	}
	until := ofVoters("a majority", st.Voters) + " is up"
	if enoughLive(st.Voters, alive) {
		until = ofVoters("one", st.Voters) + " is elected"
	}
	without := fmt.Sprintf("coordinator set %s has no leader, so nothing new starts until %s", st.Set, until)
	if why == "" {
		return without
	}
	return without + "; " + why
}

// enoughLive says whether gossip believes a majority of voters alive, so that a set without a leader is about to elect one. Nothing but words may depend on it.
func enoughLive(voters []string, alive func() life) bool {
	lives, up := alive(), 0
	for _, v := range voters {
		host, _, _ := strings.Cut(v, "/")
		if is, _ := lives(host); is {
			up++
		}
	}
	return 2*up > len(voters)
}

// ofVoters names some of the voters, such as a majority; a set of one has no others.
func ofVoters(some string, voters []string) string {
	if len(voters) == 1 {
		return voterHosts(voters)
	}
	return some + " of " + voterHosts(voters)
}

// voterHosts names the hosts of voters without their storage ids.
func voterHosts(voters []string) string {
	hosts := make([]string, 0, len(voters))
	for _, v := range voters {
		host, _, _ := strings.Cut(v, "/")
		hosts = append(hosts, host)
	}
	return strings.Join(hosts, ", ")
}

// groupOfView turns the replicated view into the document.
func groupOfView(v rollout.GroupView, st consensus.Status, alive func() life) status.Group {
	out := status.Group{
		Group: v.Group, ID: v.ID, Name: v.Name, Application: v.Application, State: v.State, Why: v.Reason,
		Desired: revisionOf(v.Desired), Running: revisionOf(v.Running), Hosts: hostsOf(v.Hosts),
		Joining: v.Joining, JoinFailed: v.JoinFailed,
	}
	if d := v.Deployment; d != nil {
		out.Deployment = &status.Deployment{ID: d.ID, Creator: d.Creator, Status: d.Status, Wave: d.Wave, Waves: d.Waves, Reason: d.Reason,
			Leader: st.Leader, Term: st.Term, RollbackOf: d.RollbackOf}
	}
	for _, q := range v.Quarantine {
		out.Quarantined = append(out.Quarantined, q.SpecHash)
	}
	return withQuorum(out, st, alive)
}

func revisionOf(s rollout.Spec) status.Revision {
	return status.Revision{Commit: s.Commit, SpecHash: s.SpecHash, Digest: s.Digest}
}

// hostsOf turns hosts into the document's; never nil, so that JSON shows a list.
func hostsOf(views []rollout.HostView) []status.Host {
	hosts := []status.Host{}
	for _, h := range views {
		alive := "dead"
		if h.Alive {
			alive = "alive"
		}
		out := status.Host{Name: h.Name, Status: h.Status, Health: string(h.Health), Revision: h.Revision, Alive: alive, Reason: h.Reason,
			Events: []status.Event{}, BytesFromOrigin: h.FromOrigin, BytesFromPeers: h.FromPeers}
		for _, e := range h.Events {
			event := status.Event{Event: e.Event, Status: e.Status, StartTime: e.StartTime, EndTime: e.EndTime}
			if d := e.Diagnostics; d != nil {
				event.Diagnostics = &status.Diagnostics{ErrorCode: d.ErrorCode, ScriptName: d.ScriptName, Message: d.Message, LogTail: d.LogTail}
			}
			out.Events = append(out.Events, event)
		}
		hosts = append(hosts, out)
	}
	return hosts
}

// stateUnknown is the state of a group of which no host could be asked.
const stateUnknown = "Unknown"

// remote asks a voter of a set this host does not follow.
func (r *reader) remote(ctx context.Context, w *world, set string, groups []desired.Group) []status.Group {
	answer, why := r.remotes.get(set, time.Now(), func() (status.Report, string) {
		ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
		defer cancel()
		return r.askAny(ctx, w, set)
	})
	var all []status.Group
	for _, g := range groups {
		found, err := answer.Find(string(g.ID))
		if err != nil {
			found = status.Group{Group: g.Folder, ID: string(g.ID), Name: g.Name, Application: g.ApplicationName, State: stateUnknown, Hosts: []status.Host{},
				Desired: revisionOf(specOf(w.Commit, g)), Why: "no host of the group could be asked: " + why}
		}
		all = append(all, found)
	}
	return all
}

// askAny asks the voters of a set one after the other, live ones first.
func (r *reader) askAny(ctx context.Context, w *world, set string) (status.Report, string) {
	var why []string
	for _, host := range r.votersByLife(w, set) {
		report, err := r.ask(host).Report(ctx, "")
		if err == nil {
			return report, ""
		}
		if errors.Is(err, status.ErrUnreachable) { // names the host itself
			why = append(why, err.Error())
			continue
		}
		why = append(why, host+": "+err.Error())
	}
	if len(why) == 0 {
		return status.Report{}, "its coordinator set " + set + " lists no voter"
	}
	return status.Report{}, strings.Join(why, "; ")
}

// votersByLife lists a set's voters, live ones first.
func (r *reader) votersByLife(w *world, set string) []string {
	var hosts []string
	for _, v := range w.State.Sets[set].Voters {
		hosts = append(hosts, string(v.Host))
	}
	lives := r.alive()
	sort.SliceStable(hosts, func(i, j int) bool {
		a, _ := lives(hosts[i])
		b, _ := lives(hosts[j])
		return a && !b
	})
	return hosts
}

// find resolves a group's name to what the world and the sets know of it.
func (r *reader) find(ctx context.Context, name string) (status.Group, *setRun, error) {
	report, err := r.Report(ctx, name)
	if err != nil {
		return status.Group{}, nil, err
	}
	return report.Groups[0], r.sets.ofGroup(report.Groups[0].ID), nil
}

// History implements status.Source.
func (r *reader) History(ctx context.Context, name string) (status.History, error) {
	group, run, err := r.find(ctx, name)
	if err != nil {
		return status.History{}, err
	}
	if run == nil {
		return r.remoteHistory(ctx, group)
	}
	var past []rollout.DeploymentView
	run.set.View(func(consensus.Machine) { past, _ = run.machine.History(group.ID) })
	out := status.History{APIVersion: status.APIVersion, Group: group.Group, Deployments: []status.Past{}}
	for _, d := range past {
		signers := d.Signers
		if signers == nil {
			signers = []string{}
		}
		out.Deployments = append(out.Deployments, status.Past{ID: d.ID, Creator: d.Creator, Commit: d.Commit, Signers: signers, SpecHash: d.SpecHash,
			Digest: d.Digest, Status: d.Status, StartTime: d.StartTime, EndTime: d.EndTime, RollbackOf: d.RollbackOf, Reason: d.Reason, Hosts: hostsOf(d.Hosts)})
	}
	return out, nil
}

// remoteHistory asks the voters of the group's set.
func (r *reader) remoteHistory(ctx context.Context, group status.Group) (status.History, error) {
	w := r.source.current()
	g, ok := w.group(group.ID)
	if r.ask == nil || !ok {
		return status.History{}, fmt.Errorf("cannot show the history of %s: this host does not follow it", group.Group)
	}
	var errs []error
	for _, host := range r.votersByLife(w, g.Coordinators) {
		history, err := r.ask(host).History(ctx, group.ID)
		if err == nil {
			return history, nil
		}
		errs = append(errs, err)
	}
	return status.History{}, fmt.Errorf("cannot show the history of %s: %w", group.Group, errors.Join(errs...))
}

// Operate implements status.Source.
func (r *reader) Operate(ctx context.Context, op status.Operation) error {
	if op.Verb == "sync" {
		return r.source.demand(ctx)
	}
	verbs := map[string]rollout.Verb{"stop": rollout.VerbStop, "pause": rollout.VerbPause, "resume": rollout.VerbResume, "retry": rollout.VerbRetry, "skip": rollout.VerbSkip}
	verb, ok := verbs[op.Verb]
	if !ok {
		return fmt.Errorf("%w: there is no operation %q", status.ErrRefused, op.Verb)
	}
	group, run, err := r.find(ctx, op.Group)
	if err != nil {
		return err
	}
	if run == nil {
		return fmt.Errorf("%w: %s does not follow %s; ask a host of the group", status.ErrRefused, r.self, group.Group)
	}
	noLeader := func(st consensus.Status) error {
		todo := ofVoters("a majority", st.Voters) + " must be up"
		if enoughLive(st.Voters, r.alive) {
			todo = "try again once " + ofVoters("one", st.Voters) + " is elected"
		}
		return fmt.Errorf("cannot %s %s: %w: %s", op.Verb, group.Group, status.ErrNoQuorum, todo)
	}
	if st := run.set.Status(); !st.Quorum {
		return noLeader(st)
	}
	data, err := rollout.Encode(rollout.Operator{Group: group.ID, ID: operationID(r.self), Verb: verb, Actor: op.Actor, Reason: op.Reason}, time.Now())
	if err != nil {
		return fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	result, err := run.set.Submit(ctx, data)
	if errors.Is(err, consensus.ErrNoLeader) {
		return noLeader(run.set.Status())
	}
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", op.Verb, group.Group, err)
	}
	if why := refusedBy(result.Response); why != "" {
		return fmt.Errorf("%w: %s", status.ErrRefused, why)
	}
	return nil
}

// operationID makes an operator's request unique, so that submitting it twice does it once.
func operationID(self string) string {
	return fmt.Sprintf("%s-%d", self, time.Now().UnixNano())
}
