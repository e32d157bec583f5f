package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/timerslack"
)

// A hook's directory holds what it and its supervisor leave behind:
//
//	request.json   what to run; written before the supervisor is started
//	alive          a pipe whose writing end the supervisor holds until it wrote the result
//	begun          made by the supervisor before the first script; then nothing starts again
//	result.reserve space for how it ends; made before the first script
//	result.json    how it ended
//	output.log, output.tail.old, output.tail    head and tail of the scripts' output
//	supervisor.log what the supervisor itself has to say
const (
	requestFile = "request.json"
	aliveFile   = "alive"
	begunFile   = "begun"
	resultFile  = "result.json"
	reserveFile = "result.reserve"
)

// hookVersion is that of request.json and result.json: a restarted agent may be
// another version than the supervisor it adopts.
const hookVersion = 1

// hookRequest tells a supervisor what to run.
type hookRequest struct {
	Version     int           `json:"version"`
	Event       appspec.Event `json:"event"`
	Archive     string        `json:"archive"`
	WorkDir     string        `json:"workDir"`
	Env         []string      `json:"env"`
	Scripts     []hookScript  `json:"scripts"`
	KillGrace   time.Duration `json:"killGraceNs"`
	OutputGrace time.Duration `json:"outputGraceNs"`
	Cgroups     cgroups       `json:"cgroups"`
}

type hookScript struct {
	Location string        `json:"location"`
	Timeout  time.Duration `json:"timeoutNs"`
	RunAs    string        `json:"runAs,omitempty"`
	Sudo     bool          `json:"sudo,omitempty"`
}

// hookResult is how a hook ended.
type hookResult struct {
	Version      int      `json:"version"`
	Code         int      `json:"code"`
	Script       string   `json:"script,omitempty"`
	Message      string   `json:"message,omitempty"`
	Warnings     []string `json:"warnings,omitempty"`
	DroppedBytes int64    `json:"droppedBytes,omitempty"` // of output, between head and tail
	Detached     bool     `json:"detached,omitempty"`     // the supervisor stays to read what processes left behind write
	Cgroups      []string `json:"cgroups,omitempty"`      // control groups in which processes were left
	Uncontained  string   `json:"uncontained,omitempty"`  // why the last script had no control group
}

// variant tells several hooks of one event from each other.
type variant string

const (
	ownVariant  variant = ""
	newVariant  variant = ".new"  // the new revision's ApplicationStop after the old one's failed
	undoVariant variant = ".undo" // the previous revision's, while undoing
)

func variantOf(undo bool) variant {
	if undo {
		return undoVariant
	}
	return ownVariant
}

func (a *Applier) hookDir(k Key, e appspec.Event, v variant) string {
	return filepath.Join(a.deploymentDir(k), "hooks", string(e)+string(v))
}

// hook runs an event's scripts, or waits for those that run.
func (r *run) hook(ctx context.Context, rep EventReport, scripts []appspec.Script, info *releaseInfo, resumed bool) (EventReport, error) {
	if !resumed {
		if err := r.begin(rep); err != nil {
			return rep, err
		}
	}
	e := rep.Event
	res, err := r.a.runHook(ctx, r.a.hookDir(r.key, e, variantOf(rep.Undo)), r.request(e, scripts, info))
	if err != nil {
		return rep, err
	}
	rep.Warnings = append(rep.Warnings, res.Warnings...)
	fault := r.a.fault(r.key, e, variantOf(rep.Undo), res)
	if fault != nil && e == appspec.ApplicationStop && !rep.Undo && r.d.StopFailure == StopUseNew {
		if fault, err = r.stopWithNew(ctx, &rep, fault); err != nil {
			return rep, err
		}
	}
	return r.finish(rep, fault, record{})
}

// stopWithNew lets the new revision's ApplicationStop decide after the old
// one's failed.
func (r *run) stopWithNew(ctx context.Context, rep *EventReport, old *Error) (*Error, error) {
	if r.c.spec == nil || len(r.c.spec.Hooks[rep.Event]) == 0 {
		return old, nil
	}
	rep.Warnings = append(rep.Warnings, "the previous revision's scripts failed, so the new revision's ran: "+old.Message)
	res, err := r.a.runHook(ctx, r.a.hookDir(r.key, rep.Event, newVariant), r.request(rep.Event, r.c.spec.Hooks[rep.Event], r.c.release))
	if err != nil {
		return nil, err
	}
	return r.a.fault(r.key, rep.Event, newVariant, res), nil
}

