package gossip

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gitopsd/gitopsd/internal/transport/transporttest"
)

// A probe that memberlist has under way ends by its own timer, within seconds,
// and cannot be waited for; see the package comment.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// cluster is a fleet on a network in memory, to be used in a bubble.
type cluster struct {
	t      *testing.T
	net    *transporttest.Network
	timing Timing
	names  []string

	mu      sync.Mutex
	removed map[string]bool
	nodes   map[string]*node
	starts  int
}

type node struct {
	*Gossip
	instance string
	cancel   context.CancelFunc
	done     chan error
}

func newCluster(t *testing.T, n int, timing Timing) *cluster {
	c := &cluster{t: t, net: transporttest.New(time.Millisecond), timing: timing, removed: map[string]bool{}, nodes: map[string]*node{}}
	for i := range n {
		c.names = append(c.names, fmt.Sprintf("host-%02d", i))
	}
	return c
}

func (c *cluster) allowed(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.names, host) && !c.removed[host]
}

func (c *cluster) seeds() []Seed {
	var out []Seed
	for _, name := range c.names {
		out = append(out, Seed{Name: name, Addr: name + ":7946"})
	}
	return out
}

func (c *cluster) start(name string, change ...func(*Options)) *node {
	c.starts++
	n := &node{instance: fmt.Sprintf("%s-start-%d", name, c.starts), done: make(chan error, 1)}
	o := Options{
		Host: name, Instance: n.instance, Version: "1.0", Advertise: name + ":7946",
		Streams: c.net.Host(name, n.instance), Seeds: c.seeds, Allowed: c.allowed, Timing: c.timing,
	}
	for _, f := range change {
		f(&o)
	}
	g, err := New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	n.Gossip = g
	ctx, cancel := context.WithCancel(c.t.Context())
	n.cancel = cancel
	go func() { n.done <- g.Run(ctx) }()
	c.nodes[name] = n
	return n
}

func (c *cluster) startAll() {
	for _, name := range c.names {
		c.start(name)
	}
}

func (c *cluster) stop(name string) {
	n := c.nodes[name]
	delete(c.nodes, name)
	n.cancel()
	if err := <-n.done; err != nil {
		c.t.Errorf("%s: %v", name, err)
	}
}

func (c *cluster) stopAll() {
	for name := range c.nodes {
		c.nodes[name].cancel()
	}
	for name := range c.nodes {
		c.stop(name)
	}
	c.net.Close()
	// A probe under way ends by its own timer, which an unhealthy host
	// stretches up to eightfold. Virtual time passes only while we wait.
	time.Sleep(10 * c.timing.ProbeInterval)
}

// withinMin is the least time that anything is given. Whom memberlist tells next is drawn by lot, and what gossip misses comes with a later exchange of
// everything: a tighter bound fails once in some hundred runs.
const withinMin = 2 * time.Minute

// within waits until ok, and returns how long that took, in virtual time.
func (c *cluster) within(limit time.Duration, what string, ok func() bool) time.Duration {
	c.t.Helper()
	limit = max(limit, withinMin)
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			c.t.Fatalf("after %v not yet: %s\n%s", limit, what, c.describe())
		}
		time.Sleep(10 * time.Millisecond) // virtual time
	}
	return time.Since(begin)
}

func (c *cluster) describe() string {
	var b strings.Builder
	for _, name := range c.names {
		if n := c.nodes[name]; n != nil {
			fmt.Fprintf(&b, "%s sees:", name)
			for _, m := range n.Members() {
				fmt.Fprintf(&b, " %s=%s", m.Name, m.State)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (c *cluster) state(at, of string) State {
	for _, m := range c.nodes[at].Members() {
		if m.Name == of {
			return m.State
		}
	}
	return ""
}

// all says whether everybody who runs believes s of host.
func (c *cluster) all(host string, s State) bool {
	for at := range c.nodes {
		if at != host && c.state(at, host) != s {
			return false
		}
	}
	return true
}

// joined says whether everybody who runs believes all others to be alive.
func (c *cluster) joined() bool {
	for at := range c.nodes {
		alive := 0
		for _, m := range c.nodes[at].Members() {
			if c.nodes[m.Name] != nil && (m.Name == at || m.State == Alive) {
				alive++
			}
		}
		if alive != len(c.nodes) {
			return false
		}
	}
	return true
}

func TestFleetJoinsAndSeesACrash(t *testing.T) {
	for _, test := range []struct {
		hosts        int
		timing       Timing
		join, detect time.Duration
	}{
		{5, LAN(), 5 * time.Second, 10 * time.Second},
		{5, Fast(), 2 * time.Second, 3 * time.Second},
		{24, LAN(), 10 * time.Second, 14 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d hosts, probe %v", test.hosts, test.timing.ProbeInterval), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, test.hosts, test.timing)
				defer c.stopAll()
				c.startAll()
				took := c.within(test.join, "all joined", c.joined)
				t.Logf("joined in %v", took)
				for _, m := range c.nodes[c.names[0]].Members() {
					if m.Version != "1.0" || m.Addr != m.Name+":7946" || m.Instance != c.nodes[m.Name].instance || m.Since.IsZero() {
						t.Errorf("member %+v", m)
					}
				}
				victim := c.names[len(c.names)-1]
				c.net.Crash(victim)
				c.nodes[victim].cancel()
				c.stop(victim)
				took = c.within(test.detect, "crash seen", func() bool { return c.all(victim, Dead) })
				t.Logf("crash seen in %v", took)
				c.start(victim)
				took = c.within(test.join, "back again", c.joined)
				t.Logf("back in %v", took)
			})
		})
	}
}

func TestSuspectComesBeforeDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, LAN())
		defer c.stopAll()
		c.startAll()
		c.within(5*time.Second, "all joined", c.joined)
		c.net.Cut(func(a, b string) bool { return a == "host-03" })
		c.within(10*time.Second, "somebody suspects host-03", func() bool { return c.state("host-00", "host-03") == Suspect })
		if got := c.nodes["host-00"].Facts(startKey); got["host-03"] == nil {
			t.Error("facts of a suspect host are hidden")
		}
		c.net.Cut(nil)
		c.within(20*time.Second, "host-03 is trusted again", func() bool { return c.joined() })
	})
}

