package e2e

import (
	"strings"
	"testing"
)

func TestUnsignedTipChangesNothingUntilASignedCommitIsOnTop(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.git.write(website+"/group.yaml", groupText("01WEBSITE0", "website", f.publish(release{name: "two"}), allAtOnce))
	f.git.run(f.git.work, "add", "-A")
	f.git.run(f.git.work, "commit", "-q", "--no-gpg-sign", "-m", "nobody signed this")
	unsigned := f.git.push()
	var reporter *host
	eventually(t, "a host reports the unsigned tip", func() string {
		for _, h := range f.hosts {
			_, notices, _ := h.status(website)
			for _, n := range notices {
				if strings.Contains(n.Message, unsigned[:7]) && n.Host == h.name {
					reporter = h
					return ""
				}
			}
		}
		return "no notice names it; " + f.why(f.hosts[0])
	})
	if code := reporter.wait(unsigned); code != 11 {
		t.Errorf("wait for the unsigned commit exits %d, want 11", code)
	}
	out := f.command("status", "--addr", reporter.socket)
	contains(t, "status", out, unsigned[:7])
	if n := f.count("", "", "two"); n != 0 {
		t.Errorf("%d hooks of the unsigned release ran", n)
	}
	signed := f.git.commit("approve what lies below")
	f.awaitRelease("two")
	if code := reporter.wait(signed); code != 0 {
		t.Errorf("wait for the signed commit exits %d, want 0", code)
	}
	f.awaitSettled()
	for _, h := range f.hosts {
		if _, notices, _ := h.status(website); len(notices) != 0 {
			t.Errorf("%s still reports %v", h.name, notices)
		}
	}
	f.assertOnce()
}
