package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/spf13/cobra"
)

// maxExplainedFiles bounds how many files explain lists; the rest is counted.
const maxExplainedFiles = 10000

// appspecExplainCommand says what a deployment of a bundle would do on this host.
func appspecExplainCommand() *cobra.Command {
	var output string
	x := explainer{destinationRoot: "/"}
	kind, behavior := string(appspec.InPlace), string(appspec.Disallow)
	cmd := &cobra.Command{
		Use:   "explain DIR",
		Short: "Say what deploying the bundle in DIR would do on this host, event by event and file by file",
		Long: "Say what deploying the bundle unpacked in DIR would do on this host: which scripts run at each event and whose they are, which file\n" +
			"goes where with which permissions, and what would fail. Nothing is changed. The verdict and the exit code are those of\n" +
			"`gitopsd appspec validate DIR`; what only this host refuses is no part of it.\n" +
			"With --group-id what the group has in place on this host is known: it is replaced or removed, and does not count as existing.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAppspecOutput(output); err != nil {
				return err
			}
			x.kind = appspec.Kind(kind)
			if x.behavior = appspec.FileExistsBehavior(strings.ToUpper(behavior)); x.behavior != appspec.Disallow && x.behavior != appspec.Overwrite && x.behavior != appspec.Retain {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot use --file-exists-behavior %q: it takes DISALLOW, OVERWRITE or RETAIN", behavior)}
			}
			if !filepath.IsAbs(x.destinationRoot) {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot use --destination-root %q: it is no absolute path", x.destinationRoot)}
			}
			if appspec.Order(x.kind) == nil {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot explain a deployment of kind %q: --kind takes %s", kind, kindNames())}
			}
			explained, err := x.explain(args[0])
			if err != nil {
				return err
			}
			if output == "table" {
				explained.print(cmd.OutOrStdout())
			} else if err := printDocument(cmd.OutOrStdout(), output, explained); err != nil {
				return err
			}
			return explained.exit()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	cmd.Flags().StringVar(&kind, "kind", kind, "kind of deployment: "+kindNames())
	cmd.Flags().StringVar(&behavior, "file-exists-behavior", behavior, "DISALLOW, OVERWRITE or RETAIN, where appspec.yml says nothing")
	cmd.Flags().StringVar(&x.groupID, "group-id", "", "group whose files on this host are to be known: the id in its group.yaml")
	cmd.Flags().StringVar(&x.stateDir, "state-dir", "/var/lib/gitopsd/apply", "where that is kept: apply/ below dataDir, or the --state-dir that apply was given")
	cmd.Flags().StringVar(&x.destinationRoot, "destination-root", x.destinationRoot, "put before every destination, as in gitopsd.yaml")
	return cmd
}

