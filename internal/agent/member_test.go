package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

func newGates() *member {
	return &member{events: make(chan rollout.MemberEvent, 4), gates: map[string]chan error{}, ended: make(chan struct{})}
}

// TestGateWaitsForTheLoopsLastWord is about a grant that was marked as begun while its deployment was vetoed, because the agent stopped in between.
func TestGateWaitsForTheLoopsLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newGates()
		ctx, cancel := context.WithCancel(context.Background())
		passed := make(chan error, 1)
		go func() { passed <- m.gate(ctx, "g", "d") }()
		<-m.events // the loop has taken the question and persists
		cancel()
		synctest.Wait()
		select {
		case err := <-passed:
			t.Fatalf("the gate gave up while the loop was persisting: %v", err)
		default:
		}
		m.answerGate("g", "d", nil)
		close(m.ended)
		if err := <-passed; err != nil {
			t.Errorf("what was persisted does not happen: %v", err)
		}
		if len(m.gates) != 0 {
			t.Errorf("gates are left: %v", m.gates)
		}
	})
}

func TestGateEndsWithTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newGates()
		passed := make(chan error, 1)
		go func() { passed <- m.gate(context.Background(), "g", "d") }()
		synctest.Wait()
		close(m.ended) // nobody will take the question
		if err := <-passed; !errors.Is(err, errStopped) {
			t.Errorf("%v", err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := m.gate(ended, "g", "d"); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

func TestGateRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newGates()
		passed := make(chan error, 1)
		go func() { passed <- m.gate(context.Background(), "g", "d") }()
		<-m.events
		m.answerGate("g", "other", nil) // somebody else's
		m.answerGate("g", "d", errLapsed)
		if err := <-passed; !errors.Is(err, errLapsed) {
			t.Errorf("%v", err)
		}
	})
}

func TestSendGivesUpOnceStopped(t *testing.T) {
	m := newGates()
	ctx, cancel := context.WithCancel(context.Background())
	if !m.send(ctx, rollout.EvTimer{}) {
		t.Error("an event was lost")
	}
	cancel()
	for range 100 { // there is room, yet what was interrupted must not be reported
		if m.send(ctx, rollout.EvTimer{}) {
			t.Fatal("an event of interrupted work was taken")
		}
	}
}

func TestNewestAssignmentsWin(t *testing.T) {
	m := &member{pending: map[string][]rollout.Assignment{}, news: newWake()}
	m.synced("web", []rollout.Assignment{{Group: "old"}})
	m.synced("web", []rollout.Assignment{{Group: "new"}})
	m.synced("db", nil)
	if len(m.pending) != 2 || m.pending["web"][0].Group != "new" || len(m.news) != 1 {
		t.Errorf("%v", m.pending)
	}
}

func TestReplacedProbersAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &checks{self: "web-1", log: slog.New(slog.DiscardHandler), news: make(chan string, 8)}
		ctx, cancel := context.WithCancel(context.Background())
		check := func(name string) desired.Check {
			return desired.Check{Name: name, Exec: &desired.ExecCheck{Command: []string{"/bin/true"}}, Interval: time.Hour, Timeout: time.Second, HealthyAfter: 1, UnhealthyAfter: 1}
		}
		withChecks := func(names ...string) *world {
			g := desired.Group{ID: "g1", Members: []desired.HostName{"web-1"}}
			for _, name := range names {
				g.Checks = append(g.Checks, check(name))
			}
			return &world{State: &desired.State{Groups: []desired.Group{g}, Hosts: map[desired.HostName]desired.Host{"web-1": {}}}}
		}
		c.follow(ctx, withChecks("a"))
		first := c.runs["g1"]
		c.follow(ctx, withChecks("a"))
		if c.runs["g1"] != first {
			t.Error("the same checks were started again")
		}
		c.follow(ctx, withChecks("b"))
		if c.runs["g1"] == first {
			t.Error("the old checks go on")
		}
		if _, ok := c.verdict("g1"); !ok {
			t.Error("no verdict")
		}
		if group := <-c.news; group != "g1" {
			t.Error("nobody is told that what was known no longer counts")
		}
		c.follow(ctx, withChecks())
		if _, ok := c.verdict("g1"); ok {
			t.Error("a verdict of checks that are gone")
		}
		c.restart("g1") // of nothing
		cancel()
		c.wait()
	})
}

