package agent

import (
	"fmt"
	"testing"

	"github.com/gitopsd/gitopsd/internal/rollout"
)

func TestOutboxSupersedes(t *testing.T) {
	token, other := rollout.Token{Seq: 1}, rollout.Token{Seq: 2}
	progress := func(grant rollout.Token, stopped bool, bytes int64) rollout.Progress {
		return rollout.Progress{Group: "g", Grant: grant, Stopped: stopped, FromPeers: bytes}
	}
	o := newOutbox()
	o.put(rollout.Hello{Group: "g"})
	o.put(progress(token, true, 1))
	o.put(progress(other, false, 2))
	o.put(rollout.Progress{Group: "h", Grant: token})
	o.put(progress(token, false, 3))
	o.put(progress(token, false, 4))
	o.put(rollout.Done{Group: "g", Grant: other})
	want := []string{"Hello", "Progress h false 0", "Progress g true 4", "Done"}
	for i, w := range want {
		command, linger, ok := o.take(true)
		if got := describe(command); !ok || linger || got != w {
			t.Errorf("%d: %s (linger %v, ok %v), want %s", i, got, linger, ok, w)
		}
	}
	if _, _, ok := o.take(true); ok {
		t.Error("something is left")
	}
}

func describe(c rollout.Command) string {
	switch c := c.(type) {
	case rollout.Hello:
		return "Hello"
	case rollout.Done:
		return "Done"
	case rollout.Progress:
		return fmt.Sprintf("Progress %s %v %d", c.Group, c.Stopped, c.FromPeers)
	}
	return fmt.Sprintf("%T", c)
}

func TestOutboxLingersOverProgressAlone(t *testing.T) {
	o := newOutbox()
	if _, linger, ok := o.take(false); ok || linger {
		t.Error("an empty outbox has something")
	}
	o.put(rollout.Progress{Group: "g"})
	if _, linger, ok := o.take(false); ok || !linger {
		t.Error("progress does not wait for the next")
	}
	if _, _, ok := o.take(true); !ok {
		t.Error("progress waits for ever")
	}
	o.put(rollout.Progress{Group: "g"})
	o.put(rollout.Hello{Group: "g"})
	if _, linger, ok := o.take(false); !ok || linger {
		t.Error("progress holds up what follows")
	}
}

func TestOutboxIsBounded(t *testing.T) {
	o := newOutbox()
	for range 2 * submitQueueMax {
		o.put(rollout.Hello{Group: "g"})
	}
	if len(o.queue) != submitQueueMax {
		t.Errorf("%d commands wait", len(o.queue))
	}
	if len(o.news) != 1 {
		t.Error("nobody is told")
	}
}
