package desired

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
	"golang.org/x/sys/unix"
)

// Work grows with the mistakes, not with their square.
func TestMistakesCostLinearly(t *testing.T) {
	named := func(n int) targetsFile {
		var f targetsFile
		for i := range n {
			f.hosts = append(f.hosts, fmt.Sprintf("host-%05d", i))
		}
		return f
	}
	hosts := func(n int) map[HostName]Host {
		m := map[HostName]Host{}
		for i := range n {
			name := HostName(fmt.Sprintf("other-%05d", i))
			m[name] = Host{Name: name, Keys: testHost("x", i+1, nil).Keys}
		}
		return m
	}
	groups := func(n, links int) func(t *testing.T) func() {
		return func(t *testing.T) func() {
			dir := t.TempDir()
			for i := range n {
				folder := filepath.Join(dir, "p", fmt.Sprint(i))
				if err := os.MkdirAll(folder, 0o700); err != nil {
					t.Fatal(err)
				}
				var unknown strings.Builder
				for j := range 30 {
					fmt.Fprintf(&unknown, "unknown%d: 1\n", j)
				}
				if err := os.WriteFile(filepath.Join(folder, groupYAML), []byte(minimal+unknown.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				for j := range links {
					if err := os.Symlink("elsewhere", filepath.Join(folder, fmt.Sprint("link", j))); err != nil {
						t.Fatal(err)
					}
				}
			}
			return func() {
				if _, problems := Load(os.DirFS(dir)); len(problems) < n {
					t.Fatalf("%d problems", len(problems))
				}
			}
		}
	}
	for name, c := range map[string]struct {
		most int
		work func(n int) func(t *testing.T) func()
	}{
		"hosts of a group whose files are broken": {10_000, func(n int) func(*testing.T) func() {
			return func(*testing.T) func() {
				f, doc, broken := named(n), &strict.Doc{}, map[HostName]bool{}
				for _, name := range f.hosts {
					broken[HostName(name)] = true
				}
				return func() { f.build(doc, &loader{state: &State{}, broken: broken}) }
			}
		}},
		"unknown hosts beside as many others": {1_600, func(n int) func(*testing.T) func() {
			return func(*testing.T) func() {
				f, doc, state := named(n), &strict.Doc{}, &State{Hosts: hosts(n)}
				return func() { f.build(doc, &loader{state: state}) }
			}
		}},
		"broken hosts that were there before": {8_000, func(n int) func(*testing.T) func() {
			return func(*testing.T) func() {
				old, next := &State{Hosts: hosts(n)}, &State{Hosts: map[HostName]Host{}}
				for _, name := range hostNames(old.Hosts) {
					next.Broken.Hosts = append(next.Broken.Hosts, HostName(name))
				}
				return func() { Keep(old, next); Removed(old, next) }
			}
		}},
		"groups with many mistakes": {240, func(n int) func(*testing.T) func() { return groups(n, 0) }},
		"links in groups":           {112, func(n int) func(*testing.T) func() { return groups(n, 8) }},
	} {
		t.Run(name, func(t *testing.T) {
			const times = 16 // the square would take so many times longer
			var parts []func()
			for range times { // of other data each, so that neither side has more of them in the processor's caches
				parts = append(parts, c.work(c.most/times)(t))
			}
			apart := cost(t, func() {
				for _, work := range parts {
					work()
				}
			})
			whole := cost(t, c.work(c.most)(t))
			t.Logf("%d: %s in %d parts, %s together", c.most, apart, times, whole)
			if whole > 4*apart {
				t.Errorf("%s for %d became %s for %d together", apart, c.most, whole, times)
			}
		})
	}
}

// cost is the least processor time of this thread over three runs, or fewer of what takes seconds.
func cost(t *testing.T, work func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best, all := time.Duration(1<<62), time.Duration(0)
	for n := 0; n < 3 && all < time.Second; n++ {
		runtime.GC()
		before := threadTime(t)
		work()
		took := threadTime(t) - before
		best, all = min(best, took), all+took
	}
	return best
}

func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// However many mistakes there are, what is shown and held is bounded, and that
// there are more is an error even if all that is shown are warnings.
func TestProblemsAreBounded(t *testing.T) {
	files := fleet(t)
	for i := range maxProblems + 10 {
		files[fmt.Sprintf("hosts/a%05d.yml", i)] = ""
	}
	files["p/g/group.yaml"] = "nothing: 1\n"
	_, problems := Load(tree(files))
	last := problems[len(problems)-1]
	if len(problems) != maxProblems+1 || !strings.Contains(last.Message, "more problems") || last.Warning {
		t.Fatalf("%d problems, the last %s", len(problems), last)
	}
}
