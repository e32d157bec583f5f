package apply

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/timerslack"
)

// TestHooksAreNotRelaxed: the agent's threads may be woken late; what a hook starts may not.
func TestHooksAreNotRelaxed(t *testing.T) {
	usual, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Skipf("the timer slack cannot be read here, which needs CAP_SYS_NICE: %v", err)
	}
	err = timerslack.Relax(7 * time.Millisecond)
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("the timer slack of threads needs CAP_SYS_NICE: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = timerslack.Relax(50 * time.Microsecond) })
	w := newBench(t)
	told := filepath.Join(w.dir, "told")
	if res := w.hook("HOOK; cat /proc/self/timerslack_ns >"+told, ""); res.Outcome != OutcomeSucceeded {
		t.Fatal(res.Error)
	}
	got, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got)) != strings.TrimSpace(string(usual)) {
		t.Errorf("a hook's timer slack is %s ns, this process was given %s", got, usual)
	}
}
