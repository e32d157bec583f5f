package demo

import (
	"os"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"go.uber.org/goleak"
)

// TestMain lets the test's own binary stand in for gitopsd where it starts itself, or where git starts it to sign.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "demo-app":
			os.Exit(AppMain(os.Args[2:]))
		case "-Y":
			os.Exit(sign.Keygen(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		case "version":
			os.Exit(0)
		case "sync":
			os.Exit(unreachableCode)
		}
	}
	goleak.VerifyTestMain(m)
}

// eventually waits until check returns "", and fails with the last thing it said.
func eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	pace := time.NewTicker(5 * time.Millisecond)
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
