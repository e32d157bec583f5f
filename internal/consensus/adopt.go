package consensus

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
)

// What a host carries from one epoch of a set into the next. Everything about
// why it is safe to adopt it is in DESIGN.md.

const (
	carriedVersion = 1
	carriedSuffix  = ".carried"
	// formerMax bounds the earlier epochs that an offer tells of, the newest first.
	formerMax = 8
	offerMax  = formerMax*(votersMax*(2*nameMaxLen+8)+16) + 256
	// termMax leaves room to count on from any term that is offered.
	termMax = 1 << 62
)

// Frame kinds of the adopt protocol; a fetch is answered by frameSnapshot and chunks.
const (
	frameOffer = 'o' // down, at once
	frameFetch = 'g' // up
)

// position says how far a state has come. Entries of two logs of one epoch that
// are equal in (term, index) are equal in all that is before, too.
type position struct{ epoch, term, index uint64 }

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.epoch, q.epoch), cmp.Compare(p.term, q.term), cmp.Compare(p.index, q.index))
}

func (p position) String() string {
	return fmt.Sprintf("epoch %d, term %d, entry %d", p.epoch, p.term, p.index)
}

// carried is the best state of earlier epochs that a host has, made durable
// before anybody hears of it, so that what is offered never changes.
type carried struct {
	at      position // zero: it has none
	doubt   bool     // it differed from its leader's
	machine []byte
}

// electorate is who voted in an earlier epoch.
type electorate struct {
	epoch  uint64
	voters []string
}

// offer describes what a host carries to the founder of the new epoch.
type offer struct {
	at     position
	doubt  bool
	size   uint64
	sum    [sha256.Size]byte
	former []electorate
}

// recover prepares a set whose epoch is not its first: this host reads what it
// carries, and the founder gives the epoch its birth. It returns nil if ctx ends.
func (s *Set) recover(ctx context.Context) error {
	if s.spec.Epoch == 1 {
		return nil
	}
	born := false
	if s.role == RoleVoter {
		err := s.inStore(s.id, func(ss *setStore) (err error) {
			born, err = s.hasState(ss)
			return err
		})
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.born = born
	s.mu.Unlock()
	if born {
		return nil
	}
	own, err := s.carry()
	if err == nil {
		s.mu.Lock()
		s.brought = own
		s.mu.Unlock()
	} else if s.role == RoleObserver {
		s.report(err) // others may still have what is missing
		return nil
	} else {
		return err
	}
	if s.self == s.spec.founder() {
		return s.foundEpoch(ctx, own)
	}
	return nil
}

// hasState tells whether the epoch has reached this host. Votes do not count:
// a voter votes for the founder before it has anything.
func (s *Set) hasState(ss *setStore) (bool, error) {
	if last, _ := ss.LastIndex(); last > 0 {
		return true, nil
	}
	snaps, err := s.c.openSnapshots(ss.id)
	if err != nil {
		return false, err
	}
	metas, err := snaps.List()
	return len(metas) > 0, err
}

// inStore runs f where an error of the store may end its goroutine.
func (s *Set) inStore(id clusterID, f func(*setStore) error) error {
	var failed error
	err := errors.New("internal error: the store said nothing")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("it panicked: %v\n%s", p, debug.Stack())
			}
		}()
		err = f(&setStore{store: s.c.store, id: id, limit: s.c.opt.Timing.Stall, fail: func(e error) { failed = e }})
	}()
	<-done
	if failed != nil {
		return failed
	}
	return err
}

func (s *Set) carriedPath(id clusterID) string {
	return filepath.Join(s.c.opt.Dir, "carried", id.String()[:32]+carriedSuffix)
}

// carry finds the best state this host has of earlier epochs and keeps it.
func (s *Set) carry() (*carried, error) {
	if own, err := s.readCarried(s.id); err != nil || own != nil {
		return own, err
	}
	// Writes of an earlier run that are still on their way go before this one.
	if err := s.c.store.flush(s.c.opt.Timing.Stall); err != nil {
		return nil, err
	}
	specs, err := s.earlier()
	if err != nil {
		return nil, err
	}
	best := &carried{}
	for _, spec := range specs {
		if spec.Epoch < best.at.epoch {
			break
		}
		found, err := s.left(spec)
		if err != nil {
			return nil, fmt.Errorf("cannot carry the state of epoch %d over: %w", spec.Epoch, err)
		}
		if found != nil && found.at.compare(best.at) > 0 {
			best = found
		}
	}
	if seen := s.c.remembered(s.spec); seen != nil {
		st, err := seen.snapshot()
		if at := (position{epoch: seen.epoch, term: st.term, index: st.applied}); err == nil && at.compare(best.at) > 0 {
			best = &carried{at: at, machine: st.machine}
		}
	}
	if s.role == RoleObserver && best.at == (position{}) {
		return best, nil
	}
	return best, s.keepCarried(best)
}

