package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// stranded is a host that runs B badly, whose tip asks for A, which it ran well,
// and whose set has lost its leader at 10 s.
func stranded(t *testing.T) *pupil {
	p := newPupil(t)
	p.feed(EvInstalled{Group: "web", Running: specOf("B"), Whole: true})
	p.feed(known(func(a *Assignment) { a.Running = specOf("B"); a.Checks = 1 }))
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A"), RanWell: true})
	p.feed(EvHealth{Group: "web", State: HealthUnhealthy})
	p.now = 10 * time.Second
	p.feed(EvQuorum{Set: "set"})
	return p
}

// started gives the deployment that the last actions started, or "".
func started(acts []string) string {
	for _, a := range acts {
		if id, ok := strings.CutPrefix(a, "start "); ok {
			return id
		}
	}
	return ""
}

func (p *pupil) at(now time.Duration) []string {
	p.now = now
	return p.feed(EvTimer{})
}

func TestUnhealthyHostGoesBackAlone(t *testing.T) {
	p := stranded(t)
	if at, ok := p.m.Deadline(); !ok || at > 70*time.Second {
		t.Errorf("the next look is at %v, %v", at, ok)
	}
	if acts := p.at(69 * time.Second); started(acts) != "" {
		t.Fatalf("it went too early: %q", acts)
	}
	acts := p.at(70 * time.Second)
	id := started(acts)
	if i := slices.Index(acts, "persist"); id == "" || i < 0 || i > slices.Index(acts, "start "+id) {
		t.Fatalf("%q", acts)
	}
	if text := p.m.Alone("web"); !strings.Contains(text, "goes back by itself to the revision of commit") {
		t.Error(text)
	}
	p.expect(EvStopping{Group: "web", Deployment: id}, "persist", "proceed")
	hello := "submit hello boot-1 " + specOf("A").SpecHash + " whole=true"
	if acts := p.feed(EvApplied{Group: "web", Deployment: id, Outcome: OutcomeSucceeded}); acts[0] != "persist" || !slices.Contains(acts, hello) {
		t.Errorf("%q", acts)
	}
	if text := p.m.Alone("web"); !strings.Contains(text, "went back by itself") {
		t.Error(text)
	}
	p.feed(EvQuorum{Set: "set", Lead: true})
	p.now += time.Minute // what was lost on the way is said again
	if acts = p.feed(known(func(a *Assignment) { a.Running = specOf("B"); a.Checks = 1 })); !slices.Contains(acts, hello) {
		t.Errorf("%q, wanted %q", acts, hello)
	}
	if text := p.m.Alone("web"); text != "" {
		t.Error(text)
	}
}

func TestNobodyElseGoesAlone(t *testing.T) {
	for name, change := range map[string]func(p *pupil){
		"healthy":            func(p *pupil) { p.feed(EvHealth{Group: "web", State: HealthHealthy}) },
		"nothing known":      func(p *pupil) { p.feed(EvHealth{Group: "web", State: HealthUnknown}) },
		"with a leader":      func(p *pupil) { p.feed(EvQuorum{Set: "set", Lead: true}) },
		"never ran it":       func(p *pupil) { p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A")}) },
		"the tip wants it":   func(p *pupil) { p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("B"), RanWell: true}) },
		"the tip is silent":  func(p *pupil) { p.feed(EvTip{Group: "web", Set: "set"}) },
		"of another set":     func(p *pupil) { p.feed(EvTip{Group: "web", Set: "other", Spec: specOf("A"), RanWell: true}) },
		"another deployment": func(p *pupil) { p.m.group("api").journal = &OpenJournal{Group: "api", Deployment: "d-1"} },
	} {
		p := stranded(t)
		change(p)
		for _, at := range []time.Duration{70, 80, 600, 3600} {
			if acts := p.at(at * time.Second); started(acts) != "" {
				t.Errorf("%s: %q", name, acts)
			}
		}
	}
}

// What failed to run is unhealthy without any check; it is tried once.
func TestAloneIsTriedOnce(t *testing.T) {
	p := newPupil(t)
	p.feed(EvInstalled{Group: "web", Running: specOf("B")})
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A"), RanWell: true})
	p.feed(EvQuorum{Set: "set"})
	id := started(p.at(time.Minute))
	p.feed(EvStopping{Group: "web", Deployment: id})
	p.feed(EvApplied{Group: "web", Deployment: id, Outcome: OutcomeFailed})
	if text := p.m.Alone("web"); !strings.Contains(text, "failed") {
		t.Error(text)
	}
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A"), RanWell: true})
	if acts := p.at(time.Hour); started(acts) != "" {
		t.Errorf("again: %q", acts)
	}
	p.restart("boot-1")
	p.feed(EvInstalled{Group: "web", Running: specOf("A")})
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("C"), RanWell: true})
	p.feed(EvQuorum{Set: "set"})
	if next := started(p.at(time.Minute)); next == "" || next == id {
		t.Errorf("another spec: %q after %q", next, id)
	}
}

