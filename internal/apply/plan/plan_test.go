package plan

import (
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the conversations in testdata")

// fakeHost is a host in memory; a file's content stands for its digest.
type fakeHost map[string]Node

func (h fakeHost) Lstat(p string) Node { return h[h.at(p)] }

// at follows the links on the way to a path.
func (h fakeHost) at(p string) string {
	if p == "/" || !path.IsAbs(p) {
		return p
	}
	dir := h.at(path.Dir(p))
	if n := h[dir]; n.Kind == Link && n.Real != "" {
		dir = n.Real
	}
	return path.Join(dir, path.Base(p))
}

func (h fakeHost) Names(dir string) []string {
	var out []string
	for p := range h {
		if path.Dir(p) == dir {
			out = append(out, path.Base(p))
		}
	}
	return out
}

// Lists returns the default list that a line "default PATH LIST" gave a directory.
func (h fakeHost) Lists(p string) Lists {
	if list := h["default list of "+p].Target; list != "" {
		return Lists{Access: []byte(list), Default: []byte(list)}
	}
	return Lists{}
}

func (h fakeHost) Same(e Entry) bool { return h.Lstat(e.Path).SHA256 == e.SHA256 }

func (h fakeHost) User(name string) (int, bool) {
	id, ok := map[string]int{"root": 0, "www": 33}[name]
	return id, ok
}
func (h fakeHost) Group(name string) (int, bool) { return h.User(name) }
func (h fakeHost) SELinux() bool                 { return h["/selinux"].Kind != None }

// parseNode reads "file PATH MODE CONTENT", "dir PATH MODE [GROUP [shared]]", "link PATH TARGET
// [KIND REAL]", KIND - if it leads nowhere, or "default PATH ENTRY...", entries as aclText writes them.
func parseNode(t *testing.T, line string) (string, Node) {
	t.Helper()
	f := strings.Fields(line)
	n := Node{Kind: Kind(f[0])}
	switch n.Kind {
	case "default":
		n.Target = string(parseList(t, f[2:]))
	case Link:
		n.Target = f[2]
		if len(f) > 4 {
			n.Leads, n.Real = Kind(strings.TrimPrefix(f[3], "-")), f[4]
		}
	default:
		mode, err := strconv.ParseUint(f[2], 8, 32)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		n.Mode = uint32(mode)
		if n.Kind == File {
			n.SHA256, n.Size = f[3], int64(len(f[3]))
		} else if len(f) > 3 {
			n.GID, _ = strconv.Atoi(f[3])
		}
	}
	return f[1], n
}

// parseList reads u7 u33:7 g5 m7 o5.
func parseList(t *testing.T, words []string) []byte {
	t.Helper()
	var list []aclEntry
	for _, w := range words {
		id, perm, named := strings.Cut(w[1:], ":")
		e := aclEntry{tag: map[byte]uint16{'u': tagUserObj, 'g': tagGroupObj, 'm': tagMask, 'o': tagOther}[w[0]], id: noID}
		if named {
			n, err := strconv.Atoi(id)
			if err != nil {
				t.Fatal(err)
			}
			e.tag, e.id = e.tag<<1, uint32(n)
		} else {
			perm = id
		}
		bits, err := strconv.Atoi(perm)
		if err != nil {
			t.Fatal(err)
		}
		e.perm = uint16(bits)
		list = append(list, e)
	}
	return encodeACL(list)
}

func entryOf(p string, n Node) Entry {
	return Entry{Path: p, Kind: n.Kind, Size: n.Size, SHA256: n.SHA256, Target: n.Target, Attr: Attr{Mode: n.Mode}}
}

// converse runs one conversation: sections that begin with "== NAME".
func converse(t *testing.T, text string) string {
	t.Helper()
	in := Input{Root: "/", WorkDir: "/work", Umask: 0o022, Privileged: true, GIDs: []int{0}, Application: "app", Tag: "tag", ModTimeNS: 1}
	release, host := map[string]Node{}, fakeHost{"/": {Kind: Dir}}
	for _, section := range strings.Split(text, "\n== ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		if name == "appspec" {
			spec, _, err := appspec.Parse([]byte("version: 0.0\nos: linux\n"+body), appspec.Options{})
			if err != nil {
				t.Fatal(err)
			}
			in.Spec = spec
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(body), "\n") {
			if line == "" {
				continue
			}
			switch {
			case name == "options":
				option(t, &in, line)
			case name == "release":
				p, n := parseNode(t, line)
				release[p] = n
			case name == "host":
				p, n := parseNode(t, line)
				if n.Kind == "default" {
					host["default list of "+p] = n
					continue
				}
				host[p] = n
				for dir := path.Dir(p); host[dir].Kind == None; dir = path.Dir(dir) {
					host[dir] = Node{Kind: Dir, Mode: 0o755}
				}
			case name == "previous":
				e := entryOf(parseNode(t, line))
				e.Shared = strings.HasSuffix(line, " shared")
				in.Previous = append(in.Previous, e)
			case strings.HasPrefix(name, "group "):
				f := strings.Fields(name) // group ID APPLICATION live|left
				in.Others = append(in.Others, Owned{GroupID: f[1], Application: f[2], Live: f[3] == "live", Entries: []Entry{entryOf(parseNode(t, line))}})
			default:
				t.Fatalf("unknown section %q", name)
			}
		}
	}
	in.Release, in.Host = NewTree(release), host
	p, problems := Build(in)
	return render(p, problems)
}

