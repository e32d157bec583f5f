package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// overlayBytesMax bounds what a group's overlay may put into memory at once.
const overlayBytesMax = 64 << 20

// deployer turns what a commit says into what apply does, and apply's results into reports.
type deployer struct {
	self     string
	root     string // destinationRoot
	fence    func() FenceConfig
	releases func() int // how many a group keeps
	applier  *apply.Applier
	verifier *verifier
	bundles  *bundles
	world    func() *world
	log      *slog.Logger
}

// preflight checks a verified spec whose bundle is here, while the old version runs.
func (d *deployer) preflight(ctx context.Context, group string, spec rollout.Spec) rollout.EvPreflight {
	answer := rollout.EvPreflight{Group: group, SpecHash: spec.SpecHash, LastGood: d.lastGoodSpec(group)}
	refuse := func(kind rollout.RefusalKind, reason string) rollout.EvPreflight {
		answer.Refused, answer.Reason = kind, reason
		return answer
	}
	deployment, err := d.build(group, spec)
	if err != nil {
		return refuse(rollout.RefusedByHost, err.Error())
	}
	deployment.ID = preflightID(spec)
	report, err := d.applier.Preflight(ctx, deployment)
	switch {
	case errors.Is(err, store.ErrMismatch): // it was complete, so that it rotted on this disk, or its digest and the index pinned beside it contradict each other
		return refuse(rollout.RefusedByBytes, d.rotten(group, spec, cmp.Or(d.bundles.store.Recheck(ctx, deployment.Source.Digest), err)))
	case err != nil:
		return refuse(rollout.RefusedByHost, err.Error())
	case report.OK:
		if err := d.fencedRelease(deployment.Key()); err != nil {
			return refuse(rollout.RefusedByHost, err.Error())
		}
		return answer
	case report.Refusal != nil && report.Refusal.Invalid:
		return refuse(rollout.RefusedBySpec, report.Refusal.Message)
	case report.Refusal != nil:
		return refuse(rollout.RefusedByHost, report.Refusal.Message)
	}
	return refuse(rollout.RefusedByHost, strings.Join(report.Problems, "; "))
}

// rotten says why the bytes of a bundle that is complete are not its digest's.
func (d *deployer) rotten(group string, spec rollout.Spec, err error) string {
	if g, _, unknown := d.verifier.group(group, spec.Commit); unknown == nil {
		err = contradicted(g, err)
	}
	return err.Error()
}

// preflightID names the preparation of a spec before there is a deployment.
func preflightID(spec rollout.Spec) string {
	hash := spec.SpecHash[strings.LastIndexByte(spec.SpecHash, ':')+1:]
	return "prepare-" + hash[:min(16, len(hash))]
}

// deployment builds what a grant asks for.
func (d *deployer) deployment(grant rollout.Grant) (apply.Deployment, error) {
	deployment, err := d.build(grant.Group, grant.Spec)
	if err != nil {
		return apply.Deployment{}, err
	}
	deployment.ID = grant.Deployment
	deployment.Attempt = grant.Attempt
	deployment.Creator = grant.Creator
	return deployment, nil
}

// build fills in everything a verified spec says.
func (d *deployer) build(group string, spec rollout.Spec) (apply.Deployment, error) {
	g, commit, err := d.verifier.group(group, spec.Commit)
	if err != nil {
		return apply.Deployment{}, err
	}
	if g.SpecHash != spec.SpecHash {
		return apply.Deployment{}, fmt.Errorf("commit %s yields %s for group %s here, not %s", commit.Short(), g.SpecHash, g.Folder, spec.SpecHash)
	}
	if err := d.fence().allows(g); err != nil {
		return apply.Deployment{}, err
	}
	source, err := d.bundles.source(g.Revision)
	if err != nil {
		return apply.Deployment{}, err
	}
	overlay, err := readOverlay(g)
	if err != nil {
		return apply.Deployment{}, err
	}
	out := apply.Deployment{
		ApplicationName: g.ApplicationName, GroupName: g.Name, GroupID: string(g.ID),
		Commit: commit.ID, SpecHash: g.SpecHash, CommitTime: commit.When,
		Kind: appspec.InPlace, Source: source, Overlay: overlay,
		FileExistsBehavior: appspec.FileExistsBehavior(g.Policy.FileExistsBehavior),
		StopFailure:        apply.StopFailure(g.Policy.ApplicationStopFailure),
		Env:                d.environment(commit),
		HoldGood:           true,
		MaxRevisions:       d.releases(),
	}
	if s3 := g.Revision.S3; s3 != nil {
		out.S3 = apply.S3{Bucket: s3.Bucket, Key: s3.Key, Version: s3.Version, ETag: s3.ETag}
	}
	switch {
	case g.Revision.GitHub != nil:
		out.BundleCommit = g.Revision.GitHub.Commit
	case g.Revision.Forge != nil:
		out.BundleCommit = g.Revision.Forge.Commit
	}
	out.LiveGroups = d.liveGroups()
	return out, nil
}

