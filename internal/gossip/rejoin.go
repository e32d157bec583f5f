package gossip

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	saveEvery = 30 * time.Second // between two calls of SavePeers
	warnEvery = time.Minute      // between two lines about seeds out of reach
	savedMax  = 256              // peers given to SavePeers
)

// rejoin dials hosts that should be members and are not, until ctx ends: soon
// and often at the start and while alone, rarely later.
func (g *Gossip) rejoin(ctx context.Context, list *memberlist.Memberlist) {
	var (
		pause           time.Duration
		known           int // seeds at the last look
		saved           []Seed
		savedAt, warned time.Time
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if g.hasLeft() {
			continue
		}
		seeds := g.missing()
		if len(seeds) > known {
			pause = 0 // the inventory grew, or somebody was lost
		}
		known = len(seeds)
		if err := g.join(ctx, list, seeds); err != nil && g.table.live() == 1 && time.Since(warned) >= warnEvery && ctx.Err() == nil {
			warned = time.Now()
			g.log.Warn("no other host can be reached yet", "tried", known, "err", err)
		}
		g.prune()
		if time.Since(savedAt) >= saveEvery {
			saved, savedAt = g.save(saved), time.Now()
		}
		pause = g.nextPause(pause)
		timer.Reset(pause)
	}
}

func (g *Gossip) hasLeft() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}

func (g *Gossip) nextPause(last time.Duration) time.Duration {
	t := g.o.Timing
	next := max(2*last, t.RejoinFirst)
	if g.table.live() == 1 {
		return min(next, t.RejoinAlone)
	}
	if next < t.RejoinMin {
		return next
	}
	return t.RejoinMin + rand.N(t.RejoinMax-t.RejoinMin+1)
}

// missing returns a random order of the seeds that are not live.
func (g *Gossip) missing() []Seed {
	var out []Seed
	seen := map[string]bool{g.o.Host: true}
	for _, seed := range g.o.Seeds() {
		if seen[seed.Name] || g.table.isLive(seed.Name) || !g.o.Allowed(seed.Name) || strings.Contains(seed.Name, "/") {
			continue
		}
		seen[seed.Name] = true
		out = append(out, seed)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// join tries a few of the seeds at once; the error is that of the last one
// that failed.
func (g *Gossip) join(ctx context.Context, list *memberlist.Memberlist, seeds []Seed) error {
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		err error
	)
	for _, seed := range seeds[:min(len(seeds), joinsAtOnce)] {
		if ctx.Err() != nil {
			break
		}
		if seed.Addr != "" && g.o.Learn != nil {
			g.o.Learn(seed.Name, seed.Addr)
		}
		wg.Go(func() {
			_, e := list.Join([]string{seed.Name + "/" + address(seed.Name).Addr})
			if e != nil {
				e = joinError(seed.Name, e)
				g.log.Debug("cannot join", "host", seed.Name, "err", e)
				mu.Lock()
				err = e
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return err
}

// prune forgets hosts that left the inventory.
func (g *Gossip) prune() {
	for _, host := range g.table.names() {
		if !g.o.Allowed(host) {
			g.table.forget(host)
		}
	}
	for _, host := range g.facts.names() {
		if !g.o.Allowed(host) {
			g.facts.forget(host)
		}
	}
}

// save hands the live members to SavePeers if they are others than last time.
func (g *Gossip) save(last []Seed) []Seed {
	if g.o.SavePeers == nil {
		return nil
	}
	var peers []Seed
	for _, m := range g.Members() {
		if m.Live() && m.Name != g.o.Host && len(peers) < savedMax {
			peers = append(peers, Seed{Name: m.Name, Addr: m.Addr})
		}
	}
	if len(peers) == 0 || slices.Equal(peers, last) {
		return last
	}
	g.o.SavePeers(peers)
	return peers
}
