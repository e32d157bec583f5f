package durable

import (
	"errors"
	"sync"
)

// ErrCut is what every operation returns once a Faults has cut the power: the
// process is to be thought dead, whatever it still does must not reach the disk.
var ErrCut = errors.New("power was cut (fault injected by a test)")

// errTorn is ErrCut at a write that reached the disk by half.
var errTorn = tornError{}

type tornError struct{}

func (tornError) Error() string { return ErrCut.Error() + " in mid-write" }
func (tornError) Unwrap() error { return ErrCut }

func torn(err error) bool { return errors.Is(err, errTorn) }

// Faults counts durable operations and spoils one of them. Its Hook goes into a
// Disk. It may be used from several goroutines.
type Faults struct {
	mu     sync.Mutex
	count  int
	failAt int
	err    error
	cutAt  int
	torn   bool
	isCut  bool
	at     func(int, Op)
}

// FailAt makes the n-th operation (from 1) fail with err; later ones succeed.
func (f *Faults) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failAt, f.err = n, err
}

// CutAt cuts the power before the n-th operation (from 1): it and every later
// one fail with ErrCut. With tear, an n-th operation that writes data writes
// the first half of it.
func (f *Faults) CutAt(n int, tear bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutAt, f.torn = n, tear
}

// Observe has fn called before each operation with its number, from 1; a test
// that kills its own process does it there.
func (f *Faults) Observe(fn func(n int, op Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = fn
}

// Count returns how many operations were asked for so far.
func (f *Faults) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Cut tells whether the power was cut.
func (f *Faults) Cut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isCut
}

// Hook is for Disk.Hook.
func (f *Faults) Hook(op Op) error {
	f.mu.Lock()
	f.count++
	n, at := f.count, f.at
	var err error
	switch {
	case f.isCut:
		err = ErrCut
	case f.cutAt > 0 && n == f.cutAt:
		f.isCut = true
		err = ErrCut
		if f.torn {
			err = errTorn
		}
	case f.failAt > 0 && n == f.failAt:
		err = f.err
	}
	f.mu.Unlock()
	if at != nil {
		at(n, op)
	}
	return err
}
