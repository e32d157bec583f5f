package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// applyFlags are the flags of `gitopsd apply`.
type applyFlags struct {
	stateDir, destinationRoot         string
	application, group, groupID       string
	deploymentID, revisionType        string
	s3, events, behavior              string
	creator, deploymentType, appSpec  string
	stopFailure, output, bundleCommit string
	maxRevisions                      int
	dry                               bool
}

// applyCommand deploys one bundle to this host alone, without a fleet.
func applyCommand() *cobra.Command {
	var f applyFlags
	cmd := &cobra.Command{
		Use:   "apply BUNDLE",
		Short: "Deploy a bundle to this host alone, as codedeploy-local does",
		Long: "Deploy a directory or an archive (zip, tgz, tar, tar.zst) with an appspec.yml to this host alone.\n\n" +
			"Everything that can be checked is checked before the running version is touched. Running the same\n" +
			"deployment again after an interruption goes on where it was; one that was interrupted by a crash and is\n" +
			"followed by another is undone first.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.permissionHint(f.run(cmd, args[0]), os.Geteuid())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.stateDir, "state-dir", "/var/lib/gitopsd/apply", "where releases and journals are kept; users that hooks run as must be able to enter it")
	fl.StringVar(&f.destinationRoot, "destination-root", "/", "directory put before every destination and permission object")
	fl.StringVar(&f.application, "application", "local", "application name")
	fl.StringVar(&f.group, "group", "local", "deployment group name")
	fl.StringVar(&f.groupID, "group-id", "", "deployment group id (default: the group's name)")
	fl.StringVar(&f.deploymentID, "deployment-id", "", "deployment id (default: a new one)")
	fl.StringVar(&f.revisionType, "revision-type", "", "directory, zip, tgz, tar or tar.zst (default: told from the name)")
	fl.StringVar(&f.s3, "s3", "", "bucket=B,key=K,version=V,etag=E as hooks shall see them")
	fl.StringVar(&f.bundleCommit, "bundle-commit", "", "BUNDLE_COMMIT as hooks shall see it")
	fl.StringVar(&f.events, "events", "", "lifecycle events to run, separated by commas; also others for which appspec.yml has hooks (default: those of an in-place deployment)")
	fl.StringVar(&f.behavior, "file-exists-behavior", "", "DISALLOW, OVERWRITE or RETAIN, where appspec.yml says nothing (default DISALLOW)")
	fl.StringVar(&f.creator, "creator", "", "DEPLOYMENT_CREATOR as hooks shall see it: user, codeDeployRollback, ...")
	fl.StringVar(&f.deploymentType, "deployment-type", "IN_PLACE", "IN_PLACE or BLUE_GREEN")
	fl.StringVar(&f.appSpec, "appspec", "", "name of the AppSpec file (default appspec.yml)")
	fl.StringVar(&f.stopFailure, "stop-failure", "fail", "what a failing ApplicationStop leads to: fail, continue or use-new")
	fl.IntVar(&f.maxRevisions, "max-revisions", 5, "releases to keep, 1 or more")
	fl.BoolVar(&f.dry, "dry-run", false, "check everything and say what would change, but write nothing except below TMPDIR while it runs")
	fl.StringVarP(&f.output, "output", "o", "table", "table or json")
	return cmd
}

// applyGarbage is how much garbage is let lie, in percent of what is in use: on a
// host with little memory the application needs it more, and collecting twice as
// often costs a deployment some hundredths of its time.
const applyGarbage = 35

func (f *applyFlags) run(cmd *cobra.Command, path string) error {
	debug.SetGCPercent(applyGarbage)
	d, err := f.deployment(path)
	if missing := (*fs.PathError)(nil); errors.As(err, &missing) { // the command is well formed
		return err
	}
	if err != nil {
		return exitError{code: codeUsage, err: err}
	}
	if f.dry {
		report, err := f.dryRun(cmd.Context(), d)
		if err != nil {
			return err
		}
		return f.printReport(cmd.OutOrStdout(), report)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program to run hooks with: %w", err)
	}
	a, err := apply.New(apply.Options{StateDir: f.stateDir, DestinationRoot: f.destinationRoot, Supervisor: []string{self, "supervise"}})
	if err != nil {
		return err
	}
	observe := func(apply.EventUpdate) {}
	if f.output != "json" {
		observe = func(u apply.EventUpdate) { printEvent(cmd.ErrOrStderr(), u.Report) }
	}
	res, err := applyOrResume(cmd.Context(), a, d, cmd.ErrOrStderr(), observe)
	if errors.Is(err, apply.ErrInterrupted) {
		return exitError{code: codeStopped, err: fmt.Errorf("%w; run it again with --deployment-id %s to go on", err, d.ID)}
	}
	if err != nil {
		return err
	}
	if res.Error != nil && strings.Contains(res.Error.Message, fs.ErrPermission.Error()) && os.Geteuid() != 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "hint:", f.withPermission())
	}
	return f.printResult(cmd.OutOrStdout(), res)
}

