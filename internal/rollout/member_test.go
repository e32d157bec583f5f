package rollout

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// pupil is a Member under test with a disk.
type pupil struct {
	t    *testing.T
	m    *Member
	disk []byte
	now  time.Duration
}

func newPupil(t *testing.T) *pupil {
	p := &pupil{t: t}
	p.restart("boot-1")
	return p
}

// restart starts the agent anew from what is on disk.
func (p *pupil) restart(boot string, journals ...OpenJournal) []string {
	m, err := NewMember("h1", p.disk)
	if err != nil {
		p.t.Fatal(err)
	}
	p.m, p.now = m, 0
	return p.feed(EvStarted{Boot: boot, Journals: journals})
}

// feed returns the actions in short.
func (p *pupil) feed(ev MemberEvent) []string {
	var out []string
	for _, a := range p.m.Step(ev, p.now) {
		switch a := a.(type) {
		case ActPersist:
			p.disk = a.State
			out = append(out, "persist")
		case ActSubmit:
			out = append(out, "submit "+p.said(a.Command))
		case ActStartApply:
			out = append(out, "start "+a.Grant.Deployment)
		case ActResumeApply:
			out = append(out, fmt.Sprintf("resume %s continue=%v", a.Deployment, a.Continue))
		case ActVerify:
			out = append(out, "verify "+a.Spec.SpecHash)
		case ActFetchBundle:
			out = append(out, "fetch "+a.Spec.SpecHash)
		case ActPreflight:
			out = append(out, "preflight "+a.Spec.SpecHash)
		case ActMarkGood:
			out = append(out, "mark good "+a.Spec.SpecHash)
		default:
			out = append(out, strings.ToLower(strings.TrimPrefix(reflect.TypeOf(a).Name(), "Act")))
		}
	}
	return out
}

func (p *pupil) said(c Command) string {
	switch c := c.(type) {
	case Hello:
		return fmt.Sprintf("hello %s %s whole=%v", c.Boot, c.Running.SpecHash, c.Whole)
	case Ready:
		return strings.TrimSpace(fmt.Sprintf("ready %s %s", c.SpecHash, c.Refused))
	case Answer:
		return strings.TrimSpace(fmt.Sprintf("%s %d %s", c.Verdict, c.Grant.Seq, c.Kind))
	case Progress:
		return fmt.Sprintf("progress %d stopped=%v events=%d", c.Grant.Seq, c.Stopped, len(c.Events))
	case Done:
		return fmt.Sprintf("done %d %s", c.Grant.Seq, c.Outcome)
	case Health:
		return fmt.Sprintf("health %s %s", c.SpecHash, c.State)
	}
	return fmt.Sprintf("%T", c)
}

// expect feeds an event and compares the actions.
func (p *pupil) expect(ev MemberEvent, want ...string) {
	p.t.Helper()
	if got := p.feed(ev); !slices.Equal(got, want) {
		p.t.Errorf("%T: got  %q\nwant %q", ev, got, want)
	}
}

// known is an assignment of a host the state knows, running A.
func known(change ...func(*Assignment)) EvSynced {
	a := Assignment{Group: "web", Member: true, Known: true, Boot: "boot-1", Running: specOf("A"), Whole: true, LastGood: specOf("A")}
	for _, c := range change {
		c(&a)
	}
	return EvSynced{Set: "set", Assignments: []Assignment{a}}
}

func wants(names ...string) func(*Assignment) {
	return func(a *Assignment) {
		for _, n := range names {
			a.Prepare = append(a.Prepare, specOf(n))
		}
	}
}

func granted(seq uint64, deployment, spec string) func(*Assignment) {
	return func(a *Assignment) {
		a.Grant = &Grant{Token: Token{Index: 9, Seq: seq}, Group: "web", Deployment: deployment, Host: "h1", Attempt: 1, Spec: specOf(spec)}
	}
}

func shown(specs ...string) func(*Assignment) {
	return func(a *Assignment) {
		for _, s := range specs {
			a.Ready = append(a.Ready, Ready{Group: "web", SpecHash: s, Commit: specOf(s).Commit})
		}
	}
}

