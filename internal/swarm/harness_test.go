package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// archive is a bundle for tests.
type archive struct {
	data  []byte
	index *bundle.Index
	ref   bundle.Ref // without index
}

// packed makes a bundle of our own format with files of random bytes.
func packed(t testing.TB, files, size int) *archive {
	t.Helper()
	tree, r := fstest.MapFS{}, rand.NewChaCha8([32]byte{})
	for i := range files {
		data := make([]byte, size)
		r.Read(data)
		tree[fmt.Sprintf("app/file-%03d", i)] = &fstest.MapFile{Data: data, Mode: 0o644}
	}
	var out bytes.Buffer
	index, digest, err := bundle.Pack(&out, tree, bundle.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &archive{data: out.Bytes(), index: index, ref: bundle.Ref{Digest: digest, Size: int64(out.Len()), Type: bundle.TypeTarZst}}
}

// foreign makes an archive that carries no index: for the swarm any bytes are one.
func foreign(t testing.TB, size int, seed byte) *archive {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	index, err := bundle.IndexOf(bytes.NewReader(data), 0)
	if err != nil {
		t.Fatal(err)
	}
	return &archive{data: data, index: index, ref: bundle.Ref{Digest: bundle.DigestBytes(data), Size: int64(size), Type: bundle.TypeZip}}
}

// job asks for the archive, with its index pinned.
func (a *archive) job() Job {
	return Job{Ref: a.ref, IndexDigest: a.index.Digest(), Where: "s3://bucket/key"}
}

// source is an origin in memory that counts what leaves it.
type source struct {
	a *archive

	mu      sync.Mutex
	down    error
	corrupt func(off int64, data []byte) // changes what is handed out
	cut     int64                        // a read hands out no more than so many bytes; 0 for no bound
	delay   time.Duration                // before each read
	hold    func(host string, off int64) // called before each read
	badIdx  []byte                       // handed out instead of the index
	payload int64
	byHost  map[string]int64
	reads   int
	failed  int
	at      []time.Time // of failed reads
	under   int
	most    int
	indexes int
}

func (s *source) Size(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.a.data)), s.down
}

func (s *source) ReadIndex(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexes++
	if s.badIdx != nil {
		return s.badIdx, s.down
	}
	return s.a.index.Encode(), s.down
}

// route is one host's way to the origin.
type route struct {
	*source
	host string
}

func (r route) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s := r.source
	s.mu.Lock()
	s.reads++
	s.under++
	s.most = max(s.most, s.under)
	hold, delay := s.hold, s.delay
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.under--
		s.mu.Unlock()
	}()
	if hold != nil {
		hold(r.host, off)
	}
	if delay > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(delay):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		s.failed++
		s.at = append(s.at, time.Now())
		return nil, s.down
	}
	data := bytes.Clone(s.a.data[off : off+n])
	if s.corrupt != nil {
		s.corrupt(off, data)
	}
	if s.cut > 0 && int64(len(data)) > s.cut {
		data = data[:s.cut]
	}
	return &counted{r: bytes.NewReader(data), s: s, host: r.host}, nil
}

// counted counts bytes as they are taken.
type counted struct {
	r    io.Reader
	s    *source
	host string
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.s.mu.Lock()
	c.s.payload += int64(n)
	if c.s.byHost == nil {
		c.s.byHost = map[string]int64{}
	}
	c.s.byHost[c.host] += int64(n)
	c.s.mu.Unlock()
	return n, err
}
func (c *counted) Close() error { return nil }

func (s *source) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// sum returns the payload bytes that left.
func (s *source) sum() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payload
}

// fleet is hosts joined by pipes.
type fleet struct {
	t      testing.TB
	dir    string
	dealer string
	disk   *durable.Disk // of all hosts; nil: the plain disk

	mu    sync.Mutex
	hosts map[string]*host
}

// host is one of them.
type host struct {
	f      *fleet
	name   string
	store  *store.Store
	swarm  *Swarm
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	stop   context.CancelFunc
	done   chan error
	client *http.Transport
	mu     sync.Mutex
	open   []net.Conn
}

func newFleet(t testing.TB, dealer string) *fleet {
	return &fleet{t: t, dir: t.TempDir(), dealer: dealer, hosts: map[string]*host{}}
}

func (f *fleet) close() {
	for _, name := range f.names() {
		f.get(name).halt()
	}
}

func (f *fleet) get(name string) *host {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hosts[name]
}

