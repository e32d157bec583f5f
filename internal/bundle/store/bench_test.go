package store

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// benchTree copies some 60 MB of real sources and binaries out of the Go tree.
func benchTree(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skipf("go is not installed: %v", err)
	}
	root, dir := string(out[:len(out)-1]), b.TempDir()
	for _, part := range []string{"src/net", "src/crypto", "src/go", "src/runtime", "bin"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(root, part))); err != nil {
			b.Skipf("the Go tree cannot be read: %v", err)
		}
	}
	return dir
}

func cpuSeconds() float64 {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Sec+r.Stime.Sec) + float64(r.Utime.Usec+r.Stime.Usec)/1e6
}

// BenchmarkPack reports the speed with all cores, and per second of CPU, which other load on the machine does not spoil.
func BenchmarkPack(b *testing.B) {
	dir := benchTree(b)
	var raw int64
	before := cpuSeconds()
	for b.Loop() {
		x, _, err := Pack(b.Context(), io.Discard, os.DirFS(dir), bundle.PackOptions{}, runtime.GOMAXPROCS(0))
		if err != nil {
			b.Fatal(err)
		}
		raw += x.RawSize()
	}
	b.ReportMetric(float64(raw)/1e6/b.Elapsed().Seconds(), "MB/s")
	b.ReportMetric(float64(raw)/1e6/(cpuSeconds()-before), "MB/cpu-s")
}
