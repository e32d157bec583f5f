package configrepo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Readers never see a half-written mirror, whatever Sync does meanwhile.
func TestReadersWhileSyncing(t *testing.T) {
	f := newFixture(t)
	f.o.Limits.Packs = 3 // rewrites the mirror all the time
	r := f.open()
	mustSync(t, r)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				c, _ := r.Accepted()
				tree, err := r.Tree(c.ID)
				if err == nil {
					_, err = fs.ReadFile(tree, "fleet.yaml")
				}
				if err == nil {
					_, err = packOf(r, f.intro)
				}
				if err == nil {
					_, err = r.IsAncestor(f.intro, c.ID)
				}
				// A rewriting may take a pack away under a walk: that is
				// an error to retry, never a wrong answer.
				if err != nil && !damaged(err) && !strings.Contains(err.Error(), "no such file") {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 15 {
		id := f.commit(f.anna, "next", "n", fmt.Sprint(i))
		wantAccepted(t, mustSync(t, r), id)
	}
	close(done)
	wg.Wait()
}

func TestSyncTakesTurnsAndHonoursItsContext(t *testing.T) {
	f := newFixture(t)
	entered := make(chan struct{}, 1)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
	}))
	f.o.URLs = []string{s.URL + "/config.git"}
	r := f.open()
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() {
		_, err := r.Sync(ctx)
		first <- err
	}()
	<-entered
	short, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	if _, err := r.Receive(short, strings.NewReader(""), f.intro); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// What passes every cap but needs too much memory kills the child, not us.
func TestTheChildDiesAloneOfMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has its own address space, and dies of a limit on it in its own words")
	}
	f := newFixture(t)
	f.o.URLs, f.o.Child = nil, testChild()
	f.o.Limits.ObjectBytes, f.o.Limits.MemoryBytes = 1<<30, 192<<20 // less than the object, and room for threads, which would fail in words of their own
	r := f.open()
	// A small object, and a delta that copies it 4096 times.
	const base, copies = 1 << 16, 4096
	bomb := append(append(header(2), entryHeader(3, base)...), deflated(make([]byte, base))...)
	back := len(bomb) - 12
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, base), base*copies)
	delta = append(delta, bytes.Repeat([]byte{0x80}, copies)...)
	bomb = append(append(bomb, entryHeader(6, int64(len(delta)))...), byte(back))
	bomb = sealed(append(bomb, deflated(delta)...))
	_, err := r.Receive(context.Background(), bytes.NewReader(bomb), f.intro)
	if err == nil || !strings.Contains(err.Error(), "ran out of the memory") || !isPermanent(err) {
		t.Fatal(err)
	}
	r.o.Limits.MemoryBytes = 1 << 30
	mustNot, err := r.Receive(context.Background(), bytes.NewReader(bomb), f.intro)
	if err == nil || mustNot.Moved {
		t.Fatal("a pack without the tip was accepted")
	}
}
