package consensus

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

const (
	// recentEntries and recentBytes bound the entries a voter keeps for
	// observers that were away for a moment; others get a snapshot.
	recentEntries = 4096
	recentBytes   = 8 << 20
	// checkEvery is after how many entries replicas compare their state.
	checkEvery = 256
	// stateVersion is the version of what snapshots wrap a machine's in.
	stateVersion = 1
)

var errDiverged = errors.New("this host's history differs from the set's")

// entry is one committed log entry with the index of the one before; raft's
// own entries lie between them.
type entry struct {
	prev, index, term uint64
	data              []byte
}

// outcome is what one command of an entry came to.
type outcome struct {
	applied  bool // false: fenced off
	response []byte
}

// state is a machine's snapshot and where it stands.
type state struct {
	applied, term uint64 // raft index and term of the last entry applied
	count         uint64 // entries applied since the birth of the set
	check         check
	machine       []byte
}

// replica applies the log to the machine, on voters and observers alike.
type replica struct {
	epoch  uint64
	keep   bool                      // remember recent entries
	fenced func(command []byte) bool // Options.Fenced

	mu      sync.Mutex
	machine Machine
	at      state // without machine
	recent  []entry
	bytes   int
	floor   uint64        // every entry after it is in recent
	doubt   bool          // the state differed from the leader's
	cached  *state        // a snapshot not older than floor, for observers
	woken   chan struct{} // closed after the next change
}

func newReplica(machine Machine, epoch uint64, keep bool) *replica {
	return &replica{machine: machine, epoch: epoch, keep: keep, woken: make(chan struct{})}
}

// applied gives raft index and term of the last entry, and a channel that is
// closed when there is a newer one.
func (r *replica) applied() (index, term uint64, next <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at.applied, r.at.term, r.woken
}

// position says how far this replica is, over epochs.
func (r *replica) position() position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return position{epoch: r.epoch, term: r.at.term, index: r.at.applied}
}

// rebase makes what follows belong to another epoch.
func (r *replica) rebase(epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch = epoch
}

// try tells whether the machine can read a snapshot of another host, and
// leaves it as it was.
func (r *replica) try(machine []byte) (err error) {
	before, err := r.snapshot()
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the machine panicked: %v", p)
		}
		err = errors.Join(err, r.restore(before))
	}()
	return r.restore(state{machine: machine})
}

// apply performs one entry. An error means that this replica must stop, except
// for one that wraps errDiverged: then the entry is applied.
func (r *replica) apply(index, term uint64, data []byte) ([]outcome, error) {
	e, err := decodeEnvelope(data)
	if err != nil {
		return nil, fmt.Errorf("cannot apply entry %d: %w", index, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if index <= r.at.applied {
		return nil, fmt.Errorf("internal error: entry %d after entry %d", index, r.at.applied)
	}
	outcomes, err := r.perform(index, term, e.commands)
	if err != nil {
		return nil, fmt.Errorf("cannot apply entry %d: %w", index, err)
	}
	diverged := r.compare(e.check)
	r.doubt = r.doubt || diverged != nil
	r.remember(entry{prev: r.at.applied, index: index, term: term, data: data})
	r.at.applied, r.at.term = index, term
	r.at.count++
	if r.at.count%checkEvery == 0 {
		snap, err := r.machine.Snapshot()
		if err != nil {
			return nil, fmt.Errorf("cannot take a snapshot of the machine: %w", err)
		}
		r.at.check = check{index: index, sum: sha256.Sum256(snap)}
	}
	close(r.woken)
	r.woken = make(chan struct{})
	return outcomes, diverged
}

// perform calls the machine. A panic stops the replica: going on with half a
// command would make it differ from the others.
func (r *replica) perform(index, term uint64, commands []command) (outcomes []outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the machine panicked: %v\n%s", p, debug.Stack())
		}
	}()
	for _, c := range commands {
		if c.fence != 0 && c.fence != term {
			outcomes = append(outcomes, outcome{})
			continue
		}
		if c.fence == 0 && r.fenced != nil && r.fenced(c.data) {
			outcomes = append(outcomes, outcome{applied: true}) // a leader of another release let it pass; no replica takes it in
			continue
		}
		outcomes = append(outcomes, outcome{applied: true, response: r.machine.Apply(IndexOf(r.epoch, index), term, c.from, c.data)})
	}
	return outcomes, nil
}

