package swarm

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// handler serves what this host has and, where it deals, leases.
func (s *Swarm) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/swarm/{digest}/news", s.serveNews)
	mux.HandleFunc("GET /v1/swarm/{digest}/index", s.serveIndex)
	mux.HandleFunc("GET /v1/swarm/{digest}/pieces/{from}/{count}", s.servePieces)
	mux.HandleFunc("POST /v1/swarm/{digest}/lease", s.serveLease)
	mux.HandleFunc("POST /v1/swarm/{digest}/dealing", s.serveDealing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.serving.enter() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		defer s.serving.leave()
		now, control := time.Now(), http.NewResponseController(w)
		_ = control.SetWriteDeadline(now.Add(writeTimeout))
		if r.Method == http.MethodPost {
			_ = control.SetReadDeadline(now.Add(writeTimeout))
		}
		mux.ServeHTTP(w, r)
	})
}

// digestOf reads the digest of a request's path.
func digestOf(w http.ResponseWriter, r *http.Request) (bundle.Digest, bool) {
	digest, err := bundle.ParseDigest("sha256:" + r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return "", false
	}
	return digest, true
}

// holding is what this host has of a bundle; nothing if index is nil.
type holding struct {
	index   *bundle.Index
	have    plan.Bits
	read    func(i int, buf []byte) ([]byte, error)
	state   state
	done    bool
	members int
	changed <-chan struct{} // nil where nothing changes
}

// holdingOf finds what this host has.
func (s *Swarm) holdingOf(digest bundle.Digest) holding {
	s.mu.Lock()
	x := s.exchanges[digest]
	s.mu.Unlock()
	if b, ok := s.o.Store.Lookup(digest); ok && b.Ref.Index != nil {
		all := plan.NewBits(b.Ref.Index.Len())
		for i := range b.Ref.Index.Len() {
			all.Set(i)
		}
		return holding{index: b.Ref.Index, have: all, read: b.ReadPiece, done: true}
	}
	if x == nil {
		return s.leftover(digest)
	}
	h := holding{changed: x.gained.wait()}
	x.mu.Lock()
	defer x.mu.Unlock()
	h.state, h.members = x.state(), len(x.peers)
	if x.index != nil {
		h.index, h.have, h.read = x.index, plan.Bits(x.partial.Have()), x.partial.Read
	}
	return h
}

// leftover is what an exchange that gave up, or one before a restart, left on this disk.
func (s *Swarm) leftover(digest bundle.Digest) holding {
	p, ok := s.o.Store.Partial(digest)
	if !ok {
		return holding{}
	}
	index, have := p.Index(), p.Have()
	if index == nil || len(have) != len(store.NewBitmap(index.Len())) {
		return holding{}
	}
	return holding{index: index, have: plan.Bits(have), read: p.Read}
}

// view is the holding as the news tell it.
func (h holding) view() view {
	if h.index == nil {
		return view{state: h.state}
	}
	return view{index: h.index.Digest(), have: h.have, state: h.state}
}

// serveNews tells what this host has of a bundle, and what it gets, until the asker leaves. The first news go at once; those after them are gathered for a moment.
func (s *Swarm) serveNews(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, "too many hosts listen", http.StatusServiceUnavailable)
		return
	}
	defer s.uploads.listen(digest)()
	w.Header().Set("Content-Type", "application/octet-stream")
	news, control := &newsWriter{w: bufio.NewWriter(w)}, http.NewResponseController(w)
	if _, err := news.w.WriteString(newsMagic); err != nil {
		return
	}
	pause := newsPause{alive: time.NewTimer(newsAliveAt), gap: time.NewTimer(0)}
	defer pause.alive.Stop()
	defer pause.gap.Stop()
	var deadline time.Time
	for {
		appeared := s.appeared.wait()
		h := s.holdingOf(digest)
		if now := time.Now(); deadline.Sub(now) < newsSilence-newsAliveAt { // once a second is enough
			deadline = now.Add(newsSilence)
			_ = control.SetWriteDeadline(deadline)
		}
		told, err := news.tell(h.view())
		if err == nil && !told {
			err = news.frame(newsAlive, nil)
		}
		if err == nil {
			err = news.w.Flush()
		}
		if err == nil {
			err = control.Flush()
		}
		if err != nil || !s.awaitNews(r.Context(), digest, pause, news, h, appeared) {
			return
		}
	}
}

// newsPause is the timers of the pause between two news of a stream.
type newsPause struct{ alive, gap *time.Timer }

