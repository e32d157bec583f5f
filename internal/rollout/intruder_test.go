package rollout

import (
	"encoding/json"
	"testing"
	"time"
)

// TestOnlyTheLogsEpochMayLead: a host that names an epoch far ahead could
// otherwise take a set over for ever.
func TestOnlyTheLogsEpochMayLead(t *testing.T) {
	m := NewMachine()
	voters := []string{"web-1", "web-2", "web-3"}
	say := func(index, term uint64, from string, c Command) string {
		t.Helper()
		b, err := Encode(c, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var r Response
		if err := json.Unmarshal(m.Apply(index, term, from, b), &r); err != nil {
			t.Fatal(err)
		}
		return r.Refused
	}
	if why := say(1, 5, "web-1", Lead{Host: "web-1", Epoch: 1, Voters: voters}); why != "" {
		t.Fatal(why)
	}
	if why := say(2, 5, "web-9", Lead{Host: "web-9", Epoch: 1 << 62, Voters: []string{"web-9"}}); why == "" {
		t.Error("a stranger leads by naming a later epoch")
	}
	if why := say(3, 6, "web-2", Lead{Host: "web-2", Epoch: 1, Voters: voters}); why != "" {
		t.Errorf("the next leader is refused: %s", why)
	}
	if why := say(1<<epochShift+4, 7, "web-4", Lead{Host: "web-4", Epoch: 2, Voters: []string{"web-4", "web-5", "web-6"}}); why != "" {
		t.Errorf("the leader of epoch 2 is refused in its own log: %s", why)
	}
}

// TestLeaderOnly: what a host may say for itself, and what is the leader's.
func TestLeaderOnly(t *testing.T) {
	own := []Command{Operator{Group: "g", ID: "1", Verb: VerbStop, Actor: "a"}, Hello{Group: "g"}, Ready{Group: "g"}, Answer{Group: "g"}, Progress{Group: "g"}, Done{Group: "g"}, Health{Group: "g"}}
	led := []Command{Lead{Host: "h", Epoch: 1, Voters: []string{"h"}}, Tick{Elapsed: 1}, Liveness{}, Target{Group: "g"}, Orphan{Group: "g"}, Raise{Version: 2}}
	for want, commands := range map[bool][]Command{false: own, true: led} {
		for _, c := range commands {
			if got := LeaderOnly([]byte{FormatVersion, byte(c.kind()), 0, 0, 0, 0, 0, 0, 0, 0, '{', '}'}); got != want {
				t.Errorf("%T: leader only is %v", c, got)
			}
		}
	}
	for _, unknown := range [][]byte{{FormatVersion, 99, 0, 0, 0, 0, 0, 0, 0, 0}, {FormatVersion + 1, 17, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if !LeaderOnly(unknown) {
			t.Errorf("any host may submit %v, which this version does not know", unknown[:2])
		}
	}
}

// TestOperatorsSpeakWhereTheyMay: an operator of a group is somebody on one of
// its members or voters, and the record says where.
func TestOperatorsSpeakWhereTheyMay(t *testing.T) {
	g := &group{ID: "g", Members: []MemberInfo{{Host: "web-1"}}}
	m := NewMachine()
	m.s.Voters = []string{"co-1"}
	ask := func(from, id string) string {
		return g.operator(&turn{m: m}, from, Operator{Group: "g", ID: id, Verb: VerbPause, Actor: "anna"})
	}
	if why := ask("db-9", "1"); why == "" || g.Paused != nil {
		t.Error("a host of another group pauses this one")
	}
	if why := ask("co-1", "2"); why != "" || g.Paused.Actor != "anna@co-1" {
		t.Errorf("a voter: %q, %+v", why, g.Paused)
	}
}
