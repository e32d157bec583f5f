package appspec

import (
	"path"
	"strings"
)

// Matches says whether the permission is about what the deployment puts at the absolute path name, given that Object is a directory or
// name itself. The directory Object is not among what it matches: only what is below it.
func (p Permission) Matches(name string, directory bool) bool {
	typ := ObjectFile
	if directory {
		typ = ObjectDirectory
	}
	if !contains(p.Types, typ) {
		return false
	}
	name, object := path.Clean(name), path.Clean(p.Object)
	if name == object {
		return !directory
	}
	below, found := strings.CutPrefix(name, strings.TrimSuffix(object, "/")+"/")
	if !found {
		return false
	}
	for _, glob := range p.Except {
		if matchGlob(glob, below) {
			return false
		}
	}
	return p.Pattern == "**" || matchGlob(p.Pattern, below)
}

// matchGlob matches a name without slashes against a pattern in which only * is special; it stands for any characters, also none.
func matchGlob(pattern, name string) bool {
	if strings.Contains(name, "/") {
		return false
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	rest, found := strings.CutPrefix(name, parts[0])
	if !found {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
