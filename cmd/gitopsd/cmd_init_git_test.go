package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// shell runs a script as a user would paste it, in dir, with git's settings of home alone.
func shell(t *testing.T, dir, home, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+home, "GIT_CONFIG_NOSYSTEM=1", "XDG_CONFIG_HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// gitHome makes a home folder whose user has an SSH key and no settings of git.
func gitHome(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"git", "ssh-keygen", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: %v", tool, err)
		}
	}
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": home, "GIT_CONFIG_NOSYSTEM": "1"} {
		t.Setenv(name, value)
	}
	for _, name := range []string{"GIT_CONFIG_GLOBAL", "GIT_CONFIG_COUNT", "GIT_DIR", "GIT_WORK_TREE"} {
		if value, was := os.LookupEnv(name); was {
			t.Setenv(name, value) // puts it back
			os.Unsetenv(name)
		}
	}
	shell(t, home, home, "mkdir -m 700 .ssh && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519")
	return home
}

// pasted returns the indented lines of a hint.
func pasted(hints string) (lines []string) {
	for line := range strings.Lines(hints) {
		if step, ok := strings.CutPrefix(line, "  "); ok {
			lines = append(lines, strings.TrimSpace(step))
		}
	}
	return lines
}

// introduction returns the commands that a config repository's README gives for its first commit, without those that need the program or a remote.
func introduction(t *testing.T, readme string) string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	_, step, _ := strings.Cut(string(text), "gitopsd config validate . && ")
	step, _, ok := strings.Cut(step, " && git push`")
	if !ok || !strings.Contains(step, "git commit") {
		t.Fatalf("no first commit in\n%s", text)
	}
	return step
}

// TestWhatInitAndPushSayCanBePasted goes from nothing to a signed and pushed release by the printed lines alone.
func TestWhatInitAndPushSayCanBePasted(t *testing.T) {
	home := gitHome(t)
	work := t.TempDir()
	t.Chdir(work)
	_, hints, code := offline(t, "init", "config")
	if code != 0 || strings.Contains(hints, "REPLACE") {
		t.Fatalf("exit %d\n%s", code, hints)
	}
	steps := strings.Join(pasted(hints), "\n")
	for _, want := range []string{"git config user.name ", "git config gpg.format ssh", "git config user.signingkey ~/.ssh/id_ed25519", "git config commit.gpgsign true"} {
		if !strings.Contains(steps, want) {
			t.Errorf("no %q in\n%s", want, hints)
		}
	}
	if strings.Contains(steps, "git commit") || !strings.Contains(hints, "then follow README.md from its step 2") {
		t.Errorf("the first commit, which hosts pin, is made before the inventory is there:\n%s", hints)
	}
	shell(t, work, home, steps+"\n"+introduction(t, "config/README.md"))
	if commit := shell(t, filepath.Join(work, "config"), home, "git cat-file commit HEAD"); !strings.Contains(commit, "BEGIN SSH SIGNATURE") {
		t.Errorf("the commit is not signed:\n%s", commit)
	}
	if _, hints, _ := offline(t, "init", "config"); strings.Contains(hints, "git config") || strings.Contains(hints, "git init") {
		t.Errorf("what is set already is asked for again:\n%s", hints)
	}

	shell(t, work, home, "git init -q --bare remote.git && cd config && git remote add origin ../remote.git && git push -q -u origin main")
	_, hints, code = offline(t, "group", "add", "shop/production/website", "--dir", "config", "--application", "shop")
	for _, want := range []string{"made deployment group shop-production-website", "gitopsd coordinators init shop-production-website", "bundle push", "`suspend: true`"} {
		if code != 0 || !strings.Contains(hints, want) {
			t.Errorf("group add: exit %d, no %q in\n%s", code, want, hints)
		}
	}
	group := filepath.Join("config", "shop", "production", "website")
	for i, dir := range []string{work, filepath.Join(work, "config")} { // the first time the file is not tracked, and not below the working directory
		t.Chdir(dir)
		rel, err := filepath.Rel(dir, filepath.Join(work, group))
		if err != nil {
			t.Fatal(err)
		}
		out, code := bundleVerb(t, "push", bundleTree(t, strings.Repeat("x", i+1)), filepath.Join(t.TempDir(), "1.tar.zst"), "--group", rel)
		if code != 0 || !strings.Contains(out, "the group is suspended") || !strings.Contains(out, "website/group.yaml:") {
			t.Errorf("push: exit %d\n%s", code, out)
		}
		_, line, _ := strings.Cut(out, "deploy it with: ")
		shell(t, dir, home, line)
		if left := shell(t, work, home, "git -C config status --porcelain -- shop/production/website/group.yaml; git -C config log --oneline origin/main..main"); left != "" {
			t.Errorf("not committed or not pushed: %s", left)
		}
	}
	text, err := os.ReadFile(filepath.Join(work, group, "group.yaml"))
	if err != nil || !strings.Contains(string(text), "directoryLocation: {path: ") || strings.Contains(string(text), "s3Location") || !strings.Contains(string(text), "# sha256: and what sha256sum prints") {
		t.Errorf("%v\n%s", err, text)
	}
	if out, hints, _ := offline(t, "config", "validate", filepath.Join(work, "config")); !strings.Contains(out+hints, "1 problem") || !strings.Contains(out, "names no coordinators") {
		t.Errorf("validate finds more than the coordinators that are missing:\n%s%s", out, hints)
	}
}

func TestPrivateKeyOf(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for name, text := range map[string]string{"work.pub": "ssh-ed25519 AAAA anna@laptop\n", "work": "", "token.pub": "ssh-ed25519 BBBB\n"} {
		if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, ".ssh", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for signer, want := range map[string]string{
		"":                            "~/.ssh/id_ed25519",
		"anna=ssh-ed25519 AAAA other": filepath.Join(home, ".ssh", "work"),
		"anna=ssh-ed25519 CCCC":       "~/.ssh/id_ed25519",
		"anna=" + filepath.Join(home, ".ssh", "work.pub"):  filepath.Join(home, ".ssh", "work"),
		"anna=" + filepath.Join(home, ".ssh", "token.pub"): filepath.Join(home, ".ssh", "token.pub"),
	} {
		if got := privateKeyOf(signer); got != want {
			t.Errorf("%q: %s, want %s", signer, got, want)
		}
	}
}

func TestBundlePushNamesAFolderThatIsMissing(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "no", "share")
	out, code := bundleVerb(t, "push", bundleTree(t, "x"), filepath.Join(folder, "1.tar.zst"))
	if code != codeError || !strings.Contains(out, "there is no folder "+folder) || !strings.Contains(out, "mkdir -p "+folder) {
		t.Errorf("exit %d, %s", code, out)
	}
}
