package plan

import (
	"cmp"
	"strings"
)

// layOut turns the targets into units of one rename each.
func (b *builder) layOut() {
	unit := -1       // the one being laid out
	top := &target{} // its first
	paths := b.sorted()
	b.plan.Installed = make([]Entry, 0, len(paths))
	for _, p := range paths {
		t := b.targets[p]
		inside := unit >= 0 && strings.HasPrefix(p, top.place+"/")
		entry := b.entry(t)
		if !inside {
			unit = -1
			if t.exists {
				b.plan.Installed = append(b.plan.Installed, entry)
				b.change(t)
				continue
			}
			if kept, ok := b.unchanged(t, entry); ok {
				b.plan.Installed = append(b.plan.Installed, kept)
				b.plan.Unchanged++
				continue
			}
			unit, top = len(b.plan.Units), t
			x := Extent{First: len(b.plan.Installed), Old: t.old}
			if t.place != t.path {
				x.At = t.place
			}
			b.plan.Units = append(b.plan.Units, x)
		}
		if entry.Path = p; top.path != top.place { // another link may lead into it too
			entry.Path = top.path + p[len(top.place):]
		}
		entry.Source = t.source
		b.plan.Installed = append(b.plan.Installed, entry)
		b.plan.Units[unit].Count++
		if entry.Kind == File {
			b.plan.SizeBytes += entry.Size
		}
	}
}

func (b *builder) entry(t *target) Entry {
	e := Entry{Path: t.path, Kind: Dir, Attr: t.attr, Shared: t.shared}
	if t.dir {
		return e
	}
	e.Kind = t.node.Kind
	if e.Kind == Link {
		e.Target = t.node.Target
		return e
	}
	e.Size, e.SHA256, e.MTimeNS = t.node.Size, t.node.SHA256, t.node.MTimeNS
	if e.MTimeNS == 0 {
		e.MTimeNS = b.in.ModTimeNS
	}
	return e
}

// unchanged tells whether what an earlier deployment put at a path is just what
// this one would, and returns the entry to keep.
func (b *builder) unchanged(t *target, want Entry) (Entry, bool) {
	had, ours := b.previous[t.place]
	if !ours || t.dir || had.Kind != want.Kind || t.old != want.Kind {
		return Entry{}, false
	}
	if want.Kind == Link {
		return want, b.in.Host.Lstat(t.path).Target == want.Target
	}
	n := b.in.Host.Lstat(t.path)
	switch {
	case had.SHA256 != want.SHA256 || want.SHA256 == "",
		t.node.MTimeNS != 0 && n.MTimeNS != want.MTimeNS,
		!had.Attr.equal(want.Attr),
		n.Mode != want.Attr.Shown(),
		want.Attr.UID >= 0 && n.UID != want.Attr.UID,
		want.Attr.GID >= 0 && n.GID != want.Attr.GID,
		!b.in.Host.Same(*had):
		return Entry{}, false
	}
	kept := *had
	kept.Path, kept.MTimeNS = want.Path, n.MTimeNS
	return kept, true
}

// change sets the attributes of a directory of ours that stays.
func (b *builder) change(t *target) {
	n := b.in.Host.Lstat(t.path)
	if t.shared || n.Mode == t.attr.Shown() && (t.attr.UID < 0 || n.UID == t.attr.UID) && (t.attr.GID < 0 || n.GID == t.attr.GID) &&
		b.in.Host.Lists(t.path).equal(t.attr.ACL()) && t.attr.Context == nil {
		return
	}
	b.plan.Changes = append(b.plan.Changes, Change{Path: t.place, New: t.attr})
}

func (a Attr) equal(b Attr) bool {
	same := a.Context == nil && b.Context == nil || a.Context != nil && b.Context != nil && *a.Context == *b.Context
	return same && a.Mode == b.Mode && a.Inherit == b.Inherit && a.UID == b.UID && a.GID == b.GID && a.ACL().equal(b.ACL())
}

// clean plans the removal of what earlier deployments put in place and this one
// does not have.
func (b *builder) clean() {
	paths := make([]string, 0, len(b.previous))
	for p := range b.previous {
		paths = append(paths, p)
	}
	sortPaths(paths)
	around := b.around()
	for i := len(paths) - 1; i >= 0; i-- {
		p := paths[i]
		if t := b.targets[p]; t != nil || b.replaced(p) {
			continue
		}
		e := b.previous[p]
		n := b.in.Host.Lstat(e.Path)
		i, taken := b.others[p]
		switch {
		case n.Kind == None:
		case taken:
			b.keep(e.Path, "it belongs to group "+b.in.Others[i].GroupID+" now")
		case e.Kind == Dir && n.Kind == Dir && b.theirs[p]:
		case e.Kind == Dir && n.Kind == Dir && around[p]: // this revision knows it by a link alone
			b.plan.Installed = append(b.plan.Installed, *e)
		case e.Kind == Dir && n.Kind == Dir:
			b.plan.Rmdir = append(b.plan.Rmdir, p)
		case e.Kind != n.Kind:
			b.keep(e.Path, "it is something else now")
		case b.changed(e):
			b.keep(e.Path, "it was changed since it was installed")
		default:
			b.plan.Removals = append(b.plan.Removals, p)
		}
	}
}

// around lists the directories that targets are in, and those that links on the
// way to destinations lead to.
func (b *builder) around() map[string]bool {
	dirs := map[string]bool{}
	add := func(dir string) {
		for ; !dirs[dir]; dir = parent(dir) {
			dirs[dir] = true
		}
	}
	for p := range b.targets {
		add(parent(p))
	}
	for _, link := range b.followed {
		_, end := b.places.way(link)
		add(end)
	}
	return dirs
}

// replaced tells whether a path lies in a directory that a file takes the place of.
func (b *builder) replaced(p string) bool {
	for dir := parent(p); dir != "/" && dir != "."; dir = parent(dir) {
		if t := b.targets[dir]; t != nil && !t.dir {
			return true
		}
	}
	return false
}

func (b *builder) keep(p, reason string) {
	b.plan.Kept = append(b.plan.Kept, Kept{Path: p, Reason: reason})
}

// Claims lists the paths that a plan makes ours, without directories.
func (p *Plan) Claims() []string {
	var out []string
	for _, e := range p.Installed {
		if e.Kind != Dir {
			out = append(out, e.Path)
		}
	}
	return out
}

// Touched lists the directories in which Install renames or changes something.
func (p *Plan) Touched() []string {
	seen := map[string]bool{}
	var out []string
	add := func(dir string) {
		if !seen[dir] {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	for _, x := range p.Units {
		add(parent(cmp.Or(x.At, p.Installed[x.First].Path)))
	}
	for _, removed := range p.Removals {
		add(parent(removed))
	}
	for _, c := range p.Changes {
		add(c.Path)
	}
	return out
}