// compare tells whether the state differs from what the leader had.
func (r *replica) compare(c check) error {
	if c.index != 0 && c.index == r.at.check.index && c.sum != r.at.check.sum {
		return fmt.Errorf("%w: after entry %d its state hashes to %x, the leader's to %x", errDiverged, c.index, r.at.check.sum[:6], c.sum[:6])
	}
	return nil
}

func (r *replica) remember(e entry) {
	if !r.keep {
		return
	}
	r.recent = append(r.recent, e)
	r.bytes += len(e.data)
	for len(r.recent) > recentEntries || r.bytes > recentBytes && len(r.recent) > 1 {
		r.floor = r.recent[0].index
		r.bytes -= len(r.recent[0].data)
		r.recent[0] = entry{}
		r.recent = r.recent[1:]
	}
}

// doubtful tells whether others should not take this state for theirs.
func (r *replica) doubtful() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.doubt
}

// lastCheck gives the latest own comparison point.
func (r *replica) lastCheck() check {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at.check
}

// snapshot encodes the state as it is now.
func (r *replica) snapshot() (state, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshotLocked()
}

func (r *replica) snapshotLocked() (state, error) {
	b, err := r.machine.Snapshot()
	if err != nil {
		return state{}, fmt.Errorf("cannot take a snapshot of the machine: %w", err)
	}
	if len(b) > snapshotMax {
		return state{}, fmt.Errorf("cannot take a snapshot of the machine: it has %d bytes, at most %d are allowed", len(b), snapshotMax)
	}
	st := r.at
	st.machine = b
	return st, nil
}

// restore replaces the machine's state.
func (r *replica) restore(st state) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.machine.Restore(st.machine); err != nil {
		return fmt.Errorf("cannot go on from entry %d: %w", st.applied, err)
	}
	r.at = st
	r.at.machine = nil
	r.recent, r.bytes, r.floor, r.cached, r.doubt = nil, 0, st.applied, nil, false
	close(r.woken)
	r.woken = make(chan struct{})
	return nil
}

// after gives what an observer that applied (index, term) needs next: a few
// entries, or a snapshot if those are gone or it wants a fresh start, or nothing
// yet. It returns errDiverged if the observer applied another entry there.
func (r *replica) after(index, term uint64, fresh bool) (entries []entry, snap *state, next <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = r.woken
	if index < r.floor || fresh {
		if r.cached == nil || r.cached.applied < r.floor {
			st, err := r.snapshotLocked()
			if err != nil {
				return nil, nil, next, err
			}
			r.cached = &st
		}
		return nil, r.cached, next, nil
	}
	size := 0
	for i := r.find(index); i < len(r.recent); i++ {
		e := r.recent[i]
		if e.index == index && e.term != term {
			return nil, nil, next, fmt.Errorf("%w: entry %d is of term %d there, %d here", errDiverged, index, term, e.term)
		}
		if e.index <= index {
			continue
		}
		if size += len(e.data); size > batchBytes && len(entries) > 0 {
			break
		}
		entries = append(entries, e)
	}
	return entries, nil, next, nil
}

// find gives the position of the first recent entry that is not before index.
func (r *replica) find(index uint64) int {
	lo, hi := 0, len(r.recent)
	for lo < hi {
		if mid := (lo + hi) / 2; r.recent[mid].index < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// view calls f with the machine under the lock.
func (r *replica) view(f func(Machine)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.machine)
}

func (st state) encode() []byte {
	b := appendUint(make([]byte, 0, len(st.machine)+128), stateVersion)
	b = appendUint(b, st.applied)
	b = appendUint(b, st.term)
	b = appendUint(b, st.count)
	b = appendUint(b, st.check.index)
	b = appendBytes(b, st.check.sum[:])
	return appendBytes(b, st.machine)
}

func decodeState(b []byte) (state, error) {
	d := &decoder{b: b}
	if v := d.uint(); d.err == nil && v != stateVersion {
		return state{}, fmt.Errorf("snapshot has version %d, this program knows %d: upgrade it", v, stateVersion)
	}
	st := state{applied: d.uint(), term: d.uint(), count: d.uint()}
	st.check.index = d.uint()
	if sum := d.bytes(len(st.check.sum)); len(sum) == len(st.check.sum) {
		copy(st.check.sum[:], sum)
	} else {
		d.fail(errShort)
	}
	st.machine = d.bytes(snapshotMax)
	if err := d.done(); err != nil {
		return state{}, fmt.Errorf("cannot read snapshot: %w", err)
	}
	return st, nil
}
