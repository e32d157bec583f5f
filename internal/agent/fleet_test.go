package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// testFleet is a config repository and hosts whose agents run in this process.
type testFleet struct {
	t      *testing.T
	dir    string
	origin *gitOrigin
	hosts  []*testHost

	inventory map[string]string // files of hosts, by name
}

// testHost is one host and, while it runs, its agent.
type testHost struct {
	f       *testFleet
	name    string
	config  Config
	log     syncBuffer
	stop    context.CancelFunc
	done    chan error
	running bool
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newTestFleet makes the identities and the introduction and starts nothing.
func newTestFleet(t *testing.T, names ...string) *testFleet {
	t.Helper()
	dir, err := os.MkdirTemp("", "ga") // short, for the sockets' sake
	if err != nil {
		t.Fatal(err)
	}
	f := &testFleet{t: t, dir: dir, inventory: map[string]string{}}
	t.Cleanup(func() {
		f.end()
		for _, h := range f.hosts {
			if t.Failed() {
				t.Logf("--- %s\n%s", h.name, h.log.String())
			}
		}
		if err := store.RemoveTree(dir); err != nil { // releases keep folders that nobody may write
			t.Error(err)
		}
	})
	var files, voters []string
	for _, name := range names {
		storage := f.host(name)
		files = append(files, "hosts/"+name+".yaml", f.inventory[name])
		voters = append(voters, name+"/"+storage)
	}
	files = append(files, "coordinators/web.yaml", "epoch: 1\nvoters: ["+strings.Join(voters, ", ")+"]\n")
	f.origin = newOrigin(t, files...)
	for _, h := range f.hosts {
		h.pin()
	}
	return f
}

// host makes one host's identity and its file for the inventory, and returns its storage id.
func (f *testFleet) host(name string) string {
	f.t.Helper()
	h := &testHost{f: f, name: name}
	home := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Join(home, "root"), 0o755); err != nil {
		f.t.Fatal(err)
	}
	key, err := transport.GenerateKey(filepath.Join(home, keyFile))
	if err != nil {
		f.t.Fatal(err)
	}
	line := transport.PublicKeyLine(key)
	if err := os.WriteFile(filepath.Join(home, storageFile), []byte(storageOf(line)+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	address := f.freeAddress()
	f.inventory[name] = fmt.Sprintf("publicKey: %s\nstorage: %s\naddress: %s\ntags: {role: web}\n", strings.TrimSpace(line), storageOf(line), address)
	h.config = Config{Host: name, DataDir: home, Socket: filepath.Join(home, "s"), Listen: address, Advertise: address, DestinationRoot: filepath.Join(home, "root"), Timing: "fast",
		Repository: RepositoryConfig{Branch: "main", Poll: 200 * time.Millisecond, AllowLocalPath: true}, Log: LogConfig{Format: "text"}}
	f.hosts = append(f.hosts, h)
	return storageOf(line)
}

// pin makes a host follow the fleet's repository.
func (h *testHost) pin() {
	h.config.Repository.URLs = []string{h.f.origin.dir}
	h.config.Repository.Introduction, h.config.Repository.AllowedSigners = h.f.origin.intro, h.f.origin.allowed
}

// freeAddress finds a port that nobody listens on and no host of the fleet has yet, below those that the kernel gives to whoever dials and beside those of the
// end-to-end tests.
func (f *testFleet) freeAddress() string {
	f.t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 30300+rand.N(2400))
		if slices.ContainsFunc(f.hosts, func(h *testHost) bool { return h.config.Listen == address }) {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err == nil {
			defer l.Close()
			return address
		}
	}
	f.t.Fatal("no port is free")
	return ""
}

// start runs the host's agent.
func (h *testHost) start() {
	h.f.t.Helper()
	program, err := os.Executable()
	if err != nil {
		h.f.t.Fatal(err)
	}
	a, err := New(Options{Config: h.config, Program: program, Version: "test", Log: slog.New(slog.NewTextHandler(&h.log, nil)),
		Reload: func() (Config, error) { return h.config, nil }})
	if err != nil {
		h.f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.stop, h.done, h.running = stop, make(chan error, 1), true
	go func() { h.done <- a.Run(ctx) }()
}

// end stops the host's agent and waits for it.
func (h *testHost) end() {
	h.f.t.Helper()
	if !h.running {
		return
	}
	h.stop()
	h.running = false
	if err := <-h.done; err != nil {
		h.f.t.Errorf("%s ended: %v", h.name, err)
	}
}

// end stops every agent.
func (f *testFleet) end() {
	for _, h := range f.hosts {
		h.end()
	}
}

// truth is the file hooks append to.
func (f *testFleet) truth() string { return filepath.Join(f.dir, "truth") }

// count counts lines of the truth.
func (f *testFleet) count(line string) int {
	text, _ := os.ReadFile(f.truth())
	return strings.Count(string(text), line+"\n")
}

// release packs a version of the application whose start hook has an extra line, and gives the revision for group.yaml.
func (f *testFleet) release(name, extra string) string { return f.heavyRelease(name, extra, 0) }

// heavyRelease adds so many random bytes to a release, and pins its index.
func (f *testFleet) heavyRelease(name, extra string, ballast int) string {
	f.t.Helper()
	hook := func(extra string) *fstest.MapFile {
		text := fmt.Sprintf("#!/bin/sh\necho \"%s $LIFECYCLE_EVENT $GITOPSD_HOST\" >> %s\n%s\n", name, f.truth(), extra)
		return &fstest.MapFile{Data: []byte(text), Mode: 0o755}
	}
	tree := fstest.MapFS{
		"appspec.yml": {Data: []byte("version: 0.0\nos: linux\nfiles:\n  - {source: content, destination: /srv/site}\nhooks:\n" +
			"  ApplicationStop:\n    - {location: stop.sh}\n  ApplicationStart:\n    - {location: start.sh}\n  ValidateService:\n    - {location: validate.sh}\n"), Mode: 0o644},
		"content/release": {Data: []byte(name), Mode: 0o644},
		"stop.sh":         hook(""), "start.sh": hook(extra), "validate.sh": hook(""),
	}
	if ballast > 0 {
		data := make([]byte, ballast)
		rand.NewChaCha8([32]byte{1}).Read(data)
		tree["content/ballast"] = &fstest.MapFile{Data: data, Mode: 0o644}
	}
	var archive bytes.Buffer
	index, digest, err := bundle.Pack(&archive, tree, bundle.PackOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.dir, name+".tar.zst")
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		f.t.Fatal(err)
	}
	revision := fmt.Sprintf("revision:\n  revisionType: Directory\n  directoryLocation: {path: %s}\n  digest: %s\n  size: %d\n", path, digest, archive.Len())
	if ballast > 0 {
		revision += fmt.Sprintf("  index: %s\n", index.Digest())
	}
	return revision
}

// deploy commits a revision for the group.
func (f *testFleet) deploy(revision, policy string) string {
	return f.origin.commit("shop/web/group.yaml", "id: 01WEBSITE0\napplicationName: website\ndeploymentGroupName: website\ncoordinators: web\ntargets: {tagSets: [[role=web]]}\n"+revision+policy)
}

// await waits for a commit's outcome as `gitopsd wait` does.
func (h *testHost) await(commit string) status.Awaited {
	h.f.t.Helper()
	var last status.Awaited
	until(h.f.t, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		awaited, err := status.NewClient(h.config.Socket).Wait(ctx, "website", commit, true)
		if last = awaited; err != nil {
			return err.Error()
		}
		if !awaited.Done {
			return awaited.State + ": " + awaited.Message
		}
		return ""
	})
	return last
}