// runsA brings a pupil to a quiet host that runs A, marked good.
func runsA(t *testing.T) *pupil {
	p := newPupil(t)
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(known(), "mark good A", "persist")
	return p
}

// readyForB brings it to Ready for B.
func readyForB(t *testing.T) *pupil {
	p := runsA(t)
	p.expect(known(wants("B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: true}, "fetch B")
	p.expect(EvBundle{Group: "web", SpecHash: "B"}, "preflight B")
	p.expect(EvPreflight{Group: "web", SpecHash: "B"}, "submit ready B")
	p.expect(known(wants("B"), shown("B")))
	return p
}

// inFlight brings it past the point of no return of d-1.
func inFlight(t *testing.T) *pupil {
	p := readyForB(t)
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "start d-1", "submit accepted 5")
	p.expect(EvStopping{Group: "web", Deployment: "d-1"}, "persist", "proceed", "submit progress 5 stopped=true events=0")
	return p
}

func TestMemberRoad(t *testing.T) {
	p := inFlight(t)
	p.now = 2 * time.Second
	p.expect(EvUpdate{Group: "web", Deployment: "d-1", Event: EventRecord{Event: "ApplicationStop", Status: "Succeeded"}},
		"submit progress 5 stopped=true events=1", "submit progress 5 stopped=true events=1")
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeSucceeded}, "persist", "submit done 5 succeeded")
	// The state has not shown it: said again, later each time.
	p.now += time.Second
	p.expect(EvTimer{})
	p.now += time.Second
	p.expect(EvTimer{}, "submit done 5 succeeded")
	p.now += 3 * time.Second
	p.expect(EvTimer{})
	p.now += time.Second
	p.expect(EvTimer{}, "submit done 5 succeeded")
	// Shown: forgotten. What the group runs well is marked once.
	after := func(a *Assignment) { a.Running = specOf("B") }
	p.expect(known(wants("B"), shown("B"), after), "persist")
	p.expect(known(wants("B"), shown("B"), after, func(a *Assignment) { a.LastGood = specOf("B") }), "mark good B", "persist")
	if at, armed := p.m.Deadline(); armed {
		t.Errorf("a quiet member wants to wake at %s", at)
	}
}

// TestMemberTellsABundlesCostOnce: a deployment of what an earlier one brought moves nothing.
func TestMemberTellsABundlesCostOnce(t *testing.T) {
	p := readyForB(t)
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromOrigin: 50, FromPeers: 100})
	for _, c := range []struct {
		seq        uint64
		deployment string
		want       [2]int64
	}{{5, "d-1", [2]int64{50, 100}}, {6, "d-2", [2]int64{}}} {
		p.feed(known(wants("B"), shown("B"), granted(c.seq, c.deployment, "B")))
		p.feed(EvStopping{Group: "web", Deployment: c.deployment})
		told := 0
		for _, action := range p.m.Step(EvApplied{Group: "web", Deployment: c.deployment, Outcome: OutcomeFailed}, p.now) {
			if a, ok := action.(ActSubmit); ok {
				if done, ok := a.Command.(Done); ok {
					told++
					if got := [2]int64{done.FromOrigin, done.FromPeers}; got != c.want {
						t.Errorf("%s is said to have moved %d, want %d", c.deployment, got, c.want)
					}
				}
			}
		}
		if told != 1 {
			t.Errorf("the end of %s was told %d times", c.deployment, told)
		}
		p.feed(known(wants("B"), shown("B"), func(a *Assignment) { a.Running, a.Whole = specOf("B"), false }))
	}
}

func TestMemberHello(t *testing.T) {
	p := newPupil(t)
	stranger := func(a *Assignment) { *a = Assignment{Group: "web", Member: true} }
	p.expect(known(stranger), "submit hello boot-1  whole=false")
	p.expect(known(stranger)) // a moment ago
	p.now = resendFirst
	p.expect(known(stranger), "submit hello boot-1  whole=false")
	// The state believes that A runs here, but this disk is new.
	p.now = time.Minute
	p.expect(known(), "submit hello boot-1  whole=false")
	if got := p.restart("boot-2"); len(got) != 0 {
		t.Errorf("before it heard anything it did %q", got)
	}
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(known(), "submit hello boot-2 A whole=true", "mark good A", "persist")
}

