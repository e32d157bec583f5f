package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/status"
)

func TestABundleIsNamedByItsFirstDigits(t *testing.T) {
	a, b, c := bundle.Digest("sha256:aaaa"+strings.Repeat("1", 60)), bundle.Digest("sha256:aaaa"+strings.Repeat("2", 60)), bundle.Digest("sha256:cccc"+strings.Repeat("3", 60))
	groups := map[bundle.Digest]map[string][]string{a: {"shop/web": nil, "shop/api": nil}, b: {"blog": nil}}
	for name, want := range map[string]bundle.Digest{string(a): a, a.Hex(): a, "aaaa1": a, "AAAA2": b, "sha256:cccc": c, "cccc3333": c} {
		if got, err := whichBundle(name, groups, []bundle.Digest{c, a}); got != want || err != nil {
			t.Errorf("%s: %s %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"":     "known are aaaa11111111 (shop/api, shop/web), aaaa22222222 (blog), cccc33333333",
		"ccc":  `cannot find bundle "ccc": at least 4 of its first digits are wanted; known are`,
		"aaa":  `cannot find bundle "aaa": at least 4 of its first digits are wanted; known are`,
		"dddd": "known are",
		"aaaa": "its digits begin those of aaaa11111111 (shop/api, shop/web), aaaa22222222 (blog)",
		"*":    "known are",
	} {
		_, err := whichBundle(name, groups, []bundle.Digest{c})
		if unknown := (*status.UnknownBundleError)(nil); !errors.As(err, &unknown) || !strings.HasSuffix(err.Error(), want) && !strings.Contains(err.Error(), want+" aaaa1") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := whichBundle("aaaa", nil, nil); err == nil || !strings.Contains(err.Error(), "none is on this host") {
		t.Errorf("nothing is known: %v", err)
	}
	var many []bundle.Digest
	for i := range 2 * bundlesListed {
		many = append(many, bundle.DigestBytes(fmt.Append(nil, i)))
	}
	if _, err := whichBundle("zzzz", nil, many); err == nil || !strings.HasSuffix(err.Error(), ", 20 more") || len(err.Error()) > 1000 {
		t.Errorf("many are known: %v", err)
	}
}

// whereTheBundleIs asks one host for the bundle of the group, which all have.
func (f *testFleet) whereTheBundleIs(sites map[string]string) {
	f.t.Helper()
	client, ctx := status.NewClient(f.hosts[0].config.Socket), context.Background()
	report, err := client.Report(ctx, "website")
	if err != nil {
		f.t.Fatal(err)
	}
	digest := report.Groups[0].Desired.Digest
	d, err := client.Bundle(ctx, bundle.Digest(digest).Short())
	if err != nil {
		f.t.Fatal(err)
	}
	if d.Digest != digest || strings.Join(d.Groups, ",") != "shop/web" || d.Host != f.hosts[0].name || len(d.Hosts) != len(f.hosts) {
		f.t.Fatalf("%+v", d)
	}
	for i, h := range d.Hosts {
		if h.Name != f.hosts[i].name || h.Site != sites[h.Name] || h.Error != "" || h.Percent != 100 || h.HavePieces != h.Pieces || h.Pieces == 0 || h.State != "complete" || len(h.Banned) != 0 {
			f.t.Errorf("%+v", h)
		}
		if reported := report.Groups[0].Hosts[i]; h.FromOrigin != reported.BytesFromOrigin || h.FromPeers != reported.BytesFromPeers {
			f.t.Errorf("%s: %d and %d bytes, the status has %d and %d", h.Name, h.FromOrigin, h.FromPeers, reported.BytesFromOrigin, reported.BytesFromPeers)
		}
	}
	_, err = client.Bundle(ctx, "0000")
	if unknown := (*status.UnknownBundleError)(nil); !errors.As(err, &unknown) || !strings.Contains(err.Error(), bundle.Digest(digest).Short()+" (shop/web)") {
		f.t.Errorf("an unknown bundle: %v", err)
	}
}

// TestHowFastABundleComesIsSeenFromEveryHost lets a bundle come slowly to one host, and another be dead.
func TestHowFastABundleComesIsSeenFromEveryHost(t *testing.T) {
	f := newTestFleet(t, "web-1", "web-2", "web-3")
	defer f.end()
	slow := f.hosts[1]
	slow.config.Limits.Download = 32 << 10 // a bundle of 4 MiB takes 96 s: the first MiB is free
	for _, h := range f.hosts[:2] {
		h.start()
	}
	f.deploy(f.heavyRelease("one", "", 4<<20), "deploymentConfigName: CodeDeployDefault.AllAtOnce\n")
	for _, h := range f.hosts[:2] {
		client := status.NewClient(h.config.Socket)
		until(t, func() string {
			report, err := client.Report(context.Background(), "website")
			if err != nil {
				return err.Error()
			}
			for _, one := range report.Groups[0].Hosts {
				if one.Name == slow.name && one.BytesPerSecond > 0 && one.ETASeconds > 0 {
					return ""
				}
			}
			return "the rate of " + slow.name + " in the status of " + h.name
		})
		until(t, func() string {
			text := h.metrics(t)
			for _, series := range []string{"gitopsd_bundle_bytes_per_second{", "gitopsd_bundle_eta_seconds{"} {
				if !strings.Contains(text, series+`group="shop/web",host="`+slow.name+`"`) {
					return series + " in the metrics of " + h.name
				}
			}
			return ""
		})
	}
	d := status.Distribution{}
	until(t, func() string {
		report, err := status.NewClient(f.hosts[0].config.Socket).Report(context.Background(), "website")
		if err != nil {
			return err.Error()
		}
		if d, err = status.NewClient(f.hosts[0].config.Socket).Bundle(context.Background(), report.Groups[0].Desired.Digest); err != nil {
			return err.Error()
		}
		if h := d.Hosts[1]; h.HaveBytes == 0 || h.HaveBytes >= h.Bytes || h.BytesPerSecond == 0 || h.ETASeconds == 0 || h.HavePieces == 0 || h.Peers == 0 {
			return fmt.Sprintf("how far %s is: %+v", slow.name, h)
		}
		return ""
	})
	if h := d.Hosts[2]; h.Name != "web-3" || !strings.Contains(h.Error, "taken for dead") {
		t.Errorf("a host that never started: %+v", h)
	}
}

// metrics scrapes a host.
func (h *testHost) metrics(t *testing.T) string {
	t.Helper()
	_, text := h.get(t, "/metrics")
	return text
}

// get asks a host's socket for a path.
func (h *testHost) get(t *testing.T, path string) (code int, text string) {
	t.Helper()
	var d net.Dialer
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", h.config.Socket)
	}}
	resp, err := (&http.Client{Transport: transport}).Get("http://agent" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestWhatOthersSayOfTheirBundlesIsBounded(t *testing.T) {
	var long []coming
	for range 3 * comingMax {
		long = append(long, coming{Digest: "aaaaaaaaaaaa", Rate: 1 << 40, ETA: 3600 * 1000})
	}
	if text := tellComing(long[:comingMax]); len(text) > 1000 {
		t.Errorf("%d bytes do not fit a fact", len(text))
	}
	if tellComing(nil) != nil {
		t.Error("nothing is told")
	}
	heard := heardComing(map[string][]byte{"web-1": tellComing(long), "web-2": tellComing(long), "web-3": []byte("{"), "web-4": []byte(`{"v":2}`)}, "web-1")
	if len(heard) != 1 || len(heard["web-2"]) != comingMax {
		t.Errorf("%v", heard)
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	r := &reader{coming: func() map[string][]coming {
		return map[string][]coming{"web-1": {{"aaaaaaaaaaaa", 5, -1}}, "web-2": {{"bbbbbbbbbbbb", 5, 1}}, "web-3": {{"aaaaaaaaaaaa", -5, 1}}, "web-4": {{"bbbbbbbbbbbb", 1, 1}, {"aaaaaaaaaaaa", 7, 2}}}
	}}
	g := []status.Group{{Desired: status.Revision{Digest: digest}, Hosts: []status.Host{{Name: "web-1"}, {Name: "web-2"}, {Name: "web-3"}, {Name: "web-4"}, {Name: "web-5"}}}}
	r.addRates(g)
	var got []string
	for _, h := range g[0].Hosts {
		got = append(got, fmt.Sprint(h.BytesPerSecond, h.ETASeconds))
	}
	if want := "5 0,0 0,0 0,7 2,0 0"; strings.Join(got, ",") != want {
		t.Errorf("%v, want %s", got, want)
	}
}
