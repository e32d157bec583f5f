package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/appspec"
)

// checked is what preflight found and the run goes on with.
type checked struct {
	release  *releaseInfo // nil for a deployment without a bundle
	spec     *appspec.Spec
	previous *revision // the last good release
	recent   *revision // the release unpacked last
	idle     bool      // Install would have nothing to do
	report   PreflightReport
}

// revision is a release with its appspec file read.
type revision struct {
	info *releaseInfo
	spec *appspec.Spec
}

// Preflight unpacks the release, unless it is there already, and checks all
// that can be checked while the old version is running. The error is for what
// kept it from finding out; refusals are in the report. It may run beside
// deployments, also of the same application, whose effect it cannot foresee.
func (a *Applier) Preflight(ctx context.Context, d Deployment) (PreflightReport, error) {
	if err := d.normalize(); err != nil {
		return PreflightReport{}, err
	}
	c, err := a.check(ctx, &d)
	if err != nil {
		return PreflightReport{}, err
	}
	return c.report, nil
}

// check is Preflight on a normalized deployment.
func (a *Applier) check(ctx context.Context, d *Deployment) (*checked, error) {
	unlock, err := a.lock(ctx, "group:"+d.GroupID, true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := &checked{report: PreflightReport{OK: true}}
	if c.previous, err = a.revisionAt(d.GroupID, goodFile, c); err != nil {
		return nil, err
	}
	if c.recent, err = a.revisionAt(d.GroupID, recentFile, c); err != nil {
		return nil, err
	}
	if d.Source == (Source{}) {
		return c, a.checkInstall(ctx, d, c)
	}
	c.release, err = a.ensureRelease(ctx, d)
	var bad *bundleError
	if errors.As(err, &bad) {
		c.refuse(appspec.DownloadBundle, bad.Error(), true)
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if err := a.retain(d.GroupID, max(d.MaxRevisions, 2), d.Key()); err != nil {
		a.log.Warn("cannot remove old releases", "group", d.GroupID, "error", err)
	}
	if err := a.checkSpec(d, c); err != nil || !c.report.OK {
		return c, err
	}
	if err := a.checkScripts(d, c); err != nil || !c.report.OK {
		return c, err
	}
	return c, a.checkInstall(ctx, d, c)
}

// revisionAt reads the release a pointer of the group names. One that cannot be
// read any more counts as none, with a warning.
func (a *Applier) revisionAt(groupID, file string, c *checked) (*revision, error) {
	info, err := a.pointed(groupID, file)
	if errors.Is(err, errDamaged) {
		c.report.Warnings = append(c.report.Warnings, fmt.Sprintf("the release that %s names cannot serve any event: %v", file, err))
		return nil, nil
	}
	if err != nil || info == nil {
		return nil, err
	}
	spec, _, err := info.spec()
	if err != nil {
		c.report.Warnings = append(c.report.Warnings, fmt.Sprintf("the release %s cannot serve any event: %v", info.Key, err))
		return nil, nil
	}
	return &revision{info, spec}, nil
}

func (c *checked) refuse(event appspec.Event, message string, invalid bool) {
	c.report.OK = false
	c.report.Problems = append(c.report.Problems, message)
	if c.report.Refusal == nil {
		c.report.Refusal = &Error{Event: event, Kind: KindAgent, Code: CodeUnknown, ErrorCode: CodeName(CodeUnknown), Message: message, Invalid: invalid}
	}
}

func (c *checked) refuseScript(event appspec.Event, code int, script, message string, invalid bool) {
	first := c.report.Refusal == nil
	c.refuse(event, message, invalid)
	if first {
		r := c.report.Refusal
		r.Kind, r.Code, r.ErrorCode, r.ScriptName = KindScript, code, CodeName(code), script
	}
}

// checkSpec reads the release's appspec file. The agent finds a bad one when
// the first event needs it.
func (a *Applier) checkSpec(d *Deployment, c *checked) error {
	event := appspec.Install
	for _, e := range d.Events {
		if e == appspec.Install || !e.Own() && serves(d, e) == fromCurrent {
			event = e
			break
		}
	}
	spec, warnings, err := c.release.spec()
	for _, w := range warnings {
		c.report.Warnings = append(c.report.Warnings, c.release.AppSpec+":"+w.String())
	}
	var bad *bundleError
	if errors.As(err, &bad) {
		c.refuse(event, bad.Error(), true)
		return nil
	}
	if err != nil {
		return err
	}
	c.spec = spec
	installed, err := a.installedHead(d.GroupID)
	if err != nil {
		return err
	}
	c.idle = len(spec.Files) == 0 && installed.Entries == 0
	for _, p := range spec.Unusable() {
		c.refuse(appspec.Install, c.release.AppSpec+":"+p.String(), true)
	}
	return nil
}

func (c *checked) current() *revision {
	if c.release == nil {
		return nil
	}
	return &revision{c.release, c.spec}
}

// source says where an event's scripts come from.
type source int

const (
	fromCurrent source = iota
	fromGood
	fromRecent
)

// serves tells which revision serves an event. Once the bundle was downloaded
// it is the new one.
func serves(d *Deployment, event appspec.Event) source {
	for _, e := range d.Events {
		if e == event {
			break
		}
		if e == appspec.DownloadBundle {
			return fromCurrent
		}
	}
	switch event.From(d.Kind) {
	case appspec.LastSuccessfulRevision:
		return fromGood
	case appspec.MostRecentRevision:
		return fromRecent
	}
	return fromCurrent
}

// serving returns the revision that serves an event, nil if there is none.
func (c *checked) serving(d *Deployment, event appspec.Event) *revision {
	switch serves(d, event) {
	case fromGood:
		return c.previous
	case fromRecent:
		return c.recent
	}
	return c.current()
}

// scripts returns what runs at an event and the tree it is in.
func (c *checked) scripts(d *Deployment, event appspec.Event) ([]appspec.Script, *releaseInfo) {
	r := c.serving(d, event)
	if r == nil || r.spec == nil || event.Own() {
		return nil, nil
	}
	return r.spec.Hooks[event], r.info
}

// checkScripts looks at every script of the new revision that will run.
func (a *Applier) checkScripts(d *Deployment, c *checked) error {
	h := newHost()
	for _, e := range d.Events {
		scripts, info := c.scripts(d, e)
		if info == nil || info != c.release {
			continue
		}
		if len(scripts) == 0 && !e.Known() { // a slip would run nothing and look done
			c.refuse(e, fmt.Sprintf("CodeDeploy has no lifecycle event %s, and the AppSpec file %s has no hooks of that name", e, info.AppSpec), true)
		}
		if len(scripts) > 0 && len(a.opts.Supervisor) == 0 {
			return errors.New("cannot run hooks: no supervisor is configured")
		}
		for _, s := range scripts {
			path, err := scriptPath(info.dir, s.Location)
			if err != nil {
				c.refuseScript(e, CodeScriptMissing, s.Location, err.Error(), true)
				continue
			}
			if _, err := os.Stat(path); err != nil {
				c.refuseScript(e, CodeScriptMissing, s.Location, "Script does not exist at specified location: "+path, true)
				continue
			}
			if s.HasRunAs {
				a.checkUser(c, h, e, s)
			}
		}
	}
	return nil
}

func (a *Applier) checkUser(c *checked, h *host, e appspec.Event, s appspec.Script) {
	if s.RunAs == "" && os.Geteuid() == 0 {
		return // as for su, an empty name means root
	}
	id, ok := h.User(s.RunAs)
	switch {
	case !ok:
		c.refuseScript(e, CodeScriptFailed, s.Location, fmt.Sprintf("Script at specified location: %s run as user %s failed: no such user on this host", s.Location, s.RunAs), false)
	case os.Geteuid() != 0 && id != os.Geteuid() && !s.Sudo:
		c.refuseScript(e, CodeScriptFailed, s.Location, fmt.Sprintf("Script at specified location: %s run as user %s failed: gitopsd does not run as root and cannot become another user", s.Location, s.RunAs), false)
	}
}

// checkInstall plans Install as if it began now. What a script may still mend
// counts only if no script runs before Install.
func (a *Applier) checkInstall(ctx context.Context, d *Deployment, c *checked) error {
	scripted, prepared, installs := false, false, false
	for _, e := range d.Events {
		if e == appspec.Install {
			installs = true
			break
		}
		scripts, info := c.scripts(d, e)
		scripted = scripted || len(scripts) > 0
		prepared = prepared || len(scripts) > 0 && info == c.release
	}
	if !installs {
		return nil
	}
	p, problems, err := a.makePlan(ctx, d, c, true)
	if err != nil {
		return err
	}
	for _, problem := range problems {
		if problem.Class == plan.Present && scripted {
			c.report.Warnings = append(c.report.Warnings, "unless a script mends it before Install: "+problem.Message)
			continue
		}
		c.refuse(appspec.Install, problem.Message, problem.Class == plan.Invalid)
	}
	if len(problems) > 0 {
		return nil
	}
	c.report.Warnings = append(c.report.Warnings, p.Warnings...)
	c.report.Changes = PlanCounts{Unchanged: p.Unchanged, Removed: len(p.Removals), Kept: len(p.Kept), Bytes: p.SizeBytes}
	for _, u := range p.Units {
		c.report.Changes.Written += u.Count
	}
	if err := a.checkSpace(p); err != nil {
		c.refuse(appspec.Install, err.Error(), false)
	}
	if err := checkWritable(p); err != nil && prepared {
		c.report.Warnings = append(c.report.Warnings, "unless a script mends it before Install: "+err.Error())
	} else if err != nil {
		c.refuse(appspec.Install, err.Error(), false)
	}
	return nil
}

// checkWritable looks whether this process may change the directories that Install changes: they may be another user's, or on a file system that is mounted read-only.
func checkWritable(p *plan.Plan) error {
	asked := map[string]bool{}
	ask := func(path string) error {
		dir := topExisting(filepath.Dir(path))
		if asked[dir] {
			return nil
		}
		asked[dir] = true
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return nil // Install will tell
		}
		if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return fmt.Errorf("cannot install: %s is not to be written (%w)", dir, err)
		}
		return nil
	}
	for i := range p.Units {
		if err := ask(p.Unit(i).Dest); err != nil {
			return err
		}
	}
	for i := range p.Removals {
		if err := ask(p.Removal(i).Path); err != nil {
			return err
		}
	}
	return nil
}

