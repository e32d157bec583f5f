package gossip

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/gitopsd/gitopsd/internal/transport"
)

const (
	packetProto = "gossip-packet/1" // frames of 2 bytes length and a packet
	stateProto  = "gossip-state/1"  // memberlist's own streams

	queueMax      = 64       // packets waiting for one peer; the oldest give way
	frameMax      = 65535    // bytes of a packet on the wire
	batchMax      = 64 << 10 // bytes written at once
	inboxMax      = 256      // received packets waiting
	statesAtOnce  = 16       // full exchanges others may have with us at once
	stateBytesMax = 32 << 20 // bytes read in one full exchange
	keepStreams   = 48       // members up to which idle streams are kept
	silenceMax    = 2 * time.Minute

	// memberlist wants an IP address of every node; ours are names, and this
	// stands in for all of them.
	fixedIP   = "127.0.0.1"
	fixedPort = 7946
)

// packets is memberlist's transport: its packets and streams over ours.
type packets struct {
	streams Streams
	self    string
	allowed func(string) bool
	live    func() int // members, this host included
	timing  Timing
	log     *slog.Logger
	inbox   chan *memberlist.Packet
	conns   chan net.Conn
	slots   chan struct{} // full exchanges being served

	mu      sync.Mutex
	ctx     context.Context // nil unless running
	cancel  context.CancelFunc
	queues  map[string]*queue
	pending int           // packets not yet written
	idle    chan struct{} // closed and renewed when pending falls to 0
	wg      sync.WaitGroup
}

// queue is what waits for one peer. Guarded by packets.mu.
type queue struct {
	packets [][]byte
	wake    chan struct{} // capacity 1
	writing bool          // a writer goroutine owns the queue
	retry   time.Time     // packets are dropped until then
}

var _ memberlist.NodeAwareTransport = (*packets)(nil)

func newPackets(s Streams, self string, allowed func(string) bool, live func() int, timing Timing, log *slog.Logger) *packets {
	p := &packets{
		streams: s, self: self, allowed: allowed, live: live, timing: timing, log: log,
		inbox:  make(chan *memberlist.Packet, inboxMax),
		conns:  make(chan net.Conn),
		slots:  make(chan struct{}, statesAtOnce),
		queues: map[string]*queue{},
		idle:   make(chan struct{}),
	}
	s.HandleStream(packetProto, p.servePackets)
	s.HandleStream(stateProto, p.serveState)
	return p
}

func (p *packets) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx, p.cancel = context.WithCancel(context.Background())
}

// running returns the context of this run, or false.
func (p *packets) running() (context.Context, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ctx, p.ctx != nil && p.ctx.Err() == nil
}

// FinalAdvertiseAddr returns the address that stands in for all.
func (p *packets) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.ParseIP(fixedIP).To4(), fixedPort, nil
}

// PacketCh is where received packets arrive.
func (p *packets) PacketCh() <-chan *memberlist.Packet { return p.inbox }

// StreamCh is where the others' full exchanges arrive.
func (p *packets) StreamCh() <-chan net.Conn { return p.conns }

var errNameless = errors.New("internal error: gossip addresses hosts by name only")

// WriteTo cannot work without a name.
func (p *packets) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errNameless }

// DialTimeout cannot work without a name.
func (p *packets) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNameless }

