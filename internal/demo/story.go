package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// How long things may take on a slow and busy machine.
const (
	startPatience   = 90 * time.Second
	chapterPatience = 2 * time.Minute
	settlePatience  = 15 * time.Second // for ports, after the agents say that they are done
	awaitPause      = 50 * time.Millisecond
	followPause     = 200 * time.Millisecond
	readingTime     = 2 * time.Second
)

// Exit codes of `gitopsd wait` that end a chapter.
const (
	waitSucceeded  = 0
	waitRolledBack = 5
)

// chapter is one part of the story.
type chapter struct {
	title string
	about string
	act   func(ctx context.Context) (commit string, err error)
	code  int // how `gitopsd wait` for the commit should end
	plot  func() plot
	moves *packed // the release whose archive leaves S3, filled in by act; nil for none
}

// story is the demo's plan: what each chapter does lies in closures over what the chapters before have made.
type story struct {
	d                 *demo
	one, two, three   packed
	secondID, thirdID string // commits
	published         int    // bundles
	archives          int64  // bytes of them that left S3
	fromPeers         int64  // bytes of them that came from peers
}

// chapters tell of three releases and two reverts.
func (s *story) chapters() []chapter {
	n := len(s.d.fleet.hosts)
	careful := careful(n)
	return []chapter{
		{
			title: "Release 1 goes everywhere",
			about: "The first commit that names the website: its group.yaml says which bundle, where and how.",
			act: func(ctx context.Context) (string, error) {
				return s.release(ctx, &s.one, release{name: "1"}, everywhere(), "website: release 1")
			},
			code: waitSucceeded, moves: &s.one,
			plot: func() plot { return plot{target: "1", after: "1", bytes: s.one.size} },
		},
		{
			title: "Release 2 by a commit: one host first, then the rest",
			about: fmt.Sprintf("Every host fetches while release 1 runs; one host changes and is watched for %s; then the rest, %s.", bakeTime, atMost(careful.window)),
			act: func(ctx context.Context) (id string, err error) {
				if _, err := s.commit(ctx, s.one, careful, "website: from now on one host first"); err != nil {
					return "", err
				}
				s.secondID, err = s.release(ctx, &s.two, release{name: "2"}, careful, "website: release 2")
				return s.secondID, err
			},
			code: waitSucceeded, moves: &s.two,
			plot: func() plot {
				return plot{before: "1", target: "2", after: "2", alone: true, window: careful.window, bytes: s.two.size}
			},
		},
		{
			title: "Release 3 is broken: ValidateService fails on the first host, which goes back by itself",
			about: "Git still asks for release 3; the group holds it back and says so until the spec changes.",
			act: func(ctx context.Context) (id string, err error) {
				s.thirdID, err = s.release(ctx, &s.three, release{name: "3", broken: "the database has another schema"}, careful, "website: release 3")
				return s.thirdID, err
			},
			code: waitRolledBack, moves: &s.three,
			plot: func() plot { return plot{before: "2", target: "3", after: "2", window: 1, bytes: s.three.size} },
		},
		{
			title: "git revert of release 3: git and the fleet agree again, nothing is deployed",
			about: "What git asks for now is what runs.",
			act:   func(ctx context.Context) (string, error) { return s.revert(ctx, s.thirdID) },
			code:  waitSucceeded,
			plot:  func() plot { return plot{before: "2", target: "2", after: "2", still: true} },
		},
		{
			title: "git revert of release 2: back to release 1 from every host's own disk",
			about: "A release that ran well here needs no canary, no S3 and no peer; the minimum of healthy hosts holds.",
			act:   func(ctx context.Context) (string, error) { return s.revert(ctx, s.secondID) },
			code:  waitSucceeded,
			plot:  func() plot { return plot{before: "2", target: "1", after: "1", window: careful.window} },
		},
	}
}

func atMost(n int) string {
	if n == 1 {
		return "one at a time"
	}
	return spelled(n) + " at a time"
}

// release builds, stores and commits a release.
func (s *story) release(ctx context.Context, into *packed, r release, p policy, subject string) (string, error) {
	if err := r.write(s.d.place.app()); err != nil {
		return "", err
	}
	made, err := s.d.s3.publish(ctx, s.d.place.app(), r)
	if err != nil {
		return "", err
	}
	*into = made
	return s.commit(ctx, made, p, subject)
}

// commit commits the website's group.yaml.
func (s *story) commit(ctx context.Context, r packed, p policy, subject string) (string, error) {
	id, err := s.d.repo.commit(ctx, subject, map[string]string{groupFolder + "/group.yaml": groupText(r, p)})
	if err != nil {
		return "", err
	}
	s.d.screen.say("   commit %s  %s", status.Short(id), subject)
	return id, nil
}

// revert reverts a commit with git.
func (s *story) revert(ctx context.Context, id string) (string, error) {
	made, err := s.d.repo.revert(ctx, id)
	if err != nil {
		return "", err
	}
	s.d.screen.say("   commit %s  git revert %s && git push", status.Short(made), status.Short(id))
	return made, nil
}

