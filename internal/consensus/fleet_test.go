package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// notes is a Machine that keeps what it was given.
type notes struct {
	Lines []string
	Count map[string]int
	bad   bool // answers, and snapshots, differ from the other replicas'
}

func newNotes() *notes { return &notes{Count: map[string]int{}} }

func (m *notes) Apply(index, term uint64, from string, command []byte) []byte {
	if string(command) == "panic" {
		panic("as told")
	}
	line := fmt.Sprintf("%d %s %s", index, from, command)
	if m.bad {
		line += " (wrong)"
	}
	m.Lines = append(m.Lines, line)
	m.Count[string(command)]++
	return []byte("did " + string(command))
}

func (m *notes) Snapshot() ([]byte, error) { return json.Marshal(m) }

func (m *notes) Restore(b []byte) error {
	*m = notes{Count: map[string]int{}, bad: m.bad}
	if err := json.Unmarshal(b, m); err != nil {
		return fmt.Errorf("cannot restore a snapshot: %w", err)
	}
	return nil
}

// fleet is a set with its hosts, all in this process.
type fleet struct {
	t       testing.TB
	dir     string
	net     *network
	spec    SetSpec
	timing  Timing
	tune    func(*raft.Config)
	prepare func(*Consensus) // before the set is opened
	log     *slog.Logger
	hosts   map[string]*host
}

// host is one process after the other on one machine.
type host struct {
	fleet   *fleet
	name    string
	storage string
	c       *Consensus
	set     *Set
	machine *notes
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
}

// newFleet makes voters v1.. and observers o1.., not yet running.
func newFleet(t testing.TB, voters, observers int, timing Timing) *fleet {
	f := &fleet{t: t, dir: t.TempDir(), net: newNetwork(), timing: timing, hosts: map[string]*host{},
		spec: SetSpec{Name: "web", Epoch: 1, Introduction: "0123456789abcdef"}}
	for i := range voters {
		h := f.add(fmt.Sprintf("v%d", i+1))
		f.spec.Voters = append(f.spec.Voters, Voter{Host: h.name, Storage: h.storage})
	}
	for i := range observers {
		f.add(fmt.Sprintf("o%d", i+1))
	}
	return f
}

func (f *fleet) add(name string) *host {
	h := &host{fleet: f, name: name, storage: "disk-" + name}
	f.hosts[name] = h
	return h
}

func (f *fleet) names() []string { return slices.Sorted(maps.Keys(f.hosts)) }

// run starts hosts by name, or all; what still runs ends with the test.
func (f *fleet) run(names ...string) {
	if len(names) == 0 {
		names = f.names()
	}
	for _, name := range names {
		if err := f.hosts[name].start(f.spec); err != nil {
			f.t.Fatal(err)
		}
	}
}

// end stops everything and waits until nothing of it runs.
func (f *fleet) end() {
	var wg sync.WaitGroup
	for _, h := range f.hosts {
		wg.Go(h.stop)
	}
	wg.Wait()
	f.net.wg.Wait()
}

// process makes the host's process, which knows no set yet.
func (h *host) process() error {
	opt := Options{Host: h.name, Storage: h.storage, Dir: filepath.Join(h.fleet.dir, h.name, "raft"), Streams: h.fleet.net.start(h.name), Timing: h.fleet.timing, Log: h.fleet.log}
	if os.Getenv("CONSENSUS_LOG") != "" {
		opt.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", h.name)
	}
	c, err := New(opt)
	if err != nil {
		return err
	}
	c.tune = h.fleet.tune
	if h.fleet.prepare != nil {
		h.fleet.prepare(c)
	}
	h.c = c
	return nil
}

// open makes the host's process up to the point where Run would be called.
func (h *host) open(spec SetSpec) error {
	if err := h.process(); err != nil {
		return err
	}
	m := newNotes()
	set, err := h.c.Open(spec, m)
	if err != nil {
		h.c.Close()
		return err
	}
	h.set, h.machine, h.err = set, m, nil
	return nil
}

func (h *host) start(spec SetSpec) error {
	if err := h.open(spec); err != nil {
		return err
	}
	h.launch()
	return nil
}

func (h *host) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done = cancel, make(chan struct{})
	set, done := h.set, h.done
	go func() {
		defer close(done)
		h.err = set.Run(ctx)
	}()
}

// move closes the set and opens it by another spec, in the same process.
func (h *host) move(spec SetSpec) {
	h.fleet.t.Helper()
	h.cancel()
	<-h.done
	h.cancel = nil
	m := newNotes()
	set, err := h.c.Open(spec, m)
	if err != nil {
		h.fleet.t.Fatal(err)
	}
	h.set, h.machine, h.err = set, m, nil
	h.launch()
}

// stop ends the process cleanly.
func (h *host) stop() {
	if h.cancel == nil {
		return
	}
	h.cancel()
	<-h.done
	h.cancel = nil
	if err := h.c.Close(); err != nil {
		h.fleet.t.Errorf("%s: %v", h.name, err)
	}
}

// crash takes the process off the network before it can say anything.
func (h *host) crash() {
	h.fleet.net.stop(h.name)
	h.stop()
}

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// leader waits until one of the running hosts leads.
func (f *fleet) leader(except ...string) *host {
	f.t.Helper()
	var found *host
	until(f.t, "a leader", func() bool {
		for _, name := range f.names() {
			if h := f.hosts[name]; h.cancel != nil && !slices.Contains(except, name) && h.set.Status().Leading {
				found = h
				return true
			}
		}
		return false
	})
	return found
}

// follower gives a running voter that does not lead.
func (f *fleet) follower() *host {
	leader := f.leader()
	for _, v := range f.spec.Voters {
		if h := f.hosts[v.Host]; h != leader && h.cancel != nil {
			return h
		}
	}
	return nil
}

func (h *host) submit(command string) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return h.set.Submit(ctx, []byte(command))
}

func (h *host) mustSubmit(command string) Result {
	h.fleet.t.Helper()
	r, err := h.submit(command)
	if err != nil {
		h.fleet.t.Fatalf("%s: %v", h.name, err)
	}
	if string(r.Response) != "did "+command {
		h.fleet.t.Fatalf("response %q to %q", r.Response, command)
	}
	return r
}

// insist submits until it is certain that the command was applied.
func (h *host) insist(command string) {
	h.fleet.t.Helper()
	for {
		switch _, err := h.submit(command); {
		case err == nil:
			return
		case !errors.Is(err, ErrUnknown):
			h.fleet.t.Fatalf("%s: %v", h.name, err)
		}
	}
}

func (h *host) lines() (lines []string) {
	h.set.View(func(m Machine) { lines = slices.Clone(m.(*notes).Lines) })
	return lines
}

func (h *host) count(command string) (n int) {
	h.set.View(func(m Machine) { n = m.(*notes).Count[command] })
	return n
}

// agree waits until all given hosts (or all) applied a command, and compares their states.
func (f *fleet) agree(command string, names ...string) {
	f.t.Helper()
	if len(names) == 0 {
		names = f.names()
	}
	for _, name := range names {
		until(f.t, fmt.Sprintf("%s applies %q", name, command), func() bool { return f.hosts[name].count(command) > 0 })
	}
	first := f.hosts[names[0]].lines()
	for _, name := range names[1:] {
		if other := f.hosts[name].lines(); !slices.Equal(first, other) {
			f.t.Fatalf("%s has %q, %s has %q", names[0], first, name, other)
		}
	}
}
