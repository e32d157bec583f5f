package transporttest

import (
	"io"
	"os"
	"sync"
	"time"
)

const pipeMax = 256 << 10 // bytes under way before a writer waits

// pipe is one direction of a stream.
type pipe struct {
	latency time.Duration

	mu              sync.Mutex
	cond            *sync.Cond
	segments        []segment
	size            int
	ended           bool
	err             error // what a reader gets after an end; nil is io.EOF
	readAt, writeAt time.Time
}

type segment struct {
	data []byte
	due  time.Time
}

func newPipe(latency time.Duration) *pipe {
	p := &pipe{latency: latency}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// wakeAt wakes the waiting at t.
func (p *pipe) wakeAt(t time.Time) {
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.cond.Broadcast()
		})
	}
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		now := time.Now()
		if p.err != nil {
			return 0, p.err
		}
		if len(p.segments) > 0 && !p.segments[0].due.After(now) {
			n := copy(b, p.segments[0].data)
			if p.segments[0].data = p.segments[0].data[n:]; len(p.segments[0].data) == 0 {
				p.segments = p.segments[1:]
			}
			p.size -= n
			p.cond.Broadcast()
			return n, nil
		}
		if len(p.segments) == 0 && p.ended {
			return 0, io.EOF
		}
		if !p.readAt.IsZero() && !now.Before(p.readAt) {
			return 0, os.ErrDeadlineExceeded
		}
		p.cond.Wait()
	}
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case p.ended:
			return 0, io.ErrClosedPipe
		case !p.writeAt.IsZero() && !now.Before(p.writeAt):
			return 0, os.ErrDeadlineExceeded
		case p.size < pipeMax:
			due := now.Add(p.latency)
			p.segments = append(p.segments, segment{append([]byte(nil), b...), due})
			p.size += len(b)
			if p.latency > 0 {
				p.wakeAt(due)
			}
			p.cond.Broadcast()
			return len(b), nil
		}
		p.cond.Wait()
	}
}

// end stops the pipe: with nil a reader still gets what is under way.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.err == nil {
		p.err = err
	}
	p.cond.Broadcast()
}

func (p *pipe) readBy(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readAt = t
	p.wakeAt(t)
	p.cond.Broadcast()
}

func (p *pipe) writeBy(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writeAt = t
	p.wakeAt(t)
	p.cond.Broadcast()
}