func (a *Applier) fault(k Key, e appspec.Event, v variant, res *hookResult) *Error {
	if res.Code == CodeSuccess {
		return nil
	}
	f := &Error{Event: e, Kind: KindScript, Code: res.Code, ErrorCode: CodeName(res.Code), ScriptName: res.Script, Message: res.Message}
	if res.Code == CodeAgentRestart || res.Code == CodeUnknown {
		f.Kind = KindAgent
	}
	f.LogTail = logTail(a.hookDir(k, e, v))
	return f
}

// request tells what the supervisor is to run.
func (r *run) request(e appspec.Event, scripts []appspec.Script, info *releaseInfo) *hookRequest {
	req := &hookRequest{
		Version: hookVersion, Event: e, Archive: info.dir, WorkDir: r.a.opts.WorkDir, Env: r.env(e),
		KillGrace: r.a.opts.KillGrace, OutputGrace: r.a.opts.OutputGrace, Cgroups: r.a.cgroups,
	}
	for _, s := range scripts {
		req.Scripts = append(req.Scripts, hookScript{
			Location: s.Location, Timeout: time.Duration(min(s.TimeoutSeconds, timeoutSecondsMax)) * time.Second, RunAs: s.RunAs, Sudo: s.Sudo,
		})
	}
	return req
}

// timeoutSecondsMax keeps an absurd timeout from overflowing: ten years.
const timeoutSecondsMax = 10 * 365 * 24 * 3600

// env is the environment of an event's scripts.
func (r *run) env(e appspec.Event) []string {
	d := r.d
	vars := map[string]string{
		"LIFECYCLE_EVENT": string(e), "DEPLOYMENT_ID": d.ID, "APPLICATION_NAME": d.ApplicationName,
		"DEPLOYMENT_GROUP_NAME": d.GroupName, "DEPLOYMENT_GROUP_ID": d.GroupID,
		"GITOPSD_DESTINATION_ROOT": r.a.opts.DestinationRoot,
	}
	optional := map[string]string{
		"BUNDLE_BUCKET": d.S3.Bucket, "BUNDLE_KEY": d.S3.Key, "BUNDLE_VERSION": d.S3.Version, "BUNDLE_ETAG": d.S3.ETag,
		"BUNDLE_COMMIT": d.BundleCommit, "DEPLOYMENT_CREATOR": d.Creator, "GITOPSD_COMMIT": d.Commit,
	}
	if r.c.previous != nil {
		optional["GITOPSD_PREVIOUS_RELEASE"] = r.c.previous.info.dir
	}
	for name, value := range optional {
		if value != "" {
			vars[name] = value
		}
	}
	for name, value := range d.Env {
		vars[name] = value
	}
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if _, ours := vars[name]; !ours && !private[name] {
			env = append(env, pair)
		}
	}
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	sort.Strings(env)
	return env
}

// private are variables that are addressed to gitopsd itself.
var private = map[string]bool{
	"NOTIFY_SOCKET": true, "WATCHDOG_PID": true, "WATCHDOG_USEC": true, "LISTEN_PID": true, "LISTEN_FDS": true, "LISTEN_FDNAMES": true,
	"INVOCATION_ID": true, "JOURNAL_STREAM": true,
}

// scriptPath finds a script in a release; the location is a path, never a
// command line.
func scriptPath(archive, location string) (string, error) {
	rel := filepath.Clean(strings.TrimLeft(location, "/"))
	if !filepath.IsLocal(rel) {
		//lint:ignore ST1005 the sentence is CodeDeploy's, and users search for it
		return "", fmt.Errorf("Script does not exist at specified location: %s leads out of the revision", location)
	}
	return filepath.Join(archive, rel), nil
}

// runHook starts a hook under a supervisor of its own, unless that was done
// before: then it waits for it or returns how it ended.
func (a *Applier) runHook(ctx context.Context, dir string, req *hookRequest) (*hookResult, error) {
	for started := false; ; {
		if err := waitSupervisor(ctx, dir); err != nil {
			return nil, err
		}
		res, err := readResult(dir)
		if err != nil || res != nil {
			a.reapSoon(res)
			return res, err
		}
		if exists(filepath.Join(dir, begunFile)) {
			return &hookResult{Code: CodeAgentRestart, Message: "the hook's supervisor ended before the hook did; how the script ended is not known, and it is not run again"}, nil
		}
		if started {
			said, _ := os.ReadFile(filepath.Join(dir, "supervisor.log"))
			return &hookResult{Code: CodeUnknown, Message: fmt.Sprintf("the hook's supervisor could not start: %s", bytes.TrimSpace(said))}, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInterrupted, err)
		}
		err = a.startPatiently(ctx, dir, req)
		if errors.Is(err, ErrInterrupted) || errors.Is(err, durable.ErrCut) {
			return nil, err
		}
		if err != nil { // nothing of the hook ran, and it has failed: a deployment must come to an end
			return &hookResult{Code: CodeUnknown, Message: err.Error()}, nil
		}
		started = true
	}
}

