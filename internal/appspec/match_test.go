package appspec

import "testing"

func TestPermissionsMatchPaths(t *testing.T) {
	both := []string{ObjectFile, ObjectDirectory}
	rows := []struct {
		name      string
		p         Permission
		path      string
		directory bool
		want      bool
	}{
		{"any depth", Permission{Object: "/srv", Pattern: "**", Types: both}, "/srv/a/b", false, true},
		{"not the object itself", Permission{Object: "/srv", Pattern: "**", Types: both}, "/srv", true, false},
		{"but a file that is the object", Permission{Object: "/srv/f", Pattern: "**", Types: both}, "/srv/f", false, true},
		{"only whole names", Permission{Object: "/srv", Pattern: "**", Types: both}, "/srvx/a", false, false},
		{"trailing slash", Permission{Object: "/srv/", Pattern: "**", Types: both}, "/srv/a", false, true},
		{"the root", Permission{Object: "/", Pattern: "**", Types: both}, "/srv/a", false, true},
		{"unclean object", Permission{Object: "/srv/./x/..", Pattern: "**", Types: both}, "/srv/a", false, true},
		{"type file", Permission{Object: "/srv", Pattern: "**", Types: []string{ObjectFile}}, "/srv/d", true, false},
		{"type directory", Permission{Object: "/srv", Pattern: "**", Types: []string{ObjectDirectory}}, "/srv/d", true, true},
		{"no type", Permission{Object: "/srv", Pattern: "**", Types: []string{}}, "/srv/d", true, false},
		{"glob", Permission{Object: "/srv", Pattern: "*.sh", Types: both}, "/srv/a.sh", false, true},
		{"glob matches a leading dot and nothing", Permission{Object: "/srv", Pattern: "*.sh", Types: both}, "/srv/.sh", false, true},
		{"glob is about direct children", Permission{Object: "/srv", Pattern: "*", Types: both}, "/srv/a/b", false, false},
		{"question mark is a letter", Permission{Object: "/srv", Pattern: "a?", Types: both}, "/srv/ab", false, false},
		{"two stars in a name", Permission{Object: "/srv", Pattern: "a*b*c", Types: both}, "/srv/axxbc", false, true},
		{"parts may not overlap", Permission{Object: "/srv", Pattern: "ab*ba", Types: both}, "/srv/aba", false, false},
		{"exception", Permission{Object: "/srv", Pattern: "**", Except: []string{"x*"}, Types: both}, "/srv/xy", false, false},
		{"exceptions are about direct children", Permission{Object: "/srv", Pattern: "**", Except: []string{"d"}, Types: both}, "/srv/d/x", false, true},
	}
	for _, row := range rows {
		if got := row.p.Matches(row.path, row.directory); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}
