package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Figures of the dealing. Few bytes in flight at the origin make it quickly finished with; many leases a host make it even.
const (
	leaseMin     = 2 * time.Second        // a lease lasts at least so long, and three times what it should take
	leaseMax     = time.Minute            // and at most
	landedFor    = 5 * time.Second        // a piece that landed is not dealt again for so long: every host has heard of it by then
	adoptFor     = 5 * time.Second        // a new dealer believes for so long what hosts say that others are reading
	runMin       = 48 << 10               // bytes of one lease at least, where that much is missing together
	runMax       = 1 << 20                // and at most
	runTime      = 2 * time.Second        // and no more than a host reads in so long
	aheadTime    = time.Second            // a host is dealt no second lease beside as much as it reads of one lease in so long
	runsAtOnce   = 12                     // leases at a time over all hosts that read, but one a host
	runsPerHost  = 4                      // and of one host;
	readersMax   = 32                     // leases at a time over all hosts in any case
	enough       = 2                      // times so many hosts that ask: then one with runsPerHost leases whose pieces nobody got from it yet waits until somebody did
	slowStart    = 4                      // leases of runMin, or pieces if those are larger, are handed out before anything landed, and then as much as did: bytes that arrive everywhere at once are late everywhere;
	slowStartFor = 2 * time.Second        // but not for longer than this, and as many again whenever those that are out are stuck:
	stuckMin     = 250 * time.Millisecond // nothing came of a lease for so long,
	stuckTimes   = 3                      // and for so many times what leases take lately; its host may have no route
	evenFor      = 5 * time.Second        // as long, and as long as less than one in behindFrom pieces landed, nobody reads a lease more than all do on average
	activeFor    = 2 * time.Second        // of those that asked within this
	behindTimes  = 3                      // a host that has less than one in so many of the pieces that landed somewhere is behind, and reads only
	behindFor    = 2 * time.Second        // if no other was dealt any for so long, and for twice ReportEvery; but nobody is behind before
	behindFrom   = 4                      // one in so many pieces landed
	rateUnknown  = 1 << 20                // bytes in a second assumed of a host that has not read anything yet
	budgetShare  = 2                      // one part in two of the bundle may leave the origin twice,
	budgetMin    = 4 << 20                // bytes, but at least so much;
	trickleEvery = time.Minute            // once that is spent, so often
	trickleShare = 20                     // one part in twenty more, but at least one lease
	failMin      = 100 * time.Millisecond
	failMax      = 5 * time.Second  // a host whose read failed is not dealt anything for so long at most;
	failOften    = 2                // one that failed so often in a row, or once before it read anything, not for
	failLong     = 30 * time.Second // so long while others read
	probeAfter   = 3                // failures in a row before one host at a time tries the origin
	asideFor     = time.Minute      // a piece that two reads found wrong is left alone for so long
	wrongMax     = 2                // reads
	retryMin     = 50 * time.Millisecond
	retryMax     = time.Second
	hostsMax     = 8192 // hosts of one dealing
	reportMin    = time.Second
	reportMax    = 5 * time.Second  // hosts that see only a part of the others ask so often at least, even if they need nothing
	shownFor     = 3                // times that, a piece that one of them showed counts as being somewhere; no less than landedFor
	unheardMin   = time.Second      // what a host has that the asker does not hear is dealt again after so long, and after so many times what leases take
	unheardTimes = 5                // lately: then it would have come by way of others
	silentTimes  = 2                // times that without a question of the only host known to have it, at least landedFor, and it may be gone with it
	starvedFor   = 30 * time.Second // one that got nothing from others for so long is believed that nobody has what it does not see
)

