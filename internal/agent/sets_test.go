package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// alone has no other host.
type alone struct{}

func (alone) DialStream(context.Context, string, string) (consensus.Stream, error) {
	return nil, errors.New("nobody is there")
}
func (alone) HandleStream(string, func(context.Context, consensus.Stream)) {}

// office is one host that votes alone in the sets its world names.
type office struct {
	*sets
	t     *testing.T
	mu    sync.Mutex
	w     *world
	moved signal
	news  map[string][]rollout.Assignment
	heard []string
	led   map[string][]bool
}

// setWorld publishes a world.
func (o *office) setWorld(w *world) {
	o.mu.Lock()
	o.w = w
	o.mu.Unlock()
	o.moved.Notify()
}

func (o *office) world() *world {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w
}

const storage = "6f1d2c3a9b7e4f01"

// newOffice runs sets whose leader is lead.
func newOffice(t *testing.T, intro string, lead func(context.Context, *setRun)) *office {
	t.Helper()
	c, err := consensus.New(consensus.Options{Host: "web-1", Storage: storage, Dir: filepath.Join(t.TempDir(), "raft"), Streams: alone{}, Timing: consensus.FastTiming()})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, news: map[string][]rollout.Assignment{}, led: map[string][]bool{}}
	o.sets = &sets{self: "web-1", storage: storage, consensus: c, world: o.world, worldMove: o.moved.Changed, intro: intro, lead: lead, log: slog.New(slog.DiscardHandler),
		alive: func() life { return func(string) (bool, time.Time) { return true, time.Time{} } },
		synced: func(set string, list []rollout.Assignment) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.news[set] = list
		},
		leads: func(set string, lead bool) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.led[set] = append(o.led[set], lead)
		},
		ran: func(commits ...string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.heard = append(o.heard, commits...)
		}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.sets.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// awaitOpen waits until exactly these sets are led here.
func (o *office) awaitOpen(names ...string) {
	o.t.Helper()
	until(o.t, func() string {
		var open []string
		for name, run := range o.list() {
			if run.set.Status().Leading {
				open = append(open, name)
			}
		}
		sort.Strings(open)
		if strings.Join(open, " ") != strings.Join(names, " ") {
			return strings.Join(names, " ") + ", open are " + strings.Join(open, " ")
		}
		return ""
	})
}

// idle leads nothing.
func idle(ctx context.Context, _ *setRun) { <-ctx.Done() }

// simpleWorld has web-1 and web-2, the sets named, each with web-1 as its only voter, and a group in each.
func simpleWorld(commit string, sets ...string) *world {
	s := &desired.State{Hosts: map[desired.HostName]desired.Host{"web-1": {Name: "web-1"}, "web-2": {Name: "web-2"}}, Sets: map[string]desired.CoordinatorSet{}}
	for _, name := range sets {
		s.Sets[name] = desired.CoordinatorSet{Epoch: 1, Voters: []desired.Voter{{Host: "web-1", Storage: storage}}}
		s.Groups = append(s.Groups, desired.Group{ID: desired.GroupID("g-" + name), Folder: "shop/" + name, ApplicationName: name, Name: name + "-production", Coordinators: name,
			Members: []desired.HostName{"web-1", "web-2"}, SpecHash: strings.Repeat("a", 64), Policy: desired.Policy{Attempt: 1, MinimumHealthy: desired.MinimumHealthy{Type: desired.HostCount}}})
	}
	return &world{Commit: configrepo.Commit{ID: commit}, State: s}
}

var commitA = strings.Repeat("a", 40)

func TestWanted(t *testing.T) {
	s := &sets{self: "web-1", storage: storage, intro: commitA}
	if got := s.wanted(nil); len(got) != 0 {
		t.Errorf("%v", got)
	}
	w := simpleWorld(commitA, "votes", "member", "neither")
	for _, name := range []string{"member", "neither"} {
		w.State.Sets[name] = desired.CoordinatorSet{Epoch: 1, Voters: []desired.Voter{{Host: "web-2", Storage: storage}}}
	}
	w.State.Groups[0].Members, w.State.Groups[2].Members = nil, []desired.HostName{"web-2"}
	got := s.wanted(w)
	if len(got) != 2 || got["votes"].Voters[0].Host != "web-1" || got["member"].Introduction != commitA {
		t.Errorf("%+v", got)
	}
}

