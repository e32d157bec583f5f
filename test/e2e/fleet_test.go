package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// fleet is a config repository, an S3 server and hosts on loopback.
type fleet struct {
	t     testing.TB
	dir   string
	git   *gitServer
	s3    *s3Server
	intro string
	hosts []*host
}

// host is one agent and where it keeps things.
type host struct {
	f       *fleet
	name    string
	dir     string
	root    string // destinationRoot
	socket  string
	address string
	port    string // of its application
	config  string
	noGit   bool
	noS3    bool
	env     []string // added to the agent's environment
	process *process
}

// fleetOptions shape a fleet.
type fleetOptions struct {
	hosts  int
	voters int
	noGit  []int // hosts, from 0, without a route to git
	noS3   []int
	late   []int // hosts that are in the inventory but not started
	poll   string
}

// makeSigner makes the key that signs commits.
func makeSigner(t testing.TB, key, allowed string) {
	t.Helper()
	signer := newSigner(t, key)
	if err := os.WriteFile(allowed, []byte("anna@example.com "+signer+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newFleet makes everything but the first release, and starts the agents.
func newFleet(t testing.TB, o fleetOptions) *fleet {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, dir: dir}
	t.Cleanup(f.collect)
	f.git = newGit(t, dir)
	f.s3 = newS3(t, dir)
	for i := range o.hosts {
		f.addHost(fmt.Sprintf("web-%d", i+1))
	}
	for _, i := range o.noGit {
		f.hosts[i].noGit = true
	}
	for _, i := range o.noS3 {
		f.hosts[i].noS3 = true
	}
	f.writeInventory(o.voters)
	f.intro = f.git.commit("introduce the fleet")
	late := map[int]bool{}
	for _, i := range o.late {
		late[i] = true
	}
	for i, h := range f.hosts {
		h.writeConfig(o.poll)
		if !late[i] {
			h.start()
		}
	}
	return f
}

// collect prints the end of what the agents logged when a test failed, keeps all of it in the folder E2E_KEEP names, and ends what hooks left.
func (f *fleet) collect() {
	for _, h := range f.hosts {
		h.killApplication()
		if !f.t.Failed() {
			continue
		}
		log, _ := os.ReadFile(filepath.Join(h.dir, "agent.log"))
		if keep := os.Getenv("E2E_KEEP"); keep != "" {
			_ = os.WriteFile(filepath.Join(keep, f.t.Name()+"-"+h.name+".log"), log, 0o644)
		}
		lines := strings.Split(string(log), "\n")
		if len(lines) > 60 {
			lines = lines[len(lines)-60:]
		}
		f.t.Logf("--- log of %s\n%s", h.name, strings.Join(lines, "\n"))
	}
}

// addHost makes a host's identity with the command a user would type.
func (f *fleet) addHost(name string) *host {
	f.t.Helper()
	dir := filepath.Join(f.dir, name)
	h := &host{f: f, name: name, dir: dir, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "api.sock"), config: filepath.Join(dir, "gitopsd.yaml"),
		address: freeAddress(f.t), port: portOf(freeAddress(f.t))}
	if err := os.MkdirAll(h.root, 0o755); err != nil {
		f.t.Fatal(err)
	}
	text := f.command("host", "init", "--name", name, "--data-dir", filepath.Join(dir, "data"), "--address", h.address,
		"--tag", "role=web,port="+h.port, "--zone", "rack-"+name)
	f.git.write("hosts/"+name+".yaml", text)
	f.hosts = append(f.hosts, h)
	return h
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// command runs gitopsd and returns what it printed.
func (f *fleet) command(args ...string) string {
	f.t.Helper()
	out, code, stderr := f.try(args...)
	if code != 0 {
		f.t.Fatalf("gitopsd %s: exit %d\n%s%s", strings.Join(args, " "), code, out, stderr)
	}
	return out
}

// try runs gitopsd and returns its output and exit code.
func (f *fleet) try(args ...string) (stdout string, code int, stderr string) {
	f.t.Helper()
	cmd := exec.Command(binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		f.t.Fatalf("gitopsd %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), cmd.ProcessState.ExitCode(), errs.String()
}

// writeInventory writes what is not a group.
func (f *fleet) writeInventory(voters int) {
	f.t.Helper()
	f.git.write("fleet.yaml", "name: e2e\n")
	key, err := os.ReadFile(f.git.key + ".pub")
	if err != nil {
		f.t.Fatal(err)
	}
	f.git.write("trust.yaml", fmt.Sprintf("version: 1\nsigners:\n  anna: {ssh: %q}\nrules:\n  - {paths: [\"**\"], threshold: 1, signers: [anna]}\n", strings.TrimSpace(string(key))))
	var lines []string
	for _, h := range f.hosts[:max(1, voters)] {
		id, err := os.ReadFile(filepath.Join(h.dir, "data", "storage-id"))
		if err != nil {
			f.t.Fatal(err)
		}
		lines = append(lines, h.name+"/"+strings.TrimSpace(string(id)))
	}
	f.git.write("coordinators/web.yaml", "epoch: 1\nvoters: ["+strings.Join(lines, ", ")+"]\n")
}

// writeConfig writes the host's own file.
func (h *host) writeConfig(poll string) {
	h.f.t.Helper()
	if poll == "" {
		poll = "500ms"
	}
	urls := "[" + h.f.git.url + "]"
	var join []string
	if h.noGit {
		urls = "[]"
		for _, other := range h.f.hosts {
			if other != h {
				join = append(join, other.name+"/"+other.address)
			}
		}
	}
	text := fmt.Sprintf(`host: %s
dataDir: %s
socket: %s
listen: %s
advertise: %s
join: [%s]
timing: fast
repository:
  urls: %s
  branch: main
  poll: %s
  introduction: %s
  allowedSigners: %s
s3: {enabled: %t, endpoint: "%s", region: us-east-1, pathStyle: true, credentialsFile: %s}
destinationRoot: %s
log: {level: debug, format: text}
`, h.name, filepath.Join(h.dir, "data"), h.socket, h.address, h.address, strings.Join(join, ", "), urls, poll, h.f.intro, h.f.git.allowed,
		!h.noS3, h.f.s3.url, h.f.s3.credentials, h.root)
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		h.f.t.Fatal(err)
	}
}

// start starts the agent.
func (h *host) start() {
	h.f.t.Helper()
	cmd := exec.Command(binary, "agent", "--config", h.config)
	cmd.Env = append(os.Environ(), "E2E_LOG="+h.f.truth(), "E2E_BINARY="+binary, "E2E_DIR="+h.dir, "E2E_GATES="+filepath.Join(h.f.dir, "gates"))
	cmd.Env = append(cmd.Env, h.env...)
	h.process = startProcess(h.f.t, cmd, filepath.Join(h.dir, "agent.log"))
}

// truth is the file hooks append to.
func (f *fleet) truth() string { return filepath.Join(f.dir, "truth.log") }

// hookRun is one line of the truth.
type hookRun struct {
	deployment, event, host, release string
	at                               time.Time
}

// runs reads what hooks wrote.
func (f *fleet) runs() []hookRun {
	f.t.Helper()
	text, err := os.ReadFile(f.truth())
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	var all []hookRun
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			continue
		}
		nanos, err := strconv.ParseInt(fields[4], 10, 64)
		if err != nil {
			f.t.Fatalf("the truth has a line %q", line)
		}
		all = append(all, hookRun{deployment: fields[0], event: fields[1], host: fields[2], release: fields[3], at: time.Unix(0, nanos)})
	}
	return all
}

// assertOnce fails when a hook started twice on a host for one deployment.
func (f *fleet) assertOnce() {
	f.t.Helper()
	seen := map[string]int{}
	for _, r := range f.runs() {
		key := r.deployment + " " + r.event + " on " + r.host
		if seen[key]++; seen[key] == 2 {
			f.t.Errorf("hook ran twice: %s", key)
		}
	}
}

// maxDown replays the truth: how many hosts were between ApplicationStop and the end of ValidateService at a time, counting only hosts that ran before.
func (f *fleet) maxDown() int {
	f.t.Helper()
	down, most := map[string]bool{}, 0
	for _, r := range f.runs() {
		switch r.event {
		case "ApplicationStop":
			down[r.host] = true
		case "Validated":
			delete(down, r.host)
		}
		most = max(most, len(down))
	}
	return most
}

// release describes one version of the application.
type release struct {
	name     string
	size     int    // bytes of incompressible content
	validate string // extra lines of ValidateService
	start    string // extra lines of ApplicationStart
	files    map[string]string
}

// hookText is what every hook of the test application does: it tells the truth first.
const hookText = `#!/bin/sh
echo "$DEPLOYMENT_ID $LIFECYCLE_EVENT $GITOPSD_HOST RELEASE $(date +%s%N)" >> "$E2E_LOG"
`

// build writes a bundle's folder.
func (f *fleet) build(r release) string {
	f.t.Helper()
	dir := filepath.Join(f.dir, "bundles", r.name)
	prologue := strings.ReplaceAll(hookText, "RELEASE", r.name)
	files := map[string]string{
		"appspec.yml": `version: 0.0
os: linux
files:
  - source: content
    destination: /srv/site
hooks:
  ApplicationStop:
    - {location: hooks/stop.sh, timeout: 60}
  ApplicationStart:
    - {location: hooks/start.sh, timeout: 60}
  ValidateService:
    - {location: hooks/validate.sh, timeout: 60}
`,
		"content/release": r.name + "\n",
		"hooks/stop.sh": prologue + `if [ -f "$E2E_DIR/app.pid" ]; then kill "$(cat "$E2E_DIR/app.pid")" 2>/dev/null; rm -f "$E2E_DIR/app.pid"; fi
exit 0
`,
		"hooks/start.sh": prologue + r.start + `
setsid "$E2E_BINARY" demo-app --listen "127.0.0.1:$GITOPSD_TAG_PORT" --root "$GITOPSD_DESTINATION_ROOT/srv/site" --pid-file "$E2E_DIR/app.pid" >/dev/null 2>&1 </dev/null &
exit 0
`,
		"hooks/validate.sh": prologue + r.validate + `
"$E2E_BINARY" demo-app --check "http://127.0.0.1:$GITOPSD_TAG_PORT/release" --expect ` + r.name + ` || exit 1
echo "$DEPLOYMENT_ID Validated $GITOPSD_HOST ` + r.name + ` $(date +%s%N)" >> "$E2E_LOG"
`,
	}
	for name, text := range r.files {
		files[name] = text
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "hooks/") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			f.t.Fatal(err)
		}
	}
	if r.size > 0 {
		blob := make([]byte, r.size)
		rand.New(rand.NewSource(int64(len(r.name)) + int64(r.name[len(r.name)-1]))).Read(blob)
		if err := os.WriteFile(filepath.Join(dir, "content", "blob"), blob, 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	return dir
}

// publish packs a release, stores it in S3 and returns the revision block of group.yaml.
func (f *fleet) publish(r release) string {
	f.t.Helper()
	return f.command("bundle", "push", f.build(r), "s3://"+s3Bucket+"/website/"+r.name+".tar.zst", "--endpoint", f.s3.url, "--path-style", "--region", "us-east-1",
		"--credentials-file", f.s3.credentials)
}

// groupText is a group.yaml for the fleet's web hosts.
func groupText(id, name, revision, policy string) string {
	return fmt.Sprintf("id: %s\napplicationName: %s\ndeploymentGroupName: %s\ncoordinators: web\ntargets: {tagSets: [[role=web]]}\n%s%s", id, name, name, revision, policy)
}

// website is the folder of the group most tests deploy.
const website = "shop/test/website"

// deploy publishes a release and commits it.
func (f *fleet) deploy(r release, policy string) string {
	f.t.Helper()
	return f.commitRevision(f.publish(r), policy, "release "+r.name)
}

// commitRevision commits the website's group.yaml.
func (f *fleet) commitRevision(revision, policy, subject string) string {
	f.t.Helper()
	f.git.write(website+"/group.yaml", groupText("01WEBSITE0", "website", revision, policy))
	return f.git.commit(subject)
}

// serves says what a host's application answers as its release, "" when it does not answer.
func (h *host) serves() string {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + h.port + "/release")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 100))
	if resp.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// awaitRelease waits until each of these hosts serves a release.
