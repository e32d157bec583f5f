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
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// leaseRequest asks the dealer for work at the origin. It carries what the dealer must know, so that a new dealer needs nothing from the old one.
type leaseRequest struct {
	Version int     `json:"version"`
	Host    string  `json:"host"`
	Index   bool    `json:"index,omitempty"` // may this host read the index (or, without one, the whole archive)?
	Sizes   []int64 `json:"sizes,omitempty"` // of the pieces; sent when the dealer asks for them
	Pieces  int     `json:"pieces,omitempty"`
	Have    []byte  `json:"have,omitempty"`
	Seen    []byte  `json:"seen,omitempty"`
	Holding []int   `json:"holding,omitempty"`
	Failed  []int   `json:"failed,omitempty"`
	Rate    int64   `json:"rate,omitempty"`
	Hosts   int     `json:"hosts,omitempty"`
}

// leaseAnswer is the dealer's.
type leaseAnswer struct {
	Pieces    []int         `json:"pieces,omitempty"`
	For       time.Duration `json:"for,omitempty"`
	Why       string        `json:"why,omitempty"`
	NeedSizes bool          `json:"needSizes,omitempty"`
	Index     bool          `json:"index,omitempty"` // yes, read the index
}

// Bounds of a lease request.
const (
	leaseVersion   = 1
	piecesMax      = 1 << 20
	indexLease     = 10 * time.Second // to read an index
	archiveLeaseBy = 1 << 20          // bytes in a second at which a whole archive is expected to be read
	originPause    = 200 * time.Millisecond
	originRestMax  = 5 * time.Second
)

// dealing is one bundle this host deals.
type dealing struct {
	mu      sync.Mutex
	dealer  *plan.Dealer
	pieces  int
	start   time.Time
	indexBy string
	indexTo time.Time
}

// requester is who asks: the identity the connection proved, where there is one.
func requester(r *http.Request, claimed string) string {
	if peer, ok := transport.PeerFromContext(r.Context()); ok && peer.Host != "" {
		return peer.Host
	}
	return claimed
}

// deal answers one request as dealer.
func (s *Swarm) deal(digest bundle.Digest, q leaseRequest) (leaseAnswer, error) {
	if q.Version != leaseVersion {
		return leaseAnswer{}, fmt.Errorf("lease requests of version %d are not known here, only of version %d", q.Version, leaseVersion)
	}
	d := s.dealing(digest)
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if q.Index {
		if d.indexBy != "" && d.indexBy != q.Host && now.Before(d.indexTo) {
			return leaseAnswer{Why: d.indexBy + " reads it from the origin"}, nil
		}
		d.indexBy, d.indexTo = q.Host, now.Add(indexLease+time.Duration(q.Rate)*time.Second)
		return leaseAnswer{Index: true}, nil
	}
	if d.dealer == nil || d.pieces != q.Pieces {
		if len(q.Sizes) == 0 || len(q.Sizes) != q.Pieces || len(q.Sizes) > piecesMax {
			return leaseAnswer{NeedSizes: true}, nil
		}
		d.dealer, d.pieces, d.start = plan.NewDealer(q.Sizes), q.Pieces, now
	}
	lease := d.dealer.Deal(plan.Request{Host: q.Host, Have: q.Have, Seen: q.Seen, Holding: q.Holding, Failed: q.Failed, Rate: q.Rate, Hosts: q.Hosts}, now.Sub(d.start))
	return leaseAnswer{Pieces: lease.Pieces, For: lease.For, Why: lease.Why}, nil
}

// dealing finds or makes the dealing of a bundle.
func (s *Swarm) dealing(digest bundle.Digest) *dealing {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dealings[digest]
	if d == nil {
		if len(s.dealings) >= exchangesMax {
			s.dealings = map[bundle.Digest]*dealing{}
		}
		d = &dealing{}
		s.dealings[digest] = d
	}
	return d
}

// dealerHost is who deals this bundle now: the leader; without one for a while, the first live member by rendezvous; "" to wait.
func (x *exchange) dealerHost() string {
	if host := x.job.Dealer(); host != "" && time.Since(x.quietSince()) < dealerPatience {
		return host
	}
	members := x.job.Members()
	if len(members) == 1 && members[0] == x.s.o.Host {
		return x.s.o.Host
	}
	if time.Since(x.quietSince()) < dealerPatience {
		return ""
	}
	best, bestRank := "", uint64(0)
	for _, host := range members {
		h := fnv.New64a()
		_, _ = io.WriteString(h, string(x.digest)+"\x00"+host)
		if rank := h.Sum64(); best == "" || rank > bestRank || rank == bestRank && host < best {
			best, bestRank = host, rank
		}
	}
	return best
}

// quietSince is when a dealer last answered.
func (x *exchange) quietSince() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.noDealer
}

