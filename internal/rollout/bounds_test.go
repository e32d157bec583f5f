package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHistoryIsBounded: many deployments with loud failures keep within bounds.
func TestHistoryIsBounded(t *testing.T) {
	c := newConvo(t)
	c.twin = nil // it would be restored 6,000 times
	var hosts []string
	for i := range 40 {
		hosts = append(hosts, fmt.Sprintf("h%d", i+1))
	}
	c.play("lead h99 voters=h99\ntarget A hosts=" + strings.Join(hosts, ",") + " config=AllAtOnce\nhello all boot=1 runs=A")
	g, _, _ := c.m.find("web")
	for i := range 70 {
		c.play(fmt.Sprintf("target S%d\nready all for=S%d", i, i))
		for _, h := range g.Hosts {
			if h.Grant == nil {
				continue
			}
			d := Done{Group: "web", Grant: h.Grant.Token, Outcome: OutcomeFailed, Stopped: true, Event: "AfterInstall", ExitCode: 1}
			d.Events = []EventRecord{{Event: "AfterInstall", Status: "Failed", Diagnostics: &Diagnostics{LogTail: strings.Repeat("x", maxLogTail)}}}
			c.send(h.Name, d)
		}
	}
	if len(g.History) > maxHistory || len(g.Quarantine) > maxQuarantine {
		t.Errorf("%d deployments and %d quarantined specs are kept", len(g.History), len(g.Quarantine))
	}
	logs := 0
	for _, d := range g.History {
		logs += d.logBytes()
		if d.logBytes() > maxDeploymentLogs+maxLogTail+40*shortLogTail {
			t.Errorf("%s keeps %d bytes of logs", d.ID, d.logBytes())
		}
	}
	if logs > maxHistoryLogs+maxDeploymentLogs {
		t.Errorf("the history keeps %d bytes of logs", logs)
	}
	snap, err := c.m.Snapshot()
	if err != nil || len(snap) > 2<<20 {
		t.Errorf("a snapshot of %d bytes (%v)", len(snap), err)
	}
}

func TestNaturalOrder(t *testing.T) {
	for _, pair := range [][2]string{{"web-2", "web-10"}, {"a", "b"}, {"web", "web-1"}, {"h09", "h10"}, {"r1-h2", "r2-h1"}} {
		if naturalCompare(pair[0], pair[1]) >= 0 || naturalCompare(pair[1], pair[0]) <= 0 {
			t.Errorf("%s should come before %s", pair[0], pair[1])
		}
	}
	if naturalCompare("h1", "h1") != 0 {
		t.Error("equal names differ")
	}
}

func TestDeploymentIDs(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		id := deploymentID("01JD3K9V8Q", "spec/1:abc", uint64(i))
		if len(id) != 11 || !strings.HasPrefix(id, "d-") || strings.ToUpper(id[2:]) != id[2:] {
			t.Fatalf("%s does not look like CodeDeploy's", id)
		}
		seen[id] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d ids for 1000 deployments", len(seen))
	}
	if got := deploymentID("g", "s", 1); got != deploymentID("g", "s", 1) {
		t.Error("an id is not the same everywhere")
	}
}

func TestTargetNeeded(t *testing.T) {
	c := newConvo(t)
	c.play("lead h1 voters=h1\ntarget A hosts=h2,h1")
	same := *c.groups["web"]
	same.Spec.Commit = "a comment was changed"
	if _, needed := c.m.TargetNeeded(same); needed {
		t.Error("a commit that changes nothing costs an entry")
	}
	for name, change := range map[string]func(*Target){
		"spec":    func(t *Target) { t.Spec.SpecHash = "B" },
		"attempt": func(t *Target) { t.Attempt++ },
		"members": func(t *Target) { t.Members = t.Members[:1] },
		"policy":  func(t *Target) { t.Policy.Checks++ },
		"suspend": func(t *Target) { t.Suspend = true },
		"folder":  func(t *Target) { t.Folder = "elsewhere" },
	} {
		other := same
		change(&other)
		if got, needed := c.m.TargetNeeded(other); !needed || got.Base != 1 {
			t.Errorf("a changed %s: needed=%v base=%d", name, needed, got.Base)
		}
	}
	if o, needed := c.m.OrphanNeeded("web"); !needed || o.Base != 1 {
		t.Errorf("orphan %+v %v", o, needed)
	}
	if _, needed := c.m.OrphanNeeded("never heard of"); needed {
		t.Error("a group nobody knows is to be orphaned")
	}
}

// TestClock: ticks are capped, and only the leader's count.
func TestClock(t *testing.T) {
	c := newConvo(t)
	c.play("lead h1 voters=h1")
	c.lead(Tick{Elapsed: time.Hour})
	if c.m.Clock() != maxTick {
		t.Errorf("an hour in one tick made it %s", c.m.Clock())
	}
	c.lead(Tick{Elapsed: -time.Hour})
	c.send("h2", Tick{Elapsed: time.Second})
	if c.m.Clock() != maxTick {
		t.Errorf("the clock went to %s", c.m.Clock())
	}
}

func BenchmarkThousandHosts(b *testing.B) {
	for range b.N {
		if _, err := Simulate(SimulateOptions{Hosts: 1000, Policy: percent(90)}); err != nil {
			b.Fatal(err)
		}
	}
}
