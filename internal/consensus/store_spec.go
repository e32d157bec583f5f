package consensus

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Keys of the meta bucket: epochPrefix + set + NUL + epoch (8 bytes) holds the
// introduction and voters under which that epoch was born, write-once.
const epochPrefix = "epoch\x00"

// enterEpoch compares a spec with what this host has seen of the set, and
// records what is new before anything is done under it. That record is also how
// a host leaves all earlier epochs for good.
func (c *Consensus) enterEpoch(spec SetSpec) (SetSpec, []string, error) {
	known, err := c.store.epochs(spec)
	if err != nil {
		return spec, nil, err
	}
	wanted := strings.Join(append([]string{spec.Introduction}, spec.sorted()...), "\n")
	var highest SetSpec
	if len(known) > 0 {
		highest = known[0]
	}
	switch {
	case highest.Epoch == spec.Epoch && slices.Equal(highest.sorted(), spec.sorted()):
		return spec, nil, nil
	case highest.Epoch == spec.Epoch:
		return highest, []string{fmt.Sprintf("coordinator set %[1]s: epoch %[2]d began with voters %[3]s and keeps them; the list %[4]s under the same epoch is ignored: to change the voters, commit that list in coordinators/%[1]s.yaml with epoch %[5]d, one more than now",
			spec.Name, spec.Epoch, strings.Join(highest.sorted(), ", "), strings.Join(spec.sorted(), ", "), spec.Epoch+1)}, nil
	case highest.Epoch > spec.Epoch:
		return spec, nil, fmt.Errorf("epoch %d is older than epoch %d, which this host has already joined: commit epoch %d or higher", spec.Epoch, highest.Epoch, highest.Epoch)
	}
	var problems []string
	if highest.Epoch != 0 && highest.Epoch+1 != spec.Epoch {
		problems = append(problems, fmt.Sprintf("coordinator set %s: on this host its epoch went from %d to %d; an epoch rises by exactly one, so this host was away for the others or the file skipped them",
			spec.Name, highest.Epoch, spec.Epoch))
	}
	key := epochPrefix + spec.Name + "\x00" + string(binary.BigEndian.AppendUint64(nil, spec.Epoch))
	return spec, problems, c.store.putMeta(c.opt.Timing.Stall, key, []byte(wanted))
}

// earlier lists the epochs this host has left, the newest first.
func (s *Set) earlier() ([]SetSpec, error) {
	known, err := s.c.store.epochs(s.spec)
	return slices.DeleteFunc(known, func(k SetSpec) bool { return k.Epoch >= s.spec.Epoch }), err
}

// parseBorn reads what enterEpoch recorded; an introduction that differs too is
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

// epochs lists the recorded epochs of a set, the newest first.
func (s *store) epochs(spec SetSpec) (known []SetSpec, err error) {
	prefix := epochPrefix + spec.Name + "\x00"
	lines := map[uint64]string{}
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketMeta).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, v = c.Next() {
			if len(k) == len(prefix)+8 {
				lines[binary.BigEndian.Uint64(k[len(prefix):])] = string(v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the raft store: %w", err)
	}
	for epoch, line := range lines {
		born := spec
		born.Epoch = epoch
		if born, err = parseBorn(born, line); err != nil {
			return nil, err
		}
		known = append(known, born)
	}
	slices.SortFunc(known, func(a, b SetSpec) int { return cmp.Compare(b.Epoch, a.Epoch) })
	return known, nil
}
