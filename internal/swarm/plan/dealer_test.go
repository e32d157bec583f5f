package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is a fleet in virtual time that uses the Dealer and Pickers as the agents do.
type world struct {
	t      interface{ Fatalf(string, ...any) }
	sizes  []int64
	total  int64
	dealer *Dealer
	now    time.Duration
	hosts  []*actor
	read   int64 // bytes that left the origin
}

// actor is one host.
type actor struct {
	name   string
	have   Bits
	leases [][]int
	ends   []time.Duration
	read   int64
	failed string
	dead   bool
	speed  time.Duration // for one lease
}

func newWorld(t *rapid.T, pieces, hosts int) *world {
	w := &world{t: t}
	for range pieces {
		w.sizes = append(w.sizes, int64(rapid.IntRange(1, 512<<10).Draw(t, "size")))
		w.total += w.sizes[len(w.sizes)-1]
	}
	for i := range hosts {
		w.hosts = append(w.hosts, &actor{name: fmt.Sprintf("h%02d", i), have: NewBits(pieces), speed: time.Duration(rapid.IntRange(10, 900).Draw(t, "speed")) * time.Millisecond})
	}
	w.dealer = NewDealer(w.sizes)
	return w
}

// seen is what live hosts other than a have.
func (w *world) seen(a *actor) Bits {
	seen := NewBits(len(w.sizes))
	for _, h := range w.hosts {
		if h != a && !h.dead {
			seen.Or(h.have)
		}
	}
	return seen
}

// ask lets a host ask once and checks the answer.
func (w *world) ask(a *actor) Lease {
	r := Request{Host: a.name, Have: slices.Clone(a.have), Seen: w.seen(a), Holding: slices.Concat(a.leases...), Failed: a.failed, Read: a.read, Hosts: len(w.hosts)}
	a.failed = ""
	lease := w.dealer.Deal(r, w.now)
	for n, i := range lease.Pieces {
		if n > 0 && i != lease.Pieces[n-1]+1 {
			w.t.Fatalf("a lease is no run: %v", lease.Pieces)
		}
		if a.have.Has(i) || r.Seen.Has(i) {
			w.t.Fatalf("piece %d was dealt to %s, and is here or at a peer", i, a.name)
		}
		for _, h := range w.hosts {
			if !h.dead && slices.Contains(slices.Concat(h.leases...), i) {
				w.t.Fatalf("piece %d was dealt to %s while %s reads it", i, a.name, h.name)
			}
		}
	}
	if len(lease.Pieces) > 0 {
		a.leases, a.ends = append(a.leases, lease.Pieces), append(a.ends, w.now+min(a.speed, lease.For))
		if lease.For < leaseMin || lease.For > leaseMax {
			w.t.Fatalf("a lease of %v", lease.For)
		}
	} else if lease.Why == "" || lease.Retry <= 0 || lease.Retry > retryMax {
		w.t.Fatalf("no piece, and %+v", lease)
	}
	return lease
}

// arrive ends the leases that are due, well or badly.
func (w *world) arrive(a *actor, fails bool) {
	for k := 0; k < len(a.leases); {
		if w.now < a.ends[k] {
			k++
			continue
		}
		for n, i := range a.leases[k] {
			if fails && n > 0 {
				a.failed = "broke off"
				break
			}
			w.read, a.read = w.read+w.sizes[i], a.read+w.sizes[i]
			a.have.Set(i)
		}
		a.leases, a.ends = slices.Delete(a.leases, k, k+1), slices.Delete(a.ends, k, k+1)
	}
}

// done says whether every piece is at a live host.
func (w *world) done() bool {
	all := w.seen(nil)
	return all.Count() == len(w.sizes)
}

func TestEverythingIsDealtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(1, 60).Draw(t, "pieces"), rapid.IntRange(1, 8).Draw(t, "hosts"))
		for step := 0; !w.done(); step++ {
			if step > 10000 {
				t.Fatal("not everything was dealt")
			}
			w.now += 20 * time.Millisecond
			for _, a := range w.hosts {
				w.arrive(a, false)
				w.ask(a)
			}
		}
		if w.read != w.total {
			t.Fatalf("%d bytes left the origin for a bundle of %d", w.read, w.total)
		}
	})
}

