package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRepositoryMadeByCommandsRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &fleet{t: t, dir: dir}
	t.Cleanup(f.collect)
	f.git, f.s3 = newGit(t, dir), newS3(t, dir)
	repo := f.git.work
	f.command("init", repo, "--name", "shop", "--signer", "anna="+f.git.key+".pub")
	f.command("config", "validate", repo)
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		f.addHost(name)
	}
	f.command("coordinators", "init", "web", "--voters", "web-1,web-2,web-3", repo)
	f.intro = f.git.commit("begin")
	id := strings.TrimSpace(f.command("group", "add", website, "--dir", repo, "--application", "website", "--coordinators", "web", "--tags", "role=web"))
	f.command("config", "validate", repo)
	for _, h := range f.hosts {
		h.writeConfig("")
		h.start()
	}
	group := filepath.Join(repo, website, "group.yaml")
	f.command("bundle", "push", f.build(release{name: "one"}), "s3://"+s3Bucket+"/website/one.tar.zst", "--group", group,
		"--endpoint", f.s3.url, "--path-style", "--region", "us-east-1", "--credentials-file", f.s3.credentials)
	suspended := f.git.commit("add the website, still suspended")
	f.awaitCommit(suspended)
	if g, _, ok := f.hosts[0].status(website); !ok || g.ID != id {
		t.Errorf("status knows the group as %q, group add printed %q", g.ID, id)
	}
	f.hosts[1].awaitState("Suspended")
	f.editGroup(group, func(lines []string) []string {
		var kept []string
		for _, line := range lines {
			if !strings.HasPrefix(line, "suspend:") {
				kept = append(kept, line)
			}
		}
		return kept
	})
	f.command("config", "validate", repo)
	commit := f.git.commit("deploy the website")
	f.awaitRelease("one")
	if code := f.hosts[2].wait(commit); code != 0 {
		t.Errorf("wait exits %d, want 0", code)
	}
	f.assertRanOnce("ApplicationStart", "one")

	f.editGroup(group, func(lines []string) []string {
		return append(lines, "minimumHealthyHost: {type: HOST_COUNT, value: 1}")
	})
	out, code, stderr := f.try("config", "validate", repo)
	if code != 10 {
		t.Errorf("config validate of a misspelt key exits %d, want 10", code)
	}
	contains(t, "config validate", out+stderr, "group.yaml:", "minimumHealthyHosts")
}

// editGroup changes the lines of a group.yaml.
func (f *fleet) editGroup(file string, change func([]string) []string) {
	f.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		f.t.Fatal(err)
	}
	lines := change(strings.Split(strings.TrimRight(string(text), "\n"), "\n"))
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		f.t.Fatal(err)
	}
}
