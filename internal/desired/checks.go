package desired

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// tagReference is ${tag:KEY} in a check; it stands for the tag of the host that runs the check.
var tagReference = regexp.MustCompile(`\$\{([^}]*)\}`)

// For puts a host's tags in the place of ${tag:KEY}, and checks what has come of it.
func (c Check) For(h Host) (Check, error) {
	var failed error
	expand := func(s string) string {
		return tagReference.ReplaceAllStringFunc(s, func(ref string) string {
			key, ok := strings.CutPrefix(ref[2:len(ref)-1], "tag:")
			value, has := h.Tags[key]
			switch {
			case !ok:
				failed = fmt.Errorf("%s is not known: only ${tag:KEY} is", ref)
			case !has:
				failed = fmt.Errorf("host %s has no tag %q", h.Name, key)
			}
			return value
		})
	}
	if c.HTTP != nil {
		h := *c.HTTP
		h.URL, h.Body, h.Header = expand(h.URL), expand(h.Body), maps.Clone(h.Header)
		for k, v := range h.Header {
			h.Header[k] = expand(v)
		}
		c.HTTP = &h
	}
	if c.TCP != nil {
		c.TCP = &TCPCheck{Address: expand(c.TCP.Address)}
	}
	if c.Exec != nil {
		argv := slices.Clone(c.Exec.Command)
		for i := range argv {
			argv[i] = expand(argv[i])
		}
		c.Exec = &ExecCheck{Command: argv}
	}
	if failed == nil {
		failed = c.valid()
	}
	if failed != nil {
		return Check{}, fmt.Errorf("cannot run check %q: %w", c.Name, failed)
	}
	return c, nil
}

// valid judges an expanded check's targets.
func (c Check) valid() error {
	if c.HTTP != nil {
		if message, _ := urlRule().Test(c.HTTP.URL); message != "" {
			return fmt.Errorf("http.url: %s", message)
		}
	}
	if c.TCP != nil {
		if err := CheckAddress(c.TCP.Address, false); err != nil {
			return fmt.Errorf("tcp.address: %w", err)
		}
	}
	if c.Exec != nil && len(c.Exec.Command) > 0 && !strings.HasPrefix(c.Exec.Command[0], "/") {
		return fmt.Errorf("exec.command: %.100q is not an absolute path", c.Exec.Command[0])
	}
	return nil
}

// checkChecks judges the checks of a group.yaml, each without a host as far as that goes.
func checkChecks(doc *strict.Doc, checks []Check) []Problem {
	var problems []Problem
	names := map[string]bool{}
	for i, c := range checks {
		at := fmt.Sprintf("checks[%d]", i)
		if names[c.Name] && c.Name != "" {
			problems = append(problems, doc.Problem(at, "give each a name of its own", "%s: the name %q is there twice", at, c.Name))
		}
		names[c.Name] = true
		kinds := 0
		for _, set := range []bool{c.HTTP != nil, c.TCP != nil, c.Exec != nil, c.Unit != nil} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			problems = append(problems, doc.Problem(at, "for example {name: up, http: {url: \"http://127.0.0.1:8080/\"}}", "%s: a check has exactly one of http, tcp, exec and systemd", at))
			continue
		}
		if !c.refersToTags() {
			if err := c.valid(); err != nil {
				problems = append(problems, doc.Problem(at, "", "%s: %v", at, err))
			}
		}
	}
	return problems
}

// refersToTags says whether the check differs from host to host.
func (c Check) refersToTags() bool {
	var texts []string
	if c.HTTP != nil {
		texts = append(append(texts, c.HTTP.URL, c.HTTP.Body), slices.Collect(maps.Values(c.HTTP.Header))...)
	}
	if c.TCP != nil {
		texts = append(texts, c.TCP.Address)
	}
	if c.Exec != nil {
		texts = append(texts, c.Exec.Command...)
	}
	return slices.ContainsFunc(texts, tagReference.MatchString)
}

// checkMembers expands every check for every member, and reports the first host a check does not fit.
func checkMembers(doc *strict.Doc, checks []Check, members []HostName, hosts map[HostName]Host) []Problem {
	var problems []Problem
	for i, c := range checks {
		if !c.refersToTags() {
			continue
		}
		for _, name := range members {
			if _, err := c.For(hosts[name]); err != nil {
				at := fmt.Sprintf("checks[%d]", i)
				problems = append(problems, doc.Problem(at, "", "%s: %v", at, err))
				break
			}
		}
	}
	return problems
}
