package e2e

import (
	"testing"
	"time"
)

// patience is how long a condition may take on a slow and busy machine. Tests never sleep for a fixed time: they end as soon as the condition holds.
const patience = 90 * time.Second

// eventually waits until check returns "", and fails with the last thing it said.
func eventually(t testing.TB, what string, check func() string) {
	t.Helper()
	eventuallyWithin(t, patience, what, check)
}

// eventuallyWithin is eventually where the product itself waits for long.
func eventuallyWithin(t testing.TB, limit time.Duration, what string, check func() string) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	pace := time.NewTicker(25 * time.Millisecond)
	defer pace.Stop()
	for {
		why := check()
		if why == "" {
			return
		}
		select {
		case <-pace.C:
		case <-deadline.C:
			t.Fatalf("%s: %s", what, why)
		}
	}
}