func TestSetsOpenAndCloseWithTheWorld(t *testing.T) {
	o := newOffice(t, commitA, idle)
	o.setWorld(simpleWorld(commitA, "db", "web"))
	o.awaitOpen("db", "web")
	if missing := o.missing(o.world()); len(missing) != 0 {
		t.Errorf("missing %v", missing)
	}
	o.setWorld(simpleWorld(commitA, "web", "x"))
	o.awaitOpen("web", "x")
	o.setWorld(simpleWorld(commitA, "db"))
	o.awaitOpen("db")
	until(t, func() string {
		o.mu.Lock()
		defer o.mu.Unlock()
		if _, ok := o.news["db"]; !ok {
			return "assignments of db"
		}
		return ""
	})
}

// view reads a group.
func (o *office) view(set, group string) (v rollout.GroupView, ok bool) {
	run := o.list()[set]
	run.set.View(func(consensus.Machine) { v, ok = run.machine.Group(group) })
	return v, ok
}

// TestLeaderThatLagsProposesNothing is about a leader whose git was behind: it took the fleet back to the commit before.
func TestLeaderThatLagsProposesNothing(t *testing.T) {
	git := newOrigin(t)
	f := newSource(t, git, t.TempDir())
	f.syncs(t)
	var o *office
	var log syncBuffer
	l := &leader{self: "web-1", repo: f.repo, alive: func() life { return func(string) (bool, time.Time) { return true, time.Now() } }, aliveMove: (&signal{}).Changed,
		log: slog.New(slog.NewTextHandler(&log, nil))}
	o = newOffice(t, git.intro, func(ctx context.Context, run *setRun) { l.Run(ctx, run) })
	l.world, l.worldMove = o.world, o.moved.Changed
	first := simpleWorld(git.intro, "web")
	o.setWorld(first)
	o.awaitOpen("web")
	until(t, func() string {
		if v, _ := o.view("web", "g-web"); v.Desired.Commit != git.intro {
			return "the first target"
		}
		return ""
	})
	next := git.commit("fleet.yaml", "name: next\n")
	newer := simpleWorld(next, "web")
	newer.State.Groups[0].SpecHash = strings.Repeat("b", 64)
	v, _ := o.view("web", "g-web")
	target := targetOf(newer, newer.State.Groups[0])
	target.Base = v.TargetVersion
	term := o.list()["web"].set.Status().Term
	data, err := rollout.Encode(target, time.Unix(1_700_000_001, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.list()["web"].set.Lead(context.Background(), term, data); err != nil {
		t.Fatal(err)
	}
	if v, _ := o.view("web", "g-web"); v.Desired.Commit != next {
		t.Fatalf("the other leader's target was not taken: %+v", v.Desired)
	}
	until(t, func() string { // this leader has looked at it
		if !strings.Contains(log.String(), "lacks a commit") {
			return "a word of the lag"
		}
		return ""
	})
	o.setWorld(first) // and looks again
	if v, _ := o.view("web", "g-web"); v.Desired.Commit != next || v.Orphaned {
		t.Fatalf("a leader that lags took the group back: %+v", v.Desired)
	}
	f.syncs(t)
	again := simpleWorld(next, "web")
	again.State.Groups[0].SpecHash = strings.Repeat("c", 64)
	o.setWorld(again)
	until(t, func() string {
		if v, _ := o.view("web", "g-web"); v.Desired.SpecHash != again.State.Groups[0].SpecHash {
			return "a target of the leader that caught up"
		}
		return ""
	})
}

// newReader makes a reader over an office.
func newReader(t *testing.T, o *office) *reader {
	d := newDisk(t)
	f := &source{self: "web-1", repo: func() *configrepo.Repo { return nil }, world: o.world()}
	return &reader{self: "web-1", source: f, sets: o.sets, applier: d.applier, alive: func() life { return func(string) (bool, time.Time) { return true, time.Time{} } },
		changed: &signal{}, log: slog.New(slog.DiscardHandler), repo: func() *configrepo.Repo { return nil }}
}

func TestReader(t *testing.T) {
	o := newOffice(t, commitA, idle)
	w := simpleWorld(commitA, "db", "web")
	o.setWorld(w)
	o.awaitOpen("db", "web")
	o.take(w, w.State.Groups[1])
	r := newReader(t, o)
	ctx := context.Background()
	report, err := r.Report(ctx, "")
	if err != nil || report.Commit != commitA || len(report.Groups) != 2 || report.Groups[0].Group != "shop/db" || report.Notices == nil {
		t.Fatalf("%+v %v", report, err)
	}
	if g := report.Groups[0]; g.State != rollout.StateNone || !strings.Contains(g.Why, "has not taken this group up") || len(g.Hosts) != 2 {
		t.Errorf("a group without a target: %+v", g)
	}
	if g := report.Groups[1]; g.Desired.Commit != commitA || len(g.Hosts) != 2 {
		t.Errorf("a group with one: %+v", g)
	}
	for _, name := range []string{"shop/web", "g-web", "web-production"} {
		if one, err := r.Report(ctx, name); err != nil || len(one.Groups) != 1 || one.Groups[0].ID != "g-web" {
			t.Errorf("%s: %+v %v", name, one.Groups, err)
		}
	}
	var unknown *status.UnknownGroupError
	if _, err := r.Report(ctx, "shop/wbe"); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("%v", err)
	}
	if history, err := r.History(ctx, "shop/web"); err != nil || history.Deployments == nil {
		t.Errorf("%+v %v", history, err)
	}
	if err := r.Ready(); err != nil {
		t.Error(err)
	}
	if err := r.Operate(ctx, status.Operation{Verb: "dance", Group: "shop/web"}); !errors.Is(err, status.ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := r.Operate(ctx, status.Operation{Verb: "pause", Group: "shop/web", Actor: "anna", Reason: "lunch"}); err != nil {
		t.Error(err)
	}
	if v, _ := o.view("web", "g-web"); v.Paused == nil {
		t.Error("it is not paused")
	}
	if err := r.Logs(ctx, status.LogQuery{Group: "shop/web", Host: "web-1"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "no deployment of this group") {
		t.Errorf("%v", err)
	}
	if a, err := r.Wait(ctx, "shop/web", ""); err != nil || !a.Done || a.Code != waitStopped {
		t.Errorf("a paused group: %+v %v", a, err)
	}
	if a, err := r.Wait(ctx, "shop/db", ""); err != nil || a.Done {
		t.Errorf("a group that is not taken up: %+v %v", a, err)
	}
	if _, err := r.Wait(ctx, "shop/web", "abc"); !errors.Is(err, status.ErrRefused) {
		t.Errorf("half a commit: %v", err)
	}
	w.State.Groups[1].Policy.Attempt = 2 // the same spec, to be tried again
	if a, err := r.Wait(ctx, "shop/web", ""); err != nil || a.Done {
		t.Errorf("an attempt that is not taken up: %+v %v", a, err)
	}
	broken := simpleWorld(commitA, "db")
	broken.State.Sets, broken.State.Broken.Groups = w.State.Sets, []string{"shop/web"}
	broken.Problems = []desired.Problem{{File: "shop/web/group.yaml", Line: 7, Column: 1, Message: `unknown key "chekcs"`}}
	broken.State.Broken.Groups = append(broken.State.Broken.Groups, "shop/young")
	r.source.world = broken
	if one, err := r.Report(ctx, "shop/web"); err != nil || one.Groups[0].State != status.StateInvalidConfig || !strings.Contains(one.Groups[0].Why, "group.yaml:7:1") ||
		!strings.Contains(one.Groups[0].Why, "before, the group was Paused") || one.Groups[0].ID != "g-web" {
		t.Errorf("a group whose files are broken: %+v %v", one.Groups, err)
	}
	if one, err := r.Report(ctx, "shop/young"); err != nil || one.Groups[0].State != status.StateInvalidConfig || one.Groups[0].Hosts == nil {
		t.Errorf("a group that was broken from the start: %+v %v", one.Groups, err)
	}
	if a, err := r.Wait(ctx, "shop/young", ""); err != nil || !a.Done || a.Code != waitRefused {
		t.Errorf("waiting for a group that was broken from the start: %+v %v", a, err)
	}
	r.source.world = simpleWorld(commitA, "db", "web", "more")
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "more") {
		t.Errorf("ready without a set: %v", err)
	}
}

func TestReaderAsksOtherSetsVoters(t *testing.T) {
	there := newOffice(t, commitA, idle)
	there.setWorld(simpleWorld(commitA, "far"))
	there.awaitOpen("far")
	served := newReader(t, there)
	server := httptest.NewServer(status.Handler(status.Options{Source: served}))
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()

	here := newOffice(t, commitA, idle)
	w := simpleWorld(commitA, "far", "lost", "near")
	for name, voter := range map[string]desired.HostName{"far": "web-2", "lost": "web-3"} {
		w.State.Sets[name] = desired.CoordinatorSet{Epoch: 1, Voters: []desired.Voter{{Host: voter, Storage: storage}}}
	}
	w.State.Groups[0].Members, w.State.Groups[1].Members = []desired.HostName{"web-2"}, []desired.HostName{"web-3"}
	here.setWorld(w)
	here.awaitOpen("near")
	r := newReader(t, here)
	var mu sync.Mutex
	var asked []string
	r.remotes = newRemotes()
	r.ask = func(host string) *status.Client {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, host)
		if host == "web-3" {
			return status.NewHTTPClient(client, "127.0.0.1:1")
		}
		return status.NewHTTPClient(client, server.Listener.Addr().String())
	}
	ctx := context.Background()
	for range 3 { // the answers serve for a while
		report, err := r.Report(ctx, "")
		if err != nil || len(report.Groups) != 3 {
			t.Fatalf("%+v %v", report, err)
		}
		if g := report.Groups[0]; g.Group != "shop/far" || g.State != rollout.StateNone {
			t.Errorf("the other set's group: %+v", g)
		}
		if g := report.Groups[1]; g.State != "Unknown" || strings.Count(g.Why, "web-3") > 1 || strings.Contains(g.Why, "gitopsd agent") {
			t.Errorf("a set nobody can be asked about: %+v", g)
		}
	}
	sort.Strings(asked)
	if len(asked) > 2+2 { // one more round if a second passed in between
		t.Errorf("asked %q", asked)
	}
	before := len(asked)
	if _, err := r.Report(ctx, "shop/near"); err != nil || len(asked) != before {
		t.Errorf("others were asked for a group followed here: %q %v", asked[before:], err)
	}
	if history, err := r.History(ctx, "shop/far"); err != nil || history.Group != "shop/far" || history.Deployments == nil {
		t.Errorf("history of a group elsewhere: %+v %v", history, err)
	}
	if err := r.Operate(ctx, status.Operation{Verb: "stop", Group: "shop/far", Actor: "anna"}); !errors.Is(err, status.ErrRefused) {
		t.Errorf("%v", err)
	}
	for host, want := range map[string]string{"web-22": "did you mean web-2?", "zzz": "known here: web-1, web-2"} {
		err := r.Logs(ctx, status.LogQuery{Group: "shop/far", Host: host}, &bytes.Buffer{})
		if unknown := (*status.UnknownOutputError)(nil); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "it is no host of shop/far") || !strings.Contains(err.Error(), want) {
			t.Errorf("logs of %s: %v", host, err)
		}
	}
	for _, q := range []status.LogQuery{{Group: "shop/far", Event: "AfterInstal"}, {Group: "shop/far", Deployment: "d-none"}} {
		err := r.Logs(ctx, q, &bytes.Buffer{})
		if unknown := (*status.UnknownOutputError)(nil); !errors.As(err, &unknown) {
			t.Errorf("logs of %+v: %v", q, err)
		}
	}
	if err := r.Logs(ctx, status.LogQuery{Group: "shop/near", Host: "web-2"}, &bytes.Buffer{}); err == nil {
		t.Error("logs that another host cannot give are no error")
	}
	silent := newReader(t, here) // as hosts see it: nobody else is asked
	if report, err := silent.Report(ctx, ""); err != nil || len(report.Groups) != 1 {
		t.Errorf("%+v %v", report.Groups, err)
	}
}