func TestFailuresAndDeathsDealAgainWithinTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(1, 60).Draw(t, "pieces"), rapid.IntRange(2, 8).Draw(t, "hosts"))
		lost := int64(0)
		for step := 0; !w.done(); step++ {
			if step > 20000 {
				t.Fatalf("not everything was dealt after %v", w.now)
			}
			w.now += 50 * time.Millisecond
			for k, a := range w.hosts {
				if a.dead {
					continue
				}
				if k > 0 && step < 400 && rapid.IntRange(0, 300).Draw(t, "dies") == 0 {
					a.dead = true
					for i, n := range w.sizes {
						if a.have.Has(i) || slices.Contains(slices.Concat(a.leases...), i) {
							lost += n
						}
					}
					continue
				}
				w.arrive(a, step < 400 && rapid.IntRange(0, 10).Draw(t, "fails") == 0)
				if rapid.IntRange(0, 3).Draw(t, "asks") > 0 {
					w.ask(a)
				}
			}
			minutes := int64(w.now/trickleEvery) + 1
			if most := w.total + max(w.total/budgetShare, budgetMin) + minutes*max(w.total/trickleShare, runMax) + w.total/trickleShare; w.read > most {
				t.Fatalf("%d bytes left the origin for a bundle of %d after %v", w.read, w.total, w.now)
			}
		}
		if w.read > w.total+lost {
			t.Fatalf("%d bytes left the origin for a bundle of %d, of which %d were lost", w.read, w.total, lost)
		}
	})
}

func TestANewDealerDealsNothingTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(1, 60).Draw(t, "pieces"), rapid.IntRange(2, 6).Draw(t, "hosts"))
		at := rapid.IntRange(0, 60).Draw(t, "change")
		for step := 0; !w.done(); step++ {
			if step == at {
				w.dealer = NewDealer(w.sizes)
			}
			w.now += 20 * time.Millisecond
			for _, a := range w.hosts {
				w.arrive(a, false)
				r := Request{Host: a.name, Have: a.have, Seen: w.seen(a), Holding: slices.Concat(a.leases...), Read: a.read, Hosts: len(w.hosts)}
				for _, h := range w.hosts {
					if h != a {
						r.Others = append(r.Others, slices.Concat(h.leases...)...)
					}
				}
				if lease := w.dealer.Deal(r, w.now); len(lease.Pieces) > 0 {
					a.leases, a.ends = append(a.leases, lease.Pieces), append(a.ends, w.now+a.speed)
				}
			}
		}
		if w.read != w.total {
			t.Fatalf("%d bytes left the origin for a bundle of %d", w.read, w.total)
		}
	})
}

func TestEqualHostsReadEqualShares(t *testing.T) {
	sizes := make([]int64, 512)
	for i := range sizes {
		sizes[i] = 128 << 10
	}
	for _, n := range []int{2, 5, 8, 16} {
		for seed := range uint64(3) {
			order := rand.New(rand.NewPCG(seed, 1))
			w := &world{t: t, sizes: sizes, total: 512 * 128 << 10, dealer: NewDealer(sizes)}
			for i := range n {
				w.hosts = append(w.hosts, &actor{name: fmt.Sprintf("h%02d", i), have: NewBits(len(sizes)), speed: 100 * time.Millisecond})
			}
			for !w.done() {
				w.now += 10 * time.Millisecond
				for _, k := range order.Perm(n) {
					w.arrive(w.hosts[k], false)
					w.ask(w.hosts[k])
				}
			}
			least, most := w.total, int64(0)
			for _, a := range w.hosts {
				least, most = min(least, a.read), max(most, a.read)
			}
			if run := w.dealer.runBytes(n); most-least > 5*run {
				t.Fatalf("of %d hosts one read %d bytes and another %d, leases have %d", n, most, least, run)
			}
		}
	}
}

func TestAFasterHostReadsMore(t *testing.T) {
	sizes := make([]int64, 256)
	for i := range sizes {
		sizes[i] = 128 << 10
	}
	w := &world{t: t, sizes: sizes, total: 256 * 128 << 10, dealer: NewDealer(sizes)}
	w.hosts = []*actor{{name: "fast", have: NewBits(256), speed: 50 * time.Millisecond}, {name: "slow", have: NewBits(256), speed: time.Second}}
	for !w.done() {
		w.now += 10 * time.Millisecond
		for _, a := range w.hosts {
			w.arrive(a, false)
			w.ask(a)
		}
	}
	if fast, slow := w.hosts[0].read, w.hosts[1].read; fast < 5*slow {
		t.Errorf("the fast host read %d bytes, the slow one %d", fast, slow)
	}
}

// even returns n sizes of 100 KiB.
func even(n int) []int64 {
	sizes := make([]int64, n)
	for i := range sizes {
		sizes[i] = 100 << 10
	}
	return sizes
}

func TestALeaseThatRunsOutIsDealtAgain(t *testing.T) {
	d := NewDealer(even(1))
	first := d.Deal(Request{Host: "a", Hosts: 2}, 0)
	if len(first.Pieces) != 1 || first.For != leaseMin {
		t.Fatalf("got %+v", first)
	}
	if next := d.Deal(Request{Host: "b", Hosts: 2}, leaseMin-1); len(next.Pieces) > 0 || !strings.Contains(next.Why, "to a") || next.Retry > retryMin {
		t.Errorf("got %+v", next)
	}
	if next := d.Deal(Request{Host: "b", Hosts: 2}, leaseMin); len(next.Pieces) != 1 {
		t.Errorf("got %+v", next)
	}
	if spent := d.spent; spent != 100<<10 {
		t.Errorf("the lost lease counts %d bytes", spent)
	}
	d.Deal(Request{Host: "a", Hosts: 2}, leaseMin) // it speaks again: it had read nothing
	if spent := d.spent; spent != 0 {
		t.Errorf("a holder that came back counts %d bytes", spent)
	}
}

