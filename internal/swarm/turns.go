package swarm

import (
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Bounds of one host's turn to read an index, or an archive for all: what a host says of itself must not keep a bundle from the others for long.
const (
	scoutIdle    = 2 * time.Minute        // without progress; so long it is not this host's turn again, if others ask
	scoutMax     = 30 * time.Minute       // with progress
	scoutStep    = 1 << 20                // bytes that are progress
	scoutsHeld   = 4                      // turns of one host at a time
	scoutsOpened = 16                     // bundles that one host was the first to ask about
	lineFresh    = 30 * time.Second       // who has not asked for so long stands in line no more
	lineEach     = 2 * time.Millisecond   // those in line for an index that git pins ask again after so long for each of them,
	lineSoon     = 100 * time.Millisecond // and at least this; others after lineLate, which is also the most
	lineLate     = time.Second
	indexPatient = 250 * time.Millisecond // who reads an index that git pins is not waited for alone for longer, doubling: its route may lead nowhere
	lineMax      = 4096                   // hosts in line for one bundle
)

// scouting is whose turn it is to read the index of a bundle, or the whole of it.
type scouting struct {
	host   string // whose turn it is
	small  bool   // and that it reads no more than the index
	until  time.Time
	since  time.Time // its turn began
	moved  time.Time // it last got on
	read   int64     // and how far, as it says
	over   bool      // it has what it read
	opened string    // who asked first
	asked  time.Time
	rest   time.Time // nobody before
	last   string    // who gave it up last; another host goes first
	line   map[string]inLine
	tries  int
	passed int    // turns that were passed on while their hosts still read
	wasted int64  // bytes
	spent  bool   // too many
	reason string // why the last read failed, with its host
}

// inLine is one host that asked for its turn.
type inLine struct {
	asked  time.Time
	turns  int       // of its own that ended without the index
	barred time.Time // not before, if others ask
}

// scout says whether a host may read the index. Only one does; it says again and again that it is still at it.
func (d *desk) scout(key scoutKey, q leaseRequest, now time.Time) leaseAnswer {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.scouts[key]
	if one == nil || now.Sub(one.asked) >= dealingIdle {
		if one = d.openScouting(key, q.Host, now); one == nil {
			return leaseAnswer{Version: leaseVersion, Why: "too many bundles are read at once", Retry: time.Second.Milliseconds()}
		}
	}
	one.asked = now
	one.overdue(now)
	switch {
	case q.GiveUp && one.host == q.Host:
		one.giveUp(q, now)
		return leaseAnswer{Version: leaseVersion}
	case q.Done && one.host == q.Host:
		one.over, one.until = true, now.Add(indexLease) // the others have time to get it from there
		return leaseAnswer{Version: leaseVersion}
	case q.GiveUp || q.Done || q.Renew && (one.host != q.Host || one.over): // of a turn that is over
		return leaseAnswer{Version: leaseVersion}
	}
	one.enter(q.Host, now)
	switch {
	case one.host == q.Host && (!one.over || d.held(q.Host, now) < scoutsHeld):
		one.renew(q.Read, now)
		return leaseAnswer{Version: leaseVersion, Yes: true, For: indexLease.Milliseconds()}
	case one.host != "" && !one.passes(q, now):
		return leaseAnswer{Version: leaseVersion, Why: one.host + " reads its index from the origin" + one.before(), Retry: one.again().Milliseconds()}
	}
	rest := one.rest
	if one.last == q.Host {
		rest = rest.Add(time.Second)
	}
	if now.Before(rest) {
		why := "waiting to read its index from the origin again"
		if one.spent {
			why = fmt.Sprintf("waiting for origin, budget spent: %d bytes left it for nothing", one.wasted)
		}
		return leaseAnswer{Version: leaseVersion, Why: why + one.before(), Retry: rest.Sub(now).Milliseconds()}
	}
	if !one.turnOf(q.Host, now) || d.held(q.Host, now) >= scoutsHeld {
		return leaseAnswer{Version: leaseVersion, Why: "waiting for its turn to read the index from the origin" + one.before(), Retry: one.again().Milliseconds()}
	}
	if one.host != "" {
		one.passed++
		one.end()
	}
	one.host, one.small, one.until, one.since, one.moved, one.read = q.Host, q.Pinned, now.Add(indexLease), now, now, 0
	return leaseAnswer{Version: leaseVersion, Yes: true, For: indexLease.Milliseconds()}
}

// openScouting begins a bundle's line; nil where there are too many, or too many of this host. The lock is held.
func (d *desk) openScouting(key scoutKey, host string, now time.Time) *scouting {
	own := 0
	for k, old := range d.scouts {
		idle := now.Sub(old.asked) >= indexLease
		if k != key && idle && len(d.scouts) >= dealingsMax {
			delete(d.scouts, k)
		} else if k != key && !idle && old.opened == host {
			own++
		}
	}
	if d.scouts[key] == nil && len(d.scouts) >= dealingsMax || own >= scoutsOpened {
		return nil
	}
	one := &scouting{opened: host, line: map[string]inLine{}}
	d.scouts[key] = one
	return one
}

// held counts the bundles that it is a host's turn to read. The lock is held.
func (d *desk) held(host string, now time.Time) int {
	n := 0
	for _, one := range d.scouts {
		if one.host == host && !one.over && now.Before(one.until) {
			n++
		}
	}
	return n
}

// enter puts a host in line, or says that it still stands there.
func (s *scouting) enter(host string, now time.Time) {
	at, stands := s.line[host]
	if !stands && len(s.line) >= lineMax {
		for other, then := range s.line {
			if now.Sub(then.asked) >= lineFresh && now.After(then.barred) {
				delete(s.line, other)
			}
		}
		if len(s.line) >= lineMax {
			return
		}
	}
	at.asked = now
	s.line[host] = at
}

// renew notes how far the host has got whose turn it is.
func (s *scouting) renew(read int64, now time.Time) {
	s.until, s.over = now.Add(indexLease), false
	if read >= s.read+scoutStep && read <= bundle.MaxArchiveBytes {
		s.read, s.moved = read, now
	}
}

// overdue ends a turn: of a host that says nothing more, or that has had its time.
func (s *scouting) overdue(now time.Time) {
	if s.host == "" {
		return
	}
	late := now.Sub(s.moved) >= scoutIdle || now.Sub(s.since) >= scoutMax
	if !late && now.Before(s.until) {
		return
	}
	host := s.host
	s.end()
	if late {
		at := s.line[host]
		at.barred, s.reason = now.Add(scoutIdle), host+": had its time"
		s.line[host] = at
	}
}

// passes says whether a turn has lasted so long that another host may read as well. It costs the index once more, which is why it takes twice as long each time; whoever
// has it first has it for all.
func (s *scouting) passes(q leaseRequest, now time.Time) bool {
	return s.small && q.Pinned && !s.over && now.Sub(s.since) >= indexPatient<<min(s.passed, 10)
}

// again is when those in line are to ask again.
func (s *scouting) again() time.Duration {
	if s.host != "" && !s.small {
		return lineLate
	}
	return min(max(time.Duration(len(s.line))*lineEach, lineSoon), lineLate)
}

// end makes the turn one that its host has had.
func (s *scouting) end() {
	at := s.line[s.host]
	at.turns++
	s.line[s.host], s.host, s.over = at, "", false
}

// turnOf says whether nobody but the host whose turn it is is before a host: those go first that have had fewer turns, and who wasted its turn is last.
func (s *scouting) turnOf(host string, now time.Time) bool {
	own := s.line[host]
	for other, at := range s.line {
		switch {
		case other == host || other == s.host:
		case now.Before(own.barred) && now.Sub(at.asked) < dealingIdle && !now.Before(at.barred):
			return false
		case now.Sub(at.asked) < lineFresh && at.turns < own.turns && !now.Before(at.barred):
			return false
		}
	}
	return true
}

// before tells why the last read of the index failed, if one did.
func (s *scouting) before() string {
	if s.reason == "" {
		return ""
	}
	return "; the last failure: " + s.reason
}

// giveUp lets the origin rest after a read that failed, for long once too much was read for nothing. The first that got nothing may be hosts without a route to it.
func (s *scouting) giveUp(q leaseRequest, now time.Time) {
	s.end()
	s.last, s.reason = q.Host, q.Host+": "+plain(q.Failed, saysMax)
	s.wasted += min(max(q.Read, 0), bundle.MaxArchiveBytes)
	s.tries++
	tries := s.tries
	if q.Read <= 0 {
		tries -= indexTries
	}
	rest := indexSoon
	if tries > 0 {
		rest = min(indexRest<<min(tries-1, 8), indexRestMax)
	}
	if s.spent = s.wasted > max(wastedMin, q.Of/2); s.spent {
		rest = indexRestOut
	}
	s.rest = now.Add(rest)
	if s.spent {
		at := s.line[q.Host]
		at.barred = s.rest.Add(scoutIdle)
		s.line[q.Host] = at
	}
}
