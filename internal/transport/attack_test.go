package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// knock does a TLS handshake as an attacker would and reads the hello.
func knock(t *testing.T, addr string, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	raw, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	config.InsecureSkipVerify = true
	c := tls.Client(raw, config)
	t.Cleanup(func() { c.Close() })
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	g, err := readGreeting(c)
	if err == nil {
		err = g.err()
	}
	return c, err
}

func certFor(t *testing.T, name string, key ed25519.PrivateKey) tls.Certificate {
	t.Helper()
	cert, err := selfSigned(Identity{Host: name, Key: key, Instance: NewInstance()})
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestStrangersAreRefused(t *testing.T) {
	a, b, _ := pair(t)
	addr := b.Addr().String()
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, curve.Public(), curve)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	// The right public key in a certificate that another key uses.
	borrowed := tls.Certificate{Certificate: certFor(t, "web-1", a.key).Certificate, PrivateKey: newKey(t)}
	mux := []string{MuxALPN}
	for name, config := range map[string]*tls.Config{
		"unknown key":             {NextProtos: mux, Certificates: []tls.Certificate{certFor(t, "web-1", newKey(t))}},
		"no certificate":          {NextProtos: mux},
		"another kind of key":     {NextProtos: mux, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: curve}}},
		"no instance":             {NextProtos: mux, Certificates: []tls.Certificate{{Certificate: [][]byte{bare}, PrivateKey: a.key}}},
		"someone's certificate":   {NextProtos: mux, Certificates: []tls.Certificate{borrowed}},
		"protocol not served":     {NextProtos: []string{"h2", APIALPN}, Certificates: []tls.Certificate{certFor(t, "web-1", a.key)}},
		"no protocol":             {Certificates: []tls.Certificate{certFor(t, "web-1", a.key)}},
		"old TLS":                 {NextProtos: mux, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certFor(t, "web-1", a.key)}},
		"unknown key for history": {NextProtos: []string{HistoryALPN}, Certificates: []tls.Certificate{certFor(t, "x", newKey(t))}}, // not served here
	} {
		if _, err := knock(t, addr, config); err == nil {
			t.Errorf("%s: admitted", name)
		}
	}
	if n := b.Connections(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
	// The port still serves its own.
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	say(t, s, "well")
}

func TestRefusalNamesTheKeyOnce(t *testing.T) {
	_, b, _ := pair(t)
	stranger := newKey(t)
	for range 3 {
		_, _ = knock(t, b.Addr().String(), &tls.Config{NextProtos: []string{MuxALPN}, Certificates: []tls.Certificate{certFor(t, "x", stranger)}})
	}
	e := <-b.events
	if e.Kind != EventRefused || !strings.Contains(e.Detail, Fingerprint(public(stranger))) {
		t.Errorf("event %+v", e)
	}
	select {
	case e := <-b.events:
		t.Errorf("told again: %+v", e)
	default:
	}
}

func TestDiallerLearnsThatItIsUnknown(t *testing.T) {
	theirs, mine := newInventory(), newInventory()
	b := bind(t, "web-2", newKey(t), theirs)
	b.HandleStream("echo/1", echo)
	theirs.set("web-2", "", public(b.key))
	a := bind(t, "web-1", newKey(t), mine).run(t)
	b.run(t)
	mine.set("web-2", b.Addr().String(), public(b.key))
	_, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "does not know this host's key") {
		t.Errorf("%v", err)
	}
}

func TestImpostorOfTheServerIsRefused(t *testing.T) {
	a, _, dir := pair(t)
	// A machine with a key of its own sits at web-3's address.
	impostor := bind(t, "web-3", newKey(t), dir).run(t)
	dir.set("web-3", impostor.Addr().String(), public(newKey(t)))
	_, err := a.DialStream(ctxFor(t), "web-3", "echo/1")
	if !errors.Is(err, ErrKeyMismatch) || !strings.Contains(err.Error(), Fingerprint(public(impostor.key))) {
		t.Errorf("%v", err)
	}
	// A server that speaks TLS but not our protocol.
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certFor(t, "web-4", a.key)}, NextProtos: []string{"h2", MuxALPN}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	dir.set("web-4", l.Addr().String(), public(a.key))
	if _, err := a.DialStream(ctxFor(t), "web-4", "echo/1"); err == nil || !strings.Contains(err.Error(), "does not speak gitopsd's protocol") {
		t.Errorf("%v", err)
	}
}

func TestGarbageAndSilenceDoNotHarm(t *testing.T) {
	a, b, _ := pair(t)
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for i := range handshakesPerAddress / 2 {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c) // never says a word
		g, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		junk := make([]byte, 4096)
		_, _ = rand.Read(junk)
		if i%2 == 0 {
			junk = []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		_, _ = g.Write(junk)
		_ = g.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err = io.Copy(io.Discard, g)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("garbage is not answered by closing")
		}
		g.Close()
	}
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	say(t, s, "well")
}

