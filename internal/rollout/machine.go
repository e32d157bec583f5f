package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Machine is the replicated state of one coordinator set: the clock, who leads,
// who is dead, and one independently stepped state a group. It satisfies
// consensus.Machine. It is not safe for concurrent use.
type Machine struct {
	s       setState
	stopped error

	// breakIn makes a group's step panic; tests set it.
	breakIn func(group string) bool
}

// NewMachine returns a Machine without groups.
func NewMachine() *Machine { return &Machine{s: setState{Version: FormatVersion}} }

// turn is the context of one Apply: what a group may know of the set.
type turn struct {
	m    *Machine
	now  time.Duration
	at   string // wall time of the command, RFC 3339; data only
	busy map[string]bool
	// hosts of the set between grant and Done: those not lost, the voters; and deployments past their gate
	inFlight, voters, active int
}

// full says whether as many hosts are in flight as the set allows.
func (t *turn) full() bool { return t.m.s.SetInFlight > 0 && t.inFlight >= t.m.s.SetInFlight }

// turn is for readers of the state, outside Apply.
func (m *Machine) turn() *turn { return &turn{m: m, now: m.s.Now} }

// Apply applies one command and answers with the JSON of a Response. from is
// the authenticated host that submitted it, term the term of the log entry. It
// never fails: a command that may not be applied is refused, on every replica
// alike. See Err for the one exception.
func (m *Machine) Apply(index, term uint64, from string, command []byte) []byte {
	if m.stopped != nil {
		return respond(m.stopped.Error())
	}
	c, at, err := Decode(command)
	var unknown *UnknownError
	if errors.As(err, &unknown) && from == m.s.Leader && term == m.s.Term {
		// The leader speaks a newer version: what it says must not be skipped. From
		// anybody else an unknown entry is refused by every version alike, so that no
		// host can stop the set with garbage.
		m.stopped = err
	}
	if err != nil {
		return respond(err.Error())
	}
	m.s.Index = index
	t := &turn{m: m, now: m.s.Now}
	if !at.IsZero() {
		t.at = at.Format(time.RFC3339)
	}
	before := m.s.Term
	if refused := m.apply(t, term, from, c); refused != "" {
		return respond(refused)
	}
	if LeaderOnly(command) && !at.IsZero() {
		if _, leads := c.(Lead); leads && m.s.LedAt != 0 && term != before && at.Unix()-m.s.LedAt >= int64(leadGap/time.Second) {
			m.forgetHealth("")
		}
		m.s.LedAt = at.Unix()
	}
	m.advance(t)
	return respond("")
}

func respond(refused string) []byte {
	b, err := json.Marshal(Response{OK: refused == "", Refused: refused})
	if err != nil {
		return []byte(`{"ok":false,"refused":"internal error: a response cannot be encoded"}`)
	}
	return b
}

// apply takes the command in; what follows from it is advance's matter. It
// returns why the command is refused, or "".
func (m *Machine) apply(t *turn, term uint64, from string, c Command) string {
	switch c := c.(type) {
	case Lead:
		return m.lead(term, from, c)
	case Tick, Liveness, Target, Orphan, Raise:
		if m.s.Leader == "" || from != m.s.Leader || term != m.s.Term {
			return fmt.Sprintf("%s may not send this in term %d: %q leads in term %d", from, term, m.s.Leader, m.s.Term)
		}
		return m.applyLeaders(t, c)
	case Operator:
		return m.inGroup(c.Group, func(g *group) string { return g.operator(t, from, c) })
	case Hello:
		return m.inGroup(c.Group, func(g *group) string { return g.hello(t, from, c) })
	case Ready:
		return m.inGroup(c.Group, func(g *group) string { return g.ready(t, from, c) })
	case Answer:
		return m.inGroup(c.Group, func(g *group) string { return g.answer(t, from, c) })
	case Progress:
		return m.inGroup(c.Group, func(g *group) string { return g.progress(from, c) })
	case Done:
		return m.inGroup(c.Group, func(g *group) string { return g.done(t, from, c) })
	case Health:
		return m.inGroup(c.Group, func(g *group) string { return g.health(t, from, c) })
	}
	return fmt.Sprintf("internal error: no rule for command %T", c)
}

func (m *Machine) applyLeaders(t *turn, c Command) string {
	switch c := c.(type) {
	case Tick:
		if c.Elapsed < 0 {
			return "the clock does not run backwards"
		}
		m.s.Now += min(c.Elapsed, maxTick)
		t.now = m.s.Now
		return ""
	case Liveness:
		m.liveness(c)
		return ""
	case Raise:
		if c.Version > FormatVersion {
			m.stopped = &UnknownError{Version: c.Version}
			return m.stopped.Error()
		}
		return ""
	case Target:
		return m.target(t, c)
	case Orphan:
		return m.orphan(c)
	}
	return fmt.Sprintf("internal error: no rule for command %T", c)
}

