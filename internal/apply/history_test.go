package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// history is what happens to one host: users make and remove files, directories
// and links, and groups deploy, fail, are interrupted and are removed. Names are
// few, so that everything meets everything.
type history struct {
	*workbench
	t      *rapid.T
	a      *Applier
	ours   map[string]bool                // what the group that deploys had in place or may take over, by the real path
	made   int                            // by users, each with a text of its own
	n      int                            // deployments
	groups map[string]*historyGroup       // that this host belongs to
	own    map[string]map[string]seenNode // by group, by the real path
}

type historyGroup struct {
	last      Deployment
	installed bool // the last one succeeded
}

// seenNode is a path as it was found.
type seenNode struct {
	kind  plan.Kind
	inode uint64
	line  string // all that users see of it
}

// Users' links and files are told from deployed ones by their text.
const byUser = "./"

func (h *history) path(label string) string {
	depth := rapid.IntRange(1, 3).Draw(h.t, label+" depth")
	parts := make([]string, depth)
	for i := range parts {
		parts[i] = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(h.t, label)
	}
	return "/" + strings.Join(parts, "/")
}

// user changes something between deployments.
func (h *history) user() {
	at := h.path("user's path")
	full := h.target + at
	what := rapid.SampledFrom([]string{"write", "link", "link", "link", "absolute link", "mkdir", "remove", "rename", "chmod", "default list"}).Draw(h.t, "user")
	h.made++
	replace := func() bool {
		if n, err := os.Stat(filepath.Dir(full)); err != nil || !n.IsDir() {
			return false
		}
		return os.RemoveAll(full) == nil
	}
	switch what {
	case "remove":
		os.RemoveAll(full)
	case "rename":
		os.Rename(full, h.target+h.path("to"))
	case "chmod":
		if n, err := os.Lstat(full); err == nil && n.IsDir() {
			os.Chown(full, -1, 1)
			unix.Chmod(full, rapid.SampledFrom([]uint32{0o2775, 0o755, 0o700}).Draw(h.t, "mode"))
		}
	case "default list":
		if n, err := os.Lstat(full); err == nil && n.IsDir() {
			list := []byte{2, 0, 0, 0}
			for _, e := range []struct{ tag, perm, id byte }{{1, 7, 255}, {2, 7, 1}, {4, 5, 255}, {0x10, 7, 255}, {0x20, 0, 255}} {
				id := bytes.Repeat([]byte{255}, 4)
				if e.id != 255 {
					id = []byte{e.id, 0, 0, 0}
				}
				list = append(append(list, e.tag, 0, e.perm, 0), id...)
			}
			unix.Setxattr(full, xattrDefault, list, 0)
		}
	case "write":
		if replace() {
			os.WriteFile(full, fmt.Appendf(nil, "%s%d", byUser, h.made), 0o640)
		}
	case "mkdir":
		if replace() {
			os.Mkdir(full, 0o750)
		}
	case "link":
		target := strings.TrimPrefix(h.path("target"), "/")
		if up := strings.Count(at, "/") - 1; up > 0 && rapid.Bool().Draw(h.t, "upwards") {
			target = strings.Repeat("../", up) + target
		}
		if replace() {
			os.Symlink(byUser+target, full)
		}
	default:
		if target := h.target + "/." + h.path("target"); replace() {
			os.Symlink(target, full)
		}
	}
}

// repoint has a user's link lead elsewhere while a deployment lies there cut
// short, and makes that so of the tree of before, too.
func (h *history) repoint(before map[string]seenNode) map[string]seenNode {
	var links []string
	for p, n := range h.walk() {
		if n.kind == plan.Link && before[p] == n && strings.Contains(n.line, " "+byUser) {
			links = append(links, p)
		}
	}
	if len(links) == 0 {
		return before
	}
	slices.Sort(links)
	link := rapid.SampledFrom(links).Draw(h.t, "repointed")
	if err := errors.Join(os.Remove(link), os.Symlink(h.target+"/."+h.path("new target"), link)); err != nil {
		h.t.Fatal(err)
	}
	before = maps.Clone(before)
	before[link] = h.walk()[link]
	return before
}

