package consensus

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// helloVersion is the version of everything that follows on a stream.
const helloVersion = 1

const (
	helloMax     = 4 << 10
	messageMax   = 512 // of a refusal
	greetTimeout = 10 * time.Second
)

// Frame kinds of the greeting.
const (
	frameHello   = 'h'
	frameWelcome = 'w'
	frameRefuse  = 'n'
	frameSoon    = 'y' // the other side is about to vote, without a problem
	framePassing = 'p' // a refusal that will pass by itself
	frameLost    = 'l' // a refusal: the greeting voter's store is not the one it had
)

// hello opens every stream: which cluster is meant, from whom to whom.
type hello struct {
	cluster clusterID
	set     string // with epoch: only to explain a wrong cluster
	epoch   uint64
	from    Voter
	to      Voter
	life    life // of a voter that greets

	// For the observe protocol.
	follow bool   // send entries
	fresh  bool   // begin with a snapshot
	index  uint64 // raft index and term of the last entry applied
	term   uint64
}

// life tells which store a voter has and how far that has come. It changes, or
// goes back, only if the store was lost or restored from a backup.
type life struct {
	birth  uint64 // random, made with the store
	starts uint64
	run    uint64 // random, made with every start
	term   uint64
}

const lifeMax = 4 * binary.MaxVarintLen64

func (l life) encode() []byte {
	return appendUint(appendUint(appendUint(appendUint(nil, l.birth), l.starts), l.run), l.term)
}

func decodeLife(b []byte) (life, error) {
	d := &decoder{b: b}
	l := life{birth: d.uint(), starts: d.uint(), run: d.uint(), term: d.uint()}
	return l, d.done()
}

// forgot tells whether a voter that was known by one life and now shows another
// forgot something in between. The terms of one run do not count: two of its
// greetings may overtake each other on their way.
func (l life) forgot(known life) bool {
	switch {
	case l.birth != known.birth || l.starts < known.starts:
		return true
	case l.starts == known.starts:
		return l.run != known.run // a backup, started as often as the store it replaced
	}
	return l.term < known.term
}

func (h hello) encode() []byte {
	b := appendUint(nil, helloVersion)
	b = appendBytes(b, h.cluster[:])
	b = appendString(b, h.set)
	b = appendUint(b, h.epoch)
	for _, part := range []string{h.from.Host, h.from.Storage, h.to.Host, h.to.Storage} {
		b = appendString(b, part)
	}
	b = appendBytes(b, h.life.encode())
	b = appendBool(b, h.follow)
	b = appendBool(b, h.fresh)
	b = appendUint(b, h.index)
	return appendUint(b, h.term)
}

func decodeHello(b []byte) (hello, error) {
	d := &decoder{b: b}
	if v := d.uint(); d.err == nil && v != helloVersion {
		return hello{}, fmt.Errorf("greeting has version %d, this program knows %d", v, helloVersion)
	}
	var h hello
	id := d.bytes(len(h.cluster))
	if len(id) != len(h.cluster) {
		d.fail(errShort)
	}
	copy(h.cluster[:], id)
	h.set = d.string(nameMaxLen)
	h.epoch = d.uint()
	h.from = Voter{Host: d.string(nameMaxLen), Storage: d.string(nameMaxLen)}
	h.to = Voter{Host: d.string(nameMaxLen), Storage: d.string(nameMaxLen)}
	var err error
	if h.life, err = decodeLife(d.bytes(lifeMax)); err != nil {
		d.fail(err)
	}
	h.follow, h.fresh = d.bool(), d.bool()
	h.index, h.term = d.uint(), d.uint()
	if err := d.done(); err != nil {
		return hello{}, fmt.Errorf("cannot read greeting: %w", err)
	}
	return h, nil
}

// refusal is a reason, the other side's or ours, for not talking with a voter.
type refusal struct {
	peer, reason string
	lost         bool // the peer's store is not the one it had
	passing      bool // it will pass by itself
}

func (r *refusal) Error() string { return r.peer + " refused: " + r.reason }