// epochShift is where an entry's index holds the epoch of its log, less one, as
// package consensus makes it.
const epochShift = 40

// lead records who leads. Only a known voter may, and only the first in a term.
func (m *Machine) lead(term uint64, from string, c Lead) string {
	if from != c.Host {
		return fmt.Sprintf("%s may not lead in the name of %s", from, c.Host)
	}
	if logged := m.s.Index>>epochShift + 1; len(m.s.Voters) > 0 && c.Epoch != m.s.Epoch && c.Epoch != logged {
		return fmt.Sprintf("epoch %d is not the log's, which is %d", c.Epoch, logged)
	}
	if c.Epoch < m.s.Epoch || (c.Epoch == m.s.Epoch && term < m.s.Term) {
		return fmt.Sprintf("epoch %d term %d is over", c.Epoch, term)
	}
	if c.Epoch == m.s.Epoch && term == m.s.Term && m.s.Leader != "" && m.s.Leader != from {
		return fmt.Sprintf("term %d is led by %s", term, m.s.Leader)
	}
	voters := slices.Compact(slices.Sorted(slices.Values(c.Voters)))
	if c.Epoch == m.s.Epoch && len(m.s.Voters) > 0 && !slices.Contains(m.s.Voters, from) {
		return fmt.Sprintf("%s is not one of the voters %s", from, strings.Join(m.s.Voters, ", "))
	}
	if !slices.Contains(voters, from) {
		return fmt.Sprintf("%s does not name itself among the voters", from)
	}
	if m.s.Leader != from {
		for _, g := range m.s.Groups {
			g.Handover = 0
		}
	}
	m.s.Leader, m.s.Term, m.s.Epoch, m.s.Voters = from, term, c.Epoch, voters
	return ""
}

// leadGap is how long after a leader's last command another one no longer
// trusts what hosts said of themselves. It is well below aloneAfter, because the
// two leaders' clocks may differ.
const leadGap = aloneAfter / 2

// forgetHealth makes a host, or every one, say anew what it runs and how well:
// without a leader it may have begun to go back by itself, and while it was away
// it may have been restored from a backup. Until then it counts as down.
func (m *Machine) forgetHealth(only string) {
	for _, g := range m.s.Groups {
		for _, h := range g.Hosts {
			if only == "" || h.Name == only {
				h.Known = false
			}
		}
	}
}

func (m *Machine) liveness(c Liveness) {
	for _, h := range c.Hosts {
		i, found := slices.BinarySearchFunc(m.s.Dead, h.Host, func(d deadHost, n string) int { return strings.Compare(d.Host, n) })
		switch {
		case h.Alive && found:
			m.s.Dead = slices.Delete(m.s.Dead, i, i+1)
			m.forgetHealth(h.Host)
		case !h.Alive && !found && len(m.s.Dead) < maxMembers:
			m.s.Dead = slices.Insert(m.s.Dead, i, deadHost{Host: h.Host, Since: m.s.Now - h.For})
		}
	}
}

// deadFor returns for how long a host has been dead.
func (m *Machine) deadFor(host string) (time.Duration, bool) {
	i, found := slices.BinarySearchFunc(m.s.Dead, host, func(d deadHost, n string) int { return strings.Compare(d.Host, n) })
	if !found {
		return 0, false
	}
	return m.s.Now - m.s.Dead[i].Since, true
}

func (m *Machine) isDead(host string) bool { _, dead := m.deadFor(host); return dead }

func (m *Machine) find(id string) (*group, int, bool) {
	i, found := slices.BinarySearchFunc(m.s.Groups, id, func(g *group, id string) int { return strings.Compare(g.ID, id) })
	if !found {
		return nil, i, false
	}
	return m.s.Groups[i], i, true
}

// inGroup runs one group's part; a panic in it freezes that group alone. No
// step depends on the order of a map, so every replica freezes alike.
func (m *Machine) inGroup(id string, step func(*group) string) (refused string) {
	g, _, ok := m.find(id)
	if !ok {
		return fmt.Sprintf("there is no group %q in this set", id)
	}
	if g.Frozen != "" {
		return fmt.Sprintf("group %s is frozen: %s", g.label(), g.Frozen)
	}
	defer func() {
		if p := recover(); p != nil {
			g.Frozen = head(fmt.Sprintf("internal error at index %d: %v; hosts keep what they run", m.s.Index, p), maxSentence)
			refused = g.Frozen
		}
	}()
	if m.breakIn != nil && m.breakIn(id) {
		panic("planted")
	}
	refused = step(g)
	if refused == "" {
		g.Version++
	}
	return refused
}

