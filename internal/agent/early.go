package agent

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired"
)

// Pauses before a bundle that could not be had is asked for again, twice as long each time.
const (
	earlyPause    = 15 * time.Second
	earlyPauseMax = 2 * time.Minute
)

// early brings bundles as soon as this host has verified the commit that wants them, and whether or not the coordinator set has a leader: no wave then waits for what
// could have come before. It decides nothing. What the set has this host prepare for is the member's to bring, which joins what is under way here.
type early struct {
	self    string
	bundles *bundles
	world   func() *world
	move    func() <-chan struct{} // closed when the world changes
	met     func() bool            // whether gossip has told of another host yet
	meeting func() <-chan struct{} // closed when that may have changed
	log     *slog.Logger
}

// earlyFetch is one bundle that a group is to have.
type earlyFetch struct {
	group  desired.GroupID
	digest bundle.Digest
}

// earlyRun is one under way, or over.
type earlyRun struct {
	group  desired.Group
	cancel context.CancelFunc
	over   chan struct{} // closed once the bundle is here
}

// serves says whether it goes on as it should for what a group is by now: where the bundle comes from, who deals it, and the folder that this host's fence may name.
func (r earlyRun) serves(g desired.Group) bool {
	return reflect.DeepEqual(g.Revision, r.group.Revision) && g.Coordinators == r.group.Coordinators && g.Folder == r.group.Folder
}

// ended says whether it is over. It may have to begin again: what a commit in between did not want may have been let go.
func (r earlyRun) ended() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

// Run follows the world until ctx ends, then waits for the fetches it began.
func (e *early) Run(ctx context.Context) error {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.meet(ctx)
	runs := map[earlyFetch]earlyRun{}
	for ctx.Err() == nil {
		move := e.move()
		wanted := e.wanted()
		for key, run := range runs {
			if g, still := wanted[key]; !still || !run.serves(g) || run.ended() {
				run.cancel()
				delete(runs, key)
			}
		}
		for key, g := range wanted {
			if _, begun := runs[key]; begun {
				continue
			}
			fetching, cancel := context.WithCancel(ctx)
			run := earlyRun{g, cancel, make(chan struct{})}
			runs[key] = run
			fetches.Go(func() {
				e.bring(fetching, g)
				close(run.over)
				if fetching.Err() != nil {
					e.bundles.changed.Wake() // what it left may be let go
				}
			})
		}
		e.bundles.changed.Wake() // what the commit before wanted may be let go
		select {
		case <-ctx.Done():
		case <-move:
		}
	}
	return nil
}

// meet waits until gossip has told of another host, for a while: a host that has just started would take itself for alone, and read from the origin what others have.
func (e *early) meet(ctx context.Context) {
	late := time.NewTimer(gossipLate)
	defer late.Stop()
	for {
		meeting := e.meeting()
		if e.met() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-late.C:
			return
		case <-meeting:
		}
	}
}

// wanted lists what the newest commit wants this host's groups to run. What is suspended, or is said in one of two histories, has not been decided; a folder of the
// config repository is here already.
func (e *early) wanted() map[earlyFetch]desired.Group {
	all := map[earlyFetch]desired.Group{}
	w := e.world()
	if w == nil || w.Forked != "" {
		return all
	}
	for _, g := range w.State.GroupsOf(desired.HostName(e.self)) {
		if r := g.Revision; r.Digest != "" && r.Repository == nil && !g.Policy.Suspend && !g.Policy.Removed {
			all[earlyFetch{g.ID, r.Digest}] = g
		}
	}
	return all
}

// bring tries until the bundle is here or ctx ends, which it does once nobody wants it any more.
func (e *early) bring(ctx context.Context, g desired.Group) {
	for pause := earlyPause; ; pause = min(2*pause, earlyPauseMax) {
		better := e.bundles.better.Changed()
		err := e.bundles.ahead(ctx, g)
		if err == nil || ctx.Err() != nil {
			return
		}
		e.log.Debug("a bundle could not be had ahead of its deployment; it is tried again", "group", g.Folder, "digest", g.Revision.Digest.Short(), "pause", pause, "error", err)
		again := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-better:
			again.Stop()
		case <-again.C:
		}
	}
}
