package desired

import (
	"fmt"
	"testing"
)

// stateOf makes a State of so many hosts and groups.
func stateOf(hosts, groups int) *State {
	s := &State{Hosts: map[HostName]Host{}}
	for i := range hosts {
		name := HostName(fmt.Sprintf("h%d", i))
		s.Hosts[name] = Host{Name: name}
	}
	for i := range groups {
		s.Groups = append(s.Groups, Group{ID: GroupID(fmt.Sprintf("group-%02d", i)), Folder: fmt.Sprintf("g/%d", i)})
	}
	return s
}

func TestRemoved(t *testing.T) {
	cases := []struct {
		name                   string
		hosts, left            int
		groups, groupsLeft     int
		mass                   bool
		removedHosts, removedG int
	}{
		{"nothing", 10, 10, 2, 2, false, 0, 0},
		{"two of two hosts", 2, 0, 1, 1, false, 2, 0},
		{"two of five hosts", 5, 3, 1, 1, false, 2, 0},
		{"three of five hosts", 5, 2, 1, 1, true, 3, 0},
		{"three of fifteen hosts is 20 %", 15, 12, 1, 1, false, 3, 0},
		{"three of fourteen hosts", 14, 11, 1, 1, true, 3, 0},
		{"one of two groups", 5, 5, 2, 1, false, 0, 1},
		{"all groups", 5, 5, 2, 0, true, 0, 2},
		{"the only group", 5, 5, 1, 0, true, 0, 1},
		{"no groups before", 5, 5, 0, 0, false, 0, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			next := stateOf(c.left, c.groupsLeft)
			r := Removed(stateOf(c.hosts, c.groups), next)
			if r.Mass != c.mass || len(r.Hosts) != c.removedHosts || len(r.Groups) != c.removedG || (r.Reason != "") != c.mass {
				t.Errorf("removal = %+v", r)
			}
			if r.Allowed(next, "parent") == c.mass {
				t.Errorf("allowed without a word")
			}
			next.Fleet.AllowMassRemoval = "parent"
			if !r.Allowed(next, "parent") || c.mass && r.Allowed(next, "another") || c.mass && r.Allowed(next, "") {
				t.Errorf("the word allows the wrong thing")
			}
		})
	}
}

func TestRemovedKnowsBrokenAndRenamed(t *testing.T) {
	old, next := stateOf(5, 2), stateOf(0, 1)
	next.Groups[0].Folder = "elsewhere"
	next.Broken = Broken{Hosts: []HostName{"h0", "h1", "h2", "h3", "h4"}, Groups: []string{"g/1"}}
	if r := Removed(old, next); r.Mass || len(r.Hosts)+len(r.Groups) != 0 {
		t.Errorf("removal = %+v", r)
	}
}

func TestFind(t *testing.T) {
	s := stateOf(0, 3)
	s.Groups[0].Name, s.Groups[1].Name, s.Groups[2].Name = "one", "two", "two"
	for name, want := range map[string]GroupID{"one": "group-00", "g/1": "group-01", "group-02": "group-02"} {
		if g, err := s.Find(name); err != nil || g.ID != want {
			t.Errorf("%s: %v, %v", name, g.ID, err)
		}
	}
	for _, name := range []string{"two", "three"} {
		if _, err := s.Find(name); err == nil {
			t.Errorf("%s was found", name)
		}
	}
}