// Request is what a host that can reach the origin says when it asks for a lease. Bits and pieces out of range are ignored.
type Request struct {
	Host    string
	Have    Bits     // its own pieces
	Seen    Bits     // pieces that hosts it trusts have
	Holding []int    // pieces it is reading from the origin now, whoever dealt them; what it does not name it does not read
	Others  []int    // pieces that other hosts say they are reading
	Wrong   []int    // pieces it read from the origin since it asked last whose bytes were not those of the index
	Failed  string   // why its last read failed; "" if none did since it asked last
	Read    int64    // bytes it read from the origin in this fetch, without those of the leases it holds
	Rate    int64    // bytes in a second it read from the origin lately; 0 for unknown
	Hosts   int      // live hosts in the swarm
	Partial bool     // Seen is not of all of them
	Unheard []string // of the others, those it does not hear now
}

// ReportEvery is how often a host whose Seen is partial asks at least, in a swarm of so many hosts.
func ReportEvery(hosts int) time.Duration {
	return min(max(time.Duration(hosts)*time.Millisecond, reportMin), reportMax)
}

// Lease is a run of neighbouring pieces to be read from the origin; empty when nothing is to be had now.
type Lease struct {
	Pieces []int
	For    time.Duration // how long it is the host's; what is not read by then is to be left
	Retry  time.Duration // when to ask again, if it is empty
	Why    string        // why it is empty
}

// holder is who reads a piece from the origin, until when.
type holder struct {
	host  string
	since time.Duration
	until time.Duration
	dealt bool // by this dealer; otherwise it was told of it
	again bool // it had landed before, and others may still have it
}

// account is what the dealer knows of one host.
type account struct {
	read     int64         // bytes it said it read, in this fetch of its
	lost     int64         // bytes of leases that ran out without a word
	failures int           // in a row
	failed   time.Duration // last
	rest     time.Duration
	alone    int64         // bytes that it read and nobody else was heard to have
	dealt    int           // pieces it has because they were dealt to it,
	got      int           // and others,
	asked    time.Duration // last
	granted  int64         // bytes of its leases,
	began    time.Duration // when it got the first
	brought  bool          // something of them landed
	behind   time.Duration // since when it is; 0 while it is not
	fed      time.Duration // whose number last changed then, or it saw any that it lacks
}

// Dealer deals the pieces of one bundle.
type Dealer struct {
	sizes  []int64
	total  int64
	had    Bits             // pieces that landed somewhere
	landed []time.Duration  // those are not dealt before then
	hadSum int64            // bytes of them
	dealt  Bits             // of them, those that landed because this dealer dealt them: the others were there, as is what a release has in common with the last one,
	sum    int64            // and their bytes
	alone  map[int]*account // of them, those that nobody but this host was heard to have; kept where hosts see only a part of the others
	leases map[int]holder
	by     map[int]string // who was the first to say that it has a piece, or was dealt it
	mine   Bits           // pieces that this dealer ever dealt: of those nobody else knows better who reads them
	wrong  map[int]int
	aside  map[int]time.Duration
	hosts  map[string]*account
	spent  int64         // bytes that left the origin, as far as hosts said, and those of lost leases
	first  time.Duration // of the first request
	asked  bool
	ahead  time.Duration // when a host that is not behind was dealt something last

	failures int           // in a row, of all hosts
	answered time.Duration // when the last lease landed; 0 before
	took     float64       // nanoseconds until something of a lease landed, lately; 0 for unknown
	probe    time.Duration
	reason   string // of the last failure, with its host

	extra   int64 // trickled
	trickle time.Duration
	dry     bool // the budget is spent
	spread  uint64

	forever bool // for tests: leases do not run out
}

// NewDealer returns a dealer for pieces of these sizes, in bytes.
func NewDealer(sizes []int64) *Dealer {
	d := &Dealer{sizes: sizes, had: NewBits(len(sizes)), dealt: NewBits(len(sizes)), mine: NewBits(len(sizes)), landed: make([]time.Duration, len(sizes)), alone: map[int]*account{}, leases: map[int]holder{}, by: map[int]string{}, wrong: map[int]int{}, aside: map[int]time.Duration{},
		hosts: map[string]*account{}}
	for _, n := range sizes {
		d.total += n
	}
	return d
}

