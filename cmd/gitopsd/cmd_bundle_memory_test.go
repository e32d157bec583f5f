package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
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
	peak := peakOf(t, "TestPackInAProcess", packFolder+"="+dir, "GOMAXPROCS=64")
	t.Logf("%d KiB", peak)
	if peak > most {
		t.Errorf("%d KiB are more than %d", peak, most)
	}
}