// tell plays every chapter; the error says in which one what went wrong.
func (s *story) tell(ctx context.Context) error {
	for i, c := range s.chapters() {
		if err := s.play(ctx, i+1, c); err != nil {
			return fmt.Errorf("chapter %d (%s): %w", i+1, c.title, err)
		}
		if err := s.d.screen.failed(); err != nil {
			return err
		}
		if err := s.d.readingPause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// readingPause lets somebody at a terminal read what happened before it goes on.
func (d *demo) readingPause(ctx context.Context) error {
	if d.o.Once || !d.screen.live() {
		return ctx.Err()
	}
	pause := time.NewTimer(readingTime)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// play plays one chapter: act, follow, judge.
func (s *story) play(ctx context.Context, number int, c chapter) error {
	d := s.d
	d.screen.say("%s   %s", heading(number, c.title), c.about)
	if err := d.freshLook(ctx); err != nil {
		return err
	}
	d.watch.begin()
	archives, indexes := d.s3.archives.Load(), d.s3.indexes.Load()
	commit, err := c.act(ctx)
	if err != nil {
		return err
	}
	p := c.plot()
	if err := d.follow(ctx, func(ctx context.Context) error {
		if err := d.fleet.notify(ctx); err != nil {
			return err
		}
		return d.awaitChapter(ctx, commit, c.code, p.after)
	}); err != nil {
		return err
	}
	archives, indexes = d.s3.archives.Load()-archives, d.s3.indexes.Load()-indexes
	move := traffic{archives: archives, indexes: indexes}
	if c.moves != nil {
		move.size, move.payload, move.holders = c.moves.size, c.moves.payload, d.fleet.held(*c.moves)
		s.fromPeers += move.peers()
		s.published++
	}
	s.archives += archives
	sights, whole := d.watch.seen()
	wrong := judge(p, facts{sights: sights, whole: whole, end: d.watch.current(), bytes: archives})
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	if p.target != p.after {
		if g, _, err := d.fleet.group(ctx); err == nil {
			d.screen.say("%s", failed(g, d.waves))
		}
	}
	d.screen.say("%s", outcome(p, len(d.fleet.hosts), move.sentence()))
	return nil
}

// follow shows the live table while do does something.
func (d *demo) follow(ctx context.Context, do func(context.Context) error) error {
	shown, stop := context.WithCancel(ctx)
	var loops sync.WaitGroup
	reports := make(chan status.Report)
	loops.Go(func() { d.table(shown, reports) })
	loops.Go(func() {
		calm(shown, reports, func(g status.Group) {
			if g.Deployment != nil {
				d.waves[g.Deployment.ID] = inWave(g.Deployment)
			}
			d.screen.show(g)
		})
	})
	err := do(ctx)
	stop()
	loops.Wait()
	d.showEnd(ctx)
	d.screen.settle()
	return err
}

// showEnd draws what the fleet has come to; while leadership is on its way to another host it waits for a moment.
func (d *demo) showEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, gapPatience)
	defer cancel()
	pace := time.NewTicker(awaitPause)
	defer pace.Stop()
	for {
		g, notices, err := d.fleet.group(ctx)
		if err == nil && !leaderless(status.Report{Notices: notices, Groups: []status.Group{g}}) {
			d.screen.show(g)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
	}
}

// table takes what an agent reports until ctx ends, at most five times a second, which is what agents send.
func (d *demo) table(ctx context.Context, reports chan<- status.Report) {
	pause := time.NewTicker(followPause)
	defer pause.Stop()
	for i := 0; ; i++ {
		_ = d.fleet.clients[i%len(d.fleet.clients)].Follow(ctx, groupFolder, func(r status.Report) error {
			select {
			case reports <- r:
			case <-ctx.Done():
			}
			return nil
		})
		select { // the group is not known yet, or the agent left: ask the next
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// awaitChapter waits until the fleet is done with a commit and the ports serve what they should.
func (d *demo) awaitChapter(ctx context.Context, commit string, code int, serve string) error {
	var ended status.Awaited
	err := d.await(ctx, "the fleet is not done with commit "+status.Short(commit), chapterPatience, func(ctx context.Context) string {
		for _, c := range d.fleet.clients {
			a, err := c.Wait(ctx, groupFolder, commit, false)
			if err != nil {
				continue
			}
			if ended = a; a.Done {
				return ""
			}
			return a.Message
		}
		return "no agent answers"
	})
	if err != nil {
		return err
	}
	if ended.Code != code {
		return fmt.Errorf("the group is %s: %s", ended.State, ended.Message)
	}
	if err := d.await(ctx, "the ports do not serve release "+serve, settlePatience, func(context.Context) string {
		for _, host := range d.fleet.hosts {
			if got := d.watch.current()[host]; got != serve {
				return fmt.Sprintf("%s serves %s", host, named(got))
			}
		}
		return ""
	}); err != nil {
		return err
	}
	return d.freshLook(ctx)
}

// freshLook waits until every port was asked once more.
func (d *demo) freshLook(ctx context.Context) error {
	from := d.watch.rounds()
	return d.await(ctx, "the ports are not asked", settlePatience, func(context.Context) string {
		if d.watch.rounds() < from+2 {
			return "the machine is too busy"
		}
		return ""
	})
}

// await waits until check returns "", at most for patience. The error begins with what is missing and says why, what the group reports, and where the logs are.
func (d *demo) await(ctx context.Context, missing string, patience time.Duration, check func(context.Context) string) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pace := time.NewTicker(awaitPause)
	defer pace.Stop()
	for {
		why := check(limited)
		if why == "" {
			return nil
		}
		if err := d.fleet.dead(); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-pace.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s after %s: %s%s", missing, patience, why, d.explain(ctx, why))
		}
	}
}

// explain adds what the group says of itself.
func (d *demo) explain(ctx context.Context, known string) string {
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	g, notices, err := d.fleet.group(limited)
	if err != nil {
		return ""
	}
	text := ""
	if g.Why != known {
		text = fmt.Sprintf("; %s is %s: %s", g.Group, g.State, g.Why)
	}
	for _, n := range notices {
		text += "; " + status.Printable(n.Message)
	}
	return text
}
