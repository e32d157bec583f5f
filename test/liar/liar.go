// Package liar runs a host that lies. It has a key of the inventory and is a live member of the fleet, but is no agent: it says that it has every piece of a bundle,
// and sends zeros for each. Tests and benchmarks put it in the place of an agent.
package liar

import (
	"context"
	"crypto/ed25519"
	wire "encoding/binary"
	"errors"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/gossip"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// Host is a member of the fleet: the folder that its agent has or would have as dataDir, with its key in it, and the address it listens at, "HOST:PORT".
type Host struct {
	DataDir, Address string
}

// Options are all required.
type Options struct {
	Name   string          // the host that lies
	Fleet  map[string]Host // all hosts by name, the liar included
	Index  *bundle.Index   // of the bundle it lies about
	Timing gossip.Timing   // as the agents have
	Lied   func(to string) // is told of each wrong piece before it is sent, from several goroutines
}

// Liar is made by New.
type Liar struct {
	o         Options
	transport *transport.Transport
	members   *gossip.Gossip
}

// New reads the keys and sets the liar up; Run starts it.
func New(o Options) (*Liar, error) {
	all := inventory{}
	var own ed25519.PrivateKey
	var seeds []gossip.Seed
	for name, host := range o.Fleet {
		key, err := transport.LoadKey(filepath.Join(host.DataDir, "host.key"))
		if err != nil {
			return nil, err
		}
		all[name] = entry{key.Public().(ed25519.PublicKey), host.Address}
		if name == o.Name {
			own = key
			continue
		}
		seeds = append(seeds, gossip.Seed{Name: name, Addr: host.Address})
	}
	address := o.Fleet[o.Name].Address
	tr, err := transport.New(transport.Options{Identity: transport.Identity{Host: o.Name, Key: own, Instance: transport.NewInstance()},
		Listen: address, Advertise: address, Directory: all})
	if err != nil {
		return nil, err
	}
	members, err := gossip.New(gossip.Options{Host: o.Name, Instance: tr.Instance(), Advertise: address, Streams: tr, Seeds: func() []gossip.Seed { return seeds },
		Allowed: func(host string) bool { _, ok := all[host]; return ok }, Timing: o.Timing})
	if err != nil {
		return nil, err
	}
	return &Liar{o: o, transport: tr, members: members}, nil
}

// Run lies until ctx ends.
func (l *Liar) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	server := &http.Server{Handler: l.handler(), ConnContext: transport.ConnContext}
	listener := l.transport.Listener(transport.BundleALPN)
	var loops sync.WaitGroup
	loops.Go(func() { cancel(l.transport.Run(ctx)) })
	loops.Go(func() { cancel(l.members.Run(ctx)) })
	loops.Go(func() { cancel(server.Serve(listener)) })
	<-ctx.Done()
	closed := server.Close()
	loops.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return closed
}

// inventory is what the liar knows of the fleet; it satisfies transport.Directory.
type inventory map[string]entry

type entry struct {
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

// handler speaks the protocol between hosts that share a bundle.
func (l *Liar) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/swarm/{digest}/news", l.news)
	mux.HandleFunc("GET /v1/swarm/{digest}/pieces/{from}/{count}", l.pieces)
	return mux
}

// pieces sends zeros, as many as were asked for.
func (l *Liar) pieces(w http.ResponseWriter, r *http.Request) {
	from, err1 := strconv.Atoi(r.PathValue("from"))
	count, err2 := strconv.Atoi(r.PathValue("count"))
	if err1 != nil || err2 != nil || from < 0 {
		http.Error(w, "no such pieces", http.StatusNotFound)
		return
	}
	asker := "?"
	if peer, ok := transport.PeerFromContext(r.Context()); ok {
		asker = peer.Host
	}
	for i := from; i < from+count && i < l.o.Index.Len(); i++ {
		l.o.Lied(asker)
		if _, err := w.Write(make([]byte, l.o.Index.Piece(i).Size)); err != nil {
			return
		}
	}
}

// news tells, in frames of kind, length and payload, that every piece of the index is here, and stays on the line.
func (l *Liar) news(w http.ResponseWriter, r *http.Request) {
	frame := func(kind byte, payload []byte) []byte {
		return append(wire.LittleEndian.AppendUint32([]byte{kind}, uint32(len(payload))), payload...)
	}
	sum, ok := l.o.Index.Digest().Sum()
	if !ok {
		http.Error(w, "the index has no digest", http.StatusInternalServerError)
		return
	}
	have := store.NewBitmap(l.o.Index.Len())
	for i := range l.o.Index.Len() {
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