// disk is a store and an applier with a release or two.
type disk struct {
	t       *testing.T
	store   *store.Store
	applier *apply.Applier
	bundles *bundles
	config  Config
	kept    apply.Retention
	state   string // the applier's directory
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t}
	var err error
	if d.store, err = store.Open(store.Options{Dir: filepath.Join(t.TempDir(), "bundles")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.store.Close() })
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d.state = filepath.Join(t.TempDir(), "apply")
	if d.applier, err = apply.New(apply.Options{StateDir: d.state, DestinationRoot: t.TempDir(), Supervisor: []string{program, "supervise"}, Retention: func() apply.Retention { return d.kept }}); err != nil {
		t.Fatal(err)
	}
	d.bundles = &bundles{store: d.store, applier: d.applier, config: func() *Config { return &d.config }, limit: func() int64 { return 0 }, changed: newWake(), log: slog.New(slog.DiscardHandler)}
	return d
}

// source makes a bundle's folder, whose digest is made of a letter.
func (d *disk) source(letter, appspecText string) apply.Source {
	d.t.Helper()
	dir := d.t.TempDir()
	for name, text := range map[string]string{"appspec.yml": appspecText, "page": letter, "hook.sh": "#!/bin/sh\necho hello of " + letter + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			d.t.Fatal(err)
		}
	}
	return apply.Source{Path: dir, Type: bundle.TypeDirectory, Digest: digestOf(letter)}
}

func digestOf(letter string) bundle.Digest {
	text := ""
	for range 64 {
		text += letter
	}
	return bundle.Digest("sha256:" + text)
}

const plainSpec = "version: 0.0\nos: linux\nfiles:\n  - {source: page, destination: /srv/site}\n"

// deploy applies a deployment.
func (d *disk) deploy(id, letter string) apply.Deployment {
	d.t.Helper()
	return d.deploySpec(id, letter, plainSpec)
}

func (d *disk) deploySpec(id, letter, spec string) apply.Deployment {
	d.t.Helper()
	deployment := apply.Deployment{ID: id, ApplicationName: "website", GroupName: "website", GroupID: "g1", SpecHash: "hash-" + letter, Commit: "commit-" + letter, Kind: appspec.InPlace,
		Source: d.source(letter, spec), FileExistsBehavior: appspec.Overwrite, HoldGood: true}
	result, err := d.applier.Apply(context.Background(), deployment, nil)
	if err != nil || result.Outcome != apply.OutcomeSucceeded {
		d.t.Fatalf("%+v %v", result, err)
	}
	return deployment
}

// pins lists who keeps a bundle.
func (d *disk) pins(letter string) int { return len(d.store.Pins()[digestOf(letter)]) }

// TestRepeatedDeploymentsLetNoOldBundleGo: retries and rollbacks of two revisions pushed the bundle of a third out, which a revert then had to fetch.
func TestRepeatedDeploymentsLetNoOldBundleGo(t *testing.T) {
	d := newDisk(t)
	d.deploy("d-1", "a")
	for i := range 3 {
		d.deploy(fmt.Sprintf("d-2%d", i), "b")
		d.deploy(fmt.Sprintf("d-3%d", i), "c")
	}
	if err := d.bundles.settle(t.Context(), func() kept { return kept{preparing: map[string][]string{"g1": nil}} }); err != nil {
		t.Fatal(err)
	}
	if d.pins("a") != 1 || d.pins("b") == 0 || d.pins("c") == 0 {
		t.Errorf("pins %v", d.store.Pins())
	}
}

