package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
)

// knownEvents lists the names of CodeDeploy's events.
func knownEvents() []string {
	var names []string
	for _, e := range appspec.Events() {
		names = append(names, string(e))
	}
	return names
}

// checkOwnEvents refuses events that are neither CodeDeploy's nor have hooks in the bundle's AppSpec file: they would run nothing and look done. Of a bundle that
// cannot be read nothing is said here: what is wrong with it is for the deployment to tell.
func (f *applyFlags) checkOwnEvents(d apply.Deployment) error {
	if !slices.ContainsFunc(d.Events, func(e appspec.Event) bool { return !e.Known() }) {
		return nil
	}
	spec := bundleSpec(d.Source.Path, d.Source.Type, d.AppSpecName)
	if spec == nil {
		return nil
	}
	for _, e := range d.Events {
		if !e.Known() && len(spec.Hooks[e]) == 0 {
			var own []string
			for name, scripts := range spec.Hooks {
				if !name.Known() && len(scripts) > 0 {
					own = append(own, string(name))
				}
			}
			slices.Sort(own)
			return unknownEvent(e, own)
		}
	}
	return nil
}

// unknownEvent says what else --events takes of a bundle with hooks for events of its own.
func unknownEvent(e appspec.Event, own []string) error {
	more := "appspec.yml has hooks for no others"
	if len(own) > 0 {
		more = "appspec.yml has hooks for " + strings.Join(own, ", ") + " as well"
	}
	return fmt.Errorf("cannot use --events %.100q: there are no hooks for it; CodeDeploy knows %s, and %s", e, strings.Join(knownEvents(), ", "), more)
}

// bundleSpec reads the AppSpec file of a bundle without deploying it; nil where it cannot be read. name is that of the file, or empty.
func bundleSpec(path string, kind bundle.Type, name string) *appspec.Spec {
	names := []string{name, appspecAltName, appspecName} // as the applier looks for them
	if kind != bundle.TypeDirectory {
		archive, err := openArchive(path)
		if err != nil {
			return nil
		}
		defer archive.Close()
		scratch, err := os.MkdirTemp("", "gitopsd-outline-")
		if err != nil {
			return nil
		}
		defer os.RemoveAll(scratch)
		archive.kind, path = kind, scratch
		if err := outline(archive, scratch, names...); err != nil {
			return nil
		}
	}
	root, err := bundleRoot(path)
	if err != nil {
		return nil
	}
	for _, n := range names {
		file := filepath.Join(root, n)
		if info, err := os.Stat(file); !filepath.IsLocal(n) || err != nil || !info.Mode().IsRegular() {
			continue
		}
		_, spec, err := judgeAppspec(file)
		if err != nil {
			return nil
		}
		return spec
	}
	return nil
}
