package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// applyArgs makes the test binary `gitopsd apply` with these arguments, one a line.
const applyArgs = "GITOPSD_TEST_APPLY_ARGS"

// TestApplyInAProcess is what TestMemoryOfApply measures.
func TestApplyInAProcess(t *testing.T) {
	args := os.Getenv(applyArgs)
	if args == "" {
		t.Skip("for TestMemoryOfApply")
	}
	if out, err := runApply(t, strings.Split(args, "\n")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fmt.Println("peak", residentPeak(t))
}

// residentPeak is VmHWM in KiB: unlike ru_maxrss it does not begin with what the parent had.
func residentPeak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("no peak is told here: %v", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Skip("no peak is told here")
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// peakOf runs one test in a process of its own, and returns the peak in KiB that it prints.
func peakOf(t *testing.T, test string, env ...string) (peak int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if at := bytes.LastIndex(out, []byte("peak ")); err == nil && at >= 0 {
		_, err = fmt.Sscanf(string(out[at:]), "peak %d", &peak)
	}
	if err != nil || peak == 0 {
		t.Fatalf("%s: %v\n%s", test, err, out)
	}
	return peak
}

// TestMemoryOfApply is what a host has to spare for a deployment: neither 20,000
// files, nor the same ones changed, nor one large file take more than 64 MiB.
func TestMemoryOfApply(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's own memory would be measured")
	}
	const most = 64 << 10 // KiB
	dir := t.TempDir()
	bundles := []struct {
		name        string
		files, each int64
	}{{"small files", 20000, 500}, {"small files changed", 20000, 501}, {"a large file", 1, 256 << 20}}
	for i, b := range bundles {
		archive := filepath.Join(dir, fmt.Sprint(i, ".tar"))
		writeTar(t, archive, b.files, b.each)
		peak := peakOf(t, "TestApplyInAProcess", applyArgs+"="+strings.Join([]string{archive, "--state-dir", filepath.Join(dir, "state"), "--destination-root", filepath.Join(dir, "root")}, "\n"))
		t.Logf("%s: %d KiB", b.name, peak)
		if peak > most {
			t.Errorf("%s: %d KiB are more than %d", b.name, peak, most)
		}
		if err := os.Remove(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// writeTar writes a bundle of so many files of so many bytes in 200 directories.
func writeTar(t *testing.T, name string, files, each int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	add := func(name string, size int64, content io.Reader) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, content, size); err != nil {
			t.Fatal(err)
		}
	}
	spec := "version: 0.0\nos: linux\nfiles: [{source: a, destination: /srv/app}]\n"
	add("appspec.yml", int64(len(spec)), strings.NewReader(spec))
	for i := range files {
		add(fmt.Sprintf("a/d%d/f%d", i%200, i), each, zeros{})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