func kindNames() string {
	var names []string
	for _, k := range appspec.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// explanation is what explain prints.
type explanation struct {
	appspecVerdict
	Kind     appspec.Kind     `json:"kind"`
	Events   []explainedEvent `json:"events"`
	Problems []string         `json:"problems"` // what would fail on this host although the file is valid
}

// explainedEvent is one lifecycle event in the order of the deployment.
type explainedEvent struct {
	Event   appspec.Event     `json:"event"`
	From    appspec.Revision  `json:"from"` // whose scripts run; "current" is this bundle
	Scripts []explainedScript `json:"scripts,omitempty"`
	Files   []explainedFile   `json:"files,omitempty"`
	More    int               `json:"moreFiles,omitempty"` // files beyond the bound of the list
}

// explainedScript is one script of this bundle.
type explainedScript struct {
	Location       string `json:"location"`
	TimeoutSeconds int64  `json:"timeoutSeconds"`
	RunAs          string `json:"runas,omitempty"`
	Sudo           bool   `json:"sudo,omitempty"`
	State          string `json:"state"` // ready, missing, not executable, a directory
}

// explainedFile is one path that Install would make.
type explainedFile struct {
	Source      string   `json:"source,omitempty"` // below the bundle; empty for a folder on the way to a destination
	Destination string   `json:"destination"`
	Action      string   `json:"action"` // make folder, copy, replace, overwrite, keep, refuse, remove
	Permissions []string `json:"permissions,omitempty"`
}

// explainer collects an explanation.
type explainer struct {
	kind            appspec.Kind
	behavior        appspec.FileExistsBehavior // of the deployment
	destinationRoot string
	groupID         string // empty: what is in place is not known
	stateDir        string

	file     string // the AppSpec file
	root     string // of the bundle
	spec     *appspec.Spec
	looked   bool              // the verdict says what the bundle lacks
	made     map[string]string // destinations so far, and the source of each
	ours     map[string]bool   // paths on this host that an earlier deployment of the group put there
	install  explainedEvent
	problems []string
}

// explain explains the bundle in dir.
func (x *explainer) explain(dir string) (explanation, error) {
	file, err := findAppspec(dir)
	if err != nil {
		return explanation{}, err
	}
	verdict, spec, err := judgeAppspec(file)
	if err != nil {
		return explanation{}, err
	}
	if x.looked = file != dir; x.looked { // as validate does
		verdict.look(bundleFolder{root: filepath.Dir(file)})
		verdict.lookAtTree(dir)
	}
	explained := explanation{appspecVerdict: verdict, Kind: x.kind, Events: []explainedEvent{}, Problems: []string{}}
	if spec == nil {
		return explained, nil
	}
	x.file, x.root, x.spec, x.made = file, filepath.Dir(file), spec, make(map[string]string)
	x.checkName(file)
	if err := x.readInstalled(); err != nil {
		return explained, err
	}
	for _, event := range appspec.Order(x.kind) {
		e := explainedEvent{Event: event, From: event.From(x.kind), Scripts: x.scripts(event)}
		if event == appspec.Install {
			x.install = e
			if err := x.files(); err != nil {
				return explained, err
			}
			x.removals()
			e = x.install
		}
		explained.Events = append(explained.Events, e)
	}
	x.checkNeverRun()
	x.checkUsers()
	for _, p := range spec.Unusable() {
		x.problem("%s: %s", place(file, p.Line, p.Column), p.Message)
	}
	explained.Problems = append(explained.Problems, x.problems...)
	return explained, nil
}

func (x *explainer) problem(format string, args ...any) {
	x.problems = append(x.problems, fmt.Sprintf(format, args...))
}

// problemAt is problem with the place in the AppSpec file.
func (x *explainer) problemAt(at appspec.Position, format string, args ...any) {
	x.problem("%s: %s", place(x.file, at.Line, at.Column), fmt.Sprintf(format, args...))
}

// checkName warns of file names with which CodeDeploy's agent has trouble.
func (x *explainer) checkName(file string) {
	if filepath.Base(file) != appspecAltName && filepath.Base(file) != appspecName {
		return
	}
	if filepath.Base(file) == appspecAltName {
		x.problem("the file is named %s: CodeDeploy's agent installs from it but looks for hooks in %s only", appspecAltName, appspecName)
	} else if _, err := os.Lstat(filepath.Join(x.root, appspecAltName)); err == nil {
		x.problem("the bundle holds %s and %s; the second is ignored", appspecName, appspecAltName)
	}
}

// scripts lists the scripts of event, also those of an event that the revision before serves: they run when this bundle is that revision.
func (x *explainer) scripts(event appspec.Event) []explainedScript {
	if !event.Scriptable() {
		return nil
	}
	var scripts []explainedScript
	for _, s := range x.spec.Hooks[event] {
		e := explainedScript{Location: s.Location, TimeoutSeconds: s.TimeoutSeconds, RunAs: s.RunAs, Sudo: s.Sudo, State: x.scriptState(s.Location)}
		scripts = append(scripts, e)
		switch {
		case e.State == "ready" || x.looked:
		case e.State == "not executable":
			x.problemAt(s.Position, "%s: the script %s is not executable; it is made executable before it runs", event, s.Location)
		default:
			outcome := "the deployment is refused before the running version is touched"
			if event.From(x.kind) != appspec.CurrentRevision {
				outcome = "the event of the deployment after this one fails"
			}
			x.problemAt(s.Position, "%s: the script %s is %s; %s", event, s.Location, e.State, outcome)
		}
	}
	return scripts
}

// checkNeverRun names the events whose scripts a deployment of this kind never runs.
func (x *explainer) checkNeverRun() {
	for _, event := range appspec.Events() {
		if scripts := x.spec.Hooks[event]; event.Scriptable() && len(scripts) > 0 && !slices.Contains(appspec.Order(x.kind), event) {
			x.problemAt(scripts[0].Position, "%s: its scripts are not run in a deployment of kind %s", event, x.kind)
		}
	}
}

// scriptState looks at a script in the bundle.
func (x *explainer) scriptState(location string) string {
	_, info, err := bundleFolder{root: x.root}.find(location)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err.Error()
	case err != nil:
		return "missing"
	case info.IsDir():
		return "a directory"
	case info.Mode().Perm()&0o111 == 0:
		return "not executable"
	}
	return "ready"
}

