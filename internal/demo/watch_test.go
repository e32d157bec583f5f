package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// page serves what it is told to, like the demo's application.
func page(t *testing.T, text *atomic.Value) (port int, stop func()) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, text.Load()) }))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port, server.Close
}

func TestWatcherKeepsWhatChanges(t *testing.T) {
	var one, two atomic.Value
	one.Store("1")
	two.Store("1")
	portOne, stop := page(t, &one)
	portTwo, _ := page(t, &two)
	w := newWatcher(map[string]int{"web-1": portOne, "web-2": portTwo})
	defer w.client.CloseIdleConnections()
	w.look(t.Context())
	w.begin()
	w.look(t.Context())
	two.Store("2")
	w.look(t.Context())
	stop()
	w.look(t.Context())
	w.look(t.Context())
	seen, whole := w.seen()
	if want := fmt.Sprint(sights("1 1", "1 2", "- 2")); fmt.Sprint(seen) != want || !whole {
		t.Errorf("saw %v, want %s", seen, want)
	}
	if w.rounds() != 5 {
		t.Errorf("%d rounds, want 5", w.rounds())
	}
}

func TestWatcherTakesSlownessForNothing(t *testing.T) {
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-hold }))
	defer server.Close()
	defer close(hold)
	w := newWatcher(map[string]int{"web-1": server.Listener.Addr().(*net.TCPAddr).Port})
	w.client.Timeout = time.Millisecond
	defer w.client.CloseIdleConnections()
	w.now = sight{"web-1": "1"}
	w.look(t.Context())
	if got := w.current()["web-1"]; got != "1" {
		t.Errorf("a host that is slow serves %q, want what it served before", got)
	}
}

func TestWatcherEndsWithItsContext(t *testing.T) {
	var text atomic.Value
	text.Store("1")
	port, _ := page(t, &text)
	w := newWatcher(map[string]int{"web-1": port})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.run(ctx) }()
	eventually(t, "the port is seen", func() string {
		if !w.current().all("1") {
			return fmt.Sprint(w.current())
		}
		return ""
	})
	cancel()
	<-ended
}

func TestWatcherIsBounded(t *testing.T) {
	w := newWatcher(map[string]int{"web-1": 1})
	for i := range sightsMax + 1 {
		w.keep(sight{"web-1": fmt.Sprint(i)})
	}
	if all, whole := w.seen(); whole || len(all) != sightsMax {
		t.Errorf("kept %d sights, whole %t", len(all), whole)
	}
}