// dial opens a stream of the set to a voter and greets it.
func (s *Set) dial(ctx context.Context, to Voter, protocol string, h hello) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	conn, err := s.c.opt.Streams.DialStream(ctx, to.Host, protocol)
	if err != nil {
		s.unheard(to.Host)
		return nil, fmt.Errorf("cannot reach voter %s: %w", to.Host, err)
	}
	h.cluster, h.set, h.epoch, h.from, h.to, h.life = s.id, s.spec.Name, s.spec.Epoch, s.self, to, s.life()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = s.shake(conn, to, protocol, h)
	if protocol != ProtocolAdopt { // the founder says itself who is missing
		s.note(to.Host, err)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot greet voter %s: %w", to.Host, err)
	}
	if !stop() {
		return nil, fmt.Errorf("cannot greet voter %s: %w", to.Host, ctx.Err())
	}
	return conn, nil
}

func (s *Set) shake(conn Stream, to Voter, protocol string, h hello) error {
	if peer := conn.Peer().Host; peer != to.Host {
		return fmt.Errorf("%s answered", peer)
	}
	if err := writeFrame(conn, frameHello, h.encode()); err != nil {
		return err
	}
	kind, body, err := readFrame(conn, helloMax)
	if err != nil {
		return err
	}
	switch kind {
	case frameWelcome:
		w, err := decodeWelcome(body)
		if err != nil || protocol == ProtocolAdopt { // raft does not run yet, there or here
			return err
		}
		return s.meet(to, w)
	case frameSoon:
		return errStarting
	case frameLost:
		reason := string(body[:min(len(body), messageMax)])
		s.disown(to, reason)
		return &refusal{peer: to.Host, reason: reason}
	case frameRefuse, framePassing:
		return &refusal{peer: to.Host, reason: string(body[:min(len(body), messageMax)]), passing: kind == framePassing}
	}
	return fmt.Errorf("unexpected answer of kind %q", kind)
}

// greet reads the greeting of an accepted stream and finds the set it is for.
// The stream is refused with a reason, and closed, if it is for nobody here.
func (c *Consensus) greet(conn Stream, protocol string) (*Set, hello, error) {
	conn.SetDeadline(time.Now().Add(greetTimeout))
	kind, body, err := readFrame(conn, helloMax)
	if err != nil {
		conn.Close()
		return nil, hello{}, err
	}
	h, err := decodeHello(body)
	if err == nil && kind != frameHello {
		err = fmt.Errorf("unexpected greeting of kind %q", kind)
	}
	var s *Set
	if err == nil {
		s, err = c.admit(conn.Peer().Host, protocol, h)
	}
	if err != nil {
		reason := err.Error()
		answer := byte(frameRefuse)
		var r *refusal
		switch {
		case errors.As(err, &r) && r.lost:
			answer = frameLost
		case errors.Is(err, errStarting):
			answer = frameSoon
		case errors.As(err, new(*absence)):
			answer = framePassing
		}
		writeFrame(conn, answer, []byte(reason[:min(len(reason), messageMax)]))
		conn.Close()
		return nil, h, err
	}
	if err := writeFrame(conn, frameWelcome, s.welcome().encode()); err != nil {
		conn.Close()
		return nil, h, err
	}
	conn.SetDeadline(time.Time{})
	return s, h, nil
}

