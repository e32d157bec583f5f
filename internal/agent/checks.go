package agent

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/health"
)

// checks runs the health checks of this host's groups. Checks are not part of the spec hash: a commit that changes them acts at once.
type checks struct {
	self string
	log  *slog.Logger
	news chan string // groups whose verdict changed; feedHealth reads the verdict itself

	loops sync.WaitGroup // of every prober, replaced ones too

	mu   sync.Mutex
	runs map[string]*checkRun
}

// checkRun is the prober of one group.
type checkRun struct {
	specs  []desired.Check // as committed
	host   desired.Host    // whose tags stand in them
	prober *health.Prober
	cancel context.CancelFunc
}

// follow starts, stops and replaces probers as the world says.
func (c *checks) follow(ctx context.Context, w *world) {
	wanted := map[string]desired.Group{}
	for _, g := range w.State.GroupsOf(desired.HostName(c.self)) {
		if len(g.Checks) > 0 {
			wanted[string(g.ID)] = g
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs == nil {
		c.runs = map[string]*checkRun{}
	}
	for id, run := range c.runs {
		if g, ok := wanted[id]; !ok || !reflect.DeepEqual(g.Checks, run.specs) || !reflect.DeepEqual(w.State.Hosts[desired.HostName(c.self)].Tags, run.host.Tags) {
			run.cancel()
			delete(c.runs, id)
		}
	}
	for id, g := range wanted {
		if c.runs[id] != nil {
			continue
		}
		run, err := c.start(ctx, id, g, w.State.Hosts[desired.HostName(c.self)])
		if err != nil {
			c.log.Error("the health checks of a group cannot run", "group", g.Folder, "error", err)
			continue
		}
		c.runs[id] = run
	}
}

// start runs one prober until ctx ends or it is replaced.
func (c *checks) start(ctx context.Context, id string, g desired.Group, host desired.Host) (*checkRun, error) {
	var specs []desired.Check
	for _, spec := range g.Checks {
		mine, err := spec.For(host)
		if err != nil {
			return nil, err
		}
		specs = append(specs, mine)
	}
	prober, err := health.New(health.Options{Group: g.Folder, Checks: specs, Log: c.log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	run := &checkRun{specs: g.Checks, host: host, prober: prober, cancel: cancel}
	c.loops.Go(func() { _ = prober.Run(ctx) })
	c.loops.Go(func() {
		c.tell(ctx, id) // what other checks said before says nothing about these
		for {
			select {
			case <-ctx.Done():
				return
			case <-prober.Changed():
			}
			c.tell(ctx, id)
		}
	})
	return run, nil
}

// tell says that the verdict of a group is to be read.
func (c *checks) tell(ctx context.Context, id string) {
	select {
	case c.news <- id:
	case <-ctx.Done():
	}
}

// verdict returns what the checks of a group say now; false when it has none.
func (c *checks) verdict(group string) (health.Verdict, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	run := c.runs[group]
	if run == nil {
		return health.Verdict{}, false
	}
	return run.prober.Verdict(), true
}

// restart begins grace and counts anew, after a deployment.
func (c *checks) restart(group string) {
	c.mu.Lock()
	run := c.runs[group]
	c.mu.Unlock()
	if run != nil {
		run.prober.Restart(time.Now())
	}
}

// wait returns once every prober has ended; the context given to follow must have.
func (c *checks) wait() { c.loops.Wait() }
