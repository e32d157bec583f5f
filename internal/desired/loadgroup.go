package desired

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

const groupYAML = "group.yaml"

// walk looks for folders with a group.yaml. Inside a group it refuses links, and leaves the overlays to overlay.go.
func (l *loader) walk(folder string, depth int, inGroup bool) {
	if depth > maxDepth {
		l.file(folder, "", "folders are nested deeper than %d", maxDepth)
		return
	}
	entries, err := fs.ReadDir(l.tree, folder)
	if err != nil {
		l.file(folder, "", "cannot read the folder: %v", err)
		return
	}
	if l.entries += len(entries); l.entries > maxEntries {
		if l.entries-len(entries) <= maxEntries {
			l.file(folder, "", "the repository has more than %d files and folders", maxEntries)
		}
		return
	}
	isGroup := l.noteGroup(folder, entries)
	for _, e := range entries {
		full := path.Join(folder, e.Name())
		switch {
		case (isGroup || inGroup) && !e.IsDir() && !e.Type().IsRegular():
			l.refuseLink(full)
		case !e.IsDir() || strings.HasPrefix(e.Name(), ".") || folder == "." && (e.Name() == "hosts" || e.Name() == "coordinators"):
		case isGroup && isOverlay(e.Name()):
		default:
			l.walk(full, depth+1, inGroup || isGroup)
		}
	}
}

// noteGroup takes a folder down as a group if it is one.
func (l *loader) noteGroup(folder string, entries []fs.DirEntry) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name })
	}
	if has("group.yml") {
		l.report(Problem{File: path.Join(folder, "group.yml"), Message: "the file is not read", Suggestion: "rename it to group.yaml", Warning: true})
	}
	switch {
	case !has(groupYAML):
		return false
	case folder == ".":
		l.file(groupYAML, "move it into a folder, for example PLATFORM/ENVIRONMENT/PROJECT/", "the repository's root cannot be a deployment group")
		return false
	case len(l.folders) == maxGroups:
		l.file(folder, "", "more than %d deployment groups", maxGroups)
		return false
	}
	l.folders = append(l.folders, folder)
	if l.isGroup == nil {
		l.isGroup = map[string]bool{}
	}
	l.isGroup[folder] = true
	return true
}

// refuseLink reports a link or submodule inside a group, and breaks that group.
func (l *loader) refuseLink(full string) {
	l.file(full, "commit the files themselves", "links and submodules are not allowed inside a deployment group: they would name what the commit does not hold")
	if l.linked == nil {
		l.linked = map[string]string{}
	}
	for folder := path.Dir(full); folder != "."; folder = path.Dir(folder) {
		if l.isGroup[folder] {
			l.linked[folder] = full
			return
		}
	}
}

// loadGroups reads every group, then refuses those that claim one identity.
func (l *loader) loadGroups() {
	docs := map[string]*strict.Doc{}
	ids := map[string]GroupID{}
	for _, folder := range l.folders {
		group, doc, ok := l.loadGroup(folder)
		ids[folder] = group.ID
		if !ok || l.linked[folder] != "" || l.state.Broken.Fleet {
			l.breakGroup(folder, group.ID)
		} else {
			l.state.Groups = append(l.state.Groups, group)
		}
		docs[folder] = doc
	}
	l.groupTwins(docs, ids)
	slices.SortFunc(l.state.Groups, func(a, b Group) int { return strings.Compare(a.Folder, b.Folder) })
	slices.Sort(l.state.Broken.Groups)
	slices.Sort(l.state.Broken.IDs)
}

func (l *loader) breakGroup(folder string, id GroupID) {
	l.state.Broken.Groups = append(l.state.Broken.Groups, folder)
	if id != "" {
		l.state.Broken.IDs = append(l.state.Broken.IDs, id)
	}
}

