package agent

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestALostPartOfTheDataDirectoryIsNoticed: an agent goes on for days without reading what it has lost.
func TestALostPartOfTheDataDirectoryIsNoticed(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	var log bytes.Buffer
	told := 0
	l := &lost{self: "web-1", dir: dir, log: slog.New(slog.NewTextHandler(&log, nil)), changed: func() { told++ }}
	look := func(when string, news int, want ...string) {
		t.Helper()
		told = 0
		l.look()
		var have []string
		for _, n := range l.notices() {
			have = append(have, n.Kind+" "+n.Host+" "+n.Message)
		}
		if len(have) != len(want) || told != news {
			t.Fatalf("%s: told %d times of %q", when, told, have)
		}
		for i := range want {
			if !strings.HasPrefix(have[i], "DataLost web-1 "+filepath.Join(dir, want[i])+" was removed while the agent runs, and with it ") {
				t.Errorf("%s: %q", when, have)
			}
		}
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	look("before anything is there", 0)
	apply := filepath.Join(dir, applyDir)
	if err := os.MkdirAll(filepath.Join(apply, "groups"), 0o700); err != nil {
		t.Fatal(err)
	}
	look("with it", 0)
	look("with it still", 0)
	rename(apply, filepath.Join(away, "apply"))
	look("without it", 1, "apply")
	look("without it still", 0, "apply")
	if err := os.Mkdir(apply, 0o700); err != nil { // by the agent, for the next deployment
		t.Fatal(err)
	}
	look("with another", 0, "apply")
	if err := os.Remove(apply); err != nil {
		t.Fatal(err)
	}
	rename(filepath.Join(away, "apply"), apply)
	look("with the old one", 1)
	if text := log.String(); strings.Count(text, "was removed while the agent runs") != 1 || strings.Count(text, "is back") != 1 {
		t.Errorf("log:\n%s", text)
	}
}
