package rollout

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the answers in testdata/*.txt")

// TestConversations plays testdata/*.txt: each block is what happens, a line
// ----, and what the machine makes of it. `go test -run Conversations -rewrite`
// writes the answers anew, to be read in review.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playFile(t, file) })
	}
}

func playFile(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := newConvo(t)
	var out strings.Builder
	for i, block := range strings.Split(strings.TrimRight(string(b), "\n"), "\n\n") {
		question, want, asked := strings.Cut(block+"\n", "----\n")
		if !asked && onlyComments(block) {
			out.WriteString(block + "\n\n")
			continue
		}
		got := c.play(question)
		if want = strings.TrimSuffix(want, "\n"); !*rewrite && got != want+ifText(want) {
			t.Errorf("%s, block %d:\n%s---- got\n%s---- want\n%s\n", file, i+1, question, got, want)
		}
		out.WriteString(strings.TrimRight(question, "\n") + "\n----\n" + got + "\n")
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func onlyComments(block string) bool {
	for _, l := range strings.Split(block, "\n") {
		if !strings.HasPrefix(l, "#") {
			return false
		}
	}
	return true
}

func ifText(s string) string {
	if s == "" {
		return ""
	}
	return "\n"
}

// convo speaks to one Machine and tells what changed.
type convo struct {
	t      *testing.T
	m      *Machine
	twin   *Machine // applies the same; snapshotted and restored before every command
	index  uint64
	term   uint64
	names  map[string]string // deployment id -> D1, D2, ...
	seen   map[string]string // what was said last, by subject
	groups map[string]*Target
	group  string
	ops    int
}

func newConvo(t *testing.T) *convo {
	return &convo{t: t, m: NewMachine(), twin: NewMachine(), term: 1, names: map[string]string{}, seen: map[string]string{}, groups: map[string]*Target{}, group: "web"}
}

func (c *convo) play(question string) string {
	var out strings.Builder
	for _, l := range strings.Split(strings.TrimSpace(question), "\n") {
		if l = strings.TrimSpace(l); l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		for _, said := range c.line(strings.Fields(l)) {
			out.WriteString(said + "\n")
		}
	}
	for _, said := range c.states() {
		out.WriteString(said + "\n")
	}
	return out.String()
}

// args splits words into names and key=value pairs.
func args(words []string) (names []string, kv map[string]string) {
	kv = map[string]string{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			kv[k] = strings.ReplaceAll(v, "_", " ")
		} else {
			names = append(names, w)
		}
	}
	return names, kv
}

func (c *convo) line(words []string) []string {
	names, kv := args(words[1:])
	if g := kv["group"]; g != "" {
		c.group = g
	}
	switch words[0] {
	case "lead":
		if n := kv["term"]; n != "" {
			c.term = uint64(c.number(n))
		}
		return c.send(names[0], Lead{Host: names[0], Voters: strings.Split(kv["voters"], ","), Epoch: uint64(c.number(kv["epoch"]))})
	case "tick":
		return c.tick(names[0])
	case "dead", "alive":
		var l Liveness
		for _, h := range names {
			l.Hosts = append(l.Hosts, HostLife{Host: h, Alive: words[0] == "alive", For: c.duration(kv["for"])})
		}
		return c.lead(l)
	case "target":
		return c.target(names, kv)
	case "orphan":
		v, _ := c.m.Group(c.group)
		return c.lead(Orphan{Group: c.group, Base: v.TargetVersion})
	case "hello":
		return c.each(names, func(h string) Command {
			r := Spec{}
			if kv["runs"] != "" {
				r = specOf(kv["runs"])
			}
			return Hello{Group: c.group, Boot: "boot-" + kv["boot"], Running: r, Whole: kv["whole"] != "no" && kv["runs"] != ""}
		})
	case "ready":
		return c.each(names, func(string) Command {
			s := specOf(kv["for"])
			return Ready{Group: c.group, SpecHash: s.SpecHash, Commit: s.Commit, Refused: RefusalKind(kv["refused"]), Reason: kv["why"]}
		})
	case "health":
		return c.each(names[:len(names)-1], func(h string) Command {
			g, _, _ := c.m.find(c.group)
			return Health{Group: c.group, SpecHash: g.host(h).Running.SpecHash, State: HealthState(names[len(names)-1]), Evidence: kv["why"]}
		})
	case "accept", "busy", "refuse", "stopping", "done":
		return c.each(names, func(h string) Command { return c.report(words[0], h, kv) })
	case "operator":
		c.ops++
		id := fmt.Sprintf("op-%d", c.ops)
		if kv["id"] != "" {
			id = kv["id"]
		}
		return c.send("h1", Operator{Group: c.group, ID: id, Verb: Verb(names[0]), Actor: kv["by"], Reason: kv["why"]})
	case "status":
		return c.status()
	case "history":
		return c.history()
	case "needs":
		n := c.m.Needs()
		return []string{fmt.Sprintf("tick=%v handover=%s", n.Tick, n.Handover)}
	case "break":
		broken := func(g string) bool { return g == names[0] }
		c.m.breakIn, c.twin.breakIn = broken, broken
		return nil
	case "assignments":
		b, err := json.Marshal(c.m.Assignments(names[0]))
		if err != nil {
			c.t.Fatal(err)
		}
		return []string{c.rename(string(b))}
	}
	c.t.Fatalf("what is %q?", words[0])
	return nil
}

func specOf(name string) Spec {
	return Spec{Commit: "commit-" + name, SpecHash: name, Digest: "sha256:" + name}
}

func (c *convo) tick(howLong string) []string {
	var out []string
	for left := c.duration(howLong); left > 0; left -= maxTick {
		out = append(out, c.lead(Tick{Elapsed: min(left, maxTick)})...)
	}
	return out
}

// report speaks for a host about the grant it holds, or held last.
func (c *convo) report(what, h string, kv map[string]string) Command {
	g, _, _ := c.m.find(c.group)
	var token Token
	if st := g.host(h); st != nil && st.Grant != nil {
		token = st.Grant.Token
	}
	if kv["seq"] != "" {
		token.Seq = uint64(c.number(kv["seq"]))
	}
	switch what {
	case "accept":
		return Answer{Group: c.group, Grant: token, Verdict: Accepted}
	case "busy":
		return Answer{Group: c.group, Grant: token, Verdict: Busy, Reason: kv["why"]}
	case "refuse":
		return Answer{Group: c.group, Grant: token, Verdict: Refused, Kind: RefusalKind(kv["kind"]), Reason: kv["why"]}
	case "stopping":
		return Progress{Group: c.group, Grant: token, Stopped: true, Events: []EventRecord{{Event: "ApplicationStop", Status: "InProgress"}}}
	}
	d := Done{Group: c.group, Grant: token, Outcome: OutcomeSucceeded, Stopped: kv["stopped"] != "no"}
	if kv["outcome"] != "" {
		d.Outcome = Outcome(kv["outcome"])
	}
	if kv["failed"] != "" {
		d.Outcome, d.Event = OutcomeFailed, kv["failed"]
		if kv["exit"] != "" {
			d.ExitCode = c.number(kv["exit"])
		}
		d.Events = []EventRecord{{Event: d.Event, Status: "Failed", Diagnostics: &Diagnostics{ErrorCode: "ScriptFailed", LogTail: "boom"}}}
	}
	return d
}

func (c *convo) target(names []string, kv map[string]string) []string {
	t := c.groups[c.group]
	if t == nil {
		t = &Target{Group: c.group, Application: "site", Name: c.group + "-production", Folder: "shop/" + c.group}
		t.Policy = Policy{OneAtATime: true}
		c.groups[c.group] = t
	}
	v, _ := c.m.Group(c.group)
	t.Base = v.TargetVersion
	if len(names) > 0 {
		t.Spec = specOf(names[0])
	}
	p := &t.Policy
	for k, v := range kv {
		switch k {
		case "hosts":
			t.Members = nil
			for _, h := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' }) {
				name, zone, _ := strings.Cut(h, "/")
				name, storage, _ := strings.Cut(name, "#")
				t.Members = append(t.Members, MemberInfo{Host: name, Storage: storage, Zone: zone, Tags: map[string]string{"role": "web"}})
			}
		case "commit":
			t.Spec.Commit = v
		case "base":
			t.Base = uint64(c.number(v))
		case "attempt":
			t.Attempt = c.number(v)
		case "suspend":
			t.Suspend = v == "yes"
		case "config":
			q, err := Predefined(v)
			if err != nil {
				c.t.Fatal(err)
			}
			p.OneAtATime, p.HalfAtATime, p.MinimumHealthy = q.OneAtATime, q.HalfAtATime, q.MinimumHealthy
		case "minimum":
			p.OneAtATime, p.MinimumHealthy = false, Minimum{Type: HostCount, Value: c.number(v)}
		case "rollback":
			p.AutoRollback = map[string][]RollbackEvent{"on": {RollbackOnFailure, RollbackOnRequest}, "off": nil}[v]
		case "checks":
			p.Checks = c.number(v)
		case "waves":
			p.Waves = nil
			for _, w := range strings.Split(v, ",") {
				n, bake, _ := strings.Cut(w, "/")
				wave := Wave{Bake: c.duration(bake), Rest: n == "rest"}
				if pc, ok := strings.CutSuffix(n, "%"); ok {
					wave.Percent = c.number(pc)
				} else if n != "rest" {
					wave.Hosts = c.number(n)
				}
				p.Waves = append(p.Waves, wave)
			}
		case "zonal": // FIRST-BAKE/BAKE/MINIMUM
			w := strings.Split(v, "/")
			p.Zonal = &Zonal{FirstMonitor: c.duration(w[0]), Monitor: c.duration(w[1]), PerZone: Minimum{Type: HostCount, Value: c.number(w[2])}}
		case "unreachable":
			p.Unreachable = Unreachable(v)
		case "limit":
			p.DeploymentLimit = c.duration(v)
		case "supersede":
			p.Supersede = Supersede(v)
		case "active":
			t.SetActive = c.number(v)
		case "inflight":
			t.SetInFlight = c.number(v)
		case "group":
		default:
			c.t.Fatalf("what is %s=%s?", k, v)
		}
	}
	return c.lead(*t)
}

func (c *convo) each(hosts []string, cmd func(string) Command) []string {
	if len(hosts) == 1 && hosts[0] == "all" {
		hosts = nil
		v, _ := c.m.Group(c.group)
		for _, h := range v.Hosts {
			hosts = append(hosts, h.Name)
		}
	}
	var out []string
	for _, h := range hosts {
		out = append(out, c.send(h, cmd(h))...)
	}
	return out
}

func (c *convo) lead(cmd Command) []string {
	leader, _ := c.m.Leader()
	return c.send(leader, cmd)
}

func (c *convo) send(from string, cmd Command) []string {
	c.index++
	b, err := Encode(cmd, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	if err != nil {
		c.t.Fatal(err)
	}
	answer := c.m.Apply(c.index, c.term, from, b)
	c.copy(from, b, answer)
	var r Response
	if err := json.Unmarshal(answer, &r); err != nil {
		c.t.Fatal(err)
	}
	out := c.news()
	if !r.OK {
		out = append([]string{"refused: " + c.rename(r.Refused)}, out...)
	}
	return out
}

// copy lets a twin that was just restored from its own snapshot apply the same
// command: it must come to the same bytes.
func (c *convo) copy(from string, b, answer []byte) {
	if c.twin == nil {
		return
	}
	snap, err := c.twin.Snapshot()
	if err != nil {
		c.t.Fatal(err)
	}
	restored := NewMachine()
	if err := restored.Restore(snap); err != nil {
		c.t.Fatal(err)
	}
	restored.breakIn, c.twin = c.twin.breakIn, restored
	if got := c.twin.Apply(c.index, c.term, from, b); string(got) != string(answer) {
		c.t.Fatalf("a restored machine answers %s, not %s", got, answer)
	}
	one, _ := c.m.Hash()
	two, _ := c.twin.Hash()
	if one != two {
		c.t.Fatalf("a restored machine has another state after %s", b[headerBytes:])
	}
}

// news tells what changed: grants, deployments begun and ended, states.
func (c *convo) news() []string {
	var out []string
	for _, g := range c.m.s.Groups {
		label := ""
		if len(c.m.s.Groups) > 1 {
			label = g.ID + ": "
		}
		say := func(subject, what string) {
			if what = c.rename(what); c.seen[g.ID+subject] != what {
				c.seen[g.ID+subject] = what
				if what != "" {
					out = append(out, label+what)
				}
			}
		}
		all := slices.Clone(g.History)
		for _, d := range append(all, g.CatchUp, g.Active) {
			if d == nil {
				continue
			}
			if c.names[d.ID] == "" {
				c.names[d.ID] = fmt.Sprintf("D%d", len(c.names)+1)
				of := ""
				if d.RollbackOf != "" {
					of = " of " + d.RollbackOf
				}
				say("begin "+d.ID, fmt.Sprintf("%s begins: %s%s to %s by %s", d.ID, d.Kind, of, d.Spec.SpecHash, d.Creator))
			}
			if d.ended() || d.EndTime != "" {
				say("end "+d.ID, strings.TrimSpace(fmt.Sprintf("%s ends: %s %s", d.ID, d.Status, d.ErrorCode))+": "+d.Reason)
			}
		}
		for _, h := range g.Hosts {
			what := ""
			if h.Grant != nil {
				what = fmt.Sprintf("grant %d: %s to %s in %s", h.Grant.Token.Seq, h.Name, h.Grant.Spec.SpecHash, h.Grant.Deployment)
			}
			say("grant "+h.Name, what)
		}
	}
	return out
}

// states tells which groups are in another state than when it was last asked.
func (c *convo) states() []string {
	var out []string
	for _, g := range c.m.s.Groups {
		state, why := g.state(c.m.turn())
		what := c.rename(fmt.Sprintf("%s: %s", state, why))
		if c.seen[g.ID+"state"] == what {
			continue
		}
		c.seen[g.ID+"state"] = what
		if len(c.m.s.Groups) > 1 {
			what = g.ID + ": " + what
		}
		out = append(out, what)
	}
	return out
}

func (c *convo) rename(s string) string {
	for id, name := range c.names {
		s = strings.ReplaceAll(s, id, name)
	}
	return s
}

func (c *convo) status() []string {
	v, _ := c.m.Group(c.group)
	out := []string{fmt.Sprintf("%s %s desired=%s running=%s", v.Group, v.State, v.Desired.SpecHash, v.Running.SpecHash)}
	for _, h := range v.Hosts {
		l := fmt.Sprintf("  %s %s %s runs=%s", h.Name, h.Status, h.Health, h.SpecHash)
		if h.Reason != "" {
			l += " (" + h.Reason + ")"
		}
		out = append(out, c.rename(l))
	}
	for _, q := range v.Quarantine {
		out = append(out, c.rename(fmt.Sprintf("  quarantined %s attempt %d by %s: %s", q.SpecHash, q.Attempt, q.Deployment, q.Reason)))
	}
	return out
}

func (c *convo) history() []string {
	ds, _ := c.m.History(c.group)
	var out []string
	for _, d := range ds {
		l := fmt.Sprintf("%s %s %s by %s %s", d.ID, d.Kind, d.SpecHash, d.Creator, d.Status)
		for _, h := range d.Hosts {
			l += fmt.Sprintf(" %s=%s", h.Name, h.Status)
		}
		out = append(out, c.rename(l))
	}
	return out
}

func (c *convo) number(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *convo) duration(s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}
