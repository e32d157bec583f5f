package transport

import (
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

// slots counts handshakes under way, in all and per address.
type slots struct {
	all        chan struct{}
	mu         sync.Mutex
	perAddress map[string]int
}

func newSlots() *slots {
	return &slots{all: make(chan struct{}, handshakesMax), perAddress: map[string]int{}}
}

// enter refuses a crowd from one address and waits for room otherwise.
func (s *slots) enter(address string, stop <-chan struct{}) bool {
	s.mu.Lock()
	if s.perAddress[address] >= handshakesPerAddress {
		s.mu.Unlock()
		return false
	}
	s.perAddress[address]++
	s.mu.Unlock()
	select {
	case s.all <- struct{}{}:
		return true
	case <-stop:
		s.forget(address)
		return false
	}
}

func (s *slots) leave(address string) {
	<-s.all
	s.forget(address)
}

func (s *slots) forget(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perAddress[address]--; s.perAddress[address] <= 0 {
		delete(s.perAddress, address)
	}
}
