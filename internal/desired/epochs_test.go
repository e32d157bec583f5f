package desired

import (
	"fmt"
	"strings"
	"testing"
)

// coordinatorsText writes a set of hosts with the storage id of testHost.
func coordinatorsText(epoch int, voters ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch: %d\nvoters:\n", epoch)
	for _, n := range voters {
		fmt.Fprintf(&b, "  - web-%d/%016x\n", n, n)
	}
	return b.String()
}

func TestEpochsFollowThoseOfTheCommitBefore(t *testing.T) {
	const file = "coordinators/web.yaml"
	cases := []struct {
		name, before, after string
		want                []string
	}{
		{"nothing changed", coordinatorsText(3, 1, 2, 3), coordinatorsText(3, 1, 2, 3), nil},
		{"another order", coordinatorsText(3, 1, 2, 3), coordinatorsText(3, 3, 1, 2), nil},
		{"only limits changed", coordinatorsText(3, 1, 2, 3), coordinatorsText(3, 1, 2, 3) + "maxHostsInFlight: 5\n", nil},
		{"one replaced", coordinatorsText(3, 1, 2, 3), coordinatorsText(4, 1, 2, 4), nil},
		{"grown", coordinatorsText(3, 1), coordinatorsText(4, 1, 2, 3), nil},
		{"the same voters under the next epoch", coordinatorsText(3, 1, 2, 3), coordinatorsText(4, 1, 2, 3), nil},
		{"other voters under the same epoch", coordinatorsText(3, 1, 2, 3), coordinatorsText(3, 1, 2, 4),
			[]string{file + ":3:3: voters: in HEAD epoch 3 has other voters, and an epoch names its voters once: hosts ignore another list and report it (write epoch: 4)"}},
		{"another storage id under the same epoch", coordinatorsText(3, 1), strings.Replace(coordinatorsText(3, 1), "1\n", "f\n", 1),
			[]string{"has other voters"}},
		{"lower", coordinatorsText(3, 1, 2, 3), coordinatorsText(2, 1, 2, 4),
			[]string{file + ":1:8: epoch: 2 is lower than 3 in HEAD, and hosts never go back to an earlier epoch (write epoch: 4)"}},
		{"lower with the same voters", coordinatorsText(3, 1, 2, 3), coordinatorsText(1, 1, 2, 3), []string{"(write epoch: 3)"}},
		{"skipped", coordinatorsText(3, 1, 2, 3), coordinatorsText(5, 1, 2, 3),
			[]string{file + ":1:8: warning: epoch: it rises from 3 in HEAD to 5: hosts follow, but it is to rise by one, so that two people who both take the next one meet in git (write epoch: 4)"}},
		{"two of three replaced", coordinatorsText(3, 1, 2, 3), coordinatorsText(4, 1, 4, 5),
			[]string{file + ":3:3: warning: voters: only 1 of the 3 in HEAD stay, fewer than a majority: that is for a set whose quorum is lost for good (while the set is well, replace one voter at a time, each with the next epoch)"}},
		{"skipped and replaced", coordinatorsText(3, 1, 2, 3), coordinatorsText(5, 4, 5, 6), []string{"warning: epoch: it rises", "warning: voters: only 0 of the 3"}},
		{"unreadable before", "epoch: x\n", coordinatorsText(1, 1), nil},
		{"unreadable after", coordinatorsText(1, 1), "epoch: x\n", nil},
		{"new", "", coordinatorsText(7, 1), nil},
	}
	for _, c := range cases {
		before := Files{file: c.before}
		if c.before == "" {
			before = Files{}
		}
		problems := CheckEpochs(before, "HEAD", tree(Files{file: c.after, "coordinators/other.yaml": coordinatorsText(1, 9)}))
		if len(problems) != len(c.want) {
			t.Errorf("%s: want %d problems:\n%s", c.name, len(c.want), texts(problems))
		}
		for _, want := range c.want {
			if !strings.Contains(texts(problems), want) {
				t.Errorf("%s: no problem says %q:\n%s", c.name, want, texts(problems))
			}
		}
	}
}