// closed is a connection that only knows whether it was closed.
type closed struct{ is bool }

func (c *closed) Close() error { c.is = true; return nil }

func TestSlowHandshakesAreBounded(t *testing.T) {
	s := newSlots()
	enter := func(address string) *closed {
		c := &closed{}
		s.enter(address, c)
		return c
	}
	var slow []*closed
	for range handshakesPerAddress {
		slow = append(slow, enter("10.0.0.1"))
	}
	if enter("10.0.0.2"); slow[0].is {
		t.Error("one address pays for another")
	}
	if quick := enter("10.0.0.1"); !slow[0].is || slow[1].is || quick.is {
		t.Error("beyond its share an address does not lose just its oldest")
	}
	s.leave("10.0.0.1", slow[0]) // was given up: changes nothing
	s.leave("10.0.0.1", slow[1])
	if enter("10.0.0.1"); slow[2].is {
		t.Error("a place that was left is not given again")
	}
	for i := range handshakesMax - handshakesPerAddress - 1 {
		if enter(fmt.Sprintf("10.1.0.%d", i)).is {
			t.Fatal("given up although there is room")
		}
	}
	if slow[2].is {
		t.Fatal("given up although there is room")
	}
	if late := enter("10.0.0.9"); late.is || !slow[2].is || s.all != handshakesMax {
		t.Errorf("%d handshakes, the newest closed: %v, the oldest of the crowd: %v", s.all, late.is, slow[2].is)
	}
}

// A crowd that says nothing does not keep hosts out, not even those behind the
// same address.
func TestSilentCrowdKeepsNobodyOut(t *testing.T) {
	a, b, _ := pair(t)
	for range 2 * handshakesPerAddress {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	say(t, s, "well")
}

func TestSlowHandshakeIsCutOff(t *testing.T) {
	dir := newInventory()
	b := bind(t, "web-2", newKey(t), dir)
	b.patience = 50 * time.Millisecond
	b.run(t)
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The first bytes of a ClientHello, and then nothing.
	_, _ = c.Write([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01})
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err = io.Copy(io.Discard, c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("a handshake that never ends is waited for")
	}
}

func TestKeyRemovedWhileConnected(t *testing.T) {
	a, b, dir := pair(t)
	l := b.Listener(BundleALPN)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := a.Dial(ctxFor(t), "web-2", BundleALPN)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, s, "stream")
	say(t, c, "bulk")
	b.Sweep()
	say(t, s, "a sweep without a change closes nothing")
	dir.remove("web-1")
	b.Sweep()
	ends(t, s)
	ends(t, c)
	if n := b.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if _, err := a.Dial(ctxFor(t), "web-2", BundleALPN); !errors.Is(err, ErrRefused) {
		t.Errorf("let in again: %v", err)
	}
}

