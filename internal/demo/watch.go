package demo

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	watchPause   = 25 * time.Millisecond
	watchTimeout = 2 * time.Second
	sightsMax    = 10_000 // changes kept of one chapter
)

// sight is what every host's port served at one moment: host -> release, "" where nothing answered.
type sight map[string]string

// watcher polls the applications' ports, all the time, and keeps what changed.
type watcher struct {
	ports  map[string]int
	client *http.Client

	mu    sync.Mutex
	now   sight
	kept  []sight // since the chapter began, beginning with what was served then
	lost  bool    // more changed than can be kept
	polls int     // complete rounds
}

func newWatcher(ports map[string]int) *watcher {
	now := sight{}
	for host := range ports {
		now[host] = ""
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1, DisableCompression: true}
	return &watcher{ports: ports, now: now, client: &http.Client{Transport: transport, Timeout: watchTimeout}}
}

// run polls until ctx ends.
func (w *watcher) run(ctx context.Context) {
	defer w.client.CloseIdleConnections()
	pace := time.NewTicker(watchPause)
	defer pace.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
	}
}

// look asks every port once.
func (w *watcher) look(ctx context.Context) {
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		seen = w.current()
	)
	for host, port := range w.ports {
		wait.Go(func() {
			serves, known := w.serves(ctx, port)
			if !known {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[host] = serves
		})
	}
	wait.Wait()
	if ctx.Err() == nil {
		w.keep(seen)
	}
}

// serves asks one port. It is not known when the machine was merely too slow to answer.
func (w *watcher) serves(ctx context.Context, port int) (release string, known bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+"/release", nil)
	if err != nil {
		return "", false
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return "", refused(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	switch {
	case err != nil:
		return "", refused(err)
	case resp.StatusCode != http.StatusOK:
		return "", true
	}
	return strings.TrimSpace(string(text)), true
}

// refused says whether an error means that nothing serves, and not that nobody came to answer.
func refused(err error) bool {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// keep remembers a sight if it differs from the one before.
func (w *watcher) keep(s sight) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.polls++
	if maps.Equal(s, w.now) {
		return
	}
	w.now = s
	if len(w.kept) >= sightsMax {
		w.lost = true
		return
	}
	w.kept = append(w.kept, s)
}

// current is a copy of what is served now.
func (w *watcher) current() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.now)
}

// rounds counts how often every port was asked.
func (w *watcher) rounds() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.polls
}

// begin forgets what was seen before: a chapter begins.
func (w *watcher) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept, w.lost = []sight{w.now}, false
}

// seen is what was served since the chapter began; whole is false when too much changed to keep.
func (w *watcher) seen() (all []sight, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]sight(nil), w.kept...), !w.lost
}
