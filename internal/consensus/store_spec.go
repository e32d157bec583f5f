package consensus

import (
	"encoding/binary"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Keys of the meta bucket: epochPrefix + set + NUL + epoch (8 bytes) holds the
// introduction and voters under which that epoch was born, write-once.
const epochPrefix = "epoch\x00"

// adoptSpec compares a spec with what this host has seen of the set, and
// records what is new before anything is done under it.
func (c *Consensus) adoptSpec(spec SetSpec) (SetSpec, []string, error) {
	prefix := epochPrefix + spec.Name + "\x00"
	highest, line, err := c.store.lastEpoch(prefix)
	if err != nil {
		return spec, nil, err
	}
	wanted := strings.Join(append([]string{spec.Introduction}, spec.sorted()...), "\n")
	switch {
	case highest == spec.Epoch && line == wanted:
		return spec, nil, nil
	case highest == spec.Epoch:
		born, err := parseBorn(spec, line)
		if err != nil {
			return spec, nil, err
		}
		return born, []string{fmt.Sprintf("coordinator set %s: epoch %d was born with voters %s; the list %s under the same epoch is ignored, raise the epoch to change it",
			spec.Name, spec.Epoch, strings.Join(born.sorted(), ", "), strings.Join(spec.sorted(), ", "))}, nil
	case highest > spec.Epoch:
		return spec, nil, fmt.Errorf("epoch %d is older than epoch %d, which this host has already joined", spec.Epoch, highest)
	case highest != 0 && highest+1 != spec.Epoch:
		return spec, nil, fmt.Errorf("epoch goes from %d to %d, it must rise by exactly one", highest, spec.Epoch)
	case highest != 0:
		return c.stay(spec, highest, line)
	case spec.Epoch != 1:
		return spec, nil, fmt.Errorf("it is in epoch %d; this version cannot carry a set over to a new epoch yet, only epoch 1 can be joined", spec.Epoch)
	}
	key := prefix + string(binary.BigEndian.AppendUint64(nil, spec.Epoch))
	if err := c.store.putMeta(c.opt.Timing.Stall, key, []byte(wanted)); err != nil {
		return spec, nil, err
	}
	return spec, nil, nil
}

// stay keeps a set in the epoch it is in. To be born again its voters would have
// to leave that for good and agree on the most advanced state among them; as
// long as that is not there, an empty new epoch would forget every grant.
func (c *Consensus) stay(spec SetSpec, epoch uint64, line string) (SetSpec, []string, error) {
	wanted := spec.Epoch
	spec.Epoch = epoch
	born, err := parseBorn(spec, line)
	if err != nil {
		return spec, nil, err
	}
	return born, []string{fmt.Sprintf("coordinator set %s: this version cannot carry a set over to a new epoch yet; epoch %d is ignored, the set stays in epoch %d with voters %s",
		spec.Name, wanted, epoch, strings.Join(born.sorted(), ", "))}, nil
}

// parseBorn reads what adoptSpec recorded; an introduction that differs too is
// another repository, which must never inherit this one's log.
func parseBorn(spec SetSpec, line string) (SetSpec, error) {
	fields := strings.Split(line, "\n")
	if fields[0] != spec.Introduction {
		return spec, fmt.Errorf("it was born in the repository introduced by %s, not %s; this data directory belongs to another fleet", fields[0], spec.Introduction)
	}
	born := spec
	born.Voters = nil
	for _, f := range fields[1:] {
		v, err := ParseVoter(f)
		if err != nil {
			return spec, fmt.Errorf("the store's record of epoch %d is damaged: %w", spec.Epoch, err)
		}
		born.Voters = append(born.Voters, v)
	}
	return born, born.check()
}

// lastEpoch finds the highest epoch recorded under prefix; 0 if none.
func (s *store) lastEpoch(prefix string) (epoch uint64, line string, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketMeta).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, v = c.Next() {
			if len(k) == len(prefix)+8 {
				epoch, line = binary.BigEndian.Uint64(k[len(prefix):]), string(v)
			}
		}
		return nil
	})
	if err != nil {
		return 0, "", fmt.Errorf("cannot read the raft store: %w", err)
	}
	return epoch, line, nil
}
