package consensus

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A voter whose raft directory is gone must never vote again under the storage
// id that it had: it has forgotten what it promised. What tells it so lies
// outside that directory: a marker in Options.BirthDir, and what the other
// voters remember of its store. See DESIGN.md.

const (
	markerPrefix  = "raft-born-"
	markerMax     = 4 << 10
	markerVersion = 1
	clusterDigits = 16 // of a cluster's id, at the end of its marker's name
	// markersMax bounds the markers that are read at an opening.
	markersMax = 4096
	lostPrefix = "lost\x00" // of keys of the meta bucket: + cluster id, why it must not vote
	peerPrefix = "peer\x00" // + cluster id + voter
	lifePrefix = "life\x00" // + cluster id
)

// errLeft means that Run was ended before raft was started.
var errLeft = errors.New("left before raft was started")

// errStarting means that a voter was reached that is about to vote.
var errStarting = errors.New("it is about to start")

var errLost = errors.New("the raft store of this host was lost")

// marker is the file that says that a store votes, or voted, in a cluster. It
// is written after the store's own record of that and before anything else of
// the cluster, so a marker without the record means that the store is another.
type marker struct {
	Version      int    `json:"version"` // 0, of a marker from before there was one, is 1
	Set          string `json:"set"`
	Introduction string `json:"introduction"`
	Epoch        uint64 `json:"epoch"`
	Cluster      string `json:"cluster"` // hex
	Storage      string `json:"storage"`
	Store        uint64 `json:"store"`  // life.birth
	Starts       uint64 `json:"starts"` // life.starts
}

// kin is what a set knows about lost stores, its own and others'.
type kin struct {
	own     *life             // of a voter, once it is counted; term is the one it started with
	lost    string            // why this host, though listed, must not vote
	ahead   string            // an observer that has entries of this cluster
	passive string            // why this voter does not give the set its first state
	stale   map[string]string // voters whose state is older than what was applied here
}

func (c *Consensus) markerPath(spec SetSpec) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, spec.Name)
	return filepath.Join(c.opt.BirthDir, markerPrefix+name[:min(len(name), 64)]+"-"+spec.id().String()[:clusterDigits])
}

var errMarkerVersion = errors.New("another gitopsd wrote it")

// markers reads those of a set. One that cannot be read counts for the cluster
// it is named after; one of another version may mean more than that.
func (c *Consensus) markers(spec SetSpec) (all []marker, err error) {
	entries, err := os.ReadDir(c.opt.BirthDir)
	if err != nil {
		return nil, fmt.Errorf("cannot look for raft stores that were lost: %w", err)
	}
	own := filepath.Base(c.markerPath(spec))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), markerPrefix) || len(all) == markersMax {
			continue
		}
		m, err := readMarker(filepath.Join(c.opt.BirthDir, e.Name()))
		switch {
		case errors.Is(err, errMarkerVersion) && len(e.Name()) == len(own) && strings.HasPrefix(e.Name(), own[:len(own)-clusterDigits]):
			return nil, fmt.Errorf("cannot read what says that this host votes: %w; run the gitopsd that wrote it, or a newer one", err)
		case err != nil && e.Name() == own:
			return nil, fmt.Errorf("cannot read what says that this host votes: %w; if %s is this host's own and was never replaced, remove the file", err, c.opt.Dir)
		case err == nil && m.Set == spec.Name && m.Introduction == spec.Introduction:
			all = append(all, m)
		}
	}
	return all, nil
}

func readMarker(path string) (m marker, err error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > markerMax {
		err = fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err == nil {
		if err = json.Unmarshal(b, &m); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		} else if m.Version != 0 && m.Version != markerVersion {
			err = fmt.Errorf("%s: %w: it has version %d, this one knows version %d", path, errMarkerVersion, m.Version, markerVersion)
		}
	}
	return m, err
}

