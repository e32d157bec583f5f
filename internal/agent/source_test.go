package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// followed is a source with what it said.
type followed struct {
	*source
	cfg       *Config
	log       *bytes.Buffer
	published []string
	reached   []bool
	pulls     []string
	told      []string         // commits of refusals told to the fleet; "" takes one back
	peer      *configrepo.Repo // answers pulls, if not nil
}

// newSource makes a source over o whose data is in dir; several in one dir are one host over several starts.
func newSource(t testing.TB, o *gitOrigin, dir string) *followed {
	t.Helper()
	f := &followed{log: &bytes.Buffer{}, cfg: &Config{Host: "web-1", Repository: RepositoryConfig{URLs: []string{o.dir}, Branch: "main", Poll: time.Hour, Introduction: o.intro}}}
	repo, err := configrepo.New(configrepo.Options{Dir: filepath.Join(dir, "git"), URLs: f.cfg.Repository.URLs, Introduction: o.intro, AllowedSigners: o.allowed, AllowLocalPath: true})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	f.source = &source{self: "web-1", repo: func() *configrepo.Repo { return repo }, cfg: func() *Config { return f.cfg }, peers: func() []string { return []string{"web-1", "web-2"} },
		pull: func(_ context.Context, host, have string) (io.ReadCloser, string, error) {
			mu.Lock()
			defer mu.Unlock()
			f.pulls = append(f.pulls, host)
			if f.peer == nil {
				return nil, "", errors.New("nobody is there")
			}
			tip, _ := f.peer.Accepted()
			var pack bytes.Buffer
			if n, err := f.peer.Pack(have, &pack); n == 0 || err != nil {
				return nil, tip.ID, err
			}
			return io.NopCloser(&pack), tip.ID, nil
		},
		publish: func(tip string) { f.published = append(f.published, tip) }, reach: func(git bool) { f.reached = append(f.reached, git) },
		tell: func(r *configrepo.Refusal) {
			if r == nil {
				r = &configrepo.Refusal{}
			}
			f.told = append(f.told, r.Commit)
		},
		log: slog.New(slog.NewTextHandler(f.log, nil)), effectiveFile: filepath.Join(dir, effectiveFile), hints: newHints(), demands: make(chan chan error, 1), swaps: make(chan func())}
	return f
}