// advance lets every group draw its conclusions: rollbacks and reverts first,
// then whoever began first.
func (m *Machine) advance(t *turn) {
	t.busy = make(map[string]bool)
	for _, g := range m.s.Groups {
		for _, h := range g.Hosts {
			if h.Grant == nil {
				continue
			}
			t.busy[h.Name] = true
			if !h.lost(t, g.Desired.Policy.lostAfter()) {
				t.inFlight++
			}
			if slices.Contains(m.s.Voters, h.Name) {
				t.voters++
			}
		}
		if g.Active != nil && g.Active.Opened && g.Frozen == "" {
			t.active++
		}
	}
	order := slices.Clone(m.s.Groups)
	slices.SortStableFunc(order, func(a, b *group) int {
		if c := a.urgency() - b.urgency(); c != 0 {
			return c
		}
		return int(min(1, max(-1, a.begun()-b.begun())))
	})
	for _, g := range order {
		if g.Frozen == "" {
			version := g.Version
			changed := false
			m.inGroup(g.ID, func(g *group) string { changed = g.advance(t); return "" })
			if !changed && g.Frozen == "" {
				g.Version = version
			}
		}
	}
}

func (g *group) urgency() int {
	if g.Active != nil && (g.Active.Kind == KindRollback || g.Active.Kind == KindRevert) {
		return 0
	}
	return 1
}

func (g *group) begun() time.Duration {
	if g.Active == nil {
		return 1 << 62
	}
	return g.Active.Created
}

func (g *group) label() string {
	if g.Folder != "" {
		return g.Folder
	}
	return g.ID
}

// Err tells why this replica has stopped: an entry of a version it does not
// know. A stopped machine applies nothing and makes no snapshots, so that
// nothing is skipped; an update of gitopsd goes on from the last snapshot.
func (m *Machine) Err() error { return m.stopped }

// Snapshot returns the canonical bytes of the state: equal states, equal bytes.
func (m *Machine) Snapshot() ([]byte, error) {
	if m.stopped != nil {
		return nil, fmt.Errorf("cannot make a snapshot: %w", m.stopped)
	}
	b, err := json.Marshal(m.s)
	if err != nil {
		return nil, fmt.Errorf("cannot make a snapshot: %w", err)
	}
	return append([]byte{FormatVersion}, b...), nil
}

// Restore replaces the state by a snapshot's. On an error the state is as it was.
func (m *Machine) Restore(snapshot []byte) error {
	if len(snapshot) == 0 {
		return errors.New("cannot restore a snapshot: it is empty")
	}
	if snapshot[0] != FormatVersion {
		return fmt.Errorf("cannot restore a snapshot of version %d: this gitopsd understands version %d; update it", snapshot[0], FormatVersion)
	}
	var s setState
	if err := strictJSON(snapshot[1:], &s); err != nil {
		return fmt.Errorf("cannot restore a snapshot: %w", err)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("cannot restore a snapshot: %w", err)
	}
	m.s, m.stopped = s, nil
	return nil
}

// check refuses a state that no Machine could have written.
func (s *setState) check() error {
	if s.Version != FormatVersion {
		return fmt.Errorf("its state has version %d, not %d", s.Version, FormatVersion)
	}
	sorted := slices.IsSortedFunc(s.Dead, func(a, b deadHost) int { return strings.Compare(a.Host, b.Host) })
	for i, g := range s.Groups {
		if g == nil || slices.Contains(g.Hosts, nil) || slices.Contains(g.History, nil) {
			return errors.New("a group, host or deployment in it is null")
		}
		sorted = sorted && (i == 0 || s.Groups[i-1].ID < g.ID) &&
			slices.IsSortedFunc(g.Hosts, func(a, b *host) int { return strings.Compare(a.Name, b.Name) }) &&
			slices.IsSortedFunc(g.Members, func(a, b MemberInfo) int { return strings.Compare(a.Host, b.Host) })
		for _, d := range append([]*deployment{g.Active, g.CatchUp}, g.History...) {
			if d != nil && (slices.Contains(d.Rows, nil) || d.Wave < 0 || (len(d.Waves) > 0 && d.Wave >= len(d.Waves))) {
				return fmt.Errorf("deployment %s has rows or waves that cannot be", d.ID)
			}
		}
	}
	if !sorted {
		return errors.New("it is not in canonical order")
	}
	return nil
}

// Hash returns the hex SHA-256 of the snapshot: equal on all voters at equal index.
func (m *Machine) Hash() (string, error) {
	b, err := m.Snapshot()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Dead returns the hosts recorded dead, sorted: the base for Liveness commands.
func (m *Machine) Dead() []string {
	out := make([]string, len(m.s.Dead))
	for i, d := range m.s.Dead {
		out[i] = d.Host
	}
	return out
}

// Leader returns the host and term of the last Lead command.
func (m *Machine) Leader() (host string, term uint64) { return m.s.Leader, m.s.Term }

// Voters returns the voters of the last Lead command, sorted.
func (m *Machine) Voters() []string { return slices.Clone(m.s.Voters) }

// Clock returns the replicated clock.
func (m *Machine) Clock() time.Duration { return m.s.Now }
