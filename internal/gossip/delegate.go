package gossip

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	outbidPause = time.Second      // between two answers to a dispute over this host's own facts
	cloneProof  = 10 * time.Second // for which another instance keeps claiming this name
	clonePause  = time.Minute      // between two reports of it
)

// delegate is memberlist's way to us. Its methods run on memberlist's paths:
// they enqueue and return.
type delegate struct {
	g *Gossip

	mu       sync.Mutex
	outbidAt time.Time
	claims   claims
}

// claims are the aliens that bear this host's name.
type claims struct {
	instance        string
	first, reported time.Time
}

// NodeMeta tells who this host is.
func (d *delegate) NodeMeta(int) []byte {
	o := d.g.o
	return meta{instance: o.Instance, version: o.Version, address: o.Advertise}.encode()
}

// NotifyMsg takes facts.
func (d *delegate) NotifyMsg(b []byte) { d.take(b) }

// GetBroadcasts hands out facts to spread.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState is this host's half of a full exchange.
func (d *delegate) LocalState(bool) []byte {
	var facts []fact
	for _, f := range d.g.facts.all() {
		if f.host == d.g.o.Host || d.g.o.Allowed(f.host) {
			facts = append(facts, f)
		}
	}
	return encodeState(facts)
}

// MergeRemoteState is the other's half.
func (d *delegate) MergeRemoteState(b []byte, _ bool) { d.take(b) }

// take merges the facts in b and passes on what was news.
func (d *delegate) take(b []byte) {
	facts, err := decodeFacts(b)
	if err != nil {
		d.g.log.Debug("dropping bad facts", "err", err)
	}
	var news []fact
	for _, f := range facts {
		if f.host == d.g.o.Host {
			d.defend(f)
		} else if d.g.o.Allowed(f.host) && d.g.facts.merge(f) {
			news = append(news, f)
		}
	}
	for _, f := range news {
		// After a full exchange with much news it is this host that was
		// behind, and telling everybody would tell them nothing.
		if len(news) <= repeatMax {
			d.g.broadcast(f)
		}
		d.g.arrived(f)
	}
}

// defend answers facts about this host that it never stated.
func (d *delegate) defend(f fact) {
	if !d.g.facts.disputes(f) {
		return
	}
	now := time.Now()
	d.mu.Lock()
	due := now.Sub(d.outbidAt) >= outbidPause
	if due {
		d.outbidAt = now
	}
	d.mu.Unlock()
	if !due {
		return
	}
	for _, own := range d.g.facts.outbid(f.start) {
		d.g.broadcast(own)
	}
}

// NotifyAlive decides whether a host may be a member.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name != d.g.o.Host && !d.g.o.Allowed(n.Name) {
		return fmt.Errorf("host %q is not in the inventory", n.Name)
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return err
	}
	if n.Name == d.g.o.Host && m.instance != d.g.o.Instance {
		return d.alien(m.instance, time.Now())
	}
	return nil
}

// alien meets this host's name with another instance. At first that is what
// others remember of the previous start, and memberlist refutes it. One that
// does not go away is another machine: contradicting it would go on for ever.
func (d *delegate) alien(instance string, now time.Time) error {
	d.mu.Lock()
	c := &d.claims
	if c.instance != instance {
		*c = claims{instance: instance, first: now}
	}
	proved := now.Sub(c.first) >= cloneProof
	due := proved && now.Sub(c.reported) >= clonePause
	if due {
		c.reported = now
	}
	d.mu.Unlock()
	if due {
		d.g.log.Warn("another machine bears this host's name", "host", d.g.o.Host, "instance", d.g.o.Instance, "other", instance)
		if d.g.o.OnClone != nil {
			d.g.o.OnClone(instance)
		}
	}
	if proved {
		return errors.New("another machine bears this host's name")
	}
	return nil
}

// NotifyJoin, NotifyUpdate and NotifyLeave keep the table.
func (d *delegate) NotifyJoin(n *memberlist.Node) {
	if m, err := decodeMeta(n.Meta); err == nil {
		d.g.table.joined(n.Name, m)
		if d.g.o.Learn != nil && m.address != "" && n.Name != d.g.o.Host {
			d.g.o.Learn(n.Name, m.address)
		}
		if d.g.facts.value(n.Name, leavingKey) == m.instance {
			d.g.table.goodbye(n.Name, m.instance)
		}
	}
}

// NotifyUpdate follows a member that started anew without having been missed.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.NotifyJoin(n) }

// NotifyLeave notes that a member died or left.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.g.table.lost(n.Name) }

// NotifyPingComplete clears a suspicion.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.g.table.trust(n.Name)
}

// AckPayload adds nothing to an answered probe.
func (d *delegate) AckPayload() []byte { return nil }

// factBroadcast is one fact on its way; a newer one of the same name takes its
// place.
type factBroadcast struct {
	name    string
	message []byte
}

// Name identifies the fact by host and key.
func (b *factBroadcast) Name() string { return b.name }

// Invalidates says whether b replaces o.
func (b *factBroadcast) Invalidates(o memberlist.Broadcast) bool {
	other, ok := o.(*factBroadcast)
	return ok && other.name == b.name
}

// Message is what goes on the wire.
func (b *factBroadcast) Message() []byte { return b.message }

// Finished has nothing to clean up.
func (b *factBroadcast) Finished() {}
