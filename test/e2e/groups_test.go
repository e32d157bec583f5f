package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// reports is the folder of the second group.
const reports = "shop/test/reports"

// reportsRelease is an application beside the website: files and hooks, no port.
func reportsRelease(name string) release {
	return release{name: name, files: map[string]string{
		"appspec.yml": `version: 0.0
os: linux
files:
  - source: content
    destination: /srv/reports
hooks:
  ApplicationStart:
    - {location: hooks/start.sh, timeout: 60}
`,
		"hooks/start.sh": strings.ReplaceAll(hookText, "RELEASE", name) + "sleep 0.2\necho \"$DEPLOYMENT_ID Started $GITOPSD_HOST " + name + " $(date +%s%N)\" >> \"$E2E_LOG\"\n",
	}}
}

// reportsText is the second group's file, for some hosts.
func reportsText(revision, hosts string) string {
	return fmt.Sprintf("id: 01REPORTS0\napplicationName: reports\ndeploymentGroupName: reports\ncoordinators: web\ntargets: {hosts: [%s]}\n%s%s", hosts, revision, allAtOnce)
}

// awaitReports waits until a host has a release of the second application.
func (f *fleet) awaitReports(name string, hosts ...*host) {
	f.t.Helper()
	eventually(f.t, "release "+name+" of reports is installed", func() string {
		for _, h := range hosts {
			text, _ := os.ReadFile(filepath.Join(h.root, "srv", "reports", "release"))
			if strings.TrimSpace(string(text)) != name {
				g, _, _ := f.hosts[0].status(reports)
				return fmt.Sprintf("%s has %q; %s: %s", h.name, text, g.State, g.Why)
			}
		}
		return ""
	})
}

func TestTwoGroupsShareAHost(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	for _, n := range []string{"1", "2"} {
		f.git.write(website+"/group.yaml", groupText("01WEBSITE0", "website", f.publish(release{name: "site" + n}), allAtOnce))
		f.git.write(reports+"/group.yaml", reportsText(f.publish(reportsRelease("rep"+n)), "web-1, web-2"))
		f.git.commit("both " + n)
		f.awaitRelease("site" + n)
		f.awaitReports("rep"+n, f.hosts[:2]...)
		f.awaitSettled()
	}
	f.assertRanOnce("ApplicationStart", "site2")
	f.assertRanOnce("ApplicationStart", "rep2", f.hosts[:2]...)
	if n := f.count("", f.hosts[2].name, "rep2"); n != 0 {
		t.Errorf("%d hooks of the second group ran on a host outside of it", n)
	}
	assertOneGroupAtATime(t, f)
	f.assertOnce()
}

// assertOneGroupAtATime replays the truth: between the first and the last hook of one deployment on a host there is none of another.
func assertOneGroupAtATime(t *testing.T, f *fleet) {
	t.Helper()
	over, current := map[string]bool{}, map[string]string{}
	for _, r := range f.runs() {
		if current[r.host] == r.deployment {
			continue
		}
		if over[r.host+r.deployment] {
			t.Errorf("deployment %s ran hooks on %s between those of %s", current[r.host], r.host, r.deployment)
		}
		over[r.host+current[r.host]] = true
		current[r.host] = r.deployment
	}
}

func TestRenamedAndDeletedGroupsUninstallNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.git.write(website+"/group.yaml", groupText("01WEBSITE0", "website", f.publish(release{name: "one"}), allAtOnce))
	f.git.write(reports+"/group.yaml", reportsText(f.publish(reportsRelease("rep")), "web-1, web-2, web-3"))
	f.git.commit("two groups")
	f.awaitRelease("one")
	f.awaitReports("rep", f.hosts...)
	before := f.awaitSettled()
	lines := f.count("", "", "")

	const renamed = "shop/test/storefront"
	f.git.run(f.git.work, "mv", website, renamed)
	moved := f.git.commit("rename the website")
	f.awaitCommit(moved)
	for _, h := range f.hosts {
		eventually(t, h.name+" shows the group under its new folder", func() string {
			g, _, ok := h.status(renamed)
			if !ok || g.State != "Succeeded" || g.Group != renamed {
				return fmt.Sprintf("%v %s: %s", ok, g.State, g.Why)
			}
			if g.ID != before.ID || g.Deployment == nil || g.Deployment.ID != before.Deployment.ID || g.Running.SpecHash != before.Running.SpecHash {
				return fmt.Sprintf("%s %+v %+v, before %s %+v %+v", g.ID, g.Deployment, g.Running, before.ID, before.Deployment, before.Running)
			}
			return ""
		})
	}
	f.git.run(f.git.work, "rm", "-rq", reports)
	deleted := f.git.commit("delete reports")
	f.awaitCommit(deleted)
	for _, h := range f.hosts {
		eventually(t, h.name+" shows the deleted group as Orphaned", func() string {
			g, notices, ok := h.status("reports")
			if !ok || g.State != "Orphaned" {
				return fmt.Sprintf("%v %s: %s %v", ok, g.State, g.Why, notices)
			}
			return ""
		})
	}
	f.awaitRelease("one")
	f.awaitReports("rep", f.hosts...)
	if n := f.count("", "", ""); n != lines {
		t.Errorf("%d hooks ran because of a rename and a deletion", n-lines)
	}
	contains(t, "status", f.command("status", "--addr", f.hosts[0].socket), renamed, "Orphaned")
	f.assertOnce()
}

// awaitCommit waits until every host has verified a commit.
func (f *fleet) awaitCommit(commit string) {
	f.t.Helper()
	for _, h := range f.hosts {
		eventually(f.t, h.name+" is at commit "+commit[:10], func() string {
			report, err := status.NewClient(h.socket).Report(f.t.Context(), "")
			if err != nil {
				return err.Error()
			}
			if report.Commit != commit {
				return "it is at " + report.Commit
			}
			return ""
		})
	}
}
