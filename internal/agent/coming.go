package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// factFetch is the gossiped word on how fast bundles come to a host, while any does. It is what operators are shown, and decides nothing.
const factFetch = "fetch"

// Bounds of that word.
const (
	comingLook  = time.Second           // how often this host looks
	comingPause = 2 * time.Second       // how often it tells at most,
	comingShare = 20 * time.Millisecond // and no more often than so long for each member: some fifty hosts tell in a second, however many there are
	comingMax   = 8                     // bundles
)

// toldComing is the wire form.
type toldComing struct {
	Version int      `json:"v"`
	Bundles []coming `json:"b"`
}

// coming is one bundle on its way to a host.
type coming struct {
	Digest string `json:"d"` // its first digits
	Rate   int64  `json:"r"` // bytes in a second
	ETA    int64  `json:"e,omitempty"`
}

// comingHere lists what is on its way to this host.
func comingHere(s *swarm.Swarm) []coming {
	var all []coming
	for _, digest := range s.Fetching() {
		if p := s.Progress(digest); len(all) < comingMax && p.Rate > 0 {
			all = append(all, coming{digest.Short(), p.Rate, etaSeconds(p)})
		}
	}
	return all
}

// tellComing encodes it; nil takes an earlier word back.
func tellComing(all []coming) []byte {
	if len(all) == 0 {
		return nil
	}
	text, err := json.Marshal(toldComing{Version: 1, Bundles: all})
	if err != nil {
		return nil
	}
	return text
}

// heardComing reads what other hosts told, by host. What cannot be read is left out.
func heardComing(facts map[string][]byte, self string) map[string][]coming {
	heard := map[string][]coming{}
	for host, text := range facts {
		var told toldComing
		if host != self && json.Unmarshal(text, &told) == nil && told.Version == 1 {
			heard[host] = told.Bundles[:min(len(told.Bundles), comingMax)]
		}
	}
	return heard
}

// announceFetches tells the fleet how fast bundles come to this host.
func (a *Agent) announceFetches(ctx context.Context) error {
	look := time.NewTicker(comingLook)
	defer look.Stop()
	var told []byte
	var at time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		text := tellComing(comingHere(a.swarm))
		if bytes.Equal(text, told) {
			continue
		}
		a.changed.Notify()
		pause := max(comingPause, time.Duration(len(a.gossip.Members()))*comingShare)
		if text != nil && time.Since(at) < pause {
			continue
		}
		if err := a.gossip.Publish(factFetch, text); err != nil {
			a.log.Debug("how fast bundles come could not be told", "error", err)
		}
		told, at = text, time.Now()
	}
}

// addRates puts beside each host of a group how fast the bundle that the group should run comes to it.
func (r *reader) addRates(groups []status.Group) {
	if r.coming == nil {
		return
	}
	heard := r.coming()
	for _, g := range groups {
		for i := range g.Hosts {
			h := &g.Hosts[i]
			for _, c := range heard[h.Name] {
				if c.Rate > 0 && c.Digest == bundle.Digest(g.Desired.Digest).Short() {
					h.BytesPerSecond, h.ETASeconds = c.Rate, max(0, c.ETA)
				}
			}
		}
	}
}
