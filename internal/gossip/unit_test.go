package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"pgregory.net/rapid"

	"github.com/gitopsd/gitopsd/internal/transport"
	"github.com/gitopsd/gitopsd/internal/transport/transporttest"
)

func TestNewRefusesBadOptions(t *testing.T) {
	net := transporttest.New(0)
	defer net.Close()
	good := Options{
		Host: "h", Instance: "i", Streams: net.Host("h", "i"),
		Seeds: func() []Seed { return nil }, Allowed: func(string) bool { return true },
	}
	g, err := New(good)
	if err != nil || g.o.Timing != LAN() || g.o.Start == 0 {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"host":      func(o *Options) { o.Host = "" },
		"instance":  func(o *Options) { o.Instance = strings.Repeat("x", textMax+1) },
		"streams":   func(o *Options) { o.Streams = nil },
		"seeds":     func(o *Options) { o.Seeds = nil },
		"allowed":   func(o *Options) { o.Allowed = nil },
		"version":   func(o *Options) { o.Version = strings.Repeat("x", textMax+1) },
		"advertise": func(o *Options) { o.Advertise = strings.Repeat("x", addressMax+1) },
		"start":     func(o *Options) { o.Start = math.MaxUint64 },
		"timing":    func(o *Options) { o.Timing = Timing{ProbeInterval: time.Second} },
		"probe":     func(o *Options) { o.Timing = LAN(); o.Timing.ProbeTimeout = time.Minute },
		"mult":      func(o *Options) { o.Timing = LAN(); o.Timing.GossipHosts = 0 },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.HasPrefix(err.Error(), "cannot set up gossip: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublishRefuses(t *testing.T) {
	net := transporttest.New(0)
	defer net.Close()
	g, err := New(Options{Host: "h", Instance: "i", Streams: net.Host("h", "i"), Seeds: func() []Seed { return nil }, Allowed: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]int{"": 1, "two words": 1, "gossip.start": 1, strings.Repeat("k", keyMax+1): 1, "nul\x00": 1, "big": valueMax + 1} {
		if err := g.Publish(key, make([]byte, value)); err == nil {
			t.Errorf("published %q of %d bytes", key, value)
		}
	}
	if err := g.Publish("exact", make([]byte, valueMax)); err != nil {
		t.Error(err)
	}
	for i := range keysMax - 1 {
		if err := g.Publish(fmt.Sprint(i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Publish("one more", []byte("x")); err == nil {
		t.Error("published a fact too many")
	}
	if err := g.Publish("exact", nil); err != nil {
		t.Error(err)
	}
	if err := g.Publish("one-more", []byte("x")); err != nil {
		t.Errorf("a withdrawn fact keeps its place: %v", err)
	}
	if got := g.Facts("one-more"); string(got["h"]) != "x" || len(g.Facts("exact")) != 0 {
		t.Errorf("own facts are %v", got)
	}
}

func TestFactStoreBoundsOtherHosts(t *testing.T) {
	s := newFactStore("me", 1)
	for i := range keysMax + 10 {
		s.merge(fact{host: "h", key: fmt.Sprint(i), start: 1, seq: 1, value: []byte("x")})
	}
	if n := len(s.all()); n != keysMax {
		t.Errorf("%d facts are kept", n)
	}
	for i := range membersMax + 10 {
		s.merge(fact{host: fmt.Sprint("host", i), key: "k", start: 1, seq: 1})
	}
	if n := len(s.hosts); n > membersMax {
		t.Errorf("facts of %d hosts are kept", n)
	}
	if s.merge(fact{host: "me", key: "k", start: 9, seq: 9}) {
		t.Error("somebody else speaks for this host")
	}
	if !s.disputes(fact{host: "me", start: 9}) || s.disputes(fact{host: "me", start: 0, seq: 9}) || s.disputes(fact{host: "h", start: 9}) {
		t.Error("disputes are judged wrongly")
	}
	if _, err := s.set("k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if own := s.outbid(9); len(own) != 1 || own[0].start != 10 || s.disputes(fact{host: "me", start: 9, seq: 99}) {
		t.Errorf("outbid with %+v", own)
	}
	if own := s.outbid(startMax); own != nil {
		t.Errorf("outbid the highest start with %+v", own)
	}
}

// Whatever the order and repetition of what arrives, hosts that heard the same
// facts agree, and what was said last stands.
func TestFactsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		said := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fact {
			f := fact{
				host:  rapid.SampledFrom([]string{"a", "b"}).Draw(t, "host"),
				key:   rapid.SampledFrom([]string{"x", "y"}).Draw(t, "key"),
				start: rapid.Uint64Range(1, 3).Draw(t, "start"),
				seq:   rapid.Uint64Range(1, 5).Draw(t, "seq"),
			}
			f.value = fmt.Appendf(nil, "%s%s%d%d", f.host, f.key, f.start, f.seq) // one version, one value
			return f
		}), 1, 40).Draw(t, "said")
		one, two := newFactStore("me", 1), newFactStore("me", 1)
		for _, f := range said {
			one.merge(f)
		}
		for _, f := range rapid.Permutation(append(said, said...)).Draw(t, "order") {
			two.merge(f)
		}
		latest := map[string]fact{}
		newest := map[string]uint64{}
		for _, f := range said {
			newest[f.host] = max(newest[f.host], f.start)
		}
		for _, f := range said {
			if o, ok := latest[f.host+f.key]; f.start == newest[f.host] && (!ok || f.newer(o)) {
				latest[f.host+f.key] = f
			}
		}
		for _, s := range []*factStore{one, two} {
			if len(s.all()) != len(latest) {
				t.Fatalf("%d facts, want %d", len(s.all()), len(latest))
			}
			for _, f := range s.all() {
				if !bytes.Equal(f.value, latest[f.host+f.key].value) {
					t.Fatalf("%s of %s is %q, want %q", f.key, f.host, f.value, latest[f.host+f.key].value)
				}
			}
		}
	})
}

func TestFactsAndMetaNameBothVersions(t *testing.T) {
	if _, err := decodeFacts([]byte{9, kindFact}); err == nil || !strings.Contains(err.Error(), "version 9, this host speaks version 1") {
		t.Errorf("%v", err)
	}
	if _, err := decodeMeta([]byte{9}); err == nil || !strings.Contains(err.Error(), "version 9, this host speaks version 1") {
		t.Errorf("%v", err)
	}
}

func TestMetaSkipsWhatItDoesNotKnow(t *testing.T) {
	want := meta{instance: "abc", version: "1.2.3", address: "10.0.0.1:7946"}
	b := append(want.encode(), 77, 3, 'n', 'e', 'w')
	if got, err := decodeMeta(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	longest := meta{strings.Repeat("i", textMax), strings.Repeat("v", textMax), strings.Repeat("a", addressMax)}
	if n := len(longest.encode()); n > memberlist.MetaMaxSize {
		t.Errorf("metadata can have %d bytes, memberlist takes %d", n, memberlist.MetaMaxSize)
	}
}

func TestLargestFactFitsAPacket(t *testing.T) {
	f := fact{host: strings.Repeat("h", hostMax), key: strings.Repeat("k", keyMax), start: startMax, seq: math.MaxUint64, value: make([]byte, valueMax)}
	if n := len(encodeFact(f)); n > packetBytes/2 {
		t.Errorf("a fact can have %d bytes", n)
	}
}

func FuzzFacts(f *testing.F) {
	f.Add(encodeFact(fact{host: "h", key: "k", start: 1, seq: 2, value: []byte("v")}))
	f.Add(encodeState([]fact{{host: "h", key: "k", start: 1, seq: 2}, {host: "i", key: "l", value: []byte("v")}}))
	f.Add([]byte{factsVersion, kindState, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := decodeFacts(b)
		s := newFactStore("me", 1)
		for _, f := range facts {
			s.merge(f)
			if len(f.value) > valueMax || !validKey(f.key) || f.host == "" {
				t.Errorf("accepted %+v", f)
			}
		}
		if err == nil {
			again, err := decodeFacts(encodeState(facts))
			if err != nil || len(again) != len(facts) {
				t.Errorf("%d facts became %d: %v", len(facts), len(again), err)
			}
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add(meta{instance: "i", version: "v", address: "a"}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if again, err := decodeMeta(m.encode()); err != nil || again != m {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

// stuck is a Streams whose dials never end, but with their context.
type stuck struct{ dials chan string }

func (s *stuck) HandleStream(string, func(context.Context, transport.Stream)) {}

func (s *stuck) DialStream(ctx context.Context, host, _ string) (transport.Stream, error) {
	s.dials <- host
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestWritingNeverWaitsAndForgetsTheOldest(t *testing.T) {
	streams := &stuck{dials: make(chan string, 16)}
	timing := LAN()
	timing.DialTimeout = time.Hour
	p := newPackets(streams, "me", func(host string) bool { return host != "stranger" }, func() int { return 2 }, timing, slog.New(slog.DiscardHandler))
	p.start()
	defer p.Shutdown()
	send := func(host string, i int) {
		if _, err := p.WriteToAddress([]byte{byte(i)}, memberlist.Address{Name: host}); err != nil {
			t.Fatal(err)
		}
	}
	send("slow", 255)
	if host := <-streams.dials; host != "slow" {
		t.Fatalf("dialled %s", host)
	}
	for i := range queueMax + 10 {
		send("slow", i)
	}
	send("me", 0)
	send("stranger", 0)
	p.mu.Lock()
	q := p.queues["slow"]
	if len(q.packets) != queueMax || q.packets[0][0] != 10 || len(p.queues) != 1 {
		t.Errorf("%d packets wait, the first is %d; %d queues", len(q.packets), q.packets[0][0], len(p.queues))
	}
	p.mu.Unlock()
	if _, err := p.WriteToAddress(nil, memberlist.Address{Addr: "127.0.0.1:1"}); err == nil {
		t.Error("took a packet for nobody")
	}
	if len(streams.dials) != 0 {
		t.Error("dialled more than once")
	}
}

// A probe that began before a host came back says nothing of it; it was suspect until the next one, which in a fleet of 30 is half a minute away.
func TestALateProbeDoesNotAccuseAHostThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(Member{Name: "me"}, probeStretch*time.Second, func() {})
		state := func(want State, when string) {
			t.Helper()
			for _, m := range tab.members(func(string) bool { return true }) {
				if m.Name == "web-1" && m.State != want {
					t.Errorf("%s: %s, want %s", when, m.State, want)
				}
			}
		}
		tab.joined("web-1", meta{instance: "1"})
		tab.suspect("web-1")
		state(Suspect, "met for the first time")
		tab.trust("web-1")
		for instance, comes := range map[string]func(){
			"1": func() { tab.lost("web-1") }, // back after a partition
			"2": func() {},                    // a new start that nobody missed
			"3": func() { tab.lost("web-1") },
		} {
			comes()
			tab.joined("web-1", meta{instance: instance})
			tab.suspect("web-1")
			state(Alive, "by an old probe")
			time.Sleep(probeStretch*time.Second + 1)
			tab.suspect("web-1")
			state(Suspect, "by a new probe")
			tab.trust("web-1")
		}
	})
}

func TestBridgeTellsSuspicionsAndKeepsQuiet(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var suspects []string
	l := bridge(log, func(host string) { suspects = append(suspects, host) })
	l.Printf("[INFO] memberlist: Suspect web-1 has failed, no acks received")
	l.Printf("[ERR] memberlist: Push/Pull with web-2 failed: x")
	l.Printf("no level")
	if len(suspects) != 1 || suspects[0] != "web-1" {
		t.Errorf("suspects %v", suspects)
	}
	if strings.Count(out.String(), "level=DEBUG") != 3 || !strings.Contains(out.String(), "severity=ERR") {
		t.Errorf("log:\n%s", out.String())
	}
}

// TestErrorsOfMemberlistAreOneLine: it makes a list of them, with the address that every host has for it.
func TestErrorsOfMemberlistAreOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"1 error occurred:\n\t* failed to join 127.0.0.1:7946: no route to web-2\n\n": "no route to web-2",
		"1 error occurred:\n\t* failed to join 127.0.0.1:7946: no answer\n\n":         "web-2: no answer",
		"something\nelse": "web-2: something else",
	} {
		if got := joinError("web-2", errors.New(text)).Error(); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	var out bytes.Buffer
	l := bridge(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), func(string) {})
	l.Printf("[DEBUG] memberlist: Stream connection from=127.0.0.1:7946")
	l.Printf("[ERR] memberlist: 2 errors:\n\t* x 127.0.0.1:7946: y")
	if text := out.String(); strings.Contains(text, "127.0.0.1") || strings.Contains(text, `\n`) || !strings.Contains(text, `text="2 errors: * x: y"`) {
		t.Errorf("log:\n%s", text)
	}
}
