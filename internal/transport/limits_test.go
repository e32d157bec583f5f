package transport

import (
	"testing"
	"time"
)

func TestInstances(t *testing.T) {
	i := newInstances()
	now := time.Unix(0, 0)
	see := func(instance string) sighting {
		s, _, _ := i.see("h", instance, now)
		return s
	}
	for n, step := range []struct {
		instance string
		want     sighting
	}{{"a", newInstance}, {"a", sameInstance}, {"b", newInstance}, {"a", oldInstance}, {"b", sameInstance}, {"c", newInstance}, {"b", oldInstance}, {"c", sameInstance}} {
		if got := see(step.instance); got != step.want {
			t.Errorf("step %d, %s: %v, want %v", n, step.instance, got, step.want)
		}
	}
	for n := range 100 {
		see(NewInstance() + string(rune('a'+n%20)))
	}
	if n := len(i.hosts["h"].past); n > pastInstances {
		t.Errorf("%d past instances are kept", n)
	}
	i.keep(func(string) bool { return false })
	if len(i.hosts) != 0 {
		t.Error("a host that left is remembered")
	}
}

func TestReporterPauses(t *testing.T) {
	var got int
	r := &reporter{sink: func(Event) { got++ }, last: map[string]time.Time{}}
	now := time.Unix(1000, 0)
	for range 5 {
		r.report(now, "a", Event{})
	}
	r.report(now, "b", Event{})
	r.report(now.Add(eventPause), "a", Event{})
	if got != 3 {
		t.Errorf("%d reports, want 3", got)
	}
	r.forget(now.Add(3 * eventPause))
	if len(r.last) != 0 {
		t.Error("old reports are remembered")
	}
	for i := range 2 * reportedMax {
		r.report(now, string(rune(i)), Event{})
	}
	if len(r.last) > reportedMax {
		t.Errorf("%d reports are remembered", len(r.last))
	}
}

func TestBucket(t *testing.T) {
	var b bucket
	now := time.Unix(0, 0)
	taken := func() (n int) {
		for b.take(now, 2, 10) {
			n++
		}
		return n
	}
	if n := taken(); n != 10 {
		t.Errorf("burst of %d", n)
	}
	now = now.Add(time.Second)
	if n := taken(); n != 2 {
		t.Errorf("%d a second", n)
	}
	now = now.Add(time.Hour)
	if n := taken(); n != 10 {
		t.Errorf("burst of %d after a pause", n)
	}
}
