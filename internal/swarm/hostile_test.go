package swarm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// liar adds a host that has the whole bundle, and answers as change lets it. asked counts requests for pieces.
func (f *fleet) liar(t *testing.T, name string, a *archive, change func(w http.ResponseWriter, r *http.Request, honest http.Handler)) (asked *atomic.Int64) {
	t.Helper()
	kept, err := store.Open(store.Options{Dir: filepath.Join(f.dir, name), KeepFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	ref := a.ref
	ref.Index = a.index
	if err := kept.Import(t.Context(), ref, bytes.NewReader(a.data)); err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Host: name, Store: kept, Listener: &host{}, Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	honest := s.handler()
	asked = new(atomic.Int64)
	f.impostor(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/pieces/") {
			asked.Add(1)
		}
		change(w, r, honest)
	}))
	f.get(name).store = kept
	return asked
}

// forPieces changes only answers that carry pieces.
func forPieces(change func(w http.ResponseWriter, r *http.Request, honest http.Handler)) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.Contains(r.URL.Path, "/pieces/") {
			change(w, r, honest)
			return
		}
		honest.ServeHTTP(w, r)
	}
}

// answerOf runs the honest handler and returns what it would say.
func answerOf(r *http.Request, honest http.Handler) []byte {
	rec := httptest.NewRecorder()
	honest.ServeHTTP(rec, r)
	return rec.Body.Bytes()
}

func TestACorruptPeerIsNamedAndSurvived(t *testing.T) {
	a := packed(t, 30, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		asked := f.liar(t, "bad", a, forPieces(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			data := answerOf(r, honest)
			data[len(data)/2] ^= 1
			_, _ = w.Write(data)
		}))
		for _, name := range names(3) {
			f.start(name)
		}
		var all []*fetching
		for _, name := range names(3) {
			all = append(all, f.get(name).fetch(t.Context(), f.get(name).job(a, s)))
		}
		wait(t, a, all...)
		atMost(t, s, a.index.PayloadSize())
		for _, name := range names(3) {
			h := f.get(name)
			why := h.swarm.Progress(a.ref.Digest).Suspects["bad"]
			if !strings.Contains(why, "from bad is wrong") || !strings.Contains(why, "expected sha256:") || h.swarm.Suspects()["bad"] != why {
				t.Errorf("%s suspects %q", name, why)
			}
		}
		if n := asked.Load(); n > 3*2 {
			t.Errorf("it was asked %d times", n)
		}
	})
}

func TestAPeerThatLiesHangsOrAnswersShort(t *testing.T) {
	a := packed(t, 30, 200<<10)
	for name, change := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"has nothing": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "not here", http.StatusNotFound)
		},
		"hangs": func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() },
		"hangs after a byte": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write([]byte{1})
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"drips": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte{1})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(plan.PeerIdle - time.Second):
				}
			}
		},
		"the right bytes and more": func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			_, _ = w.Write(answerOf(r, honest))
			pour(w, r)
		},
		"short": func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			data := answerOf(r, honest)
			_, _ = w.Write(data[:len(data)-1])
		},
		"busy": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "busy", http.StatusServiceUnavailable)
		},
		"aborts": func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"fails": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "no", http.StatusInternalServerError)
		},
		"forever": func(w http.ResponseWriter, r *http.Request, _ http.Handler) { pour(w, r) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-1"), &source{a: a}
				defer f.close()
				f.liar(t, "bad", a, forPieces(change))
				f.start("web-1")
				f.start("web-2")
				all := []*fetching{f.get("web-1").persist(t.Context(), f.get("web-1").job(a, s)), f.get("web-2").persist(t.Context(), f.get("web-2").job(a, nil))}
				wait(t, a, all...)
				atMost(t, s, a.index.PayloadSize())
				if why := f.get("web-1").swarm.Suspects()["bad"]; name == "has nothing" && !strings.Contains(why, "it said it had pieces") {
					t.Errorf("suspects %q", why)
				}
			})
		})
	}
}

// flood answers a request for news with frames without end.
func flood(w http.ResponseWriter, r *http.Request, honest http.Handler, frames ...[]byte) {
	if !strings.HasSuffix(r.URL.Path, "/news") {
		honest.ServeHTTP(w, r)
		return
	}
	_, _ = io.WriteString(w, newsMagic)
	for all := bytes.Join(frames, nil); r.Context().Err() == nil; {
		if _, err := w.Write(all); err != nil {
			return
		}
	}
}

