package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
)

// runApply runs `gitopsd apply` with args and returns what it prints on stdout.
func runApply(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := applyCommand()
	var out, hints bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&hints)
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestApply(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "bundle")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /etc/app}]\n", "f": "hello"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	common := []string{source, "--state-dir", filepath.Join(dir, "state"), "--destination-root", filepath.Join(dir, "root"), "-o", "json"}
	file := filepath.Join(dir, "root/etc/app/f")

	out, err := runApply(t, append(common, "--dry-run")...)
	var report apply.PreflightReport
	if err != nil || json.Unmarshal([]byte(out), &report) != nil || !report.OK || report.Changes.Bytes != 5 {
		t.Fatalf("dry run: %v\n%s", err, out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Fatal("a dry run wrote a file")
	}

	out, err = runApply(t, common...)
	var res apply.Result
	if err != nil || json.Unmarshal([]byte(out), &res) != nil || res.Outcome != apply.OutcomeSucceeded || len(res.Events) != 7 {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "hello" {
		t.Fatalf("%q %v", data, err)
	}

	if err := os.Remove(filepath.Join(source, "f")); err != nil {
		t.Fatal(err)
	}
	out, err = runApply(t, common...)
	var coded exitError
	if !errors.As(err, &coded) || coded.code != codeFailed || json.Unmarshal([]byte(out), &res) != nil || res.Error == nil || res.Error.Event != appspec.Install {
		t.Fatalf("a bundle without its source: %v\n%s", err, out)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "hello" {
		t.Errorf("a refused bundle left %q %v", data, err)
	}
}

// A journal that cannot be read is the business of its own group alone: another's interrupted deployment is gone on with.
func TestApplyBesideADamagedJournal(t *testing.T) {
	dir := t.TempDir()
	state, root := filepath.Join(dir, "state"), filepath.Join(dir, "root")
	source := filepath.Join(dir, "bundle")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "appspec.yml"), []byte("version: 0.0\nos: linux\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := apply.New(apply.Options{StateDir: state, DestinationRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"g1", "g2"} {
		ctx, cancel := context.WithCancel(t.Context())
		d := apply.Deployment{
			ID: "d-1", ApplicationName: group, GroupName: group, GroupID: group, Source: apply.Source{Path: source, Type: bundle.TypeDirectory},
			Begin: func(context.Context) error { cancel(); return nil },
		}
		if _, err := a.Apply(ctx, d, nil); !errors.Is(err, apply.ErrInterrupted) {
			t.Fatalf("interrupted: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "groups/g2/deployments/d-1.1/journal"), []byte("not a journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"d-1", "d-2"} {
		if _, err := runApply(t, source, "--state-dir", state, "--destination-root", root, "--application", "g1", "--group", "g1", "--deployment-id", id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestApplyKnowsTheNamesItIsGiven and lists them where it does not.
func TestApplyKnowsTheNamesItIsGiven(t *testing.T) {
	source := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\n"})
	state := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct{ flag, value, want string }{
		{"events", "Install,AfterInstal", `cannot use --events "AfterInstal": did you mean AfterInstall? known are BeforeBlockTraffic, BlockTraffic, `},
		{"deployment-type", "ROLLING", "it is neither IN_PLACE nor BLUE_GREEN"},
		{"stop-failure", "ignore", "known are fail, continue, use-new"},
		{"creator", "me", "known are user, codeDeployRollback, autoscaling, "},
		{"output", "yaml", "known are table, json"},
		{"revision-type", "rar", "write tar.zst, zip, tgz, tar or directory"},
	} {
		_, err := runApply(t, source, "--state-dir", state, "--destination-root", t.TempDir(), "--"+c.flag, c.value)
		coded, _ := err.(exitError)
		if coded.code != codeUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("--%s %s: exit %d, %v; want %s", c.flag, c.value, coded.code, err, c.want)
		}
	}
	if exists(state) {
		t.Error("something was begun")
	}
}

// TestApplyRefusesEventsNobodyHas before anything is touched.
func TestApplyRefusesEventsNobodyHas(t *testing.T) {
	source := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /a}]\n", "f": "new"})
	own := map[string]string{"appspec.yml": "version: 0.0\nos: linux\nhooks: {Mine: [{location: f}], Empty: []}\n", "f": "#!/bin/sh\n"}
	root, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	for _, c := range []struct{ bundle, events, want string }{
		{source, "DownloadBundle,Install,Nonsense", `cannot use --events "Nonsense": there are no hooks for it; CodeDeploy knows BeforeBlockTraffic, `},
		{tarOf(t, source), "DownloadBundle,Install,Nonsense", "appspec.yml has hooks for no others"},
		{writeTree(t, own), "Mine,Empty", `cannot use --events "Empty": there are no hooks for it`},
		{tarOf(t, writeTree(t, own)), "Nonsense", "and appspec.yml has hooks for Mine as well"},
		{tarOf(t, writeTree(t, map[string]string{"site/other.yml": own["appspec.yml"], "site/appspec.yml": ""})), "Nonsense", "and appspec.yml has hooks for Mine as well"},
	} {
		for _, dry := range []string{"--dry-run=false", "--dry-run"} {
			out, err := runApply(t, c.bundle, "--state-dir", state, "--destination-root", root, "--events", c.events, "--appspec", "other.yml", dry)
			coded, _ := err.(exitError)
			if coded.code != codeUsage || !strings.Contains(err.Error(), c.want) || out != "" || exists(filepath.Join(root, "a")) || exists(state) {
				t.Errorf("%s of %s: exit %d, %v\n%s", c.events, c.bundle, coded.code, err, out)
			}
		}
	}
	broken := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\n"})
	if out, err := runApply(t, broken, "--state-dir", state, "--destination-root", root, "--events", "Nonsense"); err == nil || err.(exitError).code != codeFailed {
		t.Errorf("of a bundle that is refused itself: %v\n%s", err, out)
	}
}

// tarOf is a tar of a tree.
func tarOf(t *testing.T, tree string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bundle.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(tree)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestApplyNeedsTheBehaviorWhereAFileExists alone, as the agent does; a warning tells of one that is none.
func TestApplyNeedsTheBehaviorWhereAFileExists(t *testing.T) {
	source := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /a}]\n", "f": "new"})
	for there, want := range map[string]string{"other": "Succeeded", "f": "an invalid option was specified for fileExistsBehavior: SOMETIMES"} {
		root := writeTree(t, map[string]string{"a/" + there: "old"})
		out, err := runApply(t, source, "--state-dir", filepath.Join(t.TempDir(), "state"), "--destination-root", root, "--file-exists-behavior", "sometimes")
		if !strings.Contains(out, want) || !strings.Contains(out, "SOMETIMES") || (err == nil) != (there == "other") {
			t.Errorf("with %s: %v\n%s", there, err, out)
		}
	}
}

// TestApplyDryRunLeavesNoTrace neither of its own nor in a state directory that is there, and still knows what that says.
func TestApplyDryRunLeavesNoTrace(t *testing.T) {
	source := writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: f, destination: /etc/app}]\n", "f": "hello"})
	dir, temp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	args := []string{source, "--state-dir", filepath.Join(dir, "state"), "--destination-root", filepath.Join(dir, "root"), "-o", "json"}
	if out, err := runApply(t, append(args, "--dry-run")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := listing(t, dir) + listing(t, temp); left != "" {
		t.Errorf("a dry run left\n%s", left)
	}
	if out, err := runApply(t, args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := listing(t, dir)
	out, err := runApply(t, append(args, "--dry-run")...)
	var report apply.PreflightReport
	if err != nil || json.Unmarshal([]byte(out), &report) != nil || !report.OK || report.Changes.Unchanged != 1 || report.Changes.Written != 0 {
		t.Errorf("what is installed is not known: %v\n%s", err, out)
	}
	if after := listing(t, dir) + listing(t, temp); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	out, err = runApply(t, append(args, "--dry-run", "--group-id", "../../x")...)
	if err == nil || listing(t, temp) != "" {
		t.Errorf("a group id that leads elsewhere: %v\n%s", err, out)
	}
	if err := os.Remove(filepath.Join(source, "f")); err != nil {
		t.Fatal(err)
	}
	if out, err := runApply(t, append(args, "--dry-run")...); err == nil || strings.Contains(out, temp) {
		t.Errorf("a refusal names the scratch directory: %v\n%s", err, out)
	}
}

// listing names everything below dir with its size and time.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestApplyWithoutPermissionSaysWhatToDo(t *testing.T) {
	f := applyFlags{stateDir: "/var/lib/gitopsd/apply", destinationRoot: "/"}
	err := f.permissionHint(&fs.PathError{Op: "mkdir", Path: "/var/lib/gitopsd", Err: fs.ErrPermission}, 1000)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "run it as root, or") || !strings.Contains(err.Error(), "--state-dir") {
		t.Error(err)
	}
	if err := f.permissionHint(errors.New("something else"), 1000); err.Error() != "something else" {
		t.Error(err)
	}
}

func TestApplyFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.tgz")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := applyFlags{group: "g", application: "a", events: "BeforeBlockTraffic, Install", behavior: "overwrite", creator: "codeDeployRollback", deploymentType: "BLUE_GREEN", s3: "bucket=b,key=k,etag=e",
		maxRevisions: 5, destinationRoot: "/", stateDir: t.TempDir()}
	d, err := f.deployment(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.GroupID != "g" || !strings.HasPrefix(d.ID, "d-") || len(d.ID) != 11 || len(d.Events) != 2 || d.Events[1] != appspec.Install ||
		d.FileExistsBehavior != appspec.Overwrite || d.Kind != appspec.BlueGreenRollbackReplacement || d.Source.Type != bundle.TypeTgz || d.S3 != (apply.S3{Bucket: "b", Key: "k", ETag: "e"}) {
		t.Errorf("%+v", d)
	}
	for name, spoil := range map[string]func(*applyFlags){
		"deployment type": func(f *applyFlags) { f.deploymentType = "CANARY" },
		"s3":              func(f *applyFlags) { f.s3 = "bukket=b" },
		"revision type":   func(f *applyFlags) { f.revisionType = "rar" },
	} {
		bad := f
		spoil(&bad)
		if _, err := bad.deployment(path); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
