package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// Bounds of Options.Hosts.
const (
	HostsDefault = 5
	HostsMax     = 25
)

// parentPause is between two looks whether `go run` still runs.
const parentPause = 250 * time.Millisecond

// binaryPatience is how long this program may take to print its version from the demo's folder.
const binaryPatience = 20 * time.Second

// Options of a demo.
type Options struct {
	Dir     string    // folder to use, which must be empty or missing; "": a fresh one that is removed at the end
	Hosts   int       // 1..25
	Once    bool      // end after the story instead of staying up
	Program string    // file of this program; "": os.Executable
	Out     io.Writer // where the story is told; redrawn in place if it is a terminal; nil: os.Stdout
}

// demo is everything of one run.
type demo struct {
	o      Options
	screen *screen
	place  place
	unlock func()
	procs  *processes
	s3     *objectStore
	repo   *repository
	fleet  *fleet
	watch  *watcher
	env    []string
	waves  map[string]string // the wave that each deployment was seen in last; of follow

	loops sync.WaitGroup
}

// Run tells the story and, without Once, stays until ctx ends. When it returns no process is left that it started or that those left behind. The error is a
// sentence: what went wrong, in which chapter, and where the logs are. It is nil only when every chapter ended as it should.
func Run(ctx context.Context, o Options) error {
	d, err := newDemo(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.loops.Go(func() { leaveWithParent(ctx, cancel) })
	err = d.run(ctx)
	interrupted := ctx.Err() != nil || d.screen.failed() != nil // who closes the pipe leaves as well
	cancel()
	d.loops.Wait()
	return d.close(err, interrupted)
}

// newDemo checks the options.
func newDemo(o Options) (*demo, error) {
	if o.Hosts < 1 || o.Hosts > HostsMax {
		return nil, fmt.Errorf("cannot show %d hosts: choose 1 to %d", o.Hosts, HostsMax)
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot find this program's own file, which the agents are started from: %w", err)
		}
		o.Program = self
	}
	return &demo{o: o, screen: newScreen(o.Out), waves: map[string]string{}}, nil
}

// run sets everything up, tells the story, and stays.
func (d *demo) run(ctx context.Context) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	d.screen.say("%s", opening(d.place.dir, d.o.Hosts, voterCount(d.o.Hosts)))
	if err := d.startFleet(ctx); err != nil {
		return err
	}
	s := &story{d: d}
	if err := s.tell(ctx); err != nil {
		return err
	}
	d.screen.say("%s", totals(s.published, s.one.size, s.archives, s.fromPeers, len(d.fleet.hosts)))
	if d.o.Once {
		return nil
	}
	if err := (release{name: "1"}).write(d.place.app()); err != nil { // what runs, for the user to edit
		return err
	}
	return d.stay(ctx)
}

// prepare makes the folder and all that is no agent.
func (d *demo) prepare(ctx context.Context) error {
	var err error
	if d.place, err = newPlace(d.o.Dir, d.o.Hosts); err != nil {
		return err
	}
	if d.unlock, err = durable.Lock(d.place.lock()); err != nil {
		return err
	}
	if d.procs, err = newProcesses(); err != nil {
		return err
	}
	d.env = environment(os.Environ(), filepath.Dir(d.place.binary()), d.place.lock())
	if err := d.install(ctx); err != nil {
		return err
	}
	if d.s3, err = newObjectStore(d.place.credentials()); err != nil {
		return err
	}
	if d.repo, err = newRepository(ctx, d.place, d.procs, d.env); err != nil {
		return err
	}
	return nil
}

// install copies this program into the folder and tries it there.
func (d *demo) install(ctx context.Context) error {
	if err := copyBinary(d.o.Program, d.place.binary()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, binaryPatience)
	defer cancel()
	cmd := exec.Command(d.place.binary(), "version")
	cmd.Env = d.env
	if _, err := d.procs.output(ctx, cmd); errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("cannot run programs in %s, perhaps its file system is mounted noexec: name another folder with --dir (%w)", d.place.dir, err)
	} else if err != nil {
		return err
	}
	return nil
}

// startFleet commits the inventory, starts the agents and waits until they have verified it.
func (d *demo) startFleet(ctx context.Context) error {
	held, err := reservePorts(2 * d.o.Hosts)
	if err != nil {
		return err
	}
	defer held.release()
	d.fleet = newFleet(d.place, d.o.Hosts, held)
	files, err := d.fleet.inventory(d.repo.key.PublicLine())
	if err != nil {
		return err
	}
	introduction, err := d.repo.commit(ctx, "introduce the fleet", files)
	if err != nil {
		return err
	}
	if err := d.repo.clone(ctx, d.fleet.sockets()); err != nil {
		return err
	}
	held.release()
	if err := d.fleet.start(d.procs, d.env, introduction, d.s3); err != nil {
		return err
	}
	d.watch = newWatcher(d.fleet.ports)
	d.loops.Go(func() { d.watch.run(ctx) })
	d.loops.Go(func() { d.procs.reap(ctx) })
	return d.await(ctx, "the agents are not ready", startPatience, func(ctx context.Context) string { return d.fleet.ready(ctx, introduction) })
}

// stay keeps the fleet up until the user leaves.
func (d *demo) stay(ctx context.Context) error {
	var sites []string
	for _, host := range d.fleet.hosts {
		sites = append(sites, fmt.Sprintf("http://127.0.0.1:%d/", d.fleet.ports[host]))
	}
	d.screen.say("%s", closing(d.place, sites, hints(d.place, d.fleet.hosts[0], d.s3.url)))
	pace := time.NewTicker(time.Second)
	defer pace.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
		if err := d.screen.failed(); err != nil {
			return err
		}
		if err := d.fleet.dead(); err != nil && !said && ctx.Err() == nil {
			d.screen.say("! %v", err)
			said = true
		}
	}
}

// leaveWithParent ends the demo when the `go run` it was started by ends: that passes no TERM on which it is sent itself.
func leaveWithParent(ctx context.Context, cancel func()) {
	parent := os.Getppid()
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", parent))
	if err != nil || filepath.Base(exe) != "go" {
		return
	}
	pace := time.NewTicker(parentPause)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
			if os.Getppid() != parent {
				cancel()
			}
		}
	}
}

// close ends all processes, removes what nobody needs any more, and words the error.
func (d *demo) close(err error, interrupted bool) error {
	var left error
	started := d.fleet != nil && len(d.fleet.agents) > 0
	if d.procs != nil {
		var agents []*process
		if started {
			d.screen.say("   (ending every process)")
			agents = d.fleet.agents
		}
		left = d.procs.end(agents, endPatience())
		apply.CollectControlGroups()
	}
	if d.s3 != nil {
		left = errors.Join(left, d.s3.close())
	}
	if d.unlock != nil {
		d.unlock()
	}
	failed := left != nil || err != nil && !interrupted
	keep := !d.place.made || failed && started
	if d.place.dir != "" {
		left = errors.Join(left, d.place.remove(!keep))
	}
	switch {
	case interrupted && err != nil:
		err = errors.New("the demo was interrupted before its end")
	case err != nil && keep && started:
		err = fmt.Errorf("the demo did not go as it should: %w. Everything is kept in %s; the agents' logs are %s", err, d.place.dir, d.place.agentLog("web-*"))
	case err != nil:
		err = fmt.Errorf("the demo cannot start: %w", err)
	case keep:
		d.screen.say("Everything is kept in %s.", d.place.dir)
	}
	return errors.Join(err, left)
}
