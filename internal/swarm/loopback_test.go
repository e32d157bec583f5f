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
func newSecured(t testing.TB, f *fleet, n int, change ...func(*Options)) *secured {
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
		o := Options{Host: name, Store: h.store, Listener: carrier.Listener(transport.BundleALPN), Client: carrier.HTTPClient(transport.BundleALPN)}
		for _, c := range change {
			c(&o)
		}
		if h.swarm, err = New(o); err != nil {
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

// twoSites puts the first three of six hosts in site a and the others in b.
func twoSites(own bool, links map[string]int64) func(*Options) {
	return func(o *Options) {
		o.Site = func(host string) Site {
			if host <= "web-3" {
				return Site{Name: "a", Own: own, Links: links}
			}
			return Site{Name: "b", Own: own}
		}
	}
}

func TestTwoSitesOverMutualTLSReadTheOriginOnceOrTwice(t *testing.T) {
	a := packed(t, 40, 200<<10)
	for copies, own := range map[int64]bool{1: false, 2: true} {
		f, src := newFleet(t, "web-2"), &source{a: a}
		s := newSecured(t, f, 6, twoSites(own, nil))
		s.all(t, a, src)
		payload(t, src, copies*a.index.PayloadSize())
		var far int64
		for _, h := range s.hosts {
			far += h.swarm.Progress(a.ref.Digest).FromFar
		}
		if (far == 0) != own {
			t.Errorf("own origin %v: %d bytes went between the sites", own, far)
		}
		s.stop()
	}
}

func TestAPieceIsTakenFromTheOwnSite(t *testing.T) {
	a := packed(t, 40, 200<<10)
	f, src := newFleet(t, "web-2"), &source{a: a}
	s := newSecured(t, f, 6, twoSites(false, nil))
	defer s.stop()
	late := s.hosts["web-3"]
	delete(s.hosts, "web-3")
	s.all(t, a, src)
	wait(t, a, late.fetch(t.Context(), late.job(a, src)))
	if p := late.swarm.Progress(a.ref.Digest); p.FromFar != 0 || p.FromOrigin != 0 || p.FromPeers != a.index.PayloadSize() {
		t.Errorf("what its neighbours have came from elsewhere: %+v", p)
	}
}

func TestTheLinkBetweenSitesIsLimitedOverMutualTLS(t *testing.T) {
	a, limit := foreign(t, 3<<20, 5), int64(1<<20)
	f, src := newFleet(t, "web-2"), &source{a: a}
	s := newSecured(t, f, 4, twoSites(false, map[string]int64{"b": limit}))
	defer s.stop()
	alone := s.hosts["web-4"]
	delete(s.hosts, "web-4")
	s.all(t, a, src)
	begin := time.Now()
	wait(t, a, alone.fetch(t.Context(), alone.job(a, nil)))
	p := alone.swarm.Progress(a.ref.Digest)
	if p.FromFar != a.ref.Size {
		t.Errorf("%+v", p)
	}
	if least := time.Duration(float64(p.FromFar-limit) / float64(limit) * float64(time.Second)); time.Since(begin) < least { // a second's worth may go at once
		t.Errorf("%d bytes at %d a second took %v", p.FromFar, limit, time.Since(begin))
	}
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
