package health

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spec is a check whose answers a test scripts.
func spec(name string) desired.Check {
	return desired.Check{Name: name, TCP: &desired.TCPCheck{Address: "127.0.0.1:1"}, Interval: 5 * time.Second, Timeout: 2 * time.Second, HealthyAfter: 2, UnhealthyAfter: 3, Grace: 0}
}

// prober runs checks against answer.
func prober(t *testing.T, answer func(ctx context.Context, name string) error, specs ...desired.Check) *Prober {
	t.Helper()
	p, err := New(Options{Group: "g", Checks: specs, probe: func(ctx context.Context, c desired.Check) (string, error) { return "fine", answer(ctx, c.Name) }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start runs p within a synctest bubble until the test ends.
func start(t *testing.T, p *Prober) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

// at moves the bubble's clock on and expects a state.
func at(t *testing.T, p *Prober, d time.Duration, want State) {
	t.Helper()
	time.Sleep(d) // the bubble's clock, not the wall's
	synctest.Wait()
	if got := p.Verdict(); got.State != want {
		t.Errorf("state = %s, want %s: %s", got.State, want, got.Reason())
	}
}

func TestHealthyAfterAndUnhealthyAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		p := prober(t, func(context.Context, string) error {
			if down.Load() {
				return errors.New("refused")
			}
			return nil
		}, spec("up"))
		defer start(t, p)()
		at(t, p, time.Second, Unknown)     // one pass
		at(t, p, 5*time.Second, Healthy)   // two
		down.Store(true)                   //
		at(t, p, 5*time.Second, Healthy)   // one failure
		at(t, p, 5*time.Second, Healthy)   // two
		at(t, p, 5*time.Second, Unhealthy) // three
		since := p.Verdict().Since
		if e := p.Verdict().Evidence[0]; e.Message != "refused" || e.InARow != 3 || e.Passed {
			t.Errorf("evidence = %+v", e)
		}
		down.Store(false)
		at(t, p, 5*time.Second, Unhealthy) // one pass
		if p.Verdict().Since != since {
			t.Error("Since moved though the state did not")
		}
		at(t, p, 5*time.Second, Healthy)
		select {
		case <-p.Changed():
		default:
			t.Error("nobody was told")
		}
	})
}

func TestFlappingIsNeverHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		p := prober(t, func(context.Context, string) error {
			if n.Add(1)%2 == 0 {
				return errors.New("refused")
			}
			return nil
		}, spec("up"))
		defer start(t, p)()
		for range 50 {
			at(t, p, 5*time.Second, Unknown)
		}
	})
}

func TestGraceForgivesFailuresOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec("up")
		s.Grace = 30 * time.Second
		p := prober(t, func(context.Context, string) error { return errors.New("refused") }, s)
		defer start(t, p)()
		at(t, p, 29*time.Second, Unknown) // probes at 0, 5, ... 25 are forgiven
		if e := p.Verdict().Evidence[0]; !e.Grace {
			t.Errorf("evidence = %+v", e)
		}
		at(t, p, 10*time.Second, Unknown)  // 30 and 35 count
		at(t, p, 3*time.Second, Unhealthy) // 40 is the third
		p.Restart(time.Now())
		at(t, p, 6*time.Second, Unknown)
	})
}

func TestEveryCheckMustPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := spec("slow")
		slow.Interval = 20 * time.Second
		var bad atomic.Value
		bad.Store("")
		p := prober(t, func(_ context.Context, name string) error {
			if bad.Load() == name {
				return errors.New("refused")
			}
			return nil
		}, spec("fast"), slow)
		defer start(t, p)()
		at(t, p, 6*time.Second, Unknown) // fast is healthy, slow has passed once
		at(t, p, 15*time.Second, Healthy)
		bad.Store("fast")
		at(t, p, 15*time.Second, Unhealthy)
		if reason := p.Verdict().Reason(); !strings.Contains(reason, "check fast is unhealthy: refused (3 in a row)") || strings.Contains(reason, "slow") {
			t.Errorf("reason = %s", reason)
		}
	})
}

func TestTimeoutIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prober(t, func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }, spec("hangs"))
		defer start(t, p)()
		at(t, p, 13*time.Second, Unhealthy)
		if e := p.Verdict().Evidence[0]; !strings.Contains(e.Message, "no answer within 2s") || e.Duration != 2000 {
			t.Errorf("evidence = %+v", e)
		}
	})
}

func TestStoppingCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prober(t, func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }, spec("hangs"))
		stop := start(t, p)
		synctest.Wait()
		stop()
		if e := p.Verdict().Evidence[0]; !e.At.IsZero() || e.State != Unknown {
			t.Errorf("evidence = %+v", e)
		}
	})
}

func TestNoChecksStayUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prober(t, nil)
		defer start(t, p)()
		at(t, p, time.Hour, Unknown)
		if v, err := p.WaitHealthy(t.Context(), time.Minute); err != nil || v.State != Unknown || v.Reason() != "the group has no checks" {
			t.Errorf("verdict = %+v, %v", v, err)
		}
	})
}

func TestWaitHealthy(t *testing.T) {
	cases := []struct {
		name     string
		readyIn  time.Duration
		grace    time.Duration
		deadline time.Duration
		want     State
		atMost   time.Duration
		message  string
	}{
		{"at once", 0, 0, time.Minute, Healthy, 6 * time.Second, ""},
		{"within its grace", 10 * time.Second, 30 * time.Second, time.Minute, Healthy, 17 * time.Second, ""},
		{"fails after its grace", time.Hour, 10 * time.Second, time.Minute, Unhealthy, 30 * time.Second, "group g is unhealthy: check up is unhealthy: refused (3 in a row)"},
		{"never ready in time", time.Hour, 2 * time.Hour, time.Minute, Unknown, time.Minute, "did not become healthy within 1m0s: check up is unknown: refused"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				s := spec("up")
				s.Grace = c.grace
				p := prober(t, func(context.Context, string) error {
					if time.Since(begin) < c.readyIn {
						return errors.New("refused")
					}
					return nil
				}, s)
				v, err := p.WaitHealthy(t.Context(), c.deadline)
				if v.State != c.want || time.Since(begin) > c.atMost {
					t.Errorf("verdict = %+v after %s", v, time.Since(begin))
				}
				if (err == nil) != (c.want == Healthy) || err != nil && !strings.Contains(err.Error(), c.message) {
					t.Errorf("error = %v", err)
				}
			})
		})
	}
}

func TestWaitHealthyEndsWithTheFirstBadCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		p := prober(t, func(ctx context.Context, name string) error {
			if name == "bad" {
				return errors.New("refused")
			}
			<-ctx.Done()
			return ctx.Err()
		}, spec("bad"), func() desired.Check { s := spec("slow"); s.Timeout = time.Hour; return s }())
		v, err := p.WaitHealthy(t.Context(), 2*time.Hour)
		if v.State != Unhealthy || err == nil || time.Since(begin) > time.Minute {
			t.Errorf("verdict = %+v, %v after %s", v, err, time.Since(begin))
		}
	})
}

func TestWaitHealthyIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		p := prober(t, func(context.Context, string) error { return nil }, spec("up"))
		if v, err := p.WaitHealthy(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || v.State != Unknown {
			t.Errorf("verdict = %+v, %v", v, err)
		}
	})
}

func TestNewRefusesWhatItCannotRun(t *testing.T) {
	both, none, zero := spec("both"), spec("none"), spec("zero")
	both.Unit = &desired.UnitCheck{Name: "a"}
	none.TCP = nil
	zero.Interval = 0
	for _, c := range []desired.Check{both, none, zero, {Name: "exec", Exec: &desired.ExecCheck{}, Interval: 1, Timeout: 1, HealthyAfter: 1, UnhealthyAfter: 1}} {
		if _, err := New(Options{Group: "g", Checks: []desired.Check{c}}); err == nil || !strings.Contains(err.Error(), "group g") {
			t.Errorf("%s: error = %v", c.Name, err)
		}
	}
}
