package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// storeFile is its name in Options.Dir.
const storeFile = "raft.db"

// storeVersion is the layout of raft.db: bucket "meta" (version, epochs, peers,
// starts) and "sets" / cluster id / "log" and "stable".
const storeVersion = 1

// commitMax bounds how many writes share one transaction.
const commitMax = 512

var (
	bucketMeta   = []byte("meta")
	bucketSets   = []byte("sets")
	bucketLog    = []byte("log")
	bucketStable = []byte("stable")
	keyVersion   = []byte("version")
	keyRoom      = []byte("room")
)

// roomProbe is how many bytes are written to see whether there is room again.
const roomProbe = 16 << 10

var (
	errStoreClosed = errors.New("the store is closed")
	errStalled     = errors.New("a write to the store stalled")
)

// store is the one file that holds the logs of all sets of this host. Writes
// that arrive while a transaction is being synced share the next one, so a
// fleet of sets costs one sync at a time, not one each.
type store struct {
	path string

	file sync.RWMutex // held for writing while db is replaced; taken after mu
	db   *bolt.DB

	// fault is asked before each transaction; for tests.
	fault func() error

	mu      sync.Mutex
	queue   []*write
	running bool          // a goroutine is committing
	idle    chan struct{} // closed when it ends
	err     error         // sticky: after a failed sync nobody knows what the file holds
}

// write is one change waiting for its transaction.
type write struct {
	change func(*bolt.Tx) error
	done   chan error // capacity 1
}

func openStore(path string) (*store, error) {
	if err := checkStore(path); err != nil {
		return nil, err
	}
	s := &store{path: path}
	return s, s.load()
}

// load opens the file.
func (s *store) load() error {
	err := s.guarded(func() error {
		db, err := bolt.Open(s.path, 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
		if err == nil {
			s.db = db
		}
		return err
	})
	if err != nil {
		return openError(s.path, err)
	}
	if err := s.guarded(func() error { return s.db.Update(initStore) }); err != nil {
		s.db.Close()
		return fmt.Errorf("cannot open the raft store %s: %w", s.path, err)
	}
	return nil
}

// revive opens the file anew after the disk was full, as a new process would:
// what failed was never promised to anybody, and whoever waited for it has
// stopped. After any other failure the store stays as it is until the process
// ends. It fails while there is no room.
func (s *store) revive(limit time.Duration) error {
	s.mu.Lock()
	if !durable.IsFull(s.err) || s.running {
		defer s.mu.Unlock()
		return s.err
	}
	s.file.Lock()
	err := s.db.Close()
	if err == nil {
		err = s.load()
	}
	s.file.Unlock()
	if err == nil {
		s.err = nil
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.update(limit, func(tx *bolt.Tx) error { // the room for a write, not only for none
		return tx.Bucket(bucketMeta).Put(keyRoom, make([]byte, roomProbe))
	})
}

func initStore(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketSets); err != nil {
		return err
	}
	switch v := meta.Get(keyVersion); {
	case v == nil:
		return meta.Put(keyVersion, binary.BigEndian.AppendUint64(nil, storeVersion))
	case len(v) != 8 || binary.BigEndian.Uint64(v) != storeVersion:
		return fmt.Errorf("it has layout version %x, this program knows %d", v, storeVersion)
	}
	return nil
}

// update makes a change durable, together with whatever else is waiting. After
// limit it returns errStalled; the change may still happen.
func (s *store) update(limit time.Duration, change func(*bolt.Tx) error) error {
	w := &write{change: change, done: make(chan error, 1)}
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	s.queue = append(s.queue, w)
	if !s.running {
		s.running = true
		s.idle = make(chan struct{})
		go s.commit()
	}
	s.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-w.done:
		return err
	case <-timer.C:
		return fmt.Errorf("%w for %v", errStalled, limit)
	}
}

// commit writes what is queued until nothing is. The number of writes waiting
// is bounded by their callers, each of which waits for its own.
func (s *store) commit() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.running = false
			close(s.idle)
			s.mu.Unlock()
			return
		}
		n := min(len(s.queue), commitMax)
		batch := s.queue[:n:n]
		s.queue = s.queue[n:]
		err, fault := s.err, s.fault
		s.mu.Unlock()
		if err == nil {
			err = s.write(batch, fault)
		}
		if err != nil {
			s.mu.Lock()
			if s.err == nil {
				s.err = err
			}
			s.mu.Unlock()
		}
		for _, w := range batch {
			w.done <- err
		}
	}
}

func (s *store) write(batch []*write, fault func() error) error {
	if fault != nil {
		if err := fault(); err != nil {
			return fmt.Errorf("cannot write the raft store: %w", err)
		}
	}
	s.file.RLock()
	defer s.file.RUnlock()
	err := s.guarded(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			for _, w := range batch {
				if err := w.change(tx); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("cannot write the raft store: %w", err)
	}
	return nil
}

// close waits up to limit for a running transaction and closes the file. A
// store whose disk hangs stays open; the process has to end to release it.
func (s *store) close(limit time.Duration) error {
	s.mu.Lock()
	if s.err == nil {
		s.err = errStoreClosed
	}
	running, idle := s.running, s.idle
	s.mu.Unlock()
	if running {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-idle:
		case <-timer.C:
			return fmt.Errorf("cannot close the raft store: %w", errStalled)
		}
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("cannot close the raft store: %w", err)
	}
	return nil
}

// meta reads a value of the meta bucket; nil if there is none.
func (s *store) meta(key string) ([]byte, error) {
	var v []byte
	err := s.view(func(tx *bolt.Tx) error {
		v = bytes.Clone(tx.Bucket(bucketMeta).Get([]byte(key)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the raft store: %w", err)
	}
	return v, nil
}

// flush waits for all writes that were queued before it.
func (s *store) flush(limit time.Duration) error {
	return s.update(limit, func(*bolt.Tx) error { return nil })
}

// putMeta keeps a value in the meta bucket.
func (s *store) putMeta(limit time.Duration, key string, value []byte) error {
	return s.update(limit, func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put([]byte(key), value) })
}
