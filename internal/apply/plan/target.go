package plan

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// prefix begins the agent's refusals, which users search for.
const prefix = "The deployment failed because "

// target is a path the release puts in place.
type target struct {
	path   string // as appspec.yml spells it
	place  string // the path without links to directories in it
	source string // in the release, empty for a directory made on the way
	node   *Node
	dir    bool
	attr   Attr
	set    bool // a permission was applied
	exists bool // a directory of ours that stays
	shared bool // and holds somebody's files, or did: its attributes stay too
	stale  bool // what is made in this directory would inherit what it will not have any more
	// staleLists tells that of its default access list.
	staleLists bool
	old        Kind
}

// name is the path for a message, with its place if that is another.
func (t *target) name() string {
	if t.path == t.place {
		return t.path
	}
	return fmt.Sprintf("%s (%s)", t.path, t.place)
}

// nowhere is the node of a directory that the release does not have.
var nowhere = &Node{}

type builder struct {
	in       Input
	plan     *Plan
	behavior appspec.FileExistsBehavior
	hinted   bool // what to do about files that exist has been said
	places   *places
	targets  map[string]*target // by place, as previous and others
	renamed  map[string]*target // by the path of the link that they are written through
	known    map[*target]string // that path
	previous map[string]*Entry
	others   map[string]int  // index in in.Others
	theirs   map[string]bool // directories of live groups
	followed []string        // links that targets are put behind
	problems []Problem
	told     map[string]bool
	depth    int
}

func (b *builder) problem(class Class, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if !b.told[message] && len(b.problems) < 100 {
		b.told[message] = true
		b.problems = append(b.problems, Problem{Class: class, Message: message})
	}
}

func (b *builder) warn(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if !b.told[message] && len(b.plan.Warnings) < 100 {
		b.told[message] = true
		b.plan.Warnings = append(b.plan.Warnings, message)
	}
}

func (b *builder) indexOwners() {
	for i := range b.in.Previous {
		if e := &b.in.Previous[i]; e.Kind == Link && !b.changed(e) {
			b.places.keep(e.Path)
		}
	}
	for i := range b.in.Previous {
		e := &b.in.Previous[i]
		if place := b.places.of(e.Path); b.previous[place] == nil || b.direct(e.Path, place) {
			b.previous[place] = e
		}
	}
	now := newPlaces(b.in.Host) // their files are where our links lead, and where they will be when those are gone
	for i, o := range b.in.Others {
		for j := range o.Entries {
			e := &o.Entries[j]
			b.indexOther(i, e, b.places.of(e.Path))
			if len(b.places.kept) > 0 {
				b.indexOther(i, e, now.of(e.Path))
			}
		}
	}
}

// indexOther notes what another group has at a place.
func (b *builder) indexOther(group int, e *Entry, place string) {
	if own := b.previous[place]; own != nil && b.direct(own.Path, place) && !b.direct(e.Path, place) {
		return // a link was repointed to where we deploy
	}
	if e.Kind != Dir {
		b.others[place] = group
	} else if b.in.Others[group].Live {
		b.theirs[place] = true
	}
}

// direct tells whether no link leads from the destination root to a path.
func (b *builder) direct(p, place string) bool {
	if p == place {
		return true
	}
	below, inside := strings.CutPrefix(p, b.in.Root+"/")
	return inside && place == path.Join(b.places.dir(b.in.Root), below)
}

// absolute puts a destination below the root, without cleaning it.
func (b *builder) absolute(destination string) string {
	if !strings.HasPrefix(destination, "/") {
		b.warn("destination %q is relative; it is taken from the working directory %s", destination, b.in.WorkDir)
		destination = b.in.WorkDir + "/" + destination
	}
	return destination
}

func (b *builder) rooted(abs string) string { return path.Join(b.in.Root, path.Clean(abs)) }

// addSource adds all that one element of `files` puts in place.
func (b *builder) addSource(f appspec.File) {
	source := path.Clean(strings.TrimLeft(f.Source, "/"))
	if source == ".." || strings.HasPrefix(source, "../") {
		b.problem(Invalid, "%sthe source %q in the files section of the AppSpec file leads out of the revision", prefix, f.Source)
		return
	}
	node, at := b.in.Release.Lookup(source)
	if node.Kind == None {
		b.problem(Invalid, "%sthe AppSpec file names the source %q, which the revision does not contain: No such file or directory - %s", prefix, f.Source, source)
		return
	}
	dir, isDir := b.directory(node, at)
	if !isDir && strings.HasSuffix(f.Source, "/") {
		b.problem(Invalid, "%sthe source %q in the files section of the AppSpec file ends in a slash, but is no directory: Not a directory - %s", prefix, f.Source, source)
		return
	}
	raw := b.absolute(f.Destination)
	if why := unusable(raw); why != "" {
		b.problem(Invalid, "%sthe destination in the files section of the AppSpec file cannot be made: %s - %.200s", prefix, why, raw)
		return
	}
	b.addWay(raw)
	dest := b.rooted(raw)
	if isDir {
		b.addTree(dir, dest)
		return
	}
	b.addFile(node, at, path.Join(dest, path.Base(source)))
}

// The most bytes that Linux takes for a path and for one name in it.
const (
	mostPath = 4095
	mostName = 255
)

