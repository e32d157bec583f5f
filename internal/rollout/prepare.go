package rollout

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// stage is how far a host is with getting ready for a spec.
type stage int

const (
	stageVerify stage = iota
	stageFetch
	stagePreflight
	stageReady
	stageRefused
)

// prep is a host on its way to Ready: its own git agrees, the bundle is here,
// the preflight passed.
type prep struct {
	spec     Spec
	stage    stage
	asked    bool
	again    time.Duration // when to ask again; 0 = not
	tries    int
	refused  RefusalKind
	from     stage // that refused
	reason   string
	lastGood string
	shown    bool  // the state has shown our report
	had      int64 // bytes that had come when this fetch began
	moves    bool  // more have come since
	doubted  bool  // why bytes could not be had may be over
}

// prepare works towards Ready for every spec the state asks for, and reports.
func (m *Member) prepare(g *memberGroup, a *Assignment) {
	for hash := range g.prep {
		if !slices.ContainsFunc(a.Prepare, func(s Spec) bool { return s.SpecHash == hash }) {
			delete(g.prep, hash)
		}
	}
	for _, s := range a.Prepare {
		p := g.prep[s.SpecHash]
		if p == nil || p.spec.Commit != s.Commit {
			p = &prep{spec: s}
			g.prep[s.SpecHash] = p
		}
		m.reportReady(g, a, p)
		m.work(g, p)
	}
}

// work asks for the next step, one at a time.
func (m *Member) work(g *memberGroup, p *prep) {
	if p.again > 0 && m.now >= p.again {
		p.again, p.asked = 0, false
		if p.stage == stageRefused {
			p.stage = p.from
		}
	}
	if p.asked || p.again > 0 {
		return
	}
	p.asked = true
	switch p.stage {
	case stageVerify:
		m.do(ActVerify{Group: g.ID, Spec: p.spec})
	case stageFetch:
		had := g.bytes[p.spec.SpecHash]
		p.had, p.moves = had[0]+had[1], false
		m.do(ActFetchBundle{Group: g.ID, Spec: p.spec})
	case stagePreflight:
		m.do(ActPreflight{Group: g.ID, Spec: p.spec})
	}
}

// reportReady says how the host stands with a spec until the state shows it. A
// report that was shown and is gone means that somebody asks to look again.
func (m *Member) reportReady(g *memberGroup, a *Assignment, p *prep) {
	known := slices.IndexFunc(a.Ready, func(r Ready) bool { return r.SpecHash == p.spec.SpecHash })
	if p.shown && known < 0 {
		*p = prep{spec: p.spec}
		return
	}
	refused := p.refused
	if p.stage < stageReady && refused == "" {
		if known < 0 || !p.cured(a.Ready[known].Refused) {
			return
		}
		p.shown, refused = false, RefusedNoMore
	}
	if known >= 0 && a.Ready[known].Refused == refused && a.Ready[known].Commit == p.spec.Commit && alike(a.Ready[known].Reason, p.reason) {
		p.shown = true
		return
	}
	m.submit(g, "ready "+p.spec.SpecHash, Ready{
		Group: g.ID, SpecHash: p.spec.SpecHash, Commit: p.spec.Commit, Refused: refused, Reason: p.reason, LastGood: p.lastGood,
	})
}

// cured says whether a refusal that the state still shows no longer holds, while
// this host is on its way again: it is past what it was refused for.
func (p *prep) cured(shown RefusalKind) bool {
	switch shown {
	case RefusedByBytes:
		return p.stage == stagePreflight || p.stage == stageFetch && (p.moves || p.doubted)
	case RefusedByHost:
		return p.from == stageVerify && p.stage > stageVerify
	}
	return false
}

// alike says whether two reasons tell people the same: they differ in nothing
// but numbers, which would otherwise be reported anew with every try.
func alike(a, b string) bool {
	words := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, s)
	}
	return words(a) == words(b)
}

// arrived notes how many bytes of a bundle have come. A fetch that goes on again
// is no longer refused.
func (m *Member) arrived(ev EvBytes) {
	g := m.group(ev.Group)
	g.bytes[ev.SpecHash] = [2]int64{ev.FromOrigin, ev.FromPeers}
	if p := g.prep[ev.SpecHash]; p != nil && p.stage == stageFetch && ev.FromOrigin+ev.FromPeers > p.had {
		p.moves = true
		p.clear()
	}
}

// noBytes notes why nothing comes while a fetch goes on: as if it had been
// refused, but that it need not be tried again.
func (m *Member) noBytes(ev EvNoBytes) {
	g := m.groups[ev.Group]
	if g == nil || g.prep[ev.SpecHash] == nil || g.prep[ev.SpecHash].stage != stageFetch {
		return
	}
	p, b := g.prep[ev.SpecHash], g.bytes[ev.SpecHash]
	p.had, p.moves, p.doubted = b[0]+b[1], false, false
	p.refused, p.reason = RefusedByBytes, head(ev.Reason, maxSentence)
}

// clear takes a refusal back.
func (p *prep) clear() { p.refused, p.reason = "", "" }

func (m *Member) verified(ev EvVerified) {
	g := m.groups[ev.Group]
	if g == nil || g.prep[ev.SpecHash] == nil || g.prep[ev.SpecHash].spec.Commit != ev.Commit {
		return
	}
	p := g.prep[ev.SpecHash]
	if p.stage != stageVerify {
		return
	}
	switch {
	case ev.OK:
		p.stage, p.asked, p.tries = stageFetch, false, 0
		p.clear()
	case ev.Wait:
		p.again = m.now + verifyAgain
	default:
		// Our git does not agree with the leader's: that is no fault of the revision.
		m.refuse(p, stageVerify, RefusedByHost, ev.Reason)
	}
}

// prepared takes the answer of a fetch or a preflight.
func (m *Member) prepared(group, specHash string, at stage, refused RefusalKind, reason, lastGood string) {
	g := m.groups[group]
	if g == nil || g.prep[specHash] == nil || g.prep[specHash].stage != at {
		return
	}
	p := g.prep[specHash]
	if refused == RefusedByBytes { // those that were here are wrong, and have to come again
		at = stageFetch
	}
	if refused != "" {
		m.refuse(p, at, refused, reason)
		return
	}
	p.tries, p.asked = 0, false
	p.clear()
	if at == stageFetch {
		p.stage = stagePreflight
		return
	}
	p.stage, p.lastGood = stageReady, lastGood
}

func (m *Member) refuse(p *prep, at stage, kind RefusalKind, reason string) {
	p.stage, p.from, p.refused, p.reason, p.doubted = stageRefused, at, kind, head(reason, maxSentence), false
	p.tries++
	switch kind {
	case RefusedByBytes:
		p.again = m.now + min(bytesMost, bytesAgain<<min(p.tries-1, 6))
	case RefusedByHost:
		p.again = m.now + hostAgain
	}
}

// Preparing lists the specs this host works towards for a group, for status and
// for what must not be collected.
func (m *Member) Preparing(group string) []Spec {
	g := m.groups[group]
	if g == nil {
		return nil
	}
	var out []Spec
	for _, hash := range slices.Sorted(maps.Keys(g.prep)) {
		out = append(out, g.prep[hash].spec)
	}
	return out
}
