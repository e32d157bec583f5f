package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// filled makes a store of several sets with branches, and gives its bytes.
func filled(t testing.TB, dir string) (path string, good []byte) {
	t.Helper()
	path = filepath.Join(dir, storeFile)
	s, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	s.db.NoSync = true
	for i := range 3 {
		set := s.set(t, fmt.Sprint(i))
		for j := range 40 {
			var logs []*raft.Log
			for k := range 10 {
				logs = append(logs, &raft.Log{Index: uint64(j*10 + k + 1), Term: 1, Data: bytes.Repeat([]byte{byte(k)}, 300)})
			}
			set.StoreLogs(logs)
		}
		set.SetUint64([]byte("CurrentTerm"), 3)
	}
	if err := s.close(time.Minute); err != nil {
		t.Fatal(err)
	}
	if good, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, good
}

// Whatever is done to the file, opening it is an error of one line or works.
func TestDamagedStoreIsAnError(t *testing.T) {
	path, good := filled(t, t.TempDir())
	if err := checkPages(bytes.NewReader(good), int64(len(good)), int64(os.Getpagesize())); err != nil {
		t.Fatalf("a sound store: %v", err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(b []byte) {
		for i := range b {
			b[i] = byte(random.Uint32())
		}
	}
	damaged := 0
	for n := range 120 {
		b := bytes.Clone(good)
		switch n % 6 {
		case 0:
			b = b[:random.IntN(len(b))]
		case 1:
			noise(b[:4*4096])
		case 2:
			at := 4096 * random.IntN(len(b)/4096-6)
			noise(b[at : at+6*4096])
		case 3:
			at := 4096 * (2 + random.IntN(len(b)/4096-3))
			copy(b[at:at+4096], good[8192:])
		case 4:
			at := 4096*random.IntN(len(b)/4096) + random.IntN(64)
			b[at] ^= 1 << random.IntN(8)
		case 5:
			clear(b[4096*random.IntN(len(b)/4096):])
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(path)
		if err != nil {
			damaged++
			if !errors.Is(err, errDamaged) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "another agent") || !strings.Contains(err.Error(), path) {
				t.Errorf("%d: %v", n, err)
			}
			continue
		}
		if _, err := s.meta("version"); err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("%d: %v", n, err)
		}
		s.close(time.Second)
	}
	if damaged < 60 {
		t.Errorf("only %d of 120 were noticed", damaged)
	}
}

func FuzzCheckPages(f *testing.F) {
	_, good := filled(f, f.TempDir())
	f.Add(good[:min(len(good), 16*4096)], 3, byte(7))
	f.Fuzz(func(t *testing.T, b []byte, at int, flip byte) {
		b = bytes.Clone(b)
		if at >= 0 && at < len(b) {
			b[at] ^= flip
		}
		checkPages(bytes.NewReader(b), int64(len(b)), 4096) // must not panic
	})
}

// Only a lock that is held hints at another agent.
func TestOnlyTheLockHintsAtAnotherAgent(t *testing.T) {
	dir := t.TempDir()
	path, _ := filled(t, dir)
	openTestStore(t, dir)
	if _, err := openStore(path); err == nil || !strings.Contains(err.Error(), "another agent") || errors.Is(err, errDamaged) {
		t.Error(err)
	}
	other := filepath.Join(t.TempDir(), storeFile)
	os.WriteFile(other, bytes.Repeat([]byte("garbage "), 4096), 0o600)
	if _, err := openStore(other); !errors.Is(err, errDamaged) || strings.Contains(err.Error(), "another agent") {
		t.Error(err)
	}
	if _, err := openStore(t.TempDir()); err == nil || errors.Is(err, errDamaged) || strings.Contains(err.Error(), "another agent") {
		t.Errorf("a directory in its place: %v", err)
	}
}

// A panic of bbolt while it runs stops what met it, with one line.
func TestPanicInTheStoreIsAnError(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	if err := s.guarded(func() error { panic("assertion failed: Page expected to be") }); !errors.Is(err, errDamaged) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if err := s.guarded(func() error { var p *int; return fmt.Errorf("%d", *p) }); !errors.Is(err, errDamaged) {
		t.Error(err)
	}
}

// A damaged store makes a voter an observer, and ends nothing.
func TestDamagedStoreObserves(t *testing.T) {
	virtual(t, 3, 1, func(t *testing.T, f *fleet) {
		f.run()
		f.hosts["o1"].mustSubmit("before")
		f.agree("before")
		h := f.follower()
		h.crash()
		path := filepath.Join(f.dir, h.name, "raft", storeFile)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 2 * 4096; i < len(b); i++ {
			b[i] ^= 0x5a
		}
		os.WriteFile(path, b, 0o600)
		os.Remove(h.marker()) // the store that lies aside is enough
		f.run(h.name)
		f.agree("before", h.name)
		h.insist("after")
		f.agree("after")
		h.problem("its raft store was damaged and lies aside as " + path + ".damaged-disk-" + h.name)
		if st := h.set.Status(); st.Role != RoleObserver {
			t.Errorf("%+v", st)
		}
		// An observer with a damaged store goes on at once.
		o := f.hosts["o1"]
		o.crash()
		os.WriteFile(filepath.Join(f.dir, "o1", "raft", storeFile), b, 0o600)
		f.run("o1")
		o.insist("again")
		f.agree("again")
	})
}