func (f *fleet) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for name := range f.hosts {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// start starts a host; one that was halted before goes on with its disk. change may alter the options.
func (f *fleet) start(name string, change ...func(*Options)) *host {
	f.t.Helper()
	h := &host{f: f, name: name, conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan error, 1)}
	var err error
	if h.store, err = store.Open(store.Options{Dir: filepath.Join(f.dir, name), KeepFree: -1, SyncEvery: 1, Disk: f.disk}); err != nil {
		f.t.Fatal(err)
	}
	h.client = &http.Transport{MaxConnsPerHost: 32, MaxIdleConnsPerHost: 4, DisableCompression: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		to, _, _ := strings.Cut(address, ":")
		return h.dial(ctx, to)
	}}
	o := Options{Host: name, Store: h.store, Listener: h, Client: &http.Client{Transport: h.client}}
	if os.Getenv("SWARM_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("me", name)
	}
	for _, c := range change {
		c(&o)
	}
	if h.swarm, err = New(o); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() { h.done <- h.swarm.Run(ctx) }()
	f.mu.Lock()
	f.hosts[name] = h
	f.mu.Unlock()
	return h
}

// impostor is a host of the network that answers with a handler of the test.
func (f *fleet) impostor(name string, handler http.Handler) {
	h := &host{f: f, name: name, conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan error, 1), client: &http.Transport{}}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		err := server.Serve(h)
		server.Close()
		h.done <- err
	}()
	f.mu.Lock()
	f.hosts[name] = h
	f.mu.Unlock()
}

// halt ends a host as kill does: every connection breaks.
func (h *host) halt() {
	h.f.mu.Lock()
	known := h.f.hosts[h.name] == h
	if known {
		delete(h.f.hosts, h.name)
	}
	h.f.mu.Unlock()
	if !known {
		return
	}
	h.stop()
	h.Close()
	<-h.done
	h.client.CloseIdleConnections()
	h.mu.Lock()
	open := h.open
	h.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	if h.store != nil {
		if err := h.store.Close(); err != nil {
			h.f.t.Error(err)
		}
	}
}

// Accept, Close and Addr make a host the listener of its own pipes.
func (h *host) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}
func (h *host) Close() error   { h.once.Do(func() { close(h.closed) }); return nil }
func (h *host) Addr() net.Addr { return &net.UnixAddr{Name: h.name} }

func (h *host) dial(ctx context.Context, to string) (net.Conn, error) {
	other := h.f.get(to)
	if other == nil {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	for _, end := range []struct {
		h *host
		c net.Conn
	}{{h, near}, {other, far}} {
		end.h.mu.Lock()
		end.h.open = append(end.h.open, end.c)
		end.h.mu.Unlock()
	}
	select {
	case other.conns <- far:
		return near, nil
	case <-other.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// job is a job of this host: its members are all hosts there are, its dealer the fleet's.
func (h *host) job(a *archive, s *source) Job {
	job := a.job()
	job.Members = h.f.names
	job.Dealer = func() string {
		h.f.mu.Lock()
		defer h.f.mu.Unlock()
		return h.f.dealer
	}
	if s != nil {
		job.Origin = route{s, h.name}
	}
	return job
}

// lead makes another host the dealer.
func (f *fleet) lead(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dealer = name
}

// fetching is a Fetch under way.
type fetching struct {
	host *host
	done chan struct{}
	err  error
}

func (h *host) fetch(ctx context.Context, job Job) *fetching {
	g := &fetching{host: h, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.err = h.swarm.Fetch(ctx, job)
	}()
	return g
}

// persist fetches as the agent does: again after each error.
func (h *host) persist(ctx context.Context, job Job) *fetching {
	g := &fetching{host: h, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		for ctx.Err() == nil {
			if g.err = h.swarm.Fetch(ctx, job); g.err == nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return g
}

// wait waits for fetches that must succeed, and checks their bytes.
func wait(t testing.TB, a *archive, all ...*fetching) {
	t.Helper()
	for _, g := range all {
		<-g.done
		if g.err != nil {
			t.Fatalf("%s: %v", g.host.name, g.err)
		}
		g.host.check(t, a)
	}
}

// check reads the complete bundle.
func (h *host) check(t testing.TB, a *archive) {
	t.Helper()
	b, ok := h.store.Lookup(a.ref.Digest)
	if !ok {
		t.Fatalf("%s has no complete bundle", h.name)
	}
	data, err := os.ReadFile(b.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, a.data) {
		t.Fatalf("%s has other bytes", h.name)
	}
	if p := h.swarm.Progress(a.ref.Digest); p.State != "complete" || p.Have != a.ref.Size || p.Total != a.ref.Size {
		t.Errorf("%s: progress of a complete bundle is %+v", h.name, p)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, run)
}

func names(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("web-%d", i+1))
	}
	return all
}

// rot changes a byte of the first piece of a bundle on its way.
func (h *host) rot(t *testing.T, a *archive) { h.rotIn(t, "partial", a) }

func (h *host) rotIn(t *testing.T, kind string, a *archive) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(h.f.dir, h.name, kind, a.ref.Digest.Hex(), "data"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{^a.data[3]}, 3); err != nil {
		t.Fatal(err)
	}
}