// TestPeerThatOnlyLeavesIsNoProblem: for a moment a peer that starts or leaves does not know a set.
func TestPeerThatOnlyLeavesIsNoProblem(t *testing.T) {
	s, run, at := &sets{}, &setRun{}, time.Unix(1_700_000_000, 0)
	said := []string{"web-2 refused: set web is not known here", "web-3 refused: it lost its store"}
	told := func(after time.Duration) string { return strings.Join(s.lasting(run, said, at.Add(after)), "|") }
	s.puzzle(run, said, at)
	s.puzzle(run, said, at.Add(puzzledFor/2))
	if got := told(puzzledFor / 2); got != said[1] {
		t.Errorf("at first: %q", got)
	}
	if got := told(puzzledFor); !strings.HasPrefix(got, "web-2 does not follow it; ") || !strings.HasSuffix(got, "|"+said[1]) {
		t.Errorf("later: %q", got)
	}
	s.puzzle(run, nil, at)
	s.puzzle(run, said, at.Add(puzzledFor))
	if got := told(puzzledFor); got != said[1] {
		t.Errorf("when it began anew: %q", got)
	}
}

// TestSentenceWithoutALeaderSaysWhatIsWaitedFor, by names of hosts alone: leaders change while everybody is up.
func TestSentenceWithoutALeaderSaysWhatIsWaitedFor(t *testing.T) {
	st := consensus.Status{Set: "web", Voters: []string{"web-1/6f1d2c3a9b7e4f01", "web-2/0000000000000000", "web-3/0000000000000001"}}
	up := func(hosts ...string) func() life {
		return func() life {
			return func(host string) (bool, time.Time) { return slices.Contains(hosts, host), time.Time{} }
		}
	}
	for _, c := range []struct {
		alive func() life
		want  string
	}{
		{up("web-1", "db-1", "db-2"), "coordinator set web has no leader, so nothing new starts until a majority of web-1, web-2, web-3 is up; 3 of 5 done"},
		{up("web-1", "web-3"), "coordinator set web has no leader, so nothing new starts until one of web-1, web-2, web-3 is elected; 3 of 5 done"},
	} {
		if got := withLeader("3 of 5 done", st, c.alive); got != c.want {
			t.Errorf("%s", got)
		}
	}
	alone := consensus.Status{Set: "web", Voters: st.Voters[:1]}
	for _, c := range []struct {
		alive        func() life
		want, notice string
	}{
		{up("web-1"), "coordinator set web has no leader, so nothing new starts until web-1 is elected", "its voter web-1 is to be elected, which takes seconds"},
		{up("db-1"), "coordinator set web has no leader, so nothing new starts until web-1 is up", "its voter web-1 must be up"},
	} {
		if got := withLeader("", alone, c.alive); got != c.want {
			t.Errorf("one voter: %s", got)
		}
		if got := awaitedOf(alone.Voters, c.alive); got != c.notice {
			t.Errorf("one voter: %s", got)
		}
	}
	st.Quorum = true
	if got := withLeader("3 of 5 done", st, up()); got != "3 of 5 done" {
		t.Errorf("%s", got)
	}
}

