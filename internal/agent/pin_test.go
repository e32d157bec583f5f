package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// countingWriter counts the bytes of an answer.
type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// TestAWrongPinIsNoHostsFault: a commit pins the digest of one bundle and the index of another. Every host says so, and what it fetched once it does not fetch again.
func TestAWrongPinIsNoHostsFault(t *testing.T) {
	packed := func(seed byte) ([]byte, *bundle.Index, bundle.Digest) {
		page := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(page)
		var out bytes.Buffer
		x, d, err := bundle.Pack(&out, fstest.MapFS{"appspec.yml": {Data: []byte(plainSpec), Mode: 0o644}, "page": {Data: page, Mode: 0o644}}, bundle.PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out.Bytes(), x, d
	}
	_, _, wrong := packed(1)
	data, x, _ := packed(2)
	var sent atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "index") {
			_, _ = w.Write(x.Encode())
			return
		}
		http.ServeContent(countingWriter{w, &sent}, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer server.Close()
	revision := "  revisionType: Https\n  httpsLocation: {url: \"" +
		server.URL + "/a.tar.zst\", bundleType: tar.zst}\n  digest: " + string(wrong) + "\n  index: " + string(x.Digest()) + "\n  size: " + fmt.Sprint(len(data)) + "\n"
	f, d, g := newWebsite(t, revision)
	d.config.HTTPS.Enabled = true
	d.bundles.world = f.current
	spec := specOf(f.current().Commit, g)
	deploy := &deployer{self: "web-1", world: f.current, releases: func() int { return 5 }, applier: d.applier, verifier: d.bundles.verifier, bundles: d.bundles, log: slog.New(slog.DiscardHandler), fence: func() FenceConfig { return FenceConfig{} }}
	for n := range 3 { // as rollout.Member does: fetch, then preflight, and after wrong bytes fetch again, beside mend
		kind, why := d.bundles.fetch(t.Context(), "01WEBSITE0", spec)
		if kind == "" {
			answer := deploy.preflight(t.Context(), "01WEBSITE0", spec)
			kind, why = answer.Refused, answer.Reason
		}
		if kind != rollout.RefusedByBytes {
			t.Errorf("the host is at fault for what the commit says (%q)", kind)
		}
		if !strings.Contains(why, x.Digest().Short()) || !strings.Contains(why, wrong.Short()) {
			t.Errorf("the sentence names not both: %s", why)
		}
		if !strings.Contains(why, "correct `digest:` in shop/group.yaml") {
			t.Errorf("it says not what to correct: %s", why)
		}
		if len(d.store.Suspects()) > 0 || d.bundles.mended(t.Context(), wrong) {
			t.Errorf("try %d: it counts as rotten (%v), or as mended", n, d.store.Suspects())
		}
		if got := sent.Load(); got > int64(len(data)) {
			t.Errorf("try %d: %d bytes left the origin for a bundle of %d", n, got, len(data))
		}
	}
}

// TestAWrongDigestIsSaidToBeTheCommits: an origin has another archive, of the same size, than the commit pins, and it stays so.
func TestAWrongDigestIsSaidToBeTheCommits(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 1000)
	var reads atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer server.Close()
	d, spec := newHTTPSDisk(t, server.URL)
	d.config.HTTPS.Enabled = true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); d.bundles.fetch(ctx, "01WEBSITE0", spec) }()
	found := bundle.DigestBytes(data)
	want := fmt.Sprintf("the digest of %s/a.zip is %s each time it is read: correct `digest:` in shop/group.yaml, which says %s, or put back the archive that it means", server.URL, found, spec.Digest)
	eventuallyTrue(t, want, func() bool { return d.bundles.swarm.Progress(bundle.Digest(spec.Digest)).State == want })
	if n := reads.Load(); n < 2 {
		t.Errorf("it was read %d times", n)
	}
	cancel()
	<-ended
}
