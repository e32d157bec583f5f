package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// earlyHost is web-1 with the station that brings bundles early, and a server that they come from.
type earlyHost struct {
	*disk
	t      *testing.T
	server *httptest.Server
	now    atomic.Pointer[world]
	moved  signal

	mu       sync.Mutex
	archives map[string][]byte // by path
	asked    map[string]int
	hold     string // a path that gives nothing until its asker leaves
}

func newEarlyHost(t *testing.T) *earlyHost {
	h := &earlyHost{disk: newDisk(t), t: t, archives: map[string][]byte{}, asked: map[string]int{}}
	newDiskSwarm(t, h.disk)
	h.config.HTTPS.Enabled = true
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.asked[r.URL.Path]++
		archive, held := h.archives[r.URL.Path], h.hold == r.URL.Path
		h.mu.Unlock()
		if held {
			<-r.Context().Done()
		}
		if archive == nil {
			http.Error(w, "none", http.StatusNotFound)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(archive))
	}))
	t.Cleanup(h.server.Close)
	return h
}

// asks counts the questions for a path.
func (h *earlyHost) asks(path string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[path]
}

// release puts a bundle on the server and gives the group whose revision it is.
func (h *earlyHost) release(group, path string) desired.Group {
	h.t.Helper()
	data := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{byte(len(path)), path[1]}).Read(data)
	var archive bytes.Buffer
	x, digest, err := bundle.Pack(&archive, fstest.MapFS{"appspec.yml": {Data: []byte(plainSpec), Mode: 0o644}, "page": {Data: data, Mode: 0o644}}, bundle.PackOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.archives[path], h.archives[path+bundle.IndexSuffix] = archive.Bytes(), x.Encode()
	h.mu.Unlock()
	return desired.Group{ID: desired.GroupID(group), Folder: "shop", Coordinators: "web", Members: []desired.HostName{"web-1"}, Revision: desired.Revision{Type: "Https", Digest: digest,
		Size: int64(archive.Len()), Index: x.Digest(), BundleType: bundle.TypeTarZst, Https: &desired.HttpsLocation{URL: h.server.URL + path}}}
}

// commit makes groups what the newest commit says.
func (h *earlyHost) commit(groups ...desired.Group) {
	h.now.Store(&world{State: &desired.State{Groups: groups}})
	h.moved.Notify()
}

// run follows the commits until the test ends.
func (h *earlyHost) run() {
	h.t.Helper()
	e := &early{self: "web-1", bundles: h.bundles, world: h.now.Load, move: h.moved.Changed, met: func() bool { return true }, meeting: h.moved.Changed, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = e.Run(ctx) }()
	h.t.Cleanup(func() { cancel(); <-ended })
}

// put makes a group's bundle complete here.
func (h *earlyHost) put(g desired.Group, path string) {
	h.t.Helper()
	r := g.Revision
	if err := h.store.Import(h.t.Context(), bundle.Ref{Digest: r.Digest, Size: r.Size, Type: r.BundleType}, bytes.NewReader(h.archives[path])); err != nil {
		h.t.Fatal(err)
	}
}

func (h *earlyHost) has(g desired.Group) bool {
	_, ok := h.store.Lookup(g.Revision.Digest)
	return ok
}

// settle lets go of what no group needs, as far as the set web has told.
func (h *earlyHost) settle() {
	h.t.Helper()
	m := &member{self: "web-1", world: h.now.Load, targets: map[string]map[string][]string{"web": {}}}
	if err := h.bundles.settle(h.t.Context(), m.keeping); err != nil {
		h.t.Fatal(err)
	}
}

