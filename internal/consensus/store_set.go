package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
)

// errNotFound has the very text that raft compares with.
var errNotFound = errors.New("not found")

// entryBytesMax bounds one stored log entry when it is read back.
const entryBytesMax = 128 << 20

// setStore is the raft.LogStore and raft.StableStore of one set. Raft panics on
// some errors of its store and leads forever on others, and a write that hangs
// hangs the leader with its leadership. So no error is returned to raft: the
// set is stopped through fail, which cuts it off from the other voters, and the
// calling goroutine, which is always one of raft's or one that waits for raft to
// start, ends right here with its deferred functions run.
type setStore struct {
	store *store
	id    clusterID
	limit time.Duration
	fail  func(error)
}

func (s *setStore) die(err error) {
	s.fail(err)
	runtime.Goexit()
}

// read runs f on the set's bucket name; f is not called if it has none yet.
func (s *setStore) read(name []byte, f func(b *bolt.Bucket) error) {
	err := s.store.view(func(tx *bolt.Tx) error {
		set := tx.Bucket(bucketSets).Bucket(s.id[:])
		if set == nil {
			return nil
		}
		if b := set.Bucket(name); b != nil {
			return f(b)
		}
		return nil
	})
	if err != nil {
		s.die(fmt.Errorf("cannot read the raft store: %w", err))
	}
}

// write makes f's change to the bucket name durable.
func (s *setStore) write(name []byte, f func(b *bolt.Bucket) error) {
	err := s.store.update(s.limit, func(tx *bolt.Tx) error {
		set, err := tx.Bucket(bucketSets).CreateBucketIfNotExists(s.id[:])
		if err != nil {
			return err
		}
		b, err := set.CreateBucketIfNotExists(name)
		if err != nil {
			return err
		}
		return f(b)
	})
	if err != nil {
		s.die(err)
	}
}

// FirstIndex implements raft.LogStore; 0 if the log is empty.
func (s *setStore) FirstIndex() (index uint64, _ error) {
	s.read(bucketLog, func(b *bolt.Bucket) error {
		if k, _ := b.Cursor().First(); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return index, nil
}

// LastIndex implements raft.LogStore; 0 if the log is empty.
func (s *setStore) LastIndex() (index uint64, _ error) {
	s.read(bucketLog, func(b *bolt.Bucket) error {
		if k, _ := b.Cursor().Last(); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return index, nil
}

// GetLog implements raft.LogStore.
func (s *setStore) GetLog(index uint64, log *raft.Log) error {
	var value []byte
	gap := false
	s.read(bucketLog, func(b *bolt.Bucket) error {
		key := binary.BigEndian.AppendUint64(nil, index)
		value = bytes.Clone(b.Get(key))
		first, _ := b.Cursor().First()
		last, _ := b.Cursor().Last()
		gap = value == nil && bytes.Compare(first, key) < 0 && bytes.Compare(key, last) < 0
		return nil
	})
	if gap {
		s.die(fmt.Errorf("cannot read entry %d of the raft store: the log has a gap", index))
	}
	if value == nil {
		return raft.ErrLogNotFound
	}
	if err := decodeLog(value, log); err != nil {
		s.die(fmt.Errorf("cannot read entry %d of the raft store: %w", index, err))
	}
	log.Index = index
	return nil
}

// StoreLog implements raft.LogStore.
func (s *setStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (s *setStore) StoreLogs(logs []*raft.Log) error {
	s.write(bucketLog, func(b *bolt.Bucket) error {
		b.FillPercent = 0.9 // entries only ever go to the end
		for _, l := range logs {
			if err := b.Put(binary.BigEndian.AppendUint64(nil, l.Index), encodeLog(l)); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}

// DeleteRange implements raft.LogStore; both ends are included.
func (s *setStore) DeleteRange(first, last uint64) error {
	s.write(bucketLog, func(b *bolt.Bucket) error {
		var keys [][]byte // a cursor may skip keys while it deletes
		c := b.Cursor()
		for k, _ := c.Seek(binary.BigEndian.AppendUint64(nil, first)); k != nil && binary.BigEndian.Uint64(k) <= last; k, _ = c.Next() {
			keys = append(keys, bytes.Clone(k))
		}
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}

// bear gives an empty set its first state, and keeps the term it may have voted in, as raft.BootstrapCluster does but
// in one transaction: raft's two writes, cut between, would leave a voter that
// has state, and so is never born again, but no configuration.
func (s *setStore) bear(conf raft.Configuration) {
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)}
	err := s.store.update(s.limit, func(tx *bolt.Tx) error {
		set, err := tx.Bucket(bucketSets).CreateBucketIfNotExists(s.id[:])
		if err != nil {
			return err
		}
		stable, err := set.CreateBucketIfNotExists(bucketStable)
		if err != nil {
			return err
		}
		if stable.Get(keyTerm) == nil {
			if err := stable.Put(keyTerm, binary.BigEndian.AppendUint64(nil, 1)); err != nil {
				return err
			}
		}
		logs, err := set.CreateBucketIfNotExists(bucketLog)
		if err != nil {
			return err
		}
		return logs.Put(binary.BigEndian.AppendUint64(nil, 1), encodeLog(entry))
	})
	if err != nil {
		s.die(err)
	}
}

// Set implements raft.StableStore.
func (s *setStore) Set(key, value []byte) error {
	key, value = bytes.Clone(key), bytes.Clone(value)
	s.write(bucketStable, func(b *bolt.Bucket) error { return b.Put(key, value) })
	return nil
}

// Get implements raft.StableStore.
func (s *setStore) Get(key []byte) (value []byte, _ error) {
	s.read(bucketStable, func(b *bolt.Bucket) error {
		value = bytes.Clone(b.Get(key))
		return nil
	})
	if value == nil {
		return nil, errNotFound
	}
	return value, nil
}

// SetUint64 implements raft.StableStore.
func (s *setStore) SetUint64(key []byte, v uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

// GetUint64 implements raft.StableStore.
func (s *setStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		s.die(fmt.Errorf("cannot read the raft store: %q has %d bytes, not 8", key, len(v)))
	}
	return binary.BigEndian.Uint64(v), nil
}

func encodeLog(l *raft.Log) []byte {
	b := appendUint(nil, l.Term)
	b = append(b, byte(l.Type))
	b = appendBytes(b, l.Data)
	b = appendBytes(b, l.Extensions)
	var at uint64
	if !l.AppendedAt.IsZero() {
		at = uint64(l.AppendedAt.UnixNano())
	}
	return appendUint(b, at)
}

func decodeLog(value []byte, l *raft.Log) error {
	d := &decoder{b: value}
	*l = raft.Log{Term: d.uint()}
	if d.err != nil || len(d.b) == 0 {
		return errShort
	}
	l.Type = raft.LogType(d.b[0])
	d.b = d.b[1:]
	l.Data = d.bytes(entryBytesMax)
	if ext := d.bytes(entryBytesMax); len(ext) > 0 {
		l.Extensions = ext
	}
	if at := d.uint(); at != 0 {
		l.AppendedAt = time.Unix(0, int64(at))
	}
	return d.done()
}