func TestMemberGetsReady(t *testing.T) {
	p := runsA(t)
	p.expect(known(wants("B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", Wait: true})
	p.now += verifyAgain
	p.expect(EvTimer{}, "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: true}, "fetch B")
	p.expect(EvBundle{Group: "web", SpecHash: "B", Refused: RefusedByBytes, Reason: "S3 answers 503"}, "submit ready B bytes")
	bytes := func(a *Assignment) {
		a.Ready = []Ready{{SpecHash: "B", Commit: "commit-B", Refused: RefusedByBytes, Reason: "S3 answers 503"}}
	}
	p.expect(known(wants("B"), bytes))
	p.now += bytesAgain
	p.expect(EvTimer{}, "fetch B")
	p.expect(EvBundle{Group: "web", SpecHash: "B"}, "submit ready B no more", "preflight B")
	p.expect(EvPreflight{Group: "web", SpecHash: "B", Refused: RefusedByHost, Reason: "disk full"}, "submit ready B host")
	p.now += hostAgain
	p.expect(EvTimer{}, "submit ready B host", "preflight B")
	p.expect(EvPreflight{Group: "web", SpecHash: "B"}, "submit ready B")
	p.expect(known(wants("B"), shown("B")))
	// Somebody asks to look again.
	p.expect(known(wants("B")), "verify B")
	// Answers that come too late or for something else change nothing.
	p.expect(EvBundle{Group: "web", SpecHash: "Z"})
	p.expect(EvPreflight{Group: "web", SpecHash: "B"})
	p.expect(EvVerified{Group: "web", Commit: "other", SpecHash: "B", OK: true})
	if got := p.m.Preparing("web"); len(got) != 1 || got[0].SpecHash != "B" {
		t.Errorf("preparing %v", got)
	}
}

// TestMemberFetchesAgainWhatIsWrong: bytes that the preflight finds wrong are to be had again before it is asked again.
func TestMemberFetchesAgainWhatIsWrong(t *testing.T) {
	p := runsA(t)
	p.expect(known(wants("B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: true}, "fetch B")
	p.expect(EvBundle{Group: "web", SpecHash: "B"}, "preflight B")
	p.expect(EvPreflight{Group: "web", SpecHash: "B", Refused: RefusedByBytes, Reason: "it changed on disk"}, "submit ready B bytes")
	p.expect(known(wants("B"), func(a *Assignment) {
		a.Ready = []Ready{{SpecHash: "B", Commit: "commit-B", Refused: RefusedByBytes, Reason: "it changed on disk"}}
	}))
	p.now += bytesAgain
	p.expect(EvTimer{}, "fetch B")
	p.expect(EvBundle{Group: "web", SpecHash: "B"}, "submit ready B no more", "preflight B")
	p.expect(EvPreflight{Group: "web", SpecHash: "B"}, "submit ready B")
}

// TestMemberTakesBackWhatIsCured: a refusal goes as soon as the host is on its way again or refuses for another reason, not only when it is ready.
func TestMemberTakesBackWhatIsCured(t *testing.T) {
	refused := func(reason string) func(*Assignment) {
		return func(a *Assignment) {
			a.Ready = []Ready{{SpecHash: "B", Commit: "commit-B", Refused: RefusedByBytes, Reason: reason}}
		}
	}
	p := runsA(t)
	p.expect(known(wants("B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: true}, "fetch B")
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromPeers: 100})
	p.expect(EvBundle{Group: "web", SpecHash: "B", Refused: RefusedByBytes, Reason: "S3 cannot be reached, 3 tries"}, "submit ready B bytes")
	p.expect(known(wants("B"), refused("S3 cannot be reached, 3 tries")))
	p.now += bytesAgain
	p.expect(EvTimer{}, "fetch B")
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromPeers: 100})
	// Only a number differs: not told again. Another reason is.
	p.expect(EvBundle{Group: "web", SpecHash: "B", Refused: RefusedByBytes, Reason: "S3 cannot be reached, 4 tries"})
	p.now += 2 * bytesAgain
	p.expect(EvTimer{}, "fetch B")
	p.expect(EvBundle{Group: "web", SpecHash: "B", Refused: RefusedByBytes, Reason: "S3 has no such key"}, "submit ready B bytes")
	p.expect(known(wants("B"), refused("S3 has no such key")))
	// The operator mends the host's own file: it looks at once, and bytes come.
	p.expect(EvLookAgain{}, "submit ready B no more", "fetch B")
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromPeers: 100})
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromOrigin: 50, FromPeers: 100})
	p.expect(known(wants("B"))) // shown; nobody asks to look again
	p.expect(EvBundle{Group: "web", SpecHash: "B"}, "preflight B")
	p.expect(EvPreflight{Group: "web", SpecHash: "B"}, "submit ready B")
	// A process that was restarted meanwhile does not know what it said, and takes it back as well.
	p.restart("boot-1")
	p.feed(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(known(wants("B"), refused("S3 has no such key")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: true}, "fetch B")
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromOrigin: 7}, "submit ready B no more")
}