// syncs fails the test when the source cannot sync.
func (f *followed) syncs(t testing.TB) {
	t.Helper()
	if err := f.sync(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// kinds lists the kinds of the notices.
func (f *followed) kinds() string {
	var kinds []string
	for _, n := range f.notices() {
		kinds = append(kinds, n.Kind)
	}
	return strings.Join(kinds, " ")
}

func TestSourceAcceptsAndRefuses(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	if f.current() != nil {
		t.Fatal("a world before the first sync")
	}
	f.syncs(t)
	if w := f.current(); w == nil || w.Commit.ID != o.intro || w.State.Fleet.Name != "test" {
		t.Fatalf("world %+v", w)
	}
	moved := f.changed.Changed()
	good := o.commit("hosts/web-1.yaml", hostFile(t, "role: web"))
	f.syncs(t)
	<-moved
	if w := f.current(); w.Commit.ID != good || len(w.State.Hosts) != 1 {
		t.Fatalf("world %+v", w)
	}
	bad := o.change(sign.Change{}, "fleet.yaml", "name: evil\n")
	for range 3 {
		f.syncs(t)
	}
	if w := f.current(); w.Commit.ID != good {
		t.Fatalf("an unsigned commit was accepted: %+v", w)
	}
	if r := f.refusal(); r == nil || r.Commit != bad || r.Reason != configrepo.ReasonUnsigned || f.kinds() != "Unsigned" {
		t.Fatalf("refusal %+v, notices %s", r, f.kinds())
	}
	if n := strings.Count(f.log.String(), "a commit was refused"); n != 1 {
		t.Errorf("the refusal was logged %d times", n)
	}
	next := o.commit("fleet.yaml", "name: test2\n")
	f.syncs(t)
	if f.current().Commit.ID != next || f.refusal() != nil || f.kinds() != "" {
		t.Errorf("world %s, notices %q", f.current().Commit.ID, f.kinds())
	}
	if got := strings.Join(f.told, ","); got != bad+"," {
		t.Errorf("told the fleet %q, want the refused commit once, and then that it is over", got)
	}
	if want := []string{o.intro, good, next}; strings.Join(f.published, " ") != strings.Join(want, " ") {
		t.Errorf("published %q", f.published)
	}
	if len(f.reached) != 1 || !f.reached[0] {
		t.Errorf("reached %v", f.reached)
	}
}

// TestABranchThatWentBackIsTold: whoever force-pushes an older commit must read that nothing follows it, and `wait` must not take the state before for its outcome.
func TestABranchThatWentBackIsTold(t *testing.T) {
	o, dir := newOrigin(t), t.TempDir()
	f := newSource(t, o, dir)
	f.syncs(t)
	good := o.commit("hosts/web-1.yaml", hostFile(t, "role: web"))
	f.syncs(t)
	o.reset(o.intro)
	f.syncs(t)
	refused := f.refusal()
	if refused == nil || refused.Reason != reasonRewound || f.kinds() != "Rewound" || f.current().Commit.ID != good {
		t.Fatalf("%+v, notices %s", refused, f.kinds())
	}
	for _, want := range []string{"the repository went back to commit " + o.intro[:10], "this host stays at " + good[:10], "git revert"} {
		if !strings.Contains(refused.Sentence, want) {
			t.Errorf("%q does not say %q", refused.Sentence, want)
		}
	}
	r := &reader{self: "web-1", source: f.source, repo: f.source.repo}
	group := status.Group{Group: "shop/web", State: rollout.StateSucceeded}
	if a, newer := r.newerThanHere(f.current(), group); !newer || !a.Done || a.Code != waitRefused || !strings.HasPrefix(a.Message, refused.Sentence) {
		t.Errorf("wait for the newest commit: %+v", a)
	}
	if why, no := r.refusalOf(o.intro); no {
		t.Errorf("a commit that was accepted long ago is refused: %s", why)
	}
	// Hosts that do not ask git themselves hear of it.
	other := &reader{self: "web-2", source: newSource(t, o, t.TempDir()).source, repo: f.source.repo, heard: func() map[string]configrepo.Refusal { return map[string]configrepo.Refusal{"web-1": *refused} }}
	other.source.world = f.current()
	if got := other.refusals(); len(got) != 1 || got[0].Kind != "Rewound" || got[0].Host != "web-1" {
		t.Errorf("another host says %+v", got)
	}
	o.reset(good)
	f.syncs(t)
	if f.refusal() != nil || f.kinds() != "" || f.told[len(f.told)-1] != "" {
		t.Errorf("the branch is back, and yet %+v, notices %s, told %v", f.refusal(), f.kinds(), f.told)
	}
}

// TestMirrorsThatLagAreNoBranchThatWentBack until it has lasted: after a restart this host does not know what git offered before.
func TestMirrorsThatLagAreNoBranchThatWentBack(t *testing.T) {
	a, b, now := strings.Repeat("a1", 20), strings.Repeat("b2", 20), time.Now()
	older := func(commit, than string) bool { return commit == a && than == b }
	lags := configrepo.Outcome{Accepted: configrepo.Commit{ID: b}, Tip: a, Refused: &configrepo.Refusal{Commit: a, Reason: configrepo.ReasonBehind, Sentence: "it lags"}}
	var w rewinds
	for _, at := range []time.Duration{0, rewoundAfter - 1} {
		if got := w.judge(lags, now.Add(at), older); got.Reason != configrepo.ReasonBehind || got.Sentence != "it lags" {
			t.Errorf("after %v: %+v", at, got)
		}
	}
	if got := w.judge(lags, now.Add(rewoundAfter), older); got.Reason != reasonRewound || !strings.Contains(got.Sentence, "or every mirror still offers") {
		t.Errorf("at last: %+v", got)
	}
	// What lacks a floor is something else, and so is a commit that is merely unsigned.
	floor := configrepo.Outcome{Accepted: configrepo.Commit{ID: a}, Tip: b, Refused: &configrepo.Refusal{Commit: b, Reason: configrepo.ReasonBehind}}
	if got := w.judge(floor, now, older); got.Reason != configrepo.ReasonBehind {
		t.Errorf("a floor: %+v", got)
	}
	if got := w.judge(lags, now.Add(2*rewoundAfter), older); got.Reason != configrepo.ReasonBehind {
		t.Errorf("the minute does not begin anew: %+v", got)
	}
}

func TestMassRemovalIsHeldOverARestartUntilAllowed(t *testing.T) {
	var files []string
	names := []string{"web-1", "web-2", "web-3", "web-4", "web-5"}
	for _, name := range names {
		files = append(files, "hosts/"+name+".yaml", hostFile(t, "role: web"))
	}
	o, dir := newOrigin(t, files...), t.TempDir()
	f := newSource(t, o, dir)
	f.syncs(t)
	var gone []string
	for _, name := range names[1:] {
		gone = append(gone, "hosts/"+name+".yaml", "-")
	}
	removal := o.commit(gone...)
	f.syncs(t)
	held := func(f *followed, when string) {
		t.Helper()
		w := f.current()
		if w == nil || w.Commit.ID != o.intro || len(w.State.Hosts) != 5 || w.HeldID != removal || !strings.Contains(w.Held, "removes 4 of 5 hosts") || f.kinds() != "MassRemoval" {
			t.Fatalf("%s: %+v, notices %s", when, w, f.kinds())
		}
	}
	held(f, "at once")
	f = newSource(t, o, dir)
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	held(f, "after a restart")
	f.syncs(t)
	held(f, "after a sync")
	if !strings.Contains(f.current().Held, "allowMassRemoval: "+o.intro) {
		t.Errorf("it does not say what to commit: %s", f.current().Held)
	}
	allowed := o.commit("fleet.yaml", "name: test\nallowMassRemoval: "+o.intro+"\n")
	f.syncs(t)
	if w := f.current(); w.Commit.ID != allowed || len(w.State.Hosts) != 1 || w.Held != "" {
		t.Fatalf("allowed: %+v", w)
	}
}

func TestBrokenHostIsKeptOverARestart(t *testing.T) {
	first, voter := hostFile(t, "role: web"), hostFile(t, "role: db")
	o, dir := newOrigin(t, "hosts/web-1.yaml", first, "hosts/web-2.yaml", hostFile(t, "role: web"), "hosts/db-1.yaml", voter, "coordinators/web.yaml", setFile("db-1", voter), "shop/group.yaml", groupFile("01WEBSITE0", "a")), t.TempDir()
	f := newSource(t, o, dir)
	f.syncs(t)
	o.commit("hosts/web-1.yaml", "tags: {role: web}\nnonsense: 1\n")
	f.syncs(t)
	o.commit("fleet.yaml", "name: later\n")
	f.syncs(t)
	kept := func(f *followed, when string) {
		t.Helper()
		w := f.current()
		g, _ := w.group("01WEBSITE0")
		if _, ok := w.State.Hosts["web-1"]; !ok || w.State.Fleet.Name != "later" || len(g.Members) != 2 {
			t.Fatalf("%s: hosts %v, members %v, problems %v", when, w.State.Hosts, g.Members, w.Problems)
		}
	}
	kept(f, "running")
	f = newSource(t, o, dir)
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	kept(f, "after a restart")
	o.commit("hosts/web-1.yaml", first)
	f.syncs(t)
	if w := f.current(); len(w.kept) != 0 || len(w.State.Hosts) != 3 {
		t.Errorf("mended: kept %v, hosts %v", w.kept, w.State.Hosts)
	}
}

func TestKeptCommitsAreBounded(t *testing.T) {
	broken := func() *desired.State {
		s := &desired.State{Hosts: map[desired.HostName]desired.Host{}}
		s.Broken.Hosts = []desired.HostName{"web-1"}
		return s
	}
	id := func(i int) string { return strings.Repeat("0", 30) + strings.Repeat(string(rune('a'+i%26)), 10) }
	w := &world{Commit: configrepo.Commit{ID: id(0)}, State: &desired.State{Hosts: map[desired.HostName]desired.Host{"web-1": {}}}}
	for i := 1; i < 25; i++ {
		w = (&world{Commit: configrepo.Commit{ID: id(i)}, State: broken()}).follow(w)
	}
	if len(w.kept) != keptMax || w.kept[0] != id(0) || w.kept[keptMax-1] != id(23) {
		t.Errorf("kept %v", w.kept)
	}
}

func TestFailedLoadIsTriedAgain(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	file := f.effectiveFile
	f.effectiveFile = filepath.Join(t.TempDir(), "missing", "file")
	if err := f.sync(context.Background()); err == nil {
		t.Fatal("a commit took effect that could not be noted")
	}
	f.effectiveFile = file
	f.syncs(t) // the mirror has nothing new
	if w := f.current(); w == nil || w.Commit.ID != o.intro {
		t.Fatalf("world %+v", w)
	}
}

func TestEffectiveFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "effective")
	id := strings.Repeat("a", 40)
	if doc, err := readEffective(file, id); err != nil || doc.Commit != "" {
		t.Errorf("missing: %+v %v", doc, err)
	}
	if err := writeEffective(file, id, &world{Commit: configrepo.Commit{ID: id}, kept: []string{id}}); err != nil {
		t.Fatal(err)
	}
	if doc, err := readEffective(file, id); err != nil || doc.Commit != id || len(doc.Kept) != 1 {
		t.Errorf("written: %+v %v", doc, err)
	}
	if doc, err := readEffective(file, strings.Repeat("b", 40)); err != nil || doc.Commit != "" {
		t.Errorf("of another repository: %+v %v", doc, err)
	}
	const remove = "stop the agent, remove the file and start it again"
	for text, advice := range map[string]string{"": remove, "{": remove, `{"version":2}`: "run the gitopsd that wrote it, or a newer one", `{"version":0}`: remove,
		`{"version":1,"introduction":"` + id + `","commit":"x"}`: remove, strings.Repeat(" ", effectiveMax+1): remove} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readEffective(file, id); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), advice) {
			t.Errorf("%.60q: %v; want %s", text, err, advice)
		}
	}
}

