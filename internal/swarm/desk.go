package swarm

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// leaseRequest asks the dealer for work at the origin. It carries what the dealer must know, so that a new dealer needs nothing from the old one.
type leaseRequest struct {
	Version int           `json:"version"`
	Host    string        `json:"host"`            // believed only where the connection proves none
	Index   bundle.Digest `json:"index,omitempty"` // of the index that pieces are counted by; "": may this host read the index, or the whole archive?
	GiveUp  bool          `json:"giveUp,omitempty"`
	Have    []byte        `json:"have,omitempty"`
	Seen    []byte        `json:"seen,omitempty"`
	Holding []int         `json:"holding,omitempty"`
	Others  []int         `json:"others,omitempty"`
	Wrong   []int         `json:"wrong,omitempty"`
	Failed  string        `json:"failed,omitempty"`
	Read    int64         `json:"read,omitempty"`
	Of      int64         `json:"of,omitempty"` // bytes of the bundle, where an archive was given up
	Rate    int64         `json:"rate,omitempty"`
	Hosts   int           `json:"hosts,omitempty"`
	Partial bool          `json:"partial,omitempty"` // seen is not of all of them
}

// leaseAnswer is the dealer's. Times are in milliseconds.
type leaseAnswer struct {
	Version   int    `json:"version"`
	Pieces    []int  `json:"pieces,omitempty"`
	For       int64  `json:"for,omitempty"`
	Retry     int64  `json:"retry,omitempty"`
	Why       string `json:"why,omitempty"`
	NeedIndex bool   `json:"needIndex,omitempty"`
	Yes       bool   `json:"yes,omitempty"` // read the index
}

// Bounds of the dealing.
const (
	leaseVersion  = 1
	leaseBytesMax = 2 << 20                // a request or an answer
	dealingsMax   = 64                     // bundles dealt at a time; the one asked about longest ago goes first
	dealtMax      = 4 << 20                // pieces of them together
	receiveMax    = 2                      // indexes received at a time
	dealingIdle   = 5 * time.Minute        // a dealing nobody asked about for so long begins anew, with its budget
	indexLease    = 6 * time.Second        // to read an index, or to say that the archive is still being read
	indexRenew    = 2 * time.Second        // how often it is said
	indexRest     = 500 * time.Millisecond // after it was given up, nobody gets it for so long, doubling,
	indexRestMax  = 5 * time.Second        // to at most this,
	indexRestOut  = 10 * time.Minute       // unless half of the bundle, and more than wastedMin, was read for nothing
	wastedMin     = 4 << 20                // bytes
)

// desk is where this host deals.
type desk struct {
	mu       sync.Mutex
	dealings map[dealingKey]*dealing
	scouts   map[scoutKey]*scouting
	slots    chan struct{}
}

// dealingKey tells apart what is counted by different indexes, and who reads copies of their own.
type dealingKey struct {
	digest, index bundle.Digest
	realm         string
}

// scoutKey tells apart what is read once.
type scoutKey struct {
	digest bundle.Digest
	realm  string
}

// dealing is one bundle's pieces.
type dealing struct {
	mu     sync.Mutex
	dealer *plan.Dealer
	pieces int
	start  time.Time
	asked  time.Time // guarded by the desk
}

// scouting is who reads the index of a bundle, or the whole of it.
type scouting struct {
	host   string
	until  time.Time
	asked  time.Time
	rest   time.Time // nobody before
	last   string    // who gave it up last; another host goes first
	tries  int
	wasted int64  // bytes
	spent  bool   // too many
	reason string // why the last read failed, with its host
}

func newDesk() desk {
	return desk{dealings: map[dealingKey]*dealing{}, scouts: map[scoutKey]*scouting{}, slots: make(chan struct{}, receiveMax)}
}