func TestKeyThatMovedToAnotherHostIsSwept(t *testing.T) {
	a, b, dir := pair(t)
	s, err := a.DialStream(ctxFor(t), "web-2", "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir.remove("web-1")
	dir.set("web-7", "", public(a.key))
	b.Sweep()
	ends(t, s)
}

// muxTo opens a session as web-1 without this package's dialler.
func muxTo(t *testing.T, a, b *host) *yamux.Session {
	t.Helper()
	c, err := knock(t, b.Addr().String(), &tls.Config{NextProtos: []string{MuxALPN}, Certificates: []tls.Certificate{certFor(t, "web-1", a.key)}})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Time{})
	m, err := yamux.Client(c, muxConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestBadStreamHeadersAreRefused(t *testing.T) {
	a, b, _ := pair(t)
	m := muxTo(t, a, b)
	for name, header := range map[string][]byte{
		"version":   {9, 0, 1, 4, 'e', 'c', 'h', 'o'},
		"no name":   {wireVersion, 0, 1, 0},
		"long name": append([]byte{wireVersion, 0, 1, 255}, make([]byte, 255)...),
		"bad name":  {wireVersion, 0, 1, 2, 0xff, 0x1b},
	} {
		s, err := m.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := s.Write(header); err != nil {
			t.Fatal(err)
		}
		g, err := readGreeting(s)
		if err != nil || g.status != statusProtocol {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
		if name == "version" && !strings.Contains(g.text, "version 9, this host speaks version 1") {
			t.Errorf("does not name both versions: %q", g.text)
		}
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: stream is still open", name)
		}
		s.Close()
	}
}

func TestFloodOfStreamsIsBounded(t *testing.T) {
	a, b, _ := pair(t)
	m := muxTo(t, a, b)
	var served int
	for range streamsPerSession + 40 {
		s, err := m.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = s.Write(streamHeader{"echo", 1}.append(nil))
		if g, err := readGreeting(s); err == nil && g.status == statusOK {
			served++
		}
	}
	if served != streamsPerSession {
		t.Errorf("%d streams are served at once, want %d", served, streamsPerSession)
	}
}

func TestConnectionsOfOneHostAreBounded(t *testing.T) {
	a, b, _ := pair(t)
	b.Listener(BundleALPN)
	cert := certFor(t, "web-1", a.key)
	var refused error
	admitted := 0
	for range connsPerHost + 5 {
		_, err := knock(t, b.Addr().String(), &tls.Config{NextProtos: []string{BundleALPN}, Certificates: []tls.Certificate{cert}})
		if err != nil {
			refused = err
			continue
		}
		admitted++
	}
	if admitted > connsPerHost || !errors.Is(refused, ErrBusy) {
		t.Errorf("%d connections admitted, then %v", admitted, refused)
	}
}

func TestUnknownKeysGetHistoryOnlyAndLittleOfIt(t *testing.T) {
	_, b, _ := pair(t)
	l := b.Listener(HistoryALPN)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p, _ := PeerOf(c)
			if p.Known || p.Host != "" {
				t.Errorf("unknown key is called %+v", p)
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	var refused error
	admitted := 0
	for range unknownConnsMax + 10 {
		c, err := knock(t, b.Addr().String(), &tls.Config{NextProtos: []string{HistoryALPN}, Certificates: []tls.Certificate{certFor(t, "x", newKey(t))}})
		if err != nil {
			refused = err
			continue
		}
		admitted++
		say(t, c, "history please")
	}
	if admitted < unknownBurst || admitted > unknownConnsMax || !errors.Is(refused, ErrBusy) {
		t.Errorf("%d connections admitted, then %v", admitted, refused)
	}
}

func TestNewcomerReadsHistoryFromAHostItDoesNotKnow(t *testing.T) {
	_, b, _ := pair(t)
	l := b.Listener(HistoryALPN)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	newcomer := bind(t, "web-9", newKey(t), newInventory()).run(t)
	newcomer.SetAddress("web-2", b.Addr().String())
	c, err := newcomer.Dial(ctxFor(t), "web-2", HistoryALPN)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "commits")
	if p, ok := PeerOf(c); !ok || p.Known || p.Host != "web-2" {
		t.Errorf("peer %+v", p)
	}
	if _, err := newcomer.DialStream(ctxFor(t), "web-2", "echo/1"); !errors.Is(err, ErrUnknownHost) {
		t.Errorf("everything else needs a key: %v", err)
	}
}

func TestCloneIsRefusedAndReported(t *testing.T) {
	a, b, dir := pair(t)
	stream := func(h *host) (Stream, error) { return h.DialStream(ctxFor(t), "web-2", "echo/1") }
	first, err := stream(a)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	clone := bind(t, "web-1", a.key, dir).run(t)
	second, err := stream(clone)
	if err != nil {
		t.Fatalf("a restart must get in: %v", err)
	}
	defer second.Close()
	ends(t, first) // the newer instance took the place of the older
	// The older one is alive after all.
	b.instances.mu.Lock()
	b.instances.hosts["web-1"].since = time.Now().Add(-cloneGrace)
	b.instances.mu.Unlock()
	eventually(t, "the older instance is told that it was replaced", func() bool {
		s, err := stream(a)
		if err == nil {
			s.Close()
		}
		return errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "two machines use this host's key")
	})
	e := <-b.events
	if e.Kind != EventClone || e.Host != "web-1" || e.Instance != a.Instance() || e.Current != clone.Instance() {
		t.Errorf("event %+v", e)
	}
	say(t, second, "undisturbed")
}

func TestOwnCloneIsReported(t *testing.T) {
	a, _, dir := pair(t)
	clone := bind(t, "web-1", a.key, dir).run(t)
	if _, err := clone.DialStream(ctxFor(t), "web-1", "echo/1"); err == nil {
		t.Error("a host let its clone in")
	}
	e := <-a.events
	if e.Kind != EventClone || e.Instance != clone.Instance() || e.Current != a.Instance() {
		t.Errorf("event %+v", e)
	}
}

func TestPeerThatNeverRepliesToAHeader(t *testing.T) {
	a, _, dir := pair(t)
	// web-5 accepts sessions and streams but never answers.
	key := newKey(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certFor(t, "web-5", key)}, NextProtos: []string{MuxALPN}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sessions := make(chan *yamux.Session, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write(greeting{}.append(nil))
		m, err := yamux.Server(c, muxConfig())
		if err == nil {
			sessions <- m
		}
	}()
	dir.set("web-5", l.Addr().String(), public(key))
	ctx, cancel := context.WithCancel(ctxFor(t))
	done := make(chan error, 1)
	go func() {
		_, err := a.DialStream(ctx, "web-5", "echo/1")
		done <- err
	}()
	m := <-sessions
	defer m.Close()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pool["web-5"]; p != nil && p.session != nil && p.session.streams != 0 {
		t.Errorf("%d streams are counted", p.session.streams)
	}
}
