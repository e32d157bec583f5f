package apply

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// Errors callers branch on.
var (
	// ErrVetoed wraps the error of Deployment.Begin; nothing was touched.
	ErrVetoed = errors.New("deployment was not begun")
	// ErrBusy tells that the application is being deployed by somebody else.
	ErrBusy = errors.New("another deployment of the application is at work")
	// ErrPending tells that the deployment has begun before and did not end:
	// Resume is the way to go on.
	ErrPending = errors.New("the deployment has begun already and must be resumed")
	// ErrInterrupted tells that ctx ended. A hook that runs goes on under its
	// supervisor; the journal stays open for Resume.
	ErrInterrupted = errors.New("applying was interrupted")
	// ErrUnknown tells that there is no such deployment or release here.
	ErrUnknown = errors.New("not known on this host")
)

// Options configure an Applier.
type Options struct {
	// StateDir holds releases, journals and hook output. Required; made if missing.
	StateDir string
	// DestinationRoot is put before every destination and permission object;
	// empty means /. Install makes it if it is missing.
	DestinationRoot string
	// WorkDir is what relative destinations are relative to, and the working
	// directory of hooks; empty means that of this process.
	WorkDir string
	// Supervisor is the command that runs SuperviseMain with the arguments put
	// after it, such as [/usr/bin/gitopsd supervise]. Required for deployments with hooks.
	Supervisor []string
	// KillGrace is the time between TERM and KILL for a script past its timeout; 0 means 10 s.
	KillGrace time.Duration
	// OutputGrace is how long the output of a script that has ended is waited
	// for when a process it left behind holds it open; 0 means 1 s.
	OutputGrace time.Duration
	// HookProcesses limits how many processes and threads a script may have at a
	// time while it runs, where cgroup v2 has the pids controller; what it leaves
	// behind is not limited. 0 means 4096, negative no limit.
	HookProcesses int
	// KeepFree is the space in bytes that Install leaves on a destination's file
	// system; 0 means 16 MiB, negative none.
	KeepFree int64
	// Retention says, each time it is asked, what bounds what is kept of each
	// group; nil means Retention{}.
	Retention func() Retention `json:"-"`
	// Disk is for fault injection in tests; nil means the plain disk.
	Disk *durable.Disk
	// Log may be nil.
	Log *slog.Logger
}

// Applier applies deployments to this host. Its methods may be called from
// several goroutines; deployments of one application exclude each other.
type Applier struct {
	opts  Options
	umask uint32
	boot  string
	log   *slog.Logger

	cgroups     cgroups
	startPauses []time.Duration // between tries to start a supervisor

	mu      sync.Mutex
	orphans []*os.Process // supervisors started and not yet waited for
}

// New checks the options and prepares the state directory.
func New(opts Options) (*Applier, error) {
	if opts.StateDir == "" {
		return nil, errors.New("cannot apply without a state directory")
	}
	dir, err := filepath.Abs(opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot find state directory %s: %w", opts.StateDir, err)
	}
	opts.StateDir = dir
	if opts.DestinationRoot == "" {
		opts.DestinationRoot = "/"
	}
	if !filepath.IsAbs(opts.DestinationRoot) {
		return nil, fmt.Errorf("cannot use destinationRoot %q: it is not absolute", opts.DestinationRoot)
	}
	opts.DestinationRoot = filepath.Clean(opts.DestinationRoot)
	if opts.WorkDir == "" {
		if opts.WorkDir, err = os.Getwd(); err != nil {
			return nil, fmt.Errorf("cannot find the working directory: %w", err)
		}
	}
	if opts.KillGrace <= 0 {
		opts.KillGrace = 10 * time.Second
	}
	if opts.OutputGrace <= 0 {
		opts.OutputGrace = time.Second
	}
	if opts.HookProcesses == 0 {
		opts.HookProcesses = 4096
	}
	if opts.Retention == nil {
		opts.Retention = func() Retention { return Retention{} }
	}
	if opts.KeepFree == 0 {
		opts.KeepFree = 16 << 20
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a := &Applier{opts: opts, log: opts.Log, umask: readUmask(), boot: bootID(),
		startPauses: []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond}}
	if err := a.prepareState(); err != nil {
		return a, err
	}
	a.prepareCgroups()
	return a, nil
}

// prepareCgroups finds out where scripts get control groups, says once where they
// get none, and removes those whose processes have ended.
func (a *Applier) prepareCgroups() {
	a.cgroups = findCgroups("/proc/self", max(0, a.opts.HookProcesses))
	switch {
	case a.cgroups.Base == "":
		a.log.Warn("hooks get no control groups: a timeout does not find their processes in other sessions", "reason", a.cgroups.Reason)
	case a.cgroups.Limit > 0 && !a.cgroups.limited():
		a.log.Info("the number of processes of a hook is not limited: its control groups have no pids controller", "cgroup", a.cgroups.Base)
	}
	a.cgroups.collect()
}

func readUmask() uint32 {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(value), 8, 12); err == nil {
				return uint32(n)
			}
		}
	}
	return 0o022
}

// bootID names this boot of the host; empty where the kernel does not say.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
