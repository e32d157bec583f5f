package sign_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

const verb = "sshsign-for-tests"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == verb {
		os.Exit(sign.Keygen(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// place is a work tree whose signing program is chosen by the test.
type place struct {
	t       *testing.T
	dir     string
	key     string
	allowed string
	program string
}

func newPlace(t *testing.T, program string) *place {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed, so its calls cannot be tested:", err)
	}
	p := &place{t: t, dir: t.TempDir(), program: program}
	if program == "" {
		p.program = filepath.Join(p.dir, "shim")
		text := fmt.Sprintf("#!/bin/sh\nexec '%s' %s \"$@\"\n", os.Args[0], verb)
		if err := os.WriteFile(p.program, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k, private, err := sign.GenerateKey("anna")
	if err != nil {
		t.Fatal(err)
	}
	p.key, p.allowed = filepath.Join(p.dir, "id"), filepath.Join(p.dir, "allowed")
	for name, data := range map[string]string{p.key: string(private), p.key + ".pub": k.PublicLine() + "\n", p.allowed: k.AllowedLine("anna@example.com")} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.git("init", "-q", "-b", "main", p.dir+"/w")
	return p
}

func (p *place) try(args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=*", "-c", "gpg.format=ssh", "-c", "gpg.ssh.program=" + p.program,
		"-c", "user.signingkey=" + p.key, "-c", "gpg.ssh.allowedSignersFile=" + p.allowed, "-c", "user.name=A", "-c", "user.email=a@example.com"}, args...)...)
	if args[0] != "init" {
		cmd.Dir = p.dir + "/w"
	}
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *place) git(args ...string) string {
	p.t.Helper()
	out, err := p.try(args...)
	if err != nil {
		p.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

func TestGitSignsAndVerifiesThroughUs(t *testing.T) {
	p := newPlace(t, "")
	p.git("commit", "-q", "-S", "--allow-empty", "-m", "signed")
	out := p.git("verify-commit", "-v", "HEAD")
	if !strings.Contains(out, `Good "git" signature for anna@example.com with ED25519 key SHA256:`) {
		t.Fatal(out)
	}
	if got := p.git("log", "-1", "--format=%G? %GS %GK"); !strings.HasPrefix(got, "G anna@example.com SHA256:") {
		t.Fatal(got)
	}
	// git writes user.signingkey's .pub as well as the private key's name.
	p.key += ".pub"
	p.git("commit", "-q", "-S", "--allow-empty", "-m", "by the public key's name")
	p.git("verify-commit", "HEAD")
	// An unknown key is reported, not trusted.
	if err := os.WriteFile(p.allowed, []byte("bo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFPPXrpA5hfeV0xZ3dEBRIxdMm9wZbPJ0LQQ8MyELXQn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := p.try("verify-commit", "HEAD"); err == nil || !strings.Contains(strings.ToLower(out), "no principal matched") {
		t.Fatal(out, err)
	}
	if got := p.git("log", "-1", "--format=%G?"); !strings.Contains(got, "U") {
		t.Fatal(got)
	}
	p.git("tag", "-s", "-m", "v1", "v1")
}

func TestAgreesWithOpenSSH(t *testing.T) {
	theirs, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("ssh-keygen is not installed, so it cannot be compared with:", err)
	}
	for name, programs := range map[string][2]string{"ours then theirs": {"", theirs}, "theirs then ours": {theirs, ""}} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, programs[0])
			p.git("commit", "-q", "-S", "--allow-empty", "-m", "signed")
			p.program = newPlace(t, programs[1]).program
			if out := p.git("verify-commit", "-v", "HEAD"); !strings.Contains(out, "for anna@example.com with ED25519 key") {
				t.Fatal(out)
			}
			hash := p.git("rev-parse", "HEAD")
			raw := p.git("cat-file", "commit", hash)
			tampered := strings.Replace(raw, "signed", "tampered", 1)
			file := filepath.Join(p.dir, "tampered")
			if err := os.WriteFile(file, []byte(tampered+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			id := p.git("hash-object", "-t", "commit", "-w", file)
			if out, err := p.try("verify-commit", id); err == nil {
				t.Fatal("a tampered commit verifies: ", out)
			}
		})
	}
}

func TestOpenSSHVerifiesInProcessCommits(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed:", err)
	}
	p := newPlace(t, "ssh-keygen")
	key, err := sign.LoadKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := sign.Open(p.dir+"/w", "main")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := r.Commit(sign.Change{Signer: key, Message: fmt.Sprintf("number %d\n\nbody", i),
			Files: map[string][]byte{"a/b/c.sh": []byte(fmt.Sprint(i)), "a.b": []byte("x"), "a/x": nil},
			Modes: map[string]fs.FileMode{"a/b/c.sh": 0o755}}); err != nil {
			t.Fatal(err)
		}
	}
	p.git("verify-commit", "HEAD", "HEAD~1", "HEAD~2")
	p.git("fsck", "--strict")
	if got := p.git("ls-tree", "-r", "HEAD"); !strings.Contains(got, "100755 blob") || !strings.Contains(got, "a/b/c.sh") {
		t.Fatal(got)
	}
	if data, err := r.ReadFile("a/b/c.sh"); err != nil || string(data) != "2" {
		t.Fatal(string(data), err)
	}
	// Empty folders vanish, as git would have it.
	if _, err := r.Commit(sign.Change{Signer: key, Message: "remove", Files: map[string][]byte{"a/b/c.sh": nil}}); err != nil {
		t.Fatal(err)
	}
	if got := p.git("ls-tree", "-r", "-t", "--name-only", "HEAD"); got != "a.b" {
		t.Fatal(got)
	}
	if _, err := r.Commit(sign.Change{Signer: key, Message: "x", Files: map[string][]byte{"../x": {}}}); err == nil {
		t.Fatal("a path out of the repository")
	}
}

func TestKeygenRefusesByName(t *testing.T) {
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked")
	if err := os.WriteFile(locked, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"agent":                {"-Y", "sign", "-n", "git", "-U", "-f", "k", "x"},
		"unknown option -t":    {"-t", "ed25519"},
		"needs a value":        {"-Y"},
		"not supported: sign":  {"-Y", "match-principals"},
		"needs -f KEY":         {"-Y", "sign", "-n", "git"},
		"cannot read the sign": {"-Y", "sign", "-n", "git", "-f", locked},
		"needs -I":             {"-Y", "verify", "-n", "git", "-f", locked},
		"-s SIGNATURE":         {"-Y", "check-novalidate", "-n", "git"},
		"not a time":           {"-Y", "verify", "-Overify-time=yesterday"},
	} {
		var out, errs bytes.Buffer
		if code := sign.Keygen(args, strings.NewReader(""), &out, &errs); code == 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: %d %q, want %q", args, code, errs.String(), want)
		}
	}
}

func TestRevokedAndExpiredKeys(t *testing.T) {
	p := newPlace(t, "")
	p.git("commit", "-q", "-S", "--allow-empty", "-m", "signed")
	if out, err := p.try("-c", "gpg.ssh.revocationFile="+p.key+".pub", "verify-commit", "HEAD"); err == nil {
		t.Fatal("a revoked key verifies: ", out)
	}
	line, _ := os.ReadFile(p.allowed)
	old := strings.Replace(string(line), "namespaces=", `valid-before="20200101",namespaces=`, 1)
	if err := os.WriteFile(p.allowed, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := p.try("verify-commit", "HEAD"); err == nil {
		t.Fatal("an expired key verifies: ", out)
	}
}
