package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// Figures of asking the dealer.
const (
	dealerPatience = 5 * time.Second        // without an answer of the leader before another dealer is agreed on
	dealerProbe    = 15 * time.Second       // how often the leader is tried all the same
	dealerAvoid    = 10 * time.Second       // another that did not answer is left out for so long
	askPauseMin    = 100 * time.Millisecond // after a question that failed
	askPauseMax    = time.Second
	askWaitMax     = 6 * time.Second // a dealer may ask for as much patience
	leaseLongest   = 2 * time.Minute
	leaseLargest   = 8 << 20 // bytes, but one piece at least
)

// deskView is what an exchange knows of dealers.
type deskView struct {
	leader string
	quiet  time.Time // since when the leader does not answer, or there is none; zero while it does
	probed time.Time
	avoid  map[string]time.Time
}

// dealerHost is who deals this bundle now: the leader; without one that answers for a while, the first live member by rendezvous; "" to wait.
func (x *exchange) dealerHost(now time.Time) string {
	leader, members := x.leader(), append(x.members(), x.s.o.Host)
	x.mu.Lock()
	defer x.mu.Unlock()
	d := &x.desk
	if leader != d.leader {
		if d.leader = leader; leader != "" {
			d.quiet = time.Time{}
		} else {
			d.quiet = now
		}
	}
	impatient := !d.quiet.IsZero() && now.Sub(d.quiet) >= dealerPatience
	switch {
	case leader != "" && !impatient:
		return leader
	case len(members) == 1:
		return members[0]
	case !impatient:
		return ""
	case leader != "" && now.Sub(d.probed) >= dealerProbe:
		if first := d.probed.IsZero(); !first {
			d.probed = now
			return leader
		}
		d.probed = now
	}
	return x.rendezvous(members, now)
}

// rendezvous is the member whose name and the bundle's digest hash highest, among those that answer. The lock is held.
func (x *exchange) rendezvous(members []string, now time.Time) string {
	best, rank := "", uint64(0)
	for _, host := range members {
		if now.Before(x.desk.avoid[host]) {
			continue
		}
		h := fnv.New64a()
		_, _ = io.WriteString(h, string(x.digest)+"\x00"+host)
		if sum := h.Sum64(); best == "" || sum > rank || sum == rank && host < best {
			best, rank = host, sum
		}
	}
	return best
}

// answered notes whether a dealer answered.
func (x *exchange) answered(host string, ok bool, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := &x.desk
	switch {
	case ok:
		delete(d.avoid, host)
	default:
		d.avoid[host] = now.Add(dealerAvoid) // the leader too: it may live, refuse, and be first by rendezvous
	}
	switch {
	case host == d.leader && ok:
		d.quiet = time.Time{}
	case host == d.leader && d.quiet.IsZero():
		d.quiet = now
	}
}

// askLease asks the dealer, and gives it the index if it has none.
func (x *exchange) askLease(ctx context.Context, q leaseRequest) (leaseAnswer, error) {
	host := x.dealerHost(time.Now())
	if host == "" {
		return leaseAnswer{}, errors.New("waiting for the coordinator set's leader to deal the pieces")
	}
	q.Version, q.Host, q.Realm = leaseVersion, x.s.o.Host, x.s.site(x.s.o.Host).realm()
	answer, err := x.askDealer(ctx, host, q)
	if err == nil && answer.NeedIndex && x.index != nil {
		if err = x.tellIndex(ctx, host); err == nil {
			answer, err = x.askDealer(ctx, host, q)
		}
	}
	if ctx.Err() != nil {
		return leaseAnswer{}, ctx.Err()
	}
	x.answered(host, err == nil, time.Now())
	if err == nil && answer.NeedIndex {
		err = errors.New("it asks for the index again and again")
	}
	if err != nil {
		return leaseAnswer{}, fmt.Errorf("cannot ask %s which pieces to read: %w", host, err)
	}
	answer.Why = plain(answer.Why, saysMax)
	return answer, nil
}

// askDealer asks one host, which may be this one.
func (x *exchange) askDealer(ctx context.Context, host string, q leaseRequest) (leaseAnswer, error) {
	if host == x.s.o.Host {
		return x.s.deal(x.digest, q)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return leaseAnswer{}, err
	}
	text, err := x.post(ctx, host, "lease", body, askTimeout)
	if err != nil {
		return leaseAnswer{}, err
	}
	var answer leaseAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		return leaseAnswer{}, err
	}
	if answer.Version != leaseVersion {
		return leaseAnswer{}, fmt.Errorf("it answers in version %d, this host knows version %d", answer.Version, leaseVersion)
	}
	return answer, nil
}

