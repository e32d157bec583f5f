package consensus

import (
	"context"
	"sync"
	"time"
)

const (
	// queueMax and queueBytes bound what waits at a leader.
	queueMax   = 8192
	queueBytes = 16 << 20
	// burstMax is how many entries may follow each other at once before the
	// leader keeps to one per Timing.Batch.
	burstMax = 64
)

// reply is what became of a queued command.
type reply struct {
	code     uint64
	index    uint64
	response []byte
}

// pending is a command at the leader.
type pending struct {
	command
	done chan reply // capacity 1
}

// batcher collects commands at the leader. One entry is in flight at a time,
// and what arrives meanwhile shares the next; under a storm, entries are one per
// Timing.Batch in the mean, so that the log grows by time and not by hosts.
type batcher struct {
	mu    sync.Mutex
	term  uint64 // 0: closed
	queue []*pending
	bytes int
	kick  chan struct{} // capacity 1
}

func newBatcher() *batcher { return &batcher{kick: make(chan struct{}, 1)} }

// open accepts commands from now on.
func (b *batcher) open(term uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.term = term
}

// close refuses commands from now on, those that wait included.
func (b *batcher) close() {
	b.mu.Lock()
	queue := b.queue
	b.term, b.queue, b.bytes = 0, nil, 0
	b.mu.Unlock()
	for _, p := range queue {
		p.done <- reply{code: codeNotApplied}
	}
}

// leading gives the term in which commands are accepted, or 0.
func (b *batcher) leading() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.term
}

// put queues a command; ok is false if this host does not lead.
func (b *batcher) put(c command) (p *pending, ok bool) {
	p = &pending{command: c, done: make(chan reply, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.term == 0 || c.fence != 0 && c.fence != b.term:
		return nil, false
	case len(b.queue) >= queueMax || b.bytes+len(c.data) > queueBytes:
		p.done <- reply{code: codeBusy}
		return p, true
	}
	b.queue = append(b.queue, p)
	b.bytes += len(c.data)
	select {
	case b.kick <- struct{}{}:
	default:
	}
	return p, true
}

// drop takes a command back; false if it is on its way already.
func (b *batcher) drop(p *pending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, q := range b.queue {
		if q == p {
			b.queue = append(b.queue[:i:i], b.queue[i+1:]...)
			b.bytes -= len(p.data)
			return true
		}
	}
	return false
}

// waiting tells whether there is something to flush, and whether it should not
// wait: what the leader itself decided.
func (b *batcher) waiting() (some, urgent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.queue {
		if p.fence != 0 {
			return true, true
		}
	}
	return len(b.queue) > 0, false
}

// take removes as much as fits one entry.
func (b *batcher) take() []*pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, size := 0, 0
	for n < len(b.queue) && n < batchCommands && size < batchBytes {
		size += len(b.queue[n].data)
		n++
	}
	batch := b.queue[:n:n]
	b.queue = b.queue[n:]
	b.bytes -= size
	return batch
}

// run flushes until ctx ends. flush blocks while its entry is in flight.
func (b *batcher) run(ctx context.Context, every time.Duration, flush func([]*pending)) {
	credit, at := time.Duration(burstMax)*every, time.Now()
	for ctx.Err() == nil {
		some, urgent := b.waiting()
		now := time.Now()
		credit = min(credit+now.Sub(at), burstMax*every)
		at = now
		var due <-chan time.Time
		if some && (urgent || credit >= every) {
			credit = max(credit-every, 0)
			flush(b.take())
			continue
		}
		if some {
			due = time.After(every - credit)
		}
		select {
		case <-b.kick:
		case <-due:
		case <-ctx.Done():
		}
	}
}