func TestFailuresAreLoggedOnceAndBackOff(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	f.syncs(t)
	if err := os.Rename(o.dir, o.dir+".away"); err != nil {
		t.Fatal(err)
	}
	last := time.Duration(0)
	for i := range 10 {
		f.look(context.Background())
		if p := f.pause(); i > 0 && i < 7 && p < last || p > retryMax+retryMax/5 {
			t.Errorf("pause %d is %s after %s", i, p, last)
		} else {
			last = p
		}
	}
	if n := strings.Count(f.log.String(), "cannot be followed"); n != 1 || f.kinds() != "SourceUnreachable" {
		t.Errorf("logged %d times; notices %s\n%s", n, f.kinds(), f.log)
	}
	if len(f.pulls) != 10 {
		t.Errorf("peers were asked %d times while git was away", len(f.pulls))
	}
	if err := os.Rename(o.dir+".away", o.dir); err != nil {
		t.Fatal(err)
	}
	f.look(context.Background())
	if f.kinds() != "" || f.pause() < 45*time.Minute || strings.Count(f.log.String(), "can be followed again") != 1 {
		t.Errorf("not recovered: %s, pause %s\n%s", f.kinds(), f.pause(), f.log)
	}
	if len(f.reached) != 3 || !f.reached[0] || f.reached[1] || !f.reached[2] {
		t.Errorf("reached %v", f.reached)
	}
}

