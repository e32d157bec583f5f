package demo

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunRefusesBadOptions(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"too many hosts": {Options{Hosts: HostsMax + 1}, "choose 1 to 25"},
		"fewer than one": {Options{}, "choose 1 to 25"},
		"a full folder":  {Options{Hosts: 1, Dir: full}, "not empty"},
		"no such folder": {Options{Hosts: 1, Dir: filepath.Join(full, "mine", "below")}, "cannot make the demo's folder"},
	} {
		t.Run(name, func(t *testing.T) {
			c.options.Out = io.Discard
			if err := Run(t.Context(), c.options); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(full, "mine")); err != nil {
		t.Errorf("what was in the folder is gone: %v", err)
	}
}

func TestRunLeavesNothingWhenItCannotStart(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("PATH", t.TempDir()) // without git
	err := Run(t.Context(), Options{Hosts: 1, Out: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "cannot run git") {
		t.Errorf("error %v, want that git is missing", err)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAwaitSaysWhatIsMissing(t *testing.T) {
	d := &demo{fleet: &fleet{}}
	err := d.await(t.Context(), "the sky is not blue", 1, func(context.Context) string { return "clouds" })
	if err == nil || !strings.Contains(err.Error(), "the sky is not blue after 1ns: clouds") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.await(ctx, "", settlePatience, func(context.Context) string { return "never" }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that it was interrupted", err)
	}
}

func TestAwaitNoticesAnAgentThatEnded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("first\nlast words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ended := &process{name: "the agent of web-1", log: log, done: make(chan struct{}), err: errors.New("exit status 1")}
	close(ended.done)
	d := &demo{fleet: &fleet{agents: []*process{ended}}}
	err := d.await(t.Context(), "", settlePatience, func(context.Context) string { return "never" })
	if err == nil || err.Error() != "the agent of web-1 ended by itself (exit status 1); it wrote last: last words" {
		t.Errorf("error %v", err)
	}
}