func (f *fleet) awaitRelease(name string, hosts ...*host) {
	f.t.Helper()
	if len(hosts) == 0 {
		hosts = f.hosts
	}
	eventually(f.t, "release "+name+" is served", func() string {
		for _, h := range hosts {
			if got := h.serves(); got != name {
				return fmt.Sprintf("%s serves %q; %s", h.name, got, f.why(hosts[0]))
			}
		}
		return ""
	})
}

// status asks one host over its socket; ok is false when it did not answer.
func (h *host) status(group string) (g status.Group, notices []status.Notice, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	report, err := status.NewClient(h.socket).Report(ctx, group)
	if err != nil || len(report.Groups) == 0 {
		return status.Group{}, report.Notices, false
	}
	return report.Groups[0], report.Notices, true
}

// why is the state of the website in a sentence, for failures of tests.
func (f *fleet) why(h *host) string {
	g, notices, _ := h.status(website)
	return fmt.Sprintf("%s: %s (%v)", g.State, g.Why, notices)
}

// awaitState waits until a host reports a state of the website.
func (h *host) awaitState(state string) status.Group {
	h.f.t.Helper()
	var last status.Group
	eventually(h.f.t, h.name+" reports "+state, func() string {
		g, _, ok := h.status(website)
		if last = g; !ok {
			return "no answer"
		}
		if g.State != state {
			return g.State + ": " + g.Why
		}
		return ""
	})
	return last
}