// damage spoils the record of what a group has in place; its last plan tells the same.
func (h *history) damage(group string) {
	file := h.a.installedFile(group)
	info, err := os.Stat(file)
	if err != nil {
		return
	}
	was, err := h.a.installed(group)
	if err == nil {
		err = os.Truncate(file, rapid.Int64Range(0, max(0, info.Size()-1)).Draw(h.t, "left of the record"))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	now, err := h.a.installed(group)
	if err != nil {
		h.t.Fatalf("group %s: %v", group, err)
	}
	for _, list := range [][]plan.Entry{was.Entries, now.Entries} {
		for i := range list {
			list[i].Source = ""
		}
	}
	if !reflect.DeepEqual(was.Entries, now.Entries) && len(was.Entries)+len(now.Entries) > 0 {
		h.t.Fatalf("group %s had %v and has %v", group, was.Entries, now.Entries)
	}
}

// walk describes every path below the target by where it is.
func (h *history) walk() map[string]seenNode {
	out := map[string]seenNode{}
	err := filepath.WalkDir(h.target, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == h.target {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		n, _, err := statNode(path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %04o %d:%d", n.Kind, n.Mode, n.UID, n.GID)
		switch n.Kind {
		case plan.Link:
			line = "link -> " + n.Target
		case plan.File:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q %d", data, n.MTimeNS)
		}
		for _, name := range []string{xattrAccess, xattrDefault} {
			if value, err := readXattr(path, name); err == nil && value != nil {
				line += fmt.Sprintf(" %x", value)
			}
		}
		out[path] = seenNode{n.Kind, st.Ino, line}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *history) show(tree map[string]seenNode) string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		fmt.Fprintf(&b, "  %s %s #%d\n", strings.TrimPrefix(p, h.target), tree[p].line, tree[p].inode)
	}
	return b.String()
}

// revision draws a bundle.
func (h *history) revision() string {
	files := map[string]string{}
	for range rapid.IntRange(1, 4).Draw(h.t, "files") {
		name := "s" + rapid.SampledFrom([]string{"1", "2"}).Draw(h.t, "source") + h.path("file")
		taken := false
		for other := range files {
			taken = taken || strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/")
		}
		if taken {
			continue
		}
		files[name] = rapid.SampledFrom([]string{"1", "2", "-> a", "-> nowhere", "-> /" + "outside", "-> " + h.target + "/a", "-> " + h.target + "/b/c"}).Draw(h.t, "content")
	}
	spec := "version: 0.0\nos: linux\n"
	if b := rapid.SampledFrom([]string{"", "DISALLOW", "OVERWRITE", "RETAIN"}).Draw(h.t, "behavior"); b != "" {
		spec += "file_exists_behavior: " + b + "\n"
	}
	spec += "files:\n"
	for range rapid.IntRange(1, 2).Draw(h.t, "elements") {
		source := rapid.SampledFrom([]string{"s1", "s2", "s1/a", "s2/b"}).Draw(h.t, "source")
		if exact := slices.ContainsFunc(slices.Collect(maps.Keys(files)), func(f string) bool { return strings.HasPrefix(f+"/", source+"/") }); !exact {
			continue
		}
		dest := rapid.SampledFrom([]string{"", "/./b/..", "/c/../."}).Draw(h.t, "spelling")
		spec += fmt.Sprintf("  - {source: %s, destination: %s%s}\n", source, h.path("destination"), dest)
	}
	switch p := "permissions:\n  - {object: " + h.path("object") + ", "; rapid.IntRange(0, 4).Draw(h.t, "permission") {
	case 0:
		spec += p + "mode: 2750, type: [directory]}\n"
	case 1:
		spec += p + "mode: 600, acls: ['1:rw'], type: [file]}\n"
	case 2:
		spec += p + "mode: 770, acls: ['d:1:rwx', 'd:g:1:r-x'], type: [directory]}\n"
	}
	files["appspec.yml"] = spec
	return h.bundle(files)
}

// deploy makes a deployment and judges what became of the tree.
func (h *history) deploy(group string, d Deployment) {
	h.n++
	d.ID, d.GroupID = fmt.Sprintf("d-%d", h.n), group
	d.ApplicationName = applicationOf[group]
	for g := range h.groups {
		if g != group {
			d.LiveGroups = append(d.LiveGroups, g)
		}
	}
	if !d.Remove {
		d.LiveGroups = append(d.LiveGroups, group)
	}
	before := h.walk()
	h.ours = h.places(group)
	for g, application := range applicationOf { // whose files it may take over
		if h.groups[g] == nil && application == applicationOf[group] {
			maps.Copy(h.ours, h.places(g))
		}
	}
	report, err := h.a.Preflight(context.Background(), d)
	if err != nil {
		h.t.Fatal(err)
	}
	res, fault, before := h.carryOut(d, before)
	if fault == "" && report.OK != (res.Outcome == OutcomeSucceeded) {
		h.t.Errorf("preflight says %v %v, and Install %s %v", report.OK, report.Problems, res.Outcome, res.Error)
	}
	after := h.walk()
	installed := false
	for _, e := range res.Events {
		installed = installed || e.Event == "Install" && e.Status == StatusSucceeded
	}
	what := fmt.Sprintf("%s of %s (remove %v, fault %q), which ended as %s %v", d.ID, group, d.Remove, fault, res.Outcome, res.Error)
	if !d.Remove {
		spec, _ := os.ReadFile(filepath.Join(d.Source.Path, "appspec.yml"))
		what += "\n" + string(spec) + treeOf(h.workbench.t, d.Source.Path)
	}
	defer func() {
		if h.t.Failed() {
			h.t.Logf("%s\nbefore:\n%safter:\n%s", what, h.show(before), h.show(after))
			h.t.FailNow()
		}
	}()
	if !installed {
		h.exact(before, after)
		return
	}
	h.others(group, before, after)
	g := h.groups[group]
	if g == nil {
		g = &historyGroup{}
		h.groups[group] = g
	}
	g.last, g.installed = d, res.Outcome == OutcomeSucceeded
	h.record(group, after)
	if d.Remove {
		delete(h.groups, group)
		return
	}
	h.content(d, before)
	if res.Outcome == OutcomeSucceeded && rapid.IntRange(0, 2).Draw(h.t, "again") == 0 {
		h.again(d, after)
	}
}

// carryOut applies, perhaps with a fault, and goes on until the deployment ended.
// It returns what the tree was like before, with what users changed meanwhile.
func (h *history) carryOut(d Deployment, before map[string]seenNode) (Result, string, map[string]seenNode) {
	a := h.applier()
	faults := &durable.Faults{}
	fault := rapid.SampledFrom([]string{"", "", "", "fail", "cut", "cut"}).Draw(h.t, "fault")
	at := 0
	if fault != "" {
		at = rapid.IntRange(1, 60).Draw(h.t, "at")
	}
	switch fault {
	case "fail":
		faults.FailAt(at, syscall.EIO)
	case "cut":
		faults.CutAt(at, at%2 == 0)
	}
	a.opts.Disk = &durable.Disk{Hook: faults.Hook}
	res, err := a.Apply(context.Background(), d, nil)
	if err != nil && fault == "" {
		h.t.Fatal(err)
	}
	a = h.applier()
	decision := Undo
	if err != nil && rapid.Bool().Draw(h.t, "continue") {
		decision = Continue
	}
	if err != nil {
		pending, err := a.Pending()
		if err != nil {
			h.t.Fatal(err)
		}
		if rapid.IntRange(0, 2).Draw(h.t, "meanwhile") == 0 {
			before = h.repoint(before)
		}
		if len(pending) == 1 {
			if res, err = a.Resume(context.Background(), d.Key(), decision, nil); err != nil {
				h.t.Fatal(err)
			}
		} else if res, err = a.Apply(context.Background(), d, nil); err != nil {
			h.t.Fatal(err)
		}
	}
	if fault != "" {
		fault = fmt.Sprintf("%s at %d, %s", fault, at, decision)
	}
	return res, fault, before
}

// exact wants the tree to be as it was.
func (h *history) exact(before, after map[string]seenNode) {
	for p, n := range before {
		now := after[p]
		if n.line != now.line || n.inode != now.inode {
			h.t.Errorf("nothing was installed, yet %s is %q #%d and was %q #%d", p, now.line, now.inode, n.line, n.inode)
		}
	}
	for p, n := range after {
		if _, was := before[p]; !was {
			h.t.Errorf("nothing was installed, yet %s is there: %s", p, n.line)
		}
	}
}

// others wants what is not the group's to be as it was.
func (h *history) others(group string, before, after map[string]seenNode) {
	overwrites := false
	if data, err := os.ReadFile(filepath.Join(h.dir, fmt.Sprintf("bundle-%d", h.count), "appspec.yml")); err == nil {
		overwrites = bytes.Contains(data, []byte("OVERWRITE"))
	}
	for p, n := range before {
		now := after[p]
		if strings.Contains(p, "/"+plan.TempPrefix) {
			h.t.Errorf("%s is left", p)
		}
		if n.line == now.line && n.inode == now.inode {
			continue
		}
		owner := ""
		for g, own := range h.own {
			if o := own[p]; o.inode == n.inode && g != group {
				owner = g
			}
		}
		switch {
		case owner != "" && h.groups[owner] != nil:
			h.t.Errorf("group %s changed %s of group %s to %q", group, p, owner, now.line)
		case h.ours[p]: // whatever somebody put into its place
		case n.kind == plan.File && strings.Contains(n.line, `"`+byUser) && !overwrites,
			n.kind == plan.Link && strings.Contains(n.line, " "+byUser) && !(overwrites && now.kind == plan.Link):
			h.t.Errorf("group %s changed a user's %s, which was %s, to %q", group, p, n.line, now.line)
		}
	}
	for p := range after {
		if strings.Contains(p, "/"+plan.TempPrefix) {
			h.t.Errorf("%s is left", p)
		}
	}
}

// places lists where a group's paths are.
func (h *history) places(group string) map[string]bool {
	entries, err := Installed(h.a.opts.StateDir, group)
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, e := range entries {
		if dir, err := filepath.EvalSymlinks(filepath.Dir(e.Path)); err == nil {
			out[filepath.Join(dir, filepath.Base(e.Path))] = true
		}
	}
	return out
}

// record notes what a group has in place now.
func (h *history) record(group string, after map[string]seenNode) {
	entries, err := Installed(h.a.opts.StateDir, group)
	if err != nil {
		h.t.Fatal(err)
	}
	h.own[group] = map[string]seenNode{}
	host := newHost()
	for _, e := range entries {
		if n := host.Lstat(e.Path); n.Kind != e.Kind || n.Kind == plan.Link && n.Target != e.Target || n.Kind == plan.File && !host.Same(e) {
			h.t.Errorf("%s of group %s is to be a %s, not %s %s", e.Path, group, e.Kind, n.Kind, n.Target)
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(e.Path))
		if err != nil {
			h.t.Errorf("%s of group %s is not there: %v", e.Path, group, err)
			continue
		}
		p := filepath.Join(dir, filepath.Base(e.Path))
		if n := after[p]; e.Kind != plan.Dir {
			for g, own := range h.own {
				if g != group && h.groups[g] != nil && own[p].inode == n.inode {
					h.t.Errorf("%s belongs to groups %s and %s", p, g, group)
				}
			}
			h.own[group][p] = n
		}
	}
}

// content wants the files of a revision at their destinations, whatever is on the way.
func (h *history) content(d Deployment, before map[string]seenNode) {
	spec, err := os.ReadFile(filepath.Join(d.Source.Path, "appspec.yml"))
	if err != nil {
		h.t.Fatal(err)
	}
	if bytes.Contains(spec, []byte("RETAIN")) {
		return
	}
	for line := range strings.Lines(string(spec)) {
		var source, dest string
		if n, _ := fmt.Sscanf(line, "  - {source: %s destination: %s", &source, &dest); n != 2 {
			continue
		}
		source = filepath.Join(d.Source.Path, strings.TrimSuffix(source, ","))
		dest = h.target + filepath.Clean(strings.TrimSuffix(strings.TrimSpace(dest), "}"))
		filepath.WalkDir(source, func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			to := filepath.Join(dest, strings.TrimPrefix(p, source))
			if p == source {
				to = filepath.Join(dest, filepath.Base(p))
			}
			want, _ := os.ReadFile(p)
			got, err := os.ReadFile(to)
			if errors.Is(err, unix.EISDIR) { // OVERWRITE puts it in there
				got, err = os.ReadFile(filepath.Join(to, filepath.Base(to)))
			}
			if err != nil || !bytes.Equal(got, want) {
				h.t.Errorf("%s holds %q (%v), not %q", to, got, err, want)
			}
			return nil
		})
	}
}

// again wants a deployment of the same revision to touch nothing.
func (h *history) again(d Deployment, before map[string]seenNode) {
	h.n++
	d.ID = fmt.Sprintf("d-%d", h.n)
	res, err := h.a.Apply(context.Background(), d, nil)
	if err != nil || res.Outcome != OutcomeSucceeded {
		h.t.Errorf("the same again: %v %+v", err, res.Error)
		return
	}
	after := h.walk()
	for p, n := range before {
		if now := after[p]; n != now {
			h.t.Errorf("the same again: %s is %q #%d and was %q #%d", p, now.line, now.inode, n.line, n.inode)
		}
	}
	if len(after) != len(before) {
		h.t.Errorf("the same again: the tree is\n%s", h.show(after))
	}
	h.record(d.GroupID, after)
}

// empty removes all groups and wants nothing of theirs to be left where it was
// put, but for what somebody made something else of.
func (h *history) empty() {
	for _, group := range slices.Sorted(maps.Keys(h.groups)) {
		places := h.places(group)
		h.n++
		d := h.deployment(fmt.Sprintf("d-%d", h.n), "")
		d.GroupID, d.Source, d.Remove = group, Source{}, true
		d.ApplicationName = applicationOf[group]
		for g := range h.groups {
			if g != group {
				d.LiveGroups = append(d.LiveGroups, g)
			}
		}
		before := h.walk()
		res, err := h.a.Apply(context.Background(), d, nil)
		if err != nil || res.Outcome != OutcomeSucceeded {
			h.t.Fatalf("group %s is not removed: %v %+v", group, err, res.Error)
		}
		after := h.walk()
		h.ours = places
		h.others(group, before, after)
		for p, n := range h.own[group] {
			if now, left := after[p]; left && now == n && places[p] {
				h.t.Errorf("group %s is removed, and %s is left of it: %s", group, p, now.line)
			}
		}
		delete(h.groups, group)
		if h.t.Failed() {
			h.t.Fatalf("removal of %s, which had\n%v\nbefore:\n%safter:\n%s", group, slices.Sorted(maps.Keys(places)), h.show(before), h.show(after))
		}
	}
}

var applicationOf = map[string]string{"g1": "app", "g2": "other", "g3": "app"}

// Whatever users and groups do on one host: no group changes what is another's or
// a user's, a deployment that fails changes nothing, one that succeeds has in
// place what it says, the same again touches nothing.
func TestHistoriesOfAHost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newBench(t)
		h := &history{workbench: w, t: rt, a: w.applier(), groups: map[string]*historyGroup{}, own: map[string]map[string]seenNode{}}
		defer os.RemoveAll(w.dir)
		most := 6
		if everyPoint() {
			most = 20
		}
		for range rapid.IntRange(1, most).Draw(rt, "steps") {
			for range rapid.IntRange(0, 2).Draw(rt, "users") {
				h.user()
			}
			group := rapid.SampledFrom([]string{"g1", "g2", "g3"}).Draw(rt, "group")
			if rapid.IntRange(0, 5).Draw(rt, "damage") == 0 {
				h.damage(group)
			}
			if rapid.IntRange(0, 7).Draw(rt, "leave") == 0 {
				delete(h.groups, group) // its files stay until its successor comes
				continue
			}
			d := w.deployment("", "")
			switch g := h.groups[group]; {
			case g != nil && rapid.IntRange(0, 4).Draw(rt, "remove") == 0:
				d.Source, d.Remove = Source{}, true
			default:
				d.Source.Path = h.revision()
			}
			h.deploy(group, d)
		}
		h.empty()
	})
}
