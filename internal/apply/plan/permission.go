package plan

import (
	"cmp"
	"path"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// setPermissions applies `permissions` to what this deployment copies or makes.
func (b *builder) setPermissions() {
	places := b.sorted()
	for i := range b.in.Spec.Permissions {
		p := &b.in.Spec.Permissions[i]
		object := b.rooted(b.absolute(p.Object))
		t := b.targets[b.places.of(object)]
		if t != nil && t.path != object {
			t = nil // the agent compares paths as they are spelled
		}
		if t == nil {
			t = b.renamed[object]
		}
		switch {
		case t != nil && !t.dir:
			if has(p.Types, appspec.ObjectFile) {
				b.setOnFile(t, p)
			}
		case t != nil || b.isDirectory(object):
			b.setBelow(places, object, p)
		default:
			b.warn("permissions name %s, which is neither deployed nor a directory; they change nothing", p.Object)
		}
	}
}

func (b *builder) isDirectory(p string) bool {
	n := b.in.Host.Lstat(p)
	return n.Kind == Dir || n.Kind == Link && n.Leads == Dir
}

func (b *builder) setOnFile(t *target, p *appspec.Permission) {
	if p.Pattern != "**" {
		b.problem(Invalid, "%sthe permissions section in the AppSpec file includes an object (%s) with an invalid pattern (%s), such as a pattern applied to a file. Correct the permissions section of the AppSpec file, and then try again.", prefix, p.Object, p.Pattern)
		return
	}
	if len(p.Except) > 0 {
		b.problem(Invalid, "%sthe except parameter for a pattern in the permissions section (%s) for the object named %s contains an invalid format. Update the AppSpec file, and then try again.", prefix, strings.Join(p.Except, ", "), p.Object)
		return
	}
	b.setOn(t, p)
}

func (b *builder) setBelow(places []string, object string, p *appspec.Permission) {
	base := strings.TrimSuffix(object, "/") + "/"
	matched := false
	for _, place := range places {
		t := b.targets[place]
		at := cmp.Or(b.known[t], t.path)
		want := appspec.ObjectFile
		if t.dir {
			want = appspec.ObjectDirectory
		}
		if !strings.HasPrefix(at, base) || at == b.in.Root || !has(p.Types, want) {
			continue
		}
		relative := at[len(base):]
		if !p.PatternUnusable() && (p.Pattern != "**" && !matches(relative, p.Pattern) || excepted(relative, p.Except)) {
			continue
		}
		matched = true
		if t.shared {
			b.warn("permissions are not applied to the directory %s, which stays as it is: it holds what this group did not deploy, or did", t.path)
			continue
		}
		b.setOn(t, p)
	}
	if !matched {
		b.warn("permissions for %s (pattern %s) match nothing that is deployed", p.Object, p.Pattern)
	}
}

func excepted(relative string, except []string) bool {
	for _, pattern := range except {
		if matches(relative, pattern) {
			return true
		}
	}
	return false
}

// matches tells whether a direct child's name matches a pattern in which only *
// is special.
func matches(name, pattern string) bool {
	if strings.Contains(name, "/") {
		return false
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return name == pattern
	}
	if !strings.HasPrefix(name, parts[0]) {
		return false
	}
	name = name[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return strings.HasSuffix(name, last)
}

// setOn applies one permission to one path.
func (b *builder) setOn(t *target, p *appspec.Permission) {
	if t.set {
		b.problem(Invalid, "%sthe permissions setting for (%s) is specified more than once in the application specification file. Update the files section of the AppSpec file, and then try again.", prefix, t.path)
		return
	}
	t.set = true
	for _, u := range p.Unusable {
		b.problem(Invalid, "%s%s", prefix, u.Message)
	}
	if len(p.Unusable) > 0 {
		return
	}
	if !t.dir {
		for _, a := range p.ACLs {
			if a.Default {
				b.problem(Invalid, "%sthe -d parameter has been specified to apply an acl setting to a file (%s). This parameter is supported for directories only. Update the AppSpec file, and then try again.", prefix, t.path)
				return
			}
		}
	}
	if !t.dir && t.node.Kind == Link {
		b.warn("permissions are not applied to the link %s", t.path)
		return
	}
	b.setOwner(t, p)
	if p.Mode != "" {
		t.attr.Mode, t.attr.Inherit = p.Mode.Bits(), false
		if access := t.attr.ACL().Access; access != nil {
			t.attr.Lists = &Lists{Access: withMode(access, t.attr.Mode), Default: t.attr.ACL().Default}
		}
	}
	if p.ACLs != nil {
		left := t.attr.ACL().Default
		t.attr.Lists = b.acl(t, p)
		if t.attr.Lists != nil && t.attr.Lists.Default == nil {
			t.attr.Lists.Default = left // as setfacl --set does
		}
	}
	if p.Context != nil {
		b.setContext(t, p.Context)
	}
}

func (b *builder) setOwner(t *target, p *appspec.Permission) {
	if p.Owner != "" {
		id, ok := b.in.Host.User(p.Owner)
		switch {
		case !ok:
			b.problem(Present, "can't find user for %s", p.Owner)
		case !b.in.Privileged && id != b.in.UID:
			b.problem(Present, "%s%s is to be owned by %s, but gitopsd does not run as root and cannot give files away", prefix, t.path, p.Owner)
		}
		t.attr.UID = id
	}
	if p.Group != "" {
		id, ok := b.in.Host.Group(p.Group)
		switch {
		case !ok:
			b.problem(Present, "can't find group for %s", p.Group)
		case !b.in.Privileged && !has(b.in.GIDs, id):
			b.problem(Present, "%s%s is to belong to group %s, but gitopsd runs as a user outside that group", prefix, t.path, p.Group)
		}
		t.attr.GID = id
	}
}

func (b *builder) setContext(t *target, c *appspec.Context) {
	if !b.in.Host.SELinux() {
		b.problem(Present, "%sthe SELinux context for %s cannot be set: this host does not run SELinux", prefix, t.path)
		return
	}
	t.attr.Context = &Context{User: c.User, Type: c.Type, Range: rangeText(c.Range)}
}

func has[T comparable](list []T, x T) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

// below tells whether p is dir or inside it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// parent returns the directory a path is in.
func parent(p string) string { return path.Dir(p) }
