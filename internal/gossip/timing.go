package gossip

import (
	"errors"
	"time"
)

// Timing sets the pace. Use LAN or Fast; the zero value of Options.Timing
// means LAN.
type Timing struct {
	// ProbeInterval is how often a host probes one random other;
	// ProbeTimeout how long it waits for the direct answer.
	ProbeInterval, ProbeTimeout time.Duration
	// SuspicionMult times max(1, log10(hosts)) probe intervals pass between
	// suspect and dead.
	SuspicionMult int
	// GossipInterval is how often broadcasts go to GossipHosts random hosts.
	GossipInterval time.Duration
	GossipHosts    int
	// FullExchange is how often everything is exchanged with one random host
	// (memberlist stretches it beyond 32 hosts).
	FullExchange time.Duration
	// StreamTimeout bounds one full exchange; DialTimeout opening a stream.
	StreamTimeout, DialTimeout time.Duration
	// ForgetDead is how long the dead are still gossiped to.
	ForgetDead time.Duration
	// RejoinFirst is the pause before the first repeated join; it doubles up
	// to RejoinAlone while no other member is alive, and otherwise until it
	// exceeds RejoinMin; from then on missing hosts are tried at random
	// moments between RejoinMin and RejoinMax apart.
	RejoinFirst, RejoinAlone, RejoinMin, RejoinMax time.Duration
	// StreamIdle closes a packet stream that nothing was sent on; beyond 48
	// members it is 1 s at most.
	StreamIdle time.Duration
	// Leave bounds saying goodbye when Run ends.
	Leave time.Duration
}

// LAN is the timing for production: a crash is seen by all within about 8 s at
// 5 to 50 hosts and 13 s at 500.
func LAN() Timing {
	return Timing{
		ProbeInterval:  time.Second,
		ProbeTimeout:   500 * time.Millisecond,
		SuspicionMult:  4,
		GossipInterval: 100 * time.Millisecond,
		GossipHosts:    3,
		FullExchange:   30 * time.Second,
		StreamTimeout:  10 * time.Second,
		DialTimeout:    3 * time.Second,
		ForgetDead:     30 * time.Second,
		RejoinFirst:    250 * time.Millisecond,
		RejoinAlone:    2 * time.Second,
		RejoinMin:      30 * time.Second,
		RejoinMax:      60 * time.Second,
		StreamIdle:     15 * time.Second,
		Leave:          2 * time.Second,
	}
}

// Fast is the timing for tests and demonstrations on one machine: a crash is
// seen within about 2 s.
func Fast() Timing {
	t := LAN()
	t.ProbeInterval = 200 * time.Millisecond
	t.ProbeTimeout = 100 * time.Millisecond
	t.GossipInterval = 50 * time.Millisecond
	t.FullExchange = 2 * time.Second
	t.StreamTimeout = 3 * time.Second
	t.DialTimeout = time.Second
	t.ForgetDead = 5 * time.Second
	t.RejoinFirst = 50 * time.Millisecond
	t.RejoinAlone = 500 * time.Millisecond
	t.RejoinMin = time.Second
	t.RejoinMax = 2 * time.Second
	t.StreamIdle = 5 * time.Second
	t.Leave = time.Second
	return t
}

func (t Timing) validate() error {
	for _, d := range []time.Duration{
		t.ProbeInterval, t.ProbeTimeout, t.GossipInterval, t.FullExchange, t.StreamTimeout, t.DialTimeout,
		t.ForgetDead, t.RejoinFirst, t.RejoinAlone, t.RejoinMin, t.RejoinMax, t.StreamIdle, t.Leave,
	} {
		if d <= 0 {
			return errors.New("every duration of Timing must be positive; start from LAN() or Fast()")
		}
	}
	if t.SuspicionMult < 1 || t.GossipHosts < 1 {
		return errors.New("SuspicionMult and GossipHosts of Timing must be at least 1")
	}
	if t.ProbeTimeout > t.ProbeInterval || t.RejoinMax < t.RejoinMin {
		return errors.New("Timing needs ProbeTimeout <= ProbeInterval and RejoinMin <= RejoinMax")
	}
	return nil
}