// tellIndex gives the dealer the index.
func (x *exchange) tellIndex(ctx context.Context, host string) error {
	encoded := x.index.Encode()
	_, err := x.post(ctx, host, "dealing", encoded, askTimeout+time.Duration(len(encoded)>>18)*time.Second)
	return err
}

// post sends a body to another host.
func (x *exchange) post(ctx context.Context, host, path string, body []byte, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := x.s.ask(ctx, http.MethodPost, host, x.digest.Hex()+"/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, leaseBytesMax))
}

// readOrigin asks for leases, one question at a time, and reads each in a goroutine of its own; how many at once is the dealer's choice.
func (x *exchange) readOrigin(ctx context.Context) {
	pause, pace := askPauseMin, time.NewTicker(tick)
	defer pace.Stop()
	for ctx.Err() == nil {
		changed := x.changed.wait()
		origin, where := x.origin()
		if origin == nil || !x.needsOrigin() && !x.reports() {
			select {
			case <-ctx.Done():
			case <-changed:
			case <-x.soonHeard():
			case <-pace.C:
			}
			continue
		}
		question, held := x.leaseQuestion()
		answer, err := x.askLease(ctx, question)
		if err == nil {
			x.toldDealer(question)
			err = x.checkLease(answer)
		}
		if err == nil && len(answer.Pieces) > 0 {
			pause = askPauseMin
			x.hold(answer.Pieces)
			x.pulls.Go(func() { x.readLease(ctx, origin, where, answer) })
			continue
		}
		wait := min(max(time.Duration(answer.Retry)*time.Millisecond, askPauseMin/2), askWaitMax)
		if err != nil {
			answer.Why, wait, pause = err.Error(), pause, min(2*pause, askPauseMax)
		}
		if ctx.Err() == nil && x.needsOrigin() {
			x.because(answer.Why)
		}
		x.waitLease(ctx, held, wait)
	}
}

// waitLease waits until it is time to ask again, or a lease ended since held were being read, or nothing needs asking any more.
func (x *exchange) waitLease(ctx context.Context, held int, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := x.changed.wait()
		if x.held() != held || !x.needsOrigin() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-changed:
		}
	}
}

// held counts the leases being read.
func (x *exchange) held() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.holding)
}

// needsOrigin says whether a missing piece is at no peer and not on its way. Every peer is heard first, so that a late joiner costs the origin nothing; those that
// do not answer are waited for only briefly.
func (x *exchange) needsOrigin() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.picker.Orphans() > 0 && x.heardEnough()
}

// reports says whether it is time to tell the dealer what is where all the same, because nobody listens to everybody.
func (x *exchange) reports() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.partialView() && x.since()-x.asked >= plan.ReportEvery(len(x.drawn)+1)
}

// partialView says whether this host listens to a part of the members only. The lock is held.
func (x *exchange) partialView() bool { return len(x.graph.Near)+len(x.graph.Far) < len(x.drawn) }

// heardEnough says whether every known peer has told what it has, or was given time to. The lock is held.
func (x *exchange) heardEnough() bool {
	if x.since() >= hearFirst {
		return true
	}
	for _, p := range x.peers {
		if !p.heard {
			return false
		}
	}
	return true
}

// soonHeard fires once peers that do not answer have been waited for; nil after that.
func (x *exchange) soonHeard() <-chan time.Time {
	if left := hearFirst - x.since(); left > 0 {
		return time.After(left)
	}
	return nil
}

// leaseQuestion says what this host has, knows and holds, as of one moment, and how many leases that are: a piece that is written between two looks would be in neither,
// and dealt again.
func (x *exchange) leaseQuestion() (q leaseRequest, held int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	have := plan.Bits(x.partial.Have())
	have.Or(x.reusing) // nobody need read those for this host
	x.asked = x.since()
	q = leaseRequest{Index: x.index.Digest(), Have: have, Seen: x.picker.Seen(), Holding: slices.Concat(x.holding...), Wrong: slices.Clone(x.wrong), Failed: x.failed,
		Read: x.landed, Rate: x.rate, Hosts: len(x.drawn) + 1, Partial: x.partialView()}
	for host, p := range x.peers {
		if p.heard && !p.live && len(q.Unheard) < unheardMax {
			q.Unheard = append(q.Unheard, host)
		}
		if !x.barred(host) && p.live && p.view.index == q.Index && len(q.Others) < newsListMax {
			q.Others = append(q.Others, p.view.state.Reading...)
		}
	}
	return q, len(x.holding)
}

