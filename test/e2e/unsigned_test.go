package e2e

import (
	"strings"
	"testing"
)

func TestUnsignedTipChangesNothingUntilASignedCommitIsOnTop(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 4, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.git.write(website+"/group.yaml", groupText("01WEBSITE0", "website", f.publish(release{name: "two"}), allAtOnce))
	f.git.run(f.git.work, "add", "-A")
	f.git.run(f.git.work, "commit", "-q", "--no-gpg-sign", "-m", "nobody signed this")
	unsigned := f.git.push()
	for _, h := range f.hosts {
		eventually(t, h.name+" reports the unsigned tip", func() string {
			_, notices, _ := h.status(website)
			for _, n := range notices {
				if n.Kind == "Unsigned" && strings.Contains(n.Message, unsigned[:7]) {
					return ""
				}
			}
			return "no notice names it; " + f.why(h)
		})
		if code := h.wait(unsigned); code != 11 {
			t.Errorf("wait on %s for the unsigned commit exits %d, want 11", h.name, code)
		}
		contains(t, "status of "+h.name, f.command("status", "--addr", h.socket), unsigned[:7])
	}
	if n := f.count("", "", "two"); n != 0 {
		t.Errorf("%d hooks of the unsigned release ran", n)
	}
	signed := f.git.commit("approve what lies below")
	f.awaitRelease("two")
	for _, h := range f.hosts {
		if code := h.wait(signed); code != 0 {
			t.Errorf("wait on %s for the signed commit exits %d, want 0", h.name, code)
		}
	}
	f.awaitSettled()
	for _, h := range f.hosts {
		eventually(t, h.name+" has nothing more to report", func() string {
			if _, notices, _ := h.status(website); len(notices) != 0 {
				return notices[0].Message
			}
			return ""
		})
	}
	f.assertOnce()
}
