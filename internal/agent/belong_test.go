package agent

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/status"
)

func TestStrangerIsToldWhatToDo(t *testing.T) {
	key := func(seed byte) ed25519.PublicKey {
		return ed25519.NewKeyFromSeed(append(make([]byte, 31), seed)).Public().(ed25519.PublicKey)
	}
	w := &world{Commit: configrepo.Commit{ID: commitA}, State: &desired.State{Broken: desired.Broken{Hosts: []desired.HostName{"web-9"}}, Hosts: map[desired.HostName]desired.Host{
		"web-1": {Name: "web-1", Keys: []ed25519.PublicKey{key(1)}}, "web-2": {Name: "web-2", Keys: []ed25519.PublicKey{key(2), key(3)}}}}}
	for _, c := range []struct {
		host string
		key  byte
		want string // "" when all is well
	}{
		{"web-1", 1, ""},
		{"web-2", 3, ""},
		{"web-1", 3, "another key than in the inventory of commit aaaaaaaaaa, so no other talks to it: its key is that of web-2; did you mean `host: web-2`"},
		{"wbe-1", 1, "is not in the inventory of commit aaaaaaaaaa, so no other talks to it: its key is that of web-1; did you mean `host: web-1`"},
		{"web-1", 7, "commit `publicKey: " + desired.FormatPublicKey(key(7)) + "` in hosts/web-1.yaml, or restore /d/host.key"},
		{"web-3", 7, "correct `host:` in its gitopsd.yaml (known here: web-1, web-2)"},
		{"web-22", 7, "correct `host:` in its gitopsd.yaml (did you mean web-2?)"},
		{"database", 7, "(known here: web-1, web-2), or commit the hosts/database.yaml that `gitopsd host init --name database --data-dir /d` prints"},
		{"web-9", 7, "hosts/web-9.yaml cannot be used; mend it"},
	} {
		got := stranger(w, c.host, "/d", key(c.key))
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s with key %d: %q, want %q", c.host, c.key, got, c.want)
		}
	}
	if got := stranger(nil, "web-1", "/d", key(9)); got != "" {
		t.Errorf("before there is a world: %q", got)
	}
	empty := &world{Commit: configrepo.Commit{ID: commitA}, State: &desired.State{}}
	if got := stranger(empty, "web-1", "/d", key(1)); !strings.HasSuffix(got, "commit the hosts/web-1.yaml that `gitopsd host init --name web-1 --data-dir /d` prints") {
		t.Errorf("the first host: %q", got)
	}
}

// TestHostUnderAWrongNameHearsOfIt starts an agent whose file misspells its name.
func TestHostUnderAWrongNameHearsOfIt(t *testing.T) {
	f := newTestFleet(t, "web-1")
	h := f.hosts[0]
	h.config.Host = "wbe-1"
	h.config.Socket = filepath.Join(h.config.DataDir, "s")
	h.start()
	until(t, func() string {
		report, err := status.NewClient(h.config.Socket).Report(context.Background(), "")
		for _, n := range report.Notices {
			if n.Kind == "NotInInventory" && n.Host == "wbe-1" && strings.Contains(n.Message, "did you mean `host: web-1`") {
				return ""
			}
		}
		return fmt.Sprintf("a notice of kind NotInInventory: %+v %v", report.Notices, err)
	})
	if code, text := h.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "not ready: this host is not in the inventory of commit") {
		t.Errorf("/readyz answers %d %q", code, text)
	}
	h.end()
	if n := strings.Count(h.log.String(), "this host is not who the inventory says"); n != 1 || !strings.Contains(h.log.String(), "level=WARN") {
		t.Errorf("logged %d times", n)
	}
}
