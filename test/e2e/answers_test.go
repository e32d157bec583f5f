package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

func TestEveryHostGivesTheSameAnswer(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 4, voters: 1})
	deploy := func(r release, policy string) string {
		f.git.write(website+"/group.yaml", fmt.Sprintf("id: 01WEBSITE0\napplicationName: website\ndeploymentGroupName: website\ncoordinators: web\n"+
			"targets: {hosts: [web-1, web-2, web-3]}\n%s%s", f.publish(r), policy))
		return f.git.commit("release " + r.name)
	}
	inside, outside := f.hosts[:3], f.hosts[3]
	deploy(release{name: "one", start: "echo release one on $GITOPSD_HOST\n"}, allAtOnce+rollsBack)
	f.awaitRelease("one", inside...)
	f.awaitSettled(inside...)
	held := deploy(release{name: "bad", start: "echo release bad on $GITOPSD_HOST\nexit 3\n"}, oneAtATime+rollsBack)
	for _, h := range f.hosts {
		if code := h.wait(held); code != 5 {
			t.Errorf("wait on %s exits %d, want 5", h.name, code)
		}
	}
	f.awaitRelease("one", inside...)
	f.awaitSameAnswer("status", website, "-o", "json")
	f.awaitSameAnswer("history", website, "-o", "json")
	tried := f.triedOn("bad")
	for _, h := range f.hosts {
		contains(t, "logs of "+tried+" asked of "+h.name, f.command("logs", website, tried, "--addr", h.socket), "release one on "+tried)
	}
	var history struct {
		Deployments []struct{ ID, Status string }
	}
	if err := json.Unmarshal([]byte(f.command("history", website, "--addr", outside.socket, "-o", "json")), &history); err != nil {
		t.Fatal(err)
	}
	if len(history.Deployments) < 3 {
		t.Fatalf("the history has %v, want the first release, the failed one and its rollback", history.Deployments)
	}
	failed := ""
	for _, d := range history.Deployments {
		if !deploymentID.MatchString(d.ID) {
			t.Errorf("a deployment is called %q", d.ID)
		}
		if d.Status == "Failed" {
			failed = d.ID
		}
	}
	for _, h := range f.hosts {
		contains(t, "logs of the failed deployment asked of "+h.name, f.command("logs", website, tried, "--deployment", failed, "--addr", h.socket), "release bad on "+tried)
	}
	if _, code, _ := f.try("status", "no/such/group", "--addr", outside.socket); code == 0 {
		t.Error("status of a group that does not exist exits 0")
	}
	f.assertOnce()
}

// awaitSameAnswer runs a read verb against every host until the documents agree but for the host asked and its own notices.
func (f *fleet) awaitSameAnswer(args ...string) {
	f.t.Helper()
	eventually(f.t, "every host answers alike", func() string {
		var first []byte
		for _, h := range f.hosts {
			var document map[string]any
			if err := json.Unmarshal([]byte(f.command(append(args, "--addr", h.socket)...)), &document); err != nil {
				f.t.Fatal(err)
			}
			delete(document, "host")
			delete(document, "notices")
			text, err := json.MarshalIndent(document, "", " ")
			if err != nil {
				f.t.Fatal(err)
			}
			if first == nil {
				first = text
			}
			if !bytes.Equal(first, text) {
				return fmt.Sprintf("%s says\n%s\n%s says\n%s", f.hosts[0].name, first, h.name, text)
			}
		}
		return ""
	})
}
