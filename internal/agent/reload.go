package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// reloadTimeout bounds how long a reload waits for a fetch under way.
const reloadTimeout = 30 * time.Second

// Reload reads the configuration again, as SIGHUP asks. What cannot change in a running agent keeps its value and is named in the error; a file that is wrong
// changes nothing.
func (a *Agent) Reload() error {
	if a.opt.Reload == nil {
		return errors.New("cannot reload: the configuration did not come from a file")
	}
	a.notify(reloading())
	defer a.notify(daemon.SdNotifyReady)
	next, err := a.opt.Reload()
	if err != nil {
		return fmt.Errorf("cannot reload, the old configuration stays in force: %w", err)
	}
	old := *a.config()
	var fixed []string
	keep := func(name string, changed bool, restore func()) {
		if changed {
			fixed = append(fixed, name)
			restore()
		}
	}
	keep("host", next.Host != old.Host, func() { next.Host = old.Host })
	keep("dataDir", next.DataDir != old.DataDir, func() { next.DataDir = old.DataDir })
	keep("socket", next.Socket != old.Socket, func() { next.Socket = old.Socket })
	keep("listen", next.Listen != old.Listen, func() { next.Listen = old.Listen })
	keep("advertise", next.Advertise != old.Advertise, func() { next.Advertise = old.Advertise })
	keep("destinationRoot", next.DestinationRoot != old.DestinationRoot, func() { next.DestinationRoot = old.DestinationRoot })
	keep("timing", next.Timing != old.Timing, func() { next.Timing = old.Timing })
	keep("repository.introduction", next.Repository.Introduction != old.Repository.Introduction, func() { next.Repository.Introduction = old.Repository.Introduction })
	keep("join", !slices.Equal(next.Join, old.Join), func() { next.Join = old.Join })
	keep("limits.upload", next.Limits.Upload != old.Limits.Upload, func() { next.Limits.Upload = old.Limits.Upload })
	keep("limits.download", next.Limits.Download != old.Limits.Download, func() { next.Limits.Download = old.Limits.Download })
	keep("limits.disk", next.Limits.Disk != old.Limits.Disk, func() { next.Limits.Disk = old.Limits.Disk })
	keep("log.format", next.Log.Format != old.Log.Format, func() { next.Log.Format = old.Log.Format })
	if err := a.swap(&next); err != nil {
		return fmt.Errorf("cannot reload, the old configuration stays in force: %w", err)
	}
	if a.opt.LogLevel != nil {
		a.opt.LogLevel.Set(next.Log.Level)
	}
	a.member.bundles.reopen(&old, &next)
	a.lookAgain()
	a.log.Info("configuration reloaded", "needsRestart", fixed)
	if len(fixed) > 0 {
		return fmt.Errorf("these keys change only at a restart: %v", fixed)
	}
	return nil
}

// lookAgain tries at once what this host refused: its configuration may be what kept it from being ready.
func (a *Agent) lookAgain() { a.member.again.Wake() }

// swap puts a configuration in force between two cycles of the source loop, so that two owners never share the mirror.
func (a *Agent) swap(next *Config) error {
	done := make(chan error, 1)
	change := func() {
		repo, err := a.openRepo(next)
		if err == nil {
			err = a.source.adopt(repo)
		}
		if err == nil {
			a.repo.Store(repo)
			a.cfg.Store(next)
		}
		done <- err
	}
	patience := time.NewTimer(reloadTimeout)
	defer patience.Stop()
	select {
	case a.source.swaps <- change:
	case <-a.done:
		return errors.New("the agent has stopped")
	case <-patience.C:
		return errors.New("the config repository is busy; try again")
	}
	select {
	case err := <-done:
		return err
	case <-a.done:
		return errors.New("the agent has stopped")
	}
}

// reloading is what systemd is told as a reload begins: units of Type=notify-reload need the time as well.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000)
}
