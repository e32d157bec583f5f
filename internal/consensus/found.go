package consensus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// The birth of an epoch after the first. Exactly one host, the founder, makes
// it: the first of the listed voters in canonical order. All others start with
// an empty log and receive the state by raft itself.

const (
	// birthIndex is where the adopted state stands in the new log.
	birthIndex = 1
	// awayPatience and oldPatience, in heartbeat timeouts, are how long the
	// founder waits for voters of earlier epochs that do not answer, and for
	// those that do but have not left the old epoch yet.
	awayPatience = 10
	oldPatience  = 60
)

// founder is the voter that begins the epoch.
func (s SetSpec) founder() Voter {
	v, _ := ParseVoter(s.sorted()[0])
	return v
}

// source is a host that the founder asks.
type source struct {
	voter  Voter
	listed bool // in the new epoch; the others are asked while they are there
	offer  *offer
	err    error
}

// founding is the founder at work.
type founding struct {
	set     *Set
	sources []*source
	since   time.Time // when all listed voters had answered; zero before
}

// foundEpoch asks all listed voters, and those of earlier epochs, what they
// carry, and begins the epoch with the most advanced of it.
func (s *Set) foundEpoch(ctx context.Context, own *carried) error {
	f := &founding{set: s}
	for _, v := range s.spec.Voters {
		f.sources = append(f.sources, &source{voter: v, listed: true})
	}
	defer s.pend("")
	for ctx.Err() == nil && s.failedErr() == nil {
		if err := f.ask(ctx); err != nil {
			return err
		}
		f.widen()
		if best := f.choose(time.Now()); best != nil {
			machine, err := f.fetch(ctx, best, own)
			if err == nil {
				err = s.rep.try(machine)
			}
			if err == nil {
				return f.found(best, machine)
			}
			best.offer, best.err = nil, fmt.Errorf("cannot take over its state: %w", err)
		}
		s.pend(f.missing())
		select {
		case <-time.After(s.c.opt.Timing.Heartbeat / 2):
		case <-s.failed:
		case <-ctx.Done():
		}
	}
	return nil
}

// ask makes one round of those that have not answered yet.
func (f *founding) ask(ctx context.Context) error {
	s := f.set
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, src := range f.sources {
		if src.offer != nil {
			continue
		}
		if src.voter == s.self {
			o, err := s.offered()
			if err != nil {
				return err
			}
			src.offer = o
			continue
		}
		wg.Go(func() {
			src.err = s.withOffer(ctx, src.voter, func(_ Stream, o *offer) error {
				src.offer = o
				return nil
			})
		})
	}
	return nil
}

// withOffer calls f with what a host offers and the stream to fetch it by.
func (s *Set) withOffer(ctx context.Context, from Voter, f func(Stream, *offer) error) error {
	conn, err := s.dial(ctx, from, ProtocolAdopt, hello{})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(greetTimeout))
	kind, body, err := readFrame(conn, offerMax)
	if err != nil {
		return err
	}
	o, err := decodeOffer(body)
	switch {
	case err != nil:
		return err
	case kind != frameOffer:
		return fmt.Errorf("unexpected message of kind %q", kind)
	case o.at.epoch >= s.spec.Epoch || o.at.term > termMax || o.at.index >= 1<<epochShift:
		return fmt.Errorf("it offers the impossible state of %v", o.at)
	}
	return f(conn, o)
}

// widen adds the voters of earlier epochs that the answers tell of.
func (f *founding) widen() {
	for _, e := range f.electorates() {
		for _, line := range e.voters {
			v, err := ParseVoter(line)
			known := slices.ContainsFunc(f.sources, func(src *source) bool { return src.voter == v })
			if err == nil && !known && len(f.sources) < formerMax*votersMax {
				f.sources = append(f.sources, &source{voter: v, err: errors.New("not asked yet")})
			}
		}
	}
}

func (f *founding) electorates() []electorate {
	var all []electorate
	for _, src := range f.sources {
		if src.offer != nil && src.listed {
			all = append(all, src.offer.former...)
		}
	}
	return all
}

// choose gives the source of the state to adopt, or nil if it is too early.
func (f *founding) choose(now time.Time) *source {
	var best *source
	for _, src := range f.sources {
		if src.offer == nil {
			if src.listed {
				f.since = time.Time{}
				return nil
			}
			continue
		}
		if best == nil || src.offer.better(best.offer) {
			best = src
		}
	}
	if f.since.IsZero() {
		f.since = now
	}
	patience := time.Duration(awayPatience)
	for _, src := range f.sources {
		var r *refusal
		if src.offer == nil && errors.As(src.err, &r) {
			patience = oldPatience
		}
	}
	if f.complete(best.offer.at.epoch) || now.Sub(f.since) >= patience*f.set.c.opt.Timing.Heartbeat {
		return best
	}
	return nil
}

// better orders offers: states in doubt are for when there is nothing else.
func (o *offer) better(p *offer) bool {
	some, others := o.at.epoch != 0 && !o.doubt, p.at.epoch != 0 && !p.doubt
	if some != others {
		return some
	}
	return o.at.compare(p.at) > 0
}

// complete tells whether a majority of every electorate since epoch answered:
// then no acknowledged command can be missing.
func (f *founding) complete(epoch uint64) bool {
	for _, e := range f.electorates() {
		n := 0
		for _, src := range f.sources {
			if src.offer != nil && slices.Contains(e.voters, src.voter.String()) {
				n++
			}
		}
		if e.epoch >= epoch && n <= len(e.voters)/2 {
			return false
		}
	}
	return true
}

