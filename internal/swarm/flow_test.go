package swarm

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"golang.org/x/time/rate"
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

// TestAHighLimitIsReachedByWhoIsWokenLate has senders whose every wait ends 8 ms late, as the agent's timers may.
func TestAHighLimitIsReachedByWhoIsWokenLate(t *testing.T) {
	for _, mib := range []int64{1, 100, 400, 2000} {
		bubble(t, func(t *testing.T) {
			limit, begin, passed := limiter(mib<<20), time.Now(), int64(0)
			for time.Since(begin) < time.Second {
				asked := time.Now()
				if err := take(t.Context(), limit, throttled); err != nil {
					t.Fatal(err)
				}
				if passed += throttled; time.Now().After(asked) {
					time.Sleep(8 * time.Millisecond) // of the bubble's clock
				}
			}
			if least, most := mib<<20*95/100, mib<<20*102/100+int64(burst(mib<<20)); passed < least || passed > most {
				t.Errorf("of %d MiB a second %d came through", mib, passed>>20)
			}
		})
	}
}

// A limit holds also where bytes come that a deadline leaves no time for: they have come, and those after them wait the longer.
func TestALimitHoldsBeyondADeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const piece, perSecond = 256 << 10, 32 << 10
		limit, begin := rate.NewLimiter(perSecond, rateBurst), time.Now()
		for range 12 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			body := &meter{ctx: ctx, r: bytes.NewReader(make([]byte, piece)), limit: limit, note: func(int) {}}
			_, body.w = watch(ctx, time.Minute, errSilent)
			_, _ = io.ReadFull(body, make([]byte, piece)) // all of it is here, whatever the limit says
			body.w.end()
			cancel()
		}
		if err := take(t.Context(), limit, 1); err != nil {
			t.Fatal(err)
		}
		if took, least := time.Since(begin), time.Duration(12*piece-rateBurst)*time.Second/perSecond; took < least {
			t.Errorf("%d pieces in %v, the limit allows them in %v", 12, took, least)
		}
	})
}
