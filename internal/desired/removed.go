package desired

import (
	"fmt"
	"slices"
)

// Removal is what a commit takes away from the State before it.
type Removal struct {
	Hosts        []HostName // sorted
	HostsBefore  int
	Groups       []GroupID // sorted
	GroupsBefore int
	Mass         bool   // held until a commit allows it
	Reason       string // one sentence with the numbers, when Mass
}

// Removed compares two States. More than 20 % (and more than two) of the hosts, or all groups, are a mass removal. A host or group whose file is merely
// broken in new is not removed, and one whose folder was renamed keeps its id.
func Removed(old, new *State) Removal {
	r := Removal{HostsBefore: len(old.Hosts), GroupsBefore: len(old.Groups)}
	broken, ids, folders := setOf(new.Broken.Hosts), setOf(new.Broken.IDs), setOf(new.Broken.Groups)
	for i := range new.Groups {
		ids[new.Groups[i].ID] = true
	}
	for name := range old.Hosts {
		if _, ok := new.Hosts[name]; !ok && !broken[name] {
			r.Hosts = append(r.Hosts, name)
		}
	}
	for _, g := range old.Groups {
		if !ids[g.ID] && !folders[g.Folder] {
			r.Groups = append(r.Groups, g.ID)
		}
	}
	slices.Sort(r.Hosts)
	slices.Sort(r.Groups)
	const most, few = 20, 2 // percent of the hosts, hosts
	switch gone := len(r.Hosts); {
	case gone > few && gone*100 > r.HostsBefore*most:
		r.Mass, r.Reason = true, fmt.Sprintf("the commit removes %d of %d hosts, more than %d%%", gone, r.HostsBefore, most)
	case r.GroupsBefore > 0 && len(r.Groups) == r.GroupsBefore:
		r.Mass, r.Reason = true, fmt.Sprintf("the commit removes all %d groups", r.GroupsBefore)
	}
	return r
}

// Allowed says whether new may take effect after the State of commit parent: nothing mass is removed, or fleet.yaml of new names that very parent.
func (r Removal) Allowed(new *State, parent string) bool {
	return !r.Mass || parent != "" && new.Fleet.AllowMassRemoval == parent
}

// Group finds a group by id.
func (s *State) Group(id GroupID) (Group, bool) {
	for _, g := range s.Groups {
		if g.ID == id {
			return g, true
		}
	}
	return Group{}, false
}

// Find resolves GROUP of a command line: a folder, a deploymentGroupName that is unique, or an id.
func (s *State) Find(name string) (Group, error) {
	var found []Group
	for _, g := range s.Groups {
		if g.Folder == name || string(g.ID) == name {
			return g, nil
		}
		if g.Name == name {
			found = append(found, g)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Group{}, fmt.Errorf("cannot find group %q: no folder, deploymentGroupName or id is called so", name)
	}
	return Group{}, fmt.Errorf("cannot tell which group %q is meant: %s and %s have this deploymentGroupName, name the folder instead", name, found[0].Folder, found[1].Folder)
}

// GroupsOf lists the groups host belongs to.
func (s *State) GroupsOf(host HostName) []Group {
	var groups []Group
	for _, g := range s.Groups {
		if _, ok := slices.BinarySearch(g.Members, host); ok {
			groups = append(groups, g)
		}
	}
	return groups
}