// Deal answers a request. now only grows.
func (d *Dealer) Deal(r Request, now time.Duration) Lease {
	if !d.asked {
		d.asked, d.first = true, now
	}
	r.Hosts = min(max(r.Hosts, 1), hostsMax)
	a := d.hosts[r.Host]
	if a == nil {
		if len(d.hosts) >= hostsMax {
			return Lease{Why: "too many hosts ask for this bundle", Retry: retryMax}
		}
		a = &account{fed: now}
		d.hosts[r.Host] = a
	}
	a.asked = now
	d.hear(r, a, now)
	held, all := d.leased(r.Host)
	switch {
	case now < a.rest:
		return Lease{Why: "a read failed just now: " + d.reason, Retry: soon(a.rest - now)}
	case d.reachesNothing(a, now) && d.othersRead(a, now):
		return Lease{Why: "other hosts reach the origin and read it" + d.lastFailure(), Retry: d.again(r, retryMax)}
	case d.failures >= probeAfter && !d.answers(now) && all > 0:
		return Lease{Why: "the origin does not answer, one host at a time tries again: " + d.reason, Retry: d.again(r, 2*retryMin)}
	case d.failures >= probeAfter && !d.answers(now) && now < d.probe:
		return Lease{Why: "the origin does not answer, one host at a time tries again: " + d.reason, Retry: soon(d.probe - now)}
	case held >= d.share(r, all, now):
		return Lease{Why: "enough is on its way here already", Retry: d.again(r, retryMax)}
	case a.alone >= runsPerHost*d.runBytes(r.Hosts) && len(d.hosts) >= enough*readersMax:
		return Lease{Why: "others have to get first what this host read", Retry: d.again(r, retryMax)}
	case now-d.first < slowStartFor && d.underWay(now) >= slowStart*d.unit()+d.sum:
		return Lease{Why: "the first pieces are on their way to other hosts", Retry: d.again(r, retryMin)}
	case all > held && d.early(r, a, now):
		return Lease{Why: "others that began later read as much first", Retry: d.again(r, retryMin)}
	case d.behind(r, a, now):
		return Lease{Why: "hosts that have more of it read it first", Retry: d.again(r, retryMax)}
	case all >= readersMax*d.runBytes(r.Hosts):
		return Lease{Why: "enough is on its way to other hosts", Retry: d.again(r, retryMax)}
	}
	run := d.pick(r, a, now)
	if len(run) == 0 {
		return Lease{Why: d.whyNothing(now), Retry: d.again(r, d.next(now))}
	}
	if run = d.afford(run, all, now); len(run) == 0 {
		return Lease{Why: fmt.Sprintf("waiting for origin, budget spent: %d bytes left it for a bundle of %d%s", d.spent, d.total, d.lastFailure()), Retry: retryMax}
	}
	return d.grant(r, run, now)
}

// answers says whether the origin gave something to anybody lately: then those who cannot read it have no route, and hold up nobody else.
func (d *Dealer) answers(now time.Duration) bool { return d.answered > 0 && now-d.answered < failMax }

// reachesNothing says whether a host has shown that it hardly has a route to the origin: its reads failed, or its first brought nothing for long.
func (d *Dealer) reachesNothing(a *account, now time.Duration) bool {
	if !a.brought && a.granted > 0 && d.stuck(a.began, now) {
		return true
	}
	return (a.failures >= failOften || a.failures > 0 && !a.brought) && now-a.failed < failLong
}

// othersRead says whether a host may leave reading to others: one at least asks, and what it read lately landed. A piece dealt to a host without a route comes seconds late,
// since that tries for a while, and the last pieces are waited for by all.
func (d *Dealer) othersRead(a *account, now time.Duration) bool {
	for _, other := range d.hosts {
		if other != a && other.brought && d.reads(other, now) {
			return true
		}
	}
	return false
}