// TestSuspendedGroupSaysHowToGoOn: the key in group.yaml is what a person has to change.
func TestSuspendedGroupSaysHowToGoOn(t *testing.T) {
	o := newOffice(t, commitA, idle)
	w := simpleWorld(commitA, "web")
	w.State.Groups[0].Policy.Suspend = true
	o.setWorld(w)
	o.awaitOpen("web")
	o.take(w, w.State.Groups[0])
	report, err := newReader(t, o).Report(context.Background(), "web")
	if err != nil || report.Groups[0].State != rollout.StateSuspended || report.Groups[0].Why != "`suspend: true` stands in shop/web/group.yaml; a commit without it lets the group go on" {
		t.Errorf("%+v %v", report.Groups, err)
	}
}

// take has the set of a group take up what a world asks of it.
func (o *office) take(w *world, g desired.Group) {
	o.t.Helper()
	run := o.list()[g.Coordinators]
	for _, c := range []rollout.Command{rollout.Lead{Host: "web-1", Epoch: 1, Voters: []string{"web-1"}}, targetOf(w, g)} {
		data, err := rollout.Encode(c, time.Unix(1_700_000_000, 0))
		if err != nil {
			o.t.Fatal(err)
		}
		result, err := run.set.Lead(context.Background(), run.set.Status().Term, data)
		if err != nil || refusedBy(result.Response) != "" {
			o.t.Fatalf("%T: %v %s", c, err, refusedBy(result.Response))
		}
	}
}

func TestRemotesAnswerForAWhile(t *testing.T) {
	r, asked, now := newRemotes(), 0, time.Now()
	ask := func() (status.Report, string) { asked++; return status.Report{Host: "web-2"}, "" }
	for _, at := range []time.Duration{0, remoteFresh / 2, remoteFresh, remoteFresh + 1} {
		if report, _ := r.get("web", now.Add(at), ask); report.Host != "web-2" {
			t.Errorf("%+v", report)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	for i := range 2 * setsMax {
		r.get(strings.Repeat("x", i%5000), now, ask)
	}
	if len(r.answers) > setsMax {
		t.Errorf("%d answers are kept", len(r.answers))
	}
}
