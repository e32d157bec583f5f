package origin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestNoRedirectLeavesHTTPS although plain http may be asked for, as agents may: who asks for https does not want the bytes, nor what he asks for, seen.
func TestNoRedirectLeavesHTTPS(t *testing.T) {
	var asked atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte("archive"))
	}))
	t.Cleanup(plain.Close)
	var to string
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }))
	t.Cleanup(secure.Close)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, secure.URL, http.StatusFound) }))
	t.Cleanup(up.Close)
	commit := strings.Repeat("a", 40)
	for name, l := range map[string]Location{
		"https":             {Kind: Https, URL: secure.URL + "/web.zip"},
		"http, https, http": {Kind: Https, URL: up.URL + "/web.zip"},
		"a forge":           {Kind: Forge, URL: secure.URL + "/owner/name", Forge: ForgeGitea, Commit: commit},
	} {
		to = plain.URL + "/web.zip"
		from, err := Open(l, Options{AllowHTTP: true, Client: secure.Client()})
		if err != nil {
			t.Fatal(err)
		}
		body, err := from.ReadRange(t.Context(), 0, 7)
		if err == nil {
			_ = body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "it redirects to a URL that is not https") || asked.Load() != 0 {
			t.Errorf("%s: %v, and http was asked %d times", name, err, asked.Load())
		}
	}
	from, err := Open(Location{Kind: Https, URL: plain.URL + "/web.zip"}, Options{AllowHTTP: true, Client: secure.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if size, err := from.Size(t.Context()); err != nil || size != 7 {
		t.Errorf("plain http where it is meant: %d, %v", size, err)
	}
}