// pour writes without end.
func pour(w http.ResponseWriter, r *http.Request) {
	chunk := make([]byte, 64<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func TestNewsAndIndexesThatAreWrong(t *testing.T) {
	a, b := packed(t, 20, 200<<10), packed(t, 5, 10<<10)
	frame := func(kind byte, payload []byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte{kind}, uint32(len(payload))), payload...)
	}
	news := func(frames ...[]byte) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if !strings.HasSuffix(r.URL.Path, "/news") {
				honest.ServeHTTP(w, r)
				return
			}
			_, _ = io.WriteString(w, newsMagic)
			_, _ = w.Write(bytes.Join(frames, nil))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}
	index := func(data []byte) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/index") {
				_, _ = w.Write(data)
				return
			}
			honest.ServeHTTP(w, r)
		}
	}
	sum, _ := a.index.Digest().Sum()
	for name, one := range map[string]struct {
		change func(http.ResponseWriter, *http.Request, http.Handler)
		named  bool
	}{
		"index of another bundle": {index(b.index.Encode()), true},
		"malformed index":         {index([]byte("gitopsdX and then nothing")), true},
		"index without end": {func(w http.ResponseWriter, r *http.Request, h http.Handler) { // bounded by size
			if strings.HasSuffix(r.URL.Path, "/index") {
				pour(w, r)
				return
			}
			h.ServeHTTP(w, r)
		}, true},
		"index that hangs": {func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/index") {
				<-r.Context().Done()
				return
			}
			h.ServeHTTP(w, r)
		}, false},
		"huge frame":       {news([]byte{newsBitmap, 255, 255, 255, 255}), true},
		"unknown frame":    {news(frame('?', nil)), false}, // a later version's
		"pieces beyond":    {news(frame(newsIndex, sum[:]), frame(newsBitmap, []byte{255}), frame(newsPieces, []byte{255, 0, 0, 0})), true},
		"half a piece":     {news(frame(newsIndex, sum[:]), frame(newsBitmap, []byte{255}), frame(newsPieces, []byte{1, 0})), true},
		"half a digest":    {news(frame(newsIndex, sum[:16])), true},
		"state of no kind": {news(frame(newsState, []byte(`{"reading":"all"}`))), true},
		"signs of life without end": {func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			flood(w, r, h, frame(newsAlive, nil))
		}, false},
		"pieces without end": {func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			flood(w, r, h, frame(newsIndex, sum[:]), frame(newsBitmap, []byte{1}), frame(newsPieces, []byte{0, 0, 0, 0}))
		}, false},
		"bitmap too long":   {news(frame(newsIndex, sum[:]), frame(newsBitmap, bytes.Repeat([]byte{255}, 200<<10))), true},
		"bitmap longer":     {news(frame(newsIndex, sum[:]), frame(newsBitmap, bytes.Repeat([]byte{255}, 1000))), false},
		"state without end": {news(frame(newsState, []byte(`{"origin":true,"says":"`+strings.Repeat("x\\u001b[2J", 20000)+`"}`))), false},
		"other magic": {func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/news") {
				_, _ = io.WriteString(w, "gitopsd-news/9\n and so on")
				return
			}
			h.ServeHTTP(w, r)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "web-1"), &source{a: a}
				defer f.close()
				f.liar(t, "bad", a, one.change)
				h := f.start("web-1")
				wait(t, a, h.persist(t.Context(), h.job(a, s)))
				if got := s.sum(); got > a.index.PayloadSize() {
					t.Errorf("%d bytes left the origin", got)
				}
				if why := h.swarm.Suspects()["bad"]; (why != "") != one.named {
					t.Errorf("suspects %q", why)
				}
			})
		})
	}
}

func TestAnIndexOfTheOriginThatIsNotTheOnePinned(t *testing.T) {
	a, b := packed(t, 20, 200<<10), packed(t, 5, 10<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a, badIdx: b.index.Encode()}
		defer f.close()
		all := spread(t, f, s, 2)
		for _, g := range all {
			<-g.done
			if g.err == nil || !strings.Contains(g.err.Error(), "yet: ") {
				t.Errorf("got %v", g.err)
			}
		}
		both := all[0].err.Error() + all[1].err.Error()
		if !strings.Contains(both, b.index.Digest().Short()) || !strings.Contains(both, "the commit pins "+string(a.index.Digest())) {
			t.Errorf("got %v", both)
		}
		if s.indexes > 20 {
			t.Errorf("the index was read %d times in ten seconds", s.indexes)
		}
		payload(t, s, 0)
	})
}