func TestHintIsFollowedOnce(t *testing.T) {
	o := newOrigin(t)
	peer, f := newSource(t, o, t.TempDir()), newSource(t, o, t.TempDir())
	f.syncs(t)
	tip := o.commit("fleet.yaml", "name: newer\n")
	peer.syncs(t)
	f.peer, f.cfg.Repository.URLs = peer.repo(), nil
	f.offer("web-2", []byte("not a commit"))
	f.offer("web-1", []byte(tip)) // from itself
	if _, ok := f.hints.take(); ok {
		t.Fatal("nonsense was queued")
	}
	f.offer("web-2", []byte(o.intro))
	f.offer("web-2", []byte(tip))
	h, ok := f.hints.take()
	if !ok || h.tip != tip {
		t.Fatalf("hint %+v", h)
	}
	f.follow(context.Background(), h)
	if f.current().Commit.ID != tip {
		t.Fatalf("world %s", f.current().Commit.ID)
	}
	f.follow(context.Background(), h)
	f.follow(context.Background(), hint{"web-2", o.intro})
	if len(f.pulls) != 1 {
		t.Errorf("pulled %q", f.pulls)
	}
}

func TestHintsAreBounded(t *testing.T) {
	h := newHints()
	for i := range 2 * hintsMax {
		h.put(strings.Repeat("x", i), "tip")
	}
	n := 0
	for {
		if _, ok := h.take(); !ok {
			break
		}
		n++
	}
	if n != hintsMax {
		t.Errorf("%d hints were kept", n)
	}
}