// stuck says whether a lease dealt at a time should have brought something by now. Before anything landed anywhere, nobody knows.
func (d *Dealer) stuck(since, now time.Duration) bool { return d.took > 0 && d.late(since, now) }

// late says so too, and supposes it before.
func (d *Dealer) late(since, now time.Duration) bool {
	return now-since >= max(stuckMin, stuckTimes*time.Duration(d.took))
}

// reads says whether a host takes part in reading: it asked lately, its last read did not fail, and its first lease, if it has one, brought something or is not stuck.
func (d *Dealer) reads(a *account, now time.Duration) bool {
	return now-a.asked < activeFor && a.failures == 0 && (a.brought || a.granted == 0 || !d.stuck(a.began, now))
}

// early says whether a host was dealt so much more than others, in the beginning, that those should read. Who begins first has its link for itself, reads fastest, and is
// asked by all: without this it would go on reading, and sending, more than the others, while they have nothing to give.
func (d *Dealer) early(r Request, a *account, now time.Duration) bool {
	wanted := len(d.sizes) - d.had.Count() + d.dealt.Count()
	if now-d.first >= evenFor || d.dealt.Count() >= wanted/behindFrom {
		return false
	}
	var sum, hosts int64
	for _, other := range d.hosts {
		if d.reads(other, now) {
			sum, hosts = sum+other.granted, hosts+1
		}
	}
	return a.granted*hosts >= sum+d.runBytes(r.Hosts)*hosts
}

// behind says whether a host has so much less than others that those should read: what it reads it would pass on late, since its link is slow, or full with what it
// lacks.
func (d *Dealer) behind(r Request, a *account, now time.Duration) bool {
	landed := d.had.Count()
	if landed < len(d.sizes)/behindFrom || behindTimes*r.Have.Count() >= landed {
		a.behind = 0
		return false
	}
	if a.behind == 0 {
		a.behind = now
	}
	return now-a.behind < starvedFor && now-d.ahead < max(behindFor, 2*ReportEvery(r.Hosts))
}

// unit is the least that is worth a lease: a piece on average, but not less than runMin.
func (d *Dealer) unit() int64 { return max(runMin, d.total/int64(len(d.sizes))) }

// underWay is how many bytes of leases that this dealer dealt have not landed, without those of hosts that brought nothing yet and should have: of four hosts that ask
// first all may have no route, and find out after seconds.
func (d *Dealer) underWay(now time.Duration) (sum int64) {
	for i, h := range d.leases {
		if a := d.hosts[h.host]; h.dealt && (a.brought || !d.late(h.since, now)) {
			sum += d.sizes[i]
		}
	}
	return sum
}

// again is when to ask again: later in a large swarm, where somebody else asks meanwhile.
func (d *Dealer) again(r Request, wait time.Duration) time.Duration {
	if !r.Partial {
		return wait
	}
	d.spread += 0x9e3779b97f4a7c15 // the golden ratio: those who were told at one moment come back one by one
	every := ReportEvery(r.Hosts)
	return every/8 + time.Duration(d.spread>>32*uint64(every)>>32)
}

// soon bounds when a host is to ask again.
func soon(wait time.Duration) time.Duration { return min(max(wait, retryMin), retryMax) }

// hear takes in what the host says, and ends the leases that are over.
func (d *Dealer) hear(r Request, a *account, now time.Duration) {
	r.Read = min(max(r.Read, 0), 1<<50)
	fresh := r.Read - a.read
	if fresh < 0 { // it began anew
		fresh = r.Read
	}
	d.spent = min(d.spent+fresh-a.lost, 1<<60)
	a.read, a.lost = r.Read, 0
	d.land(r, a, now)
	if r.Partial {
		d.show(r, a, now)
	}
	holding := map[int]bool{}
	for _, i := range r.Holding {
		holding[i] = true
	}
	for i, h := range d.leases {
		switch {
		case h.host == r.Host && !holding[i]:
			delete(d.leases, i)
		case now >= h.until && !d.forever:
			delete(d.leases, i)
			if lost := d.hosts[h.host]; lost != nil && h.host != r.Host {
				lost.lost += d.sizes[i]
				d.spent += d.sizes[i]
			}
		}
	}
	d.adopt(r.Host, r.Holding, now)
	if now-d.first < adoptFor {
		d.adopt("", r.Others, now)
	}
	d.hearFailure(r, a, now)
}