// checkUsers looks for the users and groups that the file names.
func (x *explainer) checkUsers() {
	seen := make(map[string]bool)
	check := func(kind, name string, lookup func(string) error) {
		if name == "" || seen[kind+name] {
			return
		}
		seen[kind+name] = true
		if lookup(name) != nil {
			x.problem("this host has no %s %s", kind, name)
		}
	}
	lookupUser := func(name string) error { _, err := user.Lookup(name); return err }
	lookupGroup := func(name string) error { _, err := user.LookupGroup(name); return err }
	for _, p := range x.spec.Permissions {
		check("user", p.Owner, lookupUser)
		check("group", p.Group, lookupGroup)
	}
	for _, event := range appspec.Events() {
		for _, s := range x.spec.Hooks[event] {
			check("user", s.RunAs, lookupUser)
		}
	}
}

// files explains the section files.
func (x *explainer) files() error {
	for _, f := range x.spec.Files {
		source := filepath.Join(x.root, filepath.FromSlash(f.Source))
		if _, _, err := (bundleFolder{root: x.root}).find(f.Source); x.looked && err != nil {
			continue
		}
		if rel, err := filepath.Rel(x.root, source); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			x.problemAt(f.Position, "the source %s leads out of the bundle", f.Source)
			continue
		}
		info, err := os.Stat(source)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			x.problemAt(f.Position, "the bundle has no file %s", f.Source)
			continue
		case err != nil:
			return fmt.Errorf("cannot read the bundle: %w", err)
		}
		if !info.IsDir() {
			x.folders(f.Destination)
			x.path(f.Source, filepath.Join(f.Destination, filepath.Base(source)), false)
			continue
		}
		x.folders(f.Destination)
		if err := x.tree(source, f.Destination); err != nil {
			return err
		}
	}
	return nil
}

// tree explains the files below a folder of the bundle, in sorted order.
func (x *explainer) tree(source, destination string) error {
	return filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot read the bundle: %w", err)
		}
		rel, err := filepath.Rel(source, path)
		if err != nil || rel == "." {
			return err
		}
		inBundle, err := filepath.Rel(x.root, path)
		if err != nil {
			return err
		}
		x.path(inBundle, filepath.Join(destination, rel), d.IsDir())
		return nil
	})
}

// folders explains the folders that are missing on the way to destination, destination included.
func (x *explainer) folders(destination string) {
	var missing []string
	for dir := filepath.Clean(destination); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if _, err := os.Stat(x.onHost(dir)); err == nil {
			break
		}
		missing = append(missing, dir)
	}
	sort.Strings(missing)
	for _, dir := range missing {
		x.path("", dir, true)
	}
}

// onHost is where a destination is on this host.
func (x *explainer) onHost(destination string) string {
	return filepath.Join(x.destinationRoot, destination)
}

// path explains one destination.
func (x *explainer) path(source, destination string, folder bool) {
	if folder {
		_, known := x.made[destination]
		if info, err := os.Stat(x.onHost(destination)); known || err == nil && info.IsDir() {
			return
		}
	} else if other, twice := x.made[destination]; twice {
		x.problem("the destination %s is written twice, from %s and from %s", destination, other, source)
		return
	}
	x.made[destination] = source
	e := explainedFile{Source: source, Destination: destination, Action: "make folder"}
	if !folder {
		e.Action = x.action(destination)
	}
	for _, p := range x.spec.Permissions {
		if p.Matches(destination, folder) && e.Action != "keep" {
			e.Permissions = append(e.Permissions, describePermission(p))
		}
	}
	if len(e.Permissions) > 1 {
		x.problem("the permissions of %s are given %d times, Install refuses that", destination, len(e.Permissions))
	}
	x.list(e)
}

// list adds to what Install does, up to a bound.
func (x *explainer) list(e explainedFile) {
	if len(x.install.Files) >= maxExplainedFiles {
		x.install.More++
		return
	}
	x.install.Files = append(x.install.Files, e)
}

