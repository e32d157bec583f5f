package e2e

import (
	"context"
	"crypto/ed25519"
	wire "encoding/binary"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/gossip"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// liar runs under a real host's key, is a member of the fleet, says that it has every piece of a bundle, and sends noise.
type liar struct {
	index *bundle.Index
	lies  atomic.Int64 // pieces sent
}

// inventory is what the liar knows of the fleet; it satisfies transport.Directory.
type inventory map[string]inventoryHost

type inventoryHost struct {
	key     ed25519.PublicKey
	address string
}

func (v inventory) Keys(host string) []ed25519.PublicKey {
	if h, ok := v[host]; ok {
		return []ed25519.PublicKey{h.key}
	}
	return nil
}

func (v inventory) Host(key ed25519.PublicKey) (string, bool) {
	for name, h := range v {
		if h.key.Equal(key) {
			return name, true
		}
	}
	return "", false
}

func (v inventory) Address(host string) (string, bool) {
	h, ok := v[host]
	return h.address, ok
}

// hostKey reads a host's private key.
func hostKey(t testing.TB, h *host) ed25519.PrivateKey {
	t.Helper()
	key, err := transport.LoadKey(filepath.Join(h.dir, "data", "host.key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// startLiar runs a liar in the place of a host's agent.
func startLiar(t *testing.T, f *fleet, h *host, index *bundle.Index) *liar {
	t.Helper()
	all := inventory{}
	for _, other := range f.hosts {
		all[other.name] = inventoryHost{key: hostKey(t, other).Public().(ed25519.PublicKey), address: other.address}
	}
	tr, err := transport.New(transport.Options{Identity: transport.Identity{Host: h.name, Key: hostKey(t, h), Instance: transport.NewInstance()},
		Listen: h.address, Advertise: h.address, Directory: all})
	if err != nil {
		t.Fatal(err)
	}
	seeds := func() []gossip.Seed {
		var seeds []gossip.Seed
		for _, other := range f.hosts {
			if other != h {
				seeds = append(seeds, gossip.Seed{Name: other.name, Addr: other.address})
			}
		}
		return seeds
	}
	members, err := gossip.New(gossip.Options{Host: h.name, Instance: tr.Instance(), Advertise: h.address, Streams: tr, Seeds: seeds,
		Allowed: func(host string) bool { _, ok := all[host]; return ok }, Timing: gossip.Fast()})
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{index: index}
	server := &http.Server{Handler: l.handler()}
	listener := tr.Listener(transport.BundleALPN)
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { _ = tr.Run(ctx) })
	loops.Go(func() { _ = members.Run(ctx) })
	loops.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		cancel()
		server.Close()
		loops.Wait()
	})
	return l
}

// handler speaks the protocol between hosts that share a bundle.
func (l *liar) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/swarm/{digest}/news", l.news)
	mux.HandleFunc("GET /v1/swarm/{digest}/pieces/{from}/{count}", func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(r.PathValue("from"))
		count, _ := strconv.Atoi(r.PathValue("count"))
		for i := from; i < from+count && i < l.index.Len(); i++ {
			l.lies.Add(1)
			if _, err := w.Write(make([]byte, l.index.Piece(i).Size)); err != nil {
				return
			}
		}
	})
	return mux
}

// news tells, in frames of kind, length and payload, that every piece of the index is here, and stays on the line.
func (l *liar) news(w http.ResponseWriter, r *http.Request) {
	frame := func(kind byte, payload []byte) []byte {
		return append(wire.LittleEndian.AppendUint32([]byte{kind}, uint32(len(payload))), payload...)
	}
	sum, ok := l.index.Digest().Sum()
	if !ok {
		http.Error(w, "the index has no digest", http.StatusInternalServerError)
		return
	}
	have := store.NewBitmap(l.index.Len())
	for i := range l.index.Len() {
		have.Set(i)
	}
	text := append([]byte("gitopsd-news/1\n"), frame('I', sum[:])...)
	text = append(text, frame('B', have)...)
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for {
		if _, err := w.Write(text); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		text = frame('A', nil)
		select {
		case <-r.Context().Done():
			return
		case <-alive.C:
		}
	}
}

func TestPeerThatServesCorruptBytesIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3, late: []int{4}})
	revision := f.publish(release{name: "one", size: dealtBytes})
	l := startLiar(t, f, f.hosts[4], f.storedIndex("one"))
	eventually(t, "gossip knows the liar on every honest host", func() string {
		for _, h := range f.hosts[:4] {
			if !strings.Contains(h.agentLog(), "web-5") {
				return h.name + " has not heard of it"
			}
		}
		return ""
	})
	targets := func(id, name, hosts string) string {
		return fmt.Sprintf("id: %s\napplicationName: %s\ndeploymentGroupName: %s\ncoordinators: web\ntargets: {hosts: [%s]}\n%s%s", id, name, name, hosts, revision, allAtOnce)
	}
	f.s3.payload.Store(0)
	f.git.write(website+"/group.yaml", targets("01WEBSITE0", "website", "web-1, web-2, web-3, web-4"))
	f.git.write("shop/test/decoy/group.yaml", targets("01DECOY000", "decoy", "web-5"))
	f.git.commit("release one")
	f.awaitRelease("one", f.hosts[:4]...)
	if l.lies.Load() == 0 {
		t.Fatal("nobody asked the liar, so this test shows nothing")
	}
	named := 0
	for _, h := range f.hosts[:4] {
		if strings.Contains(h.agentLog(), "peer=web-5") {
			named++
			contains(t, "status on "+h.name, f.command("status", "--addr", h.socket), "CorruptPeer web-5", "sha256")
		}
	}
	if named == 0 {
		t.Error("nobody names the liar")
	}
	t.Logf("%d wrong pieces were sent; %d of 4 hosts name the liar; %d bytes left S3", l.lies.Load(), named, f.s3.payload.Load())
	f.assertOneCopyLeft("one")
	f.assertOnce()
}
