package swarm

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

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
