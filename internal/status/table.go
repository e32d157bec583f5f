package status

import (
	"fmt"
	"sort"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Columns of the table of hosts: each lifecycle event an in-place deployment can show, in order, with a short heading.
var columns = []struct{ event, heading string }{
	{"BeforeBlockTraffic", "BfBlk"}, {"AfterBlockTraffic", "AfBlk"},
	{"ApplicationStop", "Stop"}, {"DownloadBundle", "Down"}, {"BeforeInstall", "BefI"}, {"Install", "Inst"},
	{"AfterInstall", "AftI"}, {"ApplicationStart", "Start"}, {"ValidateService", "Valid"},
	{"BeforeAllowTraffic", "BfAlw"}, {"AfterAllowTraffic", "AfAlw"},
}

// Palette colours the table; the zero Palette prints plain text. Colour is never the only sign: each state has a glyph and a word of its own.
type Palette struct{ Good, Bad, Busy, Dim, Bold, Off string }

// ANSI is the palette of a terminal.
func ANSI() Palette {
	return Palette{Good: "\x1b[32m", Bad: "\x1b[31m", Busy: "\x1b[33m", Dim: "\x1b[2m", Bold: "\x1b[1m", Off: "\x1b[0m"}
}

// paint wraps text in a colour.
func (p Palette) paint(colour, text string) string {
	if colour == "" {
		return text
	}
	return colour + text + p.Off
}

// Table renders one group: a headline, why it waits or failed, and a line a host with its lifecycle events. It is a pure function of what was reported.
func Table(g Group, p Palette) string {
	var b strings.Builder
	g = harmless(g)
	headline(&b, g, p)
	if g.Why != "" {
		fmt.Fprintf(&b, "  %s\n", g.Why)
	}
	hostLines(&b, g, p)
	failure(&b, g, p)
	return b.String()
}

// harmless makes every text of a report printable: it comes from commits, hooks and other hosts. Output of hooks is treated line by line where it is printed.
func harmless(g Group) Group {
	line := func(s string) string { return Printable(strings.Join(strings.Fields(s), " ")) }
	events := func(all []Event) []Event {
		out := make([]Event, 0, len(all))
		for _, e := range all {
			out = append(out, harmlessEvent(e, line))
		}
		return out
	}
	g.Group, g.ID, g.Name, g.State, g.Why = line(g.Group), line(g.ID), line(g.Name), line(g.State), line(g.Why)
	g.Desired.Commit, g.Running.Commit = line(g.Desired.Commit), line(g.Running.Commit)
	if g.Deployment != nil {
		d := *g.Deployment
		d.ID, d.Creator, d.Leader = line(d.ID), line(d.Creator), line(d.Leader)
		g.Deployment = &d
	}
	hosts := make([]Host, 0, len(g.Hosts))
	for _, h := range g.Hosts {
		h.Name, h.Status, h.Health, h.Revision, h.Events = line(h.Name), line(h.Status), line(h.Health), line(h.Revision), events(h.Events)
		hosts = append(hosts, h)
	}
	failures := make([]Failure, 0, len(g.Failures))
	for _, f := range g.Failures {
		f.Host, f.Event = line(f.Host), harmlessEvent(f.Event, line)
		failures = append(failures, f)
	}
	g.Hosts, g.Failures = hosts, failures
	return g
}

func harmlessEvent(e Event, line func(string) string) Event {
	e.Event = line(e.Event)
	if e.Diagnostics != nil {
		d := *e.Diagnostics
		d.ScriptName, d.Message = line(d.ScriptName), line(d.Message)
		e.Diagnostics = &d
	}
	return e
}

// headline names the group, its state, the deployment and the revisions.
func headline(b *strings.Builder, g Group, p Palette) {
	fmt.Fprintf(b, "%s  %s", p.paint(p.Bold, g.Group), p.paint(stateColour(g.State, p), g.State))
	if d := g.Deployment; d != nil {
		fmt.Fprintf(b, "  %s by %s", d.ID, d.Creator)
		if d.Waves > 1 {
			fmt.Fprintf(b, "  wave %d/%d", d.Wave, d.Waves)
		}
		if d.Leader != "" {
			fmt.Fprintf(b, "  leader %s term %d", d.Leader, d.Term)
		}
	}
	fmt.Fprintf(b, "\n  desired %s  running %s\n", Short(g.Desired.Commit), Short(g.Running.Commit))
}

// hostLines writes the table.
func hostLines(b *strings.Builder, g Group, p Palette) {
	if len(g.Hosts) == 0 {
		if g.State != "None" && g.State != "Unknown" { // whose hosts are not known here
			fmt.Fprintln(b, "  no host matches this group")
		}
		return
	}
	used := usedColumns(g)
	width := 4
	for _, h := range g.Hosts {
		width = max(width, utf8.RuneCountInString(h.Name))
	}
	fmt.Fprintf(b, "  %-*s", width, "HOST")
	for _, c := range used {
		fmt.Fprintf(b, " %-5s", columns[c].heading)
	}
	fmt.Fprintf(b, " %-11s %-9s %-9s %8s %8s\n", "STATUS", "HEALTH", "REVISION", "ORIGIN", "PEERS")
	for _, h := range g.Hosts {
		fmt.Fprintf(b, "  %-*s", width, h.Name)
		for _, c := range used {
			b.WriteString(" " + cell(h, columns[c].event, p))
		}
		fmt.Fprintf(b, " %s %s %-9s %8s %8s%s\n", padded(h.Status, 11, stateColour(h.Status, p), p), padded(h.Health, 9, stateColour(h.Health, p), p),
			Short(h.Revision), Bytes(h.BytesFromOrigin), Bytes(h.BytesFromPeers), coming(h))
	}
}

// coming says how fast a host's bundle comes, if it does.
func coming(h Host) string {
	if h.BytesPerSecond <= 0 {
		return ""
	}
	text := "  " + Bytes(h.BytesPerSecond) + "/s"
	if h.ETASeconds > 0 {
		text += ", " + (time.Duration(h.ETASeconds) * time.Second).String() + " left"
	}
	return text
}

// usedColumns leaves out events that no host has.
func usedColumns(g Group) []int {
	seen := map[string]bool{}
	for _, h := range g.Hosts {
		for _, e := range h.Events {
			seen[e.Event] = true
		}
	}
	var used []int
	for i, c := range columns {
		if seen[c.event] {
			used = append(used, i)
		}
	}
	return used
}

// cell is five characters wide: a glyph for the event's status.
func cell(h Host, event string, p Palette) string {
	for _, e := range h.Events {
		if e.Event == event {
			switch e.Status {
			case "Succeeded":
				return p.paint(p.Good, "✔    ")
			case "Failed":
				return p.paint(p.Bad, "✖    ")
			case "InProgress":
				return p.paint(p.Busy, "▸    ")
			case "Skipped":
				return p.paint(p.Dim, "-    ")
			}
			return pending(h, p)
		}
	}
	return pending(h, p)
}

// pending is the cell of an event that did not begin: a dot where it may still, nothing where the deployment is over for the host.
func pending(h Host, p Palette) string {
	switch h.Status {
	case "Succeeded", "Unavailable", "Failed", "Skipped", "Behind":
		return "     "
	}
	return p.paint(p.Dim, "·    ")
}

// failure prints the last lines of the first event that failed, host by host in order of name; else of the failure the desired revision is held back for.
func failure(b *strings.Builder, g Group, p Palette) {
	hosts := append([]Host(nil), g.Hosts...)
	sort.Slice(hosts, func(i, j int) bool { return hosts[i].Name < hosts[j].Name })
	for _, h := range hosts {
		for _, e := range h.Events {
			if e.Status == "Failed" && e.Diagnostics != nil {
				diagnosis(b, h.Name, e, p)
				return
			}
		}
	}
	for _, f := range g.Failures {
		if f.Diagnostics != nil {
			diagnosis(b, f.Host, f.Event, p)
			return
		}
	}
}

// diagnosis prints which script of a host failed, and its last lines.
func diagnosis(b *strings.Builder, host string, e Event, p Palette) {
	fmt.Fprintf(b, "  %s\n", p.paint(p.Bad, strings.TrimRight(fmt.Sprintf("── %s %s: %s", host, e.Place(), e.Diagnostics.Message), " :")))
	for _, line := range lastLines(e.Diagnostics.LogTail, 6) {
		fmt.Fprintf(b, "     %s\n", line)
	}
}

// lastLines returns at most n lines from the end, with control characters made harmless.
func lastLines(text string, n int) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	for i, line := range lines {
		lines[i] = Printable(line)
	}
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines
}

