package e2e

import (
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

func TestHostThatJoinsLateGetsTheRunningRevision(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce+rollsBack)
	f.awaitRelease("one")
	held := f.deploy(release{name: "bad", validate: "exit 7\n"}, oneAtATime+rollsBack)
	if code := f.hosts[0].wait(held); code != 5 {
		t.Fatalf("wait for the bad release exits %d, want 5", code)
	}
	f.awaitRelease("one")
	late := f.addHost("web-4")
	joined := f.git.commit("add web-4")
	late.writeConfig("")
	late.start()
	f.awaitRelease("one")
	if n := f.count("", late.name, "bad"); n != 0 {
		t.Errorf("%d hooks of the held release ran on the new host", n)
	}
	for _, h := range []*host{f.hosts[0], late} {
		if code := h.wait(joined); code != 5 {
			t.Errorf("wait on %s exits %d, want 5: the bad release is still held back", h.name, code)
		}
	}
	f.deploy(release{name: "two"}, oneAtATime+rollsBack)
	f.awaitRelease("two")
	f.assertRanOnce("ApplicationStart", "two")
	f.assertOnce()
}

func TestDeadHostDoesNotBlockItsGroup(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	dead, living := f.hosts[4], f.hosts[:4]
	dead.kill9()
	f.deploy(release{name: "two"}, oneAtATime+"deadlines: {dead: 2s}\n")
	eventually(t, "the living hosts serve release two", func() string {
		for _, h := range living {
			if h.serves() != "two" {
				return h.name + " does not; " + f.why(f.hosts[0])
			}
		}
		return ""
	})
	f.hosts[0].awaitGroup("the dead host as Behind", func(g status.Group) string {
		for _, h := range g.Hosts {
			if h.Name == dead.name && (h.Status != "Behind" || h.Alive != "dead") {
				return h.Status + " " + h.Alive
			}
		}
		if g.State != "Succeeded" {
			return "not over"
		}
		return ""
	})
	if n := f.count("", dead.name, "two"); n != 0 {
		t.Errorf("%d hooks ran on the dead host", n)
	}
	dead.start()
	f.awaitRun("Validated", dead.name, "two")
	f.awaitRelease("two")
	f.awaitSettled()
	f.assertRanOnce("ApplicationStart", "two")
	f.assertOnce()
}
