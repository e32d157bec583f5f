package consensus

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// TestNobodySpeaksAsTheLeader: every host of a set may submit, but what only a
// leader may say goes into the log by Lead alone, whoever forwards or logs it.
func TestNobodySpeaksAsTheLeader(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.prepare = func(c *Consensus) {
			c.opt.Fenced = func(command []byte) bool { return bytes.HasPrefix(command, []byte("lead:")) }
		}
		f.run()
		leader := f.leader()
		term := leader.set.Status().Term
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, name := range f.names() {
			if _, err := f.hosts[name].set.Submit(ctx, []byte("lead: "+name)); !errors.Is(err, ErrNotLeader) {
				t.Errorf("%s submits a command of the leader: %v", name, err)
			}
		}
		// A host that skips its own check is stopped by the voter that it asks...
		if _, err := leader.set.submit(ctx, "o1", []byte("lead: forwarded"), false, ""); !errors.Is(err, ErrNotLeader) {
			t.Errorf("the leader takes it from an observer: %v", err)
		}
		// ... and a leader that does not check is stopped by every replica.
		e := envelope{kind: kindCommands, commands: []command{{from: "o1", data: []byte("lead: logged")}, {fence: term, from: leader.name, data: []byte("lead: true")}}}
		if err := leader.set.voting().raft.Apply(e.encode(), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		f.agree("lead: true")
		for _, name := range f.names() {
			for _, line := range []string{"lead: forwarded", "lead: logged", "lead: o1"} {
				if n := f.hosts[name].count(line); n != 0 {
					t.Errorf("%s applied %q", name, line)
				}
			}
		}
	})
}
