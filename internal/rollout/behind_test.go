package rollout

import (
	"slices"
	"strings"
	"testing"
)

// TestJoining: who waits for a commit that lets hosts join must know which of them have nothing yet, and which never will.
func TestJoining(t *testing.T) {
	c := newConvo(t)
	step := func(play string, coming, failed []string) {
		t.Helper()
		c.play(play)
		v, _ := c.m.Group(c.group)
		if v.State != StateSucceeded || !slices.Equal(v.Joining, coming) || !slices.Equal(v.JoinFailed, failed) {
			t.Errorf("after %q: %s, joining %v, failed %v, want %v and %v", play, v.State, v.Joining, v.JoinFailed, coming, failed)
		}
	}
	step("lead h1 voters=h1\ntarget 1 hosts=a,b\nhello a b\nready a b for=1\ntick 1s\naccept a\nstopping a\ndone a\ntick 1s\naccept b\nstopping b\ndone b\ntick 1s", nil, nil)
	step("target 1 hosts=a,b,c,d", []string{"c", "d"}, nil)
	step("hello c d", []string{"c", "d"}, nil)
	step("ready c d for=1\ntick 1s", []string{"c", "d"}, nil)
	step("accept c\nstopping c\ndone c\ntick 1s", []string{"d"}, nil)
	for range catchUpTries - 1 {
		step("accept d\nstopping d\ndone d failed=AfterInstall exit=3\ntick 1s\ntick 10m\ntick 1s", []string{"d"}, nil)
	}
	step("accept d\nstopping d\ndone d failed=AfterInstall exit=3\ntick 1s", nil, []string{"d"})
	step("target 1 hosts=a,b,c\ntarget 1 hosts=a,b,c,e\ndead e", []string{"e"}, nil)
	step("tick 1m", nil, nil)
	step("alive e", []string{"e"}, nil)
	step("target 1 hosts=b,c\ntarget 1 hosts=a,b,c", []string{"a"}, nil) // a was told to belong here no more: what it has now nobody knows
	step("hello a runs=1", nil, nil)
}

// TestJoiningOfAHostNotHeardOfYet: a host that a commit has just listed looks dead, for as long as anybody was there to hear of it, until it and the others have found
// each other. It is waited for within a bound, for which the clock has to go on.
func TestJoiningOfAHostNotHeardOfYet(t *testing.T) {
	c := newConvo(t)
	step := func(play string, ticks bool, coming ...string) {
		t.Helper()
		c.play(play)
		v, _ := c.m.Group(c.group)
		if v.State != StateSucceeded || !slices.Equal(v.Joining, coming) || c.m.Needs().Tick != ticks {
			t.Errorf("after %q: %s, joining %v, ticks %v, want %v and %v", play, v.State, v.Joining, c.m.Needs().Tick, coming, ticks)
		}
	}
	step("lead h1 voters=h1\ntarget 1 hosts=a\nhello a\nready a for=1\ntick 1s\naccept a\nstopping a\ndone a\ntick 1s", false)
	step("tick 1h\ntarget 1 hosts=a,b\ndead b for=1h", true, "b")
	step("tick 50s", true, "b")
	step("alive b\nhello b", true, "b")
	step("ready b for=1\ntick 1s\naccept b\nstopping b\ndone b\ntick 1s", false)
	step("target 1 hosts=a,b,c\ndead c for=1h\ntick 50s", true, "c")
	step("tick 10s", false)
	step("dead b for=1h\ntick 1s", false) // long a member
}

// TestAHostThatJoinsPreparesForWhatItWillBeGiven: a later commit that asks for what runs is no other work, and what its bundle cost is not forgotten over it.
func TestAHostThatJoinsPreparesForWhatItWillBeGiven(t *testing.T) {
	c := newConvo(t)
	c.play("lead h1 voters=h1\ntarget A hosts=a\nhello a\nready a for=A\ntick 1s\naccept a\nstopping a\ndone a\ntick 1s\ntarget A hosts=a,b commit=later\nhello b")
	prepares := func() string {
		var list []string
		for _, s := range c.m.Assignments("b")[0].Prepare {
			list = append(list, s.Commit)
		}
		return strings.Join(list, " ")
	}
	if before := prepares(); before != "commit-A" {
		t.Errorf("before the grant it prepares for %s", before)
	}
	c.play("ready b for=A\ntick 1s")
	if grant := c.m.Assignments("b")[0].Grant; grant == nil || grant.Spec.Commit != "commit-A" || prepares() != "commit-A" {
		t.Errorf("it is given %+v and prepares for %s", grant, prepares())
	}
}

