package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// newDiskSwarm gives a disk a swarm of one host.
func newDiskSwarm(t *testing.T, d *disk) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if d.bundles.swarm, err = swarm.New(swarm.Options{Host: "web-1", Store: d.store, Listener: l, Client: &http.Client{}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	d.bundles.members = func(desired.Group, bool) []string { return []string{"web-1"} }
	d.bundles.dealer = func(string) string { return "web-1" }
}

// An origin that the fence forbids is not asked for a single byte, and the answer says whose refusal it is.
func TestAForbiddenOriginIsNeverAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		cancel()
		http.Error(w, "none", http.StatusNotFound)
	}))
	defer server.Close()
	revision := "  revisionType: Https\n  httpsLocation: {url: \"" +
		server.URL + "/a.zip\", bundleType: zip}\n  digest: " + string(digestOf("a")) + "\n  size: 1000\n"
	f, d, g := newWebsite(t, revision)
	d.config.HTTPS.Enabled = true
	spec := specOf(f.current().Commit, g)
	for _, fence := range []FenceConfig{{Origins: []string{"s3://releases/*"}}, {Groups: []string{"blog"}}} {
		d.config.Fence = fence
		kind, why := d.bundles.fetch(ctx, "01WEBSITE0", spec)
		if kind != rollout.RefusedByHost || !strings.Contains(why, "this host's fence.") {
			t.Errorf("%+v: refused by %q: %s", fence, kind, why)
		}
		if err := d.bundles.bring(ctx, g); err == nil {
			t.Errorf("%+v: a rotten bundle would be mended from there", fence)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the origin was asked %d times", n)
	}
	if _, ok := d.store.Partial(bundle.Digest(spec.Digest)); ok {
		t.Error("room was taken on the disk")
	}
	d.config.Fence = FenceConfig{Origins: []string{server.URL + "/*"}, Groups: []string{"shop"}}
	if kind, why := d.bundles.fetch(ctx, "01WEBSITE0", spec); kind != rollout.RefusedByBytes || asked.Load() == 0 {
		t.Errorf("an origin that is allowed: refused by %q: %s", kind, why)
	}
}