// A leader that is heard before anything was touched decides.
func TestLeaderComesBackBeforeTheStop(t *testing.T) {
	p := stranded(t)
	id := started(p.at(70 * time.Second))
	p.feed(EvQuorum{Set: "set", Lead: true})
	p.expect(EvStopping{Group: "web", Deployment: id}, "abort")
	p.feed(EvApplied{Group: "web", Deployment: id, Outcome: OutcomeLapsed})
	if g := p.m.groups["web"]; g.Running != specOf("B") || g.Alone != nil {
		t.Errorf("%+v", g)
	}
	p.now = 100 * time.Second
	p.feed(EvQuorum{Set: "set", Lead: true})
	p.feed(EvQuorum{Set: "set"})
	p.feed(EvHealth{Group: "web", State: HealthUnhealthy})
	if again := started(p.at(160 * time.Second)); again == "" || again == id {
		t.Errorf("lost once more: %q after %q", again, id)
	}
}

func TestAloneOverARestart(t *testing.T) {
	for _, c := range []struct {
		name, boot string
		stop       bool
		want       string
	}{
		{"begun", "boot-1", true, "continue=true"},
		{"rebooted", "boot-2", true, "continue=false"},
		{"unpacked only", "boot-1", false, "continue=false"},
	} {
		p := stranded(t)
		id := started(p.at(70 * time.Second))
		if c.stop {
			p.feed(EvStopping{Group: "web", Deployment: id})
		}
		acts := p.restart(c.boot, OpenJournal{Group: "web", Deployment: id, Stopped: c.stop})
		if !slices.Contains(acts, "resume "+id+" "+c.want) {
			t.Errorf("%s: %q", c.name, acts)
		}
		p.feed(EvInstalled{Group: "web", Running: specOf("B"), Whole: true})
		p.feed(EvApplied{Group: "web", Deployment: id, Outcome: OutcomeSucceeded})
		if g := p.m.groups["web"]; g.Running != specOf("A") || !g.Whole || g.Alone != nil || g.journal != nil {
			t.Errorf("%s: %+v", c.name, g)
		}
	}
	p := stranded(t)
	p.at(70 * time.Second)
	p.restart("boot-1") // nothing was begun
	p.feed(EvInstalled{Group: "web", Running: specOf("B"), Whole: true})
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A"), RanWell: true})
	p.feed(EvHealth{Group: "web", State: HealthUnhealthy})
	p.feed(EvQuorum{Set: "set"})
	if acts := p.at(time.Minute); started(acts) == "" {
		t.Errorf("forgotten for good: %q", acts)
	}
}