// TestFleet deploys, restarts an agent inside a hook, fails, and stops without leaving anything behind.
func TestFleet(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := newTestFleet(t, "web-1", "web-2", "web-3")
	defer f.end()
	for _, h := range f.hosts {
		h.start()
	}
	first := f.deploy(f.release("one", ""), "deploymentConfigName: CodeDeployDefault.AllAtOnce\n")
	for _, h := range f.hosts {
		if a := h.await(first); a.Code != 0 {
			t.Fatalf("release one: %+v", a)
		}
	}
	for _, h := range f.hosts {
		if n := f.count("one ApplicationStart " + h.name); n != 1 {
			t.Errorf("release one was started %d times on %s", n, h.name)
		}
	}
	f.sameAnswers()

	gate, victim := filepath.Join(f.dir, "gate"), f.hosts[1]
	second := f.deploy(f.release("two", "n=0; while [ \"$GITOPSD_HOST\" = "+victim.name+" ] && [ ! -e "+gate+" ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done"), "")
	until(t, func() string {
		if f.count("two ApplicationStart "+victim.name) == 0 {
			return "the hook"
		}
		return ""
	})
	victim.end() // the hook goes on
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	victim.start()
	if a := f.hosts[0].await(second); a.Code != 0 {
		t.Fatalf("release two: %+v", a)
	}
	for _, h := range f.hosts {
		for _, event := range []string{"ApplicationStart", "ValidateService"} {
			if n := f.count("two " + event + " " + h.name); n != 1 {
				t.Errorf("%s of release two ran %d times on %s", event, n, h.name)
			}
		}
	}

	bad := f.deploy(f.release("three", "exit 3"), "autoRollbackConfiguration: {enabled: true, events: [DEPLOYMENT_FAILURE]}\n")
	if a := f.hosts[2].await(bad); a.Code != waitRolledBack {
		t.Fatalf("release three: %+v", a)
	}
	for _, h := range f.hosts {
		if text, err := os.ReadFile(filepath.Join(h.config.DestinationRoot, "srv/site/release")); err != nil || string(text) != "two" {
			t.Errorf("%s has %q %v", h.name, text, err)
		}
	}
	f.onlyNeededBundles()
	f.operations()
}