// forged is an archive with one byte changed, at a part of its length, under an index that claims the digest of the right one.
func forged(t *testing.T, a *archive, part int) *archive {
	t.Helper()
	wrong := bytes.Clone(a.data)
	wrong[len(wrong)/part] ^= 1
	other, err := bundle.IndexOf(bytes.NewReader(wrong), 0)
	if err != nil {
		t.Fatal(err)
	}
	var sums [][32]byte
	for i := range other.Len() {
		sums = append(sums, other.Piece(i).Sum)
	}
	index, err := bundle.ForeignIndex(int64(len(wrong)), other.PieceSize(), a.ref.Digest, sums)
	if err != nil {
		t.Fatal(err)
	}
	return &archive{data: wrong, index: index, ref: a.ref}
}

// So it is by the next fetch, when the first gave up meanwhile.
func TestWhoWasMisledIsAskedByTheNextFetch(t *testing.T) {
	a := foreign(t, 2<<20, 9)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		given := make(chan *archive)
		f.turncoat("bad", given, func() {})
		h := f.start("web-1")
		job := h.job(a, nil)
		job.IndexDigest = ""
		g := h.fetch(t.Context(), job)
		given <- forged(t, a, 3)
		if <-g.done; g.err == nil || h.swarm.Doubted()["bad"] == "" {
			t.Fatalf("a wrong index: %v, doubted: %v", g.err, h.swarm.Doubted())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // the bubble's
		defer cancel()
		g = h.fetch(ctx, job)
		given <- a
		wait(t, a, g)
	})
}

// A host that passed on a wrong index may have been misled itself: once it offers another, it is asked again. It is not asked a third time.
func TestWhoWasMisledIsAskedAgain(t *testing.T) {
	a := foreign(t, 2<<20, 9)
	for _, c := range []struct {
		name    string
		lies    []*archive
		indexes int64
	}{
		{"once", []*archive{forged(t, a, 3)}, 2},
		{"twice", []*archive{forged(t, a, 3), forged(t, a, 5)}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFleet(t, "web-1")
				defer f.close()
				given, indexed := make(chan *archive), new(atomic.Int64)
				f.turncoat("bad", given, func() { indexed.Add(1) })
				h := f.start("web-1")
				job := h.job(a, nil)
				job.IndexDigest = ""
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // the bubble's
				defer cancel()
				g := h.fetch(ctx, job)
				for i, lie := range c.lies {
					given <- lie
					for deadline := time.Now().Add(time.Minute); indexed.Load() <= int64(i) || h.swarm.Doubted()["bad"] == "" || h.swarm.Progress(a.ref.Digest).Pieces > 0; time.Sleep(tick) {
						if time.Now().After(deadline) {
							t.Fatalf("lie %d is not found out: %v", i, h.swarm.Doubted())
						}
					}
				}
				given <- a
				if len(c.lies) == 1 {
					wait(t, a, g)
				} else {
					time.Sleep(10 * time.Second) // of the bubble's
					cancel()
					if <-g.done; g.err == nil {
						t.Error("who misled twice is believed")
					}
				}
				if indexed.Load() != c.indexes {
					t.Errorf("its index was asked for %d times, want %d", indexed.Load(), c.indexes)
				}
			})
		})
	}
}

func TestAWrongIndexThatGitDoesNotPinIsChargedToItsSender(t *testing.T) {
	a := foreign(t, 2<<20, 9)
	lie := forged(t, a, 3)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		f.forger("bad", lie)
		var all []*fetching
		for _, name := range names(2) {
			h := f.start(name)
			job := h.job(a, s)
			job.IndexDigest = ""
			all = append(all, h.persist(t.Context(), job))
		}
		wait(t, a, all...)
		payload(t, s, a.ref.Size)
		var why string
		for _, name := range names(2) {
			s := f.get(name).swarm
			why += s.Doubted()["bad"]
			if len(s.Suspects()) > 0 { // the commit may be wrong as well
				t.Errorf("%s suspects %v", name, s.Suspects())
			}
		}
		if !strings.Contains(why, "does not lead to the digest in the commit") {
			t.Errorf("doubts %q", why)
		}
		<-time.After(doubtsKept)
		if left := f.get("web-1").swarm.Doubted(); len(left) > 0 {
			t.Errorf("doubts %v long after", left)
		}
	})
}

// forger adds a host that serves what it was given, unverified.
func (f *fleet) forger(name string, a *archive) {
	only := make(chan *archive, 1)
	only <- a
	f.turncoat(name, only, func() {})
}

