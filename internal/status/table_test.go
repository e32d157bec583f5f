package status

import (
	"strings"
	"testing"
	"unicode"
)

func TestTable(t *testing.T) {
	held := sample().Groups[0]
	running := held
	running.State, running.Why, running.Quarantined, running.Failures = "InProgress", "wave 1 of 2: 1 of 3 hosts done", nil, nil
	running.Deployment = &Deployment{ID: "d-ABCDEFGHI", Creator: "user", Wave: 1, Waves: 1}
	running.Hosts = held.Hosts[2:]
	earlier := held
	earlier.Hosts = held.Hosts[:1]
	earlier.Failures = []Failure{{Deployment: "d-1", Host: "web-2", Event: held.Hosts[1].Events[0]}}
	for name, g := range map[string]Group{
		"held": held, "running": running, "earlier": earlier, "none": {Group: "shop/new", State: "None", Why: "the coordinator set has not taken this group up yet"},
		"unknown": {Group: "shop/new", State: "Unknown", Why: "no host of the group could be asked"}, "empty": {Group: "shop/new", State: "NoHosts", Why: "the group's targets match none of the 3 hosts"},
	} {
		golden(t, "table-"+name+".txt", Table(g, Palette{}))
		golden(t, "table-"+name+".ansi", Table(g, ANSI()))
	}
}

// TestOnlyWhatMayStillBeginIsPending: a host that succeeded untouched, or failed early, has nothing to come.
func TestOnlyWhatMayStillBeginIsPending(t *testing.T) {
	ran := []Event{{Event: "Install", Status: "Succeeded"}, {Event: "ValidateService", Status: "Pending"}}
	for status, pending := range map[string]bool{"Pending": true, "Ready": true, "InProgress": true, "Unknown": true, "Succeeded": false, "Failed": false, "Skipped": false, "Behind": false} {
		g := Group{Hosts: []Host{{Name: "web-1", Status: "Succeeded", Events: []Event{{Event: "AfterInstall", Status: "Succeeded"}}}, {Name: "web-2", Status: status, Events: ran}}}
		_, line, _ := strings.Cut(Table(g, Palette{}), "web-2 ")
		want := "✔                 "
		if pending {
			want = "✔     ·     ·     "
		}
		if !strings.HasPrefix(line, want+status) {
			t.Errorf("%s: %q", status, line)
		}
	}
}

func TestTableKeepsTerminalsSafe(t *testing.T) {
	const evil = "a\x1b[2Jb\u202ec\x00d\u009be\xff\r\nf"
	g := Group{Group: evil, ID: evil, Name: evil, State: evil, Why: evil, Desired: Revision{Commit: evil}, Running: Revision{Commit: evil},
		Deployment: &Deployment{ID: evil, Creator: evil, Waves: 2, Leader: evil},
		Failures:   []Failure{{Host: evil, Event: Event{Event: evil, Status: "Failed", Diagnostics: &Diagnostics{ScriptName: evil, Message: evil, LogTail: evil}}}},
		Hosts:      []Host{{Name: evil, Status: evil, Health: evil, Revision: evil, Events: []Event{{Event: evil, Status: evil}, {Event: "Install", Status: "Failed", Diagnostics: &Diagnostics{ScriptName: evil, Message: evil, LogTail: evil}}}}}}
	check := func(text string) {
		t.Helper()
		for _, r := range text {
			if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == unicode.ReplacementChar) {
				t.Fatalf("%U in %q", r, text)
			}
		}
	}
	check(Table(g, Palette{}))
	g.Hosts = nil
	check(Table(g, Palette{}))
	check(Indented(evil, 3))
	if lines := strings.Count(Table(g, Palette{}), "\n"); lines != 7 {
		t.Errorf("a line break in a name makes %d lines", lines)
	}
}

func TestLastLines(t *testing.T) {
	if got := Indented("one\ntwo\nthree\n", 2); got != "    two\n    three\n" {
		t.Errorf("%q", got)
	}
	if got := Indented("", 2); got != "" {
		t.Errorf("%q", got)
	}
}

func TestDiagnosisOfAnEventWithoutAScript(t *testing.T) {
	for script, want := range map[string]string{"": "── web-1 Install: no space", "hooks/a.sh": "── web-1 Install hooks/a.sh: no space"} {
		var b strings.Builder
		diagnosis(&b, "web-1", Event{Event: "Install", Diagnostics: &Diagnostics{ScriptName: script, Message: "no space"}}, Palette{})
		if got := strings.TrimSpace(b.String()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
