package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/gitopsd/gitopsd/internal/transport"
)

// Bounds.
const (
	valueMax     = 1024  // bytes of a fact's value
	keyMax       = 64    // bytes of a fact's key
	keysMax      = 64    // facts of one host
	hostMax      = 128   // bytes of a host's name
	membersMax   = 16384 // hosts remembered
	probeStretch = 8     // probe intervals that a probe of an unhealthy host lasts at most: memberlist's AwarenessMaxMultiplier
	directMax    = 16    // members a fact is sent to at once in a small cluster
	directSome   = 4     // and in a larger one
	repeatMax    = 64    // facts of one full exchange that are broadcast again
	broadcastMax = 4096  // broadcasts waiting
	joinsAtOnce  = 4     // hosts the rejoin loop dials at a time
	packetBytes  = 4096  // one packet; at most 255 messages fit
	retransmit   = 4     // times log10(hosts) is how often a broadcast is repeated
)

// Streams is what gossip needs of *transport.Transport.
type Streams interface {
	HandleStream(proto string, handler func(ctx context.Context, s transport.Stream))
	DialStream(ctx context.Context, host, proto string) (transport.Stream, error)
}

// Seed is a host to try.
type Seed struct {
	Name string
	Addr string // "HOST:PORT"; may be "" where the inventory knows it
}

// Options configure New.
type Options struct {
	// Host is this host's name, Instance the nonce of this start. Required.
	Host, Instance string
	// Start grows with every start of this host; it orders facts. Default:
	// the clock, in nanoseconds since 1970. A start that is lower than an
	// earlier one heals itself as soon as an old fact is heard.
	Start uint64
	// Version is the agent's version, at most 64 bytes; informative.
	Version string
	// Advertise is the address others should dial, "HOST:PORT"; may be "".
	Advertise string
	// Streams carries everything. Required; New registers its protocols.
	Streams Streams
	// Seeds returns the hosts that should be members: the inventory, the
	// join list, peers known from before. Asked at every attempt to rejoin.
	// Required; must not block.
	Seeds func() []Seed
	// Allowed says whether a host may be a member. Required; must not block.
	Allowed func(host string) bool
	// Learn is told the address that a member gives of itself, and those of
	// the seeds; wire it to transport's SetAddress. Optional; must not block.
	Learn func(host, addr string)
	// SavePeers is given the live members now and then, when they changed, so
	// that they can be kept for the next start. Optional; may do I/O.
	SavePeers func([]Seed)
	// OnClone is told, at most once a minute, that another machine keeps
	// claiming this host's name. Optional; must not block.
	OnClone func(instance string)
	// Log gets gossip's messages; memberlist's own come at debug level. Nil
	// discards them.
	Log *slog.Logger
	// Timing defaults to LAN.
	Timing Timing
}

// Gossip is one host's membership. Make it with New, then Run it.
type Gossip struct {
	o       Options
	log     *slog.Logger
	facts   *factStore
	table   *table
	packets *packets
	queue   *memberlist.TransmitLimitedQueue
	changed chan struct{}

	mu        sync.Mutex
	notify    map[string][]func(host string, value []byte)
	list      *memberlist.Memberlist // while running
	ran, left bool
}

