package swarm

import (
	"testing"
	"time"
)

func TestTheRateIsThatOfTheLastSeconds(t *testing.T) {
	var f flow
	if got := f.rate(0); got != 0 {
		t.Errorf("before anything came: %d", got)
	}
	f.add(1000, 100*time.Millisecond)
	if got := f.rate(200 * time.Millisecond); got != 2000 {
		t.Errorf("the first bytes: %d a second", got)
	}
	for now := time.Duration(0); now < 20*time.Second; now += 100 * time.Millisecond {
		f.add(100, now)
	}
	if got := f.rate(20*time.Second - 1); got < 950 || got > 1050 {
		t.Errorf("100 bytes each tenth of a second: %d a second", got)
	}
	if got := f.rate(22500 * time.Millisecond); got < 400 || got > 600 {
		t.Errorf("after half of the time without any: %d", got)
	}
	if got := f.rate(time.Hour); got != 0 {
		t.Errorf("after an hour: %d", got)
	}
}

func TestTheRestTakesWhatItsRateSays(t *testing.T) {
	if eta, ok := (Progress{Total: 100, Have: 40, Rate: 20}).ETA(); !ok || eta != 3*time.Second {
		t.Errorf("%v %v", eta, ok)
	}
	if eta, ok := (Progress{Total: 100, coming: 90, Rate: 20}).ETA(); !ok || eta != 500*time.Millisecond {
		t.Errorf("of an archive that is read whole: %v %v", eta, ok)
	}
	for name, p := range map[string]Progress{"nothing comes": {Total: 100}, "unknown": {Rate: 1}, "complete": {Total: 1, Have: 1, Rate: 1}} {
		if eta, ok := p.ETA(); ok {
			t.Errorf("%s: %v", name, eta)
		}
	}
}