// The end of the deployment that made the host unhealthy is still told.
func TestAloneKeepsTheWordThatIsOwed(t *testing.T) {
	p := newPupil(t)
	p.feed(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.feed(known(wants("B"), granted(7, "d-7", "B")))
	p.feed(EvVerified{Group: "web", Commit: specOf("B").Commit, SpecHash: specOf("B").SpecHash, OK: true})
	p.feed(EvBundle{Group: "web", SpecHash: specOf("B").SpecHash})
	p.feed(EvPreflight{Group: "web", SpecHash: specOf("B").SpecHash})
	p.feed(EvStopping{Group: "web", Deployment: "d-7"})
	p.feed(EvApplied{Group: "web", Deployment: "d-7", Outcome: OutcomeFailed})
	p.feed(EvQuorum{Set: "set"})
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A"), RanWell: true})
	id := started(p.at(time.Minute))
	if id == "" {
		t.Fatal("it stays unhealthy")
	}
	p.feed(EvStopping{Group: "web", Deployment: id})
	p.feed(EvApplied{Group: "web", Deployment: id, Outcome: OutcomeSucceeded})
	p.feed(EvQuorum{Set: "set", Lead: true})
	p.now += time.Minute
	if acts := p.feed(known(granted(7, "d-7", "B"))); !slices.Contains(acts, "submit done 7 failed") {
		t.Errorf("%q", acts)
	}
	acts := p.feed(known(func(a *Assignment) { a.Running, a.Whole = specOf("B"), false }))
	if !slices.Contains(acts, "submit hello boot-1 "+specOf("A").SpecHash+" whole=true") {
		t.Errorf("%q", acts)
	}
}

// A leader that comes after a gap in which hosts may have gone back alone
// believes nobody's health of before.
func TestHealthIsForgottenAfterAGap(t *testing.T) {
	m, index := NewMachine(), uint64(0)
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	say := func(term uint64, from string, after time.Duration, c Command) {
		t.Helper()
		b, err := Encode(c, begin.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		index++
		if answer := string(m.Apply(index, term, from, b)); !strings.Contains(answer, `"ok":true`) {
			t.Fatalf("%T: %s", c, answer)
		}
	}
	lead := func(term uint64, host string, after time.Duration) {
		t.Helper()
		say(term, host, after, Lead{Host: host, Voters: []string{"h1", "h2"}})
	}
	known := func() bool { return m.Assignments("h2")[0].Known }
	hello := func(after time.Duration) {
		t.Helper()
		say(9, "h2", after, Hello{Group: "web", Boot: "b", Running: specOf("A"), Whole: true})
	}
	lead(1, "h1", 0)
	say(1, "h1", 0, Target{Group: "web", Spec: specOf("A"), Members: []MemberInfo{{Host: "h2"}}})
	hello(time.Second)
	say(1, "h1", 50*time.Second, Tick{Elapsed: time.Second})
	lead(2, "h2", 60*time.Second)
	if !known() {
		t.Error("a leader that follows at once forgets")
	}
	lead(2, "h2", time.Hour) // the same, that had nothing to do
	if !known() {
		t.Error("a leader forgets what it heard itself")
	}
	say(2, "h2", 2*time.Hour, Tick{Elapsed: time.Second})
	lead(3, "h1", 2*time.Hour+time.Minute)
	if known() {
		t.Error("after a minute without a leader old health is believed")
	}
	hello(2*time.Hour + time.Minute)
	if !known() {
		t.Error("its word does not count")
	}
}

// While a host goes back alone it is down, and says nothing else.
func TestAloneIsDown(t *testing.T) {
	p := stranded(t)
	id := started(p.at(70 * time.Second))
	p.feed(EvStopping{Group: "web", Deployment: id})
	p.feed(EvHealth{Group: "web", State: HealthHealthy}) // of what still answers
	p.feed(EvQuorum{Set: "set", Lead: true})
	p.now += time.Minute
	acts := p.feed(known(func(a *Assignment) { a.Running, a.Checks, a.Known = specOf("B"), 1, false }))
	for _, a := range acts {
		if strings.Contains(a, "hello") || strings.Contains(a, "health B healthy") {
			t.Errorf("it says %q", a)
		}
	}
	if !slices.Contains(acts, "submit health B unhealthy") {
		t.Errorf("%q", acts)
	}
}

// What is healthy by the time it would be stopped is left alone, and so is a
// host that heard a leader in between.
func TestAloneIsVetoed(t *testing.T) {
	for name, change := range map[string]func(p *pupil){
		"healthy again": func(p *pupil) { p.feed(EvHealth{Group: "web", State: HealthHealthy}) },
		"a leader, for a moment": func(p *pupil) {
			p.feed(EvQuorum{Set: "set", Lead: true})
			p.feed(EvQuorum{Set: "set"})
		},
	} {
		p := stranded(t)
		id := started(p.at(70 * time.Second))
		change(p)
		if acts := p.feed(EvStopping{Group: "web", Deployment: id}); !slices.Contains(acts, "abort") {
			t.Errorf("%s: %q", name, acts)
		}
	}
}

func TestPausedHostStays(t *testing.T) {
	p := stranded(t)
	p.feed(known(func(a *Assignment) { a.Running, a.Checks, a.Paused = specOf("B"), 1, true }))
	if acts := p.at(time.Hour); started(acts) != "" {
		t.Errorf("%q", acts)
	}
	p.restart("boot-1") // which it remembers
	p.feed(EvInstalled{Group: "web", Running: specOf("B"), Whole: true})
	p.feed(EvTip{Group: "web", Set: "set", Spec: specOf("A"), RanWell: true})
	p.feed(EvHealth{Group: "web", State: HealthUnhealthy})
	p.feed(EvQuorum{Set: "set"})
	if acts := p.at(time.Hour); started(acts) != "" {
		t.Errorf("after a restart: %q", acts)
	}
}
