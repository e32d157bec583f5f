package gossip_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/gossip"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// inventory is a Directory in which only the seed's address is known; the
// others are learned by gossip.
type inventory struct {
	mu    sync.Mutex
	keys  map[string]ed25519.PublicKey
	addrs map[string]string
}

func (i *inventory) Keys(host string) []ed25519.PublicKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	if key := i.keys[host]; key != nil {
		return []ed25519.PublicKey{key}
	}
	return nil
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

func (i *inventory) allowed(host string) bool { return len(i.Keys(host)) > 0 }

// agent is one host: a transport and gossip on it.
type agent struct {
	*gossip.Gossip
	transport *transport.Transport
	stop      func() // in order
	crash     func() // the connections first, so that nobody hears a goodbye
}

func start(t *testing.T, name string, key ed25519.PrivateKey, dir *inventory) *agent {
	t.Helper()
	id := transport.Identity{Host: name, Key: key, Instance: transport.NewInstance()}
	tr, err := transport.New(transport.Options{Identity: id, Listen: "127.0.0.1:0", Directory: dir})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := tr.Bind()
	if err != nil {
		t.Fatal(err)
	}
	dir.mu.Lock()
	if name == "host-0" {
		dir.addrs[name] = addr.String()
	}
	dir.mu.Unlock()
	g, err := gossip.New(gossip.Options{
		Host: name, Instance: id.Instance, Version: "test", Advertise: addr.String(), Streams: tr,
		Seeds:   func() []gossip.Seed { return []gossip.Seed{{Name: "host-0"}} },
		Allowed: dir.allowed, Learn: tr.SetAddress, Timing: gossip.Fast(),
	})
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{Gossip: g, transport: tr}
	lower, stopTransport := context.WithCancel(context.Background())
	upper, stopGossip := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	gossipDone, transportDone := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		defer close(transportDone)
		if err := tr.Run(lower); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		defer close(gossipDone)
		if err := g.Run(upper); err != nil {
			t.Error(err)
		}
	})
	a.stop = sync.OnceFunc(func() {
		begin := time.Now()
		stopGossip()
		<-gossipDone
		left := time.Since(begin)
		stopTransport()
		wg.Wait()
		t.Logf("%s stopped gossip in %v, all in %v", name, left.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	})
	a.crash = func() {
		stopTransport()
		<-transportDone
		a.stop()
	}
	t.Cleanup(func() { a.stop() })
	return a
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	begin := time.Now()
	deadline := begin.Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond) // polling; the condition decides
	}
	t.Logf("%s: after %v", what, time.Since(begin).Round(time.Millisecond))
}

func TestFiveHostsOnLoopback(t *testing.T) {
	dir := &inventory{keys: map[string]ed25519.PublicKey{}, addrs: map[string]string{}}
	keys := map[string]ed25519.PrivateKey{}
	for i := range 5 {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("host-%d", i)
		dir.keys[name], keys[name] = public, private
	}
	agents := map[string]*agent{}
	for i := range 5 {
		name := fmt.Sprintf("host-%d", i)
		agents[name] = start(t, name, keys[name], dir)
	}
	believed := func(of string, s gossip.State) bool {
		for at, a := range agents {
			if at == of {
				continue
			}
			found := false
			for _, m := range a.Members() {
				found = found || m.Name == of && m.State == s
			}
			if !found {
				return false
			}
		}
		return true
	}
	joined := func() bool {
		for name := range agents {
			if !believed(name, gossip.Alive) {
				return false
			}
		}
		return true
	}
	eventually(t, "five hosts know each other", joined)

	heard := make(chan string, 16)
	for name, a := range agents {
		a.Notify("tip", func(host string, value []byte) {
			heard <- name + " heard " + string(value) + " from " + host
		})
	}
	begin := time.Now()
	if err := agents["host-3"].Publish("tip", []byte("c0ffee")); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		select {
		case <-heard:
		case <-time.After(30 * time.Second):
			t.Fatal("a fact did not reach everybody")
		}
	}
	t.Logf("fact heard by all after %v", time.Since(begin))
	for name, a := range agents {
		if got := string(a.Facts("tip")["host-3"]); got != "c0ffee" {
			t.Errorf("%s has %q", name, got)
		}
	}

	agents["host-4"].stop()
	delete(agents, "host-4")
	eventually(t, "host-4 has left", func() bool { return believed("host-4", gossip.Left) })
	agents["host-4"] = start(t, "host-4", keys["host-4"], dir) // at another port
	eventually(t, "host-4 is back", joined)

	// A host that leaves the inventory is cut off.
	dir.mu.Lock()
	delete(dir.keys, "host-2")
	dir.mu.Unlock()
	for _, a := range agents {
		a.transport.Sweep()
	}
	for name, a := range agents {
		for _, m := range a.Members() {
			if m.Name == "host-2" && name != "host-2" {
				t.Errorf("%s still lists host-2", name)
			}
		}
	}
	s, err := agents["host-2"].transport.DialStream(t.Context(), "host-0", "gossip-packet/1")
	if err == nil {
		s.Close()
		t.Error("host-2 still talks to host-0")
	}
	agents["host-2"].stop()
	delete(agents, "host-2")

	agents["host-1"].crash()
	delete(agents, "host-1")
	eventually(t, "host-1 is dead", func() bool { return believed("host-1", gossip.Dead) })
}