// TestMemberSaysWhyNothingComes: a fetch goes on for seconds after its origin has failed, and people wait for the reason.
func TestMemberSaysWhyNothingComes(t *testing.T) {
	refused := func(reason string) func(*Assignment) {
		return func(a *Assignment) {
			a.Ready = []Ready{{SpecHash: "B", Commit: "commit-B", Refused: RefusedByBytes, Reason: reason}}
		}
	}
	p := runsA(t)
	p.expect(EvNoBytes{Group: "web", SpecHash: "B", Reason: "nobody asked"})
	p.expect(known(wants("B")), "verify B")
	p.expect(EvNoBytes{Group: "web", SpecHash: "B", Reason: "too early"})
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: true}, "fetch B")
	p.expect(EvNoBytes{Group: "web", SpecHash: "B", Reason: "S3 refuses connections"}, "submit ready B bytes")
	p.expect(known(wants("B"), refused("S3 refuses connections")))
	p.expect(EvNoBytes{Group: "web", SpecHash: "B", Reason: "S3 refuses connections"})
	// The operator changes the host's own file while the fetch goes on: it is not asked for twice.
	p.expect(EvLookAgain{}, "submit ready B no more")
	p.expect(EvNoBytes{Group: "web", SpecHash: "B", Reason: "S3 answers 503"}, "submit ready B bytes")
	p.expect(known(wants("B"), refused("S3 answers 503")))
	p.expect(EvBytes{Group: "web", SpecHash: "B", FromOrigin: 5}, "submit ready B no more")
	p.expect(known(wants("B")))
	p.expect(EvBundle{Group: "web", SpecHash: "B"}, "preflight B")
	p.expect(EvNoBytes{Group: "web", SpecHash: "B", Reason: "too late"})
	p.expect(EvPreflight{Group: "web", SpecHash: "B"}, "submit ready B")
}

// TestMemberFindsThatItWasRestored: its record is older than what the state heard from it, so it vouches for nothing that is in place.
func TestMemberFindsThatItWasRestored(t *testing.T) {
	p := runsA(t)
	backup := p.disk
	later := func(a *Assignment) { a.Last = Token{Index: 9, Seq: 7} }
	p.disk = backup
	p.restart("boot-1")
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(known(later), "persist", "submit hello boot-1 A whole=false")
	// It remembers that it forgot, and acts on no grant that it may have acted on before.
	p.restart("boot-1")
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(known(later, wants("B"), granted(7, "d-7", "B")), "submit hello boot-1 A whole=false", "verify B", "submit done 7 lapsed")
	// A deployment makes it whole.
	p = inFlight(t)
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeSucceeded}, "persist", "submit done 5 succeeded")
	p.expect(known(func(a *Assignment) { a.Running, a.Last = specOf("B"), Token{Index: 9, Seq: 5} }), "persist")
	// A host that comes back to a set it left has lost nothing.
	p.expect(EvSynced{Set: "other", Assignments: []Assignment{{Group: "web", Member: true, Known: true, Boot: "boot-1", Running: specOf("B"), Whole: true}}})
	p.expect(known(func(a *Assignment) { a.Running, a.Last = specOf("B"), Token{Index: 9, Seq: 5} }), "persist")
}

