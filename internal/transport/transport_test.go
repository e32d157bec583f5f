package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestNewRefusesBadOptions(t *testing.T) {
	good := Options{Identity: Identity{Host: "h", Key: newKey(t), Instance: "i"}, Listen: "127.0.0.1:0", Directory: newInventory()}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"host":      func(o *Options) { o.Identity.Host = "" },
		"long host": func(o *Options) { o.Identity.Host = strings.Repeat("x", hostNameMax+1) },
		"key":       func(o *Options) { o.Identity.Key = nil },
		"instance":  func(o *Options) { o.Identity.Instance = "two words" },
		"directory": func(o *Options) { o.Directory = nil },
		"listen":    func(o *Options) { o.Listen = "nowhere" },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.HasPrefix(err.Error(), "cannot set up transport: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStreamsShareOneConnection(t *testing.T) {
	a, b, _ := pair(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if p := s.Peer(); p.Host != "web-2" || p.Instance != b.Instance() || !p.Known {
				t.Errorf("peer %+v", p)
			}
			if err := ask(s, fmt.Sprintf("hello %d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := a.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestHandlerKnowsThePeer(t *testing.T) {
	dir := newInventory()
	a, b := bind(t, "web-1", newKey(t), dir), bind(t, "web-2", newKey(t), dir)
	dir.set("web-1", "", public(a.key))
	dir.set("web-2", b.Addr().String(), public(b.key))
	seen := make(chan Peer, 1)
	b.HandleStream("who/1", func(_ context.Context, s Stream) { seen <- s.Peer() })
	a.run(t)
	b.run(t)
	s, err := a.DialStream(ctxFor(t), "web-2", "who/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if p := <-seen; p.Host != "web-1" || p.Instance != a.Instance() || !p.Known || !p.Key.Equal(public(a.key)) {
		t.Errorf("peer %+v", p)
	}
	ends(t, s) // the handler returned
}

func TestCloseWakesAReader(t *testing.T) {
	a, _, _ := pair(t)
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		woken <- err
	}()
	s.Close()
	select {
	case err := <-woken:
		if err == nil {
			t.Error("read returned without an error")
		}
	case <-time.After(20 * time.Second):
		t.Error("reader was not woken")
	}
}

func TestUnknownProtocolNamesBothVersions(t *testing.T) {
	a, b, _ := pair(t)
	for proto, want := range map[string]string{
		"echo/2":  "protocol echo: this host speaks version 1, asked for version 2",
		"other/1": "protocol other is not served here",
		"bad":     "not of the form NAME/VERSION",
		"Bad/1":   "not of the form NAME/VERSION",
	} {
		_, err := a.DialStream(ctxFor(t), "web-2", proto)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cannot dial host web-2") {
			t.Errorf("%s: %v", proto, err)
		}
	}
	if _, err := a.DialStream(ctxFor(t), "web-2", "echo/2"); !errors.Is(err, ErrProtocol) {
		t.Errorf("not ErrProtocol: %v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.pool["web-2"].session.streams; n != 0 {
		t.Errorf("%d streams are counted after refusals", n)
	}
	_ = b
}

func TestDialErrorsSayWhy(t *testing.T) {
	a, b, dir := pair(t)
	stranger := newKey(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	dir.set("gone", closed.Addr().String(), public(stranger))
	dir.set("nowhere", "", public(stranger))
	dir.set("moved", b.Addr().String(), public(newKey(t)))
	for _, test := range []struct {
		host string
		is   error
		text string
	}{
		{"missing", ErrUnknownHost, "cannot dial host missing: host has no key in the inventory"},
		{"nowhere", ErrNoAddress, "cannot dial host nowhere: host has no known address"},
		{"gone", nil, "cannot dial host gone at " + closed.Addr().String() + ": connection refused"},
		{"moved", ErrKeyMismatch, "cannot dial host moved at " + b.Addr().String() + ": wrong host key: presented key of web-2, expected moved"},
	} {
		for _, dial := range []func() error{
			func() error { _, err := a.DialStream(ctxFor(t), test.host, "echo/1"); return err },
			func() error { _, err := a.Dial(ctxFor(t), test.host, APIALPN); return err },
		} {
			err := dial()
			var de *DialError
			if test.host == "moved" && errors.Is(err, ErrProtocol) {
				continue // web-2 serves no API: refused before keys are compared
			}
			if !errors.As(err, &de) || de.Host != test.host || err.Error() != test.text || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%s: %v", test.host, err)
			}
		}
	}
}

func TestLearnedAddressIsTheSecondChoice(t *testing.T) {
	a, b, dir := pair(t)
	right := b.Addr().String()
	dir.set("web-2", "127.0.0.1:1")
	_, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Fatalf("dialled the wrong address: %v", err)
	}
	a.SetAddress("web-2", right)
	eventually(t, "the learned address is dialled", func() bool {
		s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
		if err != nil {
			return false
		}
		defer s.Close()
		return s.RemoteAddr().String() == right
	})
	a.SetAddress("web-2", "")
	if got := a.addresses("web-2"); len(got) != 1 {
		t.Errorf("forgotten address is still there: %v", got)
	}
	a.SetAddress("web-2", "127.0.0.1:2")
	a.Sweep() // changes nothing
	if _, err := a.Dial(ctxFor(t), "web-2", APIALPN); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "127.0.0.1:2") {
		t.Errorf("error does not name both addresses: %v", err)
	}
}

func TestSessionIsDialledAnewAfterARestart(t *testing.T) {
	a, b, dir := pair(t)
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	say(t, s, "before")
	b.stop()
	ends(t, s)
	s.Close()
	again := bind(t, "web-2", b.key, dir)
	again.HandleStream("echo/1", echo)
	dir.set("web-2", again.Addr().String())
	again.run(t)
	eventually(t, "web-2 answers again", func() bool {
		s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
		if err != nil {
			return false
		}
		defer s.Close()
		return s.Peer().Instance == again.Instance() && ask(s, "after") == nil
	})
	if len(a.events) != 0 {
		t.Errorf("a restart is reported: %+v", <-a.events)
	}
}

func TestHTTPCarriesThePeer(t *testing.T) {
	a, b, _ := pair(t)
	l := b.Listener(APIALPN)
	server := &http.Server{
		ConnContext:       ConnContext,
		ReadHeaderTimeout: time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, ok := PeerFromContext(r.Context())
			if r.URL.Path == "/away" {
				http.Redirect(w, r, "http://web-1/", http.StatusFound)
				return
			}
			fmt.Fprintf(w, "%v %s %s", ok, p.Host, r.Host)
		}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Close()
		<-served
	}()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // must not matter
	for range 3 {
		response, err := a.HTTPClient(APIALPN).Get("http://web-2/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) != "true web-1 web-2" {
			t.Errorf("handler says %q", body)
		}
	}
	if n := a.Connections(); n != 1 {
		t.Errorf("%d connections for three requests, want 1", n)
	}
	response, err := a.HTTPClient(APIALPN).Get("http://web-2/away")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusFound {
		t.Errorf("redirect was followed: %s", response.Status)
	}
	if _, err := a.HTTPClient(APIALPN).Get("http://web-9/"); !errors.Is(err, ErrUnknownHost) {
		t.Errorf("unknown host: %v", err)
	}
	if _, ok := PeerOf(&net.TCPConn{}); ok {
		t.Error("a foreign connection has a peer")
	}
}