// applyOrResume applies a deployment; one that was interrupted is gone on with,
// and another one of the group that was is undone first.
func applyOrResume(ctx context.Context, a *apply.Applier, d apply.Deployment, hints io.Writer, observe func(apply.EventUpdate)) (apply.Result, error) {
	res, err := a.Apply(ctx, d, observe)
	if !errors.Is(err, apply.ErrPending) {
		return res, err
	}
	pending, listErr := a.Pending() // the error may be about another group's
	pending = slices.DeleteFunc(pending, func(j apply.Journal) bool { return j.Key.GroupID != d.GroupID })
	if len(pending) == 0 && listErr != nil {
		return res, errors.Join(err, listErr)
	}
	for _, j := range pending {
		if j.Key.DeploymentID == d.ID {
			return a.Resume(ctx, j.Key, apply.Continue, observe)
		}
		fmt.Fprintf(hints, "deployment %s was interrupted; undoing it first\n", j.Key)
		if _, err := a.Resume(ctx, j.Key, apply.Undo, nil); err != nil {
			return res, err
		}
	}
	return a.Apply(ctx, d, observe)
}

// deployment makes a deployment of the flags.
func (f *applyFlags) deployment(path string) (apply.Deployment, error) {
	d := apply.Deployment{
		ID: f.deploymentID, ApplicationName: f.application, GroupName: f.group, GroupID: f.groupID, Creator: f.creator,
		AppSpecName: f.appSpec, FileExistsBehavior: appspec.FileExistsBehavior(strings.ToUpper(f.behavior)),
		StopFailure: apply.StopFailure(f.stopFailure), MaxRevisions: f.maxRevisions, BundleCommit: f.bundleCommit,
	}
	if d.GroupID == "" {
		d.GroupID = f.group
	}
	if d.ID == "" {
		d.ID = "d-" + rand.Text()[:9]
	}
	for e := range strings.SplitSeq(f.events, ",") {
		if e = strings.TrimSpace(e); e != "" {
			d.Events = append(d.Events, appspec.Event(e))
		}
	}
	if err := cmp.Or(f.checkNames(d), f.checkBounds()); err != nil {
		return d, err
	}
	if err := f.kind(&d); err != nil {
		return d, err
	}
	for pair := range strings.SplitSeq(f.s3, ",") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "bucket":
			d.S3.Bucket = value
		case "key":
			d.S3.Key = value
		case "version":
			d.S3.Version = value
		case "etag":
			d.S3.ETag = value
		case "":
		default:
			return d, fmt.Errorf("cannot use --s3 %q: %q is none of bucket, key, version, etag", f.s3, key)
		}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return d, fmt.Errorf("cannot find bundle %s: %w", path, err)
	}
	d.Source.Path = abs
	if d.Source.Type, err = f.bundleType(abs); err != nil {
		return d, err
	}
	return d, f.checkOwnEvents(d)
}

// checkNames refuses names that mean nothing: an event that is mistyped would run nothing and look done.
func (f *applyFlags) checkNames(d apply.Deployment) error {
	events := knownEvents()
	for _, e := range d.Events {
		if strict.Nearest(string(e), events) == "" {
			continue
		}
		if err := checkName("events", string(e), events...); err != nil {
			return err
		}
	}
	return cmp.Or(
		checkName("stop-failure", f.stopFailure, string(apply.StopFail), string(apply.StopContinue), string(apply.StopUseNew)),
		checkName("creator", f.creator, "user", apply.CreatorRollback, "autoscaling", "autoscalingTermination", "CodeDeployAutoUpdate"),
		checkName("output", f.output, "table", "json"),
	)
}