// action says what becomes of a file at destination.
func (x *explainer) action(destination string) string {
	if x.ours[x.onHost(destination)] {
		return "replace"
	}
	if _, err := os.Stat(x.onHost(destination)); err != nil {
		return "copy"
	}
	behavior := cmp.Or(x.spec.FileExistsBehavior, x.behavior)
	switch {
	case behavior == appspec.Overwrite:
		return "overwrite"
	case behavior == appspec.Retain:
		return "keep"
	case x.groupID == "":
		x.problem("%s exists: Install fails on it unless an earlier deployment of the group put it there; --group-id tells", destination)
	default:
		x.problem("%s exists and no deployment of the group put it there: Install fails on it", destination)
	}
	return "refuse"
}

// readInstalled finds out what the group has in place.
func (x *explainer) readInstalled() error {
	x.ours = make(map[string]bool)
	if x.groupID == "" {
		return nil
	}
	entries, err := apply.Installed(x.stateDir, x.groupID)
	if err != nil {
		return fmt.Errorf("cannot find out what group %s has in place: %w", x.groupID, err)
	}
	for _, e := range entries {
		if e.Kind != plan.Dir {
			x.ours[e.Path] = true
		}
	}
	return nil
}

// removals explains the files of the group that this bundle has no more.
func (x *explainer) removals() {
	for destination := range x.made {
		delete(x.ours, x.onHost(destination))
	}
	for _, path := range slices.Sorted(maps.Keys(x.ours)) {
		if rel, err := filepath.Rel(x.destinationRoot, path); err == nil && filepath.IsLocal(rel) {
			path = "/" + rel
		}
		x.list(explainedFile{Destination: path, Action: "remove"})
	}
}

// describePermission says in a few words what a permission sets.
func describePermission(p appspec.Permission) string {
	var parts []string
	if p.Mode != "" {
		parts = append(parts, "mode "+string(p.Mode))
	}
	if p.Owner != "" {
		parts = append(parts, "owner "+p.Owner)
	}
	if p.Group != "" {
		parts = append(parts, "group "+p.Group)
	}
	if p.ACLs != nil {
		var entries []string
		for _, a := range p.ACLs {
			entries = append(entries, a.String())
		}
		parts = append(parts, "acl "+strings.Join(entries, ","))
	}
	if p.Context != nil {
		text := "context " + p.Context.Type
		if p.Context.Range != nil {
			text += ":" + p.Context.Range.String()
		}
		parts = append(parts, text)
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// print writes the explanation for people.
func (x explanation) print(out io.Writer) {
	for i, e := range x.Events {
		fmt.Fprintf(out, "%2d %s%s\n", i+1, e.Event, eventNote(e))
		table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		for _, s := range e.Scripts {
			as := ""
			if s.RunAs != "" {
				as = "as " + s.RunAs
			}
			if s.Sudo {
				as = strings.TrimSpace(as + " with sudo")
			}
			fmt.Fprintf(table, "     run\t%s\t%d s\t%s\t%s\n", s.Location, s.TimeoutSeconds, s.State, as)
		}
		for _, f := range e.Files {
			fmt.Fprintf(table, "     %s\t%s\t%s\t%s\n", f.Action, f.Source, f.Destination, strings.Join(f.Permissions, "; "))
		}
		_ = table.Flush() // as the other writes to the terminal, not followed up
		if e.More > 0 {
			fmt.Fprintf(out, "     and %d more\n", e.More)
		}
	}
	for _, p := range x.Problems {
		fmt.Fprintf(out, "on this host: %s\n", p)
	}
	x.appspecVerdict.print(out)
}

// eventNote says who does the event, where this bundle does not.
func eventNote(e explainedEvent) string {
	switch {
	case !e.Event.Scriptable():
		return " (gitopsd itself)"
	case e.From == appspec.MostRecentRevision:
		return " (scripts of the revision downloaded last)"
	case e.From != appspec.CurrentRevision && len(e.Scripts) > 0:
		return " (scripts of the revision deployed before; those of this bundle serve the next deployment)"
	case e.From != appspec.CurrentRevision:
		return " (scripts of the revision deployed before)"
	case len(e.Scripts) == 0:
		return " (no scripts)"
	}
	return ""
}
