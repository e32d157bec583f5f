package apply

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// BenchmarkInstall installs 20,000 small files and compares Install with `cp -a`
// of the same tree, median of five interleaved runs.
func BenchmarkInstall(b *testing.B) {
	w := newBench(b)
	files := map[string]string{"appspec.yml": plainSpec}
	for i := range 20000 {
		files[fmt.Sprintf("a/d%d/f%d", i%200, i)] = fmt.Sprintf("%500d", i)
	}
	dir := w.bundle(files)
	var ours, theirs []time.Duration
	for i := range max(5, b.N) {
		d := w.deployment(fmt.Sprintf("d-%d", i), dir)
		d.GroupID = fmt.Sprintf("g%d", i)
		d.ApplicationName = d.GroupID
		o := w.options()
		o.DestinationRoot = filepath.Join(w.dir, fmt.Sprintf("root-%d", i))
		o.StateDir = filepath.Join(w.dir, fmt.Sprintf("state-%d", i))
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
				ours = append(ours, e.End.Sub(e.Start))
			}
		}
		to := filepath.Join(w.dir, "cp")
		start := time.Now()
		if out, err := exec.Command("cp", "-a", filepath.Join(dir, "a"), to).CombinedOutput(); err != nil {
			b.Fatalf("%v %s", err, out)
		}
		theirs = append(theirs, time.Since(start))
		for _, done := range []string{to, o.DestinationRoot, o.StateDir} {
			if err := os.RemoveAll(done); err != nil {
				b.Fatal(err)
			}
		}
	}
	median := func(all []time.Duration) float64 {
		sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
		return all[len(all)/2].Seconds()
	}
	b.ReportMetric(median(ours), "install-s")
	b.ReportMetric(median(theirs), "cp-s")
	b.ReportMetric(median(ours)/median(theirs), "ratio")
}
