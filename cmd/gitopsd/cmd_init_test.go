package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/transport"
	"github.com/spf13/cobra"
)

// offline runs one of the verbs of this file's commands, and returns what it printed and its exit code.
func offline(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	root := &cobra.Command{Use: "gitopsd", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(configCommand(), initCommand(), groupCommand(), coordinatorsCommand(), hostCommand())
	var out, hints bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&hints)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		hints.WriteString(err.Error())
		code = codeError
		if coded, ok := err.(exitError); ok {
			code = coded.code
		}
	}
	return out.String(), hints.String(), code
}

// must runs a verb that has to succeed, and returns its standard output.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, hints, code := offline(t, args...)
	if code != 0 {
		t.Fatalf("gitopsd %s: exit %d\n%s%s", strings.Join(args, " "), code, out, hints)
	}
	return out
}

// TestFromNothingToARepositoryThatValidates types what the README of a new config repository says.
func TestFromNothingToARepositoryThatValidates(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "config")
	out, hints, code := offline(t, "init", dir)
	if code != 0 || !strings.Contains(out, "trust.yaml") || !strings.Contains(out, "this is not a key yet") || !strings.Contains(hints, "0 problems") && !strings.Contains(hints, "ok, 1 warning") {
		t.Fatalf("init: exit %d\n%s%s", code, out, hints)
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	for _, want := range []string{"git config gpg.format ssh", "git rev-parse HEAD", "introduction: ", "/etc/gitopsd/allowed_signers", "`suspend: true`", "git push"} {
		if !strings.Contains(string(readme), want) {
			t.Errorf("the README lacks %q (%v)", want, err)
		}
	}
	for _, line := range calls(string(readme)) {
		if err := lookUp(docsRoot(t), line); err != nil {
			t.Errorf("the README says gitopsd %s: %v", line, err)
		}
	}
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		text := must(t, "host", "init", "--data-dir", filepath.Join(t.TempDir(), name), "--name", name, "--address", "10.0.0."+name[4:]+":7946", "--zone", "rack-a", "--tag", "role=shop,env=production")
		if err := os.WriteFile(filepath.Join(dir, "hosts", name+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "coordinators", "init", "web", "--voters", "web-1,web-2,web-3", dir)
	id := strings.TrimSpace(must(t, "group", "add", "shop/production/website", "--dir", dir, "--application", "shop", "--coordinators", "web"))
	must(t, "group", "add", "shop/staging/website", "--dir", dir, "--application", "shop", "--coordinators", "web", "--tags", "role=shop,role=edge", "--tags", "env=production")
	must(t, "config", "validate", dir)

	state, problems := desired.Load(os.DirFS(dir))
	if len(desired.Bad(problems)) != 0 || len(state.Groups) != 2 {
		t.Fatalf("groups = %d, problems = %v", len(state.Groups), problems)
	}
	g := state.Groups[0]
	if string(g.ID) != id || len(id) != 16 || g.Name != "shop-production-website" || len(g.Members) != 3 || !g.Policy.Suspend || len(state.Groups[1].Members) != 3 {
		t.Errorf("group = %+v", g)
	}
	if _, hints, code := offline(t, "group", "add", "shop/production/website", "--dir", dir, "--application", "shop"); code != codeError || !strings.Contains(hints, "cannot add group shop/production/website: it exists already, in "+dir+"/shop/production/website/group.yaml") {
		t.Errorf("the same group again: exit %d, %s", code, hints)
	}
	for _, voters := range [][]string{nil, {"--voters", "web-1,web-2"}} {
		want := fmt.Sprintf("--voters names %d hosts; write 1, 3, 5 or 7", len(voters))
		if _, hints, code := offline(t, append([]string{"coordinators", "init", "more", dir}, voters...)...); code != codeUsage || !strings.Contains(hints, want) {
			t.Errorf("%v: exit %d, %s; want %s", voters, code, hints, want)
		}
	}
	if _, hints, code := offline(t, "coordinators", "init", "web", "--voters", "web-1", dir); code != codeError || !strings.Contains(hints, "exists already") {
		t.Errorf("the same set again: exit %d, %s", code, hints)
	}
	must(t, "init", dir) // leaves alone what is there
}

// TestGroupAddSaysWhichHostsAndTagsThereAreNot in the inventory: as `config validate` does, it refuses hosts, and warns of tags where they stand in the file it made.
func TestGroupAddSaysWhichHostsAndTagsThereAreNot(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "config")
	must(t, "init", dir)
	text := must(t, "host", "init", "--data-dir", filepath.Join(t.TempDir(), "data"), "--name", "web-1", "--tag", "role=shop")
	if err := os.WriteFile(filepath.Join(dir, "hosts", "web-1.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--tags", "role=shpo"}, "group.yaml:8:22: warning: targets match no host of the inventory: none has tag role=shpo (did you mean role=shop?)"},
		{[]string{"--tags", "role=shop"}, ""},
	} {
		folder := "shop/production/" + string(rune('a'+i))
		_, hints, code := offline(t, append([]string{"group", "add", folder, "--dir", dir, "--application", "shop"}, c.args...)...)
		if code != 0 || c.want != "" && !strings.Contains(hints, folder+"/"+c.want) || c.want == "" && strings.Contains(hints, "targets") {
			t.Errorf("%v: exit %d\n%swant %s", c.args, code, hints, c.want)
		}
		if out, _, _ := offline(t, "config", "validate", dir); c.want != "" && !strings.Contains(out, folder+"/"+c.want) {
			t.Errorf("%v: config validate says something else:\n%s", c.args, out)
		}
	}
	out, hints, code := offline(t, "group", "add", "shop/staging/a", "--dir", dir, "--application", "shop", "--hosts", "web-1,web-01")
	if want := `cannot add group shop/staging/a: targets.hosts: there is no host "web-01" in hosts/ (did you mean web-1?)`; code != codeInvalid || hints != want || out != "" {
		t.Errorf("a host that is not there: exit %d\n%s\nwant %s", code, hints, want)
	}
	if exists(filepath.Join(dir, "shop", "staging")) {
		t.Error("something was written of a group that is refused")
	}
}

