package demo

import (
	"strings"
	"testing"
)

// sights reads lines such as "1 1 2 -": what web-1, web-2, ... served, "-" for nothing.
func sights(lines ...string) []sight {
	var all []sight
	for _, line := range lines {
		s := sight{}
		for i, serves := range strings.Fields(line) {
			s[hostName(i)] = strings.TrimPrefix(serves, "-")
		}
		all = append(all, s)
	}
	return all
}

func TestJudge(t *testing.T) {
	first := plot{target: "1", after: "1", bytes: 1000}
	canary := plot{before: "1", target: "2", after: "2", alone: true, window: 2, bytes: 1000}
	broken := plot{before: "2", target: "3", after: "2", window: 1, bytes: 1000}
	still := plot{before: "2", target: "2", after: "2", still: true}
	back := plot{before: "2", target: "1", after: "1", window: 1}
	for _, c := range []struct {
		name  string
		plot  plot
		seen  []sight
		bytes int64
		want  string // part of the only complaint; "" for none
	}{
		{"everywhere", first, sights("- -", "1 -", "1 1"), 1000, ""},
		{"a hundredth more is one copy", first, sights("- -", "1 1"), 1010, ""},
		{"two copies", first, sights("- -", "1 1"), 2000, "more than one copy of 1000"},
		{"no copy", first, sights("- -", "1 1"), 0, "less than one copy of 1000"},
		{"one host never served", first, sights("- -", "1 -"), 1000, "web-2 serves nothing at the end, not release \"1\""},
		{"one first, then two", canary, sights("1 1 1", "- 1 1", "2 1 1", "2 - -", "2 2 2"), 1000, ""},
		{"two at once", canary, sights("1 1 1", "- - 1", "2 2 1", "2 2 2"), 1000, "web-1, web-2 left release 1 together"},
		{"never alone", canary, sights("1 1 1", "- 1 1", "2 - 1", "2 2 2"), 1000, "web-1, web-2 left release 1 together"},
		{"not seen", canary, sights("1 1 1"), 1000, "at the end"},
		{"three down", canary, sights("1 1 1", "2 1 1", "- - -", "2 2 2"), 1000, "web-1, web-2, web-3 were down at the same time, and at most 2 may be"},
		{"rolled back", broken, sights("2 2 2", "- 2 2", "3 2 2", "- 2 2", "2 2 2"), 1000, ""},
		{"rolled back unseen", broken, sights("2 2 2", "- 2 2", "2 2 2"), 1000, ""},
		{"not tried", broken, sights("2 2 2"), 1000, "release 3 was tried on no host"},
		{"tried twice", broken, sights("2 2 2", "3 2 2", "2 2 2", "2 3 2", "2 2 2"), 1000, "release 3 reached web-1, web-2"},
		{"not rolled back", broken, sights("2 2 2", "- 2 2", "3 2 2"), 1000, "web-1 serves release \"3\" at the end"},
		{"still", still, sights("2 2 2"), 0, ""},
		{"redeployed", still, sights("2 2 2", "2 - 2", "2 2 2"), 0, "web-2 served nothing, although nothing should have been deployed"},
		{"from the own disk", back, sights("2 2", "- 2", "1 2", "1 -", "1 1"), 0, ""},
		{"from S3 after all", back, sights("2 2", "- 2", "1 2", "1 -", "1 1"), 1, "none should have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judge(c.plot, facts{sights: c.seen, whole: true, end: c.seen[len(c.seen)-1], bytes: c.bytes})
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("judged %q, want nothing", got)
			case c.want != "" && !strings.Contains(strings.Join(got, "; "), c.want):
				t.Errorf("judged %q, want %q", got, c.want)
			}
		})
	}
}

func TestJudgeWantsToHaveSeenEverything(t *testing.T) {
	one := sights("1")
	got := judge(plot{before: "1", after: "1", still: true}, facts{sights: one, end: one[0]})
	if len(got) != 1 || !strings.Contains(got[0], "could be followed") {
		t.Errorf("judged %q", got)
	}
}

func TestOneHostCannotBeFirst(t *testing.T) {
	seen := sights("1", "-", "2")
	got := judge(plot{before: "1", target: "2", after: "2", alone: true, window: 1, bytes: 10}, facts{sights: seen, whole: true, end: seen[2], bytes: 10})
	if len(got) > 0 {
		t.Errorf("judged %q, want nothing", got)
	}
}

func TestHostsAreInNaturalOrder(t *testing.T) {
	got := strings.Join(sight{"web-10": "", "web-2": "", "web-1": ""}.hosts(), " ")
	if want := "web-1 web-2 web-10"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