// WriteToAddress enqueues b for the host a.Name and never waits. Like a
// datagram it may be lost.
func (p *packets) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	now := time.Now()
	if len(b) > frameMax {
		return now, fmt.Errorf("internal error: gossip packet of %d bytes", len(b))
	}
	if a.Name == "" {
		return now, errNameless
	}
	if a.Name == p.self || !p.allowed(a.Name) {
		return now, nil // lost, as a datagram to nobody
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.ctx.Err() != nil {
		return now, nil
	}
	q := p.queues[a.Name]
	if q == nil {
		if len(p.queues) >= membersMax {
			return now, nil
		}
		q = &queue{wake: make(chan struct{}, 1)}
		p.queues[a.Name] = q
	}
	if now.Before(q.retry) {
		return now, nil
	}
	if len(q.packets) >= queueMax {
		q.packets = q.packets[1:]
		p.pending--
	}
	q.packets = append(q.packets, append([]byte(nil), b...))
	p.pending++
	if !q.writing {
		q.writing = true
		p.wg.Go(func() { p.write(p.ctx, a.Name, q) })
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return now, nil
}

// write sends what waits for host until nothing did for a while.
func (p *packets) write(ctx context.Context, host string, q *queue) {
	var s transport.Stream
	defer func() {
		if s != nil {
			s.Close()
		}
	}()
	for {
		batch, n := p.take(ctx, host, q)
		if n == 0 {
			return
		}
		if s == nil {
			var err error
			if s, err = p.open(ctx, host); err != nil {
				s = nil
				p.log.Debug("cannot reach a host for gossip", "host", host, "err", err)
				p.written(n)
				p.giveUp(host, q)
				return
			}
		}
		_ = s.SetWriteDeadline(time.Now().Add(p.timing.StreamTimeout))
		_, err := s.Write(batch)
		p.written(n)
		if err != nil {
			s.Close()
			s = nil
		}
	}
}

func (p *packets) open(ctx context.Context, host string) (transport.Stream, error) {
	dialCtx, cancel := context.WithTimeout(ctx, p.timing.DialTimeout)
	defer cancel()
	s, err := p.streams.DialStream(dialCtx, host, packetProto)
	if err != nil {
		return nil, err
	}
	// The peer never writes; a read returns when it is gone, and closing the
	// stream then makes the next write fail instead of vanishing.
	stop := context.AfterFunc(ctx, func() { s.Close() })
	p.wg.Go(func() {
		var b [1]byte
		_, _ = s.Read(b[:])
		stop()
		s.Close()
	})
	return s, nil
}

// take waits for packets and returns them framed, and how many they are; none
// when the stream should be closed.
func (p *packets) take(ctx context.Context, host string, q *queue) ([]byte, int) {
	timer := time.NewTimer(p.streamIdle())
	defer timer.Stop()
	for {
		p.mu.Lock()
		var batch []byte
		n := 0
		for n < len(q.packets) && len(batch)+2+len(q.packets[n]) <= batchMax+frameMax {
			batch = binary.BigEndian.AppendUint16(batch, uint16(len(q.packets[n])))
			batch = append(batch, q.packets[n]...)
			n++
			if len(batch) >= batchMax {
				break
			}
		}
		q.packets = q.packets[n:]
		if n > 0 {
			p.mu.Unlock()
			return batch, n
		}
		p.mu.Unlock()
		select {
		case <-q.wake:
		case <-timer.C:
			p.mu.Lock()
			if len(q.packets) == 0 {
				q.writing = false
				delete(p.queues, host)
				p.mu.Unlock()
				return nil, 0
			}
			p.mu.Unlock()
		case <-ctx.Done():
			return nil, 0
		}
	}
}

// streamIdle keeps streams long while all of them fit the pool of sessions. In
// a large cluster the next packet goes to somebody else anyway.
func (p *packets) streamIdle() time.Duration {
	if p.live() > keepStreams {
		return min(p.timing.StreamIdle, time.Second)
	}
	return p.timing.StreamIdle
}

// written counts n packets as sent or lost.
func (p *packets) written(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countLocked(n)
}

func (p *packets) countLocked(n int) {
	p.pending -= n
	if p.pending == 0 {
		close(p.idle)
		p.idle = make(chan struct{})
	}
}

// giveUp loses what waits for a host out of reach, and what comes within one
// gossip interval.
func (p *packets) giveUp(host string, q *queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countLocked(len(q.packets))
	q.packets = nil
	q.writing = false
	q.retry = time.Now().Add(p.timing.GossipInterval)
	if !p.allowed(host) {
		delete(p.queues, host)
	}
}

// drain waits until everything enqueued was written, for limit at most.
func (p *packets) drain(limit time.Duration) {
	p.mu.Lock()
	pending, idle := p.pending, p.idle
	p.mu.Unlock()
	if pending == 0 {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}

// DialAddressTimeout opens a stream for a full exchange.
func (p *packets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	runCtx, ok := p.running()
	if !ok {
		return nil, net.ErrClosed
	}
	if a.Name == "" {
		return nil, errNameless
	}
	ctx, cancel := context.WithTimeout(runCtx, min(timeout, p.timing.DialTimeout))
	defer cancel()
	s, err := p.streams.DialStream(ctx, a.Name, stateProto)
	if err != nil {
		return nil, err
	}
	return newStateConn(runCtx, s), nil
}

// Shutdown ends everything this transport started.
func (p *packets) Shutdown() error {
	p.mu.Lock()
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// servePackets takes a peer's packets.
func (p *packets) servePackets(ctx context.Context, s transport.Stream) {
	runCtx, ok := p.running()
	if !ok {
		return
	}
	stop := context.AfterFunc(runCtx, func() { s.Close() })
	defer stop()
	from := hostAddr(s.Peer().Host)
	r := bufio.NewReader(s)
	var head [2]byte
	for {
		_ = s.SetReadDeadline(time.Now().Add(silenceMax))
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		buf := make([]byte, binary.BigEndian.Uint16(head[:]))
		if len(buf) == 0 {
			continue
		}
		if _, err := io.ReadFull(r, buf); err != nil {
			return
		}
		select {
		case p.inbox <- &memberlist.Packet{Buf: buf, From: from, Timestamp: time.Now()}:
		case <-runCtx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// serveState hands a peer's full exchange to memberlist and waits for its end.
func (p *packets) serveState(ctx context.Context, s transport.Stream) {
	runCtx, ok := p.running()
	if !ok {
		return
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return
	}
	defer func() { <-p.slots }()
	c := newStateConn(runCtx, s)
	defer c.Close()
	select {
	case p.conns <- c:
	case <-runCtx.Done():
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	case <-runCtx.Done():
	}
}

// stateConn bounds what memberlist reads, and tells when it is done.
type stateConn struct {
	transport.Stream
	left int64
	once sync.Once
	done chan struct{}
	stop func() bool
}

func newStateConn(ctx context.Context, s transport.Stream) *stateConn {
	c := &stateConn{Stream: s, left: stateBytesMax, done: make(chan struct{})}
	c.stop = context.AfterFunc(ctx, func() { s.Close() })
	return c
}

// Read reads at most stateBytesMax in all.
func (c *stateConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("full exchange is larger than %d bytes", stateBytesMax)
	}
	if int64(len(b)) > c.left {
		b = b[:c.left]
	}
	n, err := c.Stream.Read(b)
	c.left -= int64(n)
	return n, err
}

// Close closes the stream.
func (c *stateConn) Close() error {
	c.once.Do(func() {
		c.stop()
		close(c.done)
	})
	return c.Stream.Close()
}

// hostAddr is a host's name where an address is wanted.
type hostAddr string

// Network names the transport.
func (hostAddr) Network() string { return "gitopsd" }

// String is the name.
func (a hostAddr) String() string { return string(a) }