// loadGroup reads one folder; ok is false when any of it is wrong.
func (l *loader) loadGroup(folder string) (Group, *strict.Doc, bool) {
	f := groupFile{policyFile: l.defaults}
	doc, ok := l.decode(path.Join(folder, groupYAML), groupTable(&f))
	g := Group{Folder: folder, ApplicationName: f.application, Name: f.name}
	if groupIDForm.MatchString(f.id) {
		g.ID = GroupID(f.id)
	}
	if !ok && !doc.Has("") {
		return g, doc, false // not YAML: there is nothing more to say
	}
	var problems []Problem
	take := func(more []Problem) { problems = append(problems, more...) }
	var more []Problem
	g.Revision, more = f.revision.build(doc)
	take(more)
	if !l.state.Broken.Fleet {
		g.Policy, more = f.buildPolicy(doc, l.state.Fleet)
		take(more)
		take(g.Revision.checkPlaceholder(doc, g.Policy))
	}
	g.Checks = g.Policy.Checks
	g.Targets, more = f.buildTargets(doc, l)
	take(more)
	g.Members = g.Targets.members(l.state.Hosts)
	if ok && len(Bad(problems)) == 0 && !g.Policy.Removed {
		take(l.checkMatches(doc, g.Targets, g.Members))
	}
	take(checkMembers(doc, g.Checks, g.Members, l.state.Hosts))
	g.Coordinators, more = l.coordinators(doc, f, g)
	take(more)
	overlay, fine := l.overlay(folder)
	g.Overlay = overlay
	ok = ok && fine && len(Bad(problems)) == 0
	l.report(problems...)
	ok = l.folderRevision(doc, &g.Revision, overlay) && ok
	if ok {
		g.SpecHash = SpecHash(g)
	}
	return g, doc, ok
}

// coordinators resolves the set: the one named, else the one called as the group, else the one called as its id.
func (l *loader) coordinators(doc *strict.Doc, f groupFile, g Group) (string, []Problem) {
	broken := func(name string) bool { return slices.Contains(l.state.Broken.Sets, name) }
	if f.coordinators != "" {
		if _, ok := l.state.Sets[f.coordinators]; ok {
			return f.coordinators, nil
		}
		if broken(f.coordinators) {
			return "", []Problem{doc.Problem("coordinators", "mend it first", "coordinators: coordinators/%s.yaml has problems of its own", f.coordinators)}
		}
		hint := l.guessSet(f.coordinators)
		if !strings.HasPrefix(hint, "did") {
			hint = "make it: " + l.coordinatorsCommand(f.coordinators, g.Members)
		}
		return "", []Problem{doc.Problem("coordinators", hint, "coordinators: there is no coordinators/%s.yaml", f.coordinators)}
	}
	for _, name := range []string{g.Name, string(g.ID)} {
		if _, ok := l.state.Sets[name]; ok && name != "" {
			return name, nil
		}
		if name != "" && broken(name) {
			return "", []Problem{doc.Problem("", "mend it first", "coordinators/%s.yaml, which coordinates this group, has problems of its own", name)}
		}
	}
	if g.Name == "" {
		return "", nil // the table has said that the name is missing
	}
	return "", []Problem{doc.Problem("", "make it: "+l.coordinatorsCommand(g.Name, g.Members),
		"the group names no coordinators and there is no coordinators/%s.yaml", g.Name)}
}

// coordinatorsCommand is what a person types to make a set of a group's own members.
func (l *loader) coordinatorsCommand(name string, members []HostName) string {
	var voters []string
	for _, m := range members {
		if l.state.Hosts[m].Address != "" && len(voters) < 3 {
			voters = append(voters, string(m))
		}
	}
	if len(voters) == 2 {
		voters = voters[:1]
	}
	if len(voters) == 0 {
		voters = []string{"HOST,HOST,HOST"}
	}
	return fmt.Sprintf("gitopsd coordinators init %s --voters %s", name, strings.Join(voters, ","))
}

// groupTwins refuses groups that claim one id or one pair of names: which of them goes on cannot be told, so none does.
func (l *loader) groupTwins(docs map[string]*strict.Doc, ids map[string]GroupID) {
	byID, byName := map[GroupID]string{}, map[string]string{}
	twins := map[string]bool{}
	for _, folder := range l.folders {
		id := ids[folder]
		if id == "" {
			continue
		}
		if first, taken := byID[id]; taken {
			twins[first], twins[folder] = true, true
			l.report(docs[folder].Problem("id", "gitopsd group add makes a new one; of a renamed folder keep only the new place", "id: %s is also that of %s", id, path.Join(first, groupYAML)))
			continue
		}
		byID[id] = folder
	}
	for _, g := range l.state.Groups {
		key := g.ApplicationName + "\x00" + g.Name
		if first, taken := byName[key]; taken {
			twins[first], twins[g.Folder] = true, true
			l.report(docs[g.Folder].Problem("deploymentGroupName", "choose another name", "deploymentGroupName: application %s has a group %s already, in %s", g.ApplicationName, g.Name, path.Join(first, groupYAML)))
			continue
		}
		byName[key] = g.Folder
	}
	l.state.Groups = slices.DeleteFunc(l.state.Groups, func(g Group) bool {
		if twins[g.Folder] {
			l.breakGroup(g.Folder, g.ID)
		}
		return twins[g.Folder]
	})
}