// askLease asks the dealer.
func (x *exchange) askLease(ctx context.Context, q leaseRequest) (leaseAnswer, error) {
	host := x.dealerHost()
	if host == "" {
		return leaseAnswer{}, errors.New("waiting for the coordinator set's leader to deal the pieces")
	}
	q.Version, q.Host = leaseVersion, x.s.o.Host
	answer, err := x.askDealer(ctx, host, q)
	if err == nil && answer.NeedSizes {
		q.Sizes = x.sizes
		answer, err = x.askDealer(ctx, host, q)
	}
	if err != nil {
		return leaseAnswer{}, fmt.Errorf("cannot ask %s which pieces to read: %w", host, err)
	}
	x.mu.Lock()
	x.noDealer = time.Now()
	x.mu.Unlock()
	return answer, nil
}

// askDealer asks one host, which may be this one.
func (x *exchange) askDealer(ctx context.Context, host string, q leaseRequest) (leaseAnswer, error) {
	if host == x.s.o.Host {
		return x.s.deal(x.digest, q)
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return leaseAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+"/v1/swarm/"+x.digest.Hex()+"/lease", bytes.NewReader(body))
	if err != nil {
		return leaseAnswer{}, err
	}
	resp, err := x.s.o.Client.Do(req)
	if err != nil {
		return leaseAnswer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, requestBytesMax))
	if err != nil {
		return leaseAnswer{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return leaseAnswer{}, fmt.Errorf("%s: %.200s", resp.Status, text)
	}
	var answer leaseAnswer
	return answer, json.Unmarshal(text, &answer)
}

// readOrigin asks for leases and reads them, one after the other, until there is nothing to read for this host.
func (x *exchange) readOrigin(ctx context.Context) {
	defer func() {
		x.mu.Lock()
		x.reading = false
		x.mu.Unlock()
	}()
	rest := originPause
	for ctx.Err() == nil && x.partial.Missing() > 0 {
		changed := x.changed.wait()
		answer, err := x.askLease(ctx, x.leaseQuestion())
		if err == nil && len(answer.Pieces) > 0 {
			if err = x.readLease(ctx, answer.Pieces); err == nil {
				rest = originPause
				continue
			}
		}
		x.waitsFor(answer, err)
		if err != nil {
			rest = min(2*rest, originRestMax)
			changed = nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(rest):
		}
	}
}

// waitsFor notes why nothing is read.
func (x *exchange) waitsFor(answer leaseAnswer, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err != nil:
		x.why = err.Error()
	case answer.Why != "":
		x.why = answer.Why
	}
}

// leaseQuestion says what this host has, knows and holds.
func (x *exchange) leaseQuestion() leaseRequest {
	have := x.partial.Have()
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := make(plan.Bits, len(have))
	for host, p := range x.peers {
		if x.suspects[host] == "" {
			seen.Or(p.have)
		}
	}
	q := leaseRequest{Pieces: len(x.sizes), Have: have, Seen: seen, Holding: slices.Clone(x.holding), Failed: x.failed, Rate: x.rate, Hosts: len(x.peers) + 1}
	x.failed = nil
	return q
}

// readLease reads a run of pieces from the origin with one request.
func (x *exchange) readLease(ctx context.Context, pieces []int) error {
	for n, i := range pieces {
		if i < 0 || i >= len(x.sizes) || n > 0 && i != pieces[n-1]+1 {
			return errors.New("the dealer named pieces that are not neighbours of this bundle")
		}
	}
	x.mu.Lock()
	x.holding = slices.Clone(pieces)
	for _, i := range pieces {
		x.flying[i] = true
	}
	x.mu.Unlock()
	done, err := x.readPieces(ctx, pieces)
	x.mu.Lock()
	x.holding = nil
	x.failed = append(x.failed, pieces[done:]...)
	for _, i := range pieces {
		delete(x.flying, i)
	}
	x.mu.Unlock()
	x.changed.notify()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", x.job.Where, err)
	}
	return nil
}

// readPieces keeps piece after piece of a run and says how many it kept.
func (x *exchange) readPieces(ctx context.Context, pieces []int) (int, error) {
	first, last := x.index.Piece(pieces[0]), x.index.Piece(pieces[len(pieces)-1])
	begin := time.Now()
	body, err := x.job.Origin.ReadRange(ctx, first.Offset, last.Offset+int64(last.Size)-first.Offset)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	var read int64
	for n, i := range pieces {
		data := make([]byte, x.sizes[i])
		if err := take(ctx, x.s.down, len(data)); err != nil {
			return n, err
		}
		if _, err := io.ReadFull(body, data); err != nil {
			return n, err
		}
		read += int64(len(data))
		x.mu.Lock()
		x.fromOrigin += int64(len(data))
		x.mu.Unlock()
		if err := x.keep(i, data); err != nil {
			return n, fmt.Errorf("the origin's bytes are not what the index promises: %w", err)
		}
	}
	x.mu.Lock()
	x.rate = int64(float64(read) / max(time.Since(begin).Seconds(), 0.001))
	x.mu.Unlock()
	return len(pieces), nil
}