// What is unpacked and cannot be read just now, as by a process without descriptors, is unpacked all the same.
func TestABundleWhoseReleaseCannotBeReadStays(t *testing.T) {
	d := newDisk(t)
	d.deploy("d-1", "a")
	d.deploy("d-2", "b")
	settle := func() {
		t.Helper()
		if err := d.bundles.settle(t.Context(), func() kept { return kept{preparing: map[string][]string{"g1": nil}} }); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	releases, err := d.applier.Releases("g1")
	if err != nil || len(releases) != 2 || releases[1].DeploymentID != "d-1" {
		t.Fatalf("%+v %v", releases, err)
	}
	record := filepath.Join(filepath.Dir(releases[1].Dir), "release.json")
	if err := errors.Join(os.Rename(record, record+".away"), os.Mkdir(record, 0o700)); err != nil {
		t.Fatal(err)
	}
	settle()
	if d.pins("a") != 1 || d.pins("b") != 1 {
		t.Errorf("pins %v", d.store.Pins())
	}
}

func TestBundlesAreKeptAsLongAsTheyAreNeeded(t *testing.T) {
	d := newDisk(t)
	targets, unknown := map[string][]string{"g1": {string(digestOf("b"))}}, map[string]bool{}
	settle := func() {
		t.Helper()
		if err := d.bundles.settle(context.Background(), func() kept { return kept{preparing: targets, unknown: unknown} }); err != nil {
			t.Fatal(err)
		}
	}
	for _, pin := range []struct{ owner, letter string }{{"target/g1", "a"}, {"target/g1", "b"}, {"target/g2", "c"}, {"target/gone", "d"}, {"release/g1/d-OLD", "e"}, {"hand", "f"}} {
		if err := d.store.Pin(pin.owner, digestOf(pin.letter)); err != nil {
			t.Fatal(err)
		}
	}
	unknown["g2"] = true
	d.deploy("d-1", "1")
	settle()
	for letter, want := range map[string]int{"a": 0, "b": 1, "c": 1, "d": 0, "e": 0, "f": 1, "1": 1} {
		if got := d.pins(letter); got != want {
			t.Errorf("bundle %s has %d pins, want %d", letter, got, want)
		}
	}
	delete(unknown, "g2")
	targets = map[string][]string{"g1": nil, "g2": nil}
	for _, n := range []string{"2", "3", "4", "5", "6", "7"} {
		d.deploy("d-"+n, n)
	}
	settle()
	kept := 0
	for _, n := range []string{"1", "2", "3", "4", "5", "6", "7"} {
		kept += d.pins(n)
	}
	if kept != 5 || d.pins("7") != 1 || d.pins("b")+d.pins("c") != 0 {
		t.Errorf("pins %v", d.store.Pins())
	}
}

// TestABundleOfTwoGroupsStaysUntilBothLetGo, however full the disk is, and whether or not git still has the group whose release it is: no other host need have it.
func TestABundleOfTwoGroupsStaysUntilBothLetGo(t *testing.T) {
	d := newDisk(t)
	data := []byte("an archive that two groups run")
	digest := bundle.DigestBytes(data)
	if err := d.store.Import(t.Context(), bundle.Ref{Digest: digest, Size: int64(len(data)), Type: bundle.TypeZip}, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	d.bundles.limit = func() int64 { return 1 }
	deploy := func(group, id, letter string, of bundle.Digest) {
		t.Helper()
		deployment := apply.Deployment{ID: id, ApplicationName: group, GroupName: group, GroupID: group, SpecHash: "hash-" + letter, Commit: "commit-" + letter, Kind: appspec.InPlace,
			Source: d.source(letter, strings.ReplaceAll(plainSpec, "/srv/site", "/srv/"+group)), FileExistsBehavior: appspec.Overwrite, HoldGood: true}
		deployment.Source.Digest = of
		if result, err := d.applier.Apply(t.Context(), deployment, nil); err != nil || result.Outcome != apply.OutcomeSucceeded {
			t.Fatalf("%+v %v", result, err)
		}
	}
	here := func(want bool, when string, known ...string) {
		t.Helper()
		targets := map[string][]string{}
		for _, group := range known {
			targets[group] = nil
		}
		err := d.bundles.settle(t.Context(), func() kept { return kept{preparing: targets} })
		err = errors.Join(err, d.bundles.makeRoom(t.Context(), 1<<30))
		if _, ok := d.store.Lookup(digest); err != nil || ok != want {
			t.Errorf("%s it is here: %v (%v), pinned by %v", when, ok, err, d.store.Pins()[digest])
		}
	}
	if err := d.store.Pin(targetOwner+"g1", digest); err != nil {
		t.Fatal(err)
	}
	deploy("g1", "d-1", "a", digest)
	deploy("g2", "d-2", "b", digest)
	here(true, "while both run it,", "g1", "g2")
	for n := range 6 {
		deploy("g1", fmt.Sprintf("d-1%d", n), fmt.Sprint(n), digestOf(fmt.Sprint(n)))
	}
	here(true, "while one runs it,", "g1", "g2")
	here(true, "while one that is gone from git runs it,", "g1")
	deploy("g2", "d-3", "d", digestOf("d"))
	here(true, "while it is the last good release of one,", "g1", "g2")
	for n := range 6 {
		deploy("g2", fmt.Sprintf("d-2%d", n), fmt.Sprint(n), digestOf(fmt.Sprint(n)))
	}
	here(false, "after both have let go", "g1", "g2")
}

func TestDeployerReadsWhatIsInPlace(t *testing.T) {
	d := newDisk(t)
	deploy := &deployer{releases: func() int { return 5 }, applier: d.applier, log: slog.New(slog.DiscardHandler), fence: func() FenceConfig { return FenceConfig{} }}
	ctx := context.Background()
	if _, _, ok := deploy.installed("g1"); ok {
		t.Error("something is installed on an empty host")
	}
	one := d.deploy("d-1", "1")
	spec, whole, ok := deploy.installed("g1")
	if want := (rollout.Spec{Commit: "commit-1", SpecHash: "hash-1", Digest: string(digestOf("1"))}); !ok || !whole || spec != want {
		t.Errorf("after a success that nobody has called good yet: %+v %v %v", spec, whole, ok)
	}
	if got := deploy.lastGoodSpec("g1"); got != "" {
		t.Errorf("%s is good although the group has not said so", got)
	}
	again := one
	again.ID, again.Source = "prepare-1", d.source("1", plainSpec) // the same spec, only unpacked
	if report, err := d.applier.Preflight(ctx, again); err != nil || !report.OK {
		t.Fatal(report, err)
	}
	deploy.markGood("g1", spec)
	deploy.markGood("g1", spec)
	if release, ok := deploy.lastGood("g1"); !ok || release.DeploymentID != "d-1" {
		t.Errorf("good is %+v", release)
	}
	events := deploy.ended("g1")
	if len(events) != 1 || events[0].Deployment != "d-1" || events[0].Outcome != rollout.OutcomeSucceeded {
		t.Errorf("ended %+v", events)
	}
	failing := apply.Deployment{ID: "d-2", ApplicationName: "website", GroupName: "website", GroupID: "g1", SpecHash: "hash-2", Commit: "commit-2", Kind: appspec.InPlace,
		FileExistsBehavior: appspec.Overwrite, HoldGood: true,
		Source: d.source("2", plainSpec+"hooks:\n  ValidateService:\n    - {location: page}\n")}
	if result, err := d.applier.Apply(ctx, failing, nil); err != nil || result.Outcome != apply.OutcomeFailed {
		t.Fatalf("%+v %v", result, err)
	}
	if spec, whole, ok := deploy.installed("g1"); !ok || spec.SpecHash == "hash-2" && whole {
		t.Errorf("after a failure: %+v %v %v", spec, whole, ok)
	}
}

// TestDeploymentThatFailedBeforeInstallLeavesNothingWhole: the files are those that ran well, but they were stopped.
func TestDeploymentThatFailedBeforeInstallLeavesNothingWhole(t *testing.T) {
	d := newDisk(t)
	deploy := &deployer{releases: func() int { return 5 }, applier: d.applier, log: slog.New(slog.DiscardHandler), fence: func() FenceConfig { return FenceConfig{} }}
	whole := func(want bool, when string) {
		t.Helper()
		if spec, whole, ok := deploy.installed("g1"); !ok || spec.SpecHash != "hash-1" || whole != want {
			t.Errorf("%s: %+v %v %v", when, spec, whole, ok)
		}
	}
	fail := func(id, hooks string, began bool) {
		t.Helper()
		failing := d.plain(id, id[2:])
		failing.Source = d.source(id[2:], plainSpec+"hooks:\n"+hooks)
		if result, err := d.applier.Apply(t.Context(), failing, nil); err != nil || result.Outcome != apply.OutcomeFailed || result.Began != began {
			t.Fatalf("%+v %v", result, err)
		}
	}
	d.deploy("d-1", "1")
	whole(true, "at first")
	fail("d-2", "  AfterInstall:\n    - {location: absent.sh}\n", false)
	whole(true, "after a refusal before anything was done")
	fail("d-3", "  BeforeInstall:\n    - {location: page}\n", true)
	whole(false, "after a failed BeforeInstall")
	fail("d-4", "  AfterInstall:\n    - {location: absent.sh}\n", false)
	whole(false, "after a refusal, too")
	open := d.plain("d-5", "5")
	open.Begin = func(context.Context) error { return errors.New("not now") }
	if result, err := d.applier.Apply(t.Context(), open, nil); !errors.Is(err, apply.ErrVetoed) {
		t.Fatalf("%+v %v", result, err)
	}
	whole(false, "after a deployment that did not begin")
	d.deploy("d-6", "1")
	whole(true, "after it was deployed again")
}

// TestWhatIsInstalledIsKnownBesideADeploymentOfTheApplication: one of another group holds the application's lock while it lasts. Nor does reading the results of
// deployments that ended take the space that their journals gave back.
func TestWhatIsInstalledIsKnownBesideADeploymentOfTheApplication(t *testing.T) {
	d := newDisk(t)
	deploy := &deployer{releases: func() int { return 5 }, applier: d.applier, log: slog.New(slog.DiscardHandler), fence: func() FenceConfig { return FenceConfig{} }}
	d.deploy("d-1", "1")
	beside := func(id string, want bool) {
		t.Helper()
		other := d.plain(id, "9")
		other.GroupID, other.GroupName, other.Source = "g2", "other", d.source("9", strings.Replace(plainSpec, "/srv/site", "/srv/other", 1))
		asked := false
		other.Begin = func(ctx context.Context) error {
			asked = true
			if spec, whole, ok := deploy.installed("g1"); !ok || spec.SpecHash != "hash-1" || whole != want {
				t.Errorf("%s: %+v %v %v", id, spec, whole, ok)
			}
			if ended := deploy.ended("g1"); len(ended) == 0 {
				t.Errorf("%s: nothing of g1 ended", id)
			}
			return nil
		}
		if _, err := d.applier.Apply(t.Context(), other, nil); err != nil || !asked {
			t.Fatal(err)
		}
	}
	beside("d-91", true) // nobody has called it good yet
	d.deploy("d-2", "1")
	if err := d.applier.MarkGood(apply.Key{GroupID: "g1", DeploymentID: "d-2", Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	failing := d.plain("d-3", "3")
	failing.Source = d.source("3", plainSpec+"hooks:\n  BeforeInstall:\n    - {location: page}\n")
	if result, err := d.applier.Apply(t.Context(), failing, nil); err != nil || result.Outcome != apply.OutcomeFailed || !result.Began {
		t.Fatalf("%+v %v", result, err)
	}
	beside("d-92", false)
	if info, err := os.Stat(filepath.Join(d.state, "groups", "g1", "deployments", "d-3.1", "journal")); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 > 64<<10 {
		t.Errorf("the journal takes %+v: %v", info, err)
	}
}

func TestFence(t *testing.T) {
	parse := func(text string) *appspec.Spec {
		spec, _, err := appspec.Parse([]byte(text), appspec.Options{FileName: "appspec.yml"})
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	spec := parse(plainSpec + "permissions:\n  - {object: /srv/site/page, owner: root}\nhooks:\n  AfterInstall:\n    - {location: a.sh, runas: web}\n")
	for name, c := range map[string]struct {
		fence FenceConfig
		ok    bool
	}{
		"nothing":           {FenceConfig{}, true},
		"below":             {FenceConfig{Destinations: []string{"/srv/**"}}, true},
		"elsewhere":         {FenceConfig{Destinations: []string{"/opt/**", "/srv"}}, false},
		"permission":        {FenceConfig{Destinations: []string{"/srv/site"}}, false},
		"user":              {FenceConfig{Users: []string{"w*"}}, true},
		"another user":      {FenceConfig{Users: []string{"deploy"}}, false},
		"user and below":    {FenceConfig{Users: []string{"web"}, Destinations: []string{"/srv/site/**"}}, true},
		"user, not the way": {FenceConfig{Users: []string{"web"}, Destinations: []string{"/srv/sit/**"}}, false},
	} {
		if err := fencedSpec(c.fence, spec); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fencedSpec(FenceConfig{Users: []string{"nobody-is-called-so"}}, parse("version: 0.0\nos: linux\nhooks:\n  AfterInstall:\n    - {location: a.sh}\n")); err == nil {
		t.Error("a hook without runas escapes the fence")
	}
	if err := fencedSpec(FenceConfig{Destinations: []string{"/srv/**"}}, parse("version: 0.0\nos: linux\nfiles:\n  - {source: /, destination: /srv/../etc}\n")); err == nil {
		t.Error("dots lead out of the fence")
	}
}

func TestFenceHoldsAtThePointOfNoReturn(t *testing.T) {
	d := newDisk(t)
	fence := FenceConfig{}
	deploy := &deployer{releases: func() int { return 5 }, applier: d.applier, log: slog.New(slog.DiscardHandler), fence: func() FenceConfig { return fence }}
	one := d.deploy("d-1", "1")
	if err := deploy.fencedRelease(one.Key()); err != nil {
		t.Error(err)
	}
	fence.Destinations = []string{"/opt/**"}
	if err := deploy.fencedRelease(one.Key()); err == nil {
		t.Error("a fence that was put up later does not hold")
	}
	if err := deploy.fencedRelease(apply.Key{GroupID: "g1", DeploymentID: "d-none", Attempt: 1}); err == nil {
		t.Error("a release that is gone passes")
	}
}