// TestInitNamesTheFleet or says why it does not.
func TestInitNamesTheFleet(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "config")
	must(t, "init", dir, "--name", "shop")
	if state, _ := desired.Load(os.DirFS(dir)); state.Fleet.Name != "shop" {
		t.Errorf("the fleet is called %q", state.Fleet.Name)
	}
	must(t, "init", dir, "--name", "shop")
	must(t, "init", dir)
	_, hints, code := offline(t, "init", dir, "--name", "other")
	if code != codeError || !strings.Contains(hints, `cannot name the fleet "other": `+dir+`/fleet.yaml calls it "shop" already; change it there`) {
		t.Errorf("exit %d, %s", code, hints)
	}
	if err := os.WriteFile(filepath.Join(dir, "fleet.yaml"), []byte("nmae: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, hints, code := offline(t, "init", dir, "--name", "other"); code != codeError || !strings.Contains(hints, "cannot be read; mend it") {
		t.Errorf("exit %d, %s", code, hints)
	}
}

func TestInitRefusesAPrivateKey(t *testing.T) {
	private := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(private, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, hints, code := offline(t, "init", filepath.Join(t.TempDir(), "c"), "--signer", "anna="+private)
	if code != codeUsage || !strings.Contains(hints, "`ssh-keygen -y -f "+private+" > "+private+".pub` writes") || strings.Contains(hints, "c2VjcmV0") {
		t.Errorf("exit %d, %s", code, hints)
	}
	if err := os.WriteFile(private+".pub", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, hints, code = offline(t, "init", filepath.Join(t.TempDir(), "c"), "--signer", "anna="+private)
	if code != codeUsage || !strings.Contains(hints, private+" is a private key, which nobody else may have; name its public half, "+private+".pub") {
		t.Errorf("exit %d, %s", code, hints)
	}
}

// TestAgentRefusesItsConfiguration with the code of what is invalid, with which systemd starts it no more.
func TestAgentRefusesItsConfiguration(t *testing.T) {
	for name, c := range map[string]struct{ signers, ratchet, want string }{
		"signers without names": {signers: "# ours\nKEY\n", want: "DIR/allowed_signers:2:1: there is no name before the key; write NAME ssh-ed25519 AAAA..."},
		"no signers":            {want: "DIR/allowed_signers: no such file or directory; write a line"},
		"another introduction": {"anna KEY\n", `{"version":1,"introduction":"INTRO","accepted":{"id":"INTRO"}}`,
			"belongs to the introduction INTRO, but 0123456789abcdef0123456789abcdef01234567 is pinned now: after moving to another repository, remove DIR/git"},
	} {
		dir := t.TempDir()
		key, err := transport.GenerateKey(filepath.Join(dir, "host.key"))
		if err != nil {
			t.Fatal(err)
		}
		fill := strings.NewReplacer("DIR", dir, "KEY", transport.PublicKeyLine(key), "INTRO", strings.Repeat("f", 40))
		files := map[string]string{
			"allowed_signers":  c.signers,
			"git/ratchet.json": c.ratchet,
			"storage-id":       "0123456789abcdef\n",
			"gitopsd.yaml": "host: web-1\ndataDir: DIR\nsocket: DIR/s\nlisten: 127.0.0.1:0\nrepository:\n  urls: [https://127.0.0.1:1/x]\n" +
				"  introduction: 0123456789abcdef0123456789abcdef01234567\n  allowedSigners: DIR/allowed_signers\n",
		}
		if err := os.Mkdir(filepath.Join(dir, "git"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), []byte(fill.Replace(text)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		err = runAgent(t.Context(), filepath.Join(dir, "gitopsd.yaml"), &out)
		coded, _ := err.(exitError)
		if coded.code != codeInvalid || !strings.Contains(err.Error(), fill.Replace(c.want)) {
			t.Errorf("%s: exit %d, %v\n%s", name, coded.code, err, out.String())
		}
	}
}

func TestInitWithSigner(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	key, err := transport.GenerateKey(filepath.Join(home, "id"))
	if err != nil {
		t.Fatal(err)
	}
	line := transport.PublicKeyLine(key)
	for name, signer := range map[string]string{"line": line, "line with comment": line + " anna@laptop"} {
		dir := filepath.Join(t.TempDir(), "c")
		must(t, "init", dir, "--name", "shop", "--signer", "anna="+signer)
		out := must(t, "config", "validate", dir, "-o", "json")
		if !strings.Contains(out, `"ok": true`) || !strings.Contains(out, `"warnings": []`) {
			t.Errorf("%s: %s", name, out)
		}
	}
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "id_ed25519.pub"), []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "c")
	must(t, "init", dir)
	if text, err := os.ReadFile(filepath.Join(dir, "trust.yaml")); err != nil || !strings.Contains(string(text), line) {
		t.Errorf("the user's own key is not in trust.yaml: %v\n%s", err, text)
	}
	for _, bad := range []string{"anna", "anna=", "=x", "anna=ssh-ed25519 AAAA", "anna=ssh-dss\nx y"} {
		if _, _, code := offline(t, "init", filepath.Join(t.TempDir(), "c"), "--signer", bad); code != codeUsage {
			t.Errorf("--signer %q: exit %d", bad, code)
		}
	}
	if _, hints, code := offline(t, "init", filepath.Join(t.TempDir(), "c"), "--signer", "anna=/no/such/file"); code != codeError || !strings.Contains(hints, "/no/such/file: no such file or directory") {
		t.Errorf("a file that is not there: exit %d, %s", code, hints)
	}
}

func TestHostInitKeepsWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := must(t, "host", "init", "--data-dir", dir, "--name", "web-1")
	if again := must(t, "host", "init", "--data-dir", dir, "--name", "web-1"); again != first {
		t.Errorf("the second time:\n%s\nthe first time:\n%s", again, first)
	}
	info, err := os.Stat(filepath.Join(dir, hostKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
	if _, err := transport.LoadKey(filepath.Join(dir, hostKeyFile)); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, hostKeyFile)); err != nil {
		t.Fatal(err)
	}
	if third := must(t, "host", "init", "--data-dir", dir, "--name", "web-1"); third == first {
		t.Error("a new key looks like the old one")
	}
	if err := os.WriteFile(filepath.Join(dir, storageIDFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, hints, code := offline(t, "host", "init", "--data-dir", dir, "--name", "web-1"); code != codeError || !strings.Contains(hints, "16 hexadecimal digits") {
		t.Errorf("exit %d, %s", code, hints)
	}
	for _, args := range [][]string{{}, {"--name", "web 1"}, {"--name", "web-1", "--address", "nowhere"}} {
		if _, _, code := offline(t, append([]string{"host", "init", "--data-dir", t.TempDir()}, args...)...); code == 0 {
			t.Errorf("%v was accepted", args)
		}
	}
}

// TestHostInitKeepsOutOfAnotherHostsDataDirectory as the agent would, and as soon as it can be told: the key and the storage id name no host.
func TestHostInitKeepsOutOfAnotherHostsDataDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	init := func(name string) (stdout, stderr string, code int) {
		return offline(t, "host", "init", "--data-dir", dir, "--name", name)
	}
	first, hints, code := init("web-1")
	if code != 0 {
		t.Fatal(hints)
	}
	slots, _, err := durable.OpenSlots(filepath.Join(dir, "member.state"), 100)
	if err == nil {
		err = errors.Join(slots.Write([]byte("\x01{\"version\":1,\"host\":\"web-1\"}")), slots.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, hints, code := init("web-2"); code != codeInvalid || out != "" || !strings.Contains(hints, "cannot make the identity of host web-2: "+dir+" belongs to host web-1, whose agent ran with it") {
		t.Errorf("exit %d, %s%s", code, out, hints)
	}
	if again, hints, code := init("web-1"); code != 0 || again != first {
		t.Errorf("its own: exit %d, %s", code, hints)
	}
	if err := os.WriteFile(filepath.Join(dir, "member.state"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, hints, code := init("web-2"); code != 0 {
		t.Errorf("whose it is cannot be told: exit %d, %s", code, hints)
	}
}

func TestConfigValidateNamesEveryProblem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	must(t, "init", dir, "--signer", "anna=ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOPQh+D3AaNw1mhD8TqosWjKZJqyJhq5HntMjGGZ0H6d")
	bad := filepath.Join(dir, "a", "group.yaml")
	if err := os.MkdirAll(filepath.Dir(bad), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("id: short\nsuperseed: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _, code := offline(t, "config", "validate", dir, "-o", "json")
	var v struct {
		OK     bool
		Errors []struct {
			File, Message, Suggestion string
			Line, Column              int
		}
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != codeInvalid || v.OK {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	at := slices.IndexFunc(v.Errors, func(e struct {
		File, Message, Suggestion string
		Line, Column              int
	}) bool {
		return strings.Contains(e.Message, "superseed")
	})
	if len(v.Errors) < 5 || at < 0 || v.Errors[at].File != "a/group.yaml" || v.Errors[at].Line != 2 || v.Errors[at].Column != 1 || v.Errors[at].Suggestion != "did you mean supersede?" {
		t.Errorf("errors = %+v", v.Errors)
	}
	text, hints, code := offline(t, "config", "validate", dir)
	if code != codeInvalid || !strings.Contains(text, "a/group.yaml:2:1: unknown key") || !strings.Contains(hints, "problems") {
		t.Errorf("exit %d\n%s%s", code, text, hints)
	}
	for _, args := range [][]string{{"config", "validate", dir, "-o", "xml"}, {"config", "validate", bad}, {"config", "validate", "a", "b"}} {
		if _, _, code := offline(t, args...); code != codeUsage {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	if _, _, code := offline(t, "config", "validate", filepath.Join(dir, "nothing")); code != codeError {
		t.Errorf("a missing folder: exit %d", code)
	}
}

func TestConfigSchemaPrintsEveryKind(t *testing.T) {
	for _, kind := range schemaKinds() {
		var schema map[string]any
		if err := json.Unmarshal([]byte(must(t, "config", "schema", kind)), &schema); err != nil || schema["properties"] == nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, hints, code := offline(t, "config", "schema", "pod"); code != codeUsage || !strings.Contains(hints, "group") {
		t.Errorf("exit %d, %s", code, hints)
	}
}

// TestValidateComparesEpochsWithTheLastCommit of the work tree that the folder is in.
func TestValidateComparesEpochsWithTheLastCommit(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	top := t.TempDir()
	dir := filepath.Join(top, "config")
	must(t, "init", dir)
	for _, name := range []string{"web-1", "web-2"} {
		text := must(t, "host", "init", "--data-dir", filepath.Join(t.TempDir(), name), "--name", name, "--address", "10.0.0."+name[4:]+":7946")
		if err := os.WriteFile(filepath.Join(dir, "hosts", name+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "coordinators", "web.yaml")
	must(t, "coordinators", "init", "web", "--voters", "web-1", dir)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	must(t, "coordinators", "init", "other", "--voters", "web-2", dir)
	second, err := os.ReadFile(filepath.Join(dir, "coordinators", "other.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(second)
	must(t, "config", "validate", dir) // no repository yet
	repository, err := sign.Init(filepath.Join(top, ".git"), "main")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "config", "validate", dir) // no commit yet
	commit, err := repository.Commit(sign.Change{Files: map[string][]byte{"config/coordinators/web.yaml": first}, Message: "begin"})
	if err != nil {
		t.Fatal(err)
	}
	out, _, code := offline(t, "config", "validate", dir)
	if code != codeInvalid || !strings.Contains(out, "coordinators/web.yaml:5:3: voters: in HEAD ("+commit[:12]+") epoch 1 has other voters") {
		t.Errorf("other voters: exit %d\n%s", code, out)
	}
	write(bytes.Replace(second, []byte("epoch: 1"), []byte("epoch: 3"), 1))
	out = must(t, "config", "validate", dir, "-o", "json")
	if !strings.Contains(out, `"ok": true`) || !strings.Contains(out, "it rises from 1 in HEAD") || !strings.Contains(out, "fewer than a majority") {
		t.Errorf("a rise by two:\n%s", out)
	}
	write(first)
	if out := must(t, "config", "validate", dir); strings.Contains(out, "HEAD") {
		t.Errorf("nothing changed:\n%s", out)
	}
	write(second)
	if _, err := repository.Commit(sign.Change{Files: map[string][]byte{"config/coordinators/web.yaml": second}, Message: "forget the epoch"}); err != nil {
		t.Fatal(err)
	}
	if out, _, code := offline(t, "config", "validate", dir); code != codeInvalid || !strings.Contains(out, "in HEAD^ ("+commit[:12]+") epoch 1 has other voters") {
		t.Errorf("other voters that are committed already: exit %d\n%s", code, out)
	}
	if err := os.RemoveAll(filepath.Join(top, ".git", "objects")); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "config", "validate", dir); !strings.Contains(out, "coordinators: warning: the epochs are not compared") {
		t.Errorf("a repository that cannot be read:\n%s", out)
	}
}
