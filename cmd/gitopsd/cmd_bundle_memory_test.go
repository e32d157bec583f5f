package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// packFolder makes the test binary `gitopsd bundle pack` of this folder.
const packFolder = "GITOPSD_TEST_PACK_FOLDER"

// TestPackInAProcess is what TestMemoryOfPackOnALargeMachine measures.
func TestPackInAProcess(t *testing.T) {
	dir := os.Getenv(packFolder)
	if dir == "" {
		t.Skip("for TestMemoryOfPackOnALargeMachine")
	}
	if out, code := bundleVerb(t, "pack", dir, "-o", filepath.Join(t.TempDir(), "a.tar.zst"), "--no-check"); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	fmt.Println("peak", residentPeak(t))
}

// TestMemoryOfPackOnALargeMachine: more processors take no more memory. 16 MiB of what is promised are left for the index of a bundle of 4 GiB.
func TestMemoryOfPackOnALargeMachine(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's own memory would be measured")
	}
	const most = 112 << 10 // KiB
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, "noise"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(file, rand.NewChaCha8([32]byte{1}), 128<<20)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPackInAProcess$")
	cmd.Env = append(os.Environ(), packFolder+"="+dir, "GOMAXPROCS=64")
	out, err := cmd.CombinedOutput()
	var peak int
	if at := bytes.LastIndex(out, []byte("peak ")); err == nil && at >= 0 {
		_, err = fmt.Sscanf(string(out[at:]), "peak %d", &peak)
	}
	if err != nil || peak == 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%d KiB", peak)
	if peak > most {
		t.Errorf("%d KiB are more than %d", peak, most)
	}
}
