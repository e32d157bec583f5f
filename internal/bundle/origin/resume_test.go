package origin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// partCount counts the parts sent, by upload: those of one that was interrupted may arrive late.
type partCount struct {
	mu        sync.Mutex
	byUpload  map[string]int
	completed string // the upload that was completed last
}

func (c *partCount) note(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch q := r.URL.Query(); {
	case q.Has("partNumber"):
		c.byUpload[q.Get("uploadId")]++
	case q.Has("uploadId") && r.Method == http.MethodPost:
		c.completed = q.Get("uploadId")
	}
}

// sent is how many parts the upload that was completed last took.
func (c *partCount) sent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byUpload[c.completed]
}

// countedSite is an S3 site that counts the parts sent, may refuse to list, and may be down.
func countedSite(t *testing.T) (s site, parts *partCount, refuseLists, down *atomic.Bool) {
	t.Helper()
	s = s3Site(t)
	target, err := url.Parse(s.options.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	parts, refuseLists, down = &partCount{byUpload: map[string]int{}}, &atomic.Bool{}, &atomic.Bool{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case down.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case q.Has("uploads") && r.Method == http.MethodGet && refuseLists.Load():
			w.WriteHeader(http.StatusForbidden)
			return
		}
		parts.note(r)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.options.Endpoint = server.URL
	return s, parts, refuseLists, down
}

// interrupt stores data but gives up when most of it was sent.
func interrupt(t *testing.T, s site, name string, data []byte) (sent int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := Put(ctx, s.location(name), s.options, bytes.NewReader(data), int64(len(data)), func(n int64) {
		if sent = n; n >= int64(len(data))/2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "goes on from there") {
		t.Fatalf("%v", err)
	}
	return sent
}

func checkStored(t *testing.T, s site, name string, data []byte) {
	t.Helper()
	body, err := mustOpen(t, s.location(name), s.options).ReadRange(t.Context(), 0, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	_ = body.Close()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back (%v)", len(got), err)
	}
}

func TestAnInterruptedPutGoesOnWhereItWas(t *testing.T) {
	s, parts, refuse, _ := countedSite(t)
	data := noise(6*minPartBytes + 5)
	const all = 7
	interrupt(t, s, "a", data)
	if _, err := mustOpen(t, s.location("a"), s.options).Size(t.Context()); !NotFound(err) {
		t.Fatalf("an unfinished upload is visible: %v", err)
	}
	var from int64
	if err := Put(t.Context(), s.location("a"), s.options, bytes.NewReader(data), int64(len(data)), func(n int64) {
		if from == 0 {
			from = n
		}
	}); err != nil {
		t.Fatal(err)
	}
	// A part that was under way when the first was interrupted is sent twice.
	if sent := parts.sent(); sent > all+putWorkers || from < 3*minPartBytes {
		t.Errorf("%d parts were sent for %d, the second time from byte %d on", sent, all, from)
	}
	checkStored(t, s, "a", data)

	interrupt(t, s, "b", data)
	other := noise(6*minPartBytes + 5)
	other[0] ^= 1
	if err := Put(t.Context(), s.location("b"), s.options, bytes.NewReader(other), int64(len(other)), nil); err != nil || parts.sent() != all {
		t.Errorf("another archive on the key goes on from the first one's parts (%v)", err)
	}
	checkStored(t, s, "b", other)

	interrupt(t, s, "c", data)
	refuse.Store(true)
	if err := Put(t.Context(), s.location("c"), s.options, bytes.NewReader(data), int64(len(data)), nil); err != nil || parts.sent() != all {
		t.Errorf("without the right to list: %v", err)
	}
	checkStored(t, s, "c", data)
}

func TestAStoreThatGoesDownKeepsWhatArrived(t *testing.T) {
	s, parts, _, down := countedSite(t)
	data := noise(4 * minPartBytes)
	err := Put(t.Context(), s.location("a"), s.options, bytes.NewReader(data), int64(len(data)), func(int64) { down.Store(true) })
	if err == nil || !Transient(err) || !strings.Contains(err.Error(), "goes on from there") {
		t.Fatalf("%v", err)
	}
	down.Store(false)
	if err := Put(t.Context(), s.location("a"), s.options, bytes.NewReader(data), int64(len(data)), nil); err != nil || parts.sent() > 4 {
		t.Errorf("%d parts for 4 (%v)", parts.sent(), err)
	}
	checkStored(t, s, "a", data)
}
