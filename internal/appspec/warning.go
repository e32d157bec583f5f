package appspec

import (
	"math"
	"path"
	"strings"
)

// maxEventSeconds is what CodeDeploy's service allows the scripts of one event together; the agent does not check it.
const maxEventSeconds = 3600

// The keys that mean something, by the mapping they stand in. The agent passes over all others without a word.
const (
	topKeys        = "version os files permissions hooks file_exists_behavior"
	fileKeys       = "source destination"
	scriptKeys     = "location timeout runas sudo"
	permissionKeys = "object pattern except owner group mode acls context type"
	contextKeys    = "name type range"
)

// warnDocument warns of what concerns the file as a whole.
func (c *checker) warnDocument() {
	if c.doc.hasBOM {
		c.warn(Position{1, 1}, WarnBOM, "the file begins with a byte order mark, which misleads CodeDeploy's agent; save it as UTF-8 without one")
	}
	if c.doc.moreFollow != (Position{}) {
		c.warn(c.doc.moreFollow, WarnMoreDocuments, "only the first YAML document is read; what stands from here on is ignored")
	}
	if c.doc.alias != (Position{}) {
		c.warn(c.doc.alias, WarnAlias, "aliases are accepted here, but CodeDeploy's agent refuses them on hosts with Ruby 3.1 or later")
	}
	for _, d := range c.doc.duplicates {
		c.warn(d.again, WarnDuplicateKey, "the key %s stands already in line %d; only the last one counts", d.key, d.first.Line)
	}
}

// knownKeys warns of keys that the agent ignores.
func (c *checker) knownKeys(m *value, where, known string) {
	names := strings.Fields(known)
	for _, e := range m.entries {
		if len(c.warnings) >= maxWarnings {
			return
		}
		if e.key.kind == kindString && contains(names, e.key.text) {
			continue
		}
		text := rubyText(e.key)
		help := ""
		if known == contextKeys && text == "user" {
			help = "; the SELinux user is given as name"
		} else if near := nearest(text, names); near != "" {
			help = "; did you mean " + near + "?"
		}
		c.warn(e.key.at, WarnUnknownKey, "%s has no key %q, it is ignored%s", where, clip(text), help)
	}
}

// warnEvent warns of a hook that is never run.
func (c *checker) warnEvent(e entry) {
	event := Event(rubyText(e.key))
	switch {
	case event.Scriptable() && e.key.kind == kindString:
	case event.Known():
		c.warn(e.key.at, WarnUnscriptable, "%s belongs to the deployment itself, its scripts are never run", event)
	default:
		var names []string
		for _, known := range Events() {
			if known.Scriptable() {
				names = append(names, string(known))
			}
		}
		help := ""
		if near := nearest(string(event), names); near != "" {
			help = "; did you mean " + near + "?"
		}
		c.warn(e.key.at, WarnUnknownHook, "no deployment has a lifecycle event %q, its scripts run only where `gitopsd apply --events` names it%s", clip(string(event)), help)
	}
}

// warnTimeouts warns if the scripts of one event may take longer than the service waits for them.
func (c *checker) warnTimeouts(event *value, scripts []Script) {
	sum := int64(0)
	for _, s := range scripts {
		sum += min(s.TimeoutSeconds, math.MaxInt64-sum)
	}
	if sum > maxEventSeconds {
		c.warn(event.at, WarnTimeoutOverMax, "the scripts of %s may take %d seconds together, CodeDeploy's service allows %d for one event", shown(event), sum, maxEventSeconds)
	}
}

// warnScript warns of values that mean something else than they look like.
func (c *checker) warnScript(s Script, item *value) {
	if timeout := item.get("timeout"); timeout.isTrue() {
		text := timeout.source
		switch {
		case timeout.kind == kindString && strings.Trim(timeout.text, "0123456789+_ ") != "",
			timeout.kind == kindFloat,
			timeout.kind == kindInt && (strings.Contains(text, ":") || len(text) > 1 && text[0] == '0'):
			c.warn(timeout.at, WarnTimeoutForm, "the timeout %s means %d seconds", clip(spelling(timeout)), s.TimeoutSeconds)
		}
	}
	sudo := s.sudo
	if s.Sudo && (sudo.kind != kindBool) {
		c.warn(sudo.at, WarnTruthy, "sudo: %s counts as true, as everything but false and null does", clip(inspect(sudo)))
	}
	if s.HasRunAs && s.RunAs == "" {
		c.warn(item.get("runas").at, WarnUnusable, "runas is an empty name, which stands for root; leave it out to run as the agent's user")
	}
	if strings.ContainsAny(s.Location, " \t\n") {
		c.warn(item.get("location").at, WarnPath, "the location %q holds a blank; the whole of it is the name of the script, arguments cannot be given", clip(s.Location))
	}
	if leadsOut(s.Location) {
		c.warn(item.get("location").at, WarnPath, "the location %q leads out of the bundle", clip(s.Location))
	}
}

// spelling is how a scalar was written.
func spelling(v *value) string {
	if v.source != "" {
		return v.source
	}
	return inspect(v)
}

// warnFile warns of paths that lead where their author did not mean them to.
func (c *checker) warnFile(f File) {
	for _, p := range f.unusable() {
		c.warn(p.Position, WarnUnusable, "%s; Install will fail", p.Message)
	}
	if leadsOut(f.Source) {
		c.warn(f.source.place(f.Position), WarnPath, "the source %q leads out of the bundle", clip(f.Source))
	}
	if !strings.HasPrefix(f.Destination, "/") {
		c.warn(f.destination.place(f.Position), WarnPath, "the destination %q is no absolute path; CodeDeploy's agent takes it relative to its own working directory", clip(f.Destination))
	}
}

// warnPermission warns of permissions that match nothing or cannot be set.
func (c *checker) warnPermission(p Permission) {
	for _, u := range p.Unusable {
		c.warn(u.Position, WarnUnusable, "%s; Install will fail if the permission meets a path", u.Message)
	}
	if !strings.HasPrefix(p.Object, "/") {
		c.warn(p.Position, WarnMatch, "the object %q is no absolute path and matches nothing", clip(p.Object))
	}
	if len(p.Types) == 0 {
		c.warn(p.types.place(p.Position), WarnMatch, "the list of types is empty, so that the permission matches nothing")
	}
	for _, glob := range append([]string{p.Pattern}, p.Except...) {
		switch {
		case strings.Contains(glob, "/"):
			c.warn(p.Position, WarnMatch, "the pattern %q holds a slash and matches nothing: patterns are about the direct children of the object", clip(glob))
		case strings.ContainsAny(glob, "?["):
			c.warn(p.Position, WarnMatch, "in the pattern %q only * is special, ? and [ stand for themselves", clip(glob))
		}
	}
	if p.Context != nil && p.Context.Range == nil {
		c.warn(p.Position, WarnMatch, "a context without a range cannot be deployed by CodeDeploy's agent, which fails on it; gitopsd sets it")
	}
}

// leadsOut says whether a path climbs out of the bundle; one that leads up and down again in it does not.
func leadsOut(p string) bool {
	p = path.Clean(strings.TrimLeft(p, "/"))
	return p == ".." || strings.HasPrefix(p, "../")
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// nearest finds the name that word was probably meant to be; empty if none is close.
func nearest(word string, names []string) string {
	if len(word) > 40 {
		return ""
	}
	best, found := 3, ""
	for _, name := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d < best && d < len(name)/2+1 {
			best, found = d, name
		}
	}
	return found
}

// distance is the number of characters to insert, delete or replace between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