// land notes pieces that are somewhere for the first time.
func (d *Dealer) land(r Request, a *account, now time.Duration) {
	for k := range d.had {
		fresh := byteAt(r.Have, k) | byteAt(r.Seen, k)
		for fresh &^= d.had[k]; fresh != 0; fresh &= fresh - 1 {
			i := 8*k + lowest(fresh)
			if i >= len(d.sizes) {
				return
			}
			if l := d.leases[i]; l.again && l.host != r.Host { // its holder still reads it
				d.keep(i, now)
				continue
			}
			if r.Have.Has(i) {
				d.by[i] = r.Host
			}
			if d.leases[i].host == r.Host && r.Have.Has(i) {
				a.failures, d.failures, d.answered = 0, 0, now
				a.dealt++
				if r.Partial {
					d.alone[i] = a
					a.alone += d.sizes[i]
				}
			}
			if l := d.leases[i]; l.dealt { // others may tell of it before its holder does
				d.hosts[l.host].brought = true
				d.dealt.Set(i)
				d.by[i] = l.host
				d.sum += d.sizes[i]
				d.took = max(1, smooth(d.took, float64(now-l.since), 8))
			}
			delete(d.leases, i)
			d.keep(i, now)
		}
	}
}

// keep notes that a piece is somewhere.
func (d *Dealer) keep(i int, now time.Duration) {
	d.had.Set(i)
	d.landed[i] = now + landedFor
	d.hadSum += d.sizes[i]
}

// show keeps what the host has and sees from being dealt for a while, for the asker may see none of those who have it. A host that got nothing from others for long
// is believed all the same; so a host that claims to have everything delays the others, and does not stop them.
func (d *Dealer) show(r Request, a *account, now time.Duration) {
	until, food := now+max(shownFor*ReportEvery(r.Hosts), landedFor), false
	for k := range d.had {
		have, seen := byteAt(r.Have, k), byteAt(r.Seen, k)
		food = food || seen&^have != 0
		for shown := (have | seen) & d.had[k]; shown != 0; shown &= shown - 1 {
			i := 8*k + lowest(shown)
			d.landed[i] = max(d.landed[i], until)
		}
	}
	for i, by := range d.alone {
		if by != a && r.Have.Has(i) {
			d.accompany(i)
		}
	}
	if got := r.Have.Count() - a.dealt; food || got != a.got {
		a.got, a.fed = got, now
	}
}

// accompany notes that a piece is not at one host alone any more.
func (d *Dealer) accompany(i int) {
	if by := d.alone[i]; by != nil {
		by.alone -= d.sizes[i]
		delete(d.alone, i)
	}
}

// gone says whether the one host that was heard to have a piece has been silent for so long that it may be dead. Those who listen to it see the piece until they have
// noticed, and go on showing it; nobody but them could be asked for it, and all wait.
func (d *Dealer) gone(i int, r Request, now time.Duration) bool {
	by := d.alone[i]
	return by != nil && now-by.asked >= max(silentTimes*ReportEvery(r.Hosts), landedFor)
}

// unheard says whether a piece that landed is at a host that the asker does not hear, or may be if another dealer dealt it, for so long that it would have come by way of
// others. If that host is not dead, the asker reads a few pieces once more. Who does not hear most of the others is apart itself, and would read all once more.
func (d *Dealer) unheard(i int, r Request, now time.Duration) bool {
	at := d.landed[i] - landedFor
	if r.Partial || len(r.Unheard) == 0 || 2*len(r.Unheard) >= r.Hosts || now-at < max(unheardMin, unheardTimes*time.Duration(d.took)) {
		return false
	}
	by, known := d.by[i]
	return known && slices.Contains(r.Unheard, by) || !known && at-d.first < adoptFor
}

