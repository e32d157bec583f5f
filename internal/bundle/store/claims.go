package store

import (
	"errors"
	"slices"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// claim is the right to write n pieces from a certain one on. Whoever has it does not wait for the slot.
type claim struct {
	from, n int
	losses  int // how often the disk had lost something when it began
}

// claim lets the caller alone write pieces of x from the i-th on, n at most: as many as are missing and nobody else writes. It waits for whoever writes the i-th; none
// says that it is here. The caller yields them.
func (p *Partial) claim(x *bundle.Index, i, n int) (claim, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.alone || p.claimed(i) {
		p.yielded.Wait()
	}
	switch {
	case p.done != nil:
		return claim{}, nil
	case p.gone != nil:
		return claim{}, p.gone
	case p.index != x:
		return claim{}, errReplaced
	}
	c := claim{from: i, losses: p.losses}
	for ; c.n < n && !p.have.Has(i+c.n) && !p.claimed(i+c.n); c.n++ {
	}
	if c.n > 0 {
		p.claims = append(p.claims, c)
	}
	return c, nil
}

var errReplaced = errors.New("its index was replaced meanwhile")

// claimed says whether somebody writes piece i. The lock is held.
func (p *Partial) claimed(i int) bool {
	return slices.ContainsFunc(p.claims, func(c claim) bool { return c.from <= i && i < c.from+c.n })
}

func (p *Partial) yield(c claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = slices.DeleteFunc(p.claims, func(other claim) bool { return other.from == c.from })
	p.yielded.Broadcast()
}

// seclude waits for those who write pieces, and lets nobody begin before it is over. Whoever needs the slot too takes that first.
func (p *Partial) seclude() (over func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.alone {
		p.yielded.Wait()
	}
	p.alone = true
	for len(p.claims) > 0 {
		p.yielded.Wait()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.alone = false
		p.yielded.Broadcast()
	}
}