// New validates options, registers the stream protocols, and starts nothing.
func New(o Options) (*Gossip, error) {
	if o.Host == "" || len(o.Host) > hostMax || o.Instance == "" || len(o.Instance) > textMax {
		return nil, fmt.Errorf("cannot set up gossip: host needs 1 to %d bytes and instance 1 to %d", hostMax, textMax)
	}
	if o.Streams == nil || o.Seeds == nil || o.Allowed == nil {
		return nil, errors.New("cannot set up gossip: Streams, Seeds and Allowed are required")
	}
	if len(o.Version) > textMax || len(o.Advertise) > addressMax {
		return nil, fmt.Errorf("cannot set up gossip: version may have %d bytes and advertise %d", textMax, addressMax)
	}
	if o.Timing == (Timing{}) {
		o.Timing = LAN()
	}
	if err := o.Timing.validate(); err != nil {
		return nil, fmt.Errorf("cannot set up gossip: %w", err)
	}
	if o.Start == 0 {
		o.Start = uint64(time.Now().UnixNano())
	}
	if o.Start > startMax {
		return nil, fmt.Errorf("cannot set up gossip: start %d is larger than %d", o.Start, uint64(startMax))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gossip{
		o:       o,
		log:     o.Log,
		facts:   newFactStore(o.Host, o.Start),
		changed: make(chan struct{}, 1),
		notify:  map[string][]func(string, []byte){},
	}
	g.table = newTable(Member{Name: o.Host, Addr: o.Advertise, State: Alive, Instance: o.Instance, Version: o.Version}, probeStretch*o.Timing.ProbeInterval, g.touch)
	g.packets = newPackets(o.Streams, o.Host, o.Allowed, g.table.live, o.Timing, o.Log)
	g.queue = &memberlist.TransmitLimitedQueue{RetransmitMult: retransmit, NumNodes: g.table.live}
	return g, nil
}

// Changed returns a channel that receives, coalesced, when Members changed. It
// has one reader.
func (g *Gossip) Changed() <-chan struct{} { return g.changed }

func (g *Gossip) touch() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// Members returns this host and every allowed host that was ever heard of
// since Run, sorted by name.
func (g *Gossip) Members() []Member { return g.table.members(g.o.Allowed) }

// Publish sets this host's fact key, a printable word of at most 64 bytes, to
// value, at most 1 KiB, and sends it on its way; an empty value withdraws it.
// Keys that begin with "gossip." are taken. It never blocks on the network,
// and may be called before Run.
func (g *Gossip) Publish(key string, value []byte) error {
	if !validKey(key) || isReserved(key) {
		return fmt.Errorf("cannot publish fact %q: a key is a printable word of 1 to %d bytes and does not begin with %q", key, keyMax, reservedPrefix)
	}
	return g.publish(key, value)
}

func (g *Gossip) publish(key string, value []byte) error {
	f, err := g.facts.set(key, value)
	if err != nil {
		return fmt.Errorf("cannot publish fact %q: %w", key, err)
	}
	g.broadcast(f)
	g.direct(encodeFact(f))
	return nil
}

// Facts returns the values of key by host, this host's included, of members
// that are alive or suspect.
func (g *Gossip) Facts(key string) map[string][]byte {
	out := g.facts.values(key)
	for host := range out {
		if host != g.o.Host && !(g.table.isLive(host) && g.o.Allowed(host)) {
			delete(out, host)
		}
	}
	return out
}

// Notify registers f to be called when a newer value of key arrives from
// another host, with an empty value if it was withdrawn. f must only enqueue:
// it runs on the path of the packets, and may be called from several
// goroutines.
func (g *Gossip) Notify(key string, f func(host string, value []byte)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.notify[key] = append(g.notify[key], f)
}

// arrived tells whoever asked about a newer fact of another host.
func (g *Gossip) arrived(f fact) {
	if f.key == leavingKey {
		g.table.goodbye(f.host, string(f.value))
	}
	g.mu.Lock()
	listeners := g.notify[f.key]
	g.mu.Unlock()
	for _, listener := range listeners {
		listener(f.host, append([]byte(nil), f.value...))
	}
}

// broadcast hands f to memberlist's gossip.
func (g *Gossip) broadcast(f fact) {
	g.queue.QueueBroadcast(&factBroadcast{name: f.host + "\x00" + f.key, message: encodeFact(f)})
	g.queue.Prune(broadcastMax)
}

// direct sends message at once to everybody, or to a few in a large cluster.
func (g *Gossip) direct(message []byte) {
	g.mu.Lock()
	list := g.list
	g.mu.Unlock()
	if list == nil {
		return
	}
	hosts := g.table.liveNames()
	if len(hosts) > directMax {
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		hosts = hosts[:directSome]
	}
	for _, host := range hosts {
		_ = list.SendToAddress(address(host), message) // only enqueues
	}
}

// address is how memberlist addresses a host.
func address(host string) memberlist.Address {
	return memberlist.Address{Addr: net.JoinHostPort(fixedIP, strconv.Itoa(fixedPort)), Name: host}
}

// Run takes part in gossip until ctx ends, then says goodbye, so that others
// see this host as left and not as dead. A Gossip runs once. Stop it before
// the Streams it uses.
func (g *Gossip) Run(ctx context.Context) error {
	g.mu.Lock()
	if g.ran {
		g.mu.Unlock()
		return errors.New("internal error: gossip run twice")
	}
	g.ran = true
	g.mu.Unlock()
	g.packets.start()
	list, err := memberlist.Create(g.config())
	if err != nil {
		_ = g.packets.Shutdown()
		return fmt.Errorf("cannot start gossip: %w", err)
	}
	g.mu.Lock()
	g.list = list
	g.mu.Unlock()
	if err := g.publish(startKey, []byte(g.o.Instance)); err != nil {
		g.log.Error("cannot announce this start", "err", err)
	}
	g.rejoin(ctx, list)
	g.Leave()
	g.mu.Lock()
	g.list = nil
	g.mu.Unlock()
	if err := list.Shutdown(); err != nil {
		return fmt.Errorf("cannot stop gossip: %w", err)
	}
	return nil
}

// Leave tells the others that this host goes; Run does it too when it ends. It
// waits until the word is out, for Timing.Leave at most.
func (g *Gossip) Leave() {
	g.mu.Lock()
	list, left := g.list, g.left
	if list != nil {
		g.left = true
	}
	g.mu.Unlock()
	if list == nil || left {
		return
	}
	if err := g.publish(leavingKey, []byte(g.o.Instance)); err != nil {
		g.log.Error("cannot announce leaving", "err", err)
	}
	if err := list.Leave(g.o.Timing.Leave); err != nil {
		g.log.Debug("others may take this host for dead", "err", err)
	}
	g.packets.drain(g.o.Timing.Leave)
}

func (g *Gossip) config() *memberlist.Config {
	t := g.o.Timing
	c := memberlist.DefaultLANConfig()
	c.Name = g.o.Host
	c.Transport = g.packets
	c.BindAddr, c.BindPort = fixedIP, fixedPort
	c.AdvertiseAddr, c.AdvertisePort = fixedIP, fixedPort
	c.ProtocolVersion = memberlist.ProtocolVersionMax
	c.TCPTimeout = t.StreamTimeout
	c.SuspicionMult = t.SuspicionMult
	c.RetransmitMult = retransmit
	c.PushPullInterval = t.FullExchange
	c.ProbeInterval, c.ProbeTimeout = t.ProbeInterval, t.ProbeTimeout
	c.GossipInterval, c.GossipNodes = t.GossipInterval, t.GossipHosts
	c.GossipToTheDeadTime = t.ForgetDead
	c.DeadNodeReclaimTime = t.ForgetDead
	c.DisableTcpPings = true
	c.EnableCompression = false
	c.RequireNodeNames = true
	c.UDPBufferSize = packetBytes
	d := &delegate{g: g}
	c.Delegate, c.Events, c.Alive, c.Ping = d, d, d, d
	c.Logger = bridge(g.log, g.table.suspect)
	return c
}
