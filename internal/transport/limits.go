package transport

import (
	"io"
	"slices"
	"sync"
	"time"
)

// Bounds of one transport. They are generous for a fleet of a few thousand
// hosts and small against the memory of one.
const (
	handshakesMax        = 256              // TLS handshakes at once
	handshakesPerAddress = 32               // of them from one IP address
	connsMax             = 4096             // accepted connections, all hosts together
	connsPerHost         = 64               // accepted connections of one known host
	unknownConnsMax      = 16               // accepted connections of unknown keys
	unknownLifetime      = 10 * time.Minute // of a connection of an unknown key
	unknownPerSecond     = 2                // new connections of unknown keys, in the long run
	unknownBurst         = 10               // and at once
	streamsPerSession    = 128              // streams a peer may hold open on one session, either way
	pooledSessions       = 64               // above it idle sessions are closed, least recently used first
	sessionsMax          = 512              // dialled sessions, all of them in use
	listenerBacklog      = 32               // accepted connections that wait for one Listener
	learnedMax           = 8192             // addresses kept by SetAddress
	messageMaxBytes      = 256              // text of a hello or reply

	connectTimeout   = 5 * time.Second  // TCP connect to one address
	handshakeTimeout = 10 * time.Second // TLS handshake and hello, either side
	headerTimeout    = 10 * time.Second // stream header, and the reply to it
	deliverTimeout   = 5 * time.Second  // an accepted connection waits this long for its Listener
	writeTimeout     = 10 * time.Second // one yamux frame
	keepAlive        = 15 * time.Second // the dialler of a session pings this often
	silenceTimeout   = 50 * time.Second // the acceptor of a session gives up after such silence
	closeTimeout     = 30 * time.Second // of a stream closed on one side only
	sessionIdle      = 5 * time.Minute  // an unused pooled session is closed
	redialPause      = 250 * time.Millisecond
	housekeeping     = 30 * time.Second
	eventPause       = time.Minute // between two equal events about one host
	cloneGrace       = 5 * time.Second
)

// bucket is a token bucket.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time, perSecond, burst float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.last).Seconds()*perSecond)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// slots holds the handshakes under way. There is always room for one more: the
// one that has taken longest is given up for it. An honest handshake takes
// milliseconds, so those who say nothing pay for those who do, even if both come
// from one address.
type slots struct {
	mu         sync.Mutex
	all        int
	perAddress map[string][]io.Closer // in order of arrival
}

func newSlots() *slots { return &slots{perAddress: map[string][]io.Closer{}} }

// enter takes a handshake down. Beyond an address' share its own oldest is closed,
// beyond what all may have the oldest of the address that has most.
func (s *slots) enter(address string, c io.Closer) {
	s.mu.Lock()
	var old io.Closer
	switch {
	case len(s.perAddress[address]) >= handshakesPerAddress:
		old = s.popLocked(address)
	case s.all >= handshakesMax:
		most := ""
		for a, list := range s.perAddress {
			if len(list) > len(s.perAddress[most]) {
				most = a
			}
		}
		old = s.popLocked(most)
	}
	s.perAddress[address] = append(s.perAddress[address], c)
	s.all++
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

func (s *slots) popLocked(address string) io.Closer {
	old := s.perAddress[address][0]
	s.removeLocked(address, 0)
	return old
}

func (s *slots) removeLocked(address string, i int) {
	s.perAddress[address] = slices.Delete(s.perAddress[address], i, i+1)
	s.all--
	if len(s.perAddress[address]) == 0 {
		delete(s.perAddress, address)
	}
}

// leave forgets a handshake that has ended, unless it was given up before.
func (s *slots) leave(address string, c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.perAddress[address], c); i >= 0 {
		s.removeLocked(address, i)
	}
}
