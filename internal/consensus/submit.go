package consensus

import (
	"context"
	"fmt"
	"time"
)

const (
	// submitMax is how long a voter tries on behalf of somebody else.
	submitMax = 5 * time.Second
	// submitPause is how long to wait after a refusal that tells nothing new.
	submitPause = 20 * time.Millisecond
)

// Submit has a command applied by the whole set, and returns once the leader
// has applied it; this host may apply it a moment later. It waits for a leader
// as long as ctx allows: errors wrap ErrNoLeader or ErrBusy if the command will
// not be applied, ErrUnknown if it may be. At most 256 KiB.
func (s *Set) Submit(ctx context.Context, command []byte) (Result, error) {
	return s.submit(ctx, s.self.Host, command, false, "")
}

// submit carries a command of the host from to the leader. A command that
// came by hop from another voter goes no further; none goes back to via.
func (s *Set) submit(ctx context.Context, from string, data []byte, hop bool, via string) (Result, error) {
	if len(data) > commandMax {
		return Result{}, fmt.Errorf("cannot submit to set %s: the command has %d bytes, at most %d are allowed", s.spec.Name, len(data), commandMax)
	}
	if s.c.opt.Fenced != nil && s.c.opt.Fenced(data) {
		return Result{}, fmt.Errorf("cannot submit to set %s: %w: the command is the leader's alone", s.spec.Name, ErrNotLeader)
	}
	for {
		route := s.routed()
		r := reply{code: codeNotApplied}
		if p, ok := s.batch.put(command{from: from, data: data}); ok {
			r = s.await(ctx, p)
		} else if u := s.up(); u != nil && !hop && u.peer.Host != via {
			r = u.submit(ctx, from, s.role == RoleVoter, data)
		}
		if r.code != codeNotApplied {
			return s.result(r)
		}
		if err := s.failedErr(); err != nil {
			return Result{}, fmt.Errorf("cannot submit to set %s: %w", s.spec.Name, err)
		}
		if hop {
			return Result{}, fmt.Errorf("cannot submit to set %s: %w", s.spec.Name, ErrNoLeader)
		}
		select {
		case <-route:
		case <-time.After(submitPause):
		case <-ctx.Done():
			return Result{}, fmt.Errorf("cannot submit to set %s: %w: %w", s.spec.Name, ErrNoLeader, context.Cause(ctx))
		}
	}
}

// Lead has a command applied only if this host leads in exactly this term, and
// the log puts the command into that term; otherwise ErrNotLeader. Errors
// wrapping ErrUnknown mean that it may yet be applied, in that term only.
func (s *Set) Lead(ctx context.Context, term uint64, data []byte) (Result, error) {
	if len(data) > commandMax {
		return Result{}, fmt.Errorf("cannot lead set %s: the command has %d bytes, at most %d are allowed", s.spec.Name, len(data), commandMax)
	}
	if term == 0 {
		return Result{}, fmt.Errorf("cannot lead set %s: %w", s.spec.Name, ErrNotLeader)
	}
	p, ok := s.batch.put(command{fence: term, from: s.self.Host, data: data})
	if !ok {
		return Result{}, fmt.Errorf("cannot lead set %s: %w", s.spec.Name, ErrNotLeader)
	}
	r := s.await(ctx, p)
	if r.code == codeNotApplied {
		return Result{}, fmt.Errorf("cannot lead set %s: %w", s.spec.Name, ErrNotLeader)
	}
	return s.result(r)
}

// await waits for a queued command.
func (s *Set) await(ctx context.Context, p *pending) reply {
	select {
	case r := <-p.done:
		return r
	case <-ctx.Done():
	}
	if s.batch.drop(p) {
		return reply{code: codeNotApplied}
	}
	select {
	case r := <-p.done:
		return r
	default:
		return reply{code: codeUnknown}
	}
}

func (s *Set) result(r reply) (Result, error) {
	switch r.code {
	case codeApplied:
		return Result{Index: r.index, Response: r.response}, nil
	case codeBusy:
		return Result{}, fmt.Errorf("cannot submit to set %s: %w", s.spec.Name, ErrBusy)
	}
	return Result{}, fmt.Errorf("cannot tell what became of a command to set %s: %w", s.spec.Name, ErrUnknown)
}
