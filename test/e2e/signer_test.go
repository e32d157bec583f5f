package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

// newSigner makes an ed25519 key at path, and path.pub, and returns the public line.
func newSigner(t testing.TB, path string) string {
	t.Helper()
	key, private, err := sign.GenerateKey("anna@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, private, 0o600); err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(key.PublicLine())
	if err := os.WriteFile(path+".pub", []byte(line+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return line
}
