package plan

import "time"

// Figures of patience.
const (
	PeerIdle    = 5 * time.Second       // a peer that sends nothing for so long is given up
	Strikes     = 3                     // failures in a row before what a peer says it has counts for nothing until its rest is over
	restMin     = 50 * time.Millisecond // a peer that is busy or failed rests so long, twice as long each time,
	busyRestMax = 400 * time.Millisecond
	failRestMax = 5 * time.Second      // to at most this
	busyMax     = 6 * time.Second      // a peer that turns away every request for so long fails; less than an exchange without progress lasts
	newsGap     = 4 * time.Millisecond // pause after news, times the number of peers,
	newsGapMax  = 250 * time.Millisecond
)

// NewsGap is how long a host gathers news before it tells them to so many peers.
func NewsGap(peers int) time.Duration {
	return min(newsGap*time.Duration(max(peers, 1)), newsGapMax)
}

// Patience is how a peer answered lately. The zero value trusts it.
type Patience struct {
	strikes int // requests in a row that failed
	turned  int // requests in a row that it was too busy for,
	since   time.Duration
	resume  time.Duration
}

// Asks is how many requests the peer may have under way.
func (p *Patience) Asks(now time.Duration) int {
	switch {
	case now < p.resume:
		return 0
	case p.strikes > 0:
		return 1
	}
	return PeerAsks
}

// Counts says whether what the peer says it has is to be believed now.
func (p *Patience) Counts(now time.Duration) bool { return p.strikes < Strikes || now >= p.resume }

// Good notes a request that went well.
func (p *Patience) Good() { p.strikes, p.turned = 0, 0 }

// Strike lets the peer rest, twice as long each time.
func (p *Patience) Strike(by int, now time.Duration) {
	p.strikes += by
	p.resume = now + min(restMin<<min(p.strikes, 10), failRestMax)
}

// TurnedAway waits a little for a busy peer. One that is busy without end counts as failing.
func (p *Patience) TurnedAway(now time.Duration) {
	if p.turned == 0 {
		p.since = now
	}
	p.turned++
	if now-p.since >= busyMax {
		p.Strike(1, now)
		return
	}
	p.resume = now + min(restMin<<min(p.turned-1, 10), busyRestMax)
}

// Resume is when a peer that rests may be asked again.
func (p *Patience) Resume() time.Duration { return p.resume }