// TestMemberChecksItsOwnGit: a leader cannot deploy what nobody committed (D1).
func TestMemberChecksItsOwnGit(t *testing.T) {
	p := runsA(t)
	p.expect(known(wants("B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", Reason: "commit-B yields another spec hash"}, "submit ready B host")
	p.expect(known(wants("B"), granted(5, "d-1", "B")), "persist", "submit refused 5 host")
}

func TestMemberBusy(t *testing.T) {
	p := inFlight(t)
	other := EvSynced{Set: "other", Assignments: []Assignment{{Group: "api", Member: true, Known: true, Boot: "boot-1"}}}
	granted(3, "d-7", "X")(&other.Assignments[0])
	p.expect(other, "persist", "submit busy 3")
	// The same grant is never acted on, not even by a later process that is free.
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeSucceeded}, "persist", "submit done 5 succeeded")
	p.now += resendFirst
	p.expect(other, "submit busy 3", "submit done 5 succeeded")
	p.restart("boot-1")
	p.expect(other, "submit done 3 lapsed")
}

func TestMemberGrantLapses(t *testing.T) {
	// Not ready within a minute.
	p := runsA(t)
	p.expect(known(wants("B"), granted(5, "d-1", "B")), "verify B")
	if at, ok := p.m.Deadline(); !ok || at != grantLapse {
		t.Errorf("the deadline is %s, %v", at, ok)
	}
	p.now = grantLapse
	p.expect(EvTimer{}, "persist", "submit refused 5")
	// Accepted, but a minute passes before ApplicationStop.
	p = readyForB(t)
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "start d-1", "submit accepted 5")
	p.now += grantLapse
	p.expect(EvStopping{Group: "web", Deployment: "d-1"}, "abort", "submit accepted 5")
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeLapsed}, "persist", "submit done 5 lapsed")
	// Somebody else's deployment.
	p.expect(EvStopping{Group: "web", Deployment: "d-9"}, "abort")
}

// TestMemberRestarts is rule 3.
func TestMemberRestarts(t *testing.T) {
	journal := OpenJournal{Group: "web", Deployment: "d-1", Stopped: true}
	open := func(a *Assignment) {
		granted(5, "d-1", "B")(a)
		a.Grant.Accepted, a.Grant.Stopped = true, true
	}
	newBoot := func(a *Assignment) { a.Boot = "boot-2" }
	installed := EvInstalled{Group: "web", Running: specOf("A"), Whole: true}

	p := inFlight(t)
	p.restart("boot-1", journal)
	p.expect(installed)
	p.expect(known(open), "resume d-1 continue=true")
	p.expect(known(open))
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeSucceeded}, "persist", "submit done 5 succeeded")

	p = inFlight(t)
	p.restart("boot-2", journal)
	p.expect(installed)
	p.expect(known(open, newBoot), "resume d-1 continue=false")
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeUndone}, "persist", "submit done 5 undone")

	p = inFlight(t) // the deployment went on without it
	p.restart("boot-1", journal)
	p.expect(known(), "resume d-1 continue=false")

	p = inFlight(t) // nobody is heard
	p.restart("boot-1", journal)
	p.now = silenceLimit - 1
	p.expect(EvTimer{})
	p.now = silenceLimit
	p.expect(EvTimer{}, "resume d-1 continue=false")

	p = readyForB(t) // accepted, nothing begun
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "start d-1", "submit accepted 5")
	p.restart("boot-1")
	p.expect(installed)
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "verify B", "submit done 5 lapsed")

	p = inFlight(t) // ended, but the word was lost with the process
	p.restart("boot-1")
	p.expect(known(open), "persist", "submit done 5 failed")

	p = newPupil(t) // a journal nobody here knows of
	if got := p.restart("boot-1", journal); !slices.Equal(got, []string{"resume d-1 continue=false"}) {
		t.Errorf("an unknown journal: %q", got)
	}
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeUndone})
}

func TestMemberEndedWhileTheAgentDied(t *testing.T) {
	p := inFlight(t)
	p.restart("boot-1")
	if at, armed := p.m.Deadline(); armed {
		t.Errorf("before it heard anything it wants to wake at %s", at)
	}
	// The release on disk says that d-1 was installed well.
	p.expect(EvInstalled{Group: "web", Running: specOf("B"), Whole: true})
	p.expect(known(granted(5, "d-1", "B")), "persist", "submit done 5 succeeded")
}

