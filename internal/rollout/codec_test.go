package rollout

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var goldenTime = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// everyCommand is one of each, with every field set.
func everyCommand() []Command {
	spec := Spec{Commit: "c0ffee", SpecHash: "spec/1:aa", Digest: "sha256:bb"}
	token := Token{Epoch: 1, Index: 42, Seq: 7}
	events := []EventRecord{{Event: "AfterInstall", Status: "Failed", StartTime: "2026-01-02T03:04:05Z", EndTime: "2026-01-02T03:04:06Z",
		Diagnostics: &Diagnostics{ErrorCode: "ScriptFailed", ScriptName: "scripts/x.sh", Message: "exit 3", LogTail: "boom\n"}}}
	return []Command{
		Lead{Host: "web-1", Epoch: 1, Voters: []string{"web-1", "web-2", "web-3"}},
		Tick{Elapsed: time.Second},
		Liveness{Hosts: []HostLife{{Host: "web-2", For: time.Minute}, {Host: "web-3", Alive: true}}},
		Target{Group: "01JD", Base: 3, Spec: spec, Attempt: 2, Application: "website", Name: "website-production", Folder: "shop/production/website",
			Members: []MemberInfo{{Host: "web-1", Storage: "0123456789abcdef", Zone: "rack-a", Tags: map[string]string{"role": "web"}}},
			Policy: Policy{ConfigName: "x", MinimumHealthy: Minimum{FleetPercent, 75}, OneAtATime: true, HalfAtATime: true, MaxUnavailable: Limit{true, true, 25},
				MaxFailures: Limit{true, false, 1}, MinSuccess: Minimum{HostCount, 3}, Waves: []Wave{{Hosts: 1, Bake: time.Minute}, {Percent: 25}, {Tag: "rack=a"}, {Rest: true}},
				Zonal: &Zonal{FirstMonitor: 1, Monitor: 2, PerZone: Minimum{HostCount, 1}}, Unreachable: UnreachableWait, MaxUnreachable: Limit{true, true, 20},
				Supersede: SupersedeQueue, AutoRollback: []RollbackEvent{RollbackOnFailure}, Checks: 2, ReadyDeadline: 1, HealthDeadline: 2, DeadAfter: 3,
				LostAfter: 4, OutageGrace: 5, SupersedeQuiet: 6, DeploymentLimit: 7, BusyRetry: 8, HandoverWait: 9},
			Suspend: true, SuspendWhy: "two histories", Signers: []string{"anna"}, Subject: "Deploy 2.31", SetActive: 20, SetInFlight: 5},
		Orphan{Group: "01JD", Base: 4},
		Raise{Version: 2},
		Operator{Group: "01JD", ID: "r1", Verb: VerbPause, Actor: "anna", Reason: "lunch"},
		Hello{Group: "01JD", Boot: "b1", Running: spec, Whole: true},
		Ready{Group: "01JD", SpecHash: "spec/1:aa", Commit: "c0ffee", Refused: RefusedByHost, Reason: "disk full", LastGood: "spec/1:99"},
		Answer{Group: "01JD", Grant: token, Verdict: Refused, Kind: RefusedBySpec, Reason: "no", Boot: "b1"},
		Progress{Group: "01JD", Grant: token, Stopped: true, Events: events, FromOrigin: 1, FromPeers: 2},
		Done{Group: "01JD", Grant: token, Outcome: OutcomeFailed, Stopped: true, Event: "AfterInstall", ExitCode: 3, ErrorCode: "ScriptFailed",
			Message: "exit 3", Events: events, FromOrigin: 1, FromPeers: 2},
		Health{Group: "01JD", SpecHash: "spec/1:aa", State: HealthUnhealthy, Evidence: "status 500"},
	}
}

