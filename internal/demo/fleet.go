package demo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// fleet is the hosts: one agent each.
type fleet struct {
	place     place
	hosts     []string
	addresses map[string]string // of agents
	ports     map[string]int    // of applications
	agents    []*process
	clients   []*status.Client
}

// newFleet chooses names and addresses.
func newFleet(p place, n int, held *reservation) *fleet {
	f := &fleet{place: p, addresses: map[string]string{}, ports: map[string]int{}}
	for i := range n {
		host := hostName(i)
		f.hosts = append(f.hosts, host)
		f.addresses[host] = "127.0.0.1:" + strconv.Itoa(held.port(2*i))
		f.ports[host] = held.port(2*i + 1)
		f.clients = append(f.clients, status.NewClient(p.socket(host)))
	}
	return f
}

// sockets are the agents', in order.
func (f *fleet) sockets() []string {
	var all []string
	for _, host := range f.hosts {
		all = append(all, f.place.socket(host))
	}
	return all
}

// inventory makes every host's identity and returns the first commit's files: the fleet without a group.
func (f *fleet) inventory(signer string) (desired.Files, error) {
	files, err := desired.InitFiles(desired.InitOptions{Fleet: "demo", Signers: []desired.Signer{{Name: signerName, SSH: signer}}})
	if err != nil {
		return nil, err
	}
	hosts := map[desired.HostName]desired.Host{}
	var voters []desired.HostName
	for i, name := range f.hosts {
		host, err := f.identity(name)
		if err != nil {
			return nil, err
		}
		hosts[host.Name] = host
		if i < voterCount(len(f.hosts)) {
			voters = append(voters, host.Name)
		}
		one, err := desired.HostFile(host)
		if err != nil {
			return nil, err
		}
		for name, text := range one {
			files[name] = text
		}
	}
	set, err := desired.CoordinatorsFile("demo", voters, hosts)
	if err != nil {
		return nil, err
	}
	for name, text := range set {
		files[name] = text
	}
	return files, nil
}

// voterCount is three where there are three.
func voterCount(hosts int) int {
	if hosts < 3 {
		return 1
	}
	return 3
}

// identity makes what `gitopsd host init` makes.
func (f *fleet) identity(name string) (desired.Host, error) {
	if err := os.MkdirAll(f.place.data(name), 0o700); err != nil {
		return desired.Host{}, fmt.Errorf("cannot make host %s: %w", name, err)
	}
	if err := os.MkdirAll(f.place.root(name), 0o755); err != nil {
		return desired.Host{}, fmt.Errorf("cannot make host %s: %w", name, err)
	}
	key, err := transport.GenerateKey(f.place.hostKey(name))
	if err != nil {
		return desired.Host{}, err
	}
	storage, err := newStorageID()
	if err != nil {
		return desired.Host{}, err
	}
	if err := writeFile(f.place.storageID(name), []byte(storage+"\n"), 0o644); err != nil {
		return desired.Host{}, err
	}
	return desired.Host{Name: desired.HostName(name), Keys: []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}, Storage: storage, Address: f.addresses[name],
		Zone: "rack-" + strings.TrimPrefix(name, "web-"), Tags: map[string]string{"role": "web", "port": strconv.Itoa(f.ports[name])}}, nil
}

// hostConfig is a host's own file.
func (f *fleet) hostConfig(name, introduction string, s3 *objectStore) string {
	p := f.place
	return fmt.Sprintf(`host: %s
dataDir: %q
socket: %q
listen: %s
advertise: %s
timing: fast
repository:
  urls: [%q]
  branch: %s
  poll: 1s
  allowLocalPath: true
  introduction: %s
  allowedSigners: %q
s3: {enabled: true, endpoint: %q, region: %s, pathStyle: true, credentialsFile: %q}
destinationRoot: %q
log: {level: info, format: text}
`, name, p.data(name), p.socket(name), f.addresses[name], f.addresses[name], p.bare(), branch, introduction, p.allowed(), s3.url, s3Region, s3.credentials, p.root(name))
}

// start starts an agent on every host.
func (f *fleet) start(procs *processes, env []string, introduction string, s3 *objectStore) error {
	for _, name := range f.hosts {
		if err := writeFile(f.place.config(name), []byte(f.hostConfig(name, introduction, s3)), 0o600); err != nil {
			return err
		}
		cmd := exec.Command(f.place.binary(), "agent", "--config", f.place.config(name))
		cmd.Dir, cmd.Env = f.place.dir, env
		agent, err := procs.start("the agent of "+name, cmd, f.place.agentLog(name))
		if err != nil {
			return err
		}
		f.agents = append(f.agents, agent)
	}
	return nil
}

// dead says which agent ended although it should run.
func (f *fleet) dead() error {
	for _, a := range f.agents {
		select {
		case <-a.done:
			return fmt.Errorf("%s ended by itself (%v); it wrote last: %s", a.name, a.err, lastLine(a.log))
		default:
		}
	}
	return nil
}

// lastLine is the end of a log, for a sentence.
func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return status.Printable(lines[len(lines)-1])
}

// ready says why not every agent has verified the commit yet, or "".
func (f *fleet) ready(ctx context.Context, commit string) string {
	for i, c := range f.clients {
		report, err := c.Report(ctx, "")
		switch {
		case err != nil:
			return err.Error()
		case report.Commit != commit && len(report.Notices) > 0:
			return f.hosts[i] + ": " + report.Notices[0].Message
		case report.Commit != commit:
			return f.hosts[i] + " has not verified the first commit yet"
		}
	}
	return ""
}

// notify tells the first agent that answers to look at the repository now.
func (f *fleet) notify(ctx context.Context) error {
	var all error
	for _, c := range f.clients {
		err := c.Operate(ctx, status.Operation{Verb: "sync", Actor: signerName})
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		all = errors.Join(all, err)
	}
	return fmt.Errorf("cannot tell any agent of the commit: %w", all)
}

// group asks the first agent that answers for the website.
func (f *fleet) group(ctx context.Context) (status.Group, []status.Notice, error) {
	var all error
	for _, c := range f.clients {
		report, err := c.Report(ctx, groupFolder)
		if err == nil && len(report.Groups) == 1 {
			return report.Groups[0], report.Notices, nil
		}
		all = errors.Join(all, err)
	}
	return status.Group{}, nil, all
}

// held counts the hosts that keep a complete copy of an archive on their disk.
func (f *fleet) held(p packed) int {
	n := 0
	for _, host := range f.hosts {
		found, err := filepath.Glob(filepath.Join(globbed(f.place.data(host)), "*", "complete", strings.TrimPrefix(p.digest, "sha256:"), "data"))
		if err != nil || len(found) != 1 {
			continue
		}
		if info, err := os.Stat(found[0]); err == nil && info.Size() == p.size {
			n++
		}
	}
	return n
}

// globbed takes the meaning from the characters of a path that filepath.Glob gives one.
func globbed(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