// TestABundleComesBeforeItsSetAsks: the commit is enough, it stays, and what it cost is booked to the deployment that asks for it first, and to no later one.
func TestABundleComesBeforeItsSetAsks(t *testing.T) {
	h := newEarlyHost(t)
	h.run() // before anything is known of git
	g := h.release("g1", "/a.tar.zst")
	h.commit(g)
	eventuallyTrue(t, "the bundle", func() bool { return h.has(g) })
	h.settle()
	if !h.has(g) {
		t.Error("the bundle that the newest commit wants is collected")
	}
	eventuallyTrue(t, "the end of the fetch", func() bool { return h.bundles.trouble(g.Revision.Digest) == "" && len(h.bundles.swarm.Fetching()) == 0 })
	read := h.bundles.swarm.Progress(g.Revision.Digest).FromOrigin
	if read < g.Revision.Size/2 {
		t.Errorf("%d bytes were read of %d", read, g.Revision.Size)
	}
	for _, commit := range []string{"first", "revert"} {
		h.bundles.costs.claim("g1", commit, g.Revision.Digest)
		if fromOrigin, fromPeers := h.bundles.costs.of("g1", commit); fromOrigin != read || fromPeers != 0 {
			t.Errorf("commit %s cost %d bytes from the origin and %d from peers, want %d and 0", commit, fromOrigin, fromPeers, read)
		}
		read = 0
	}
}

// TestTheNextCommitEndsWhatTheLastOneWanted, and what came for it may be let go.
func TestTheNextCommitEndsWhatTheLastOneWanted(t *testing.T) {
	h := newEarlyHost(t)
	held, next, last := h.release("g1", "/a.tar.zst"), h.release("g1", "/b.tar.zst"), h.release("g1", "/c.tar.zst")
	h.hold = "/a.tar.zst"
	h.commit(held)
	h.run()
	eventuallyTrue(t, "a question", func() bool { return h.asks("/a.tar.zst") > 0 })
	h.commit(next)
	eventuallyTrue(t, "the next bundle", func() bool { return h.has(next) })
	eventuallyTrue(t, "the end of the first fetch", func() bool { return len(h.bundles.swarm.Fetching()) == 0 })
	h.commit(last)
	eventuallyTrue(t, "the last bundle", func() bool { return h.has(last) })
	h.settle()
	if h.has(next) || !h.has(last) || len(h.store.Pins()) != 1 {
		t.Errorf("next stays: %v, last stays: %v, pins %v", h.has(next), h.has(last), h.store.Pins())
	}
}

// TestACorrectedPlaceIsAskedAtOnce: a typing error in a URL costs no more than its correction.
func TestACorrectedPlaceIsAskedAtOnce(t *testing.T) {
	h := newEarlyHost(t)
	g := h.release("g1", "/a.tar.zst")
	wrong := g
	wrong.Revision.Https = &desired.HttpsLocation{URL: h.server.URL + "/nowhere.tar.zst"}
	h.commit(wrong)
	h.run()
	eventuallyTrue(t, "a question", func() bool { return h.asks("/nowhere.tar.zst"+bundle.IndexSuffix) > 0 })
	h.commit(g)
	eventuallyTrue(t, "the bundle", func() bool { return h.has(g) })
}

