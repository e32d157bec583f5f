package health

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// retryMax is how long WaitHealthy waits between two probes of a check that failed; the first retries come sooner.
const retryMax = time.Second

// WaitHealthy probes at once and until every check is healthy, or ctx ends, or deadline passes, or a check is unhealthy after its grace. It begins the
// counts anew, runs beside or without Run, and returns the last verdict; the error says in a sentence why the group is not healthy. Without checks it
// returns an unknown verdict and no error.
func (p *Prober) WaitHealthy(ctx context.Context, deadline time.Duration) (Verdict, error) {
	p.Restart(time.Now())
	if len(p.checks) == 0 {
		return p.Verdict(), nil
	}
	bounded, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var wait sync.WaitGroup
	for _, c := range p.checks {
		wait.Go(func() {
			if p.untilDecided(bounded, c) == Unhealthy {
				cancel()
			}
		})
	}
	wait.Wait()
	v := p.Verdict()
	switch {
	case v.State == Healthy:
		return v, nil
	case ctx.Err() != nil:
		return v, fmt.Errorf("cannot wait for group %s to become healthy: %w", p.group, ctx.Err())
	case v.State == Unhealthy:
		return v, fmt.Errorf("group %s is unhealthy: %s", p.group, v.Reason())
	}
	return v, fmt.Errorf("group %s did not become healthy within %s: %s", p.group, deadline, v.Reason())
}

// untilDecided probes one check until it is healthy or unhealthy or ctx ends.
func (p *Prober) untilDecided(ctx context.Context, c *check) State {
	pause := 25 * time.Millisecond
	for {
		p.once(ctx, c)
		p.mu.Lock()
		e := c.evidence
		p.mu.Unlock()
		if e.State != Unknown || ctx.Err() != nil {
			return e.State
		}
		// Passes follow one another at the check's own interval, so that healthyAfter means the same here as in Run; failures are asked again sooner.
		next := min(pause, c.spec.Interval)
		if e.Passed || !e.Grace {
			next = c.spec.Interval
		}
		pause = min(2*pause, retryMax)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return e.State
		case <-timer.C:
		}
	}
}