func TestALeaseThatTheHolderDoesNotNameIsOver(t *testing.T) {
	d := NewDealer(even(1))
	d.Deal(Request{Host: "a", Hosts: 2}, 0)
	if next := d.Deal(Request{Host: "a", Holding: []int{0}, Hosts: 2}, time.Second); len(next.Pieces) > 0 {
		t.Errorf("dealt while it is read: %+v", next)
	}
	if next := d.Deal(Request{Host: "a", Hosts: 2}, time.Second); len(next.Pieces) != 1 { // its answer was lost
		t.Errorf("got %+v", next)
	}
}

func TestAPieceWhoseHoldersDiedIsDealtAgainAfterAWhile(t *testing.T) {
	d := NewDealer(even(1))
	d.Deal(Request{Host: "a", Hosts: 2}, 0)
	d.Deal(Request{Host: "a", Have: Bits{1}, Hosts: 2, Read: 100 << 10}, time.Second)
	if next := d.Deal(Request{Host: "b", Hosts: 2}, time.Second+landedFor-1); len(next.Pieces) > 0 || next.Why != "every piece has left the origin" {
		t.Errorf("got %+v", next)
	}
	if next := d.Deal(Request{Host: "b", Seen: Bits{1}, Hosts: 2}, time.Second+landedFor); len(next.Pieces) > 0 {
		t.Errorf("a peer has it: %+v", next)
	}
	if next := d.Deal(Request{Host: "b", Hosts: 2}, time.Second+landedFor); len(next.Pieces) != 1 {
		t.Errorf("got %+v", next)
	}
}

func TestWhileTheOriginIsDownOneHostTries(t *testing.T) {
	d := NewDealer(even(50))
	now := time.Duration(0)
	tries := 0
	failed := map[string]string{}
	for now < 10*time.Minute {
		now += 50 * time.Millisecond
		for _, host := range []string{"a", "b", "c", "d"} {
			lease := d.Deal(Request{Host: host, Failed: failed[host], Hosts: 4}, now)
			if failed[host] = ""; len(lease.Pieces) > 0 {
				failed[host] = "refused"
				if now > time.Minute {
					tries++
				}
			} else if now > time.Minute && !strings.Contains(lease.Why, "refused") {
				t.Fatalf("got %q", lease.Why)
			}
		}
	}
	if tries > 9*60/4 || tries < 9*60/10 {
		t.Errorf("%d tries in nine minutes", tries)
	}
	if d.spent != 0 {
		t.Errorf("%d bytes of budget went, and none left the origin", d.spent)
	}
}

// TestHostsThatCannotReachTheOriginHoldUpNobody has half of the hosts fail at each read, at once; the others read as if those were not there.
func TestHostsThatCannotReachTheOriginHoldUpNobody(t *testing.T) {
	var alone time.Duration
	for _, without := range []int{0, 4} {
		d := NewDealer(even(200))
		have, read, failed := NewBits(200), map[string]Lease{}, map[string]string{}
		until, wait := map[string]time.Duration{}, map[string]time.Duration{}
		var now time.Duration
		for ; have.Count() < 200; now += 10 * time.Millisecond {
			if now > time.Minute {
				t.Fatalf("%d pieces are read after a minute, with %d hosts that cannot", have.Count(), without)
			}
			for i := range 4 + without {
				host := fmt.Sprint("h", i)
				lease := read[host]
				if len(lease.Pieces) > 0 && now < until[host] || now < wait[host] {
					continue
				}
				for _, i := range lease.Pieces {
					have.Set(i)
				}
				lease = d.Deal(Request{Host: host, Have: have, Failed: failed[host], Hosts: 8}, now)
				wait[host] = now + lease.Retry
				if failed[host] = ""; len(lease.Pieces) > 0 && i >= 4 {
					failed[host], lease = "no route", Lease{}
				}
				read[host], until[host] = lease, now+100*time.Millisecond
			}
		}
		if without == 0 {
			alone = now
		} else if now > alone+alone/10 {
			t.Errorf("with %d hosts that cannot read it took %v, and %v without", without, now, alone)
		}
	}
}