// TestNothingIsAskedForThatIsNotDecided: suspended and removed groups, those of other hosts, what this host's fence refuses, and all while there are two histories.
func TestNothingIsAskedForThatIsNotDecided(t *testing.T) {
	h := newEarlyHost(t)
	var groups []desired.Group
	for n, change := range []func(*desired.Group){
		func(g *desired.Group) { g.Policy.Suspend = true },
		func(g *desired.Group) { g.Policy.Removed = true },
		func(g *desired.Group) { g.Members = []desired.HostName{"web-2"} },
		func(g *desired.Group) { g.Folder = "fenced" },
	} {
		g := h.release(fmt.Sprint("g", n), fmt.Sprintf("/%c.tar.zst", 'a'+n))
		change(&g)
		groups = append(groups, g)
	}
	h.config.Fence.Groups = []string{"shop"}
	forked := h.release("forked", "/f.tar.zst")
	h.now.Store(&world{State: &desired.State{Groups: []desired.Group{forked}}, Forked: "two histories"})
	h.run()
	good := h.release("good", "/z.tar.zst")
	h.commit(append(groups, good)...)
	eventuallyTrue(t, "the bundle that may be had", func() bool { return h.has(good) })
	h.mu.Lock()
	defer h.mu.Unlock()
	for path, n := range h.asked {
		if !strings.HasPrefix(path, "/z.") {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	if pins := h.store.Pins(); len(pins) != 1 {
		t.Errorf("pins %v", pins)
	}
}

// TestABundleThatCannotBeHadIsTriedAgain, and a fetch that nobody needs ends.
func TestABundleThatCannotBeHadIsTriedAgain(t *testing.T) {
	h := newEarlyHost(t)
	g := h.release("g1", "/a.tar.zst")
	h.put(g, "/a.tar.zst")
	synctest.Test(t, func(t *testing.T) {
		e := &early{bundles: h.bundles, log: slog.New(slog.DiscardHandler)}
		fenced := &Config{Fence: FenceConfig{Groups: []string{"another"}}}
		var now atomic.Pointer[Config]
		h.bundles.config = now.Load
		now.Store(fenced)
		began, ended := time.Now(), make(chan struct{})
		go func() { defer close(ended); e.bring(context.Background(), g) }()
		synctest.Wait()
		now.Store(new(Config))
		<-ended
		if took := time.Since(began); took != earlyPause {
			t.Errorf("tried again after %v", took)
		}
		now.Store(fenced)
		began, ended = time.Now(), make(chan struct{})
		go func() { defer close(ended); e.bring(context.Background(), g) }()
		synctest.Wait()
		now.Store(new(Config))
		h.bundles.reopen(fenced, now.Load())
		<-ended
		if took := time.Since(began); took != 0 {
			t.Errorf("what this host's file says was changed, and it is tried again after %v", took)
		}
		now.Store(fenced)
		ctx, cancel := context.WithCancel(context.Background())
		began, ended = time.Now(), make(chan struct{})
		go func() { defer close(ended); e.bring(ctx, g) }()
		time.Sleep(time.Hour)
		cancel()
		<-ended
		if took := time.Since(began); took != time.Hour {
			t.Errorf("ended after %v", took)
		}
	})
}

// TestAHostThatStartsMeetsOthersFirst, for as long as gossip may take.
func TestAHostThatStartsMeetsOthersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var met atomic.Bool
		var meeting signal
		e := &early{met: met.Load, meeting: meeting.Changed}
		began := time.Now()
		e.meet(context.Background())
		if took := time.Since(began); took != gossipLate {
			t.Errorf("alone, it waits for %v", took)
		}
		began = time.Now()
		go func() { time.Sleep(time.Second); met.Store(true); meeting.Notify() }()
		e.meet(context.Background())
		if took := time.Since(began); took != time.Second {
			t.Errorf("it waits for %v, met after 1 s", took)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		met.Store(false)
		e.meet(ctx)
	})
}

// TestABundleComesWithoutAQuorum: only what is done with it needs one.
func TestABundleComesWithoutAQuorum(t *testing.T) {
	f := newTestFleet(t, "web-1", "web-2", "web-3")
	defer f.end()
	revision := f.release("one", "")
	f.deploy(revision, "")
	f.hosts[0].start()
	_, rest, _ := strings.Cut(revision, "digest: ")
	digest, _, _ := strings.Cut(rest, "\n")
	until(t, func() string {
		d, err := status.NewClient(f.hosts[0].config.Socket).Bundle(t.Context(), digest)
		if err != nil {
			return err.Error()
		}
		for _, h := range d.Hosts {
			if h.Name == "web-1" && h.State == "complete" {
				return ""
			}
		}
		return fmt.Sprintf("%+v", d.Hosts)
	})
}

// TestWhatWasBegunForACommitThatIsOverIsLetGo.
func TestWhatWasBegunForACommitThatIsOverIsLetGo(t *testing.T) {
	h := newEarlyHost(t)
	held, next := h.release("g1", "/a.tar.zst"), h.release("g1", "/b.tar.zst")
	h.hold = "/a.tar.zst"
	h.commit(held)
	h.run()
	eventuallyTrue(t, "a question", func() bool { return h.asks("/a.tar.zst") > 0 })
	h.commit(next)
	eventuallyTrue(t, "the next bundle", func() bool { return h.has(next) })
	eventuallyTrue(t, "the end of the first fetch", func() bool { return len(h.bundles.swarm.Fetching()) == 0 })
	eventuallyTrue(t, "that what was begun for the commit before is let go", func() bool {
		h.settle()
		_, left := h.store.Partial(held.Revision.Digest)
		return !left
	})
}

