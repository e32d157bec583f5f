package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"github.com/gitopsd/gitopsd/internal/status"
)

// fault breaks something in a run, and says which hosts still count.
type fault struct {
	before func(ctx context.Context, f *fleet) error // before the commit
	half   func(ctx context.Context, f *fleet) error // when half of the floor has passed
	spare  int                                       // that many hosts, from the last, do not count
}

var (
	cutHalf = fault{before: func(ctx context.Context, f *fleet) error {
		for i := f.bed.spec.hosts / 2; i < f.bed.spec.hosts; i++ {
			if err := f.bed.apart(ctx, hostName(i), hostIP(i), originHost, originIP); err != nil {
				return err
			}
		}
		return nil
	}}
	slowOne = fault{spare: 1, before: func(ctx context.Context, f *fleet) error {
		return f.bed.shape(ctx, f.last(), fmt.Sprintf("%gmbit", f.bed.spec.mbit/10))
	}}
	killOne = fault{spare: 1, half: func(_ context.Context, f *fleet) error {
		kill(f.agents[len(f.agents)-1])
		return nil
	}}
	cutLeaseHolder = fault{spare: 1, half: func(ctx context.Context, f *fleet) error { return f.bed.cut(ctx, f.last()) }}
)

// fleet is agents on a bed, with a config repository that each of them reads from the disk.
type fleet struct {
	bed          *bed
	o            options
	bare         string
	work         string
	key          string
	allowed      string
	introduction string // commit
	agents       []*exec.Cmd
}

// newFleet starts the S3 server, and makes the repository and the identities of the first so many hosts.
func newFleet(ctx context.Context, b *bed, o options, hosts int) (*fleet, error) {
	f := &fleet{bed: b, o: o}
	if err := f.prepare(ctx, hosts); err != nil {
		return nil, err
	}
	return f, startS3(ctx, b, o)
}

// release is a bundle in S3.
type release struct {
	revision string // what group.yaml says of it
	digest   bundle.Digest
	size     int64 // bytes
}

func (f *fleet) last() string            { return hostName(f.bed.spec.hosts - 1) }
func (f *fleet) path(p ...string) string { return filepath.Join(append([]string{f.bed.dir}, p...)...) }
func (f *fleet) log(i int) string        { return f.path(hostName(i) + ".log") }

// swarm measures gitopsd: from the moment the first host has accepted the commit until the last that counts has verified the whole bundle.
func swarm(ctx context.Context, b *bed, o options, m measurement) (outcome, error) {
	f, err := newFleet(ctx, b, o, b.spec.hosts)
	if err != nil {
		return outcome{}, err
	}
	one, err := f.pushRandom(ctx, m.mib)
	if err != nil {
		return outcome{}, err
	}
	if err := f.startAgents(ctx, b.spec.hosts); err != nil {
		return outcome{}, err
	}
	if m.fault.before != nil {
		if err := m.fault.before(ctx, f); err != nil {
			return outcome{}, err
		}
	}
	return f.deploy(ctx, m, one)
}

// deploy commits a release, waits for the hosts that count, and breaks what the fault says.
func (f *fleet) deploy(ctx context.Context, m measurement, r release) (outcome, error) {
	before, err := f.bed.sent(ctx, originHost)
	if err != nil {
		return outcome{}, err
	}
	unix.Sync() // what the hosts wrote until now does not keep them waiting
	watched, enough := context.WithCancel(ctx)
	defer enough()
	load := watch(watched, f.agents)
	commit, err := f.commitGroup(ctx, r)
	if err != nil {
		return outcome{}, err
	}
	if err := await(ctx, "the commit is accepted", func() bool { return !f.accepted(commit).IsZero() }); err != nil {
		return outcome{}, err
	}
	if m.fault.half != nil {
		select {
		case <-time.After(time.Duration(f.bed.spec.floor(int64(m.mib)<<20) / 2 * float64(time.Second))):
		case <-ctx.Done():
			return outcome{}, ctx.Err()
		}
		if err := m.fault.half(ctx, f); err != nil {
			return outcome{}, err
		}
	}
	end, err := f.complete(ctx, 0, f.bed.spec.hosts-m.fault.spare, r)
	if err != nil {
		return outcome{}, err
	}
	after, err := f.bed.sent(ctx, originHost)
	enough()
	return outcome{all: end.Sub(f.accepted(commit)), moved: after - before, load: load.busy(f.accepted(commit), end)}, err
}