func TestABudgetThatIsSpentTrickles(t *testing.T) {
	d := NewDealer(even(100))
	total := int64(100 * 100 << 10)
	read, now := int64(0), time.Duration(0)
	said := false
	for now < 30*time.Minute {
		now += 500 * time.Millisecond
		lease := d.Deal(Request{Host: "a", Read: read, Hosts: 1}, now) // it keeps nothing of what it reads
		read += int64(len(lease.Pieces)) * 100 << 10
		if strings.HasPrefix(lease.Why, "waiting for origin, budget spent: ") {
			said = true
			if strings.Contains(lease.Why, "failure") {
				t.Fatalf("no read failed, and yet: %s", lease.Why)
			}
		}
	}
	most := total + max(total/budgetShare, budgetMin)
	if !said || read < most || read > most+31*(max(total/trickleShare, runMax)+runMax) {
		t.Errorf("said %v; %d bytes left the origin in half an hour for a bundle of %d", said, read, total)
	}
}

func TestAPieceThatIsWrongAtTheOriginIsLeftAlone(t *testing.T) {
	d := NewDealer(even(1))
	now := time.Duration(0)
	for n := range wrongMax {
		lease := d.Deal(Request{Host: "a", Hosts: 1}, now)
		if len(lease.Pieces) != 1 {
			t.Fatalf("read %d: %+v", n, lease)
		}
		now += time.Second
		lease = d.Deal(Request{Host: "a", Wrong: []int{0}, Failed: "expected x, got y", Hosts: 1}, now)
		if len(lease.Pieces) > 0 {
			t.Fatalf("read %d: dealt at once again", n)
		}
		now += time.Second
	}
	if lease := d.Deal(Request{Host: "b", Hosts: 2}, now); len(lease.Pieces) > 0 || !strings.Contains(lease.Why, "expected x, got y") {
		t.Errorf("got %+v", lease)
	}
	if lease := d.Deal(Request{Host: "b", Hosts: 2}, now+asideFor); len(lease.Pieces) != 1 {
		t.Errorf("got %+v", lease)
	}
}

func TestNonsenseIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDealer(even(20))
		now := time.Duration(0)
		piece := rapid.Int()
		for range 20 {
			now += time.Duration(rapid.IntRange(0, int(time.Minute)).Draw(t, "passes"))
			lease := d.Deal(Request{Host: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "host"), Have: rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "have"),
				Seen: rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "seen"), Holding: rapid.SliceOf(piece).Draw(t, "holding"), Others: rapid.SliceOf(piece).Draw(t, "others"),
				Wrong: rapid.SliceOf(piece).Draw(t, "wrong"), Failed: rapid.SampledFrom([]string{"", "x"}).Draw(t, "failed"), Read: rapid.Int64().Draw(t, "read"),
				Rate: rapid.Int64().Draw(t, "rate"), Hosts: rapid.Int().Draw(t, "hosts")}, now)
			for _, i := range lease.Pieces {
				if i < 0 || i >= 20 {
					t.Fatalf("dealt %v", lease.Pieces)
				}
			}
			if lease.For > leaseMax || lease.Retry > retryMax {
				t.Fatalf("got %+v", lease)
			}
		}
	})
}

func TestAHostThatSaysItHoldsEverythingDoesNotKeepItAll(t *testing.T) {
	d := NewDealer(even(1000))
	var all []int
	for i := range 1000 {
		all = append(all, i)
	}
	d.Deal(Request{Host: "liar", Holding: all, Hosts: 2}, adoptFor)
	if lease := d.Deal(Request{Host: "a", Hosts: 2}, adoptFor); len(lease.Pieces) == 0 {
		t.Errorf("got %+v", lease)
	}
	var many int
	d = NewDealer(even(1))
	for i := range hostsMax + 10 {
		if lease := d.Deal(Request{Host: fmt.Sprint(i), Have: nil, Hosts: 1 << 40}, adoptFor); lease.Why == "too many hosts ask for this bundle" {
			many++
		}
	}
	if many != 10 {
		t.Errorf("%d hosts were turned away", many)
	}
}

// asker is a host of a swarm of n that sees a part of it.
func asker(name string, n int, have, seen Bits) Request {
	return Request{Host: name, Have: have, Seen: seen, Hosts: n, Partial: true}
}

func TestWhatAnyHostShowsIsNotDealtToOneThatDoesNotSeeIt(t *testing.T) {
	d := NewDealer([]int64{100})
	if lease := d.Deal(asker("a", 200, nil, nil), 0); len(lease.Pieces) != 1 {
		t.Fatalf("%+v", lease)
	}
	now := time.Duration(0)
	for range 5 {
		now += time.Second
		d.Deal(asker("a", 200, Bits{1}, nil), now)
		if lease := d.Deal(asker("b", 200, nil, nil), now); len(lease.Pieces) > 0 {
			t.Fatalf("dealt again after %v: %+v", now, lease)
		}
	}
	now += landedFor - 1
	if lease := d.Deal(asker("b", 200, nil, nil), now); len(lease.Pieces) > 0 {
		t.Error("dealt again too early")
	}
	if lease := d.Deal(asker("b", 200, nil, nil), now+time.Second); len(lease.Pieces) != 1 {
		t.Errorf("nobody shows it any more, and it is not dealt: %+v", lease)
	}
}

