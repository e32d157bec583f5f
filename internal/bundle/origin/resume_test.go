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
	"sync/atomic"
	"testing"
)

// countedSite is an S3 site that counts the parts sent, may refuse to list, and may be down.
func countedSite(t *testing.T) (s site, parts *atomic.Int32, refuseLists, down *atomic.Bool) {
	t.Helper()
	s = s3Site(t)
	target, err := url.Parse(s.options.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	parts, refuseLists, down = &atomic.Int32{}, &atomic.Bool{}, &atomic.Bool{}
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
		case q.Has("partNumber"):
			parts.Add(1)
		}
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
	first := parts.Swap(0)
	var from int64
	if err := Put(t.Context(), s.location("a"), s.options, bytes.NewReader(data), int64(len(data)), func(n int64) {
		if from == 0 {
			from = n
		}
	}); err != nil {
		t.Fatal(err)
	}
	// A part that was under way when the first was interrupted may have arrived or not.
	if second := parts.Swap(0); second > all-3 || second < all-first || from < 3*minPartBytes {
		t.Errorf("%d parts were sent, then %d of %d from byte %d on", first, second, all, from)
	}
	checkStored(t, s, "a", data)

	interrupt(t, s, "b", data)
	parts.Store(0)
	other := noise(6*minPartBytes + 5)
	other[0] ^= 1
	if err := Put(t.Context(), s.location("b"), s.options, bytes.NewReader(other), int64(len(other)), nil); err != nil || parts.Swap(0) != all {
		t.Errorf("another archive on the key goes on from the first one's parts (%v)", err)
	}
	checkStored(t, s, "b", other)

	interrupt(t, s, "c", data)
	parts.Store(0)
	refuse.Store(true)
	if err := Put(t.Context(), s.location("c"), s.options, bytes.NewReader(data), int64(len(data)), nil); err != nil || parts.Swap(0) != all {
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
	parts.Store(0)
	if err := Put(t.Context(), s.location("a"), s.options, bytes.NewReader(data), int64(len(data)), nil); err != nil || parts.Load() > 3 {
		t.Errorf("%d parts (%v)", parts.Load(), err)
	}
	checkStored(t, s, "a", data)
}