func TestIdleSessionsAreClosed(t *testing.T) {
	a, b, _ := pair(t)
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(2 * sessionIdle)
	a.keepHouse(later)
	say(t, s, "in use, so kept")
	s.Close()
	a.keepHouse(later)
	eventually(t, "the unused session is closed", func() bool { return a.Connections() == 0 && b.Connections() == 0 })
}

func TestExcessSessionsAreTheLeastRecentlyUsed(t *testing.T) {
	tr := &Transport{pool: map[string]*pooled{}}
	begin := time.Now()
	for i := range pooledSessions + 3 {
		s := &session{lastUsed: begin.Add(time.Duration(i) * time.Second)}
		if i == 0 {
			s.streams = 1 // oldest, but in use
		}
		tr.pool[fmt.Sprint(i)] = &pooled{session: s}
	}
	fresh := tr.pool["66"].session
	out := tr.excessLocked(fresh)
	if len(out) != 3 || len(tr.pool) != pooledSessions || tr.pool["0"] == nil || tr.pool["1"] != nil || tr.pool["3"] != nil || tr.pool["4"] == nil {
		t.Errorf("closed %d, kept %d", len(out), len(tr.pool))
	}
}

func TestStreamsOfOneSessionAreBounded(t *testing.T) {
	a, _, _ := pair(t)
	var open []Stream
	defer func() {
		for _, s := range open {
			s.Close()
		}
	}()
	for range streamsPerSession {
		s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	if _, err := a.DialStream(ctxFor(t), "web-2", "echo/1"); !errors.Is(err, ErrBusy) {
		t.Errorf("one stream too many: %v", err)
	}
	open[0].Close()
	eventually(t, "there is room again", func() bool {
		s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
		if err != nil {
			return false
		}
		s.Close()
		return true
	})
}

func TestRunEndsEverything(t *testing.T) {
	a, b, _ := pair(t)
	var handlers atomic.Int32
	l := b.Listener(BundleALPN)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handlers.Add(1)
			go func() { defer handlers.Add(-1); _, _ = io.Copy(c, c) }()
		}
	}()
	c, err := a.Dial(ctxFor(t), "web-2", BundleALPN)
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, "bulk")
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	say(t, s, "stream")
	b.stop()
	ends(t, c)
	ends(t, s)
	eventually(t, "handlers ended", func() bool { return handlers.Load() == 0 })
	if n := b.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if _, err := b.DialStream(ctxFor(t), "web-1", "echo/1"); !errors.Is(err, ErrClosed) {
		t.Errorf("dialled after the end: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepted after the end: %v", err)
	}
	if err := b.Run(context.Background()); err == nil {
		t.Error("ran twice")
	}
	c.Close()
	s.Close()
}