// TestAPieceOfOneSilentHostIsDealtAgain: who listens to a dead host sees what it had for a while, and shows it; that must not keep all others waiting, as it did in a
// swarm of thousands for 22 seconds. While the host asks, and once another has the piece, it is dealt to nobody.
func TestAPieceOfOneSilentHostIsDealtAgain(t *testing.T) {
	const hosts = 5000
	silent := silentTimes * ReportEvery(hosts)
	for _, c := range []struct {
		name  string
		asks  bool // the holder goes on asking
		gives bool // another host got the piece
		want  bool
	}{
		{"silent", false, false, true},
		{"alive", true, false, false},
		{"not alone", false, true, false},
	} {
		d := NewDealer([]int64{100})
		d.Deal(asker("holder", hosts, nil, nil), 0)
		d.Deal(asker("holder", hosts, Bits{1}, nil), time.Second)
		now, dealt := time.Second, false
		for ; now < time.Second+2*silent && !dealt; now += 100 * time.Millisecond {
			if c.asks {
				d.Deal(asker("holder", hosts, Bits{1}, nil), now)
			}
			if c.gives {
				d.Deal(asker("other", hosts, Bits{1}, nil), now)
			}
			d.Deal(asker("neighbour", hosts, nil, Bits{1}), now)
			dealt = len(d.Deal(asker("stranger", hosts, nil, nil), now).Pieces) > 0
			if dealt && now < time.Second+silent {
				t.Errorf("%s: dealt again after %v", c.name, now)
			}
		}
		if dealt != c.want {
			t.Errorf("%s: dealt again: %v, after %v", c.name, dealt, now)
		}
	}
}

func TestALiarDelaysAHostThatGetsNothingForAWhileOnly(t *testing.T) {
	d := NewDealer([]int64{100, 100})
	for now := time.Duration(0); now < 2*starvedFor; now += time.Second {
		d.Deal(asker("liar", 200, Bits{3}, nil), now)
		if lease := d.Deal(asker("honest", 200, nil, nil), now); len(lease.Pieces) > 0 {
			if now < starvedFor {
				t.Errorf("dealt after %v", now)
			}
			return
		}
	}
	t.Error("a liar stops the dealing")
}

func TestAHostThatNobodyGotAnythingFromWaits(t *testing.T) {
	sizes := make([]int64, 2000)
	for i := range sizes {
		sizes[i] = runMin
	}
	d := NewDealer(sizes)
	for i := range enough * readersMax {
		d.Deal(asker(fmt.Sprint("other-", i), 900, nil, nil), 0)
	}
	have, now := NewBits(2000), 3*leaseMin // the leases above ran out
	for d.hosts["reader"] == nil || d.hosts["reader"].alone < runsPerHost*d.runBytes(900) {
		now += time.Second
		lease := d.Deal(asker("reader", 900, have, nil), now)
		if len(lease.Pieces) == 0 && d.hosts["reader"].alone < runsPerHost*d.runBytes(900) {
			t.Fatalf("%+v", lease)
		}
		for _, i := range lease.Pieces {
			have.Set(i)
		}
	}
	if lease := d.Deal(asker("reader", 900, have, nil), now); len(lease.Pieces) > 0 || lease.Why != "others have to get first what this host read" {
		t.Errorf("%+v", lease)
	}
	d.Deal(asker("other-1", 900, have, nil), now)
	if lease := d.Deal(asker("reader", 900, have, nil), now); len(lease.Pieces) == 0 {
		t.Errorf("others have it now: %+v", lease)
	}
}

func TestALargeSwarmIsToldToComeBackOneByOne(t *testing.T) {
	sizes := []int64{100}
	d := NewDealer(sizes)
	d.Deal(asker("reader", 5000, nil, nil), 0)
	times := map[time.Duration]bool{}
	for i := range 100 {
		lease := d.Deal(asker(fmt.Sprint("other-", i), 5000, nil, nil), 0)
		if lease.Retry <= 0 || lease.Retry > 2*reportMax {
			t.Fatalf("come back after %v", lease.Retry)
		}
		times[lease.Retry/(100*time.Millisecond)] = true
	}
	if len(times) < 40 {
		t.Errorf("a hundred hosts come back at %d moments", len(times))
	}
}

