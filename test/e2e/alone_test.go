package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// upCheck asks for a file that every release installs and that the test removes.
const upCheck = "checks: [{name: up, http: {url: \"http://127.0.0.1:${tag:port}/up\", status: 200}, interval: 1s, timeout: 1s, healthyAfter: 1, unhealthyAfter: 1, grace: 10s}]\n"

// Without quorum only the unhealthy host goes back to what the verified tip asks for; see rule 6 of a rollout.
func TestUnhealthyHostGoesBackWithoutQuorum(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 1})
	up := map[string]string{"content/up": "yes\n"}
	one := f.publish(release{name: "one", files: up})
	f.commitRevision(one, allAtOnce+upCheck, "release one")
	f.awaitRelease("one")
	f.awaitSettled()
	f.deploy(release{name: "two", files: up}, allAtOnce+upCheck)
	f.awaitRelease("two")
	f.awaitSettled()
	voter, sick, well := f.hosts[0], f.hosts[1], f.hosts[2]
	voter.kill9()
	if err := os.Remove(filepath.Join(sick.root, "srv/site/up")); err != nil {
		t.Fatal(err)
	}
	f.commitRevision(one, allAtOnce+upCheck, "back to release one")
	f.awaitRelease("one", sick)
	f.awaitRelease("two", well, voter)
	eventually(t, "the status says so", func() string {
		_, notices, _ := sick.status(website)
		for _, n := range notices {
			if n.Kind == "WentBackAlone" {
				return ""
			}
		}
		return "no notice"
	})
	voter.start()
	f.awaitRelease("one")
	f.awaitSettled()
	sick.awaitGroup("the host as any other", func(g status.Group) string {
		for _, h := range g.Hosts {
			if h.Name == sick.name && h.Status != "Succeeded" {
				return h.Status
			}
		}
		return ""
	})
	f.assertOnce()
}