func TestMemberHealth(t *testing.T) {
	p := runsA(t)
	checked := func(a *Assignment) { a.Checks = 1 }
	verdict := func(s HealthState) func(*Assignment) {
		return func(a *Assignment) { a.Checks, a.Health = 1, Health{SpecHash: "A", State: s} }
	}
	p.expect(known(checked))
	p.expect(EvHealth{Group: "web", State: HealthHealthy}, "submit health A healthy")
	p.expect(known(verdict(HealthHealthy)))
	p.expect(EvHealth{Group: "web", State: HealthHealthy, Evidence: "again"})
	p.expect(EvHealth{Group: "web", State: HealthUnhealthy, Evidence: "status 500"}, "submit health A unhealthy")
	// After a restart nothing is known, and that is said (I12).
	p.restart("boot-1")
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(known(verdict(HealthHealthy)), "submit health A unknown")
	// A verdict on what ran before a deployment is not sent for what runs after.
	p = inFlight(t)
	p.expect(EvHealth{Group: "web", State: HealthHealthy})
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeSucceeded}, "persist", "submit done 5 succeeded")
	p.expect(known(checked, func(a *Assignment) { a.Running = specOf("B") }), "persist")
	// One that came since the start holds where the result of a grant was lost: nobody says the same again, and the host stayed unknown (I11).
	p = readyForB(t)
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "start d-1", "submit accepted 5")
	p.restart("boot-1")
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	p.expect(EvHealth{Group: "web", State: HealthHealthy})
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "verify B", "submit done 5 lapsed")
	p.expect(known(checked), "persist", "submit health A healthy")
}

// TestMemberTokens: no grant at or below the highest persisted is acted on (I1).
func TestMemberTokens(t *testing.T) {
	p := inFlight(t)
	p.expect(EvApplied{Group: "web", Deployment: "d-1", Outcome: OutcomeFailed, Event: "AfterInstall", ExitCode: 3}, "persist", "submit done 5 failed")
	broken := func(a *Assignment) { a.Running, a.Whole = specOf("B"), false }
	p.expect(known(wants("B"), shown("B"), broken), "persist")
	p.expect(known(wants("B"), shown("B"), broken, granted(4, "d-0", "B")), "submit done 4 lapsed")
	p.expect(known(wants("B"), shown("B"), broken, granted(6, "d-2", "B")), "persist", "start d-2", "submit accepted 6")
	if (Token{Epoch: 2, Seq: 1}).Less(Token{Epoch: 1, Seq: 9}) || !(Token{Epoch: 1, Seq: 9}).Less(Token{Epoch: 2, Seq: 1}) {
		t.Error("a newer epoch must win over any sequence")
	}
}

