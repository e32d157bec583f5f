package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired"
)

// State is one of healthy, unhealthy and unknown.
type State string

// The states of a check and of a whole group.
const (
	Healthy   State = "healthy"
	Unhealthy State = "unhealthy"
	Unknown   State = "unknown"
)

// Verdict is what the checks say together.
type Verdict struct {
	State    State      `json:"state"`
	Since    time.Time  `json:"since"` // when State became what it is
	Evidence []Evidence `json:"evidence"`
}

// Evidence is what one check saw last.
type Evidence struct {
	Check    string    `json:"check"`
	State    State     `json:"state"`
	Message  string    `json:"message"`  // one line: "http://127.0.0.1:8080/healthz answered 503, wanted 200"
	At       time.Time `json:"at"`       // when the last probe ended; zero before the first
	InARow   int       `json:"inARow"`   // results like the last one
	Passed   bool      `json:"passed"`   // the last result
	Grace    bool      `json:"grace"`    // the last result was a failure that did not count
	Duration int64     `json:"duration"` // of the last probe, in milliseconds
}

// Reason says in one sentence why the verdict is not healthy, or "all N checks pass".
func (v Verdict) Reason() string {
	var why []string
	for _, e := range v.Evidence {
		switch {
		case e.State == Healthy:
		case e.At.IsZero():
			why = append(why, fmt.Sprintf("check %s has not run yet", e.Check))
		default:
			why = append(why, fmt.Sprintf("check %s is %s: %s (%d in a row)", e.Check, e.State, e.Message, e.InARow))
		}
	}
	switch {
	case len(v.Evidence) == 0:
		return "the group has no checks"
	case len(why) == 0:
		return fmt.Sprintf("all %d checks pass", len(v.Evidence))
	}
	return strings.Join(why, "; ")
}

// Options build a Prober.
type Options struct {
	Group  string          // named in logs
	Checks []desired.Check // as desired made them: every field is set
	Env    []string        // KEY=VALUE for exec checks besides PATH; nil for none
	Log    *slog.Logger    // nil discards

	probe func(context.Context, desired.Check) (message string, err error) // tests only
}

// Prober runs one group's checks.
type Prober struct {
	group   string
	log     *slog.Logger
	checks  []*check
	changed chan struct{}

	mu      sync.Mutex
	verdict Verdict
}

// New validates the options and starts nothing.
func New(o Options) (*Prober, error) {
	p := &Prober{group: o.Group, log: o.Log, changed: make(chan struct{}, 1)}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if o.probe == nil {
		o.probe = newProbe(o.Env)
	}
	for _, c := range o.Checks {
		if err := validate(c); err != nil {
			return nil, fmt.Errorf("cannot check the health of group %s: %w", o.Group, err)
		}
		p.checks = append(p.checks, &check{spec: c, probe: o.probe})
	}
	p.verdict = p.fold(time.Time{})
	return p, nil
}

// validate refuses a check this package cannot run.
func validate(c desired.Check) error {
	kinds := 0
	for _, set := range []bool{c.HTTP != nil, c.TCP != nil, c.Exec != nil, c.Unit != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("check %q asks %d kinds of probe, not one", c.Name, kinds)
	case c.Interval <= 0 || c.Timeout <= 0 || c.HealthyAfter < 1 || c.UnhealthyAfter < 1 || c.Grace < 0:
		return fmt.Errorf("check %q has an interval, timeout or count that is not positive", c.Name)
	case c.Exec != nil && len(c.Exec.Command) == 0:
		return fmt.Errorf("check %q has no command", c.Name)
	}
	return nil
}

// Run probes every check at its interval until ctx ends, and returns nil then. Grace counts from the call.
func (p *Prober) Run(ctx context.Context) error {
	p.Restart(time.Now())
	var wait sync.WaitGroup
	for _, c := range p.checks {
		wait.Go(func() { p.loop(ctx, c) })
	}
	wait.Wait()
	<-ctx.Done()
	return nil
}

// Restart begins the checks' grace and their counts anew at the given time, as after a deployment or a boot: the verdict is unknown until they have passed
// or failed often enough again.
func (p *Prober) Restart(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.checks {
		c.restart(now)
	}
	p.settle(now)
}

// loop probes one check until ctx ends.
func (p *Prober) loop(ctx context.Context, c *check) {
	ticker := time.NewTicker(c.spec.Interval)
	defer ticker.Stop()
	for {
		p.once(ctx, c)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// once probes one check and takes the result down.
func (p *Prober) once(ctx context.Context, c *check) {
	p.mu.Lock()
	generation := c.generation
	p.mu.Unlock()
	begin := time.Now()
	bounded, cancel := context.WithTimeout(ctx, c.spec.Timeout)
	message, err := c.probe(bounded, c.spec)
	timedOut := errors.Is(bounded.Err(), context.DeadlineExceeded)
	cancel()
	if ctx.Err() != nil {
		return // an aborted probe says nothing about the application
	}
	if err != nil {
		message = err.Error()
		if timedOut {
			message = fmt.Sprintf("no answer within %s: %s", c.spec.Timeout, message)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if generation != c.generation {
		return // begun before a restart
	}
	c.take(err == nil, clip(message), begin, time.Now())
	p.settle(time.Now())
}

// settle folds the checks and wakes whoever waits for a change; p.mu is held.
func (p *Prober) settle(now time.Time) {
	before := p.verdict
	p.verdict = p.fold(now)
	if before.State != p.verdict.State {
		p.log.Info("health changed", "group", p.group, "from", string(before.State), "to", string(p.verdict.State), "reason", p.verdict.Reason())
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

// fold makes one verdict of all checks; p.mu is held.
func (p *Prober) fold(now time.Time) Verdict {
	v := Verdict{State: Healthy, Since: now, Evidence: make([]Evidence, 0, len(p.checks))}
	for _, c := range p.checks {
		e := c.evidence
		v.Evidence = append(v.Evidence, e)
		if e.State == Unhealthy || e.State == Unknown && v.State == Healthy {
			v.State = e.State
		}
	}
	if len(p.checks) == 0 {
		v.State = Unknown
	}
	if v.State == p.verdict.State {
		v.Since = p.verdict.Since
	}
	return v
}

// Verdict is what the checks say now.
func (p *Prober) Verdict() Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verdict
}

// Changed is sent to, coalesced, when the verdict's state has changed. One reader.
func (p *Prober) Changed() <-chan struct{} { return p.changed }

// check is one check and its counts.
type check struct {
	spec       desired.Check
	probe      func(context.Context, desired.Check) (string, error)
	generation int // rises with each restart
	since      time.Time
	evidence   Evidence
}

// restart forgets every count.
func (c *check) restart(now time.Time) {
	c.generation++
	c.since = now
	c.evidence = Evidence{Check: c.spec.Name, State: Unknown}
}

// take counts one result.
func (c *check) take(passed bool, message string, begin, end time.Time) {
	e := &c.evidence
	grace := !passed && begin.Sub(c.since) < c.spec.Grace
	if passed == e.Passed && grace == e.Grace && !e.At.IsZero() {
		e.InARow++
	} else {
		e.InARow = 1
	}
	e.Check, e.Message, e.At, e.Passed, e.Grace = c.spec.Name, message, end, passed, grace
	e.Duration = end.Sub(begin).Milliseconds()
	switch {
	case passed && e.InARow >= c.spec.HealthyAfter:
		e.State = Healthy
	case !passed && !grace && e.InARow >= c.spec.UnhealthyAfter:
		e.State = Unhealthy
	}
}

// clip makes a message one bounded line.
func clip(s string) string {
	const longest = 400
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "..."
	}
	return s
}