// unusable tells why no path of that text can be made, empty if one can.
func unusable(p string) string {
	if len(p) > mostPath {
		return "File name too long"
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > mostName {
			return "File name too long"
		}
	}
	return ""
}

// fits refuses a path that the kernel does not take.
func (b *builder) fits(dest string) bool {
	if len(dest) > mostPath {
		b.problem(Invalid, "%s%.200s... cannot be made: File name too long", prefix, dest)
	}
	return len(dest) <= mostPath
}

// directory tells whether a node is copied as a directory, and which.
func (b *builder) directory(n *Node, at string) (string, bool) {
	if n.Kind == Dir {
		return at, true
	}
	if n.Kind == Link && n.Leads == Dir && n.Real != "" {
		return n.Real, true
	}
	return "", false
}

// addWay adds every directory on the way to a destination and the destination
// itself, as written: x/./y/../z makes x, x/y and x/z.
func (b *builder) addWay(raw string) {
	at := ""
	for _, part := range strings.Split(strings.Trim(raw, "/"), "/") {
		if part == "" {
			continue
		}
		at += "/" + part
		if dir := b.rooted(at); dir != b.in.Root {
			b.addDir(dir, "")
		}
	}
}

func (b *builder) addDir(dest, source string) {
	if !b.fits(dest) {
		return
	}
	place := b.places.of(dest)
	if t := b.targets[place]; t != nil {
		if !t.dir {
			b.problem(Invalid, "%sthe AppSpec file puts both the file %s and a directory at %s", prefix, t.source, dest)
		}
		return
	}
	b.targets[place] = &target{path: dest, place: place, source: source, node: nowhere, dir: true}
}

// maxDepth bounds the depth of a tree, and with it loops of links.
const maxDepth = 256

func (b *builder) addTree(source, dest string) {
	if b.depth++; b.depth > maxDepth {
		b.problem(Invalid, "%s%s is more than %d directories deep, or a link in it leads to a directory above itself", prefix, source, maxDepth)
	} else if len(b.problems) == 0 || !b.tooMany() {
		b.addDir(dest, source)
		for _, name := range b.in.Release.Children(source) {
			node, at := b.in.Release.Lookup(path.Join(source, name))
			to := path.Join(dest, name)
			if dir, ok := b.directory(node, at); !ok {
				b.addFile(node, at, to)
			} else if at == dir || !loops(dir, at) {
				b.addTree(dir, to)
			} else {
				b.problem(Invalid, "%sthe link %s leads to a directory it is in", prefix, at)
			}
		}
	}
	b.depth--
}

// tooMany stops a traversal that only adds to a heap of problems.
func (b *builder) tooMany() bool { return len(b.problems) >= 100 }

// loops tells whether a link at is inside the directory it leads to.
func loops(dir, at string) bool { return dir == "." || strings.HasPrefix(at, dir+"/") }

func (b *builder) addFile(n *Node, source, dest string) {
	if n.Kind == Other {
		b.problem(Invalid, "%s%s in the revision is neither file, directory nor link", prefix, source)
		return
	}
	if !b.fits(dest) {
		return
	}
	place := b.places.of(dest)
	if t := b.targets[place]; t != nil {
		if t.dir {
			b.problem(Invalid, "%sthe AppSpec file puts both the file %s and a directory at %s", prefix, source, dest)
		} else {
			b.problem(Invalid, "%sthe application specification file specifies two source files named %s and %s for the same destination (%s). Remove one of the source file paths from the AppSpec file, and then try again.", prefix, source, t.source, dest)
		}
		return
	}
	b.targets[place] = &target{path: dest, place: place, source: source, node: n}
}

// adopt takes over the files of groups that left this host, if they had the
// same application and this deployment meets one of their paths.
func (b *builder) adopt() {
	met := map[int]bool{}
	for _, p := range slices.Sorted(maps.Keys(b.targets)) { // in one order, whatever the map's
		if i, ok := b.others[p]; ok {
			o := b.in.Others[i]
			if o.Live || o.Application != b.in.Application {
				b.problem(Claimed, "%s%s belongs to group %s of application %s, which deploys to this host too", prefix, b.targets[p].name(), o.GroupID, o.Application)
				continue
			}
			met[i] = true
		}
	}
	for i, o := range b.in.Others {
		if !met[i] {
			continue
		}
		b.plan.Adopted = append(b.plan.Adopted, o.GroupID)
		for j := range o.Entries {
			e := &o.Entries[j]
			place := b.places.of(e.Path)
			if _, own := b.previous[place]; !own {
				b.previous[place] = e
			}
		}
		maps.DeleteFunc(b.others, func(_ string, group int) bool { return group == i })
	}
}

// sorted returns the targets' places so that what is in a directory follows it
// at once.
func (b *builder) sorted() []string {
	paths := make([]string, 0, len(b.targets))
	for p := range b.targets {
		paths = append(paths, p)
	}
	sortPaths(paths)
	return paths
}

func sortPaths(paths []string) {
	sort.Slice(paths, func(i, j int) bool { return LessPath(paths[i], paths[j]) })
}

// LessPath orders paths by their elements: / counts less than any other byte.
func LessPath(a, b string) bool {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] != b[i] {
			return a[i] == '/' || b[i] != '/' && a[i] < b[i]
		}
	}
	return len(a) < len(b)
}
