package agent

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/desired"
)

// TestATargetThatMatchesNoHostIsNamed: a group without hosts has deployed nothing, and its operator must read which tag no host has.
func TestATargetThatMatchesNoHostIsNamed(t *testing.T) {
	tag := func(key, value string) desired.TagMatch {
		return desired.TagMatch{Key: key, Value: value, HasKey: true, HasValue: value != ""}
	}
	w := &world{State: &desired.State{Hosts: map[desired.HostName]desired.Host{
		"a": {Tags: map[string]string{"role": "web"}}, "b": {Tags: map[string]string{"env": "test"}}, "c": {}}}}
	group := func(sets ...[]desired.TagMatch) desired.Group {
		return desired.Group{Folder: "shop/web", Targets: desired.Targets{Selectors: []desired.Selector{{Sets: sets}}}}
	}
	for name, c := range map[string]struct {
		group desired.Group
		want  []string
	}{
		"one tag":         {group([]desired.TagMatch{tag("role", "db")}), []string{"none of the 3 hosts", "no host has the tag role=db;"}},
		"alternatives":    {group([]desired.TagMatch{tag("role", "db"), tag("rack", "")}), []string{"no host has the tag role=db or rack=;"}},
		"one set of two":  {group([]desired.TagMatch{tag("role", "web")}, []desired.TagMatch{tag("env", "prod")}), []string{"no host has the tag env=prod;"}},
		"never at once":   {group([]desired.TagMatch{tag("role", "web")}, []desired.TagMatch{tag("env", "test")}), []string{"no host has at once the tags role=web and env=test;"}},
		"hosts that left": {desired.Group{Folder: "shop/web"}, []string{"name none of the 3 hosts"}},
	} {
		got := noHosts(w, c.group)
		for _, want := range append(c.want, "nothing to deploy to", "shop/web/group.yaml") {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q does not say %q", name, got, want)
			}
		}
	}
}