// receive takes one of few slots to receive an index.
func (d *desk) receive() bool {
	select {
	case d.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (d *desk) received() { <-d.slots }

// open makes a dealing, unless there is one.
func (d *desk) open(digest bundle.Digest, index *bundle.Index, realm string, now time.Time) {
	key := dealingKey{digest, index.Digest(), realm}
	sizes := make([]int64, index.Len())
	for i := range sizes {
		sizes[i] = int64(index.Piece(i).Size)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.dealings[key]; old != nil && now.Sub(old.asked) < dealingIdle {
		return
	}
	d.dealings[key] = &dealing{dealer: plan.NewDealer(sizes), pieces: len(sizes), start: now, asked: now}
	for d.tooMany() {
		var oldest dealingKey
		for k, one := range d.dealings {
			if k != key && (oldest.digest == "" || one.asked.Before(d.dealings[oldest].asked)) {
				oldest = k
			}
		}
		if oldest.digest == "" {
			return
		}
		delete(d.dealings, oldest)
	}
}

// tooMany says whether a dealing must go. The lock is held.
func (d *desk) tooMany() bool {
	pieces := 0
	for _, one := range d.dealings {
		pieces += one.pieces
	}
	return len(d.dealings) > dealingsMax || pieces > dealtMax
}

// find returns a dealing that is in use, or nil.
func (d *desk) find(key dealingKey, now time.Time) *dealing {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.dealings[key]
	if one == nil || now.Sub(one.asked) >= dealingIdle {
		return nil
	}
	one.asked = now
	return one
}

// requester is who asks: the identity the connection proved, where there is one.
func requester(r *http.Request, claimed string) string {
	if peer, ok := transport.PeerFromContext(r.Context()); ok && peer.Host != "" {
		return peer.Host
	}
	return plain(claimed, saysMax)
}

// deal answers one request as dealer.
func (s *Swarm) deal(digest bundle.Digest, q leaseRequest) (leaseAnswer, error) {
	if q.Version != leaseVersion {
		return leaseAnswer{}, fmt.Errorf("lease requests of version %d are not known here, only of version %d", q.Version, leaseVersion)
	}
	now, realm := time.Now(), s.site(q.Host).realm()
	if q.Index == "" {
		return s.desk.scout(scoutKey{digest, realm}, q, now), nil
	}
	key := dealingKey{digest, q.Index, realm}
	d := s.desk.find(key, now)
	if d == nil {
		if h := s.holdingOf(digest); h.index == nil || h.index.Digest() != q.Index {
			return leaseAnswer{Version: leaseVersion, NeedIndex: true}, nil
		} else {
			s.desk.open(digest, h.index, realm, now)
		}
		if d = s.desk.find(key, now); d == nil {
			return leaseAnswer{Version: leaseVersion, NeedIndex: true}, nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	lease := d.dealer.Deal(plan.Request{Host: q.Host, Have: q.Have, Seen: q.Seen, Holding: q.Holding, Others: q.Others, Wrong: q.Wrong, Failed: plain(q.Failed, saysMax),
		Read: q.Read, Rate: q.Rate, Hosts: q.Hosts, Partial: q.Partial}, now.Sub(d.start))
	return leaseAnswer{Version: leaseVersion, Pieces: lease.Pieces, For: lease.For.Milliseconds(), Retry: lease.Retry.Milliseconds(), Why: lease.Why}, nil
}

// scout says whether a host may read the index. Only one does; it says again and again that it is still at it.
func (d *desk) scout(key scoutKey, q leaseRequest, now time.Time) leaseAnswer {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.scouts[key]
	if one == nil || now.Sub(one.asked) >= dealingIdle {
		for k, old := range d.scouts {
			if len(d.scouts) >= dealingsMax && now.Sub(old.asked) >= indexLease {
				delete(d.scouts, k)
			}
		}
		if one == nil && len(d.scouts) >= dealingsMax {
			return leaseAnswer{Version: leaseVersion, Why: "too many bundles are read at once", Retry: time.Second.Milliseconds()}
		}
		one = &scouting{}
		d.scouts[key] = one
	}
	one.asked = now
	taken := one.host != "" && one.host != q.Host && now.Before(one.until)
	switch {
	case q.GiveUp && one.host == q.Host:
		one.giveUp(q, now)
		return leaseAnswer{Version: leaseVersion}
	case q.GiveUp:
		return leaseAnswer{Version: leaseVersion}
	case taken:
		return leaseAnswer{Version: leaseVersion, Why: one.host + " reads its index from the origin" + one.before(), Retry: time.Second.Milliseconds()}
	}
	rest := one.rest
	if one.last == q.Host {
		rest = rest.Add(time.Second)
	}
	if one.host != q.Host && now.Before(rest) {
		why := "waiting to read its index from the origin again"
		if one.spent {
			why = fmt.Sprintf("waiting for origin, budget spent: %d bytes left it for nothing", one.wasted)
		}
		return leaseAnswer{Version: leaseVersion, Why: why + one.before(), Retry: rest.Sub(now).Milliseconds()}
	}
	one.host, one.until = q.Host, now.Add(indexLease)
	return leaseAnswer{Version: leaseVersion, Yes: true, For: indexLease.Milliseconds()}
}

// before tells why the last read of the index failed, if one did.
func (s *scouting) before() string {
	if s.reason == "" {
		return ""
	}
	return "; the last failure: " + s.reason
}

// giveUp lets the origin rest after a read that failed, for long once too much was read for nothing.
func (s *scouting) giveUp(q leaseRequest, now time.Time) {
	s.host, s.last, s.reason = "", q.Host, q.Host+": "+plain(q.Failed, saysMax)
	s.wasted += min(max(q.Read, 0), bundle.MaxArchiveBytes)
	rest := min(indexRest<<min(s.tries, 8), indexRestMax)
	if s.spent = s.wasted > max(wastedMin, q.Of/2); s.spent {
		rest = indexRestOut
	}
	s.tries, s.rest = s.tries+1, now.Add(rest)
}