// lostBirth says why this host, a listed voter, must not vote; "" if it may.
func (c *Consensus) lostBirth(spec SetSpec) (string, error) {
	id := spec.id()
	why, err := c.store.meta(lostPrefix + string(id[:]))
	if err != nil || why != nil {
		return string(why), err
	}
	markers, err := c.markers(spec)
	if err != nil {
		return "", err
	}
	for _, m := range markers {
		if m.Storage != c.opt.Storage && m.Cluster != id.String() {
			continue
		}
		if m.Storage != c.opt.Storage {
			return fmt.Sprintf("%s says that it was storage %s that voted, but the storage id is %s: the data directory was copied", c.opt.BirthDir, m.Storage, c.opt.Storage), nil
		}
		raw, err := hex.DecodeString(m.Cluster)
		if err != nil {
			continue
		}
		was, err := c.store.lived(raw)
		switch {
		case err != nil:
			return "", err
		case was == nil:
			return fmt.Sprintf("it voted in epoch %d, but %s has nothing of that any more: its raft store was lost", m.Epoch, c.opt.Dir), nil
		case was.birth != m.Store || was.starts < m.Starts:
			return fmt.Sprintf("it voted in epoch %d with another raft store than is in %s now: its store was lost or restored from a backup", m.Epoch, c.opt.Dir), nil
		}
	}
	was, err := c.store.lived(id[:])
	if _, damaged := os.Lstat(c.setAside()); err == nil && was == nil && damaged == nil {
		return "its raft store was damaged and lies aside as " + c.setAside(), nil
	}
	return "", err
}

// setAside is where a damaged store of this storage id goes.
func (c *Consensus) setAside() string {
	return filepath.Join(c.opt.Dir, storeFile+".damaged-"+c.opt.Storage)
}

// remedy is the sentence of a host that must not vote.
func (s *Set) remedy(why string) string {
	return fmt.Sprintf("coordinator set %[1]s: %[2]s must not vote, %[3]s; it only observes. Put the very directory back if it was moved away (a backup will not do), or give this host a new storage id (remove the file storage-id, run `gitopsd host init`, commit it) and list that in coordinators/%[1]s.yaml with epoch %[4]d",
		s.spec.Name, s.self, why, s.spec.Epoch+1)
}

// enroll counts one more start of this host as a voter, and makes the marker
// that outlives the raft directory, before anything else is done in the cluster.
func (s *Set) enroll() error {
	born, err := s.c.store.begin(s.c.opt.Timing.Stall, s.id)
	if err != nil {
		return err
	}
	b, err := json.Marshal(marker{Version: markerVersion, Set: s.spec.Name, Introduction: s.spec.Introduction, Epoch: s.spec.Epoch, Cluster: s.id.String(),
		Storage: s.self.Storage, Store: born.birth, Starts: born.starts})
	if err == nil {
		err = s.c.disk.WriteFile(s.c.markerPath(s.spec), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot mark that this host votes: %w", err)
	}
	err = s.inStore(s.id, func(ss *setStore) error {
		if term, err := ss.GetUint64(keyTerm); err == nil {
			born.term = term
		}
		return nil
	})
	s.mu.Lock()
	s.kin.own = &born
	s.mu.Unlock()
	return err
}

// disown ends this voter for good: another one has seen its host with a store
// that is not this one, or was further.
func (s *Set) disown(by Voter, reason string) {
	if s.role != RoleVoter {
		return
	}
	why := fmt.Sprintf("%s says: %s", by.Host, reason)
	s.mu.Lock()
	known := s.kin.lost != ""
	s.kin.lost = why
	s.mu.Unlock()
	if known {
		return
	}
	s.report(errors.New(s.remedy(why)))
	if err := s.c.store.putMeta(s.c.opt.Timing.Stall, lostPrefix+string(s.id[:]), []byte(why)); err != nil {
		s.log.Error("cannot keep that this store must not vote", "set", s.spec.Name, "error", err)
	}
	s.fail(fmt.Errorf("%w: %s", errLost, why))
}

// lostWhy says why this host, though listed, must not vote; "" if it may.
func (s *Set) lostWhy() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kin.lost
}

// doubted adds that the log of an earlier epoch was written by a lost store.
func (s *Set) doubted(id clusterID, already bool) (bool, error) {
	why, err := s.c.store.meta(lostPrefix + string(id[:]))
	return already || why != nil, err
}

