package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// delta measures the next release of a seeded tree, on a fleet that runs the one before it.
func delta(pick func(size int) bool) func(context.Context, *bed, options, measurement) (outcome, error) {
	return func(ctx context.Context, b *bed, o options, m measurement) (outcome, error) {
		f, err := newFleet(ctx, b, o, b.spec.hosts)
		if err != nil {
			return outcome{}, err
		}
		if err := f.writeAppSpec("app"); err != nil {
			return outcome{}, err
		}
		t := newTree(f.path("bundle", "app"))
		if err := t.write(m.mib); err != nil {
			return outcome{}, err
		}
		var c change
		out, err := f.upgrade(ctx, m, func() (err error) {
			c, err = t.change(pick)
			return err
		})
		out.worth = c.worth
		out.note += fmt.Sprintf("; %d files of %s changed in %d runs, worth %s", c.files, mebi(c.bytes), c.runs, mebi(c.worth))
		return out, err
	}
}

// upgrade lets the fleet run the bundle's folder, changes that, and measures how its next version reaches the hosts.
func (f *fleet) upgrade(ctx context.Context, m measurement, change func() error) (outcome, error) {
	one, err := f.push(ctx, "one.tar.zst", "")
	if err != nil {
		return outcome{}, err
	}
	if err := f.startAgents(ctx, f.bed.spec.hosts); err != nil {
		return outcome{}, err
	}
	if err := f.settle(ctx, one, f.bed.spec.hosts); err != nil {
		return outcome{}, err
	}
	if err := change(); err != nil {
		return outcome{}, err
	}
	two, err := f.push(ctx, "two.tar.zst", "one.tar.zst")
	if err != nil {
		return outcome{}, err
	}
	out, err := f.deploy(ctx, m, two)
	out.delta, out.size = true, two.size
	out.note = fmt.Sprintf("%s of a bundle of %s moved", mebi(out.moved), mebi(two.size))
	return out, err
}

func mebi(bytes int64) string { return fmt.Sprintf("%.2f MiB", float64(bytes)/(1<<20)) }

// neighbours are two releases of a tree of some 110 MB, one patch apart, as Go modules.
var neighbours = [2][]string{
	{"k8s.io/kubernetes@v1.34.1", "k8s.io/api@v0.34.1"},
	{"k8s.io/kubernetes@v1.34.2", "k8s.io/api@v0.34.2"},
}

// modules measures the next release of a real tree, on a fleet that runs the one before it.
func modules(ctx context.Context, b *bed, o options, m measurement) (outcome, error) {
	var versions [2]string
	for i, names := range neighbours {
		versions[i] = filepath.Join(b.dir, "version-"+fmt.Sprint(i+1))
		if err := fetchModules(ctx, filepath.Join(b.dir, "modules"), versions[i], names); err != nil {
			return outcome{}, err
		}
	}
	f, err := newFleet(ctx, b, o, b.spec.hosts)
	if err != nil {
		return outcome{}, err
	}
	if err := f.writeAppSpec("app"); err != nil {
		return outcome{}, err
	}
	app := f.path("bundle", "app")
	if err := os.Rename(versions[0], app); err != nil {
		return outcome{}, err
	}
	out, err := f.upgrade(ctx, m, func() error { return errors.Join(os.RemoveAll(app), os.Rename(versions[1], app)) })
	out.note += "; " + strings.Join(neighbours[1], " and ")
	return out, err
}

// fetchModules downloads modules into a module cache, and moves them to a folder without their versions.
func fetchModules(ctx context.Context, cache, to string, names []string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"mod", "download", "-json"}, names...)...)
	cmd.Dir, cmd.Env = cache, append(os.Environ(), "GOMODCACHE="+cache, "GOFLAGS=-modcacherw", "GOWORK=off")
	text, err := output(cmd)
	if err != nil {
		return fmt.Errorf("%w: the modules cannot be downloaded: %w", errNotRun, err)
	}
	for all := json.NewDecoder(strings.NewReader(string(text))); ; {
		var module struct{ Path, Dir string }
		if err := all.Decode(&module); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot read what go mod download printed: %w", err)
		}
		path := filepath.Join(to, module.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Rename(module.Dir, path); err != nil {
			return err
		}
	}
}
