package agent

import "sync"

// signal tells any number of waiters that something changed. The zero value is ready.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// Changed is closed at the next Notify.
func (s *signal) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

// Notify wakes everyone who waits.
func (s *signal) Notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// wake is a signal with one receiver that is never lost: at most one is kept.
type wake chan struct{}

func newWake() wake { return make(wake, 1) }

// Wake never blocks.
func (w wake) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}
