package consensus

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// contactsMax bounds the hosts of which a voter keeps the last contact.
const contactsMax = 16384

// Status tells how the set is doing.
func (s *Set) Status() Status {
	now := s.tidings()
	at := s.rep.position()
	st := Status{Set: s.spec.Name, Epoch: s.spec.Epoch, Role: s.role, Leader: now.leader, Term: now.term, Quorum: now.quorum,
		Voters: s.spec.sorted(), Applied: IndexOf(at.epoch, at.index)}
	if term := s.batch.leading(); term != 0 && s.voting() != nil {
		st.Leading, st.Term = true, term
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Problems = slices.Clone(s.problems)
	if s.pending != "" {
		st.Problems = append(st.Problems, s.pending)
	} else if s.role == RoleVoter && s.spec.Epoch > 1 && at.index == 0 && s.self != s.spec.founder() {
		st.Problems = append(st.Problems, fmt.Sprintf("coordinator set %s: epoch %d has not reached this host yet, %s begins it once all of its voters answered",
			s.spec.Name, s.spec.Epoch, s.spec.founder()))
	}
	if s.kin.passive != "" && at.index == 0 && (s.v == nil || s.v.raft.LastIndex() == 0) {
		st.Problems = append(st.Problems, fmt.Sprintf("coordinator set %s: this host has no state of it, but %s; it waits for a leader instead of founding the set again", s.spec.Name, s.kin.passive))
	}
	looking := s.role == RoleObserver && s.link == nil // for a voter, so that it asks each again
	for _, voter := range s.spec.sorted() {
		host, _, _ := strings.Cut(voter, "/")
		if text := s.kin.stale[host]; text != "" {
			st.Problems = append(st.Problems, text)
		}
		if n := s.notes[host]; n.text != "" && !(n.passing && !looking && time.Since(n.at) > s.passingFor()) {
			st.Problems = append(st.Problems, n.text)
		}
	}
	if s.link != nil && s.link.follow {
		st.StreamedFrom = s.link.peer.Host
	}
	if s.failure != nil {
		st.Failed = s.failure.Error()
	}
	return st
}

// tidings gives who leads, from raft on a voter and from hearsay elsewhere.
func (s *Set) tidings() tidings {
	t := s.rumours()
	if s.spec.Epoch > 1 && s.rep.position().index == 0 {
		t.quorum = false // the epoch's state is not here yet: an empty machine must not pass for it
	}
	return t
}

func (s *Set) rumours() tidings {
	if s.role == RoleObserver {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.heard
	}
	v := s.voting()
	if v == nil {
		return tidings{}
	}
	t := tidings{leader: v.leader(), term: v.raft.CurrentTerm()}
	t.quorum = t.leader != "" && (t.leader != s.self.Host || v.raft.State() == raft.Leader)
	return t
}

// hear notes what the voter at the other end of the uplink says.
func (s *Set) hear(t tidings) {
	if s.role != RoleObserver {
		return
	}
	s.mu.Lock()
	same := s.heard == t
	s.heard = t
	if t.quorum {
		s.strand, s.avoid = time.Time{}, ""
	} else if s.strand.IsZero() {
		s.strand = time.Now()
	}
	s.mu.Unlock()
	if !same {
		s.bump()
	}
}

// stranded tells whether the followed voter has been without quorum for long.
func (s *Set) stranded(long time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.strand.IsZero() && time.Since(s.strand) > long && len(s.spec.Voters) > 1
}

// shun lets an observer try a voter only after all others.
func (s *Set) shun(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.avoid, s.strand = host, time.Time{}
}

// startOver makes an observer whose state is in doubt ask for a snapshot.
func (s *Set) startOver(err error) error {
	s.report(err)
	s.mu.Lock()
	s.fresh = true
	s.mu.Unlock()
	return err
}

// report adds a problem that stays until the set is opened again.
func (s *Set) report(err error) {
	s.log.Error("a coordinator set has a problem", "set", s.spec.Name, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := err.Error(); !slices.Contains(s.problems, text) && len(s.problems) < 16 {
		s.problems = append(s.problems, text)
	}
}

// pend says what the birth of a new epoch waits for; "" for nothing.
func (s *Set) pend(why string) {
	s.mu.Lock()
	same := s.pending == why
	s.pending = why
	s.mu.Unlock()
	if !same {
		s.bump()
		if why != "" {
			s.log.Warn("an epoch has not begun", "set", s.spec.Name, "problem", why)
		}
	}
}

// note remembers why a voter refuses us, or is refused by us, until it no longer does.
func (s *Set) note(host string, err error) {
	text := ""
	var r *refusal
	if errors.As(err, &r) {
		text = r.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes[host] = remark{text: text, at: time.Now(), passing: r != nil && r.passing}
}

// unheard notes that a voter cannot be reached, so that it refuses nothing at the
// moment. What lasts it would say again.
func (s *Set) unheard(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notes[host].passing {
		delete(s.notes, host)
	}
}

// passingFor is how long a refusal that passes by itself is told after it was
// last heard: longer than a voter that needs that one waits until it asks again.
// An observer that looks for a voter takes as long as the others let it wait.
func (s *Set) passingFor() time.Duration { return 6 * s.c.opt.Timing.Heartbeat }

// attach and detach say which uplink serves.
func (s *Set) attach(u *uplink) {
	s.mu.Lock()
	s.link = u
	if u.follow { // it asks the others again only when this one fails it
		maps.DeleteFunc(s.notes, func(_ string, n remark) bool { return n.passing })
	}
	s.mu.Unlock()
	s.bump()
}

func (s *Set) detach(u *uplink) {
	s.mu.Lock()
	if s.link == u {
		s.link = nil
		if u.follow && !s.fresh && s.heard.leader == u.peer.Host {
			s.avoid = u.peer.Host // it may be the leader that just crashed
		}
		s.heard.quorum = false
	}
	s.mu.Unlock()
	s.bump()
}

// up gives the uplink that serves now, or nil.
func (s *Set) up() *uplink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// Changed signals, coalesced, that something was applied or that the role,
// leader or quorum changed. It is for one receiver.
func (s *Set) Changed() <-chan struct{} { return s.changed }

func (s *Set) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// bump wakes everybody who depends on who leads and how to get there.
func (s *Set) bump() {
	s.mu.Lock()
	close(s.route)
	s.route = make(chan struct{})
	s.mu.Unlock()
	s.signal()
}

// routed gives a channel that is closed at the next bump.
func (s *Set) routed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.route
}

// touch notes that a host was heard of some time ago.
func (s *Set) touch(host string, ago time.Duration, direct bool) {
	at := time.Now().Add(-ago)
	s.mu.Lock()
	defer s.mu.Unlock()
	contacts := s.relayed
	if direct {
		contacts = s.direct
	}
	if known, ok := contacts[host]; at.After(known) && (ok || len(contacts) < contactsMax) {
		contacts[host] = at
	}
}

// contacts lists what this voter heard of directly and lately, for its leader.
func (s *Set) contacts() []contact {
	if s.role != RoleVoter {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []contact
	for host, at := range s.direct {
		if age := time.Since(at); age < 8*s.c.opt.Timing.Keepalive {
			list = append(list, contact{host: host, age: age})
		}
	}
	return list
}

// Reachable gives the time of the last contact by stream of every host this
// voter has heard of since it started, itself included; on the leader that
// includes hosts attached to other voters. Empty on an observer.
func (s *Set) Reachable() map[string]time.Time {
	if s.voting() == nil {
		return map[string]time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]time.Time{s.self.Host: time.Now()}
	for _, contacts := range []map[string]time.Time{s.direct, s.relayed} {
		for host, at := range contacts {
			if at.After(all[host]) {
				all[host] = at
			}
		}
	}
	return all
}
