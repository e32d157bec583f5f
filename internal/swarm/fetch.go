package swarm

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Fetch makes a bundle complete in the store. A call for a bundle that is being fetched already joins it, with its members, dealer and origin. It returns an error,
// and keeps what it has, when nothing moved for ten seconds; call it again later.
func (s *Swarm) Fetch(ctx context.Context, job Job) error {
	if _, err := bundle.ParseDigest(string(job.Ref.Digest)); err != nil {
		return fmt.Errorf("cannot fetch bundle: %w", err)
	}
	if job.Ref.Size < 0 || job.Ref.Size > bundle.MaxArchiveBytes {
		return fmt.Errorf("cannot fetch bundle %s: its size %d is not between 1 and %d bytes", job.Ref.Digest.Short(), job.Ref.Size, int64(bundle.MaxArchiveBytes))
	}
	if job.Where == "" {
		job.Where = "the origin"
	}
	for {
		if _, ok := s.o.Store.Lookup(job.Ref.Digest); ok {
			return nil
		}
		x, mine := s.enter(ctx, &job)
		err := x.await(ctx, &job, mine)
		if mine || ctx.Err() != nil {
			return err
		}
	}
}

// enter joins the exchange of a bundle, or opens one. mine is false when the exchange that there is serves this job only by ending: it follows another index, or
// its last caller has left.
func (s *Swarm) enter(ctx context.Context, job *Job) (x *exchange, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.exchanges[job.Ref.Digest]; x != nil {
		return x, x.join(job)
	}
	now := time.Now()
	s.opened++
	x = &exchange{s: s, digest: job.Ref.Digest, ref: job.Ref, pin: job.IndexDigest, order: s.opened, started: now, lastMove: now, jobs: []*Job{job}, done: make(chan struct{}),
		peers: map[string]*peer{}, suspects: map[string]suspicion{}, misled: map[bundle.Digest]bool{}, desk: deskView{quiet: now, avoid: map[string]time.Time{}}}
	maps.Copy(x.suspects, s.past[job.Ref.Digest].suspects)
	x.found = s.past[job.Ref.Digest].found
	before := s.past[job.Ref.Digest].progress
	x.fromOrigin, x.fromPeers, x.fromFar, x.reused = before.FromOrigin, before.FromPeers, before.FromFar, before.Reused
	seed := fnv.New64a()
	_, _ = io.WriteString(seed, s.o.Host+"\x00"+string(x.digest))
	x.seed = seed.Sum64()
	lot := fnv.New64a()
	_, _ = io.WriteString(lot, string(x.digest))
	x.lot = lot.Sum64()
	s.exchanges[x.digest] = x
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	x.cancel = cancel
	go x.live(life)
	s.appeared.notify()
	return x, true
}

// leave forgets an exchange but for what it cost.
func (s *Swarm) leave(x *exchange) {
	progress := x.progress()
	s.uploads.drawn(x.digest, 0)
	s.links.over(x.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exchanges, x.digest)
	s.past[x.digest] = past{progress: progress, suspects: x.suspects, found: x.found, order: x.order, ended: time.Now()}
	for len(s.past) > pastMax {
		oldest := x.digest
		for digest, p := range s.past {
			if p.order < s.past[oldest].order {
				oldest = digest
			}
		}
		delete(s.past, oldest)
	}
	s.appeared.notify()
}

// join adds a caller, unless the exchange follows another index or ends anyway.
func (x *exchange) join(job *Job) bool {
	defer x.tell()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.jobs) == 0 || x.pin != "" && job.IndexDigest != "" && x.pin != job.IndexDigest {
		return false
	}
	x.jobs = append(x.jobs, job)
	return true
}

// await waits for the exchange's end. The last caller who leaves ends it.
func (x *exchange) await(ctx context.Context, job *Job, mine bool) error {
	select {
	case <-x.done:
		return x.err
	case <-ctx.Done():
	}
	x.mu.Lock()
	x.jobs = slices.DeleteFunc(x.jobs, func(j *Job) bool { return j == job })
	last := len(x.jobs) == 0
	x.mu.Unlock()
	x.tell()
	if mine && last {
		x.cancel()
		<-x.done
	}
	return fmt.Errorf("cannot fetch bundle %s: %w", x.digest.Short(), ctx.Err())
}

// live is the exchange's own goroutine.
func (x *exchange) live(ctx context.Context) {
	defer close(x.done)
	err := x.queue(ctx)
	x.cancel()
	x.work.Wait()
	x.mu.Lock()
	x.jobs, x.err = nil, err
	partial := x.partial
	x.mu.Unlock()
	if partial != nil {
		partial.Rest()
	}
	x.s.leave(x)
}

// queue waits for a turn, and fetches.
func (x *exchange) queue(ctx context.Context) error {
	select {
	case x.s.fetches <- struct{}{}:
	default:
		x.because(fmt.Sprintf("waiting for a turn, %d other bundles are being fetched", fetchesMax))
		select {
		case x.s.fetches <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		x.because("")
	}
	defer func() { <-x.s.fetches }()
	x.moved()
	err := x.run(ctx)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("cannot fetch bundle %s: %w", x.digest.Short(), context.Canceled)
	}
	return err
}

// callers returns the jobs that wait for this exchange.
func (x *exchange) callers() []*Job {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.jobs)
}

// members are the live hosts of all callers that this one shares an origin with, this one aside.
func (x *exchange) members() []string {
	var all []string
	for _, job := range x.callers() {
		if job.Members != nil {
			all = append(all, job.Members()...)
		}
	}
	slices.Sort(all)
	realm := x.s.site(x.s.o.Host).realm()
	return slices.DeleteFunc(slices.Compact(all), func(host string) bool { return host == x.s.o.Host || host == "" || x.s.site(host).realm() != realm })
}

// leader is the dealer that the callers name; of several the first, so that hosts with the same groups choose the same.
func (x *exchange) leader() string {
	first := ""
	for _, job := range x.callers() {
		if job.Dealer == nil {
			continue
		}
		if host := job.Dealer(); host != "" && (first == "" || host < first) {
			first = host
		}
	}
	return first
}

// origin is that of a caller that has one, and its name; nil without a route. Where several have, the next takes its turn when a read has failed: a later commit may
// say of the same bundle where it really is.
func (x *exchange) origin() (Origin, string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	where, able := "the origin", []*Job{}
	for _, job := range x.jobs {
		if where = job.Where; job.Origin != nil {
			able = append(able, job)
		}
	}
	if len(able) == 0 {
		return nil, where
	}
	job := able[x.astray%len(able)]
	return job.Origin, job.Where
}
