package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/status"
)

// Bounds of trying again what the disk refused.
const (
	memberStateRoom = 480 << 10 // bytes the state may have on a full disk
	diskPause       = 200 * time.Millisecond
	diskPauseMax    = 10 * time.Second
)

// openState opens what this host has accepted, with its place on the disk taken. On a full disk that lacks it this waits.
func (m *member) openState(ctx context.Context) ([]byte, error) {
	path := filepath.Join(m.dir, memberStateFile)
	var state []byte
	err := m.whileFull(ctx, func() error {
		slots, value, err := durable.OpenSlots(path, memberStateRoom)
		if err == nil {
			m.state, state = slots, value
		}
		return err
	})
	if err == nil && len(state) > memberStateMax {
		err = fmt.Errorf("%s holds more than %d bytes", path, memberStateMax)
	}
	return state, err
}

// persist makes the Member's state durable. While the disk is full nothing else is done: this host may not act on what it could forget.
func (m *member) persist(ctx context.Context, state []byte) error {
	if m.state == nil {
		if _, err := m.openState(ctx); err != nil {
			return err
		}
	}
	return m.whileFull(ctx, func() error { return m.state.Write(state) })
}

// whileFull does a thing that writes, again and again while the disk is full, and says so to people.
func (m *member) whileFull(ctx context.Context, write func() error) error {
	defer m.hold("")
	for pause := diskPause; ; pause = min(2*pause, diskPauseMax) {
		err := write()
		if !durable.IsFull(err) {
			return err
		}
		m.hold(fmt.Sprintf("the disk of the data directory %s is full, so this host takes no grant and goes on with none; make room", m.dir))
		m.log.Error("this host holds still until there is room on its disk", "error", err)
		if !paused(ctx, pause) {
			return errors.Join(errStopped, err)
		}
	}
}

// readMost reads a file that has at most so many bytes.
func readMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, err
}

// paused waits, and says whether ctx lasted that long.
func paused(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// hold notes why this host holds still; empty when it does not.
func (m *member) hold(why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if why == "" || m.held.Message == "" {
		m.held = status.Notice{Kind: "DiskFull", Host: m.self, Message: why, Since: status.Stamp(time.Now())}
	}
}

// notices reports what keeps this host from acting: a full disk, journals that were damaged, deployments that cannot be ended.
func (m *member) notices() []status.Notice {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := append(append([]status.Notice(nil), m.damaged...), m.alone...)
	if m.held.Message != "" {
		all = append(all, m.held)
	}
	for _, stuck := range m.stuck {
		all = append(all, stuck)
	}
	return all
}

// mend sets damaged journals aside before anything reads them.
func (m *member) mend() error {
	found, err := m.applier.Mend()
	if err != nil {
		return fmt.Errorf("cannot read the journals of deployments: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range found {
		m.damaged = append(m.damaged, status.Notice{Kind: "JournalDamaged", Host: m.self, Subject: d.Key.GroupID, Message: d.String(), Since: status.Stamp(time.Now())})
	}
	return nil
}

// finish gives up a deployment that an error left open, until it has ended: an open journal keeps every later deployment of its group away. Where nothing is open
// it returns the error.
func (m *member) finish(ctx context.Context, key apply.Key, cause error) (apply.Result, error) {
	defer m.unstick(key)
	for pause := diskPause; ; pause = min(2*pause, diskPauseMax) {
		open, err := m.applier.Open(key)
		if err != nil || !open {
			return apply.Result{}, errors.Join(cause, err)
		}
		result, err := m.applier.Resume(ctx, key, apply.Undo, m.observe(ctx))
		if err == nil {
			return result, nil
		}
		m.log.Error("a deployment is open and cannot be ended yet", "group", key.GroupID, "deployment", key.DeploymentID, "cause", cause, "error", err)
		m.stick(key, fmt.Sprintf("deployment %s could not go on (%v) and cannot be given up yet (%v); it is tried again", key.DeploymentID, cause, err))
		if !paused(ctx, pause) {
			return apply.Result{}, apply.ErrInterrupted
		}
	}
}

func (m *member) stick(key apply.Key, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stuck == nil {
		m.stuck = map[apply.Key]status.Notice{}
	}
	since := status.Stamp(time.Now())
	if before, ok := m.stuck[key]; ok {
		since = before.Since
	}
	m.stuck[key] = status.Notice{Kind: "DeploymentOpen", Host: m.self, Subject: key.GroupID, Message: why, Since: since}
}

func (m *member) unstick(key apply.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.stuck, key)
}