// turncoat adds a host that serves, unverified, the newest of what it is given; indexed is called when its index is asked for. One host may hear its news.
func (f *fleet) turncoat(name string, given <-chan *archive, indexed func()) {
	var served atomic.Pointer[archive]
	f.impostor(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts, a := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/swarm/"), "/"), served.Load()
		switch parts[1] {
		case "news":
			n := &newsWriter{w: bufio.NewWriter(w)}
			_, _ = n.w.WriteString(newsMagic)
			for {
				if a != nil {
					all := store.NewBitmap(a.index.Len())
					for i := range a.index.Len() {
						all.Set(i)
					}
					_, _ = n.tell(view{index: a.index.Digest(), have: []byte(all)})
					_ = n.w.Flush()
					_ = http.NewResponseController(w).Flush()
				}
				select {
				case <-r.Context().Done():
					return
				case a = <-given:
					served.Store(a)
				}
			}
		case "index":
			indexed()
			_, _ = w.Write(a.index.Encode())
		case "pieces":
			from, _ := strconv.Atoi(parts[2])
			count, _ := strconv.Atoi(parts[3])
			first, last := a.index.Piece(from), a.index.Piece(from+count-1)
			_, _ = w.Write(a.data[first.Offset : last.Offset+int64(last.Size)])
		default:
			http.NotFound(w, r)
		}
	}))
}

func TestRequestsOfPeersAreBounded(t *testing.T) {
	a := packed(t, 10, 100<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		h := f.start("web-1")
		wait(t, a, h.fetch(t.Context(), h.job(a, s)))
		hex := a.ref.Digest.Hex()
		for _, one := range []struct {
			method, path, body string
			code               int
		}{
			{"GET", hex + "/pieces/0/1", "", 200},
			{"GET", hex + "/pieces/0/0", "", 404},
			{"GET", hex + "/pieces/-1/1", "", 404},
			{"GET", hex + "/pieces/0/9223372036854775807", "", 404},
			{"GET", hex + "/pieces/9223372036854775807/1", "", 404},
			{"GET", hex + "/pieces/0/" + strconv.Itoa(a.index.Len()), "", 404}, // more than one request may ask for
			{"GET", hex + "/pieces/x/1", "", 404},
			{"GET", "zz/news", "", 400},
			{"GET", "zz/index", "", 400},
			{"GET", "zz/pieces/0/1", "", 400},
			{"GET", strings.Repeat("0", 64) + "/index", "", 404},
			{"GET", strings.Repeat("0", 64) + "/pieces/0/1", "", 404},
			{"POST", "zz/lease", "{}", 400},
			{"POST", "zz/dealing", "", 400},
			{"POST", hex + "/lease", "{}", 400},
			{"POST", hex + "/lease", `{"version":1`, 400},
			{"POST", hex + "/lease", `{"version":1,"have":"` + strings.Repeat("A", leaseBytesMax) + `"}`, 400},
			{"POST", hex + "/dealing", "nonsense", 400},
			{"POST", strings.Repeat("0", 64) + "/lease", `{"version":1,"index":"` + string(a.index.Digest()) + `"}`, 200},
			{"POST", hex + "/lease", `{"version":1,"host":"x","index":"` + string(a.index.Digest()) + `","holding":[-1,99999999,3],"others":[-5],"wrong":[-1,1000000],"read":-5,"rate":1,"hosts":-3}`, 200},
		} {
			rec := httptest.NewRecorder()
			h.swarm.handler().ServeHTTP(rec, httptest.NewRequest(one.method, "http://web-1/v1/swarm/"+one.path, strings.NewReader(one.body)))
			if rec.Code != one.code {
				t.Errorf("%s %.80s: %d, expected %d: %s", one.method, one.path, rec.Code, one.code, rec.Body)
			}
		}
	})
}

func TestTheDeskKeepsItsBounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		h := f.start("web-1")
		for i := range 3 * dealingsMax {
			a := foreign(t, 5000+i, byte(i))
			h.swarm.desk.open(a.ref.Digest, a.index, "", "", time.Now())
			if _, err := h.swarm.deal(a.ref.Digest, leaseRequest{Version: leaseVersion, Host: "x"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		d := &h.swarm.desk
		if len(d.dealings) > dealingsMax || len(d.scouts) > dealingsMax {
			t.Errorf("%d dealings and %d scouts are kept", len(d.dealings), len(d.scouts))
		}
	})
}