func TestLeavingIsNotDying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 6, LAN())
		defer c.stopAll()
		c.startAll()
		c.within(5*time.Second, "all joined", c.joined)
		begin := time.Now()
		c.stop("host-02")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("leaving took %v", took)
		}
		took := c.within(2*time.Second, "left", func() bool { return c.all("host-02", Left) })
		t.Logf("seen as left after %v", took)
		c.start("host-02")
		took = c.within(5*time.Second, "back", c.joined)
		t.Logf("back after %v", took)
	})
}

func TestPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 20, LAN())
		defer c.stopAll()
		c.startAll()
		c.within(10*time.Second, "all joined", c.joined)
		half := func(host string) bool { return host < "host-10" }
		c.net.Cut(func(a, b string) bool { return half(a) != half(b) })
		c.within(time.Minute, "the halves lost each other", func() bool {
			for at := range c.nodes {
				for of := range c.nodes {
					if s := c.state(at, of); half(at) != half(of) && s != Dead {
						return false
					}
				}
			}
			return true
		})
		if err := c.nodes["host-00"].Publish("word", []byte("from one half")); err != nil {
			t.Fatal(err)
		}
		if err := c.nodes["host-19"].Publish("word", []byte("from the other")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute) // long enough for memberlist to forget
		c.net.Cut(nil)
		took := c.within(3*time.Minute, "healed", c.joined)
		t.Logf("healed in %v", took)
		took = c.within(3*time.Minute, "facts of both halves everywhere", func() bool {
			for _, n := range c.nodes {
				facts := n.Facts("word")
				if string(facts["host-00"]) != "from one half" || string(facts["host-19"]) != "from the other" {
					return false
				}
			}
			return true
		})
		t.Logf("facts agree %v later", took)
	})
}

func TestSeedsThatComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, LAN())
		defer c.stopAll()
		c.start("host-00")
		time.Sleep(10 * time.Minute)
		c.start("host-01")
		took := c.within(3*time.Second, "two joined", c.joined)
		t.Logf("joined in %v", took)
	})
}

func TestHostOutsideTheInventoryIsNoMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5, LAN())
		defer c.stopAll()
		c.startAll()
		c.within(5*time.Second, "all joined", c.joined)
		c.mu.Lock()
		c.removed["host-04"] = true
		c.mu.Unlock()
		for at := range c.nodes {
			if at != "host-04" && c.state(at, "host-04") != "" {
				t.Errorf("%s still lists host-04", at)
			}
			if _, ok := c.nodes[at].Facts(startKey)["host-04"]; ok && at != "host-04" {
				t.Errorf("%s still tells facts of host-04", at)
			}
		}
		time.Sleep(5 * time.Minute)
		for at, n := range c.nodes {
			if at != "host-04" && slices.Contains(n.table.names(), "host-04") {
				t.Errorf("%s never forgets host-04", at)
			}
			if at != "host-04" && slices.Contains(n.facts.names(), "host-04") {
				t.Errorf("%s never forgets facts of host-04", at)
			}
		}
	})
}

