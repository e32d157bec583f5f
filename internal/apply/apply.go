package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
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
	// DestinationRoot is put before every destination and permission object; empty means /.
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
	// KeepFree is the space in bytes that Install leaves on a destination's file
	// system; 0 means 16 MiB, negative none.
	KeepFree int64
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
	if opts.KeepFree == 0 {
		opts.KeepFree = 16 << 20
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a := &Applier{opts: opts, log: opts.Log, umask: readUmask(), boot: bootID()}
	return a, a.prepareState()
}

// Preflight unpacks the release, unless it is there already, and checks all
// that can be checked while the old version is running. The error is for what
// kept it from finding out; refusals are in the report. It may run beside
// deployments of other applications, not beside one of the same.
func (a *Applier) Preflight(ctx context.Context, d Deployment) (PreflightReport, error) {
	return PreflightReport{}, errors.ErrUnsupported
}

// Apply runs a deployment to its end. Refusals and failures are in the Result;
// the error is for vetoes, interruption and a state directory that cannot be
// written, after which the deployment may be pending. Applying a deployment
// that has ended returns its recorded Result again and touches nothing. The
// observer may be nil; it is called from this goroutine.
func (a *Applier) Apply(ctx context.Context, d Deployment, observe func(EventUpdate)) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

// Pending lists the deployments that have begun and not ended.
func (a *Applier) Pending() ([]Journal, error) { return nil, errors.ErrUnsupported }

// Resume ends a pending deployment as decided. Events that ended before are
// reported to the observer again.
func (a *Applier) Resume(ctx context.Context, key Key, decision Decision, observe func(EventUpdate)) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

// Releases lists a group's releases on this host, newest first.
func (a *Applier) Releases(groupID string) ([]Release, error) { return nil, errors.ErrUnsupported }

// MarkGood makes the release of a deployment the group's last good one.
func (a *Applier) MarkGood(key Key) error { return errors.ErrUnsupported }

// Log opens the output of an event's hooks as it is at this moment; an empty
// event means all events in order.
func (a *Applier) Log(key Key, event string) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

func readUmask() uint32 {
	return 0o022
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(data)
}

func (a *Applier) prepareState() error { return nil }

var _ = syscall.Umask