// missing says in one sentence what the epoch waits for.
func (f *founding) missing() string {
	s := f.set
	var listed, former []string
	for _, src := range f.sources {
		switch {
		case src.offer != nil:
		case src.listed:
			listed = append(listed, fmt.Sprintf("%s (%v)", src.voter, src.err))
		default:
			former = append(former, fmt.Sprintf("%s (%v)", src.voter, src.err))
		}
	}
	if len(listed) > 0 {
		return fmt.Sprintf("coordinator set %s: epoch %d has not begun, it needs an answer of each of its voters and waits for %s; list others under epoch %d if they are lost for good",
			s.spec.Name, s.spec.Epoch, strings.Join(listed, ", "), s.spec.Epoch+1)
	}
	return fmt.Sprintf("coordinator set %s: epoch %d has not begun, for a while it waits for voters of the epoch before: %s", s.spec.Name, s.spec.Epoch, strings.Join(former, ", "))
}

// fetch gets the state that is to be adopted.
func (f *founding) fetch(ctx context.Context, best *source, own *carried) ([]byte, error) {
	s := f.set
	if best.offer.at.epoch == 0 {
		st, err := s.rep.snapshot()
		return st.machine, err
	}
	if best.voter == s.self {
		return own.machine, nil
	}
	var machine []byte
	err := s.withOffer(ctx, best.voter, func(conn Stream, o *offer) error {
		if o.at != best.offer.at || o.doubt != best.offer.doubt || o.sum != best.offer.sum {
			return fmt.Errorf("it offered %v and now %v", best.offer.at, o.at)
		}
		if err := writeFrame(conn, frameFetch, nil); err != nil {
			return err
		}
		c, err := receiveCarried(conn)
		if err != nil {
			return err
		}
		if c.at != o.at || c.doubt != o.doubt || sha256.Sum256(c.machine) != o.sum {
			return errors.New("it sent another state than it offered")
		}
		machine = c.machine
		return nil
	})
	return machine, err
}

func receiveCarried(conn net.Conn) (*carried, error) {
	var in incoming
	for {
		conn.SetReadDeadline(time.Now().Add(greetTimeout))
		kind, body, err := readFrame(conn, frameMax)
		if err != nil {
			return nil, err
		}
		whole, err := in.take(kind, body)
		if err != nil {
			return nil, err
		}
		if whole != nil {
			return decodeCarried(whole)
		}
	}
}

// found begins the epoch. The snapshot is the moment: whatever was written
// before it is written again after a crash.
func (f *founding) found(best *source, machine []byte) error {
	s := f.set
	at := best.offer.at
	for _, src := range f.sources {
		if src.offer != nil && src.offer.at == at && src.offer.sum != best.offer.sum {
			s.report(fmt.Errorf("%w: %s and %s carry different states of %v, that of %[2]s is adopted", errDiverged, best.voter, src.voter, at))
		}
	}
	if err := s.keepCarried(&carried{at: at, doubt: best.offer.doubt, machine: machine}); err != nil {
		return err
	}
	term := uint64(1)
	for _, src := range f.sources {
		if src.offer != nil {
			term = max(term, src.offer.at.term+1)
		}
	}
	err := s.inStore(s.id, func(ss *setStore) error {
		if known, err := ss.GetUint64(keyTerm); err == nil {
			term = max(term, known)
		}
		return ss.SetUint64(keyTerm, term)
	})
	if err != nil {
		return err
	}
	snaps, err := s.c.openSnapshots(s.id)
	if err != nil {
		return err
	}
	k, err := snaps.Create(1, birthIndex, term, s.birth(), birthIndex, nil)
	if err != nil {
		return err
	}
	if err := (frozen{state{applied: birthIndex, term: term, machine: machine}}).Persist(k); err != nil {
		return err
	}
	if at.epoch == 0 {
		s.report(fmt.Errorf("coordinator set %s: epoch %d began empty, none of its voters nor any earlier one it could reach had a state of the set", s.spec.Name, s.spec.Epoch))
	}
	s.log.Info("began a new epoch", "set", s.spec.Name, "epoch", s.spec.Epoch, "state", at.String(), "from", best.voter.String(), "bytes", len(machine))
	return nil
}

var keyTerm = []byte("CurrentTerm") // raft's

// incoming puts a snapshot together.
type incoming struct {
	want uint64
	b    bytes.Buffer
}

// take adds one frame and gives the snapshot when it is whole.
func (in *incoming) take(kind byte, body []byte) (whole []byte, err error) {
	if kind == frameSnapshot {
		d := &decoder{b: body}
		in.want = d.uint()
		in.b.Reset()
		if err := d.done(); err != nil {
			return nil, err
		}
		if in.want == 0 || in.want > snapshotMax+snapshotSlack {
			return nil, fmt.Errorf("snapshot of %d bytes", in.want)
		}
		return nil, nil
	}
	if kind != frameChunk {
		return nil, fmt.Errorf("unexpected message of kind %q", kind)
	}
	if in.b.Write(body); uint64(in.b.Len()) > in.want || len(body) == 0 {
		return nil, fmt.Errorf("more of a snapshot than the %d bytes announced", in.want)
	}
	if uint64(in.b.Len()) < in.want {
		return nil, nil
	}
	whole = in.b.Bytes()
	in.b, in.want = bytes.Buffer{}, 0
	return whole, nil
}