// liveGroups lists the groups this host belongs to, or may belong to: one whose file is broken has not let its hosts go.
func (d *deployer) liveGroups() []string {
	w := d.world()
	var ids []string
	for _, live := range w.State.GroupsOf(desired.HostName(d.self)) {
		ids = append(ids, string(live.ID))
	}
	for _, id := range w.State.Broken.IDs {
		ids = append(ids, string(id))
	}
	return ids
}

// environment is what hooks are told beside CodeDeploy's variables.
func (d *deployer) environment(commit configrepo.Commit) map[string]string {
	env := map[string]string{"GITOPSD_HOST": d.self, "GITOPSD_COMMIT": commit.ID, "GITOPSD_DESTINATION_ROOT": d.root}
	for key, value := range d.world().State.Hosts[desired.HostName(d.self)].Tags {
		env["GITOPSD_TAG_"+variable(key)] = value
	}
	return env
}

// variable spells a tag's key as the name of an environment variable.
func variable(key string) string {
	return strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return unicode.ToUpper(r)
		}
		return '_'
	}, key)
}

// placeOf names a revision's origin for people. The query of a URL is left out: it may be what lets its holder read.
func placeOf(r desired.Revision) string {
	if r.Https != nil || r.Forge != nil {
		return origin.Redact(locationOf(r))
	}
	return locationOf(r)
}

// locationOf names a revision's origin for a fence.
func locationOf(r desired.Revision) string {
	switch {
	case r.S3 != nil:
		return "s3://" + r.S3.Bucket + "/" + r.S3.Key
	case r.Https != nil:
		return r.Https.URL
	case r.Directory != nil:
		return r.Directory.Path
	case r.GitHub != nil:
		return "https://github.com/" + r.GitHub.Repository
	case r.Forge != nil:
		return r.Forge.URL
	case r.Repository != nil:
		return "repository:" + r.Repository.Path
	}
	return r.Type
}

// readOverlay reads the files that are laid over the bundle.
func readOverlay(g desired.Group) ([]apply.OverlayFile, error) {
	var all []apply.OverlayFile
	left := int64(overlayBytesMax)
	for _, o := range g.Overlay {
		f, err := o.Open()
		if err != nil {
			return nil, fmt.Errorf("cannot read %s of group %s: %w", o.Source, g.Folder, err)
		}
		data, err := io.ReadAll(io.LimitReader(f, left+1))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot read %s of group %s: %w", o.Source, g.Folder, err)
		}
		if left -= int64(len(data)); left < 0 {
			return nil, fmt.Errorf("cannot lay the files of group %s over its bundle: they are larger than %d bytes together; put large files into the bundle", g.Folder, overlayBytesMax)
		}
		all = append(all, apply.OverlayFile{Path: o.Path, Mode: uint32(o.Mode.Perm()), Data: data})
	}
	return all, nil
}

// installed says what is in place for a group, from the releases on this disk, and whether it runs: the deployment that put it there went well, and none since stopped
// it and failed before Install.
func (d *deployer) installed(group string) (spec rollout.Spec, whole, ok bool) {
	releases, err := d.applier.Releases(group)
	if err != nil {
		if !errors.Is(err, apply.ErrUnknown) {
			d.log.Error("the releases of a group cannot be read", "group", group, "error", err)
		}
		return rollout.Spec{}, false, false
	}
	spoilt := false
	for _, r := range releases {
		result, known := d.applier.Ended(keyOf(r))
		if r.Installed {
			return specOfRelease(r), !spoilt && (r.WasGood || known && result.Outcome == apply.OutcomeSucceeded), true
		}
		spoilt = spoilt || known && r.Deployed && result.Began && appliedOf(keyOf(r), result).Outcome == rollout.OutcomeFailed
	}
	return rollout.Spec{}, false, false
}

// ended tells how the deployments of a group ended whose journals are still here.
func (d *deployer) ended(group string) []rollout.EvApplied {
	releases, err := d.applier.Releases(group)
	if err != nil {
		return nil // installed says so
	}
	var all []rollout.EvApplied
	for _, r := range releases {
		if result, ok := d.applier.Ended(keyOf(r)); ok && r.Deployed {
			all = append(all, appliedOf(keyOf(r), result))
		}
	}
	return all
}