// makePlan plans Install from what is on the disk now. Without a release it
// removes what the group has in place. A trial takes what another Install of the
// group is putting in place at this moment for installed.
func (a *Applier) makePlan(ctx context.Context, d *Deployment, c *checked, trial bool) (*plan.Plan, []plan.Problem, error) {
	in := plan.Input{
		Spec: &appspec.Spec{}, Release: plan.NewTree(nil), Host: newHost(), Root: a.opts.DestinationRoot, WorkDir: a.opts.WorkDir,
		Behavior: d.behavior(), Umask: a.umask, Privileged: os.Geteuid() == 0, UID: os.Geteuid(), GIDs: ownGroups(),
		Application: d.ApplicationName, Tag: tagOf(d.Key()),
	}
	modTime := d.CommitTime
	if c.release != nil {
		var err error
		if in.Release, err = a.releaseTree(ctx, c.release); err != nil {
			return nil, nil, err
		}
		in.Spec = c.spec
		if modTime.IsZero() {
			modTime = c.release.Created
		}
	}
	in.ModTimeNS = modTime.UnixNano()
	var err error
	if in.Previous, err = a.previous(d.GroupID, trial); err != nil {
		return nil, nil, err
	}
	if in.Others, err = a.claims(d); err != nil {
		return nil, nil, err
	}
	p, problems := plan.Build(in)
	return p, problems, nil
}

