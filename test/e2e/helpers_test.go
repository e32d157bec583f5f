package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// Policies of group.yaml.
const (
	allAtOnce   = "deploymentConfigName: CodeDeployDefault.AllAtOnce\n"
	halfAtATime = "deploymentConfigName: CodeDeployDefault.HalfAtATime\n"
	oneAtATime  = "deploymentConfigName: CodeDeployDefault.OneAtATime\n"
	rollsBack   = "autoRollbackConfiguration: {enabled: true, events: [DEPLOYMENT_FAILURE]}\n"
)

// kill9 ends the agent as the kernel's memory killer would; hooks and the application go on.
func (h *host) kill9() { h.process.kill() }

// awaitGroup waits until a host's report of the website satisfies check, which returns what is missing.
func (h *host) awaitGroup(what string, check func(status.Group) string) status.Group {
	h.f.t.Helper()
	var last status.Group
	eventually(h.f.t, h.name+" reports "+what, func() string {
		g, notices, ok := h.status(website)
		if last = g; !ok {
			return "no answer"
		}
		if why := check(g); why != "" {
			return fmt.Sprintf("%s; %s: %s %v", why, g.State, g.Why, notices)
		}
		return ""
	})
	return last
}

// awaitSettled waits until every one of these hosts reports that each host of the website runs the commit's revision.
func (f *fleet) awaitSettled(hosts ...*host) status.Group {
	f.t.Helper()
	if len(hosts) == 0 {
		hosts = f.hosts
	}
	var last status.Group
	for _, h := range hosts {
		last = h.awaitGroup("success on every host", func(g status.Group) string {
			if g.State != "Succeeded" {
				return "not over"
			}
			for _, m := range g.Hosts {
				if m.Alive != "alive" {
					return m.Name + " is " + m.Alive
				}
			}
			return ""
		})
	}
	return last
}

// leader waits until a host knows who leads the website's set, other than one that is down, and returns it.
func (f *fleet) leader(ask, not *host) *host {
	f.t.Helper()
	var name string
	ask.awaitGroup("a leader", func(g status.Group) string {
		if g.Deployment == nil || g.Deployment.Leader == "" {
			return "nobody leads"
		}
		if name = g.Deployment.Leader; not != nil && name == not.name {
			return "still " + name
		}
		return ""
	})
	return f.byName(name)
}

// count counts lines of the truth; "" matches all.
func (f *fleet) count(event, host, release string) int {
	f.t.Helper()
	n := 0
	for _, r := range f.runs() {
		if (event == "" || r.event == event) && (host == "" || r.host == host) && (release == "" || r.release == release) {
			n++
		}
	}
	return n
}

// awaitRun waits for a line of the truth.
func (f *fleet) awaitRun(event, host, release string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%s of %s on %s is in the truth", event, release, host), func() string {
		if f.count(event, host, release) == 0 {
			return "not yet; " + f.why(f.hosts[0])
		}
		return ""
	})
}

// assertRanOnce fails unless a hook of a release ran exactly once on each host.
func (f *fleet) assertRanOnce(event, release string, hosts ...*host) {
	f.t.Helper()
	if len(hosts) == 0 {
		hosts = f.hosts
	}
	for _, h := range hosts {
		if n := f.count(event, h.name, release); n != 1 {
			f.t.Errorf("%s of release %s ran %d times on %s, want 1", event, release, n, h.name)
		}
	}
}

// agentLog is what an agent printed so far.
func (h *host) agentLog() string {
	text, err := os.ReadFile(filepath.Join(h.dir, "agent.log"))
	if err != nil {
		h.f.t.Fatal(err)
	}
	return string(text)
}

// processes lists the living processes that descend from a host's agent, and their command lines, found by the environment they inherited.
func (h *host) processes() map[int]string {
	h.f.t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		h.f.t.Fatal(err)
	}
	all := map[int]string{}
	for _, file := range found {
		env, err := os.ReadFile(file)
		if err != nil || !strings.Contains("\x00"+string(env), "\x00E2E_DIR="+h.dir+"\x00") {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		pid, bad := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && bad == nil && len(line) > 0 {
			all[pid] = strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
		}
	}
	return all
}

// signal sends a signal to the agent.
func (h *host) signal(s syscall.Signal) {
	h.f.t.Helper()
	if err := h.process.cmd.Process.Signal(s); err != nil {
		h.f.t.Fatal(err)
	}
}

// contains fails unless text has every part.
func contains(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s does not say %q:\n%s", what, part, text)
		}
	}
}