// starved says whether a host that sees only a part of the others has got nothing from them for long.
func (a *account) starved(r Request, now time.Duration) bool {
	return r.Partial && now-a.fed >= starvedFor
}

func byteAt(b Bits, k int) byte {
	if k >= len(b) {
		return 0
	}
	return b[k]
}

func lowest(b byte) int {
	i := 0
	for b&1 == 0 {
		b, i = b>>1, i+1
	}
	return i
}

// adopt counts pieces that somebody else dealt as leased. A host cannot keep more than a few leases that way.
func (d *Dealer) adopt(host string, pieces []int, now time.Duration) {
	var sum int64
	for _, i := range pieces {
		if i < 0 || i >= len(d.sizes) || d.had.Has(i) {
			continue
		}
		if sum += d.sizes[i]; host != "" && sum > runsPerHost*runMax+d.sizes[i] {
			return
		}
		if _, taken := d.leases[i]; !taken && (host != "" || !d.mine.Has(i)) { // what others say is late, and a lease that just ended would go on
			d.leases[i] = holder{host: host, until: now + leaseMin}
		}
	}
}

// hearFailure lets a host whose read failed rest, and notes pieces that the origin has wrong.
func (d *Dealer) hearFailure(r Request, a *account, now time.Duration) {
	for _, i := range r.Wrong {
		if i < 0 || i >= len(d.sizes) {
			continue
		}
		if d.wrong[i]++; d.wrong[i] >= wrongMax {
			d.aside[i], d.wrong[i] = now+asideFor, 0
		}
	}
	if r.Failed == "" {
		return
	}
	a.failures++
	a.failed = now
	d.failures++
	a.rest = now + min(failMin<<min(a.failures, 10), failMax)
	d.reason = r.Host + ": " + r.Failed
	if d.failures >= probeAfter {
		d.probe = now + min(failMin<<min(d.failures-probeAfter, 10), failMax)
	}
}

// leased is how many bytes a host and all hosts hold.
func (d *Dealer) leased(host string) (held, all int64) {
	for i, h := range d.leases {
		all += d.sizes[i]
		if h.host == host {
			held += d.sizes[i]
		}
	}
	return held, all
}

// share is how many bytes a host may hold: several leases while there is plenty and few read, one when little is left, so that all end together.
func (d *Dealer) share(r Request, all int64, now time.Duration) int64 {
	run, readers := d.runBytes(r.Hosts), d.readers(now)
	if d.total-d.hadSum-all <= int64(readers)*run {
		return 1
	}
	most := int64(min(max(runsAtOnce/readers, 1), runsPerHost)-1)*run + 1
	if r.Rate > 0 {
		most = min(most, r.Rate*int64(aheadTime/time.Second))
	}
	return most
}

// readers is how many hosts asked lately, and can read.
func (d *Dealer) readers(now time.Duration) int {
	n := 0
	for _, a := range d.hosts {
		if d.reads(a, now) {
			n++
		}
	}
	return max(n, 1)
}

// runBytes is the size of one lease: small enough that every host has many, large enough that requests cost little.
func (d *Dealer) runBytes(hosts int) int64 {
	return min(max((d.total-d.hadSum+d.sum)/int64(16*min(hosts, readersMax)), runMin), runMax)
}