// accepted is when the first host had verified a commit; zero while none has.
func (f *fleet) accepted(commit string) (first time.Time) {
	for i := range f.bed.spec.hosts {
		if at, ok := f.logged(i, "commit accepted", commit); ok && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// complete waits until hosts from..to-1 have a bundle, and returns when the last had verified it.
func (f *fleet) complete(ctx context.Context, from, to int, r release) (end time.Time, err error) {
	err = await(ctx, "every host has the bundle", func() bool {
		for i := from; i < to; i++ {
			at, ok := f.logged(i, "bundle complete", r.digest.Short())
			if !ok {
				return false
			}
			if at.After(end) {
				end = at
			}
		}
		return true
	})
	return end, err
}

// settle deploys a release and waits until so many hosts run it.
func (f *fleet) settle(ctx context.Context, r release, hosts int) error {
	commit, err := f.commitGroup(ctx, r)
	if err != nil {
		return err
	}
	return await(ctx, "the release runs everywhere", func() bool {
		report, err := status.NewClient(f.socket(0)).Report(ctx, "")
		if err != nil || len(report.Groups) != 1 || len(report.Groups[0].Hosts) != hosts || report.Groups[0].State != "Succeeded" {
			return false
		}
		for _, h := range report.Groups[0].Hosts {
			if h.Revision != commit {
				return false
			}
		}
		return true
	})
}

// logged finds the first line of an agent's log with a message and a word, and its time.
func (f *fleet) logged(i int, message, word string) (time.Time, bool) {
	file, err := os.Open(f.log(i))
	if err != nil {
		return time.Time{}, false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := lines.Text()
		if !strings.Contains(text, "msg=\""+message+"\"") || !strings.Contains(text, word) {
			continue
		}
		stamp, _, _ := strings.Cut(strings.TrimPrefix(text, "time="), " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// prepare makes the repository, and the identities of the first so many hosts and their files.
func (f *fleet) prepare(ctx context.Context, hosts int) error {
	f.bare, f.work, f.key, f.allowed = f.path("config.git"), f.path("work"), f.path("signer"), f.path("allowed_signers")
	key, private, err := sign.GenerateKey("anna@example.com")
	if err != nil {
		return err
	}
	line := strings.TrimSpace(key.PublicLine())
	files := map[string]string{f.key: string(private), f.key + ".pub": line + "\n", f.allowed: "anna@example.com " + line + "\n",
		f.path("work", "fleet.yaml"): "name: bench\n",
		f.path("work", "trust.yaml"): fmt.Sprintf("version: 1\nsigners:\n  anna: {ssh: %q}\nrules:\n  - {paths: [\"**\"], threshold: 1, signers: [anna]}\n", line)}
	for path, text := range files {
		if err := write(path, text); err != nil {
			return err
		}
	}
	git := [][]string{{"init", "-q", "--bare", "-b", "main", f.bare}, {"init", "-q", "-b", "main", f.work}, {"-C", f.work, "remote", "add", "origin", f.bare}}
	for key, value := range map[string]string{"user.name": "Anna", "user.email": "anna@example.com", "gpg.format": "ssh", "gpg.ssh.program": f.o.gitopsd, "user.signingkey": f.key} {
		git = append(git, []string{"-C", f.work, "config", key, value})
	}
	for _, args := range git {
		if err := run(ctx, "git", args...); err != nil {
			return err
		}
	}
	var voters []string
	for i := range hosts {
		storage, err := f.addHost(ctx, i)
		if err != nil {
			return err
		}
		if i < 3 {
			voters = append(voters, hostName(i)+"/"+storage)
		}
	}
	return write(f.path("work", "coordinators", "web.yaml"), "epoch: 1\nvoters: ["+strings.Join(voters, ", ")+"]\n")
}

// addHost makes one host's identity and inventory entry, and gives its storage id.
func (f *fleet) addHost(ctx context.Context, i int) (string, error) {
	name := hostName(i)
	cmd := exec.CommandContext(ctx, f.o.gitopsd, "host", "init", "--name", name, "--data-dir", f.path(name, "data"), "--address", hostIP(i)+":7475", "--tag", "role=web")
	text, err := output(cmd)
	if err != nil {
		return "", err
	}
	if err := write(f.path("work", "hosts", name+".yaml"), string(text)); err != nil {
		return "", err
	}
	storage, err := os.ReadFile(f.path(name, "data", "storage-id"))
	return strings.TrimSpace(string(storage)), err
}

// commit signs and pushes what the working copy holds.
func (f *fleet) commit(ctx context.Context, subject string) (string, error) {
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-q", "-S", "-m", subject}, {"push", "-q", "origin", "HEAD:main"}} {
		if err := run(ctx, "git", append([]string{"-C", f.work}, args...)...); err != nil {
			return "", err
		}
	}
	id, err := exec.CommandContext(ctx, "git", "-C", f.work, "rev-parse", "HEAD").Output()
	return strings.TrimSpace(string(id)), err
}

// startAgents starts the agents of the first so many hosts, and waits until the coordinators have a leader and everybody knows.
func (f *fleet) startAgents(ctx context.Context, hosts int) (err error) {
	if f.introduction, err = f.commit(ctx, "introduce the fleet"); err != nil {
		return err
	}
	for i := range hosts {
		if err := f.startAgent(i); err != nil {
			return err
		}
	}
	return await(ctx, "the agents are ready", func() bool {
		for i := range hosts {
			if !ready(ctx, f.socket(i)) {
				return false
			}
		}
		return true
	})
}

// startAgent writes a host's configuration and starts its agent.
func (f *fleet) startAgent(i int) error {
	name, level := hostName(i), "info"
	if f.o.debug {
		level = "debug"
	}
	text := fmt.Sprintf(`host: %s
dataDir: %s
socket: %s
listen: %s:7475
advertise: %[4]s:7475
repository: {urls: [%s], branch: main, poll: 500ms, introduction: %s, allowedSigners: %s, allowLocalPath: true}
s3: {enabled: true, endpoint: "%s", region: us-east-1, pathStyle: true, credentialsFile: %s}
destinationRoot: %s
log: {level: %s, format: text}
`, name, f.path(name, "data"), f.socket(i), hostIP(i), f.bare, f.introduction, f.allowed, s3URL, f.path("s3-credentials"), f.path(name, "root"), level)
	config := f.path(name, "gitopsd.yaml")
	if err := write(config, text); err != nil {
		return err
	}
	if err := os.MkdirAll(f.path(name, "root"), 0o755); err != nil {
		return err
	}
	agent, err := f.bed.start(name, name+".log", nil, f.o.gitopsd, "agent", "--config", config)
	if err != nil {
		return err
	}
	f.agents = append(f.agents, agent)
	return nil
}

// ready says whether an agent is ready and has nothing to complain about. Only then has its coordinator set a leader: a fleet that deploys is not being born, and the
// first election is not what is measured.
func ready(ctx context.Context, socket string) bool {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := client.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	report, err := status.NewClient(socket).Report(ctx, "")
	return answer.StatusCode == http.StatusOK && err == nil && len(report.Notices) == 0
}

func (f *fleet) socket(i int) string { return f.path(hostName(i), "api.sock") }

// stored is the file in which the S3 server keeps a bundle.
func (f *fleet) stored(key string) string { return f.path("s3", s3Bucket, key) }

// pushRandom packs a bundle of incompressible bytes and stores it.
func (f *fleet) pushRandom(ctx context.Context, mib int) (release, error) {
	if err := f.writeAppSpec("blob"); err != nil {
		return release{}, err
	}
	if err := writeRandom(f.path("bundle", "blob"), mib); err != nil {
		return release{}, err
	}
	return f.push(ctx, "bench.tar.zst", "")
}

// writeAppSpec makes the folder of a bundle that installs one source.
func (f *fleet) writeAppSpec(source string) error {
	return write(f.path("bundle", "appspec.yml"), "version: 0.0\nos: linux\nfiles:\n  - {source: "+source+", destination: /srv/bench}\n")
}

// push packs the folder of the bundle and stores it as key. previous is the key of the release before, or empty.
func (f *fleet) push(ctx context.Context, key, previous string) (release, error) {
	args := []string{"netns", "exec", f.bed.ns(originHost), f.o.gitopsd, "bundle", "push", f.path("bundle"), "s3://" + s3Bucket + "/" + key, "--endpoint", s3URL,
		"--path-style", "--region", "us-east-1", "--credentials-file", f.path("s3-credentials")}
	if previous != "" {
		args = append(args, "--previous", f.stored(previous))
	}
	out, err := output(exec.CommandContext(ctx, "ip", args...))
	if err != nil {
		return release{}, err
	}
	r := release{revision: string(out)}
	for line := range strings.Lines(r.revision) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), ": "); name {
		case "digest":
			r.digest, err = bundle.ParseDigest(value)
		case "size":
			r.size, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil {
			return release{}, fmt.Errorf("cannot read what bundle push printed: %w", err)
		}
	}
	return r, nil
}

// commitGroup commits a group of all hosts that runs a release.
func (f *fleet) commitGroup(ctx context.Context, r release) (string, error) {
	text := "id: 01BENCH000\napplicationName: bench\ndeploymentGroupName: bench\ncoordinators: web\ntargets: {tagSets: [[role=web]]}\n" + r.revision +
		"deploymentConfigName: CodeDeployDefault.AllAtOnce\n"
	if err := write(f.path("work", "bench", "group.yaml"), text); err != nil {
		return "", err
	}
	return f.commit(ctx, "release "+r.digest.Short())
}

// write makes a file and the folders it lies in.
func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}
