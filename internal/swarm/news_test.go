package swarm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

func genView(t *rapid.T, n int) view {
	v := view{index: bundle.DigestBytes([]byte{byte(rapid.IntRange(0, 2).Draw(t, "index"))}), have: plan.NewBits(n)}
	for i := range n {
		if rapid.IntRange(0, 3).Draw(t, "has") > 0 {
			v.have.Set(i)
		}
	}
	v.state = state{Origin: rapid.Bool().Draw(t, "origin"), Says: rapid.StringMatching(`[a-z ]{0,20}`).Draw(t, "says")}
	if rapid.IntRange(0, 4).Draw(t, "none") == 0 {
		return view{state: v.state}
	}
	return v
}

func TestNewsArriveAsTheyWereTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "pieces")
		var wire bytes.Buffer
		w := &newsWriter{w: bufio.NewWriter(&wire)}
		r := &newsReader{r: bufio.NewReader(&wire)}
		for range rapid.IntRange(1, 8).Draw(t, "times") {
			v := genView(t, n)
			differs := w.differs(v)
			told, err := w.tell(v)
			if err != nil || told != differs || w.differs(v) {
				t.Fatalf("told %v, differed %v, differs %v: %v", told, differs, w.differs(v), err)
			}
			if err := w.w.Flush(); err != nil {
				t.Fatal(err)
			}
			for wire.Len() > 0 || r.r.Buffered() > 0 {
				kind, payload, err := r.read()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.take(kind, payload); err != nil {
					t.Fatal(err)
				}
			}
			if r.view.index != v.index || !bytes.Equal(r.view.have, v.have) || !reflect.DeepEqual(r.view.state, v.state) {
				t.Fatalf("told %v, heard %v", v, r.view)
			}
		}
	})
}

// TestWhatAListenerHasIsToldWithTheSignOfLife has a host that gets two pieces from one peer and hears two: that peer, which has them, and one that never said what it has.
func TestWhatAListenerHasIsToldWithTheSignOfLife(t *testing.T) {
	a := foreign(t, 1<<20, 3)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		told, have, served := view{index: a.index.Digest()}, plan.NewBits(a.index.Len()), make(chan struct{})
		have.Set(0)
		have.Set(1)
		told.have = have
		f.impostor("web-2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch parts := strings.Split(r.URL.Path, "/"); parts[4] {
			case "news":
				n := &newsWriter{w: bufio.NewWriter(w)}
				_, _ = n.w.WriteString(newsMagic)
				for r.Context().Err() == nil {
					if now, _ := n.tell(told); !now {
						_ = n.frame(newsAlive, nil)
					}
					_ = n.w.Flush()
					_ = http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
					case <-time.After(newsAliveAt):
					}
				}
			case "index":
				_, _ = w.Write(a.index.Encode())
			case "pieces":
				<-served
				from, _ := strconv.Atoi(parts[5])
				piece := a.index.Piece(from)
				_, _ = w.Write(a.data[piece.Offset : piece.Offset+int64(piece.Size)])
			}
		}))
		h := f.start("web-1")
		ctx, stop := context.WithCancel(t.Context())
		fetching := h.fetch(ctx, h.job(a, nil))
		defer func() { stop(); <-fetching.done }()
		synctest.Wait()
		begin, after := time.Now(), map[string]chan time.Duration{"web-2": make(chan time.Duration, 1), "web-3": make(chan time.Duration, 1)}
		for asker, took := range after {
			news := &newsWriter{w: bufio.NewWriter(io.Discard)}
			now := h.swarm.holdingOf(a.ref.Digest)
			if _, err := news.tell(now.view()); err != nil || now.index == nil || now.have.Count() > 0 {
				t.Fatalf("%+v is told in the beginning: %v", now.view(), err)
			}
			go func() {
				pause := newsPause{alive: time.NewTimer(newsAliveAt), gap: time.NewTimer(0), asker: asker}
				h.swarm.awaitNews(ctx, a.ref.Digest, pause, news, now, h.swarm.appeared.wait())
				took <- time.Since(begin)
			}()
		}
		close(served)
		if took := <-after["web-3"]; took >= newsAliveAt/2 { // of the bubble's clock
			t.Errorf("a host that may lack the pieces is told after %v", took)
		}
		if took := <-after["web-2"]; took != newsAliveAt {
			t.Errorf("a host that has the pieces is told after %v", took)
		}
		if now := h.swarm.holdingOf(a.ref.Digest); now.have.Count() != 2 {
			t.Errorf("%d pieces came", now.have.Count())
		}
	})
}

func FuzzNews(f *testing.F) {
	var wire bytes.Buffer
	w := &newsWriter{w: bufio.NewWriter(&wire)}
	_, _ = w.tell(view{index: bundle.DigestBytes(nil), have: plan.Bits{3, 1}, state: state{Origin: true, Reading: []int{4}, Says: "x"}})
	_, _ = w.tell(view{index: bundle.DigestBytes(nil), have: plan.Bits{7, 1}})
	_ = w.w.Flush()
	f.Add(wire.Bytes())
	f.Add([]byte("B\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &newsReader{r: bufio.NewReader(bytes.NewReader(data))}
		for {
			kind, payload, err := r.read()
			if err != nil {
				return
			}
			if _, err := r.take(kind, payload); err != nil {
				if !errors.Is(err, errNews) && !errors.Is(err, errNewsKind) {
					t.Fatal(err)
				}
				return
			}
			if len(r.view.have) > newsFrameMax || len(r.view.state.Says) > saysMax || len(r.view.state.Reading) > newsListMax || strings.ContainsAny(r.view.state.Says, "\x1b\n\r\x00") {
				t.Fatalf("out of bounds: %v", r.view)
			}
		}
	})
}

func TestPlainMakesOneLine(t *testing.T) {
	for in, want := range map[string]string{"ok": "ok", "a\nb\x1b[2J\x00": "a b [2J ", "é": "é", "\xff\xfe": " "} {
		if got := plain(in, 100); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	if got := plain(strings.Repeat("é", 100), 101); len(got) > 101 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestNewsOfAnotherVersionAreRefused(t *testing.T) {
	for _, text := range []string{"", "gitopsd", "gitopsd-news/2\n"} {
		r := &newsReader{r: bufio.NewReader(strings.NewReader(text))}
		if err := r.begin(); err == nil || err == io.ErrShortBuffer {
			t.Errorf("%q: accepted", text)
		}
	}
}