// wait runs `gitopsd wait` and returns its exit code.
func (h *host) wait(commit string) int {
	h.f.t.Helper()
	_, code, _ := h.f.try("wait", website, "--commit", commit, "--addr", h.socket, "--timeout", patience.String())
	return code
}

// killApplication ends what the host's hooks left: its application, and hooks that a test did not wait for.
func (h *host) killApplication() {
	for pid := range h.processes() {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// byName finds a host.
func (f *fleet) byName(name string) *host {
	f.t.Helper()
	for _, h := range f.hosts {
		if h.name == name {
			return h
		}
	}
	f.t.Fatalf("no host is called %q", name)
	return nil
}

// shut closes a gate before the hooks come.
func (f *fleet) shut(name string) {
	f.t.Helper()
	dir := filepath.Join(f.dir, "gates")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// open lets hooks pass.
func (f *fleet) open(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, "gates", name)); err != nil {
		f.t.Fatal(err)
	}
}

// heldBy is shell text that waits at a gate.
func heldBy(name string) string {
	return `echo "$DEPLOYMENT_ID Held $GITOPSD_HOST - $(date +%s%N)" >> "$E2E_LOG"
while [ -e "$E2E_GATES/` + name + `" ]; do sleep 0.05; done
`
}

// awaitHeld waits until a host's hook stands at a gate, and returns the host.
func (f *fleet) awaitHeld(after int) *host {
	f.t.Helper()
	var found string
	eventually(f.t, "a hook stands at the gate", func() string {
		n := 0
		for _, r := range f.runs() {
			if r.event == "Held" {
				if n++; n > after {
					found = r.host
					return ""
				}
			}
		}
		return "none yet; " + f.why(f.hosts[0])
	})
	return f.byName(found)
}

var deploymentID = regexp.MustCompile(`^d-[0-9A-Z]{9}$`)
