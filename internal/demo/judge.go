package demo

import (
	"fmt"
	"slices"
	"strings"
)

// How many bytes of an archive may leave the S3 server for one release, in percent of the archive.
const (
	copyLeast = 90
	copyMost  = 101
)

// plot is how a chapter should go.
type plot struct {
	before string // release that every host served when it began; "" for none
	target string // release that was asked for
	after  string // release that every host serves at its end
	alone  bool   // one host runs the target while all others still run what was before
	still  bool   // nothing may change at all
	window int    // hosts that may be away from before, target and after at once; 0 when all may
	bytes  int64  // size of the archive that leaves S3 once; 0 when nothing may
}

// facts are what was seen from outside the agents.
type facts struct {
	sights []sight // in order, the first from before the chapter
	whole  bool    // no sight is missing
	end    sight
	bytes  int64 // of archives that left S3
}

// judge compares; it returns a sentence for each thing that did not go as it should.
func judge(p plot, f facts) []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !f.whole {
		say("more changed on the ports than could be followed")
	}
	for _, host := range f.end.hosts() {
		if f.end[host] != p.after {
			say("%s serves %s at the end, not %s", host, named(f.end[host]), named(p.after))
		}
	}
	if w := judgeBytes(p.bytes, f.bytes); w != "" {
		say("%s", w)
	}
	if p.still {
		return append(wrong, judgeStill(p, f.sights)...)
	}
	if p.window > 0 {
		wrong = append(wrong, judgeWindow(p, f.sights)...)
	}
	switch {
	case p.target != p.after:
		wrong = append(wrong, judgeHeld(p, f.sights)...)
	case p.alone && len(f.end) > 1:
		wrong = append(wrong, judgeAlone(p, f.sights)...)
	}
	return wrong
}

// judgeBytes wants one copy of the archive, or none.
func judgeBytes(want, left int64) string {
	switch {
	case want == 0 && left != 0:
		return fmt.Sprintf("%d bytes of archives left S3, and none should have", left)
	case left*100 > want*copyMost:
		return fmt.Sprintf("%d bytes of archives left S3, more than one copy of %d", left, want)
	case left*100 < want*copyLeast:
		return fmt.Sprintf("%d bytes of archives left S3, less than one copy of %d", left, want)
	}
	return ""
}

// judgeStill wants every host to serve the same all the time.
func judgeStill(p plot, sights []sight) []string {
	for _, s := range sights {
		for _, host := range s.hosts() {
			if s[host] != p.before {
				return []string{fmt.Sprintf("%s served %s, although nothing should have been deployed", host, named(s[host]))}
			}
		}
	}
	return nil
}

// judgeWindow bounds how many hosts were down at once.
func judgeWindow(p plot, sights []sight) []string {
	for _, s := range sights {
		var down []string
		for _, host := range s.hosts() {
			if s[host] == "" {
				down = append(down, host)
			}
		}
		if len(down) > p.window {
			return []string{fmt.Sprintf("%s were down at the same time, and at most %d may be", strings.Join(down, ", "), p.window)}
		}
	}
	return nil
}

// judgeAlone wants to have seen one host run the new release alone before any other left the old one.
func judgeAlone(p plot, sights []sight) []string {
	for _, s := range sights {
		var away []string
		for _, host := range s.hosts() {
			if s[host] != p.before {
				away = append(away, host)
			}
		}
		switch {
		case len(away) > 1:
			return []string{fmt.Sprintf("%s left release %s together, before one host alone had run release %s", strings.Join(away, ", "), p.before, p.target)}
		case len(away) == 1 && s[away[0]] == p.target:
			return nil
		}
	}
	return []string{fmt.Sprintf("no host was seen running release %s alone", p.target)}
}

// judgeHeld wants the target to have been tried on exactly one host.
func judgeHeld(p plot, sights []sight) []string {
	tried := map[string]bool{}
	for _, s := range sights {
		for host, serves := range s {
			if serves != p.before {
				tried[host] = true
			}
		}
	}
	if len(tried) == 1 {
		return nil
	}
	hosts := make([]string, 0, len(tried))
	for host := range tried {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	if len(hosts) == 0 {
		return []string{fmt.Sprintf("release %s was tried on no host", p.target)}
	}
	return []string{fmt.Sprintf("release %s reached %s, and it should have stopped at the first host", p.target, strings.Join(hosts, ", "))}
}

// hosts are the names in order.
func (s sight) hosts() []string {
	names := make([]string, 0, len(s))
	for host := range s {
		names = append(names, host)
	}
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b) // web-2 before web-10
		}
		return strings.Compare(a, b)
	})
	return names
}

// all says whether every host serves a release.
func (s sight) all(release string) bool {
	for _, serves := range s {
		if serves != release {
			return false
		}
	}
	return true
}

// named names a release in a sentence.
func named(release string) string {
	if release == "" {
		return "nothing"
	}
	return fmt.Sprintf("release %.40q", release)
}