// previous lists what the group has in place and, for a trial, is putting there.
func (a *Applier) previous(groupID string, trial bool) ([]plan.Entry, error) {
	claim, err := a.claim(groupID)
	if err != nil {
		return nil, err
	}
	installed, err := a.installed(groupID)
	if err != nil || claim == nil || !trial {
		return installed.Entries, err
	}
	return append(claim.Entries, installed.Entries...), nil
}

// releaseTree lists a release as it is now: scripts may have changed it since it
// was unpacked. Files that came from git, and all of a bundle that carries no
// times, have none.
func (a *Applier) releaseTree(ctx context.Context, info *releaseInfo) (*plan.Tree, error) {
	timeless := map[string]bool{}
	for _, p := range info.Overlay {
		timeless[p] = true
	}
	tree := plan.NewTree(nil)
	known, err := openListing(filepath.Join(a.releaseDir(info.Key), listingFile))
	if err != nil {
		return nil, err
	}
	err = listRelease(ctx, info.dir, known, func(n listedNode) error {
		if info.Timeless || timeless[n.Path] {
			n.Node.MTimeNS = 0
		}
		tree.Add(n.Path, n.Node)
		return nil
	})
	return tree, errors.Join(err, known.close())
}

// claims lists what other groups have in place or are putting in place.
func (a *Applier) claims(d *Deployment) ([]plan.Owned, error) {
	groups, err := a.groupIDs()
	if err != nil {
		return nil, err
	}
	live := map[string]bool{}
	for _, g := range d.LiveGroups {
		live[g] = true
	}
	var out []plan.Owned
	for _, g := range groups {
		if g == d.GroupID {
			continue
		}
		s, err := a.installed(g)
		if err != nil {
			return nil, err
		}
		o := plan.Owned{GroupID: g, Application: s.Application, Live: live[g], Entries: s.Entries}
		if claim, err := a.claim(g); err != nil {
			return nil, err
		} else if claim != nil {
			o.Live = true // it is at work
			o.Application = claim.Application
			o.Entries = append(o.Entries, claim.Entries...)
		}
		out = append(out, o)
	}
	return out, nil
}