func TestCancelledDialReturnsAtOnce(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a, _, dir := pair(t)
	dir.set("mute", silent.Addr().String(), public(newKey(t)))
	for _, dial := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := a.DialStream(ctx, "mute", "echo/1"); return err },
		func(ctx context.Context) error { _, err := a.Dial(ctx, "mute", APIALPN); return err },
	} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- dial(ctx) }()
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("not told that it was cancelled: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("dial outlives its context")
		}
	}
}

func TestAddressesThatNameNoMachineAreNotSpread(t *testing.T) {
	tr, err := New(Options{Identity: Identity{Host: "h", Key: newKey(t), Instance: "i"}, Listen: "0.0.0.0:0", Directory: newInventory()})
	if err != nil {
		t.Fatal(err)
	}
	if got := tr.Advertise(); got != "" {
		t.Errorf("advertises %q before it listens", got)
	}
	tr.listener = wildcard{}
	if got := tr.Advertise(); got != "" {
		t.Errorf("advertises %q", got)
	}
	tr.advertise = "10.0.0.1:7946"
	if got := tr.Advertise(); got != "10.0.0.1:7946" {
		t.Errorf("advertises %q", got)
	}
	for _, addr := range []string{"0.0.0.0:7946", "[::]:7946", ":7946", "10.0.0.1", "10.0.0.1:0"} {
		tr.SetAddress("web-2", addr)
		if got := tr.addresses("web-2"); len(got) != 0 {
			t.Errorf("learned %v", got)
		}
	}
	tr.SetAddress("web-2", "web-2.example.com:7946")
	if got := tr.addresses("web-2"); len(got) != 1 {
		t.Errorf("learned %v", got)
	}
}

// wildcard is a listener on all addresses, without opening a port.
type wildcard struct{ net.Listener }

func (wildcard) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 7946} }