// toldDealer forgets what the dealer knows now.
func (x *exchange) toldDealer(q leaseRequest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wrong = x.wrong[min(len(q.Wrong), len(x.wrong)):]
	if x.failed == q.Failed {
		x.failed = ""
	}
}

// checkLease refuses a lease that is none.
func (x *exchange) checkLease(answer leaseAnswer) error {
	var size int64
	for n, i := range answer.Pieces {
		if i < 0 || i >= len(x.sizes) || n > 0 && i != answer.Pieces[n-1]+1 {
			return errors.New("the dealer named pieces that are not neighbours in this bundle")
		}
		if size += x.sizes[i]; n > 0 && size > leaseLargest {
			return errors.New("the dealer named more pieces than fit a lease")
		}
	}
	return nil
}

// hold notes a lease.
func (x *exchange) hold(pieces []int) {
	x.mu.Lock()
	x.holding = append(x.holding, pieces)
	x.picker.Hold(pieces, x.since())
	x.mu.Unlock()
	x.tell()
}

// readLease reads a run of pieces with one request, for as long as the lease lasts.
func (x *exchange) readLease(ctx context.Context, origin Origin, where string, lease leaseAnswer) {
	begin := time.Now()
	limit := min(max(time.Duration(lease.For)*time.Millisecond, time.Second), leaseLongest)
	reading, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it gave too little in %v", limit))
	defer cancel()
	read, wrong, err := x.readPieces(reading, origin, lease.Pieces)
	x.mu.Lock()
	x.holding = slices.DeleteFunc(x.holding, func(run []int) bool { return run[0] == lease.Pieces[0] })
	x.picker.Unhold(lease.Pieces)
	x.landed += read
	if read > 0 {
		x.rate = max(1, int64(float64(read)/max(time.Since(begin).Seconds(), 0.001)))
	}
	if wrong >= 0 && len(x.wrong) < newsListMax {
		x.wrong = append(x.wrong, wrong)
	}
	if err != nil && ctx.Err() == nil {
		x.failed = plain(named("cannot read "+where, err).Error(), saysMax)
		x.why = x.failed
		x.astray++
	}
	x.mu.Unlock()
	x.tell()
}

// named puts before an error what could not be done, unless the origin has said that itself.
func named(what string, err error) error {
	var origin interface{ Place() string }
	if errors.As(err, &origin) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readPieces keeps piece after piece of a run. It returns how many bytes left the origin, and the piece whose bytes were wrong, or -1.
func (x *exchange) readPieces(ctx context.Context, origin Origin, pieces []int) (read int64, wrong int, err error) {
	first, last := x.index.Piece(pieces[0]), x.index.Piece(pieces[len(pieces)-1])
	ctx, w := watch(ctx, originIdle, errSilent)
	defer w.end()
	body, err := origin.ReadRange(ctx, first.Offset, last.Offset+int64(last.Size)-first.Offset)
	if err != nil {
		return 0, -1, because(ctx, err)
	}
	defer body.Close()
	source := &meter{ctx: ctx, r: body, w: w, limit: x.s.down, note: func(n int) {
		read += int64(n)
		x.countOrigin(n)
	}}
	buf := x.s.buffers.take()
	defer func() { x.s.buffers.give(buf) }()
	for _, i := range pieces {
		data := sized(buf, x.sizes[i])
		buf = data
		if _, err := io.ReadFull(source, data); err != nil {
			return read, -1, because(ctx, err)
		}
		if err := x.keep(i, data); errors.Is(err, store.ErrMismatch) {
			return read, i, fmt.Errorf("its bytes are not what the index promises: %w", x.index.Verify(i, data))
		} else if err != nil {
			return read, -1, err
		}
	}
	return read, -1, nil
}

// countOrigin counts bytes that came from the origin.
func (x *exchange) countOrigin(n int) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fromOrigin += int64(n)
	x.flow.add(n, now.Sub(x.started))
	x.lastMove = now
}
