// Command mutants plants one fault after the other, by `go test -overlay` and without touching a file, and runs the tests that must notice it. A fault that no test
// notices, or whose place is no longer found, ends the run with 1.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mutantTimeout bounds one mutant: a fault that makes tests hang is noticed too.
const mutantTimeout = 5 * time.Minute

func main() {
	dir, err := os.MkdirTemp("", "gitopsd-mutants-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	missed := 0
	for _, m := range mutants {
		noticed, err := try(dir, m)
		switch {
		case err != nil:
			missed++
			fmt.Printf("BROKEN   %s: %v\n", m.name, err)
		case noticed:
			fmt.Printf("noticed  %s\n", m.name)
		default:
			missed++
			fmt.Printf("MISSED   %s: %s passes with it\n", m.name, m.pkg)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	fmt.Printf("%d passed, %d failed\n", len(mutants)-missed, missed)
	if missed > 0 {
		os.Exit(1)
	}
}

// try plants one fault and says whether a test noticed it.
func try(dir string, m mutant) (bool, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return false, err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return false, fmt.Errorf("%s has %d places that read %q, one is needed", m.file, n, m.old)
	}
	planted := filepath.Join(dir, "planted.go")
	if err := os.WriteFile(planted, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		return false, err
	}
	original, err := filepath.Abs(m.file)
	if err != nil {
		return false, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: planted}})
	if err != nil {
		return false, err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return false, err
	}
	if out, err := exec.Command("go", "build", "-overlay", overlayFile, m.pkg).CombinedOutput(); err != nil {
		return false, fmt.Errorf("it does not compile: %s", out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), mutantTimeout)
	defer cancel()
	return exec.CommandContext(ctx, "go", "test", "-count=1", "-failfast", "-overlay", overlayFile, m.pkg).Run() != nil, nil
}
