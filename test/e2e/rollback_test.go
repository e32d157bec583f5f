package e2e

import (
	"encoding/json"
	"testing"
)

func TestFailingHookRollsBackAndIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce+rollsBack)
	f.awaitRelease("one")
	bad := f.publish(release{name: "bad", validate: "echo the licence has expired\nexit 7\n"})
	commit := f.commitRevision(bad, oneAtATime+rollsBack, "release bad")
	for _, h := range f.hosts[:2] {
		if code := h.wait(commit); code != 5 {
			t.Errorf("wait on %s exits %d, want 5", h.name, code)
		}
	}
	f.awaitRelease("one")
	tried := f.triedOn("bad")
	assertExplained(t, f, tried)

	commented := f.commitRevision(bad, oneAtATime+rollsBack+"# nobody should deploy on a comment\n", "comment")
	if code := f.hosts[1].wait(commented); code != 5 {
		t.Errorf("wait for a comment exits %d, want 5", code)
	}
	waved := f.commitRevision(bad, oneAtATime+rollsBack+"waves: [{hosts: 1}, {rest: true}]\n", "waves")
	if code := f.hosts[2].wait(waved); code != 5 {
		t.Errorf("wait for other waves exits %d, want 5", code)
	}
	fixed := f.deploy(release{name: "fixed"}, oneAtATime+rollsBack)
	f.awaitRelease("fixed")
	if code := f.hosts[0].wait(fixed); code != 0 {
		t.Errorf("wait for the fixed release exits %d, want 0", code)
	}
	if n := f.count("ApplicationStart", "", "bad"); n != 1 {
		t.Errorf("the bad release was started %d times, want once on one host", n)
	}
	f.assertOnce()
}

// triedOn is the only host where a release was started.
func (f *fleet) triedOn(release string) string {
	f.t.Helper()
	host := ""
	for _, r := range f.runs() {
		if r.release != release || r.event != "ApplicationStart" {
			continue
		}
		if host != "" {
			f.t.Errorf("release %s was started on %s and on %s", release, host, r.host)
		}
		host = r.host
	}
	if host == "" {
		f.t.Fatalf("release %s was started nowhere", release)
	}
	return host
}

// assertExplained asks every host for the reason of a rollback.
func assertExplained(t *testing.T, f *fleet, host string) {
	t.Helper()
	for _, h := range f.hosts {
		contains(t, "why on "+h.name, f.command("why", website, "--addr", h.socket), "HeldBack", host+" failed ValidateService (exit 7)", "hooks/validate.sh", "the licence has expired")
		contains(t, "status on "+h.name, f.command("status", website, "--addr", h.socket), "HeldBack", host+" failed ValidateService (exit 7)", "the licence has expired")
		contains(t, "status -o json on "+h.name, f.command("status", website, "--addr", h.socket, "-o", "json"), host, "validate.sh", "the licence has expired")
	}
	out, code, _ := f.try("wait", website, "--addr", f.hosts[0].socket, "--timeout", "30s", "-o", "json")
	if code != 5 {
		t.Errorf("wait exits %d, want 5", code)
	}
	var awaited struct{ State, Message string }
	if err := json.Unmarshal([]byte(out), &awaited); err != nil {
		t.Fatal(err)
	}
	contains(t, "wait", awaited.State+": "+awaited.Message, "HeldBack", host, "ValidateService")
}