func TestLittleIsDealtBeforeAnythingLanded(t *testing.T) {
	sizes := make([]int64, 512)
	for i := range sizes {
		sizes[i] = 128 << 10
	}
	d := NewDealer(sizes)
	have, dealt := NewBits(len(sizes)), 0
	var first []int
	for i := range 16 {
		lease := d.Deal(Request{Host: fmt.Sprint("h", i), Hosts: 16}, 0)
		if len(lease.Pieces) == 0 && lease.Retry > 100*time.Millisecond {
			t.Fatalf("to wait for the first pieces: %+v", lease)
		}
		dealt += len(lease.Pieces)
		first = append(first, lease.Pieces...)
	}
	if dealt < slowStart || dealt > slowStart+1 { // a lease has two of these pieces
		t.Errorf("%d pieces were dealt at once, expected %d", dealt, slowStart)
	}
	for _, i := range first {
		have.Set(i)
	}
	for i := range 16 {
		dealt += len(d.Deal(Request{Host: fmt.Sprint("h", i), Seen: have, Hosts: 16}, time.Millisecond).Pieces)
	}
	if dealt < 3*slowStart || dealt > 3*slowStart+1 {
		t.Errorf("%d pieces were dealt after the first landed, expected as many as landed and %d", dealt, slowStart)
	}
	late := NewDealer(sizes)
	late.Deal(Request{Host: "h0", Hosts: 16}, 0)
	var end int
	for i := range 16 {
		end += len(late.Deal(Request{Host: fmt.Sprint("h", i), Hosts: 16}, slowStartFor).Pieces)
	}
	if end < 16 {
		t.Errorf("%d pieces are dealt where nothing lands for long", end)
	}
}

// TestWhatWasThereBeforeIsNoBeginning: of a release that has most in common with the last one, little is dealt before anything landed too, in as many leases as hosts
// can share, and who begins first lets others read.
func TestWhatWasThereBeforeIsNoBeginning(t *testing.T) {
	sizes := make([]int64, 512)
	for i := range sizes {
		sizes[i] = runMin
	}
	d, common := NewDealer(sizes), NewBits(len(sizes))
	for i := 64; i < len(sizes); i++ {
		common.Set(i)
	}
	ask := func(host string, have Bits, now time.Duration) []int {
		return d.Deal(Request{Host: host, Have: have, Hosts: 8}, now).Pieces
	}
	var dealt []int
	for i := range 8 {
		run := ask(fmt.Sprint("h", i), common, 0)
		if len(run) > 1 {
			t.Errorf("%d pieces of 64 that are missing are one lease for 8 hosts", len(run))
		}
		dealt = append(dealt, run...)
	}
	if len(dealt) != slowStart {
		t.Errorf("%d pieces were dealt at once, expected %d", len(dealt), slowStart)
	}
	have := slices.Clone(common)
	have.Set(dealt[0])
	more := 0
	for range 3 {
		more += len(ask("h0", have, time.Millisecond))
	}
	if more != 1 { // then the others' turn has come
		t.Errorf("%d more pieces are dealt to the first, whose first landed", more)
	}
}

// TestTheFirstLeasesGoToSeveralHosts: one that has no route to the origin, and finds out late, holds up nobody.
func TestTheFirstLeasesGoToSeveralHosts(t *testing.T) {
	sizes := make([]int64, 512)
	for i := range sizes {
		sizes[i] = runMin
	}
	d := NewDealer(sizes)
	dealt := map[string]int{}
	ask := func(now time.Duration) {
		for i := range 12 {
			host := fmt.Sprint("h", i)
			if dealt[host] == 0 {
				dealt[host] = len(d.Deal(Request{Host: host, Hosts: 12}, now).Pieces)
			}
		}
	}
	for n, now := range []time.Duration{0, stuckMin - 1, stuckMin, 2*stuckMin - 1, 2 * stuckMin} {
		ask(now)
		hosts := 0
		for host, pieces := range dealt {
			if pieces > 1 {
				t.Errorf("%s was dealt %d pieces before anything landed", host, pieces)
			}
			hosts += pieces
		}
		if want := slowStart * (1 + n/2); hosts != want {
			t.Errorf("after %v %d hosts were dealt something, expected %d", now, hosts, want)
		}
	}
}

func TestAHostFarBehindReadsOnlyWhatNobodyElseAsksFor(t *testing.T) {
	d := NewDealer(even(100))
	landed := NewBits(100)
	for i := range 60 {
		landed.Set(i)
	}
	little := bitsOf(0, 1, 2)
	if lease := d.Deal(Request{Host: "ahead", Have: landed, Hosts: 3}, 0); len(lease.Pieces) == 0 {
		t.Fatalf("%+v", lease)
	}
	slow := func(now time.Duration) Lease {
		return d.Deal(Request{Host: "behind", Have: little, Seen: landed, Hosts: 3}, now)
	}
	if lease := slow(time.Second); len(lease.Pieces) > 0 || lease.Why == "" {
		t.Errorf("one that has 3 of 60: %+v", lease)
	}
	if lease := slow(behindFor); len(lease.Pieces) == 0 {
		t.Errorf("nobody else was dealt anything for long: %+v", lease)
	}
	if lease := d.Deal(Request{Host: "late", Hosts: 3, Seen: landed}, 2*behindFor); len(lease.Pieces) == 0 {
		t.Errorf("one that begins, where nobody else asks: %+v", lease)
	}
}

