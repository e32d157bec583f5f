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
	Host    string        `json:"host"`             // believed only where the connection proves none
	Realm   string        `json:"realm,omitempty"`  // with whom it shares what it reads, as it knows
	Index   bundle.Digest `json:"index,omitempty"`  // of the index that pieces are counted by; "": may this host read the index, or the whole archive?
	Pinned  bool          `json:"pinned,omitempty"` // the index alone, which git pins
	Renew   bool          `json:"renew,omitempty"`  // it still reads, as it was told to
	GiveUp  bool          `json:"giveUp,omitempty"`
	Done    bool          `json:"done,omitempty"` // its turn to read is over, and it has what it read
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
	Unheard []string      `json:"unheard,omitempty"` // of its peers, those it does not hear now
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
	leaseBytesMax = 2 << 20         // a request or an answer
	unheardMax    = 64              // hosts that one request names as not heard
	dealingsMax   = 64              // bundles dealt at a time; the one asked about longest ago goes first
	dealtMax      = 4 << 20         // pieces of them together
	receiveMax    = 2               // indexes received at a time
	dealingIdle   = 5 * time.Minute // a dealing nobody asked about for so long begins anew, with its budget
	openedMax     = 8               // dealings that one host brought and no other asked about, and
	openedPieces  = dealtMax / 4    // pieces of them; its own go first
	indexLease    = 6 * time.Second // to read an index, or to say that the archive is still being read
	indexRenew    = 2 * time.Second // how often it is said
	indexTries    = 3               // hosts that got nothing are followed by the next after indexSoon;
	indexSoon     = 50 * time.Millisecond
	indexRest     = 500 * time.Millisecond // after it was given up otherwise, nobody gets it for so long, doubling,
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
	by     string    // who brought the index, as long as nobody else asked; guarded by the desk
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

// open makes a dealing, unless there is one. by is the host that brought the index; "" for this one.
func (d *desk) open(digest bundle.Digest, index *bundle.Index, realm, by string, now time.Time) {
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
	d.dealings[key] = &dealing{dealer: plan.NewDealer(sizes), pieces: len(sizes), start: now, asked: now, by: by}
	own := func(one *dealing) bool { return by != "" && one.by == by }
	for d.more(own, openedMax, openedPieces) && d.drop(key, own) {
	}
	single := func(one *dealing) bool { return one.by != "" }
	all := func(*dealing) bool { return true }
	for d.more(all, dealingsMax, dealtMax) && (d.drop(key, single) || d.drop(key, all)) {
	}
}

// more says whether some dealings are more than so many, or have more pieces. The lock is held.
func (d *desk) more(which func(*dealing) bool, dealings, pieces int) bool {
	for _, one := range d.dealings {
		if which(one) {
			dealings--
			pieces -= one.pieces
		}
	}
	return dealings < 0 || pieces < 0
}

// drop takes away the one of some dealings that was asked about longest ago, but not the newest; false where there is none. The lock is held.
func (d *desk) drop(newest dealingKey, which func(*dealing) bool) bool {
	var oldest dealingKey
	for k, one := range d.dealings {
		if k != newest && which(one) && (oldest.digest == "" || one.asked.Before(d.dealings[oldest].asked)) {
			oldest = k
		}
	}
	delete(d.dealings, oldest)
	return oldest.digest != ""
}

// find returns a dealing that is in use, or nil. One that a second host asks about belongs to nobody alone.
func (d *desk) find(key dealingKey, host string, now time.Time) *dealing {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.dealings[key]
	if one == nil || now.Sub(one.asked) >= dealingIdle {
		return nil
	}
	one.asked = now
	if one.by != host {
		one.by = ""
	}
	return one
}

// requester is who asks: the identity the connection proved, where there is one.
func requester(r *http.Request, claimed string) string {
	if peer, ok := transport.PeerFromContext(r.Context()); ok && peer.Host != "" {
		return peer.Host
	}
	return plain(claimed, saysMax)
}

// sharing says in words what a realm means.
func sharing(realm string) string {
	if realm == "" {
		return "shares the copy of all sites"
	}
	return "is in site " + plain(realm, saysMax) + ", which reads its own copy"
}

// deal answers one request as dealer.
func (s *Swarm) deal(digest bundle.Digest, q leaseRequest) (leaseAnswer, error) {
	if q.Version != leaseVersion {
		return leaseAnswer{}, fmt.Errorf("lease requests of version %d are not known here, only of version %d", q.Version, leaseVersion)
	}
	now, realm := time.Now(), s.site(q.Host).realm()
	if q.Realm != realm { // either is behind by a commit; each would count what is read in another place
		return leaseAnswer{}, fmt.Errorf("cannot deal pieces to %s: it says that it %s, as far as this host knows it %s", plain(q.Host, saysMax), sharing(q.Realm), sharing(realm))
	}
	if q.Index == "" {
		return s.desk.scout(scoutKey{digest, realm}, q, now), nil
	}
	key := dealingKey{digest, q.Index, realm}
	d := s.desk.find(key, q.Host, now)
	if d == nil {
		if h := s.holdingOf(digest); h.index == nil || h.index.Digest() != q.Index {
			return leaseAnswer{Version: leaseVersion, NeedIndex: true}, nil
		} else {
			s.desk.open(digest, h.index, realm, "", now)
		}
		if d = s.desk.find(key, q.Host, now); d == nil {
			return leaseAnswer{Version: leaseVersion, NeedIndex: true}, nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	lease := d.dealer.Deal(plan.Request{Host: q.Host, Have: q.Have, Seen: q.Seen, Holding: q.Holding, Others: q.Others, Wrong: q.Wrong, Failed: plain(q.Failed, saysMax),
		Read: q.Read, Rate: q.Rate, Hosts: q.Hosts, Partial: q.Partial, Unheard: q.Unheard[:min(len(q.Unheard), unheardMax)]}, now.Sub(d.start))
	return leaseAnswer{Version: leaseVersion, Pieces: lease.Pieces, For: lease.For.Milliseconds(), Retry: lease.Retry.Milliseconds(), Why: lease.Why}, nil
}
