package appspec

import (
	"strings"
	"testing"
)

// TestTabsWhereTheAgentTakesThem: measured with the agent's parser.
func TestTabsWhereTheAgentTakesThem(t *testing.T) {
	rows := []struct {
		src     string
		refused bool
	}{
		{"version: 0.0\t# x\nos: linux\t\n", false},
		{"version:\t0.0\nos:\tlinux\n", false},
		{header + "hooks:\n  AfterInstall:\n    - location: 'a\tb'\n", false},
		{header + "hooks:\n  AfterInstall:\n    - location: |\n        a\tb\n        \tc\n", false},
		{header + "hooks: {AfterInstall:\t[\n\t{location: a}\n\t]}\n", false},
		{header + "hooks:\n  AfterInstall:\n    - location: a\n       \t\n    - location: b\n", false}, // within the scalar's indentation
		{header + "hooks:\n  AfterInstall:\n    - location: a\n\t\n    - location: b\n", true},
		{header + "hooks:\n\t# x\n  AfterInstall:\n    - location: a\n", true},
		{header + "hooks:\n  AfterInstall:\n    -\tlocation: a\n", true},
		{"version: 0.0\n\t\nos: linux\n", true},
		{"version: 0.0 # x\n\t\nos: linux\n", true},
		{"version: 0.0\nos: 'linux'\n \t", true},
	}
	for _, row := range rows {
		_, _, err := Parse([]byte(row.src), Options{})
		if (err != nil) != row.refused {
			t.Errorf("%q: %v", row.src, err)
		}
	}
	if p := checkTabs(strings.Repeat("a: b\n", 3) + "\tc: d\n"); p == nil || p.Position != (Position{4, 1}) {
		t.Errorf("the tab in line 4 is found at %+v", p)
	}
}