// awaitNews waits until there is something to tell, or it is time for a sign of life; false when the asker is gone.
func (s *Swarm) awaitNews(ctx context.Context, digest bundle.Digest, pause newsPause, news *newsWriter, h holding, appeared <-chan struct{}) bool {
	pause.alive.Reset(newsAliveAt)
	pause.gap.Reset(plan.NewsGap(h.members))
	var changed <-chan struct{} // of no interest before the gap is over: in a busy exchange that would be most of what this host does
	for open := false; ; {
		select {
		case <-ctx.Done():
			return false
		case <-pause.gap.C:
			open = true
		case <-pause.alive.C:
			return true
		case <-appeared:
			appeared = s.appeared.wait()
		case <-changed:
		}
		h = s.holdingOf(digest)
		if open {
			changed = h.changed
		}
		if (open || h.done) && news.differs(h.view()) {
			return true
		}
	}
}

// serveIndex sends the piece index.
func (s *Swarm) serveIndex(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	h := s.holdingOf(digest)
	if h.index == nil {
		http.Error(w, "the index is not here yet", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(h.index.Encode())))
	_, _ = w.Write(h.index.Encode())
}

// servePieces sends a run of neighbouring pieces, each verified as it is read. A host that is busy says so at once.
func (s *Swarm) servePieces(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	if !s.uploads.take(digest) {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	defer s.uploads.release(digest)
	h := s.holdingOf(digest)
	from, err1 := strconv.Atoi(r.PathValue("from"))
	count, err2 := strconv.Atoi(r.PathValue("count"))
	if h.index == nil || err1 != nil || err2 != nil || from < 0 || count < 1 || count > h.index.Len() || from > h.index.Len()-count {
		http.Error(w, "no such pieces here", http.StatusNotFound)
		return
	}
	var size int64
	for i := from; i < from+count; i++ {
		if size += int64(h.index.Piece(i).Size); !h.have.Has(i) || size > plan.PeerRunMax && count > 1 {
			http.Error(w, "piece "+strconv.Itoa(i)+" is not here, or these are too many at once", http.StatusNotFound)
			return
		}
	}
	link, leave, ok := s.links.enter(digest, s.site(s.o.Host), s.site(requester(r, "")).Name)
	if !ok {
		http.Error(w, "the link to that site is busy", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	buf := s.buffers.take()
	defer func() { s.buffers.give(buf) }()
	for i := from; i < from+count; i++ {
		data, err := h.read(i, buf)
		if err != nil {
			s.log.Warn("a piece on this disk cannot be served", "digest", digest.Short(), "piece", i, "error", err)
			panic(http.ErrAbortHandler)
		}
		buf = data
		if s.sendPiece(w, r, data, link) != nil {
			return
		}
	}
}

// sendPiece writes a piece within the rates of this host and of its site's link, in small parts where there are any, so that the asker sees it move.
func (s *Swarm) sendPiece(w http.ResponseWriter, r *http.Request, data []byte, link *rate.Limiter) error {
	control := http.NewResponseController(w)
	part, limited := len(data), s.o.Upload > 0 || link != nil
	if limited {
		part = throttled
	}
	for len(data) > 0 {
		n := min(part, len(data))
		if link != nil {
			if err := take(r.Context(), link, n); err != nil {
				return err
			}
		}
		if err := take(r.Context(), s.up, n); err != nil {
			return err
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		if data = data[n:]; limited {
			if err := control.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// errStranger answers a host that asks for what it does not need.
const errStranger = "no group of the host has this bundle"

// needs says whether a host may need a bundle, for all that is known.
func (s *Swarm) needs(host string, digest bundle.Digest) bool {
	return s.o.Needs == nil || s.o.Needs(host, digest)
}

// serveLease answers a host that asks this one, as dealer, what to read from the origin.
func (s *Swarm) serveLease(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	var q leaseRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, leaseBytesMax)).Decode(&q); err != nil {
		http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if q.Host = requester(r, q.Host); !s.needs(q.Host, digest) {
		http.Error(w, errStranger, http.StatusForbidden)
		return
	}
	answer, err := s.deal(digest, q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// serveDealing takes the index of a bundle that this host, as dealer, does not know yet.
func (s *Swarm) serveDealing(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	by := requester(r, "")
	if !s.needs(by, digest) {
		http.Error(w, errStranger, http.StatusForbidden)
		return
	}
	if !s.desk.receive() {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	defer s.desk.received()
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bundle.MaxIndexBytes))
	if err != nil {
		http.Error(w, "cannot read the index: "+err.Error(), http.StatusBadRequest)
		return
	}
	index, err := bundle.DecodeIndex(data)
	if err == nil && !index.Framed() && index.PayloadDigest() != digest {
		err = errors.New("it belongs to another bundle")
	}
	if err != nil {
		http.Error(w, "cannot use the index: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.desk.open(digest, index, s.site(by).realm(), cmp.Or(by, "?"), time.Now())
}
