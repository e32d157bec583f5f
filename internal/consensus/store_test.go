package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openTestStore(t testing.TB, dir string) *store {
	t.Helper()
	s, err := openStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close(time.Second) })
	return s
}

func (s *store) set(t testing.TB, name string) *setStore {
	return &setStore{store: s, id: SetSpec{Name: name}.id(), limit: time.Minute, fail: func(err error) { t.Errorf("failed: %v", err) }}
}

func TestStoreSaysNotFound(t *testing.T) {
	s := openTestStore(t, t.TempDir()).set(t, "a")
	if _, err := s.Get([]byte("x")); err == nil || err.Error() != "not found" {
		t.Errorf("raft compares this text: %v", err)
	}
	if _, err := s.GetUint64([]byte("x")); err == nil || err.Error() != "not found" {
		t.Errorf("raft compares this text: %v", err)
	}
	if err := s.GetLog(1, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		t.Error(err)
	}
	if has, err := raft.HasExistingState(s, s, &snapshots{dir: t.TempDir()}); has || err != nil {
		t.Errorf("state in an empty store: %v %v", has, err)
	}
}

// The log of a set behaves like raft's in-memory one, whatever other sets do.
func TestStoreIsALog(t *testing.T) {
	st := openTestStore(t, t.TempDir())
	st.db.NoSync = true // its order is tested here, not the disk
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		s := &setStore{store: st, id: SetSpec{Name: fmt.Sprint(n)}.id(), limit: time.Minute, fail: func(err error) { t.Fatalf("failed: %v", err) }}
		model := raft.NewInmemStore()
		last, first := uint64(0), uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var logs []*raft.Log
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					last++
					logs = append(logs, &raft.Log{Index: last, Term: rapid.Uint64().Draw(t, "term"), Type: raft.LogCommand, Data: rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "data")})
				}
				s.StoreLogs(logs)
				model.StoreLogs(logs)
			},
			"cut the end": func(t *rapid.T) {
				if last < first {
					t.Skip("empty")
				}
				from := rapid.Uint64Range(first, last).Draw(t, "from")
				s.DeleteRange(from, last)
				model.DeleteRange(from, last)
				last = from - 1
			},
			"cut the start": func(t *rapid.T) {
				if last <= first {
					t.Skip("empty")
				}
				to := rapid.Uint64Range(first, last-1).Draw(t, "to")
				s.DeleteRange(first, to)
				model.DeleteRange(first, to)
				first = to + 1
			},
			"": func(t *rapid.T) {
				got, _ := s.LastIndex()
				if last >= first && got != last {
					t.Fatalf("last is %d, not %d", got, last)
				}
				for i := first; i <= last; i++ {
					var a, b raft.Log
					if err := s.GetLog(i, &a); err != nil {
						t.Fatal(err)
					}
					model.GetLog(i, &b)
					if a.Index != b.Index || a.Term != b.Term || a.Type != b.Type || !bytes.Equal(a.Data, b.Data) {
						t.Fatalf("%+v is not %+v", a, b)
					}
				}
			},
		})
	})
}

func TestStoreSharesTransactions(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	commits := 0
	gate, reached := make(chan struct{}), make(chan struct{})
	s.inject(func() error {
		commits++
		if commits == 1 {
			close(reached)
			<-gate
		}
		return nil
	})
	var wg sync.WaitGroup
	const n = 100
	wg.Go(func() { s.set(t, "s0").SetUint64([]byte("k"), 0) })
	<-reached
	for i := 1; i < n; i++ {
		wg.Go(func() { s.set(t, fmt.Sprint("s", i)).SetUint64([]byte("k"), uint64(i)) })
	}
	until(t, "all are waiting", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queue) == n-1
	})
	close(gate)
	wg.Wait()
	if commits != 2 {
		t.Errorf("%d writes took %d transactions", n, commits)
	}
	for i := range n {
		if v, _ := s.set(t, fmt.Sprint("s", i)).GetUint64([]byte("k")); v != uint64(i) {
			t.Errorf("set %d has %d", i, v)
		}
	}
}

func TestStoreFailureSticks(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	broken := errors.New("no space left on device")
	s.inject(func() error { return broken })
	failures := 0
	ended := make(chan bool, 1)
	set := &setStore{store: s, id: SetSpec{Name: "a"}.id(), limit: time.Minute, fail: func(err error) {
		if !errors.Is(err, broken) {
			t.Error(err)
		}
		failures++
	}}
	for range 2 {
		go func() {
			returned := false
			defer func() { ended <- returned }()
			set.StoreLog(&raft.Log{Index: 1})
			returned = true
		}()
		if <-ended {
			t.Error("a failed write returned into raft")
		}
		s.inject(nil) // what a failed sync left behind nobody knows: no retry
	}
	if failures != 2 {
		t.Errorf("%d failures", failures)
	}
}

func TestStoreRefusesOtherVersions(t *testing.T) {
	dir := t.TempDir()
	s := openTestStore(t, dir)
	if _, err := openStore(filepath.Join(dir, "raft.db")); err == nil {
		t.Error("two processes opened one store")
	}
	if err := s.putMeta(time.Minute, "version", []byte{0, 0, 0, 0, 0, 0, 0, 9}); err != nil {
		t.Fatal(err)
	}
	s.close(time.Minute)
	if _, err := openStore(filepath.Join(dir, "raft.db")); err == nil {
		t.Error("opened a store of version 9")
	}
}

func TestSnapshotsKeepTwoAndNoticeDamage(t *testing.T) {
	s, err := openSnapshots(filepath.Join(t.TempDir(), "s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	conf := raft.Configuration{Servers: []raft.Server{{ID: "a/1", Address: "a"}}}
	for i := uint64(1); i <= 3; i++ {
		k, err := s.Create(1, 100*i, i, conf, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(k, "state %d", i)
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	dropped, _ := s.Create(1, 900, 9, conf, 1, nil)
	dropped.Cancel()
	metas, err := s.List()
	if err != nil || len(metas) != 2 || metas[0].Index != 300 || metas[1].Index != 200 || metas[0].Configuration.Servers[0].ID != "a/1" {
		t.Fatalf("%v %v", metas, err)
	}
	path := s.path(metas[0].ID)
	b, _ := os.ReadFile(path)
	b[len(b)/2] ^= 1
	os.WriteFile(path, b, 0o600)
	if _, _, err := s.Open(metas[0].ID); err == nil {
		t.Error("a damaged snapshot was opened")
	}
	if metas, _ := s.List(); len(metas) != 1 || metas[0].Index != 200 {
		t.Errorf("%v", metas)
	}
}

// inject makes every write from now on ask fault first; nil for none.
func (s *store) inject(fault func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}