func option(t *testing.T, in *Input, line string) {
	switch f := strings.Fields(line); f[0] {
	case "behavior":
		in.Behavior = appspec.FileExistsBehavior(f[1])
	case "root":
		in.Root = f[1]
	case "user":
		in.Privileged, in.UID, in.GIDs = false, 1000, []int{1000}
	default:
		t.Fatalf("unknown option %q", line)
	}
}

func render(p *Plan, problems []Problem) string {
	var b strings.Builder
	for _, problem := range problems {
		fmt.Fprintf(&b, "problem (%s): %s\n", problem.Class, problem.Message)
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	if len(problems) > 0 {
		return b.String()
	}
	for i := range p.Units {
		u := p.Unit(i)
		old := ""
		if u.Old != None {
			old = " over a " + string(u.Old)
		}
		fmt.Fprintf(&b, "place %s%s\n", u.Dest, old)
		for _, item := range u.Items {
			fmt.Fprintf(&b, "  %s %s %s%s\n", item.Kind, item.Path, attrText(item.Attr), from(item))
		}
	}
	for i := range p.Removals {
		r := p.Removal(i)
		fmt.Fprintf(&b, "remove %s\n", r.Path)
	}
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "change %s %s\n", c.Path, attrText(c.New))
	}
	for _, dir := range p.Rmdir {
		fmt.Fprintf(&b, "rmdir %s if empty\n", dir)
	}
	for _, k := range p.Kept {
		fmt.Fprintf(&b, "keep %s: %s\n", k.Path, k.Reason)
	}
	for _, g := range p.Adopted {
		fmt.Fprintf(&b, "adopt %s\n", g)
	}
	var owned []string
	for _, e := range p.Installed {
		if owned = append(owned, e.Path); e.Shared {
			owned = append(owned, "(shared)")
		}
	}
	fmt.Fprintf(&b, "unchanged %d; ours: %s\n", p.Unchanged, strings.Join(owned, " "))
	return b.String()
}

func from(item Entry) string {
	switch {
	case item.Kind == Link:
		return " -> " + item.Target
	case item.Source != "":
		return " from " + item.Source
	}
	return ""
}

func attrText(a Attr) string {
	text := fmt.Sprintf("%04o", a.Mode)
	if a.Inherit {
		text = "default"
	}
	if a.UID > 0 || a.GID > 0 {
		text += fmt.Sprintf(" %d:%d", a.UID, a.GID)
	}
	for _, acl := range [][]byte{a.ACL().Access, a.ACL().Default} {
		if acl != nil {
			text += " acl" + aclText(acl)
		}
	}
	if a.Context != nil {
		text += fmt.Sprintf(" context %s:%s:%s", a.Context.User, a.Context.Type, a.Context.Range)
	}
	return text
}