// startPatiently starts a hook's supervisor, trying again for a moment if there
// is no memory or process to be had, or the program is being replaced.
func (a *Applier) startPatiently(ctx context.Context, dir string, req *hookRequest) error {
	for _, pause := range append(a.startPauses, 0) {
		err := a.startSupervisor(dir, req)
		if err == nil || pause == 0 || !passing(err) {
			return err
		}
		a.log.Warn("a hook's supervisor could not be started and is tried again", "event", string(req.Event), "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrInterrupted, ctx.Err())
		case <-time.After(pause):
		}
	}
	return nil
}

// passing tells whether what keeps a program from being started may pass.
func passing(err error) bool {
	for _, errno := range []unix.Errno{unix.EAGAIN, unix.ENOMEM, unix.ENOENT, unix.EACCES, unix.ETXTBSY, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func readResult(dir string) (*hookResult, error) {
	var res hookResult
	err := readState(filepath.Join(dir, resultFile), &res)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && res.Version != hookVersion {
		err = fmt.Errorf("cannot read %s: format version %d is not known, only %d", filepath.Join(dir, resultFile), res.Version, hookVersion)
	}
	return &res, err
}

// saidReserve is the space in bytes for what a supervisor has to say, which is
// most often that there is none.
const saidReserve = 4 << 10

// startSupervisor starts the process that runs the hook. It holds the pipe from
// its first moment, so that nobody can take it for dead.
func (a *Applier) startSupervisor(dir string, req *hookRequest) error {
	if err := a.opts.Disk.MkdirAll(dir, privateDir); err != nil {
		return err
	}
	if err := a.writeState(filepath.Join(dir, requestFile), req); err != nil {
		return err
	}
	alive := filepath.Join(dir, aliveFile)
	if err := unix.Mkfifo(alive, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot make pipe %s: %w", alive, err)
	}
	reader, err := os.OpenFile(alive, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot open pipe: %w", err)
	}
	defer reader.Close()
	writer, err := os.OpenFile(alive, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot open pipe: %w", err)
	}
	defer writer.Close()
	said, err := os.OpenFile(filepath.Join(dir, "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the supervisor's log: %w", err)
	}
	defer said.Close()
	if err := durable.Reserve(said, saidReserve); err != nil {
		return fmt.Errorf("the hook's supervisor was not started, as it could not tell what is wrong: %w", err)
	}
	if err := a.opts.Disk.Step("supervise", dir); err != nil {
		return err
	}
	args := append(append([]string(nil), a.opts.Supervisor[1:]...), dir)
	cmd := exec.Command(a.opts.Supervisor[0], args...)
	cmd.Dir = a.opts.WorkDir
	cmd.Stdout, cmd.Stderr = said, said
	cmd.ExtraFiles = []*os.File{writer}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := timerslack.Start(cmd); err != nil {
		return fmt.Errorf("the hook's supervisor could not start, so no script of it ran: %w", err)
	}
	a.mu.Lock()
	a.orphans = append(a.orphans, cmd.Process)
	a.mu.Unlock()
	return nil
}

// waitSupervisor waits until no supervisor holds the pipe of a hook. The hook
// goes on if ctx ends first.
func waitSupervisor(ctx context.Context, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, aliveFile), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot watch the hook's supervisor: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = f.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: a hook goes on under its supervisor: %w", ErrInterrupted, ctx.Err())
	}
	return fmt.Errorf("cannot watch the hook's supervisor: %w", err)
}

// supervisorAlive tells whether a hook has a supervisor at this moment.
func supervisorAlive(dir string) bool {
	fd, err := unix.Open(filepath.Join(dir, aliveFile), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.Read(fd, make([]byte, 1))
	return errors.Is(err, unix.EAGAIN)
}

// reapSoon waits a moment for a supervisor that wrote its result to be gone,
// unless it stays to read what processes left behind write.
func (a *Applier) reapSoon(res *hookResult) {
	for range 50 {
		if a.reap() == 0 || res == nil || res.Detached {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// reap takes note of supervisors that ended, so that they do not stay zombies,
// and returns how many are left.
func (a *Applier) reap() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := a.orphans[:0]
	for _, p := range a.orphans {
		var status unix.WaitStatus
		if pid, err := unix.Wait4(p.Pid, &status, unix.WNOHANG, nil); err == nil && pid == 0 {
			left = append(left, p)
		} else {
			p.Release()
		}
	}
	a.orphans = left
	return len(left)
}