func TestFactsReachEverybodyAtOnce(t *testing.T) {
	for _, test := range []struct {
		hosts  int
		timing Timing
		limit  time.Duration
	}{{5, LAN(), 200 * time.Millisecond}, {16, LAN(), 200 * time.Millisecond}, {24, LAN(), 2 * time.Second}} {
		t.Run(fmt.Sprint(test.hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, test.hosts, test.timing)
				defer c.stopAll()
				c.startAll()
				c.within(10*time.Second, "all joined", c.joined)
				time.Sleep(time.Minute)
				var mu sync.Mutex
				heard := map[string]string{}
				for name, n := range c.nodes {
					n.Notify("tip", func(host string, value []byte) {
						mu.Lock()
						defer mu.Unlock()
						heard[name] = host + " says " + string(value)
					})
				}
				if err := c.nodes["host-00"].Publish("tip", []byte("abc")); err != nil {
					t.Fatal(err)
				}
				took := c.within(test.limit, "everybody was notified", func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(heard) == test.hosts-1
				})
				t.Logf("everybody was notified in %v", took)
				for name, said := range heard {
					if said != "host-00 says abc" {
						t.Errorf("%s heard %q", name, said)
					}
				}
				for name, n := range c.nodes {
					if got := string(n.Facts("tip")["host-00"]); got != "abc" {
						t.Errorf("%s has %q", name, got)
					}
				}
			})
		})
	}
}

func TestFactsOfALaterStartReplaceThoseOfTheEarlier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, Fast())
		defer c.stopAll()
		c.startAll()
		c.within(5*time.Second, "all joined", c.joined)
		n := c.nodes["host-00"]
		for _, key := range []string{"a", "b"} {
			if err := n.Publish(key, []byte("old")); err != nil {
				t.Fatal(err)
			}
		}
		c.within(time.Second, "old facts spread", func() bool { return string(c.nodes["host-03"].Facts("b")["host-00"]) == "old" })
		c.net.Crash("host-00")
		c.stop("host-00")
		// The clock of the new start is far behind the old one's.
		n = c.start("host-00", func(o *Options) { o.Start = 7 })
		if err := n.Publish("a", []byte("new")); err != nil {
			t.Fatal(err)
		}
		c.within(10*time.Second, "only new facts are left", func() bool {
			for name, n := range c.nodes {
				_, stale := n.Facts("b")["host-00"]
				if stale || string(n.Facts("a")["host-00"]) != "new" {
					_ = name
					return false
				}
			}
			return true
		})
		if err := n.Publish("a", nil); err != nil {
			t.Fatal(err)
		}
		c.within(time.Second, "withdrawn everywhere", func() bool {
			for _, n := range c.nodes {
				if _, ok := n.Facts("a")["host-00"]; ok {
					return false
				}
			}
			return true
		})
	})
}

func TestPublishBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, Fast())
		defer c.stopAll()
		c.start("host-00")
		c.start("host-01", func(o *Options) {})
		if err := c.nodes["host-01"].Publish("k", []byte("early")); err != nil {
			t.Fatal(err)
		}
		c.within(5*time.Second, "fact arrives by full exchange", func() bool { return string(c.nodes["host-00"].Facts("k")["host-01"]) == "early" })
	})
}

func TestCloneIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, Fast())
		defer c.stopAll()
		var mu sync.Mutex
		clones := map[string]int{}
		c.start("host-00", func(o *Options) {
			o.OnClone = func(instance string) {
				mu.Lock()
				defer mu.Unlock()
				clones[instance]++
			}
		})
		c.start("host-01")
		c.start("host-02")
		c.within(5*time.Second, "all joined", c.joined)
		// host-03's connection is used by a machine that says it is host-00.
		liar := c.start("host-03", func(o *Options) { o.Host, o.Instance = "host-00", "impostor" })
		c.within(time.Minute, "the clone is reported", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return clones["impostor"] > 0
		})
		mu.Lock()
		defer mu.Unlock()
		if len(clones) != 1 {
			t.Errorf("reported %v", clones)
		}
		_ = liar
	})
}

func TestSavePeersAndLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, Fast())
		defer c.stopAll()
		var mu sync.Mutex
		var saved []Seed
		learned := map[string]string{}
		c.start("host-00", func(o *Options) {
			o.SavePeers = func(s []Seed) { mu.Lock(); defer mu.Unlock(); saved = s }
			o.Learn = func(h, a string) { mu.Lock(); defer mu.Unlock(); learned[h] = a }
		})
		c.start("host-01")
		c.start("host-02", func(o *Options) { o.Advertise = "elsewhere:1" })
		c.within(time.Minute, "peers are saved", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Equal(saved, []Seed{{"host-01", "host-01:7946"}, {"host-02", "elsewhere:1"}})
		})
		mu.Lock()
		defer mu.Unlock()
		if learned["host-02"] != "elsewhere:1" || learned["host-00"] != "" {
			t.Errorf("learned %v", learned)
		}
	})
}

func TestChangedTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, Fast())
		defer c.stopAll()
		n := c.start("host-00")
		c.start("host-01")
		select {
		case <-n.Changed():
		case <-time.After(5 * time.Second):
			t.Error("a join is not told")
		}
	})
}
