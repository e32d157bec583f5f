package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestKeyFileSurvivesARoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.key")
	key, err := GenerateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	loaded, err := LoadKey(path)
	if err != nil || !loaded.Equal(key) {
		t.Errorf("loaded another key: %v", err)
	}
	public, err := ParsePublicKey(PublicKeyLine(key) + " anna@example.com")
	if err != nil || !public.Equal(key.Public()) {
		t.Errorf("parsed another key: %v", err)
	}
	if _, err := GenerateKey(path); err == nil {
		t.Error("an existing key was replaced")
	}
	if again, err := LoadKey(path); err != nil || !again.Equal(key) {
		t.Errorf("the existing key was harmed: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestSSHKeygenReadsOurKey(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	path := filepath.Join(t.TempDir(), "host.key")
	key, err := GenerateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keygen, "-y", "-f", path).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), PublicKeyLine(key)) {
		t.Errorf("ssh-keygen -y: %v\n%s", err, out)
	}
	theirs := filepath.Join(t.TempDir(), "theirs")
	if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", theirs).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	loaded, err := LoadKey(theirs)
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(theirs + ".pub")
	if err != nil || !strings.HasPrefix(string(line), PublicKeyLine(loaded)) {
		t.Errorf("%q, %v", line, err)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	encode := func(block *pem.Block, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(block)
	}
	good := encode(ssh.MarshalPrivateKey(newKey(t), ""))
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "absent"):                                    "no such file",
		write("open", good, 0o640):                                      "chmod 600",
		write("empty", nil, 0o600):                                      "not an OpenSSH private key",
		write("huge", bytes.Repeat(good, 100), 0o600):                   "larger than",
		write("cut", good[:len(good)/2], 0o600):                         "not an OpenSSH private key",
		write("ecdsa", encode(ssh.MarshalPrivateKey(curve, "")), 0o600): "want an ed25519 key",
		write("locked", encode(ssh.MarshalPrivateKeyWithPassphrase(newKey(t), "", []byte("x"))), 0o600): "passphrase",
	} {
		if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", filepath.Base(path), err, want)
		}
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	good := PublicKeyLine(newKey(t))
	for line, want := range map[string]string{
		"":                               "want \"ssh-ed25519",
		"ssh-ed25519":                    "want \"ssh-ed25519",
		"ssh-ed25519 !!!!":               "want \"ssh-ed25519",
		good + "\n" + good:               "one key",
		`command="x" ` + good:            "one key",
		good + strings.Repeat(" ", 5000): "longer than",
	} {
		if _, err := ParsePublicKey(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", line, err, want)
		}
	}
}

func TestInstancesDiffer(t *testing.T) {
	a, b := NewInstance(), NewInstance()
	if a == b || !validInstance(a) {
		t.Errorf("%q, %q", a, b)
	}
}
