package swarm

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// inventory is the transport's Directory of the hosts below.
type inventory struct {
	mu    sync.Mutex
	keys  map[string]ed25519.PublicKey
	addrs map[string]string
}

func (i *inventory) Keys(host string) []ed25519.PublicKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return []ed25519.PublicKey{i.keys[host]}
}

func (i *inventory) Host(key ed25519.PublicKey) (string, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for host, k := range i.keys {
		if k.Equal(key) {
			return host, true
		}
	}
	return "", false
}

func (i *inventory) Address(host string) (string, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	addr, ok := i.addrs[host]
	return addr, ok
}

// secured is a fleet over mutual TLS on loopback.
type secured struct {
	hosts map[string]*host
	stop  func()
}

// newSecured starts n hosts; stop waits for everything they started.
func newSecured(t testing.TB, f *fleet, n int) *secured {
	t.Helper()
	known := &inventory{keys: map[string]ed25519.PublicKey{}, addrs: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	s := &secured{hosts: map[string]*host{}}
	var stores []*store.Store
	for _, name := range names(n) {
		public, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		carrier, err := transport.New(transport.Options{Identity: transport.Identity{Host: name, Key: key, Instance: transport.NewInstance()}, Listen: "127.0.0.1:0", Directory: known})
		if err != nil {
			t.Fatal(err)
		}
		addr, err := carrier.Bind()
		if err != nil {
			t.Fatal(err)
		}
		known.mu.Lock()
		known.keys[name], known.addrs[name] = public, addr.String()
		known.mu.Unlock()
		h := &host{f: f, name: name}
		if h.store, err = store.Open(store.Options{Dir: filepath.Join(f.dir, name), KeepFree: -1}); err != nil {
			t.Fatal(err)
		}
		stores = append(stores, h.store)
		if h.swarm, err = New(Options{Host: name, Store: h.store, Listener: carrier.Listener(transport.BundleALPN), Client: carrier.HTTPClient(transport.BundleALPN)}); err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := h.swarm.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() {
			if err := carrier.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		s.hosts[name] = h
		f.hosts[name] = h
	}
	s.stop = func() {
		cancel()
		running.Wait()
		for _, one := range stores {
			if err := one.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	return s
}

// all fetches everywhere and returns how long the last host took.
func (s *secured) all(t testing.TB, a *archive, src *source) time.Duration {
	begin := time.Now()
	var gs []*fetching
	for _, h := range s.hosts {
		gs = append(gs, h.fetch(context.Background(), h.job(a, src)))
	}
	for _, g := range gs {
		<-g.done
	}
	took := time.Since(begin)
	wait(t, a, gs...)
	return took
}

func TestFiveHostsOverMutualTLS(t *testing.T) {
	a := packed(t, 40, 200<<10)
	f := newFleet(t, "web-2")
	s := newSecured(t, f, 5)
	defer s.stop()
	src := &source{a: a}
	s.all(t, a, src)
	payload(t, src, a.index.PayloadSize())
}

// BenchmarkTinyBundle is a bundle of two small files on five hosts of this machine, over TLS and with the store's syncs.
func BenchmarkTinyBundle(b *testing.B) {
	f := newFleet(b, "web-2")
	s := newSecured(b, f, 5)
	defer s.stop()
	n := 1
	for b.Loop() {
		b.StopTimer()
		n++
		a := packed(b, n, 500)
		b.StartTimer()
		s.all(b, a, &source{a: a})
	}
}

// BenchmarkBundle moves 64 MiB to five hosts of this machine.
func BenchmarkBundle(b *testing.B) {
	f := newFleet(b, "web-2")
	s := newSecured(b, f, 5)
	defer s.stop()
	n := byte(0)
	for b.Loop() {
		b.StopTimer()
		n++
		a := foreign(b, 64<<20, n)
		b.StartTimer()
		s.all(b, a, &source{a: a})
	}
	b.SetBytes(64 << 20)
}