// left reads what an epoch this host has left came to here; nil if nothing.
func (s *Set) left(spec SetSpec) (best *carried, err error) {
	id := spec.id()
	kept, err := s.readCarried(id)
	if err != nil {
		return nil, err
	}
	err = s.inStore(id, func(ss *setStore) error {
		snaps, err := s.c.openSnapshots(id)
		if err != nil {
			return err
		}
		metas, err := snaps.List()
		if err != nil {
			return err
		}
		last, _ := ss.LastIndex()
		if last == 0 && len(metas) == 0 {
			return nil
		}
		if last == 0 && metas[0].Index == birthIndex && kept != nil && s.self == spec.founder() {
			return nil // never elected: what it founded is just what it carries
		}
		best, err = s.replay(spec.Epoch, ss, snaps, metas)
		return err
	})
	if err == nil && best != nil {
		best.doubt, err = s.doubted(id, best.doubt)
	}
	if best == nil || kept != nil && kept.at.compare(best.at) > 0 {
		best = kept
	}
	return best, err
}

// replay brings the machine to the end of an old log, and leaves it empty
// again. Entries at the end that may never have been committed count: for all
// that is known here they were.
func (s *Set) replay(epoch uint64, ss *setStore, snaps *snapshots, metas []*raft.SnapshotMeta) (c *carried, err error) {
	blank, err := s.rep.snapshot()
	if err != nil {
		return nil, err
	}
	s.rep.rebase(epoch)
	defer func() {
		s.rep.rebase(s.spec.Epoch)
		err = errors.Join(err, s.rep.restore(state{machine: blank.machine}))
	}()
	at := position{epoch: epoch}
	if len(metas) > 0 {
		_, b, err := snaps.load(metas[0].ID)
		if err != nil {
			return nil, err
		}
		st, err := decodeState(b)
		if err != nil {
			return nil, err
		}
		if err := s.rep.restore(st); err != nil {
			return nil, err
		}
		at.term, at.index = metas[0].Term, metas[0].Index
	}
	last, _ := ss.LastIndex()
	for i := at.index + 1; i <= last; i++ {
		var l raft.Log
		if err := ss.GetLog(i, &l); err != nil {
			return nil, fmt.Errorf("entry %d of the log: %w", i, err)
		}
		if l.Type == raft.LogCommand {
			if _, err := s.rep.apply(l.Index, l.Term, l.Data); err != nil && !errors.Is(err, errDiverged) {
				return nil, err
			}
		}
		at.term, at.index = l.Term, l.Index
	}
	st, err := s.rep.snapshot()
	if err != nil {
		return nil, err
	}
	return &carried{at: at, doubt: s.rep.doubtful(), machine: st.machine}, nil
}

func (s *Set) readCarried(id clusterID) (*carried, error) {
	path := s.carriedPath(id)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > snapshotMax+snapshotSlack {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	var c *carried
	if err == nil {
		c, err = decodeCarried(b)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state carried over in %s (without the file it is made again from the raft store): %w", path, err)
	}
	return c, nil
}

func (s *Set) keepCarried(c *carried) error {
	path := s.carriedPath(s.id)
	if err := s.c.disk.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot keep the state carried over: %w", err)
	}
	if err := s.c.disk.WriteFile(path, c.encode(), 0o600); err != nil {
		return fmt.Errorf("cannot keep the state carried over: %w", err)
	}
	return nil
}

func (c *carried) encode() []byte {
	b := appendUint(make([]byte, 0, len(c.machine)+128), carriedVersion)
	for _, v := range []uint64{c.at.epoch, c.at.term, c.at.index} {
		b = appendUint(b, v)
	}
	b = appendBytes(appendBool(b, c.doubt), c.machine)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func decodeCarried(b []byte) (*carried, error) {
	if len(b) < sha256.Size {
		return nil, errShort
	}
	body, want := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], want) {
		return nil, errors.New("its hash does not match")
	}
	d := &decoder{b: body}
	if v := d.uint(); d.err == nil && v != carriedVersion {
		return nil, fmt.Errorf("it has version %d, this program knows %d: upgrade it", v, carriedVersion)
	}
	c := &carried{at: position{d.uint(), d.uint(), d.uint()}, doubt: d.bool(), machine: d.bytes(snapshotMax)}
	return c, d.done()
}

