package agent

import (
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/rollout"
)

// progressLinger is how long a report of progress waits for the next one, so that quick lifecycle events travel together.
const progressLinger = 50 * time.Millisecond

// outbox holds this host's commands for one set in order. Newer progress of a grant takes the place of older progress still waiting, and the end of a grant takes the
// place of all of it: what is behind grows with the grants, not with the events.
type outbox struct {
	mu    sync.Mutex
	queue []rollout.Command
	news  wake
}

func newOutbox() *outbox { return &outbox{news: newWake()} }

// put queues a command; it never blocks. What does not fit is dropped: the Member makes it again.
func (o *outbox) put(command rollout.Command) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch c := command.(type) {
	case rollout.Progress:
		o.supersede(c.Group, c.Grant, &c)
		command = c
	case rollout.Done:
		o.supersede(c.Group, c.Grant, nil)
	}
	if len(o.queue) < submitQueueMax {
		o.queue = append(o.queue, command)
		o.news.Wake()
	}
}

// supersede removes waiting progress of a grant; next, if there is one, inherits that the point of no return was passed.
func (o *outbox) supersede(group string, grant rollout.Token, next *rollout.Progress) {
	kept := o.queue[:0]
	for _, waiting := range o.queue {
		p, ok := waiting.(rollout.Progress)
		if !ok || p.Group != group || p.Grant != grant {
			kept = append(kept, waiting)
			continue
		}
		if next != nil {
			next.Stopped = next.Stopped || p.Stopped
		}
	}
	o.queue = kept
}

// take returns the first command; ok is false when there is none. linger is true when it had better wait a little, because it may be superseded.
func (o *outbox) take(lingered bool) (command rollout.Command, linger, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil, false, false
	}
	if _, progress := o.queue[0].(rollout.Progress); progress && !lingered && len(o.queue) == 1 {
		return nil, true, false
	}
	command = o.queue[0]
	o.queue = o.queue[1:]
	return command, false, true
}