// admit checks a greeting from the host that proved to be peer.
func (c *Consensus) admit(peer, protocol string, h hello) (*Set, error) {
	if peer != h.from.Host {
		return nil, fmt.Errorf("%s says it is %s", peer, h.from.Host)
	}
	s := c.lookup(h.cluster)
	if s == nil {
		return nil, c.stranger(peer, h)
	}
	if h.to != s.self {
		return nil, fmt.Errorf("this is %s, not %s", s.self, h.to)
	}
	if protocol == ProtocolAdopt {
		return s, s.admitFounder(h.from)
	}
	if why := s.lostWhy(); why != "" {
		return nil, fmt.Errorf("%s lost its raft store and must not vote again: %s", s.self, why)
	}
	if s.role != RoleVoter {
		return nil, fmt.Errorf("%s is no voter of set %s", s.self, h.set)
	}
	votes := s.spec.has(h.from) && (!h.follow || h.life != life{})
	if votes {
		if err := c.store.remember(c.opt.Timing.Stall, s.id, h.from, h.life); err != nil {
			s.note(h.from.Host, err)
			return nil, err
		}
	}
	s.witness(h)
	if s.voting() == nil {
		return nil, s.absent()
	}
	if h.follow && s.rep.doubtful() {
		return nil, fmt.Errorf("the state of %s differs from the set's, follow another voter", s.self)
	}
	if protocol == ProtocolRaft && !votes {
		return nil, fmt.Errorf("%s is no voter of set %s, whose voters are %v", h.from, h.set, s.spec.sorted())
	}
	return s, nil
}

// stranger says why a greeting is for no set that is open here. It is lasting
// only where both are in one epoch: else one of the two has yet to see the
// commit that the other has.
func (c *Consensus) stranger(peer string, h hello) error {
	other := c.byName(h.set)
	if other == nil {
		return &absence{fmt.Sprintf("set %s is not known here", h.set)}
	}
	why := fmt.Sprintf("set %s of %s is cluster %.12s in epoch %d, here it is %.12s in epoch %d with voters %v", h.set, peer,
		h.cluster.String(), h.epoch, other.id.String(), other.spec.Epoch, other.spec.sorted())
	if other.spec.Epoch != h.epoch {
		return &absence{why}
	}
	return errors.New(why)
}

// absence is why a voter does not take part at the moment.
type absence struct{ reason string }

func (e *absence) Error() string { return e.reason }

// absent says why this voter does not take part at the moment.
func (s *Set) absent() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kin.lost != "" {
		return fmt.Errorf("%s lost its raft store and must not vote again: %s", s.self, s.kin.lost)
	}
	if s.pending != "" {
		return &absence{s.pending}
	}
	if s.failure == nil && (!s.ran || s.running != nil) {
		return errStarting
	}
	return &absence{fmt.Sprintf("%s is not running set %s at the moment", s.self, s.spec.Name)}
}

// remember keeps how far a voter's store has come, and refuses one that has
// come less far than before: it forgot votes and entries it had promised.
func (s *store) remember(limit time.Duration, id clusterID, v Voter, l life) error {
	key := peerPrefix + string(id[:]) + v.String()
	b, err := s.meta(key)
	if err != nil {
		return err
	}
	if b != nil {
		known, err := decodeLife(b)
		if err != nil {
			return fmt.Errorf("the store's record of %s is damaged: %w", v, err)
		}
		if l.starts == known.starts {
			l.term = max(l.term, known.term)
		}
		if l.forgot(known) {
			return &refusal{peer: "voter", lost: true, reason: fmt.Sprintf("%s has store %x, started %d times and at term %d, but store %x with %d starts and term %d was seen: its store was lost or restored from a backup, it needs a new storage id",
				v, l.birth, l.starts, l.term, known.birth, known.starts, known.term)}
		}
	}
	if next := l.encode(); !bytes.Equal(b, next) {
		return s.putMeta(limit, key, next)
	}
	return nil
}

// begin counts one more start of this host as a voter of a cluster. It also
// waits for writes of an earlier run that are still on their way.
func (s *store) begin(limit time.Duration, id clusterID) (life, error) {
	key := lifePrefix + string(id[:])
	b, err := s.meta(key)
	if err != nil {
		return life{}, err
	}
	var l life
	if b == nil {
		l.birth = randomID()
	} else if l, err = decodeLife(b); err != nil {
		return life{}, fmt.Errorf("the store's record of its own life is damaged: %w", err)
	}
	l.starts++
	l.run = randomID()
	return l, s.putMeta(limit, key, l.encode())
}

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// isClosed tells ends of streams that are not worth a word.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled)
}