func TestADealerThatTalksNonsenseIsSurvived(t *testing.T) {
	a := packed(t, 10, 200<<10)
	for name, answer := range map[string]string{
		"pieces that do not exist":  `{"version":1,"yes":true,"pieces":[100000]}`,
		"negative pieces":           `{"version":1,"yes":true,"pieces":[-1]}`,
		"pieces apart":              `{"version":1,"yes":true,"pieces":[0,2]}`,
		"another version":           `{"version":2,"yes":true}`,
		"no JSON":                   `<html>`,
		"asks for the index always": `{"version":1,"needIndex":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, s := newFleet(t, "bad"), &source{a: a}
				defer f.close()
				f.impostor("bad", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/lease") {
						_, _ = io.WriteString(w, answer)
					} else if !strings.HasSuffix(r.URL.Path, "/dealing") {
						http.NotFound(w, r)
					}
				}))
				h := f.start("web-1")
				ctx, cancel := context.WithCancel(t.Context())
				g := h.persist(ctx, h.job(a, s))
				time.Sleep(15 * time.Second)
				synctest.Wait()
				f.lead("web-1") // a leader again that makes sense
				wait(t, a, g)
				cancel()
				payload(t, s, a.index.PayloadSize())
			})
		})
	}
}

func TestAFullDiskEndsTheFetchAndBlamesNobody(t *testing.T) {
	a := packed(t, 10, 200<<10)
	bubble(t, func(t *testing.T) {
		f, s := newFleet(t, "web-1"), &source{a: a}
		defer f.close()
		small, err := store.Open(store.Options{Dir: filepath.Join(f.dir, "small"), KeepFree: -1, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer small.Close()
		h := f.start("web-1", func(o *Options) { o.Store = small })
		if err := h.swarm.Fetch(t.Context(), h.job(a, s)); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("got %v", err)
		}
		if len(h.swarm.Suspects()) > 0 {
			t.Errorf("suspects %v", h.swarm.Suspects())
		}
	})
}

// withoutIndex offers the index as any holder does, and never sends it.
func withoutIndex(w http.ResponseWriter, r *http.Request, honest http.Handler) {
	if strings.HasSuffix(r.URL.Path, "/index") {
		<-r.Context().Done()
		return
	}
	honest.ServeHTTP(w, r)
}

// TestAnIndexThatIsSlowToComeIsHadFromWhoGotItMeanwhile: a slow host that was the first to have the index would keep all others waiting for it.
func TestAnIndexThatIsSlowToComeIsHadFromWhoGotItMeanwhile(t *testing.T) {
	a := packed(t, 5, 100<<10)
	bubble(t, func(t *testing.T) {
		f := newFleet(t, "web-1")
		defer f.close()
		f.liar(t, "slow", a, withoutIndex)
		f.liar(t, "later", a, func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/news") {
				time.Sleep(time.Second)
			}
			honest.ServeHTTP(w, r)
		})
		h, begun := f.start("web-1"), time.Now()
		wait(t, a, h.persist(t.Context(), h.job(a, nil)))
		if took := time.Since(begun); took >= plan.PeerIdle { // of the bubble's clock
			t.Errorf("it took %v", took)
		}
	})
}

// TestAPeerThatOffersAnIndexAndNeverSendsItStopsNobody: who may read the origin goes on reading it beside asking such a peer.
func TestAPeerThatOffersAnIndexAndNeverSendsItStopsNobody(t *testing.T) {
	for _, pinned := range []bool{true, false} {
		a := packed(t, 5, 100<<10)
		bubble(t, func(t *testing.T) {
			f, s := newFleet(t, "web-1"), &source{a: a}
			defer f.close()
			f.liar(t, "liar", a, withoutIndex)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // of the bubble's clock
			defer cancel()
			begun := time.Now()
			var all []*fetching
			for _, name := range names(4) {
				h := f.start(name)
				job := h.job(a, s)
				if !pinned {
					job = unpinned(h, a, s)
				}
				job.Origin = late{job.Origin, 2 * time.Second}
				all = append(all, h.persist(ctx, job))
			}
			wait(t, a, all...)
			if took := time.Since(begun); took > 20*time.Second { // of the bubble's clock
				t.Errorf("pinned %v: it took %v", pinned, took)
			}
		})
	}
}

// late is an origin that takes its time before it answers.
type late struct {
	Origin
	by time.Duration
}

func (l late) wait(ctx context.Context) error {
	select {
	case <-time.After(l.by):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l late) ReadIndex(ctx context.Context) ([]byte, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	return l.Origin.ReadIndex(ctx)
}

func (l late) Size(ctx context.Context) (int64, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.Origin.Size(ctx)
}