// TestGoldenCommands: what is in a raft log must be read by every later version.
// The golden file is only ever added to.
func TestGoldenCommands(t *testing.T) {
	golden := filepath.Join("testdata", "commands-v1.golden")
	var now strings.Builder
	for _, c := range everyCommand() {
		b, err := Encode(c, goldenTime)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		now.WriteString(hex.EncodeToString(b[:headerBytes]) + " " + string(b[headerBytes:]) + "\n")
		back, at, err := Decode(b)
		if err != nil || !reflect.DeepEqual(back, c) || !at.Equal(goldenTime) {
			t.Errorf("%T came back as %+v at %s (%v)", c, back, at, err)
		}
	}
	if *rewrite {
		if err := os.WriteFile(golden, []byte(now.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if now.String() != string(want) {
		t.Errorf("the encoding of commands has changed; a new version is needed\ngot\n%swant\n%s", now.String(), want)
	}
}

func TestEveryFieldIsInTheGoldenCommands(t *testing.T) {
	for _, c := range everyCommand() {
		unset(t, reflect.TypeOf(c).Name(), reflect.ValueOf(c))
	}
}

// unset reports fields that everyCommand leaves at zero: they would not be pinned.
func unset(t *testing.T, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "For" || path == "Target.Policy.MaxFailures" || path == "Target.Policy.Waves" || v.Type().Name() == "HostLife" {
				continue
			}
			unset(t, path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case reflect.Pointer:
		if v.IsNil() {
			t.Errorf("%s is not set", path)
			return
		}
		unset(t, path, v.Elem())
	case reflect.Slice:
		if v.Len() == 0 {
			t.Errorf("%s is empty", path)
		} else if v.Index(0).Kind() == reflect.Struct && v.Index(0).Type() != reflect.TypeOf(Wave{}) {
			unset(t, path, v.Index(0))
		}
	default:
		if v.IsZero() && path != "Raise.Version" {
			t.Errorf("%s is not set", path)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Encode(Tick{Elapsed: 1}, goldenTime)
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	body := func(k kind, s string) []byte {
		return append([]byte{FormatVersion, byte(k), 0, 0, 0, 0, 0, 0, 0, 0}, s...)
	}
	var unknown *UnknownError
	for name, b := range map[string][]byte{"version": change(0, 2), "type": change(1, 200)} {
		if _, _, err := Decode(b); !errors.As(err, &unknown) {
			t.Errorf("an unknown %s: %v", name, err)
		} else if !strings.Contains(err.Error(), "version 1") {
			t.Errorf("the refusal of an unknown %s does not name our version: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "short": good[:5], "no body": good[:headerBytes],
		"an unknown key":  body(kindTick, `{"elapsed":1,"more":2}`),
		"trailing bytes":  body(kindTick, `{"elapsed":1} {}`),
		"a wrong type":    body(kindTick, `{"elapsed":"1s"}`),
		"an array":        body(kindTick, `[]`),
		"a long name":     body(kindHello, `{"group":"`+strings.Repeat("x", maxName+1)+`"}`),
		"a long log tail": body(kindDone, `{"events":[{"diagnostics":{"logTail":"`+strings.Repeat("x", maxLogTail+1)+`"}}]}`),
		"many events":     body(kindDone, `{"events":[`+strings.Repeat(`{"event":"x"},`, maxEvents)+`{}]}`),
		"many bytes":      make([]byte, maxCommand+1),
		"a wild minimum":  body(kindTarget, `{"policy":{"minimumHealthy":{"type":"HOST_COUNT","value":-1}}}`),
	} {
		if c, _, err := Decode(b); err == nil {
			t.Errorf("%s was read as %+v", name, c)
		} else if errors.As(err, &unknown) {
			t.Errorf("%s stops a replica: %v", name, err)
		}
	}
}

func TestEncodeCutsTexts(t *testing.T) {
	long := strings.Repeat("ü", 10_000)
	b, err := Encode(Done{Group: "g", Message: long, Events: []EventRecord{{Event: "X", Diagnostics: &Diagnostics{LogTail: "first" + long + "last", Message: "\xff\xfe"}}}}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	c, at, err := Decode(b)
	if err != nil || !at.IsZero() {
		t.Fatal(at, err)
	}
	d := c.(Done)
	diag := d.Events[0].Diagnostics
	if len(d.Message) > maxSentence || len(diag.LogTail) > maxLogTail || !strings.HasSuffix(diag.LogTail, "last") || strings.Contains(diag.LogTail, "\uFFFD") {
		t.Errorf("cut to %d and %d bytes, tail ends %q", len(d.Message), len(diag.LogTail), diag.LogTail[len(diag.LogTail)-8:])
	}
}

// TestUnknownEntries: garbage from a host is refused by every replica alike; a
// newer entry of the leader stops this one, and nothing is skipped.
func TestUnknownEntries(t *testing.T) {
	m := NewMachine()
	send := func(from string, b []byte) string { return string(m.Apply(1, 1, from, b)) }
	lead, _ := Encode(Lead{Host: "h1", Voters: []string{"h1"}}, time.Time{})
	send("h1", lead)
	newer := []byte{9, 1, 0, 0, 0, 0, 0, 0, 0, 0, '{', '}'}
	before, _ := m.Hash()
	send("h2", newer)
	if after, _ := m.Hash(); m.Err() != nil || before != after {
		t.Fatalf("a host that does not lead stopped the replica: %v", m.Err())
	}
	if got := send("h1", newer); m.Err() == nil || !strings.Contains(got, "version 9") {
		t.Fatalf("the leader's newer entry was skipped: %s", got)
	}
	if got := send("h1", lead); !strings.Contains(got, "version 9") {
		t.Errorf("a stopped replica went on: %s", got)
	}
	if _, err := m.Snapshot(); err == nil {
		t.Error("a stopped replica made a snapshot")
	}
	m = NewMachine()
	send("h1", lead)
	raise, _ := Encode(Raise{Version: FormatVersion + 1}, time.Time{})
	if send("h1", raise); m.Err() == nil {
		t.Error("raised beyond what it understands")
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range everyCommand() {
		b, err := Encode(c, goldenTime)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, at, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(c, at)
		if err != nil {
			t.Fatalf("%+v was read but cannot be written: %v", c, err)
		}
		if back, _, err := Decode(again); err != nil || reflect.TypeOf(back) != reflect.TypeOf(c) {
			t.Fatalf("%+v came back as %+v (%v)", c, back, err)
		}
		m := NewMachine() // whatever it is, it is applied or refused, never worse
		lead, _ := Encode(Lead{Host: "h1", Voters: []string{"h1"}}, at)
		m.Apply(1, 1, "h1", lead)
		m.Apply(2, 1, "h1", b)
		for _, v := range m.Groups() {
			if v.Frozen != "" {
				t.Fatalf("%+v froze the group: %s", c, v.Frozen)
			}
		}
	})
}

func FuzzRestore(f *testing.F) {
	c := newConvo(&testing.T{})
	c.play("lead h1 voters=h1\ntarget A hosts=h1,h2 rollback=on\nhello all boot=1 runs=A\ntarget B\nready all for=B\naccept h1\nstopping h1\ndone h1 failed=AfterInstall exit=3")
	snap, err := c.m.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(snap)
	f.Add([]byte{1, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := NewMachine()
		if err := m.Restore(b); err != nil {
			return
		}
		one, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		again := NewMachine()
		if err := again.Restore(one); err != nil {
			t.Fatalf("a snapshot of ours is refused: %v", err)
		}
		if two, _ := again.Snapshot(); !bytes.Equal(one, two) {
			t.Fatal("a snapshot is not canonical")
		}
		tick, _ := Encode(Tick{Elapsed: maxTick}, time.Time{})
		leader, term := m.Leader()
		m.Apply(1, term, leader, tick)
	})
}

func FuzzMemberState(f *testing.F) {
	m, err := NewMember("h1", nil)
	if err != nil {
		f.Fatal(err)
	}
	m.Step(EvStarted{Boot: "b"}, 0)
	g := m.group("web")
	g.Open = &openGrant{Grant: Grant{Deployment: "d-1"}, Done: &Done{Outcome: OutcomeFailed}}
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := NewMember("h1", b)
		if err != nil {
			return
		}
		m.Step(EvStarted{Boot: "b"}, 0)
		m.Step(EvSynced{Set: "s"}, time.Second)
		if len(b) > 0 {
			if _, err := NewMember("h1", m.encode()); err != nil {
				t.Fatalf("a member's own state is refused: %v", err)
			}
		}
	})
}
