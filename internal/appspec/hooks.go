package appspec

import (
	"math"
	"math/big"
)

// hooks judges the section hooks.
func (c *checker) hooks(section *value) map[Event][]Script {
	hooks := make(map[Event][]Script)
	if !section.isTrue() {
		return hooks
	}
	if section.kind != kindMap {
		c.fail(section.at, "write the event's name, a colon, and below it a list of scripts", "hooks must be a mapping from lifecycle events to lists of scripts, not %s", describe(section))
		return hooks
	}
	for _, e := range section.entries {
		name := rubyText(e.key)
		c.warnEvent(e)
		if !e.val.isTrue() {
			continue
		}
		items, ok := elements(e.val)
		if !ok {
			c.fail(e.val.place(e.key.at), "begin each script with a dash", "the scripts of %s must be a list of mappings with a location, not %s", clip(name), describe(e.val))
			continue
		}
		scripts := make([]Script, 0, len(items))
		for _, item := range items {
			if s, ok := c.script(item, e.key); ok {
				scripts = append(scripts, s)
			}
		}
		hooks[Event(name)] = scripts
		c.warnTimeouts(e.key, scripts)
	}
	return hooks
}

// script judges one script of the hook whose name is event.
func (c *checker) script(item, event *value) (Script, bool) {
	at := item.place(event.at)
	if item.isNil() || item.kind != kindMap {
		c.fail(at, "write location: and the path", "a script of %s must be a mapping with a location, not %s", shown(event), describe(item))
		return Script{}, false
	}
	c.knownKeys(item, "a script of "+shown(event), scriptKeys)
	location := item.get("location")
	s := Script{Location: rubyStrip(rubyText(location)), Position: at, sudo: item.get("sudo")}
	if location.isNil() || s.Location == "" {
		c.fail(at, "", "The deployment failed because the application specification file specifies a script with no location value. Specify the location in the hooks section of the AppSpec file, and then try again.")
		return Script{}, false
	}
	if runAs := item.get("runas"); !runAs.isNil() {
		s.RunAs, s.HasRunAs = rubyStrip(rubyText(runAs)), true
	}
	s.Sudo = s.sudo.isTrue()
	timeout := item.get("timeout")
	seconds, ok := timeoutSeconds(timeout)
	switch {
	case !ok:
		c.fail(timeout.place(at), "write the seconds as a number", "the timeout of a script must be a number of seconds, not %s (%s)", describe(timeout), shown(timeout))
		return Script{}, false
	case seconds <= 0:
		c.fail(timeout.place(at), "the value read is "+shown(timeout)+", it must be at least one second", "The deployment failed because an invalid timeout value was provided for a script in the application specification file. Make corrections in the hooks section of the AppSpec file, and then try again.")
		return Script{}, false
	}
	s.TimeoutSeconds, s.timeout = seconds, timeout
	c.warnScript(s, item)
	return s, true
}

// timeoutSeconds converts a timeout as Ruby's to_i does; ok is false for what has no to_i. Beyond what an int64 holds it is capped.
func timeoutSeconds(v *value) (seconds int64, ok bool) {
	if !v.isTrue() {
		return DefaultTimeoutSeconds, true
	}
	n := new(big.Int)
	switch v.kind {
	case kindInt:
		n = v.integer
	case kindFloat:
		if math.IsNaN(v.float) || math.IsInf(v.float, 0) {
			return 0, false
		}
		n, _ = big.NewFloat(v.float).Int(n)
	case kindString:
		n = rubyInt(v.text)
	default:
		return 0, false
	}
	switch {
	case n.IsInt64():
		return n.Int64(), true
	case n.Sign() < 0:
		return math.MinInt64, true
	}
	return math.MaxInt64, true
}
