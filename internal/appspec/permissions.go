package appspec

import "strings"

// permissions judges the section permissions.
func (c *checker) permissions(section *value) []Permission {
	items, ok := elements(section)
	if !ok {
		c.fail(section.at, "begin each element with a dash", "permissions must be a list of mappings with an object, not %s", describe(section))
		return nil
	}
	var permissions []Permission
	for _, item := range items {
		if p, ok := c.permission(item, section.at); ok {
			permissions = append(permissions, p)
		}
	}
	return permissions
}

const noObject = "The deployment failed because a permission listed in the application specification file has no object value. Update the permissions section of the AppSpec file, and then try again."

// permission judges one element of permissions. An object of blanks is refused last, as in the agent.
func (c *checker) permission(item *value, section Position) (Permission, bool) {
	at := item.place(section)
	if item.isNil() || item.kind != kindMap {
		c.fail(at, "write object: and the path", "an element of permissions must be a mapping with an object, not %s", describe(item))
		return Permission{}, false
	}
	c.knownKeys(item, "an element of permissions", permissionKeys)
	object := item.get("object")
	if object.isNil() {
		c.fail(at, "", noObject)
		return Permission{}, false
	}
	before := len(c.problems)
	p := Permission{Object: rubyStrip(rubyText(object)), Pattern: "**", Position: at, pattern: item.get("pattern"), owner: item.get("owner"), group: item.get("group")}
	if p.pattern.isTrue() {
		p.Pattern = rubyText(p.pattern)
	}
	p.Except, p.except = c.except(item.get("except"))
	p.Types, p.types = c.types(item.get("type"))
	p.Mode = c.mode(item.get("mode"))
	p.ACLs = c.acls(item.get("acls"))
	p.Context = c.context(item.get("context"))
	p.Owner, p.Group = name(p.owner), name(p.group)
	if p.Object == "" {
		c.fail(object.place(at), "", noObject)
	}
	if len(c.problems) > before {
		return Permission{}, false
	}
	p.Unusable = p.whyUnusable()
	c.warnPermission(p)
	return p, true
}

// name is a user's or group's name; false means none, as in the agent.
func name(v *value) string {
	if !v.isTrue() {
		return ""
	}
	return rubyText(v)
}

// except judges the list of exceptions. The agent takes the pairs of a mapping for elements; no name matches those.
func (c *checker) except(v *value) (globs []string, raw []*value) {
	switch {
	case !v.isTrue():
		return nil, nil
	case v.kind == kindMap:
		for _, e := range v.entries {
			raw = append(raw, &value{kind: kindList, list: []*value{e.key, e.val}, at: e.key.at})
		}
	case v.kind == kindList:
		raw = v.list
	default:
		c.fail(v.at, "write except: ["+shown(v)+"]", "except must be a list of patterns, not %s", describe(v))
		return nil, nil
	}
	for _, item := range raw {
		globs = append(globs, rubyText(item))
	}
	return globs, raw
}

// types judges the list of object types.
func (c *checker) types(v *value) (types []string, raw *value) {
	switch {
	case !v.isTrue():
		return []string{ObjectFile, ObjectDirectory}, nil
	case v.kind == kindMap && len(v.entries) > 0:
		pair := &value{kind: kindList, list: []*value{v.entries[0].key, v.entries[0].val}}
		c.badType(v.at, pair)
	case v.kind != kindList && v.kind != kindMap:
		c.fail(v.at, "write type: ["+shown(v)+"]", "type must be a list of object types, not %s", describe(v))
	}
	types = []string{}
	for _, item := range v.list {
		if item.isText(ObjectFile) || item.isText(ObjectDirectory) {
			types = append(types, item.text)
			continue
		}
		c.badType(item.place(v.at), item)
		break
	}
	return types, v
}

func (c *checker) badType(at Position, v *value) {
	c.fail(at, "the types are file and directory", "The deployment failed because the application specification filespecifies a permission for an object type not supported for permissions (%s). Update the permissions section of the AppSpec file, and then try again.", shown(v))
}

// acls judges the list of ACL entries.
func (c *checker) acls(v *value) []ACE {
	if v.isNil() {
		return nil
	}
	items, ok := elements(v)
	if !ok || v.kind == kindBool {
		c.fail(v.at, "write acls: [...] or begin each entry with a dash", "acls must be a list of ACL entries, not %s", describe(v))
		return nil
	}
	aces := make([]ACE, 0, len(items))
	for _, item := range items {
		if item.isNil() || item.kind != kindString {
			c.fail(item.place(v.at), "put the entry in quotes", "an entry of acls must be a string such as user:ana:rw, not %s", describe(item))
			continue
		}
		ace, err := ParseACE(item.text)
		if err != nil {
			c.fail(item.place(v.at), "", "%s", err)
			continue
		}
		aces = append(aces, ace)
	}
	return aces
}

// context judges an SELinux context.
func (c *checker) context(v *value) *Context {
	if v.isNil() {
		return nil
	}
	switch v.kind {
	case kindMap:
		c.knownKeys(v, "a context", contextKeys)
	case kindString, kindSymbol:
	default:
		c.fail(v.at, "write type: and the SELinux type below it", "a context must be a mapping with a type, not %s", describe(v))
		return nil
	}
	x := &Context{typ: indexed(v, "type"), user: indexed(v, "name")}
	if x.typ.isNil() {
		c.fail(v.at, "", "The deployment failed because the application specification file specifies an invalid context type (%s). Update the permissions section of the AppSpec file, and then try again.", clip(inspect(v)))
		return nil
	}
	x.User, x.Type = rubyText(x.user), rubyText(x.typ)
	given := indexed(v, "range")
	if given.isNil() {
		return x
	}
	if given.kind != kindString {
		c.fail(given.place(v.at), "write for example s0", "the range of a context must be a string, not %s", describe(given))
		return nil
	}
	r, err := ParseRange(given.text)
	if err != nil {
		c.fail(given.place(v.at), "a range is sN[-sN][:cN[.cN][,cN...]]", "%s", err)
		return nil
	}
	x.Range = &r
	return x
}

// PatternUnusable tells that Install fails when it compares the pattern with a path, whether that matches or not.
func (p Permission) PatternUnusable() bool { return p.pattern.isTrue() && p.pattern.kind != kindString }

// whyUnusable lists what makes Install fail as soon as the permission meets a path.
func (p Permission) whyUnusable() []Problem {
	var problems []Problem
	add := func(v *value, message, hint string) {
		problems = append(problems, Problem{Position: v.place(p.Position), Message: message, Hint: hint})
	}
	for _, n := range []struct {
		what string
		v    *value
	}{{"owner", p.owner}, {"group", p.group}} {
		switch {
		case !n.v.isTrue():
		case n.v.kind != kindString:
			add(n.v, "the "+n.what+" of a permission must be a name, not "+describe(n.v)+" ("+shown(n.v)+")", "use the name; numeric ids are not looked up")
		case n.v.text == "" || strings.Contains(n.v.text, "\x00"):
			add(n.v, "the "+n.what+" of a permission is no name: "+inspect(n.v), "leave it out to keep the "+n.what)
		}
	}
	if p.PatternUnusable() {
		add(p.pattern, "the pattern of a permission must be a string, not "+describe(p.pattern)+" ("+shown(p.pattern)+")", "put it in quotes")
	}
	for _, item := range p.except {
		if item.isNil() || item.kind != kindString {
			add(item, "a pattern in except must be a string, not "+describe(item)+" ("+shown(item)+")", "put it in quotes")
		}
	}
	return problems
}