// limited gives the host a store of so many bytes.
func limited(t *testing.T, h *earlyHost, limit int64) {
	var err error
	if h.store, err = store.Open(store.Options{Dir: t.TempDir(), Limit: limit, KeepFree: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.store.Close() })
	h.bundles.store = h.store
	h.bundles.limit = func() int64 { return limit }
	newDiskSwarm(t, h.disk)
}

// TestThereNeedBeRoomForOneBundleOnly: the next commit's takes the place of the last one's, whether or not anybody has settled meanwhile.
func TestThereNeedBeRoomForOneBundleOnly(t *testing.T) {
	h := newEarlyHost(t)
	a, b := h.release("g1", "/a.tar.zst"), h.release("g1", "/b.tar.zst")
	limited(t, h, a.Revision.Size+b.Revision.Size-1)
	for _, g := range []desired.Group{a, b} {
		if err := h.bundles.ahead(t.Context(), g); err != nil || !h.has(g) {
			t.Errorf("%s: %v", g.Revision.Https.URL, err)
		}
	}
}

// TestWhatADeploymentAskedForIsNotBookedAhead: another that runs the same bundle would have it booked again.
func TestWhatADeploymentAskedForIsNotBookedAhead(t *testing.T) {
	var c costs
	d := digestOf("a")
	moved := int64(0)
	read := func() swarm.Progress { return swarm.Progress{FromOrigin: moved} }
	c.claim("g", "one", d) // the member is first
	done := c.begin(costKey("g", "one"), aheadKey("g", d), read)
	ahead := c.begin(aheadKey("g", d), aheadKey("g", d), read) // early joins
	moved = 100
	done()
	ahead()
	c.claim("g", "two", d) // a later commit with the same bundle, which is here
	one, _ := c.of("g", "one")
	two, _ := c.of("g", "two")
	if one != 100 || two != 0 {
		t.Errorf("one %d, two %d", one, two)
	}
}

// TestACostIsOfOneFetchAndOneDeployment: the same bundle may come again once it was let go, and one commit may be deployed twice.
func TestACostIsOfOneFetchAndOneDeployment(t *testing.T) {
	var c costs
	d := digestOf("a")
	moved := int64(0)
	read := func() swarm.Progress { return swarm.Progress{FromOrigin: moved, FromPeers: 2 * moved} } // of all fetches
	for _, commit := range []string{"one", "revert", "one"} {
		before := moved
		for _, more := range []int64{60, 40} { // the second goes on where the first failed
			done := c.begin(costKey("g", commit), aheadKey("g", d), read)
			moved += more
			done()
			if o, p := c.of("g", commit); o != moved-before || p != 2*o {
				t.Errorf("%s cost %d and %d, want %d and twice that", commit, o, p, moved-before)
			}
		}
		c.book("g", commit)
		if o, p := c.of("g", commit); o != 0 || p != 0 {
			t.Errorf("a second deployment of %s cost %d and %d", commit, o, p)
		}
	}
	done := c.begin(costKey("g", "two"), aheadKey("g", d), read)
	moved += 7
	c.book("g", "two") // the fetch goes on: it is for the next deployment
	moved += 5
	done()
	if o, _ := c.of("g", "two"); o != 5 {
		t.Errorf("what came after a deployment cost %d, want 5", o)
	}
	moved = 1 // the swarm has forgotten
	done = c.begin(costKey("g", "two"), aheadKey("g", d), read)
	moved += 3
	done()
	if o, _ := c.of("g", "two"); o != 5+3 {
		t.Errorf("what came after a deployment cost %d, want 8", o)
	}
}

