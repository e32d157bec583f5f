package e2e

import (
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

func TestLeaderKilledInMidWave(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.awaitSettled()
	f.shut("wave")
	f.deploy(release{name: "two", start: heldBy("wave")}, halfAtATime)
	inside := f.awaitHeld(0)
	leader := f.leader(inside, nil)
	leader.kill9()
	other := f.hosts[0]
	if other == leader {
		other = f.hosts[1]
	}
	next := f.leader(other, leader)
	t.Logf("%s was inside a hook, %s led and was killed, %s leads now", inside.name, leader.name, next.name)
	f.open("wave")
	f.awaitRun("Validated", inside.name, "two")
	leader.start()
	f.awaitRelease("two")
	f.awaitSettled()
	f.assertRanOnce("ApplicationStart", "two")
	f.assertRanOnce("ValidateService", "two")
	f.assertOnce()
}

func TestLeaderKilledInsideItsOwnHook(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 1})
	leader := f.hosts[0]
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.awaitSettled()
	f.shut("leader")
	f.deploy(release{name: "two", start: `if [ "$GITOPSD_HOST" = web-1 ]; then ` + heldBy("leader") + "fi\n"}, oneAtATime)
	if inside := f.awaitHeld(0); inside != leader {
		t.Fatalf("%s is inside the hook, want the only voter", inside.name)
	}
	leader.kill9()
	leader.start()
	eventually(t, "the only voter leads again", func() string {
		g, _, ok := leader.status(website)
		if !ok || g.Deployment == nil || g.Deployment.Leader != leader.name {
			return "not yet"
		}
		return ""
	})
	f.open("leader")
	f.awaitRelease("two")
	f.awaitSettled()
	f.assertRanOnce("ApplicationStart", "two")
	f.assertRanOnce("ValidateService", "two")
	f.assertOnce()
}

// printing is a hook's text that prints for three seconds and tells the truth when it ends.
const printing = `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do echo "line $i"; sleep 0.1; done
echo "$DEPLOYMENT_ID Printed $GITOPSD_HOST printing $(date +%s%N)" >> "$E2E_LOG"
`

func TestAgentKilledInsideAHookThatSucceeds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce+rollsBack)
	f.awaitRelease("one")
	commit := f.deploy(release{name: "two", start: printing}, oneAtATime+rollsBack)
	victim := f.awaitStarted("two")
	victim.kill9()
	f.awaitRun("Printed", victim.name, "printing")
	victim.start()
	f.awaitRelease("two")
	f.awaitSettled()
	for _, h := range f.hosts {
		if code := h.wait(commit); code != 0 {
			t.Errorf("wait on %s exits %d, want 0", h.name, code)
		}
	}
	f.assertRanOnce("ApplicationStart", "two")
	f.assertRanOnce("Printed", "printing")
	f.assertOnce()
	contains(t, "logs of the killed agent's hook", f.command("logs", website, victim.name, "--addr", f.hosts[0].socket), "line 1\n", "line 30")
}

func TestAgentKilledInsideAHookThatFails(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce+rollsBack)
	f.awaitRelease("one")
	commit := f.deploy(release{name: "bad", start: printing + "echo out of licences\nexit 9\n"}, oneAtATime+rollsBack)
	victim := f.awaitStarted("bad")
	victim.kill9()
	victim.start() // while the hook still prints
	victim.awaitUp()
	if n := f.count("Printed", victim.name, "printing"); n != 0 {
		t.Logf("the hook had ended before the agent was back; the machine is slow")
	}
	for _, h := range f.hosts {
		if code := h.wait(commit); code != 5 {
			t.Errorf("wait on %s exits %d, want 5", h.name, code)
		}
	}
	f.awaitRelease("one")
	if n := f.count("ApplicationStart", "", "bad"); n != 1 {
		t.Errorf("the failing hook started %d times, want 1", n)
	}
	if n := f.count("Printed", "", "printing"); n != 1 {
		t.Errorf("the failing hook ended by itself %d times, want 1", n)
	}
	contains(t, "why", f.command("why", website, "--addr", f.hosts[0].socket), victim.name, "ApplicationStart", "out of licences")
	f.assertOnce()
}

// awaitUp waits until a host's agent answers.
func (h *host) awaitUp() {
	h.f.t.Helper()
	h.awaitGroup("anything", func(status.Group) string { return "" })
}

// awaitStarted waits until ApplicationStart of a release has begun somewhere, and returns the host.
func (f *fleet) awaitStarted(release string) *host {
	f.t.Helper()
	var name string
	eventuallyWithin(f.t, patience, "ApplicationStart of "+release+" begins", func() string {
		for _, r := range f.runs() {
			if r.event == "ApplicationStart" && r.release == release {
				name = r.host
				return ""
			}
		}
		return f.why(f.hosts[0])
	})
	return f.byName(name)
}

func TestAllAgentsRestartAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	before := f.awaitSettled()
	lines := f.count("", "", "")
	for _, h := range f.hosts[:2] {
		h.signal(15)
	}
	for _, h := range f.hosts[2:] {
		h.signal(9)
	}
	for _, h := range f.hosts {
		<-h.process.done
	}
	restarted := time.Now()
	for _, h := range f.hosts {
		h.start()
	}
	after := f.awaitSettled()
	if after.Running != before.Running || after.Deployment == nil || before.Deployment == nil || after.Deployment.ID != before.Deployment.ID {
		t.Errorf("before the restart %+v %+v, after it %+v %+v", before.Running, before.Deployment, after.Running, after.Deployment)
	}
	if n := f.count("", "", ""); n != lines {
		t.Errorf("%d hooks ran because of the restart", n-lines)
	}
	f.deploy(release{name: "two"}, allAtOnce)
	f.awaitRelease("two")
	for _, r := range f.runs() {
		if r.at.After(restarted) && r.release == "one" && r.event != "ApplicationStop" {
			t.Errorf("%s of the release from before the restart ran again on %s", r.event, r.host)
		}
	}
	f.assertOnce()
}