// TestTakenIsAllThatATargetSays: a set has not taken up a commit whose members, policy or attempt it has not heard of.
func TestTakenIsAllThatATargetSays(t *testing.T) {
	c := newConvo(t)
	c.play("lead h1 voters=h1\ntarget 1 hosts=a,b")
	g, _, _ := c.m.find(c.group)
	asked := func(change func(*Target)) Target {
		x := Target{Group: g.ID, Spec: g.Desired.Spec, Attempt: g.Desired.Attempt, Application: g.Application, Name: g.Name, Folder: g.Folder, Policy: copied(g.Desired.Policy),
			Members: slices.Clone(g.Members), SetActive: c.m.s.SetActive, SetInFlight: c.m.s.SetInFlight}
		change(&x)
		return x
	}
	for what, one := range map[string]struct {
		change func(*Target)
		want   bool
	}{
		"nothing else":    {func(*Target) {}, true},
		"another commit":  {func(x *Target) { x.Spec.Commit = "later" }, true},
		"its own words":   {func(x *Target) { x.SuspendWhy = "another wording" }, true},
		"another spec":    {func(x *Target) { x.Spec.SpecHash = "2" }, false},
		"another attempt": {func(x *Target) { x.Attempt++ }, false},
		"a member more":   {func(x *Target) { x.Members = append(x.Members, MemberInfo{Host: "c"}) }, false},
		"a member less":   {func(x *Target) { x.Members = x.Members[:1] }, false},
		"another policy":  {func(x *Target) { x.Policy.Checks++ }, false},
		"suspended":       {func(x *Target) { x.Suspend = true }, false},
	} {
		if got := c.m.Taken(asked(one.change)); got != one.want {
			t.Errorf("%s: taken is %v, want %v", what, got, one.want)
		}
	}
}

// TestJoiningOfHostsThatRefuse: a host that lost what the group runs and refuses
// it is to be waited for, and when that stands for as long as a deployment would
// wait it has failed there; however its row of the deployment reads.
func TestJoiningOfHostsThatRefuse(t *testing.T) {
	c := newConvo(t)
	step := func(play string, coming, failed []string) {
		t.Helper()
		c.play(play)
		v, _ := c.m.Group(c.group)
		if v.State != StateSucceeded || !slices.Equal(v.Joining, coming) || !slices.Equal(v.JoinFailed, failed) {
			t.Errorf("after %q: %s (%s), joining %v, failed %v, want %v and %v", play, v.State, v.Reason, v.Joining, v.JoinFailed, coming, failed)
		}
		if len(coming)+len(failed) > 0 && !strings.Contains(v.Reason, "; behind: ") {
			t.Errorf("after %q the group's reason says nothing of it: %s", play, v.Reason)
		}
	}
	step("lead h9 voters=h9\ntarget A hosts=a,b,c\nhello all boot=1\ndead c for=2m\nready a b for=A\ntick 1s\ndone a\ndone b\ntick 1s", nil, nil)
	step("hello b boot=1\nrefuse b kind=host why=a_file_is_in_the_way", []string{"b"}, nil)
	step("alive c\nhello c boot=1\nready c for=A refused=host why=disk_full", []string{"b", "c"}, nil) // left out of the deployment, not judged by it
	step("tick 2m\nready b for=A refused=host why=another_file_is_in_the_way\ntick 2m", []string{"b", "c"}, nil)
	step("tick 1m", nil, []string{"b", "c"})
	step("dead b for=2m", nil, []string{"b", "c"})
	step("alive b\nhello b boot=1\nready b for=A", []string{"b"}, []string{"c"})
	step("accept b\nstopping b\ndone b\ntick 1s", nil, []string{"c"})
	step("ready c for=A refused=bytes why=S3_answers_503\ntick 10m", []string{"c"}, nil)
	step("ready c for=A refused=spec why=no_appspec.yml", nil, []string{"c"})
}
