package swarm

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// Bounds and headers of the wire between hosts.
const (
	haveBytesMax    = 1 << 20 // a bitmap
	requestBytesMax = 4 << 20 // a question to the dealer
	versionHeader   = "X-Gitopsd-Version"
	completeVersion = "complete"
)

// handler serves what this host has and, where it deals, leases.
func (s *Swarm) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/swarm/{digest}/have", s.serveHave)
	mux.HandleFunc("GET /v1/swarm/{digest}/index", s.serveIndex)
	mux.HandleFunc("GET /v1/swarm/{digest}/pieces/{from}/{count}", s.servePieces)
	mux.HandleFunc("POST /v1/swarm/{digest}/lease", s.serveLease)
	return mux
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

// holding is what this host has of a bundle.
type holding struct {
	index   *bundle.Index
	have    store.Bitmap
	version string
	read    func(i int) ([]byte, error)
	changed <-chan struct{} // nil when it cannot change any more
}

// holdingOf finds what this host has; ok is false when it has nothing.
func (s *Swarm) holdingOf(digest bundle.Digest) (holding, bool) {
	if b, ok := s.o.Store.Lookup(digest); ok && b.Ref.Index != nil {
		all := store.NewBitmap(b.Ref.Index.Len())
		for i := range b.Ref.Index.Len() {
			all.Set(i)
		}
		return holding{index: b.Ref.Index, have: all, version: completeVersion, read: b.ReadPiece}, true
	}
	s.mu.Lock()
	x := s.exchanges[digest]
	s.mu.Unlock()
	if x == nil {
		return holding{}, false
	}
	changed := x.changed.wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.index == nil {
		return holding{version: "0", changed: changed}, true
	}
	return holding{index: x.index, have: x.partial.Have(), version: strconv.FormatUint(x.version, 10), read: x.partial.Read, changed: changed}, true
}

// serveHave answers with the bitmap once it differs from the version the asker knows, or after a while.
func (s *Swarm) serveHave(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	select {
	case s.polls <- struct{}{}:
		defer func() { <-s.polls }()
	default:
		http.Error(w, "too many polls", http.StatusServiceUnavailable)
		return
	}
	since := r.URL.Query().Get("since")
	patience := time.NewTimer(pollWait)
	defer patience.Stop()
	for {
		appeared := s.changed.wait()
		h, _ := s.holdingOf(digest)
		if h.version != since && h.index != nil || since == "" {
			s.sendHave(w, h)
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-patience.C:
			s.sendHave(w, h)
			return
		case <-appeared:
		case <-h.changed:
		}
	}
}

// sendHave writes a bitmap.
func (s *Swarm) sendHave(w http.ResponseWriter, h holding) {
	version := h.version
	if version == "" {
		version = "none"
	}
	w.Header().Set(versionHeader, version)
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(h.have)
}

// serveIndex sends the piece index.
func (s *Swarm) serveIndex(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	h, _ := s.holdingOf(digest)
	if h.index == nil {
		http.Error(w, "the index is not here yet", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(h.index.Encode())
}

// servePieces sends a run of neighbouring pieces, each verified as it is read. A host that is busy says so at once.
func (s *Swarm) servePieces(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	select {
	case s.uploads <- struct{}{}:
		defer func() { <-s.uploads }()
	default:
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	h, _ := s.holdingOf(digest)
	from, err1 := strconv.Atoi(r.PathValue("from"))
	count, err2 := strconv.Atoi(r.PathValue("count"))
	if h.index == nil || err1 != nil || err2 != nil || from < 0 || count < 1 || count > h.index.Len() || from > h.index.Len()-count {
		http.Error(w, "no such pieces here", http.StatusNotFound)
		return
	}
	for i := from; i < from+count; i++ {
		if !h.have.Has(i) {
			http.Error(w, "not all of these pieces are here", http.StatusNotFound)
			return
		}
	}
	s.sendPieces(w, r, h, from, count)
}

// sendPieces writes the bytes.
func (s *Swarm) sendPieces(w http.ResponseWriter, r *http.Request, h holding, from, count int) {
	var size int64
	for i := from; i < from+count; i++ {
		size += int64(h.index.Piece(i).Size)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	for i := from; i < from+count; i++ {
		data, err := h.read(i)
		if err != nil {
			s.log.Warn("a piece on this disk cannot be served", "piece", i, "error", err)
			panic(http.ErrAbortHandler)
		}
		if take(r.Context(), s.up, len(data)) != nil {
			return
		}
		if _, err := w.Write(data); err != nil {
			return
		}
	}
}

// serveLease answers a host that asks this one, as dealer, what to read from the origin.
func (s *Swarm) serveLease(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(w, r)
	if !ok {
		return
	}
	var q leaseRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, requestBytesMax)).Decode(&q); err != nil {
		http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	q.Host = requester(r, q.Host)
	answer, err := s.deal(digest, q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}