// TestAHostIsNotBehindForEver has somebody far along take lease after lease and read nothing.
func TestAHostIsNotBehindForEver(t *testing.T) {
	d := NewDealer(even(1000))
	landed := NewBits(1000)
	for i := range 600 {
		landed.Set(i)
	}
	for now := time.Second; now < 2*starvedFor; now += time.Second {
		d.Deal(Request{Host: "liar", Have: landed, Hosts: 2}, now)
		if lease := d.Deal(Request{Host: "honest", Seen: landed, Hosts: 2}, now); len(lease.Pieces) > 0 {
			return
		}
	}
	t.Error("it is")
}

func TestWhoBeginsFirstLetsOthersReadAsMuch(t *testing.T) {
	sizes := make([]int64, 512)
	for i := range sizes {
		sizes[i] = 128 << 10
	}
	d := NewDealer(sizes)
	have := NewBits(len(sizes))
	read := func(host string, now time.Duration) (n int) { // until it gets nothing
		for range 20 {
			lease := d.Deal(Request{Host: host, Have: have, Hosts: 8}, now)
			if len(lease.Pieces) == 0 {
				return n
			}
			for _, i := range lease.Pieces {
				have.Set(i)
			}
			n += len(lease.Pieces)
		}
		return n
	}
	now := slowStartFor
	if n := read("first", now); n < 16 || d.had.Count() >= len(sizes)/behindFrom {
		t.Errorf("alone it was dealt %d pieces", n)
	}
	if lease := d.Deal(Request{Host: "second", Hosts: 8, Seen: have}, now); len(lease.Pieces) == 0 {
		t.Fatalf("%+v", lease)
	}
	if n := read("first", now); n != 0 {
		t.Errorf("%d pieces are dealt to the one that has most while the other reads its first", n)
	}
	if n := read("first", evenFor); n == 0 {
		t.Error("nothing is dealt to it after the beginning")
	}
}

// TestWhatOthersSayOfALeaseThatEndedKeepsItsPiecesFromNobody: the news that somebody reads them are late.
func TestWhatOthersSayOfALeaseThatEndedKeepsItsPiecesFromNobody(t *testing.T) {
	d := NewDealer(even(4))
	lease := d.Deal(Request{Host: "a", Hosts: 2}, 0)
	if len(lease.Pieces) == 0 {
		t.Fatal("nothing is dealt")
	}
	over := lease.For
	d.Deal(Request{Host: "a", Hosts: 2, Failed: "no route"}, over)
	got := d.Deal(Request{Host: "b", Hosts: 2, Others: lease.Pieces}, over)
	if !slices.Equal(got.Pieces, lease.Pieces) {
		t.Errorf("b is dealt %v (%s), not %v, which a could not read", got.Pieces, got.Why, lease.Pieces)
	}
	fresh := NewDealer(even(4)) // of a new dealer they are all that is known
	if got := fresh.Deal(Request{Host: "b", Hosts: 2, Others: lease.Pieces}, 0); slices.Equal(got.Pieces, lease.Pieces) {
		t.Error("a new dealer deals what others are reading")
	}
}

// TestWhatAHostTookWithItIsDealtAgainSoon: what it had read and told nobody, once others do not hear it any more.
func TestWhatAHostTookWithItIsDealtAgainSoon(t *testing.T) {
	begin := func() (d *Dealer, landed, reading int) {
		d = NewDealer(even(2))
		first := d.Deal(Request{Host: "a", Hosts: 3}, 0)
		second := d.Deal(Request{Host: "a", Hosts: 3, Have: bitsOf(first.Pieces...)}, 10*time.Millisecond)
		if len(first.Pieces) != 1 || len(second.Pieces) != 1 {
			t.Fatalf("a is dealt %v and %v", first.Pieces, second.Pieces)
		}
		return d, first.Pieces[0], second.Pieces[0]
	}
	// when is when a piece is dealt to b, which asks every 10 ms.
	when := func(d *Dealer, piece int, ask Request) time.Duration {
		for now := 20 * time.Millisecond; now < time.Minute; now += 10 * time.Millisecond {
			if lease := d.Deal(ask, now); slices.Contains(lease.Pieces, piece) {
				return now
			}
		}
		return time.Minute
	}
	for _, c := range []struct {
		name   string
		ask    Request
		landed time.Duration // at most; 0: as if nothing were known
	}{
		{name: "not heard", ask: Request{Host: "b", Hosts: 3, Unheard: []string{"a"}}, landed: 1100 * time.Millisecond},
		{name: "most are not heard", ask: Request{Host: "b", Hosts: 3, Unheard: []string{"a", "c"}}},
		{name: "heard", ask: Request{Host: "b", Hosts: 3}},
		{name: "not heard by one that sees a part", ask: Request{Host: "b", Hosts: 3, Unheard: []string{"a"}, Partial: true}},
		{name: "another is not heard", ask: Request{Host: "b", Hosts: 3, Unheard: []string{"c"}}},
	} {
		d, landed, reading := begin()
		other := c.ask
		other.Have = bitsOf(reading)
		if took := when(d, landed, other); c.landed > 0 && took > c.landed || c.landed == 0 && took < landedFor {
			t.Errorf("%s: what it had is dealt again after %v", c.name, took)
		}
		d, landed, reading = begin()
		other = c.ask
		other.Have = bitsOf(landed)
		if took := when(d, reading, other); took < leaseMin { // it may still read it
			t.Errorf("%s: what it was reading is dealt again after %v", c.name, took)
		}
	}
	_, landed, reading := begin() // a new dealer, whom c told in time what it saw
	fresh := NewDealer(even(2))
	fresh.Deal(Request{Host: "c", Hosts: 3, Have: bitsOf(reading), Seen: bitsOf(landed)}, 0)
	if took := when(fresh, landed, Request{Host: "b", Hosts: 3, Unheard: []string{"a"}, Have: bitsOf(reading)}); took > 1100*time.Millisecond {
		t.Errorf("what another dealer dealt is dealt again after %v", took)
	}
}