// consult asks the other voters before this host gives the set its first state.
// If any of them is, or any observer was, further than that, the set exists:
// this voter then waits for its leader instead. A voter that knows this host
// with another store ends it; see disown.
func (s *Set) consult(ctx context.Context) {
	t := s.c.opt.Timing
	begun := time.Now()
	ask, cancel := context.WithTimeout(ctx, 2*t.Heartbeat)
	defer cancel()
	var mu sync.Mutex
	silent := false
	var wg sync.WaitGroup
	for _, to := range s.spec.Voters {
		if to == s.self {
			continue
		}
		wg.Go(func() {
			conn, err := s.dial(ask, to, ProtocolObserve, hello{})
			var r *refusal
			if err == nil {
				conn.Close()
			} else if !errors.As(err, &r) && !errors.Is(err, errStarting) {
				mu.Lock()
				silent = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if left := t.Heartbeat - time.Since(begun); silent && left > 0 { // time for observers to greet
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.failed:
		case <-ctx.Done():
		}
	}
	passive := ""
	for _, v := range s.spec.Voters {
		if l, err := s.c.store.known(s.id, v); err == nil && l != nil && l.term > 1 && v != s.self {
			passive = fmt.Sprintf("%s was at term %d already", v, l.term)
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if passive == "" {
		passive = s.kin.ahead
	}
	s.kin.passive = passive
}

// waitsFor says why this voter does not give the set its first state, or "".
func (s *Set) waitsFor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kin.passive
}

// witness notes that an observer has entries of the cluster. It is asked for
// before this host gives the set its first state, and only delays that: it is
// no voter's word.
func (s *Set) witness(h hello) {
	if !h.follow || h.index == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kin.ahead == "" {
		s.kin.ahead = fmt.Sprintf("%s has entry %d of it already", h.from.Host, h.index)
	}
}

// older refuses, on an observer, a state that is not the continuation of what
// was applied here: all of that was committed.
func (s *Set) older(from Voter, index, term uint64) error {
	at, atTerm, _ := s.rep.applied()
	text := ""
	if index < at || term < atTerm {
		text = fmt.Sprintf("coordinator set %s: %s offers the state of entry %d, term %d, but entry %d, term %d was applied here: it is behind or has lost its store, and is not followed",
			s.spec.Name, from, index, term, at, atTerm)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.kin.stale, from.Host)
		return nil
	}
	if s.kin.stale == nil {
		s.kin.stale = map[string]string{}
	}
	s.kin.stale[from.Host] = text
	s.avoid = from.Host
	return &staleError{text}
}

// staleError says that a voter is behind this observer.
type staleError struct{ text string }

func (e *staleError) Error() string { return e.text }

// welcome answers a greeting: the own life, and those of the other voters as
// far as they are known here, so that who meets one of them later can tell.
type welcome struct {
	life   life
	others []relative
}

type relative struct {
	voter string
	life  life
}

func (s *Set) welcome() welcome {
	w := welcome{life: s.life()}
	if s.role != RoleVoter {
		return w
	}
	for _, v := range s.spec.Voters {
		if l, err := s.c.store.known(s.id, v); err == nil && l != nil && v != s.self {
			w.others = append(w.others, relative{voter: v.String(), life: *l})
		}
	}
	return w
}

func (w welcome) encode() []byte {
	b := appendBytes(nil, w.life.encode())
	b = appendUint(b, uint64(len(w.others)))
	for _, r := range w.others {
		b = appendBytes(appendString(b, r.voter), r.life.encode())
	}
	return b
}

func decodeWelcome(b []byte) (w welcome, err error) {
	d := &decoder{b: b}
	read := func() life {
		l, err := decodeLife(d.bytes(lifeMax))
		if err != nil {
			d.fail(err)
		}
		return l
	}
	w.life = read()
	for range d.count(votersMax) {
		w.others = append(w.others, relative{voter: d.string(2*nameMaxLen + 1), life: read()})
	}
	return w, wrapDecode("welcome", d)
}

// meet remembers what a voter's welcome tells. First hand goes before hearsay.
func (s *Set) meet(from Voter, w welcome) error {
	if err := s.c.store.remember(s.c.opt.Timing.Stall, s.id, from, w.life); err != nil {
		return err
	}
	for _, r := range w.others {
		v, err := ParseVoter(r.voter)
		if err != nil || v == s.self || v == from || !s.spec.has(v) {
			continue
		}
		known, err := s.c.store.known(s.id, v)
		if err == nil && known == nil {
			err = s.c.store.remember(s.c.opt.Timing.Stall, s.id, v, r.life)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// known gives how far a voter's store was when it was last heard of, or nil.
func (s *store) known(id clusterID, v Voter) (*life, error) {
	return s.lifeAt(peerPrefix + string(id[:]) + v.String())
}

// lived gives this store's own record of voting in a cluster, or nil.
func (s *store) lived(id []byte) (*life, error) { return s.lifeAt(lifePrefix + string(id)) }

func (s *store) lifeAt(key string) (*life, error) {
	b, err := s.meta(key)
	if err != nil || b == nil {
		return nil, err
	}
	l, err := decodeLife(b)
	if err != nil {
		return nil, fmt.Errorf("the raft store's record of a voter is damaged: %w", err)
	}
	return &l, nil
}

// view reads the store; see guarded.
func (s *store) view(f func(*bolt.Tx) error) error {
	s.file.RLock()
	defer s.file.RUnlock()
	return s.guarded(func() error { return s.db.View(f) })
}