func keyOf(r apply.Release) apply.Key {
	return apply.Key{GroupID: r.GroupID, DeploymentID: r.DeploymentID, Attempt: r.Attempt}
}

func specOfRelease(r apply.Release) rollout.Spec {
	return rollout.Spec{Commit: r.Commit, SpecHash: r.SpecHash, Digest: string(r.Digest)}
}

// lastGood finds the release the group ran well last.
func (d *deployer) lastGood(group string) (apply.Release, bool) {
	releases, err := d.applier.Releases(group)
	if err != nil {
		return apply.Release{}, false
	}
	for _, r := range releases {
		if r.Good {
			return r, true
		}
	}
	return apply.Release{}, false
}

func (d *deployer) lastGoodSpec(group string) string {
	r, _ := d.lastGood(group)
	return r.SpecHash
}

func (d *deployer) lastGoodCommit(group string) string {
	r, _ := d.lastGood(group)
	return r.Commit
}

// markGood makes the release of a spec that is in place the group's last good one. One that was only unpacked to get ready is not it.
func (d *deployer) markGood(group string, spec rollout.Spec) {
	releases, err := d.applier.Releases(group)
	if err != nil {
		d.log.Error("the releases of a group cannot be read", "group", group, "error", err)
		return
	}
	if i := slices.IndexFunc(releases, func(r apply.Release) bool { return r.SpecHash == spec.SpecHash && r.Installed }); i >= 0 && !releases[i].Good {
		if err := d.applier.MarkGood(keyOf(releases[i])); err != nil {
			d.log.Error("the last good release cannot be marked", "group", group, "deployment", releases[i].DeploymentID, "error", err)
		}
	}
}

// pendingKey finds the journal of a deployment that has not ended.
func (d *deployer) pendingKey(group, deployment string) (apply.Key, bool, error) {
	return d.applier.Find(group, deployment)
}

// appliedOf turns apply's result into the Member's event. A deployment that was given up counts as undone only if the host is back at what it ran.
func appliedOf(key apply.Key, result apply.Result) rollout.EvApplied {
	ev := rollout.EvApplied{Group: key.GroupID, Deployment: key.DeploymentID, Outcome: rollout.OutcomeSucceeded}
	down := stayedDown(result)
	switch {
	case result.Undone && !installedBy(result) && down == nil:
		ev.Outcome = rollout.OutcomeUndone
	case result.Outcome != apply.OutcomeSucceeded:
		ev.Outcome = rollout.OutcomeFailed
	}
	switch e := result.Error; {
	case down != nil:
		ev.Message = "it was given up in the middle, and the previous release could not be started again: " + down.Error()
	case e != nil:
		ev.Event, ev.ExitCode, ev.ErrorCode, ev.Message = string(e.Event), exitStatus(e), e.ErrorCode, e.Message
	}
	for _, r := range result.Events {
		if !r.Undo {
			ev.Events = append(ev.Events, recordOf(r))
		}
	}
	return ev
}

// installedBy tells whether a deployment's files were put in place to the end.
func installedBy(result apply.Result) bool {
	return slices.ContainsFunc(result.Events, func(r apply.EventReport) bool {
		return r.Event == appspec.Install && !r.Undo && r.Status == apply.StatusSucceeded
	})
}

// stayedDown finds why the previous release did not start again after a deployment was given up; nil if it did, or was not to.
func stayedDown(result apply.Result) *apply.Error {
	for _, r := range result.Events {
		if r.Undo && r.Status == apply.StatusFailed && r.Error != nil {
			return r.Error
		}
	}
	return nil
}

// recordOf turns one event's report into the replicated record.
func recordOf(r apply.EventReport) rollout.EventRecord {
	record := rollout.EventRecord{Event: string(r.Event), Status: string(r.Status), StartTime: stamp(r.Start), EndTime: stamp(r.End)}
	if e := r.Error; e != nil {
		record.Diagnostics = &rollout.Diagnostics{ErrorCode: e.ErrorCode, ScriptName: e.ScriptName, Message: e.Message, LogTail: e.LogTail}
	}
	return record
}

// exitStatus reads a script's exit status from CodeDeploy's sentence, which is where it is told; 0 when no script ended by exiting.
func exitStatus(e *apply.Error) int {
	_, text, found := strings.Cut(e.Message, " failed with exit code ")
	code, err := strconv.Atoi(strings.TrimSpace(text))
	if !found || err != nil || e.Code != apply.CodeScriptFailed {
		return 0
	}
	return code
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
