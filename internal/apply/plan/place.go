package plan

import (
	"path"
	"strings"
)

// places finds where paths are: the links to directories on the way are
// followed, so that one file has one place however its path is spelled. The last
// element is taken as it is. Two mounts of one directory are two places.
type places struct {
	host Host
	dirs map[string]string // resolved
	kept map[string]bool   // links that are not followed, by place
	made map[string]bool   // directories that will be in their place, of which the disk tells nothing
}

func newPlaces(h Host) *places {
	return &places{host: h, dirs: map[string]string{"/": "/"}, kept: map[string]bool{}, made: map[string]bool{}}
}

// keep makes a link stand for itself. The links of the revision that is in place
// are about to be replaced or removed, so that nothing is deployed through them.
func (l *places) keep(link string) {
	l.kept[l.of(link)] = true
}

// of returns a path's place.
func (l *places) of(p string) string {
	if p == "/" || !path.IsAbs(p) || len(p) > mostPath { // a damaged record may hold anything
		return p
	}
	dir := parent(p)
	if at := l.dir(dir); at != dir {
		return path.Join(at, path.Base(p))
	}
	return p
}

// way returns the links that are followed from one on, itself included, and where
// they lead.
func (l *places) way(link string) (passed []string, end string) {
	end = "/"
	for rest := strings.Split(link, "/"); len(rest) > 0 && len(passed) < 40; { // as the kernel follows
		part := rest[0]
		rest = rest[1:]
		end = path.Join(end, part)
		if part == "" || part == "." || part == ".." {
			continue
		}
		n := l.host.Lstat(end)
		if n.Kind != Link {
			continue
		}
		passed = append(passed, end)
		if end = parent(end); path.IsAbs(n.Target) {
			end = "/"
		}
		rest = append(strings.Split(n.Target, "/"), rest...)
	}
	return passed, end
}

// dir returns where a directory is.
func (l *places) dir(p string) string {
	if at, known := l.dirs[p]; known {
		return at
	}
	at := l.of(p)
	if up := parent(at); l.kept[up] || l.made[up] {
		l.made[at] = true
	} else if n := l.host.Lstat(at); n.Kind == Link && n.Leads == Dir && n.Real != "" && !l.kept[at] {
		at = n.Real
	}
	l.dirs[p] = at
	return at
}