func aclText(acl []byte) string {
	names := map[byte]string{tagUserObj: "u", tagUser: "u", tagGroupObj: "g", tagGroup: "g", tagMask: "m", tagOther: "o"}
	var parts []string
	for at := 4; at+8 <= len(acl); at += 8 {
		id := ""
		if tag := acl[at]; tag == tagUser || tag == tagGroup {
			id = strconv.Itoa(int(acl[at+4]))
		}
		parts = append(parts, names[acl[at]]+id+strconv.Itoa(int(acl[at+2])))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// Each file is a conversation: what is asked, then after "---" what is answered.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no conversations", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			question, answer, _ := strings.Cut(string(data), "\n---\n")
			got := converse(t, question)
			if *update {
				if err := os.WriteFile(file, []byte(question+"\n---\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != answer {
				t.Errorf("the answer is\n%s\nand was\n%s", got, answer)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	cases := []struct {
		name, pattern string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"abc", "*", true}, {".x", "*", true}, {"", "*", true}, {"abc", "a*c", true}, {"ac", "a*c", true},
		{"abcd", "a*c", false}, {"aXbYc", "a*b*c", true}, {"acb", "a*b*c", false}, {"aba", "ab*ba", false}, {"a/b", "*", false},
		{"?x", "?x", true}, {"qx", "?x", false}, {"y", "[yz]", false}, {"[yz]", "[yz]", true}, {"x.sh", "*.sh", true}, {"abab", "*ab", true},
	}
	for _, c := range cases {
		if got := matches(c.name, c.pattern); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.name, c.pattern, got)
		}
	}
}

func TestLessPathPutsContentsAfterTheirDirectory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		paths := rapid.SliceOfN(rapid.StringMatching(`/[ab!]{1,2}(/[ab!]{1,2}){0,3}`), 2, 12).Draw(rt, "paths")
		sortPaths(paths)
		for i := 1; i < len(paths); i++ {
			if !LessPath(paths[i-1], paths[i]) && paths[i-1] != paths[i] {
				rt.Fatalf("%q before %q", paths[i-1], paths[i])
			}
			for j := i + 1; j < len(paths); j++ {
				if strings.HasPrefix(paths[j], paths[i-1]+"/") && !below(paths[i], paths[i-1]) {
					rt.Fatalf("%q comes between %q and %q", paths[i], paths[i-1], paths[j])
				}
			}
		}
	})
}

// The agent rewrites everything; whatever came before, what is ours afterwards
// is what the spec says, and no unit lies in another.
func TestPlanProperty(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "a/x", "a/y", "b/x/y", "c", "a/x/z"})
	rapid.Check(t, func(rt *rapid.T) {
		release := map[string]Node{}
		for _, n := range rapid.SliceOfN(names, 1, 5).Draw(rt, "release") {
			clash := false
			for other := range release {
				clash = clash || below(other, n) || below(n, other)
			}
			if !clash {
				release["s/"+n] = Node{Kind: File, Mode: 0o644, SHA256: "new"}
			}
		}
		host := fakeHost{"/": {Kind: Dir}, "/d": {Kind: Dir, Mode: 0o755}}
		in := Input{Root: "/", Host: host, Release: NewTree(release), Tag: "t", Privileged: true, Behavior: appspec.Overwrite,
			Spec: &appspec.Spec{Files: []appspec.File{{Source: "s", Destination: "/d"}}}}
		for _, n := range rapid.SliceOfN(names, 0, 5).Draw(rt, "host") {
			p := "/d/" + n
			if host[path.Dir(p)].Kind == File || len(host.Names(p)) > 0 {
				continue
			}
			host[p] = Node{Kind: File, Mode: 0o644, SHA256: rapid.SampledFrom([]string{"new", "old"}).Draw(rt, "content")}
			for dir := path.Dir(p); host[dir].Kind == None; dir = path.Dir(dir) {
				host[dir] = Node{Kind: Dir, Mode: 0o755}
			}
			if rapid.Bool().Draw(rt, "ours") {
				in.Previous = append(in.Previous, entryOf(p, host[p]))
			}
		}
		p, problems := Build(in)
		if len(problems) > 0 {
			return
		}
		seen := map[string]bool{}
		for i := range p.Units {
			u := p.Unit(i)
			for other := range seen {
				if below(u.Dest, other) || below(other, u.Dest) {
					rt.Fatalf("units %s and %s overlap", u.Dest, other)
				}
			}
			seen[u.Dest] = true
			if u.Old != host[u.Dest].Kind {
				rt.Fatalf("%s: old is %q, on the disk %q", u.Dest, u.Old, host[u.Dest].Kind)
			}
		}
		for i := range p.Removals {
			r := p.Removal(i)
			for _, e := range p.Installed {
				if e.Path == r.Path {
					rt.Fatalf("%s is removed and ours", r.Path)
				}
			}
		}
	})
}
