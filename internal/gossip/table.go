package gossip

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// State is what is believed of a member.
type State string

// States of a member.
const (
	Alive   State = "alive"
	Suspect State = "suspect" // this host's own probes go unanswered
	Dead    State = "dead"
	Left    State = "left" // it said goodbye
)

// Member is a host as gossip sees it.
type Member struct {
	Name     string    `json:"name"`
	Addr     string    `json:"addr"`  // where it says it listens, "HOST:PORT"; may be ""
	State    State     `json:"state"` // alive, suspect, dead, left
	Since    time.Time `json:"since"` // of this state, by this host's clock
	Instance string    `json:"instance"`
	Version  string    `json:"version"` // of its agent
}

// Live says whether the member counts as running: alive or suspect.
func (m Member) Live() bool { return m.State == Alive || m.State == Suspect }

// table keeps the members. memberlist's callbacks fill it while holding
// memberlist's lock, so it never calls back.
type table struct {
	self   string
	probe  time.Duration // that one lasts at most
	change func()

	mu    sync.Mutex
	hosts map[string]*Member
	gone  map[string]string    // host -> instance that said goodbye
	anew  map[string]time.Time // when a host came back, or as another instance
	alive int                  // live members, this host included
}

func newTable(self Member, probe time.Duration, change func()) *table {
	self.Since = time.Now()
	return &table{self: self.Name, probe: probe, change: change, hosts: map[string]*Member{self.Name: &self}, gone: map[string]string{}, anew: map[string]time.Time{}, alive: 1}
}

// joined notes that host is alive with metadata m.
func (t *table) joined(host string, m meta) {
	if host == t.self {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.hosts[host]
	if e == nil {
		if len(t.hosts) >= membersMax {
			return
		}
		e = &Member{Name: host, State: Dead}
		t.hosts[host] = e
	} else if e.Instance != m.instance || !e.Live() {
		t.anew[host] = time.Now()
	}
	if t.gone[host] != m.instance {
		delete(t.gone, host)
	}
	e.Addr, e.Instance, e.Version = m.address, m.instance, m.version
	t.setLocked(e, Alive)
	t.change()
}

// lost notes that memberlist gave host up.
func (t *table) lost(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.hosts[host]
	if e == nil || host == t.self {
		return
	}
	if t.gone[host] == e.Instance && e.Instance != "" {
		t.setLocked(e, Left)
	} else {
		t.setLocked(e, Dead)
	}
}

// goodbye notes that instance of host said it leaves; memberlist's word that
// it is gone may come before or after.
func (t *table) goodbye(host, instance string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.hosts[host]
	if e == nil || instance == "" || host == t.self {
		return
	}
	t.gone[host] = instance
	if e.State == Dead && e.Instance == instance {
		t.setLocked(e, Left)
	}
}

// suspect notes that a probe of host went unanswered, trust that one was
// answered. A probe may have begun before the host came back, and tells
// nothing of it then; the next one might be half a minute away.
func (t *table) suspect(host string) {
	t.mu.Lock()
	at, back := t.anew[host]
	t.mu.Unlock()
	if !back || time.Since(at) > t.probe {
		t.swap(host, Alive, Suspect)
	}
}

func (t *table) trust(host string) { t.swap(host, Suspect, Alive) }

func (t *table) swap(host string, from, to State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.hosts[host]; e != nil && e.State == from && host != t.self {
		t.setLocked(e, to)
	}
}

func (t *table) setLocked(e *Member, s State) {
	if e.State == s && !e.Since.IsZero() {
		return
	}
	was := e.Live()
	e.State, e.Since = s, time.Now()
	if e.Live() && !was {
		t.alive++
	} else if was && !e.Live() {
		t.alive--
	}
	t.change()
}

// live returns the number of live members, this host included.
func (t *table) live() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.alive
}

func (t *table) isLive(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.hosts[host]
	return e != nil && e.Live()
}

func (t *table) members(allowed func(string) bool) []Member {
	t.mu.Lock()
	out := make([]Member, 0, len(t.hosts))
	for _, e := range t.hosts {
		out = append(out, *e)
	}
	t.mu.Unlock()
	out = slices.DeleteFunc(out, func(m Member) bool { return m.Name != t.self && !allowed(m.Name) })
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// forget drops a host that is not live.
func (t *table) forget(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.hosts[host]; e != nil && host != t.self && !e.Live() {
		delete(t.hosts, host)
		delete(t.gone, host)
		delete(t.anew, host)
		t.change()
	}
}

// liveNames returns the live hosts but this one.
func (t *table) liveNames() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for host, e := range t.hosts {
		if host != t.self && e.Live() {
			out = append(out, host)
		}
	}
	return out
}

// names returns every host but this one.
func (t *table) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for host := range t.hosts {
		if host != t.self {
			out = append(out, host)
		}
	}
	return out
}