func TestPeerThatIsBehindIsNoFailure(t *testing.T) {
	o := newOrigin(t)
	peer, f := newSource(t, o, t.TempDir()), newSource(t, o, t.TempDir())
	peer.syncs(t)
	tip := o.commit("fleet.yaml", "name: newer\n")
	f.syncs(t)
	f.peer, f.cfg.Repository.URLs = peer.repo(), nil
	f.syncs(t)
	if f.current().Commit.ID != tip || len(f.pulls) != 1 {
		t.Errorf("world %s, pulls %q", f.current().Commit.ID, f.pulls)
	}
}

func TestForkIsFoundAmongPeersAndHoldsUntilBothAreJoined(t *testing.T) {
	o := newOrigin(t)
	peer, f := newSource(t, o, t.TempDir()), newSource(t, o, t.TempDir())
	ours := o.commit("fleet.yaml", "name: ours\n")
	f.syncs(t)
	theirs := o.change(sign.Change{Signer: o.key, Parents: []string{o.intro}}, "fleet.yaml", "name: theirs\n")
	peer.syncs(t)
	f.peer = peer.repo()
	f.follow(context.Background(), hint{"web-2", theirs})
	w := f.current()
	if w.Commit.ID != ours || w.Forked == "" || f.kinds() != "SourceForked" {
		t.Fatalf("world %s, forked %q, notices %q", w.Commit.ID, w.Forked, f.kinds())
	}
	if target := targetOf(w, desired.Group{}); !target.Suspend {
		t.Error("forward changes go on")
	}
	if err := o.git.SetTip(ours); err != nil {
		t.Fatal(err)
	}
	o.commit("fleet.yaml", "name: later\n")
	f.syncs(t)
	if f.current().Forked == "" {
		t.Error("a commit on one side ended the fork")
	}
	tip, _ := o.git.Tip()
	both := o.change(sign.Change{Signer: o.key, Parents: []string{tip, theirs}}, "fleet.yaml", "name: both\n")
	f.syncs(t)
	if w := f.current(); w.Commit.ID != both || w.Forked != "" || f.kinds() != "" {
		t.Errorf("world %s, forked %q, notices %q", w.Commit.ID, w.Forked, f.kinds())
	}
}

