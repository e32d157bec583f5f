package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// TestStartWithoutAKeyLeavesNothing: the folder belongs to `gitopsd host init` until there is a key.
func TestStartWithoutAKeyLeavesNothing(t *testing.T) {
	config := newTestFleet(t, "web-1").hosts[0].config
	config.DataDir = filepath.Join(t.TempDir(), "data")
	for range 2 {
		if _, err := New(Options{Config: config}); err == nil || !strings.Contains(err.Error(), "gitopsd host init --name web-1") {
			t.Errorf("no key: %v", err)
		}
		if left, err := filepath.Glob(filepath.Join(config.DataDir, "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
		if err := os.MkdirAll(config.DataDir, 0o700); err != nil { // once without the folder, once with it
			t.Fatal(err)
		}
	}
}

func TestLockErrorsSayWhatToDo(t *testing.T) {
	denied := &fs.PathError{Op: "open", Path: "/d/agent.lock", Err: fs.ErrPermission}
	for _, c := range []struct {
		err        error
		want, lack string
	}{
		{fmt.Errorf("cannot lock: %w", denied), "may not use the data directory /d", "another agent"},
		{fmt.Errorf("cannot lock /d/agent.lock: %w", durable.ErrLocked), "another agent uses /d", "may not"},
		{errors.New("cannot lock: the disk is gone"), "cannot start: cannot lock: the disk is gone", "agent"},
	} {
		if got := lockError("/d", c.err).Error(); !strings.Contains(got, c.want) || strings.Contains(got, c.lack) {
			t.Errorf("%v: %s", c.err, got)
		}
	}
}

// TestDataDirectoryOfAnotherUser needs a user who is bound by modes.
func TestDataDirectoryOfAnotherUser(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root opens every folder")
	}
	config := newTestFleet(t, "web-1").hosts[0].config
	if err := os.Chmod(config.DataDir, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(config.DataDir, 0o700)
	if _, err := New(Options{Config: config}); err == nil || !strings.Contains(err.Error(), "may not use the data directory") || strings.Contains(err.Error(), "another agent") {
		t.Errorf("%v", err)
	}
}

func TestTakenPortIsNamedOnce(t *testing.T) {
	config := newTestFleet(t, "web-1").hosts[0].config
	l, err := net.Listen("tcp", config.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = New(Options{Config: config})
	if err == nil || strings.Count(err.Error(), config.Listen) != 1 || strings.Count(err.Error(), "cannot listen") != 1 || !strings.Contains(err.Error(), "`ss -ltnp`") {
		t.Errorf("%v", err)
	}
}

func TestMissingAllowedSignersAreHinted(t *testing.T) {
	config := newTestFleet(t, "web-1").hosts[0].config
	config.Repository.AllowedSigners = filepath.Join(t.TempDir(), "allowed_signers")
	if _, err := New(Options{Config: config}); err == nil || !strings.Contains(err.Error(), "who signed the introduction") || strings.Count(err.Error(), config.Repository.AllowedSigners) != 1 {
		t.Errorf("%v", err)
	}
	if err := repoError(config.Repository.AllowedSigners, errors.New("other")); err.Error() != "other" {
		t.Errorf("%v", err)
	}
}

// TestDataDirectoryOfAnotherHostIsAWrongConfiguration: systemd, which starts an agent that failed again, must not go on with one that can only fail.
func TestDataDirectoryOfAnotherHostIsAWrongConfiguration(t *testing.T) {
	f := newTestFleet(t, "web-1")
	h := f.hosts[0]
	h.start()
	if a := h.await(f.deploy(f.release("one", ""), "")); a.Code != 0 {
		t.Fatalf("%+v", a)
	}
	h.end()
	config := h.config
	config.Host = "web-2"
	a, err := New(Options{Config: config, Program: os.Args[0]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.Run(ctx); !errors.As(err, new(*ConfigError)) || !strings.Contains(err.Error(), `it belongs to host "web-1"`) {
		t.Errorf("%v", err)
	}
}