// TestWhatIsCopiedFromAnEarlierBundleIsNotReadSinceAnotherHostIsNotHeard: who copies it tells the dealer at once, and the others later.
func TestWhatIsCopiedFromAnEarlierBundleIsNotReadSinceAnotherHostIsNotHeard(t *testing.T) {
	d, all := NewDealer(even(100)), NewBits(100)
	for i := range 100 {
		all.Set(i)
	}
	for now := time.Duration(0); now < landedFor; now += 20 * time.Millisecond {
		d.Deal(Request{Host: "x", Hosts: 4, Have: all}, now)
		if lease := d.Deal(Request{Host: "y", Hosts: 4, Unheard: []string{"dead"}}, now); len(lease.Pieces) > 0 {
			t.Fatalf("y is dealt %v after %v", lease.Pieces, now)
		}
	}
}

// TestWhatIsReadAgainIsOnItsWayAlthoughOthersHaveIt: otherwise one that does not hear them is dealt all they have at once.
func TestWhatIsReadAgainIsOnItsWayAlthoughOthersHaveIt(t *testing.T) {
	d, all := NewDealer(even(100)), NewBits(100)
	for i := range 100 {
		all.Set(i)
	}
	now := time.Duration(0)
	d.Deal(Request{Host: "a", Hosts: 4, Have: all}, now)
	now += landedFor
	var holding []int
	for end := now + leaseMin/2; now < end; now += 20 * time.Millisecond {
		d.Deal(Request{Host: "a", Hosts: 4, Have: all}, now)
		lease := d.Deal(Request{Host: "b", Hosts: 4, Holding: holding}, now)
		holding = append(holding, lease.Pieces...)
	}
	held, _ := d.leased("b")
	if len(holding) == 0 || int64(len(holding))*d.sizes[0] != held || held > runsPerHost*runMax {
		t.Errorf("b reads %d pieces, the dealer believes %d bytes", len(holding), held)
	}
}

// A host whose first lease brought nothing for long, or whose first read failed, leaves the rest to others while they read: what it is dealt comes seconds late.
func TestAHostThatBroughtNothingLeavesReadingToOthers(t *testing.T) {
	for _, failed := range []string{"", "no route"} {
		sizes := make([]int64, 40)
		for i := range sizes {
			sizes[i] = 128 << 10
		}
		d := NewDealer(sizes)
		lost := d.Deal(Request{Host: "web-1", Have: NewBits(40), Hosts: 2}, 0).Pieces
		if len(lost) == 0 {
			t.Fatal("the first host gets nothing")
		}
		have, now := NewBits(40), time.Duration(0)
		for range 10 {
			l := d.Deal(Request{Host: "web-2", Have: have, Hosts: 2}, now)
			for _, i := range l.Pieces {
				have.Set(i)
			}
			now += 10 * time.Millisecond
		}
		now = 2 * time.Second
		d.Deal(Request{Host: "web-2", Have: have, Hosts: 2}, now)
		if l := d.Deal(Request{Host: "web-1", Have: NewBits(40), Seen: have, Hosts: 2, Failed: failed}, now+time.Second); len(l.Pieces) > 0 {
			t.Errorf("failed %q: dealt %v beside a host that reads", failed, l.Pieces)
		}
		if l := d.Deal(Request{Host: "web-1", Have: NewBits(40), Seen: have, Hosts: 2}, now+10*time.Second); len(l.Pieces) == 0 {
			t.Errorf("failed %q: dealt nothing although nobody else asks any more: %s", failed, l.Why)
		}
	}
}
