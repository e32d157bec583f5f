package rollout

import (
	"fmt"
	"testing"
)

// TestAGroupIsForgottenOnlyWhenEveryMemberHasNothing: what runs on although nobody knows of it is worse than a group too many.
func TestAGroupIsForgottenOnlyWhenEveryMemberHasNothing(t *testing.T) {
	known := func(c *convo) bool { _, ok := c.m.Group("web"); return ok }
	for name, one := range map[string]struct {
		play string
		kept bool
	}{
		"nobody has said hello":             {"target 1 hosts=a,b,c", true},
		"one has not":                       {"target 1 hosts=a,b,c\nhello a b", true},
		"all have nothing":                  {"target 1 hosts=a,b,c\nhello a b c", false},
		"one has some of it":                {"target 1 hosts=a,b,c\nhello a b\nhello c runs=1 whole=no", true},
		"one that has it left the group":    {"target 1 hosts=a,b,c\nhello a b\nhello c runs=1 whole=no\ntarget 1 hosts=a,b", true},
		"one was granted, and left it":      {"target 1 hosts=a,b,c\nhello a b c\nready a b c for=1\ntick 1s\naccept a\nstopping a\ndone a failed=AfterInstall exit=3\ntick 1s\ntarget 2 hosts=b,c", true},
		"there are no hosts and never were": {"target 1 hosts=", false},
	} {
		c := newConvo(t)
		c.play("lead h1 voters=h1\n" + one.play + "\norphan")
		if got := known(c); got != one.kept {
			t.Errorf("%s: kept is %v, want %v", name, got, one.kept)
		}
	}
	c := newConvo(t)
	c.play("lead h1 voters=h1\ntarget 1 hosts=a,b\nhello a\norphan")
	if _, needed := c.m.OrphanNeeded("web"); needed {
		t.Error("what has been said is to be said again")
	}
	c.play("hello b")
	if _, needed := c.m.OrphanNeeded("web"); !needed {
		t.Error("a group of which nothing is left is not to be forgotten")
	}
	c.play("orphan")
	if known(c) {
		t.Error("it is not forgotten when its last member has said hello")
	}
}

// TestAGrantIsRememberedLongerThanTheHistory: of a host that left after it was changed nothing else may be left.
func TestAGrantIsRememberedLongerThanTheHistory(t *testing.T) {
	c := newConvo(t)
	c.play("lead h1 voters=h1\ntarget 1 hosts=a,b\nhello a b\nready a b for=1\ntick 1s\naccept a\nstopping a\ndone a failed=AfterInstall exit=3\ntick 1s\ntarget 1 hosts=b")
	for i := range maxHistory + 5 {
		c.play(fmt.Sprintf("target %d hosts=b\nready b for=%d refused=spec why=bad\ntick 1s", i+2, i+2))
	}
	c.play("orphan")
	if _, ok := c.m.Group("web"); !ok {
		t.Error("the group is forgotten although a has files of it")
	}
}