// pick finds the first run of neighbouring pieces that nobody has and nobody reads.
func (d *Dealer) pick(r Request, a *account, now time.Duration) []int {
	most := d.runBytes(r.Hosts)
	if d.sum == 0 { // the first leases go to several hosts: any of them may have no route
		most = min(most, d.unit())
	}
	if r.Rate > 0 {
		most = min(most, max(runMin, min(r.Rate, runMax)*int64(runTime/time.Second)))
	}
	var run []int
	var size int64
	for i := range d.sizes {
		if !d.free(i, r, a, now) {
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

// free says whether a piece may be dealt to the asker.
func (d *Dealer) free(i int, r Request, a *account, now time.Duration) bool {
	if r.Have.Has(i) || r.Seen.Has(i) || d.had.Has(i) && now < d.landed[i] && !d.gone(i, r, now) && !a.starved(r, now) && !d.unheard(i, r, now) {
		return false
	}
	if _, taken := d.leases[i]; taken {
		return false
	}
	return now >= d.aside[i]
}

// afford cuts a run to what the budget allows. A spent budget grows by a trickle, so that the fleet comes through in the end.
func (d *Dealer) afford(run []int, leased int64, now time.Duration) []int {
	left := d.total + max(d.total/budgetShare, budgetMin) + d.extra - d.spent - leased
	n := 0
	for n < len(run) && d.sizes[run[n]] <= left {
		left -= d.sizes[run[n]]
		n++
	}
	if n > 0 {
		d.dry = false
		return run[:n]
	}
	if !d.dry {
		d.dry, d.trickle = true, now
	}
	if now-d.trickle >= trickleEvery {
		d.extra, d.trickle = d.extra+max(d.total/trickleShare, runMax)-min(left, 0), now
	}
	return nil
}

// grant makes a lease of a run.
func (d *Dealer) grant(r Request, run []int, now time.Duration) Lease {
	var size int64
	for _, i := range run {
		size += d.sizes[i]
	}
	rate := int64(rateUnknown)
	if r.Rate > 0 {
		rate = r.Rate
	}
	length := min(max(leaseMin, 3*time.Duration(float64(size)/float64(rate)*float64(time.Second))), leaseMax)
	for _, i := range run {
		d.leases[i] = holder{host: r.Host, since: now, until: now + length, dealt: true, again: d.had.Has(i)}
		d.mine.Set(i)
		if d.had.Has(i) {
			d.had.Clear(i)
			d.hadSum -= d.sizes[i]
			if d.dealt.Has(i) {
				d.dealt.Clear(i)
				d.sum -= d.sizes[i]
			}
			d.accompany(i)
			delete(d.by, i)
		}
		delete(d.aside, i)
	}
	if d.failures >= probeAfter {
		d.probe = now + min(failMin<<min(d.failures-probeAfter, 10), failMax)
	}
	a := d.hosts[r.Host]
	if a.granted == 0 {
		a.began = now
	}
	if a.granted += size; a.behind == 0 {
		d.ahead = now
	}
	return Lease{Pieces: run, For: length}
}

// next is when something may be there to deal.
func (d *Dealer) next(now time.Duration) time.Duration {
	wait := retryMax
	for _, h := range d.leases {
		wait = min(wait, h.until-now)
	}
	return soon(wait)
}

// lastFailure is the end of a sentence; "" where no read failed: bytes are also spent by hosts that keep nothing, or say too little.
func (d *Dealer) lastFailure() string {
	if d.reason == "" {
		return ""
	}
	return "; the last failure: " + d.reason
}

// whyNothing says why there is nothing to deal.
func (d *Dealer) whyNothing(now time.Duration) string {
	wrong := 0
	for _, until := range d.aside {
		if now < until {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Sprintf("the origin's bytes are not those of the index (%d pieces): %s", wrong, d.reason)
	}
	if len(d.leases) == 0 {
		return "every piece has left the origin"
	}
	var hosts []string
	for _, h := range d.leases {
		if h.host != "" && !slices.Contains(hosts, h.host) {
			hosts = append(hosts, h.host)
		}
	}
	slices.Sort(hosts)
	if len(hosts) > 3 {
		hosts = append(hosts[:3], "others")
	}
	if len(hosts) == 0 {
		hosts = []string{"other hosts"}
	}
	return fmt.Sprintf("the last %d pieces are on their way from the origin to %s", len(d.leases), strings.Join(hosts, ", "))
}
