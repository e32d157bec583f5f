package apply

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// smallTree has 20,000 files of half a KiB in 200 directories.
func smallTree(w *workbench) string {
	files := map[string]string{"appspec.yml": plainSpec}
	for i := range 20000 {
		files[fmt.Sprintf("a/d%d/f%d", i%200, i)] = fmt.Sprintf("%500d", i)
	}
	return w.bundle(files)
}

// largeTree has 1 GiB in 64 files.
func largeTree(w *workbench) string {
	dir := w.bundle(map[string]string{"appspec.yml": plainSpec, "a/f": "x"})
	block := make([]byte, 16<<20)
	for i := range block {
		block[i] = byte(i * i >> 8)
	}
	for i := range 64 {
		if err := os.WriteFile(filepath.Join(dir, "a", fmt.Sprintf("f%d", i)), block, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// BenchmarkInstall compares Install with `cp -a` of the same tree, median of
// five interleaved runs.
func BenchmarkInstall(b *testing.B) {
	for name, tree := range map[string]func(*workbench) string{"small": smallTree, "1GiB": largeTree} {
		b.Run(name, func(b *testing.B) {
			w := newBench(b)
			dir := tree(w)
			interleaved(b, "install", "cp", func(i int) time.Duration { return installOnce(b, w, dir, i) }, func(int) time.Duration {
				to := filepath.Join(w.dir, "cp")
				defer os.RemoveAll(to)
				touch(b, w)
				return command(b, "cp", "-a", filepath.Join(dir, "a"), to)
			})
		})
	}
}

// BenchmarkUnpack compares unpacking an archive of the small and of the large
// tree with `tar -x` of it, median of five interleaved runs. Ours compares the
// archive with its digest on the way, as agents do; tar does not.
func BenchmarkUnpack(b *testing.B) {
	for name, tree := range map[string]func(*workbench) string{"small": smallTree, "1GiB": largeTree} {
		for kind, flags := range map[bundle.Type]string{bundle.TypeTar: "-cf", bundle.TypeTgz: "-czf"} {
			b.Run(name+"/"+string(kind), func(b *testing.B) {
				w := newBench(b)
				dir, archive := tree(w), filepath.Join(w.dir, "archive")
				command(b, "tar", flags, archive, "-C", dir, ".")
				to, digest := filepath.Join(w.dir, "unpacked"), digestOf(b, archive)
				interleaved(b, "unpack", "tar", func(int) time.Duration {
					defer os.RemoveAll(to)
					touch(b, w)
					start := time.Now()
					if err := store.UnpackArchive(context.Background(), archive, kind, to, store.UnpackOptions{Digest: digest}); err != nil {
						b.Fatal(err)
					}
					return time.Since(start)
				}, func(int) time.Duration {
					if err := os.Mkdir(to, 0o755); err != nil {
						b.Fatal(err)
					}
					defer os.RemoveAll(to)
					touch(b, w)
					return command(b, "tar", "-xf", archive, "-C", to)
				})
			})
		}
	}
}

// installOnce deploys dir into a place of its own and says how long Install took.
func installOnce(b *testing.B, w *workbench, dir string, i int) (took time.Duration) {
	d := w.deployment(fmt.Sprintf("d-%d", i), dir)
	d.GroupID = fmt.Sprintf("g%d", i)
	d.ApplicationName = d.GroupID
	o := w.options()
	o.DestinationRoot = filepath.Join(w.dir, fmt.Sprintf("root-%d", i))
	o.StateDir = filepath.Join(w.dir, fmt.Sprintf("state-%d", i))
	d.Begin = func(context.Context) error {
		touch(b, w)
		return nil
	}
	a, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	res := w.apply(a, d)
	if res.Outcome != OutcomeSucceeded {
		b.Fatal(res.Error)
	}
	for _, e := range res.Events {
		if e.Event == appspec.Install {
			took = e.End.Sub(e.Start)
		}
	}
	for _, done := range []string{o.DestinationRoot, o.StateDir} {
		if err := os.RemoveAll(done); err != nil {
			b.Fatal(err)
		}
	}
	return took
}

// touch takes as much memory as the large tree and gives it back: a virtual
// machine may have to ask for pages that nobody used for a while, which takes
// longer than to fill them, and not the same is to be paid for by one side alone.
func touch(b *testing.B, w *workbench) {
	block := make([]byte, 16<<20)
	name := filepath.Join(w.dir, "touched")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	for range 66 {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(f.Close(), os.Remove(name)); err != nil {
		b.Fatal(err)
	}
}

func digestOf(b *testing.B, name string) bundle.Digest {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		b.Fatal(err)
	}
	return bundle.DigestOf([sha256.Size]byte(h.Sum(nil)))
}

func command(b *testing.B, name string, args ...string) time.Duration {
	start := time.Now()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v %s", name, err, out)
	}
	return time.Since(start)
}

// interleaved measures two things in turn and reports both medians and their
// ratio.
func interleaved(b *testing.B, ours, theirs string, our, their func(i int) time.Duration) {
	var a, c []time.Duration
	for i := range max(5, b.N) {
		a = append(a, our(i))
		c = append(c, their(i))
	}
	slices.Sort(a)
	slices.Sort(c)
	x, y := a[len(a)/2].Seconds(), c[len(c)/2].Seconds()
	b.ReportMetric(x, ours+"-s")
	b.ReportMetric(y, theirs+"-s")
	b.ReportMetric(x/y, "ratio")
}