// offered describes what this host carries; nil as long as it does not know.
func (s *Set) offered() (*offer, error) {
	s.mu.Lock()
	own := s.brought
	s.mu.Unlock()
	if own == nil {
		return nil, nil
	}
	specs, err := s.earlier()
	if err != nil {
		return nil, err
	}
	o := &offer{at: own.at, doubt: own.doubt, size: uint64(len(own.machine)), sum: sha256.Sum256(own.machine)}
	for _, spec := range specs[:min(len(specs), formerMax)] {
		o.former = append(o.former, electorate{epoch: spec.Epoch, voters: spec.sorted()})
	}
	return o, nil
}

func (o *offer) encode() []byte {
	var b []byte
	for _, v := range []uint64{o.at.epoch, o.at.term, o.at.index} {
		b = appendUint(b, v)
	}
	b = appendBytes(appendUint(appendBool(b, o.doubt), o.size), o.sum[:])
	b = appendUint(b, uint64(len(o.former)))
	for _, e := range o.former {
		b = appendUint(appendUint(b, e.epoch), uint64(len(e.voters)))
		for _, v := range e.voters {
			b = appendString(b, v)
		}
	}
	return b
}

func decodeOffer(b []byte) (*offer, error) {
	d := &decoder{b: b}
	o := &offer{at: position{d.uint(), d.uint(), d.uint()}, doubt: d.bool(), size: d.uint()}
	if sum := d.bytes(len(o.sum)); len(sum) == len(o.sum) {
		copy(o.sum[:], sum)
	} else {
		d.fail(errShort)
	}
	for range d.count(formerMax) {
		e := electorate{epoch: d.uint()}
		for range d.count(votersMax) {
			e.voters = append(e.voters, d.string(2*nameMaxLen+1))
		}
		o.former = append(o.former, e)
	}
	if o.size > snapshotMax {
		d.fail(fmt.Errorf("state of %d bytes, at most %d are allowed", o.size, snapshotMax))
	}
	return o, wrapDecode("offer", d)
}

// admitFounder checks who asks for what this host carries.
func (s *Set) admitFounder(from Voter) error {
	if from != s.spec.founder() {
		return fmt.Errorf("only %s may begin epoch %d of set %s, not %s", s.spec.founder(), s.spec.Epoch, s.spec.Name, from)
	}
	s.mu.Lock()
	ready, born, v := s.brought != nil, s.born, s.v
	s.mu.Unlock()
	if born || v != nil && v.raft.LastIndex() > 0 {
		return fmt.Errorf("epoch %d of set %s has begun already and %s has its state: the store of %s was lost or restored from a backup, it needs a new storage id under epoch %d",
			s.spec.Epoch, s.spec.Name, s.self, from, s.spec.Epoch+1)
	}
	if !ready {
		return fmt.Errorf("%s does not know yet what it carries over into epoch %d of set %s", s.self, s.spec.Epoch, s.spec.Name)
	}
	return nil
}

// acceptAdopt tells the founder of a new epoch what this host carries.
func (c *Consensus) acceptAdopt(ctx context.Context, conn Stream) {
	s, h, err := c.greet(conn, ProtocolAdopt)
	if err != nil {
		c.refused(conn, h, err)
		return
	}
	defer conn.Close()
	run, leave, err := s.enter()
	if err != nil {
		c.refused(conn, h, err)
		return
	}
	defer leave()
	defer context.AfterFunc(run, func() { conn.Close() })()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := s.give(conn); err != nil && run.Err() == nil {
		s.log.Debug("an adopt stream ended", "set", s.spec.Name, "host", h.from.Host, "error", err)
	}
}

func (s *Set) give(conn net.Conn) error {
	o, err := s.offered()
	if err != nil {
		return err
	}
	if o == nil {
		return errors.New("it has nothing ready")
	}
	conn.SetDeadline(time.Now().Add(greetTimeout))
	if err := writeFrame(conn, frameOffer, o.encode()); err != nil {
		return err
	}
	kind, _, err := readFrame(conn, helloMax)
	if err != nil {
		return nil // it wanted no more than that
	}
	if kind != frameFetch {
		return fmt.Errorf("unexpected message of kind %q", kind)
	}
	s.mu.Lock()
	own := s.brought
	s.mu.Unlock()
	return sendSnapshot(conn, own.encode())
}
