package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/agent"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/desired"
)

func TestReleaseFolder(t *testing.T) {
	dir := t.TempDir()
	if err := (release{name: "7", broken: "no luck"}).write(dir); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(dir, "appspec.yml"))
	if err != nil {
		t.Fatal(err)
	}
	spec, warnings, err := appspec.Parse(src, appspec.Options{FileName: "appspec.yml"})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("appspec.yml: %v, %v", err, warnings)
	}
	for event, scripts := range spec.Hooks {
		for _, s := range scripts {
			if info, err := os.Stat(filepath.Join(dir, s.Location)); err != nil || info.Mode().Perm()&0o111 == 0 {
				t.Errorf("%s: %s cannot be run: %v", event, s.Location, err)
			}
		}
	}
	for name, want := range map[string]string{"release": "7\n", "health": "no luck\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, "content", name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
}

func TestReleasesAreLargeAndTheSameEachTime(t *testing.T) {
	read := func(name string) string {
		dir := t.TempDir()
		if err := (release{name: name}).write(dir); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for i := range photos {
			data, err := os.ReadFile(filepath.Join(dir, "content", "photos", string(rune('1'+i))+".jpg"))
			if err != nil {
				t.Fatal(err)
			}
			all.Write(data)
		}
		return all.String()
	}
	one := read("1")
	if len(one) < 16<<20 {
		t.Errorf("%d bytes of photos, want 16 MiB at least", len(one))
	}
	if one != read("1") || one == read("2") {
		t.Error("photos depend on the release's name and on nothing else")
	}
}

func TestConfigRepositoryValidates(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 25} {
		held, err := reservePorts(2 * n)
		if err != nil {
			t.Fatal(err)
		}
		held.release()
		p, err := newPlace(t.TempDir(), n)
		if err != nil {
			t.Fatal(err)
		}
		f := newFleet(p, n, held)
		files, err := f.inventory("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0EiIb9r1yCwS6yMmFRSjaEkoHr2R9kSNAi93uwTAfe")
		if err != nil {
			t.Fatal(err)
		}
		r := packed{release: release{name: "1"}, key: "website/1.tar.zst", digest: "sha256:" + strings.Repeat("a", 64), index: "sha256:" + strings.Repeat("b", 64), size: 5}
		for _, policy := range []policy{everywhere(), careful(n)} {
			files[groupFolder+"/group.yaml"] = groupText(r, policy)
			tree := fstest.MapFS{}
			for name, text := range files {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			state, problems := desired.Load(tree)
			if len(problems) > 0 {
				t.Fatalf("%d hosts: %v", n, problems)
			}
			if len(state.Groups) != 1 || len(state.Groups[0].Members) != n {
				t.Errorf("%d hosts: groups %v", n, state.Groups)
			}
		}
		for _, host := range f.hosts {
			text := f.hostConfig(host, strings.Repeat("0", 40), &objectStore{url: "http://127.0.0.1:1", credentials: p.credentials()})
			config, problems := agent.ParseConfig("gitopsd.yaml", []byte(text), nil)
			if len(problems) > 0 || config.Host != host || !config.Repository.AllowLocalPath || config.Timing != "fast" {
				t.Errorf("%s: %v %v", host, config, problems)
			}
		}
		if err := p.remove(true); err != nil {
			t.Error(err)
		}
	}
}

func TestPolicyKeepsHalf(t *testing.T) {
	for hosts, window := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 9: 4, 25: 12} {
		if got := careful(hosts).window; got != window {
			t.Errorf("%d hosts: %d at a time, want %d", hosts, got, window)
		}
	}
}