// sameAnswers compares what the hosts report.
func (f *testFleet) sameAnswers() {
	f.t.Helper()
	until(f.t, func() string {
		seen := map[string]string{}
		for _, h := range f.hosts {
			report, err := status.NewClient(h.config.Socket).Report(context.Background(), "")
			if err != nil {
				return err.Error()
			}
			text, err := json.Marshal(report.Groups)
			if err != nil {
				f.t.Fatal(err)
			}
			seen[string(text)+report.Commit] = h.name
		}
		if len(seen) != 1 {
			return fmt.Sprintf("%d different answers", len(seen))
		}
		return ""
	})
}

// onlyNeededBundles waits until each host holds the bundle that runs and those of kept releases, and no pin of a target that is over.
func (f *testFleet) onlyNeededBundles() {
	f.t.Helper()
	for _, h := range f.hosts {
		until(f.t, func() string {
			text, err := os.ReadFile(filepath.Join(h.config.DataDir, bundlesDir, "pins"))
			if err != nil || !strings.Contains(string(text), "release/01WEBSITE0/d-") {
				return "pins of releases on " + h.name
			}
			return ""
		})
	}
}

// operations reloads, syncs and pauses through the socket.
func (f *testFleet) operations() {
	f.t.Helper()
	client, ctx := status.NewClient(f.hosts[0].config.Socket), context.Background()
	if err := client.Operate(ctx, status.Operation{Verb: "sync", Actor: "anna"}); err != nil {
		f.t.Error(err)
	}
	if err := client.Operate(ctx, status.Operation{Verb: "dance", Group: "website", Actor: "anna"}); err == nil {
		f.t.Error("an operation that does not exist was done")
	}
	if _, err := client.Report(ctx, "websit"); err == nil || !strings.Contains(err.Error(), "did you mean") {
		f.t.Errorf("an unknown group: %v", err)
	}
	var logs bytes.Buffer
	if err := client.Logs(ctx, status.LogQuery{Group: "website"}, &logs); err != nil || strings.Count(logs.String(), "==> web-") != 3 {
		f.t.Errorf("logs of every host: %v\n%s", err, logs.String())
	}
	f.logsName(logs.String())
	f.refusedLogs(client)
	if history, err := client.History(ctx, "website"); err != nil || len(history.Deployments) < 4 {
		f.t.Errorf("history: %v %+v", err, history)
	}
}

// logsName looks whether output that was asked for without a deployment names, for each host, the newest one that ran something there: a rollback is of some hosts only.
func (f *testFleet) logsName(logs string) {
	f.t.Helper()
	history, err := status.NewClient(f.hosts[0].config.Socket).History(context.Background(), "website")
	if err != nil {
		f.t.Fatal(err)
	}
	named := map[string]bool{}
	for _, h := range f.hosts {
		ran := ""
		for _, d := range history.Deployments {
			for _, host := range d.Hosts {
				if ran == "" && host.Name == h.name && len(host.Events) > 0 {
					ran = d.ID
				}
			}
		}
		if named[ran] = true; !strings.Contains(logs, "==> "+h.name+" <==\nDeployment - "+ran+"\n") {
			f.t.Errorf("logs of %s are not said to be of %s:\n%s", h.name, ran, logs)
		}
	}
	if len(named) < 2 {
		f.t.Errorf("every host ran something of %v", named)
	}
}

