package consensus

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/hashicorp/raft"
)

const (
	// snapshotMax bounds a machine's snapshot.
	snapshotMax = 64 << 20
	// snapshotSlack is what our own fields may add to it.
	snapshotSlack = 64 << 10
	// snapshotKeep is how many snapshot files stay; the older one serves if
	// the newer cannot be read.
	snapshotKeep    = 2
	snapshotSuffix  = ".snapshot"
	snapshotVersion = 1
)

// snapshots is the raft.SnapshotStore of one set: whole files, made durable
// before raft forgets the log they replace, with their hash inside.
type snapshots struct {
	dir  string
	disk *durable.Disk // nil but in tests
}

func openSnapshots(dir string, disk *durable.Disk) (*snapshots, error) {
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &snapshots{dir: dir, disk: disk}, nil
}

// openSnapshots opens those of one cluster.
func (c *Consensus) openSnapshots(id clusterID) (*snapshots, error) {
	return openSnapshots(filepath.Join(c.opt.Dir, "snapshots", id.String()[:32]), c.disk)
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("cannot make a snapshot: raft wants version %d, this program knows 1", version)
	}
	return &sink{store: s, meta: raft.SnapshotMeta{Version: 1, ID: fmt.Sprintf("%016x-%016x", term, index), Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex}}, nil
}

// List implements raft.SnapshotStore: newest first, unreadable ones left out.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	var metas []*raft.SnapshotMeta
	for _, id := range s.ids() {
		if meta, _, err := s.load(id); err == nil {
			metas = append(metas, meta)
		}
	}
	if len(metas) == 0 && len(s.ids()) > 0 {
		return nil, fmt.Errorf("cannot read any of the snapshots in %s", s.dir)
	}
	return metas, nil
}

// ids lists snapshot files, newest first: their names sort by term and index.
func (s *snapshots) ids() []string {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), snapshotSuffix); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids
}

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, data, err := s.load(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, io.NopCloser(bytes.NewReader(data)), nil
}

func (s *snapshots) path(id string) string { return filepath.Join(s.dir, id+snapshotSuffix) }

func (s *snapshots) load(id string) (*raft.SnapshotMeta, []byte, error) {
	path := s.path(id)
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read snapshot: %w", err)
	}
	if info.Size() > snapshotMax+2*snapshotSlack {
		return nil, nil, fmt.Errorf("cannot read snapshot %s: it has %d bytes", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read snapshot: %w", err)
	}
	meta, data, err := decodeSnapshotFile(b)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read snapshot %s: %w", path, err)
	}
	meta.ID = id
	return meta, data, nil
}

// sink collects one snapshot in memory, where the machine made it anyway.
type sink struct {
	store *snapshots
	meta  raft.SnapshotMeta
	data  []byte
	ended bool
}

// Write implements io.Writer.
func (k *sink) Write(p []byte) (int, error) {
	if len(k.data)+len(p) > snapshotMax+snapshotSlack {
		return 0, fmt.Errorf("cannot keep a snapshot of more than %d bytes", snapshotMax)
	}
	k.data = append(k.data, p...)
	return len(p), nil
}

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.meta.ID }

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	k.ended, k.data = true, nil
	return nil
}

// Close makes the snapshot durable and removes those it outlives.
func (k *sink) Close() error {
	if k.ended {
		return nil
	}
	k.ended = true
	if err := k.store.disk.WriteFile(k.store.path(k.meta.ID), encodeSnapshotFile(&k.meta, k.data), 0o600); err != nil {
		return fmt.Errorf("cannot keep snapshot: %w", err)
	}
	k.data = nil
	for i, id := range k.store.ids() {
		if i >= snapshotKeep {
			if err := k.store.disk.Remove(k.store.path(id)); err != nil {
				return fmt.Errorf("cannot remove old snapshot: %w", err)
			}
		}
	}
	return nil
}

func encodeSnapshotFile(meta *raft.SnapshotMeta, data []byte) []byte {
	b := appendUint(make([]byte, 0, len(data)+snapshotSlack/16), snapshotVersion)
	b = appendUint(b, meta.Index)
	b = appendUint(b, meta.Term)
	b = appendUint(b, meta.ConfigurationIndex)
	b = appendBytes(b, raft.EncodeConfiguration(meta.Configuration))
	b = appendBytes(b, data)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func decodeSnapshotFile(b []byte) (*raft.SnapshotMeta, []byte, error) {
	if len(b) < sha256.Size {
		return nil, nil, errShort
	}
	body, want := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], want) {
		return nil, nil, errors.New("its hash does not match")
	}
	d := &decoder{b: body}
	if v := d.uint(); v != snapshotVersion {
		return nil, nil, fmt.Errorf("it has version %d, this program knows %d", v, snapshotVersion)
	}
	meta := &raft.SnapshotMeta{Version: 1, Index: d.uint(), Term: d.uint(), ConfigurationIndex: d.uint()}
	conf := d.bytes(snapshotSlack)
	data := d.bytes(snapshotMax + snapshotSlack)
	if err := d.done(); err != nil {
		return nil, nil, err
	}
	meta.Configuration = raft.DecodeConfiguration(conf) // panics on garbage, but the hash is ours
	meta.Size = int64(len(data))
	return meta, data, nil
}