// checkSpace compares what will be copied with what is free, file system by
// file system.
func (a *Applier) checkSpace(p *plan.Plan) error {
	need, nodes := map[uint64]int64{}, map[uint64]int64{}
	where := map[uint64]string{}
	for i := range p.Units {
		u := p.Unit(i)
		dir := topExisting(filepath.Dir(u.Dest))
		dev, err := device(dir)
		if err != nil {
			return err
		}
		where[dev] = dir
		for _, item := range u.Items {
			need[dev] += item.Size
			nodes[dev]++
		}
	}
	for dev, bytes := range need {
		var st unix.Statfs_t
		if err := unix.Statfs(where[dev], &st); err != nil {
			return fmt.Errorf("cannot find the free space at %s: %w", where[dev], err)
		}
		free := int64(st.Bavail) * st.Bsize
		if bytes > 0 && free-bytes < max(0, a.opts.KeepFree) {
			return fmt.Errorf("cannot install: %d bytes are to be copied to the file system of %s, of whose %d free bytes %d must stay free (No space left on device)", bytes, where[dev], free, max(0, a.opts.KeepFree))
		}
		if st.Files > 0 && nodes[dev] > int64(st.Ffree) { // 0 where there is no number to run out of
			return fmt.Errorf("cannot install: %d files and directories are to be made on the file system of %s, which has %d free inodes (no space left on device)", nodes[dev], where[dev], st.Ffree)
		}
	}
	return nil
}

func ownGroups() []int {
	groups, err := os.Getgroups()
	if err != nil {
		return []int{os.Getegid()}
	}
	return append([]int{os.Getegid()}, groups...)
}
