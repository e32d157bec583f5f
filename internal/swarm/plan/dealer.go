package plan

import (
	"fmt"
	"time"
)

// Figures of the dealing; reference: binomial distribution of pieces needs little in flight at the origin, and few holders to be finished quickly.
const (
	leaseMin      = 2 * time.Second // a lease lasts at least so long, and three times what it should take
	leasesPerHost = 2               // at a time
	runMin        = 128 << 10       // bytes of one lease at least, where that much is missing together
	runMax        = 1 << 20         // and at most
	rateUnknown   = 1 << 20         // bytes in a second assumed of a host that has not read anything yet
	budgetSlack   = 50              // percent of the bundle that may be dealt again after failures; a lost holder's pieces count here
)

// Bits says which pieces somebody has. Beyond its end nothing is had.
type Bits []byte

// Has says whether bit i is set.
func (b Bits) Has(i int) bool { return i >= 0 && i/8 < len(b) && b[i/8]&(1<<(i%8)) != 0 }

// Or sets every bit of other that b has room for.
func (b Bits) Or(other Bits) {
	for i := range min(len(b), len(other)) {
		b[i] |= other[i]
	}
}

// Request is what a host that can reach the origin says when it asks for a lease.
type Request struct {
	Host    string
	Have    Bits  // its own pieces
	Seen    Bits  // pieces it knows some live host to have
	Holding []int // pieces it is reading from the origin now, whoever dealt them
	Failed  []int // pieces it gave up since it asked last
	Rate    int64 // bytes in a second it read from the origin lately; 0 for unknown
	Hosts   int   // live hosts in the swarm
}

// Lease is a run of neighbouring pieces to be read from the origin; empty when nothing is to be had now.
type Lease struct {
	Pieces []int
	For    time.Duration
	Why    string // why it is empty
	Spent  bool   // the budget is used up
}

// holder is who reads a piece from the origin, until when.
type holder struct {
	host  string
	until time.Duration
}

// Dealer deals the pieces of one bundle.
type Dealer struct {
	sizes  []int64
	total  int64
	had    Bits
	leases map[int]holder
	dealt  map[int]bool // dealt at least once, so that dealing again costs budget
	again  int64        // bytes dealt again
}

// NewDealer returns a dealer for pieces of these sizes, in bytes.
func NewDealer(sizes []int64) *Dealer {
	d := &Dealer{sizes: sizes, had: make(Bits, (len(sizes)+7)/8), leases: map[int]holder{}, dealt: map[int]bool{}}
	for _, n := range sizes {
		d.total += n
	}
	return d
}

// Deal answers a request. now only grows.
func (d *Dealer) Deal(r Request, now time.Duration) Lease {
	d.hear(r, now)
	held := 0
	for _, h := range d.leases {
		if h.host == r.Host {
			held++
		}
	}
	if held >= leasesPerHost*d.runPieces(r.Hosts) {
		return Lease{Why: "enough is on its way here already"}
	}
	run := d.pick(r)
	if len(run) == 0 {
		return Lease{Why: d.whyNothing()}
	}
	if cost := d.costAgain(run); d.again+cost > d.total*budgetSlack/100 && cost > 0 {
		return Lease{Spent: true, Why: fmt.Sprintf("waiting for origin, budget spent: %d bytes of %d were dealt again after failures", d.again, d.total)}
	}
	return d.grant(r, run, now)
}

// hear takes in what the host says, and forgets leases that ran out.
func (d *Dealer) hear(r Request, now time.Duration) {
	d.had.Or(r.Have)
	d.had.Or(r.Seen)
	for _, i := range r.Failed {
		if d.leases[i].host == r.Host {
			delete(d.leases, i)
		}
	}
	for i, h := range d.leases {
		if now >= h.until || d.had.Has(i) {
			delete(d.leases, i)
		}
	}
	for _, i := range r.Holding {
		if i < 0 || i >= len(d.sizes) || d.had.Has(i) {
			continue
		}
		if _, taken := d.leases[i]; !taken {
			d.leases[i] = holder{host: r.Host, until: now + leaseMin}
			d.dealt[i] = true
		}
	}
}

// pick finds the first run of neighbouring pieces that nobody has and nobody reads. Each host starts looking at a place of its own, so that what hosts read first is
// spread over the bundle.
func (d *Dealer) pick(r Request) []int {
	most := d.runBytes(r.Hosts)
	var run []int
	var size int64
	for i := range d.sizes {
		_, taken := d.leases[i]
		if taken || d.had.Has(i) || r.Have.Has(i) {
			if len(run) > 0 {
				break
			}
			continue
		}
		if len(run) > 0 && size+d.sizes[i] > most {
			break
		}
		run, size = append(run, i), size+d.sizes[i]
	}
	return run
}

// runBytes is the size of one lease: small enough that every host has many, large enough that requests cost little.
func (d *Dealer) runBytes(hosts int) int64 {
	return min(max(d.total/int64(16*max(1, hosts)), runMin), runMax)
}

// runPieces is how many pieces a lease has, roughly, for counting what a host holds.
func (d *Dealer) runPieces(hosts int) int {
	if len(d.sizes) == 0 {
		return 1
	}
	mean := max(1, d.total/int64(len(d.sizes)))
	return int(max(1, d.runBytes(hosts)/mean))
}

// costAgain is how many bytes of a run were dealt before.
func (d *Dealer) costAgain(run []int) int64 {
	var n int64
	for _, i := range run {
		if d.dealt[i] {
			n += d.sizes[i]
		}
	}
	return n
}

// grant makes a lease of a run.
func (d *Dealer) grant(r Request, run []int, now time.Duration) Lease {
	var size int64
	for _, i := range run {
		size += d.sizes[i]
	}
	rate := r.Rate
	if rate <= 0 {
		rate = rateUnknown
	}
	length := max(leaseMin, 3*time.Duration(size*int64(time.Second)/rate))
	d.again += d.costAgain(run)
	for _, i := range run {
		d.leases[i] = holder{host: r.Host, until: now + length}
		d.dealt[i] = true
	}
	return Lease{Pieces: run, For: length}
}

// whyNothing says why there is nothing to deal.
func (d *Dealer) whyNothing() string {
	if len(d.leases) > 0 {
		return fmt.Sprintf("the last %d pieces are on their way from the origin to other hosts", len(d.leases))
	}
	return "every piece has left the origin"
}