// checkBounds refuses what would be taken for something else: CodeDeploy's agent ends where :max_revisions: is below 1.
func (f *applyFlags) checkBounds() error {
	switch {
	case f.maxRevisions < 1:
		return fmt.Errorf("cannot use --max-revisions %d: the release that runs is kept, so it is 1 or more", f.maxRevisions)
	case !filepath.IsAbs(f.destinationRoot):
		return fmt.Errorf("cannot use --destination-root %q: it is no absolute path", f.destinationRoot)
	case f.stateDir == "":
		return errors.New("cannot use --state-dir: it is empty; is a variable of the shell not set?")
	}
	return nil
}

// checkName refuses a value of a flag that is none of those known; empty stands for the default.
func checkName(flag, value string, known ...string) error {
	if value == "" || slices.Contains(known, value) {
		return nil
	}
	hint := ""
	if best := strict.Nearest(value, known); best != "" {
		hint = "did you mean " + best + "? "
	}
	return fmt.Errorf("cannot use --%s %.100q: %sknown are %s", flag, value, hint, strings.Join(known, ", "))
}

func (f *applyFlags) kind(d *apply.Deployment) error {
	switch f.deploymentType {
	case "IN_PLACE":
		d.Kind = appspec.InPlace
	case "BLUE_GREEN":
		d.Kind = appspec.BlueGreenReplacement
		if f.creator == apply.CreatorRollback {
			d.Kind = appspec.BlueGreenRollbackReplacement
		}
	default:
		return fmt.Errorf("cannot use --deployment-type %q: it is neither IN_PLACE nor BLUE_GREEN", f.deploymentType)
	}
	return nil
}

func (f *applyFlags) bundleType(path string) (bundle.Type, error) {
	if f.revisionType != "" {
		return bundle.ParseType(f.revisionType)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot find bundle: %w", err)
	}
	if info.IsDir() {
		return bundle.TypeDirectory, nil
	}
	if t, ok := bundle.TypeOfName(path); ok {
		return t, nil
	}
	return "", fmt.Errorf("cannot tell what kind of bundle %s is; give --revision-type", path)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (f *applyFlags) printResult(w io.Writer, res apply.Result) error {
	if f.output == "json" {
		if err := printJSON(w, res); err != nil {
			return err
		}
	} else {
		for _, warning := range res.Warnings {
			fmt.Fprintln(w, "warning:", warning)
		}
		if res.Error != nil {
			fmt.Fprintln(w, res.Error)
			if res.Error.LogTail != "" {
				fmt.Fprint(w, res.Error.LogTail)
			}
		}
		fmt.Fprintln(w, res.Outcome)
	}
	if res.Outcome != apply.OutcomeSucceeded {
		return exitError{code: codeFailed}
	}
	return nil
}

func (f *applyFlags) printReport(w io.Writer, report apply.PreflightReport) error {
	if f.output == "json" {
		if err := printJSON(w, report); err != nil {
			return err
		}
	} else {
		for _, warning := range report.Warnings {
			fmt.Fprintln(w, "warning:", warning)
		}
		for _, problem := range report.Problems {
			fmt.Fprintln(w, problem)
		}
		c := report.Changes
		if report.OK {
			fmt.Fprintf(w, "would write %s (%s), leave %d unchanged, remove %d and keep %d that were changed\n", counted(c.Written, "path"), counted(c.Bytes, "byte"), c.Unchanged, c.Removed, c.Kept)
		}
	}
	if !report.OK {
		return exitError{code: codeFailed}
	}
	return nil
}

func printEvent(w io.Writer, rep apply.EventReport) {
	line := fmt.Sprintf("%-20s %s", rep.Event, rep.Status)
	if !rep.Start.IsZero() && !rep.End.IsZero() {
		line += fmt.Sprintf(" (%.1f s)", rep.End.Sub(rep.Start).Seconds())
	}
	fmt.Fprintln(w, line)
}