// Printable replaces control characters and those that change the direction of writing, so that a hook's output cannot steer an operator's terminal, nor look like
// something else.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return r
		case r == utf8.RuneError, unicode.Is(unicode.Cc, r), unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029':
			return '?'
		}
		return r
	}, s)
}

// padded pads before colouring, so that columns stay straight.
func padded(text string, width int, colour string, p Palette) string {
	return p.paint(colour, fmt.Sprintf("%-*s", width, text))
}

// stateColour picks the colour of a state of any kind.
func stateColour(state string, p Palette) string {
	switch strings.ToLower(state) {
	case "succeeded", "healthy", "ready":
		return p.Good
	case "failed", "unhealthy", "heldback", "blocked", "refused", "rolledback", "invalidconfig", "nohosts":
		return p.Bad
	case "inprogress", "baking", "queued", "created", "paused", "waiting":
		return p.Busy
	}
	return ""
}

// Short shortens a commit id or a digest for a table.
func Short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 8 {
		return id[:8]
	}
	if id == "" {
		return "-"
	}
	return id
}

// Bytes prints a size with three figures at most and a binary unit.
func Bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	if value < 10 {
		return fmt.Sprintf("%.1f %s", value, units[unit])
	}
	return fmt.Sprintf("%.0f %s", value, units[unit])
}

// Indented returns the last n lines of a hook's output, each indented and made printable.
func Indented(text string, n int) string {
	var b strings.Builder
	for _, line := range lastLines(text, n) {
		b.WriteString("    " + line + "\n")
	}
	return b.String()
}
