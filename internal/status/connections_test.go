package status

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// served serves a handler on a unix socket with these bounds; dial connects as a peer.
func served(t *testing.T, most, perPeer int, h http.Handler) (dial func(peer string) net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	inner, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := LimitConnections(inner)
	peers := make(chan string, 64) // connections are accepted in the order of dialling
	l.most, l.perPeer, l.peer = most, perPeer, func(net.Conn) string { return <-peers }
	server := &http.Server{Handler: h, ConnState: l.ConnState, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return func(peer string) net.Conn {
		peers <- peer
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
}

// asks sends a request and says whether the answer begins.
func asks(c net.Conn) error {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: agent\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return err
}

func wantClosed(t *testing.T, c net.Conn, why string) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("%s: %v", why, err)
	} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Errorf("%s: nothing was closed", why)
	}
}

// A crowd that connects and says nothing, of one process or of many, does not
// delay who asks.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	dial := served(t, 8, 4, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }))
	for _, crowd := range []string{"one", "many"} {
		var first net.Conn
		for i := range 40 {
			peer := "crowd"
			if crowd == "many" {
				peer += string(rune('a' + i%20))
			}
			if c := dial(peer); first == nil {
				first = c
			}
			if i%10 == 9 { // between them somebody of the crowd itself, and somebody else
				for _, who := range []string{peer, "operator"} {
					if err := asks(dial(who)); err != nil {
						t.Fatalf("%s after %d: %v", who, i, err)
					}
				}
			}
		}
		wantClosed(t, first, "the oldest idle one stayed")
	}
}

// Connections with a request under way are never closed for others: beyond the
// bounds the new one is, and once one has ended there is room again.
func TestBusyConnectionsStay(t *testing.T) {
	entered, end := make(chan struct{}), make(chan struct{})
	dial := served(t, 3, 2, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-end
	}))
	answers := make(chan error, 3)
	busy := func(peer string) {
		c := dial(peer)
		go func() { answers <- asks(c) }()
		<-entered
	}
	busy("one")
	busy("one")
	wantClosed(t, dial("one"), "a process has more than its share")
	busy("two")
	wantClosed(t, dial("three"), "more than all may have")
	close(end)
	for range 3 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	go func() { <-entered }()
	// The server calls a connection idle only after its answer has gone out.
	within := time.NewTimer(10 * time.Second)
	defer within.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := asks(dial("one"))
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-within.C:
			t.Fatalf("there is room again: %v", err)
		}
	}
}

func TestProcessIsNamed(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := LimitConnections(inner)
	c, err := net.Dial("unix", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if name := got.(*connection).peer; name == "" {
		t.Error("nobody knows who connected")
	}
}
