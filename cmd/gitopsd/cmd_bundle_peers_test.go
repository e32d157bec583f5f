package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// distributed knows one bundle and answers nothing else.
type distributed struct{ status.Source }

func (distributed) Bundle(_ context.Context, digest string) (status.Distribution, error) {
	if digest != "abcd" {
		return status.Distribution{}, &status.UnknownBundleError{Message: "cannot find bundle: known are abcdef012345 (shop/web)"}
	}
	return status.Distribution{APIVersion: status.APIVersion, Host: "web-1", Digest: "sha256:abcd", Groups: []string{"shop/web"}, Hosts: []status.BundleHost{
		{Name: "web-1", Site: "dc1", State: "fetching", Pieces: 4, HavePieces: 1, Bytes: 400, HaveBytes: 100, Percent: 25, BytesPerSecond: 50, ETASeconds: 6, Banned: []status.BannedPeer{{Host: "web-2", Why: "it lied"}}},
	}}, nil
}

func TestBundlePeers(t *testing.T) {
	answering(t, status.Handler(status.Options{Source: distributed{}}))
	text, code := typed(t, "bundle", "peers", "abcd")
	for _, want := range []string{"sha256:abcd  shop/web", "web-1", "dc1", "25%", "1/4", "50 B/s", "6s", "! web-1 asks web-2 no more: it lied"} {
		if code != 0 || !strings.Contains(text, want) {
			t.Errorf("exit %d, no %q in\n%s", code, want, text)
		}
	}
	text, code = typed(t, "bundle", "peers", "abcd", "-o", "json")
	var d status.Distribution
	if err := json.Unmarshal([]byte(text), &d); code != 0 || err != nil || len(d.Hosts) != 1 || d.Hosts[0].ETASeconds != 6 || !strings.Contains(text, `"bytesFromOtherSites": 0`) {
		t.Errorf("exit %d, %v, %s", code, err, text)
	}
	if text, code := typed(t, "bundle", "peers", "ef01"); code != codeError || !strings.Contains(text, "known are abcdef012345 (shop/web)") {
		t.Errorf("an unknown bundle: exit %d, %s", code, text)
	}
	if _, code := typed(t, "bundle", "peers"); code != codeUsage {
		t.Errorf("without a digest: exit %d", code)
	}
}