// TestACostGoesOnWhileAnyoneFetches, though who began has left.
func TestACostGoesOnWhileAnyoneFetches(t *testing.T) {
	var c costs
	d := digestOf("a")
	moved := int64(0)
	read := func() swarm.Progress { return swarm.Progress{FromOrigin: moved} }
	ahead := c.begin(aheadKey("g", d), aheadKey("g", d), read)
	c.claim("g", "one", d)
	done := c.begin(costKey("g", "one"), aheadKey("g", d), read)
	moved = 10
	ahead() // the next commit ended it
	moved = 100
	if one, _ := c.of("g", "one"); one != 100 {
		t.Errorf("%d of 100 while it is being fetched", one)
	}
	done()
	if one, _ := c.of("g", "one"); one != 100 {
		t.Errorf("%d of 100 at the end", one)
	}
}

// TestAFolderThatTheFenceAllowsIsFetchedFor once a commit moved the group there.
func TestAFolderThatTheFenceAllowsIsFetchedFor(t *testing.T) {
	h := newEarlyHost(t)
	g := h.release("g1", "/a.tar.zst")
	h.put(g, "/a.tar.zst")
	h.config.Fence.Groups = []string{"shop"}
	synctest.Test(t, func(t *testing.T) {
		var moved signal
		var now atomic.Pointer[world]
		e := &early{self: "web-1", bundles: h.bundles, world: now.Load, move: moved.Changed, met: func() bool { return true }, meeting: moved.Changed, log: slog.New(slog.DiscardHandler)}
		h.bundles.changed = newWake()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		g.Folder = "fenced"
		now.Store(&world{State: &desired.State{Groups: []desired.Group{g}}})
		go func() { defer close(ended); _ = e.Run(ctx) }()
		time.Sleep(time.Second)
		g.Folder = "shop"
		now.Store(&world{State: &desired.State{Groups: []desired.Group{g}}})
		moved.Notify()
		time.Sleep(time.Hour)
		if len(h.store.Pins()) == 0 {
			t.Error("an hour after the fence allows the group its bundle is not asked for")
		}
		cancel()
		<-ended
	})
}

// TestNothingIsPinnedForACommitThatIsOver.
func TestNothingIsPinnedForACommitThatIsOver(t *testing.T) {
	h := newEarlyHost(t)
	g := h.release("g1", "/a.tar.zst")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	(&early{self: "web-1", bundles: h.bundles, log: slog.New(slog.DiscardHandler)}).bring(ctx, g)
	if len(h.store.Pins()) != 0 {
		t.Errorf("after its end it pinned %v", h.store.Pins())
	}
}

// TestARevertKeepsItsBundle while what the commit before needs is being settled.
func TestARevertKeepsItsBundle(t *testing.T) {
	h := newEarlyHost(t)
	a, b := h.release("g1", "/a.tar.zst"), h.release("g1", "/b.tar.zst")
	if err := h.bundles.ahead(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	h.commit(b)
	m := &member{self: "web-1", world: h.now.Load, targets: map[string]map[string][]string{"web": {}}}
	again := make(chan error, 1)
	err := h.bundles.settle(t.Context(), func() kept {
		now := m.keeping()
		h.commit(a) // the revert
		go func() { again <- h.bundles.ahead(t.Context(), a) }()
		if h.bundles.pinning.TryLock() {
			h.bundles.pinning.Unlock()
			t.Error("a bundle may be pinned, and let go as if nobody wanted it, while what is wanted is read")
		}
		return now
	})
	if err := <-again; err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !h.has(a) {
		t.Errorf("the bundle of the newest commit was collected; pins %v", h.store.Pins())
	}
}

// TestABundleThatWasLetGoComesBack, though its commit was in effect whenever the station looked.
func TestABundleThatWasLetGoComesBack(t *testing.T) {
	h := newEarlyHost(t)
	a, b := h.release("g1", "/a.tar.zst"), h.release("g1", "/b.tar.zst")
	h.commit(a)
	h.run()
	eventuallyTrue(t, "the bundle", func() bool { return h.has(a) })
	eventuallyTrue(t, "the end of the fetch", func() bool { return len(h.bundles.swarm.Fetching()) == 0 })
	h.now.Store(&world{State: &desired.State{Groups: []desired.Group{b}}}) // early is not scheduled yet
	h.settle()
	h.commit(a)
	eventuallyTrue(t, "the bundle of the newest commit", func() bool { return h.has(a) })
}