func TestMemberStateRefused(t *testing.T) {
	good := inFlight(t).disk
	other := append([]byte{}, good...)
	other[0] = 9
	for name, b := range map[string][]byte{
		"another version": other,
		"another host":    []byte("\x01" + `{"version":1,"host":"h2"}`),
		"half":            good[:len(good)/2],
		"unknown keys":    []byte("\x01" + `{"version":1,"host":"h1","more":1}`),
		"a null group":    []byte("\x01" + `{"version":1,"host":"h1","groups":[null]}`),
	} {
		if _, err := NewMember("h1", b); err == nil || !strings.Contains(err.Error(), "h1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMemberForgetsGroups(t *testing.T) {
	p := readyForB(t)
	p.expect(EvSynced{Set: "set"})
	if at, armed := p.m.Deadline(); armed {
		t.Errorf("a member of nothing wants to wake at %s", at)
	}
	if p.m.Preparing("web") == nil && p.m.Preparing("nothing") != nil {
		t.Error("it prepares for a group it does not know")
	}
}

// TestMemberFollowsItsGroupToAnotherSet: tokens of two coordinator sets do not
// compare, so the first grant of the new set is not taken for an old one.
func TestMemberFollowsItsGroupToAnotherSet(t *testing.T) {
	p := runsA(t)
	p.expect(known(wants("B"), granted(9, "d-1", "B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", Reason: "refused by this host's git"}, "submit ready B host", "persist", "submit refused 9 host")
	moved := known(wants("C"), granted(2, "d-2", "C"))
	moved.Set = "next"
	p.expect(moved, "verify C")
	p.expect(EvVerified{Group: "web", Commit: "commit-C", SpecHash: "C", Reason: "refused by this host's git"}, "submit ready C host", "persist", "submit refused 2 host")
	p.restart("boot-1")
	if got := p.m.groups["web"]; got.Set != "next" || got.HighWater.Seq != 2 {
		t.Errorf("after a restart the set is %q and the high water %d, want next and 2", got.Set, got.HighWater.Seq)
	}
}

// TestMemberThatLostItsRecordRunsNothingAgain: the set saw the grant accepted,
// but this host's data was wiped or restored, so what ran is unknown (I7).
func TestMemberThatLostItsRecordRunsNothingAgain(t *testing.T) {
	p := runsA(t)
	accepted := func(a *Assignment) {
		granted(5, "d-1", "B")(a)
		a.Grant.Accepted = true
	}
	p.expect(known(wants("B"), accepted), "verify B", "persist", "submit done 5 failed")
	p.now += resendFirst
	p.expect(known(wants("B"), accepted), "submit done 5 failed")
	p.restart("boot-1")
	p.expect(known(wants("B"), accepted), "verify B", "submit done 5 failed")
}

// TestMemberWhoseAcceptanceComesLate: it refuses a grant that it had accepted before
// it was restored from a backup, and the set hears the acceptance first. It said that
// it refuses for ever, which nobody may who accepted.
func TestMemberWhoseAcceptanceComesLate(t *testing.T) {
	p := readyForB(t)
	backup := p.disk
	p.expect(known(wants("B"), shown("B"), granted(5, "d-1", "B")), "persist", "start d-1", "submit accepted 5")
	p.disk = backup
	p.restart("boot-2")
	p.expect(EvInstalled{Group: "web", Running: specOf("A"), Whole: true})
	again := func(a *Assignment) { a.Boot = "boot-2" }
	p.expect(known(wants("B"), again, granted(5, "d-1", "B")), "verify B")
	p.expect(EvVerified{Group: "web", Commit: "commit-B", SpecHash: "B", OK: false, Reason: "no such commit"}, "submit ready B host", "persist", "submit refused 5 host")
	p.expect(known(wants("B"), again, granted(5, "d-1", "B"), func(a *Assignment) { a.Grant.Accepted = true }), "submit done 5 failed")
}

// What was submitted belongs to whoever encodes it, on a goroutine of its own.
func TestSubmittedEventsAreNotTouchedAgain(t *testing.T) {
	p := newPupil(t)
	p.feed(known(wants("B"), granted(7, "d-7", "B")))
	p.feed(EvVerified{Group: "web", Commit: specOf("B").Commit, SpecHash: specOf("B").SpecHash, OK: true})
	p.feed(EvBundle{Group: "web", SpecHash: specOf("B").SpecHash})
	p.feed(EvPreflight{Group: "web", SpecHash: specOf("B").SpecHash})
	event := func(status string) MemberEvent {
		return EvUpdate{Group: "web", Deployment: "d-7", Event: EventRecord{Event: "ApplicationStop", Status: status}}
	}
	var submitted [][]EventRecord
	step := func(ev MemberEvent) {
		for _, a := range p.m.Step(ev, p.now) {
			if s, ok := a.(ActSubmit); ok {
				switch c := s.Command.(type) {
				case Progress:
					submitted = append(submitted, c.Events)
				case Done:
					submitted = append(submitted, c.Events)
				}
			}
		}
	}
	step(event("Pending"))
	step(EvStopping{Group: "web", Deployment: "d-7"})
	step(EvApplied{Group: "web", Deployment: "d-7", Outcome: OutcomeSucceeded})
	if len(submitted) < 3 {
		t.Fatalf("%d reports", len(submitted))
	}
	step(event("Late"))
	for i, events := range submitted {
		if len(events) != 1 || events[0].Status != "Pending" {
			t.Errorf("report %d became %v", i, events)
		}
	}
}