// refusedLogs asks for output that nobody has: each is an error that names what there is, and not nothing.
func (f *testFleet) refusedLogs(client *status.Client) {
	f.t.Helper()
	history, err := client.History(context.Background(), "website")
	if err != nil || len(history.Deployments) == 0 {
		f.t.Fatal(err)
	}
	newest := history.Deployments[0].ID
	for _, host := range []string{"", f.hosts[0].name, f.hosts[1].name} {
		for _, c := range []struct {
			query status.LogQuery
			want  []string
		}{
			{status.LogQuery{Event: "AfterInstal"}, []string{"AfterInstal", "did you mean AfterInstall?"}},
			{status.LogQuery{Event: "Install"}, []string{"no hooks run in it"}},
			{status.LogQuery{Event: "../x"}, []string{"no hooks run in it", "known here: "}},
			{status.LogQuery{Event: "BeforeInstall"}, []string{"ran no hook of BeforeInstall", "there is output of", "ApplicationStart"}},
			{status.LogQuery{Deployment: "d-NONESUCH1"}, []string{"d-NONESUCH1", "its newest are " + newest, "gitopsd history shop/web"}},
		} {
			c.query.Group, c.query.Host = "website", host
			var out bytes.Buffer
			err := client.Logs(context.Background(), c.query, &out)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
					f.t.Errorf("%+v: %v, want %q\n%s", c.query, err, want, out.String())
				}
			}
		}
	}
}

// TestStopsBeforeItHasAWorld stops an agent that reaches nothing.
func TestStopsBeforeItHasAWorld(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := newTestFleet(t, "web-1")
	defer f.end()
	h := f.hosts[0]
	h.config.Repository.URLs = []string{filepath.Join(f.dir, "nowhere.git")}
	h.start()
	until(t, func() string {
		report, err := status.NewClient(h.config.Socket).Report(context.Background(), "")
		if err != nil || len(report.Notices) == 0 {
			return fmt.Sprint("a notice: ", err)
		}
		return ""
	})
	if _, err := status.NewClient(h.config.Socket).Report(context.Background(), "website"); err == nil || !strings.Contains(err.Error(), "no verified commit yet") {
		t.Errorf("%v", err)
	}
	h.end()
	if n := strings.Count(h.log.String(), "cannot be followed"); n != 1 {
		t.Errorf("the same failure was logged %d times", n)
	}
	if _, err := os.Lstat(h.config.Socket); err == nil {
		t.Error("the socket is left")
	}
}

// TestMemberThatCannotPersistStopsTheAgent gives the state a folder that does not exist.
func TestMemberThatCannotPersistStopsTheAgent(t *testing.T) {
	f := newTestFleet(t, "web-1")
	h := f.hosts[0]
	f.deploy(f.release("one", ""), "")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Config: h.config, Program: program, Log: slog.New(slog.NewTextHandler(&h.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	a.member.dir = filepath.Join(f.dir, "gone")
	if err := a.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "cannot persist which grants this host has accepted") {
		t.Fatalf("it ended with %v", err)
	}
	if err := a.Reload(); err == nil {
		t.Error("a stopped agent reloads")
	}
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	f := newTestFleet(t, "web-1")
	config := f.hosts[0].config
	a, err := New(Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Config: config}); err == nil || !strings.Contains(err.Error(), "another agent uses") {
		t.Errorf("two agents in one directory: %v", err)
	}
	a.Close()
	if err := os.Remove(filepath.Join(config.DataDir, keyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Config: config}); err == nil || !strings.Contains(err.Error(), "gitopsd host init --name web-1") {
		t.Errorf("no key: %v", err)
	}
	if _, err = transport.GenerateKey(filepath.Join(config.DataDir, keyFile)); err != nil {
		t.Fatal(err)
	}
	config.Repository.Introduction = "nonsense"
	if _, err := New(Options{Config: config}); err == nil {
		t.Error("a wrong introduction was taken")
	}
}
