package bundle

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// benchTree is a tree of real bytes: the Go tree's own commands and sources, if they are here.
func benchTree(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skipf("go is not installed: %v", err)
	}
	root := string(out[:len(out)-1])
	dir := b.TempDir()
	for _, part := range []string{"src/net", "src/crypto", "src/go", "src/runtime", "bin"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(root, part))); err != nil {
			b.Skipf("the Go tree cannot be read: %v", err)
		}
	}
	return dir
}

// BenchmarkPack reports the speed on one core, and the size against zstd -3 over the whole tar where that tool is installed.
func BenchmarkPack(b *testing.B) {
	dir := benchTree(b)
	var index *Index
	for b.Loop() {
		x, _, err := Pack(io.Discard, os.DirFS(dir), PackOptions{})
		if err != nil {
			b.Fatal(err)
		}
		index = x
	}
	b.ReportMetric(float64(index.RawSize())*float64(b.N)/1e6/b.Elapsed().Seconds(), "MB/s")
	b.ReportMetric(float64(index.RawSize())/float64(index.ArchiveSize()), "ratio")
	b.ReportMetric(float64(index.Len()), "frames")
	if whole, err := exec.Command("sh", "-c", "tar -C "+dir+" --sort=name --mtime=@0 --owner=0 --group=0 -cf - . | zstd -3 -c | wc -c").Output(); err == nil {
		var size float64
		for _, c := range whole {
			if c >= '0' && c <= '9' {
				size = size*10 + float64(c-'0')
			}
		}
		b.ReportMetric(float64(index.ArchiveSize())/size, "of_zstd3")
	}
}
