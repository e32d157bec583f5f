package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/gossip"
	"github.com/gitopsd/gitopsd/test/liar"
)

// startLiar runs a liar in the place of a host's agent, and counts the wrong pieces it sends.
func startLiar(t *testing.T, f *fleet, h *host, index *bundle.Index) *atomic.Int64 {
	t.Helper()
	all := map[string]liar.Host{}
	for _, other := range f.hosts {
		all[other.name] = liar.Host{DataDir: filepath.Join(other.dir, "data"), Address: other.address}
	}
	lies := new(atomic.Int64)
	l, err := liar.New(liar.Options{Name: h.name, Fleet: all, Index: index, Timing: gossip.Fast(), Lied: func(string) { lies.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Errorf("the liar ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		loop.Wait()
	})
	return lies
}

func TestPeerThatServesCorruptBytesIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3, late: []int{4}})
	revision := f.publish(release{name: "one", size: dealtBytes})
	lies := startLiar(t, f, f.hosts[4], f.storedIndex("one"))
	eventually(t, "gossip knows the liar on every honest host", func() string {
		for _, h := range f.hosts[:4] {
			if !strings.Contains(h.agentLog(), "web-5") {
				return h.name + " has not heard of it"
			}
		}
		return ""
	})
	targets := func(id, name, hosts string) string {
		return fmt.Sprintf("id: %s\napplicationName: %s\ndeploymentGroupName: %s\ncoordinators: web\ntargets: {hosts: [%s]}\n%s%s", id, name, name, hosts, revision, allAtOnce)
	}
	f.s3.payload.Store(0)
	f.git.write(website+"/group.yaml", targets("01WEBSITE0", "website", "web-1, web-2, web-3, web-4"))
	f.git.write("shop/test/decoy/group.yaml", targets("01DECOY000", "decoy", "web-5"))
	f.git.commit("release one")
	f.awaitRelease("one", f.hosts[:4]...)
	if lies.Load() == 0 {
		t.Fatal("nobody asked the liar, so this test shows nothing")
	}
	named := 0
	for _, h := range f.hosts[:4] {
		if strings.Contains(h.agentLog(), "peer=web-5") {
			named++
			contains(t, "status on "+h.name, f.command("status", "--addr", h.socket), "CorruptPeer web-5", "sha256")
		}
	}
	if named == 0 {
		t.Error("nobody names the liar")
	}
	t.Logf("%d wrong pieces were sent; %d of 4 hosts name the liar; %d bytes left S3", lies.Load(), named, f.s3.payload.Load())
	f.assertOneCopyLeft("one")
	f.assertOnce()
}
