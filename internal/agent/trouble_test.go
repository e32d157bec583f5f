package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// newHTTPSDisk is a host whose only group has its bundle at url.
func newHTTPSDisk(t *testing.T, url string) (*disk, rollout.Spec) {
	t.Helper()
	revision := "  revisionType: Https\n  httpsLocation: {url: \"" +
		url + "/a.zip\", bundleType: zip}\n  digest: " + string(digestOf("a")) + "\n  size: 1000\n"
	f, d, g := newWebsite(t, revision)
	return d, specOf(f.current().Commit, g)
}

// TestTheTroubleWithAnOriginIsKnownWhileTheFetchGoesOn: it takes seconds to give up.
func TestTheTroubleWithAnOriginIsKnownWhileTheFetchGoesOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	d, spec := newHTTPSDisk(t, server.URL)
	d.config.HTTPS.Enabled = true
	ended := make(chan struct{})
	go func() { defer close(ended); d.bundles.fetch(ctx, "01WEBSITE0", spec) }()
	why := ""
	eventuallyTrue(t, "the trouble", func() bool { why = d.bundles.trouble(bundle.Digest(spec.Digest)); return why != "" })
	if !strings.HasPrefix(why, "cannot fetch bundle ") || !strings.Contains(why, "503") {
		t.Errorf("%q", why)
	}
	cancel()
	<-ended
	if why := d.bundles.trouble(bundle.Digest(spec.Digest)); why != "" {
		t.Errorf("a fetch that is over is in trouble: %q", why)
	}
}

// TestWhatCannotBeReadIsNamedOnce: the origin's own sentence names it, with and without a pinned index.
func TestWhatCannotBeReadIsNamedOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	for what, pinned := range map[string]string{"cannot read ": "", "cannot read index of ": "  index: " + string(digestOf("d")) + "\n"} {
		bundleType := map[bool]string{true: "zip", false: "tar.zst"}[pinned == ""]
		revision := "  revisionType: Https\n  httpsLocation: {url: \"" + server.URL + "/a." + bundleType + "\", bundleType: " + bundleType + "}\n  digest: " + string(digestOf("a")) + "\n" + pinned + "  size: 1000\n"
		f, d, g := newWebsite(t, revision)
		d.config.HTTPS.Enabled = true
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); d.bundles.fetch(ctx, "01WEBSITE0", specOf(f.current().Commit, g)) }()
		why := ""
		eventuallyTrue(t, "what the fetch waits for", func() bool {
			why = d.bundles.swarm.Progress(g.Revision.Digest).State
			return strings.Contains(why, "503")
		})
		cancel()
		<-ended
		if !strings.HasPrefix(why, what+server.URL) || strings.Count(why, "cannot ") != 1 || strings.Count(why, server.URL) != 1 {
			t.Errorf("%q", why)
		}
	}
}

// TestTheQueryOfAURLIsNeverShown: it may be what lets its holder read, as in a URL that was signed beforehand.
func TestTheQueryOfAURLIsNeverShown(t *testing.T) {
	const secret = "SIGNEDSIGNED"
	r := desired.Revision{Type: "Https", Https: &desired.HttpsLocation{URL: "https://files.example.com/web.zip?token=" + secret}}
	shown := map[string]string{"where": placeOf(r), "fence": fmt.Sprint(FenceConfig{Origins: []string{"s3://*"}}.allows(desired.Group{Revision: r}))}
	d := newDisk(t)
	newDiskSwarm(t, d)
	r.Digest, r.Size, r.BundleType = digestOf("a"), 1000, bundle.TypeZip
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.bundles.bring(ctx, desired.Group{Revision: r}) }()
	eventuallyTrue(t, "that there is no route", func() bool {
		shown["status"] = d.bundles.swarm.Progress(r.Digest).State
		return strings.Contains(shown["status"], "no route")
	})
	cancel()
	<-ended
	for name, text := range shown {
		if strings.Contains(text, secret) || !strings.Contains(text, "https://files.example.com/web.zip") {
			t.Errorf("%s: %s", name, text)
		}
	}
	r = desired.Revision{Type: "Forge", Forge: &desired.ForgeLocation{Forge: "Gitea", URL: "https://git.example.com/o/n?token=" + secret}}
	if text := placeOf(r); text != "https://git.example.com/o/n" {
		t.Error(text)
	}
	if err := (FenceConfig{Origins: []string{"https://files.example.com/*"}}).allows(desired.Group{Revision: desired.Revision{Https: &desired.HttpsLocation{URL: "https://files.example.com/web.zip?a/b"}}}); err == nil {
		t.Error("a fence is held against less than the whole URL")
	}
}

func TestATroubleIsOfTheLastAnswerAndNotOfAnIndexThatNeedNotBe(t *testing.T) {
	from := &answers{}
	var seen trouble
	w := watch(from, &seen)
	says := func(want string) {
		t.Helper()
		if why := seen.says(digestOf("a")); want == "" && why != "" || !strings.HasSuffix(why, want) {
			t.Errorf("%q, want %q", why, want)
		}
	}
	from.err = errors.New("out of order")
	w.ReadRange(t.Context(), 0, 1)
	says("out of order")
	from.err = fmt.Errorf("index: %w", fs.ErrNotExist)
	w.ReadIndex(t.Context())
	says("out of order")
	w.Size(t.Context())
	says("file does not exist")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	from.err = context.Canceled
	w.Size(gone)
	says("file does not exist")
	from.err = nil
	w.ReadIndex(t.Context())
	says("")
	if watch(nil, &seen) != nil {
		t.Error("without an origin there is something to follow")
	}
}

// answers is an origin whose every answer is err.
type answers struct{ err error }

func (a *answers) Size(context.Context) (int64, error) { return 0, a.err }
func (a *answers) ReadRange(context.Context, int64, int64) (io.ReadCloser, error) {
	return nil, a.err
}
func (a *answers) ReadIndex(context.Context) ([]byte, error) { return nil, a.err }

// TestAFetchUnderWayHearsOfOriginsThatAreSwitchedOn is about a host that went on without a route, and told so, until its fetch had given up.
func TestAFetchUnderWayHearsOfOriginsThatAreSwitchedOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	d, spec := newHTTPSDisk(t, server.URL)
	before, after := new(Config), new(Config)
	after.HTTPS.Enabled = true
	var now atomic.Pointer[Config]
	now.Store(before)
	begun := make(chan struct{})
	d.bundles.config = now.Load
	d.bundles.members = func(desired.Group, bool) []string {
		select {
		case begun <- struct{}{}:
		case <-ctx.Done():
		default:
		}
		return []string{"web-1"}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.bundles.fetch(ctx, "01WEBSITE0", spec)
	}()
	<-begun
	d.bundles.reopen(before, before) // changes nothing
	now.Store(after)
	d.bundles.reopen(before, after)
	select {
	case <-asked:
	case <-done:
		t.Error("the fetch gave up without asking the origin that was switched on")
	}
	cancel()
	<-done
}