// A mirror restored from a backup does not make this host forget what was in
// effect, until a person says so.
func TestFloorOutlivesAnOlderMirror(t *testing.T) {
	o, dir := newOrigin(t), t.TempDir()
	git := filepath.Join(dir, "git")
	newSource(t, o, dir).syncs(t)
	if err := os.CopyFS(git+".backup", os.DirFS(git)); err != nil {
		t.Fatal(err)
	}
	newest := o.commit("fleet.yaml", "name: newest\n")
	f := newSource(t, o, dir)
	f.syncs(t)
	if err := errors.Join(os.RemoveAll(git), os.Rename(git+".backup", git)); err != nil {
		t.Fatal(err)
	}
	other := o.change(sign.Change{Signer: o.key, Parents: []string{o.intro}}, "fleet.yaml", "name: other\n")
	begin := func(want string) {
		t.Helper()
		f := newSource(t, o, dir)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		if err := f.demand(ctx); err != nil {
			t.Fatal(err)
		}
		if w := f.current(); w == nil || w.Commit.ID != want {
			t.Errorf("at %+v, want %s; newest %s, other %s", w, want, newest, other)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	begin(o.intro)
	begin(o.intro) // nor does a further restart
	if err := os.Remove(f.effectiveFile); err != nil {
		t.Fatal(err)
	}
	begin(other)
}

func TestFloorOutlivesALostMirror(t *testing.T) {
	o, dir := newOrigin(t), t.TempDir()
	f := newSource(t, o, dir)
	newest := o.commit("fleet.yaml", "name: newest\n")
	f.syncs(t)
	if err := os.RemoveAll(filepath.Join(dir, "git")); err != nil {
		t.Fatal(err)
	}
	other := o.change(sign.Change{Signer: o.key, Parents: []string{o.intro}}, "fleet.yaml", "name: other\n")
	f = newSource(t, o, dir)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	if err := f.demand(ctx); err != nil {
		t.Fatal(err)
	}
	if w := f.current(); w != nil {
		t.Errorf("accepted %s (other is %s) although this host had been at %s", w.Commit.ID, other, newest)
	}
	if n := f.notices(); len(n) != 1 || !strings.Contains(n[0].Message, newest[:10]) || !strings.Contains(n[0].Message, f.effectiveFile) || !strings.Contains(n[0].Message, "remove the file") {
		t.Errorf("nobody is told what to do: %+v", n)
	}
	if err := o.git.SetTip(newest); err != nil {
		t.Fatal(err)
	}
	if err := f.demand(ctx); err != nil {
		t.Fatal(err)
	}
	if w := f.current(); w == nil || w.Commit.ID != newest {
		t.Errorf("world %+v", w)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestDemandEndsWithItsContext(t *testing.T) {
	f := newSource(t, newOrigin(t), t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 3 { // nobody runs: the queue is full after the first
		if err := f.demand(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

func TestWhoLooksWhen(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	now := time.Now()
	if !f.due(now) {
		t.Error("without a world nothing is more urgent")
	}
	f.syncs(t)
	f.audit = now.Add(time.Hour)
	names := []string{"web-1", "web-2", "web-3", "web-4", "web-5", "web-6"}
	polls := 0
	for _, name := range names {
		f.self, f.peers = name, func() []string { return names }
		if f.due(now) {
			polls++
		}
		if !f.due(now.Add(time.Hour)) {
			t.Errorf("%s never audits", name)
		}
	}
	if polls != pollersPerFleet {
		t.Errorf("%d of %d hosts poll", polls, len(names))
	}
	f.peers = func() []string { return []string{f.self} }
	if !f.due(now) {
		t.Error("the last host alive does not poll")
	}
	f.cfg.Repository.URLs = nil
	if f.due(now) || !f.due(now.Add(2*time.Hour)) {
		t.Error("a host without a route asks peers only at audits")
	}
}

// TestHintThatFailsIsMadeUpFor is about a host that does not poll: a pack that it could not keep is not offered again.
func TestHintThatFailsIsMadeUpFor(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	f.syncs(t)
	f.peers = func() []string { return nil }
	f.pull = func(context.Context, string, string) (io.ReadCloser, string, error) {
		return nil, "", errors.New("no space left on device")
	}
	f.audit = time.Now().Add(auditMin)
	next := o.commit("fleet.yaml", "name: test2\n")
	f.follow(context.Background(), hint{"web-2", next})
	if left := time.Until(f.audit); left > 2*hintRetry {
		t.Errorf("it looks again in %v", left)
	}
	if !f.due(f.audit) {
		t.Error("it is not its turn then")
	}
	f.look(context.Background())
	if f.current().Commit.ID != next || time.Until(f.audit) < auditMin/2 {
		t.Errorf("at %s, next look in %v", f.current().Commit.ID, time.Until(f.audit))
	}
}
