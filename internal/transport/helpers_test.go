package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inventory is a Directory that tests change.
type inventory struct {
	mu    sync.Mutex
	keys  map[string][]ed25519.PublicKey
	addrs map[string]string
}

func newInventory() *inventory {
	return &inventory{keys: map[string][]ed25519.PublicKey{}, addrs: map[string]string{}}
}

func (i *inventory) Keys(host string) []ed25519.PublicKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[host]
}

func (i *inventory) Host(key ed25519.PublicKey) (string, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for host, keys := range i.keys {
		for _, k := range keys {
			if k.Equal(key) {
				return host, true
			}
		}
	}
	return "", false
}

func (i *inventory) Address(host string) (string, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	a, ok := i.addrs[host]
	return a, ok
}

func (i *inventory) set(host, addr string, keys ...ed25519.PublicKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(keys) > 0 {
		i.keys[host] = keys
	}
	if addr != "" {
		i.addrs[host] = addr
	}
}

func (i *inventory) remove(host string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.keys, host)
	delete(i.addrs, host)
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// host is a transport under test.
type host struct {
	*Transport
	key    ed25519.PrivateKey
	events chan Event
	stop   func()
}

// bind makes a transport that knows dir and listens, without running it.
func bind(t testing.TB, name string, key ed25519.PrivateKey, dir Directory) *host {
	t.Helper()
	h := unbound(t, name, key, dir)
	if _, err := h.Bind(); err != nil {
		t.Fatal(err)
	}
	return h
}

// unbound makes a transport that knows dir.
func unbound(t testing.TB, name string, key ed25519.PrivateKey, dir Directory) *host {
	t.Helper()
	h := &host{key: key, events: make(chan Event, 16)}
	tr, err := New(Options{
		Identity:  Identity{Host: name, Key: key, Instance: NewInstance()},
		Listen:    "127.0.0.1:0",
		Directory: dir,
		Events: func(e Event) {
			select {
			case h.events <- e:
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Transport = tr
	h.stop = func() { _ = tr.Close() }
	t.Cleanup(func() { h.stop() })
	return h
}

// run runs it until stop or the end of the test.
func (h *host) run(t testing.TB) *host {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Run: %v", h.Host(), err)
		}
	})
	eventually(t, "transport runs", h.running)
	return h
}

// pair is two running hosts that know each other; b echoes "echo/1" streams.
func pair(t testing.TB) (a, b *host, dir *inventory) {
	t.Helper()
	dir = newInventory()
	a = bind(t, "web-1", newKey(t), dir)
	b = bind(t, "web-2", newKey(t), dir)
	dir.set("web-1", a.Addr().String(), public(a.key))
	dir.set("web-2", b.Addr().String(), public(b.key))
	b.HandleStream("echo/1", echo)
	return a.run(t), b.run(t), dir
}

func echo(_ context.Context, s Stream) { _, _ = io.Copy(s, s) }

// eventually waits for a condition with a deadline.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond) // polling; the condition decides
	}
}

// say sends text over an echoing conversation and wants it back.
func say(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if err := ask(c, text); err != nil {
		t.Fatal(err)
	}
}

func ask(c net.Conn, text string) error {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != text {
		return errors.New("echo says " + string(b))
	}
	return nil
}

// ends waits for the connection to be closed from the other side or by us.
func ends(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("connection is still open: %v", err)
	}
}

func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
