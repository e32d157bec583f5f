package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/status"
)

// dealtBytes is a bundle large enough that its pieces are dealt among hosts.
const dealtBytes = 16<<20 + 4096

func TestOneCopyLeavesS3ForFiveHosts(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3})
	revision := f.publish(release{name: "one", size: dealtBytes})
	f.s3.payload.Store(0)
	f.commitRevision(revision, allAtOnce, "release one")
	f.awaitRelease("one")
	f.awaitSettled()
	f.assertOneCopyLeft("one")
	f.assertOnce()
}

// storedIndex reads the index of a release from the S3 server's disk.
func (f *fleet) storedIndex(name string) *bundle.Index {
	f.t.Helper()
	encoded, err := os.ReadFile(filepath.Join(f.dir, "s3", s3Bucket, "website", name+".tar.zst"+bundle.IndexSuffix))
	if err != nil {
		f.t.Fatal(err)
	}
	index, err := bundle.DecodeIndex(encoded)
	if err != nil {
		f.t.Fatal(err)
	}
	return index
}

// assertOneCopyLeft compares what left S3 since payload was set to zero with the pieces of a release. The archive's tail repeats the index, which every host has
// already, so that it stays where it is.
func (f *fleet) assertOneCopyLeft(name string) {
	f.t.Helper()
	if left, size := f.s3.payload.Load(), f.storedIndex(name).PayloadSize(); left != size {
		f.t.Errorf("%d bytes left S3, the pieces of release %s have %d", left, name, size)
	}
}

func TestHostWithoutAnyRouteDeploys(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 1, noGit: []int{2}, noS3: []int{2}})
	revision := f.publish(release{name: "one", size: 2 << 20})
	f.s3.payload.Store(0)
	f.commitRevision(revision, allAtOnce, "release one")
	f.awaitRelease("one")
	f.deploy(release{name: "two"}, oneAtATime)
	f.awaitRelease("two")
	f.git.run(f.git.work, "revert", "--no-edit", "-S", "HEAD")
	reverted := f.git.push()
	f.awaitRelease("one")
	if code := f.hosts[2].wait(reverted); code != 0 {
		t.Errorf("wait on the host without routes exits %d, want 0", code)
	}
	for _, h := range f.awaitSettled().Hosts {
		if h.Name == f.hosts[2].name && h.BytesFromOrigin != 0 {
			t.Errorf("the host without a route to S3 reports %d bytes from there", h.BytesFromOrigin)
		}
	}
	f.assertOnce()
}

func TestS3DownAtCommitTimeComesBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	revision := f.publish(release{name: "two", size: 1 << 20})
	f.s3.down.Store(true)
	commit := f.commitRevision(revision, allAtOnce, "release two")
	f.hosts[1].awaitGroup("that the bundle cannot be had", func(g status.Group) string {
		if g.State != "Queued" && g.State != "Created" || !strings.Contains(g.Why, "ServiceUnavailable") {
			return "no word of it"
		}
		return ""
	})
	contains(t, "why", f.command("why", website, "--addr", f.hosts[1].socket), "cannot get the bundle", "s3://releases/website/two.tar.zst", "ServiceUnavailable")
	if f.s3.refused.Load() == 0 {
		t.Error("nobody asked S3 while it was down")
	}
	if n := f.count("", "", "two"); n != 0 {
		t.Errorf("%d hooks ran without the bundle", n)
	}
	f.awaitRelease("one")
	f.s3.down.Store(false)
	f.awaitRelease("two")
	if code := f.hosts[0].wait(commit); code != 0 {
		t.Errorf("wait exits %d, want 0", code)
	}
	f.assertOnce()
}
