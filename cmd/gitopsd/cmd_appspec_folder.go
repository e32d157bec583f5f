package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Kinds of warning about what an AppSpec file names, beside those of appspec.
const (
	warnNotExecutable appspec.WarningCode = "not-executable"
	warnNeverRun      appspec.WarningCode = "never-run"
)

// overlayFolder is the folder of a group whose content is laid at the bundle's root.
const overlayFolder = "codedeploy"

// bundleFolder is a bundle that is still a folder, as a deployment will see it.
type bundleFolder struct {
	root  string // the folder that holds the AppSpec file, or would
	group string // folder of the group whose overlay lies above it; empty for none
}

// find looks a path of the bundle up, the group's overlay first. Links are followed, as by a deployment.
func (t bundleFolder) find(rel string) (string, fs.FileInfo, error) {
	rel = filepath.Clean(strings.TrimLeft(filepath.FromSlash(rel), "/"))
	if !filepath.IsLocal(rel) {
		return "", nil, fmt.Errorf("%s leads out of the bundle", rel)
	}
	places := []string{filepath.Join(t.root, rel)}
	if t.group != "" {
		over := filepath.Join(t.group, overlayFolder, rel)
		if top, _, _ := strings.Cut(rel, "/"); top == "project-conf.d" || top == "server-applications" {
			over = filepath.Join(t.group, rel)
		}
		places = []string{over, places[0]}
	}
	for _, place := range places {
		info, err := os.Stat(place)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return place, info, err
		}
	}
	return places[len(places)-1], nil, fs.ErrNotExist
}

// look adds to the verdict what the file names and the bundle lacks. With an error among it no deployment can succeed.
func (v *appspecVerdict) look(t bundleFolder) {
	if v.Spec == nil {
		return
	}
	for _, f := range v.Spec.Files {
		if _, _, err := t.find(f.Source); err != nil {
			v.missing(f.Position, "the source "+f.Source, err)
		}
	}
	for _, event := range appspec.Events() {
		if event.Scriptable() {
			for _, s := range v.Spec.Hooks[event] {
				v.lookAtScript(t, event, s)
			}
		}
	}
	slices.SortStableFunc(v.Errors, func(a, b appspecRemark) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	slices.SortStableFunc(v.Warnings, func(a, b appspecWarning) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
}

// lookAtScript judges one script. Those of the traffic events never run here, so that nothing they lack keeps a deployment from succeeding.
func (v *appspecVerdict) lookAtScript(t bundleFolder, event appspec.Event, s appspec.Script) {
	_, info, err := t.find(s.Location)
	if err == nil && info.IsDir() {
		err = errors.New("it is a directory")
	}
	name := fmt.Sprintf("the script %s of %s", s.Location, event)
	switch {
	case err != nil && !slices.Contains(appspec.Order(appspec.InPlace), event):
		v.Warnings = append(v.Warnings, appspecWarning{Line: s.Position.Line, Column: s.Position.Column, Code: warnNeverRun,
			Message: name + " is not in the bundle; gitopsd never runs it, CodeDeploy does behind a load balancer"})
	case err != nil:
		v.missing(s.Position, name, err)
	case info.Mode().Perm()&0o111 == 0:
		v.Warnings = append(v.Warnings, appspecWarning{Line: s.Position.Line, Column: s.Position.Column, Code: warnNotExecutable,
			Message: name + " is not executable; it is made executable before it runs, as by CodeDeploy's agent"})
	}
}

// missing adds an error about something the file names.
func (v *appspecVerdict) missing(at appspec.Position, what string, err error) {
	why := " cannot be used: " + err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		why = " is not in the bundle"
	}
	v.OK = false
	v.Errors = append(v.Errors, appspecRemark{Line: at.Line, Column: at.Column, Message: what + why})
}

// lookAtTree adds to the verdict what in the folder could not be packed, which no host would unpack either.
func (v *appspecVerdict) lookAtTree(dir string) {
	bundle.CheckTree(os.DirFS(dir), func(err error) {
		v.OK = false
		v.Errors = append(v.Errors, appspecRemark{Message: err.Error()})
	})
}

// checkBundleFolder refuses a folder that could never be deployed: without an AppSpec file, with one that is refused, or with one that names
// what is not there. group is the folder whose overlay counts too, or empty. Warnings go to hints.
func checkBundleFolder(hints io.Writer, dir, group string) error {
	root, err := bundleRoot(dir)
	if err != nil {
		return err
	}
	tree := bundleFolder{root: root, group: group}
	file := ""
	for _, name := range []string{appspecName, appspecAltName} {
		if place, _, err := tree.find(name); err == nil {
			file = place
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot find the AppSpec file: %w", err)
		}
	}
	if file == "" {
		return exitError{code: codeInvalid, err: fmt.Errorf("cannot use %s as a bundle: there is no %s in its top folder; --no-check if a group's %s/ brings it", dir, appspecName, overlayFolder)}
	}
	verdict, _, err := judgeAppspec(file)
	if err != nil {
		return err
	}
	verdict.look(tree)
	for _, w := range verdict.Warnings {
		fmt.Fprintf(hints, "%s: warning: %s\n", place(file, w.Line, w.Column), w.Message)
	}
	if verdict.OK {
		return nil
	}
	var list strings.Builder
	for _, e := range verdict.Errors {
		fmt.Fprintf(&list, "\n%s: %s", place(file, e.Line, e.Column), e.Message)
	}
	return exitError{code: codeInvalid, err: fmt.Errorf("cannot use %s as a bundle, it could not be deployed; mend it, or --no-check if a group's %s/ brings what is missing:%s", dir, overlayFolder, list.String())}
}
