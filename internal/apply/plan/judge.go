package plan

import (
	"path"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// judgeAll compares every target with what is on the disk.
func (b *builder) judgeAll() {
	var replaced string // a directory path that will be new, so that all below it is
	for _, p := range b.sorted() {
		t := b.targets[p]
		if t == nil {
			continue
		}
		if replaced != "" && strings.HasPrefix(p, replaced+"/") {
			continue
		}
		if t.dir {
			if b.judgeDir(t) {
				replaced = p
			}
			continue
		}
		b.judgeFile(t)
	}
	b.judgeLinks()
	for _, p := range b.sorted() {
		b.setDefaults(b.targets[p])
	}
}

// judgeDir tells whether the directory will be new.
func (b *builder) judgeDir(t *target) bool {
	n := b.in.Host.Lstat(t.path)
	switch {
	case n.Kind == None:
		return true
	case n.Kind == Dir || n.Kind == Link && n.Leads == Dir && !b.places.kept[t.place]:
		if e, ours := b.previous[t.place]; ours && e.Kind == Dir && n.Kind == Dir && !b.theirs[t.place] {
			t.exists = true
			t.shared = e.Shared || !b.allOurs(t.place)
		} else {
			delete(b.targets, t.place) // not ours: neither touched nor owned
			if n.Kind == Link {
				b.followed = append(b.followed, t.place)
			}
		}
		return false
	}
	if _, ours := b.previous[t.place]; ours && n.Kind != Other {
		t.old = n.Kind
		return true
	}
	b.problem(Present, "%sa directory is to be made where a file exists already: File exists - %s", prefix, t.path)
	return true
}

func (b *builder) judgeFile(t *target) {
	n := b.in.Host.Lstat(t.path)
	t.old = n.Kind
	if n.Kind == None {
		return
	}
	if e, ours := b.previous[t.place]; ours {
		switch {
		case n.Kind == File || n.Kind == Link:
		case n.Kind == Dir && e.Kind == Dir && b.allOurs(t.place):
			if p := b.changedIn(t.place); p != "" {
				b.problem(Present, "%sthe directory %s is to become a %s, and %s in it was changed since it was installed", prefix, t.path, t.node.Kind, p)
			}
		default:
			b.problem(Present, "%sa directory or device that no deployment made is in the way at %s", prefix, t.path)
		}
		return
	}
	if b.through(t, n) {
		return
	}
	switch b.behavior {
	case appspec.Disallow:
		b.problem(Present, "%sa specified file already exists at this location: %s%s", prefix, t.path, b.existsHint())
	case appspec.Retain:
		delete(b.targets, t.place)
	case appspec.Overwrite:
		b.overwrite(t, n)
	default:
		b.problem(Present, "%san invalid option was specified for fileExistsBehavior: %s. Valid options include OVERWRITE, RETAIN, and DISALLOW. It is needed for %s, which exists.", prefix, b.behavior, t.path)
	}
}

// through sends a file where the link in its place leads, if nothing is there or what a deployment sent there before: to the agent a file
// does not exist if it is but the name of one.
func (b *builder) through(t *target, n Node) bool {
	if n.Kind != Link || t.node.Kind != File || n.Leads != None && n.Leads != File {
		return false
	}
	if _, ours := b.previous[b.places.of(n.Real)]; n.Leads == File && !ours {
		return false
	}
	if n.Real == "" {
		b.problem(Present, "%s%s is a link that leads to where no file can be made: No such file or directory", prefix, t.path)
		return true
	}
	b.warn("%s is a link; the file is written to %s, where it leads", t.path, n.Real)
	b.rename(t, n.Real)
	return true
}

// rename moves a target that permissions know by the name it had.
func (b *builder) rename(t *target, to string) {
	b.renamed[t.path], b.known[t] = t, t.path
	b.followed = append(b.followed, t.place)
	b.move(t, to)
}

// existsHint says, the first time, what lets a deployment go on where a file exists, and where that is written.
func (b *builder) existsHint() string {
	switch {
	case b.hinted:
		return ""
	case b.in.Spec.FileExistsBehavior != "":
		b.hinted = true
		return " (write file_exists_behavior: OVERWRITE or RETAIN into appspec.yml, which says DISALLOW)"
	}
	b.hinted = true
	return " (write fileExistsBehavior: OVERWRITE or RETAIN into group.yaml, or file_exists_behavior into appspec.yml; `gitopsd apply` takes --file-exists-behavior)"
}

// overwrite settles where a file goes that is to replace what nobody deployed:
// as for the agent, into a directory of its name and through a link.
func (b *builder) overwrite(t *target, n Node) {
	switch {
	case n.Kind == File || n.Kind == Link && t.node.Kind == Link && n.Leads != Dir:
		return
	case n.Kind == Link && n.Leads == File && n.Real != "":
		b.warn("%s is a link; the file is written to %s, where it leads", t.path, n.Real)
		b.rename(t, n.Real)
	case t.node.Kind == File && (n.Kind == Dir || n.Kind == Link && n.Leads == Dir):
		b.warn("%s is a directory; the file is put into it", t.path)
		b.move(t, path.Join(t.path, path.Base(t.path)))
	default:
		b.problem(Present, "%swhat exists at %s cannot be overwritten by a %s", prefix, t.path, t.node.Kind)
	}
}

// move sends a target elsewhere, where it is judged anew.
func (b *builder) move(t *target, to string) {
	delete(b.targets, t.place)
	place := b.places.of(to)
	if i, claimed := b.others[place]; claimed {
		b.problem(Claimed, "%s%s belongs to group %s of application %s", prefix, to, b.in.Others[i].GroupID, b.in.Others[i].Application)
		return
	}
	if b.targets[place] != nil {
		b.problem(Present, "%stwo files would be written to %s", prefix, to)
		return
	}
	if n := b.in.Host.Lstat(to); n.Kind == Dir || n.Kind == Link || n.Kind == Other {
		b.problem(Present, "%swhat exists at %s cannot be overwritten", prefix, to)
		return
	} else {
		t.old = n.Kind
	}
	t.path, t.place = to, place
	b.targets[place] = t
}

// judgeLinks refuses to send files through links that would not lead there any
// more: their end gives way to a file, or another link on the way is one of ours
// and goes or changes.
func (b *builder) judgeLinks() {
	for _, link := range b.followed {
		passed, end := b.places.way(link)
		for _, at := range passed {
			t := b.targets[at]
			stays := t != nil && t.node.Kind == Link && t.node.Target == b.in.Host.Lstat(at).Target
			if b.places.kept[at] && !stays {
				b.problem(Present, "%sthe link %s leads by way of %s, which an earlier revision put there and this one replaces or has no more", prefix, link, at)
			}
		}
		if t := b.targets[end]; t != nil && !t.dir && b.known[t] == "" || b.replaced(end) {
			b.problem(Present, "%sthe link %s leads to %s, in whose place this revision puts a file", prefix, link, end)
		}
	}
}

// allOurs tells whether a directory on the disk holds nothing but what earlier
// deployments put there. What another group has in place is not ours although a
// link of old may have led to one of that name.
func (b *builder) allOurs(dir string) bool {
	if b.theirs[dir] {
		return false
	}
	for _, name := range b.in.Host.Names(dir) {
		p := path.Join(dir, name)
		e, ours := b.previous[p]
		_, taken := b.others[p]
		if !ours || taken || e.Kind == Dir && (e.Shared || !b.allOurs(p)) {
			return false
		}
	}
	return true
}

// changedIn returns a path in a directory of ours that somebody changed, empty if there is none.
func (b *builder) changedIn(dir string) string {
	for _, name := range b.in.Host.Names(dir) {
		p := path.Join(dir, name)
		e, ours := b.previous[p]
		if !ours || b.changed(e) {
			return p
		}
		if e.Kind != Dir {
			continue
		}
		if p := b.changedIn(p); p != "" {
			return p
		}
	}
	return ""
}

// changed tells whether what is at an entry's path is not what was put there.
func (b *builder) changed(e *Entry) bool {
	n := b.in.Host.Lstat(e.Path)
	return n.Kind != e.Kind || e.Kind == Link && n.Target != e.Target || e.Kind == File && !b.in.Host.Same(*e)
}
