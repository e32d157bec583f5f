// Package e2e runs built binaries as whole hosts on loopback: git over HTTP, a real S3 server, and agents that are killed, cut off and lied to. What is true is
// taken from outside the agents: hooks append to a file, ports are polled, and bytes are counted at the S3 server.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is gitopsd as built for this run; TestMain sets it before any test.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run builds the binary once.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gitopsd-e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: cannot make a folder for the binary:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	binary = filepath.Join(dir, "gitopsd")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/gitopsd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: cannot build gitopsd: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// versitygw finds the S3 server that scripts/tools builds.
func versitygw(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("GITOPSD_TEST_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	path, err := filepath.Abs(filepath.Join(cache, "versitygw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the S3 server for tests is missing: run `make tools` (%v)", err)
	}
	return path
}
