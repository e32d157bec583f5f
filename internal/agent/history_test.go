package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
)

func TestHistoryTravels(t *testing.T) {
	o := newOrigin(t)
	giver, taker := newSource(t, o, t.TempDir()), newSource(t, o, t.TempDir())
	server := httptest.NewServer(historyServer(giver.repo, slog.New(slog.DiscardHandler)))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", at.Host)
	}}}
	defer client.CloseIdleConnections()
	taker.cfg.Repository.URLs = nil
	taker.pull = func(ctx context.Context, host, have string) (io.ReadCloser, string, error) {
		return pullHistory(ctx, client, host, have)
	}
	if err := taker.pullFrom(context.Background(), "web-2"); err == nil || !strings.Contains(err.Error(), "no verified commit yet") {
		t.Errorf("an empty host gave something: %v", err)
	}
	giver.syncs(t)
	taker.syncs(t)
	tip := o.commit("fleet.yaml", "name: next\n")
	giver.syncs(t)
	taker.syncs(t)
	if w := taker.current(); w == nil || w.Commit.ID != tip {
		t.Fatalf("world %+v", w)
	}
	for query, want := range map[string]int{"?have=xyz": 400, "?have=" + tip: 200, "?have=" + strings.Repeat("1", 40): 200} {
		resp, err := client.Get("http://web-2/v1/pack" + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", query, resp.Status)
		}
	}
}

func TestPullRefusesWhatIsNoHistory(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"named no tip":   func(w http.ResponseWriter, _ *http.Request) {},
		"web-2 answered": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "go away", http.StatusTeapot) },
	} {
		server := httptest.NewServer(h)
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		}}}
		if _, _, err := pullHistory(context.Background(), client, "web-2", ""); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		client.CloseIdleConnections()
		server.Close()
	}
}

// A peer's pack is not gathered in memory: it can be read while it still comes.
func TestPullHandsOutAPackThatStillComes(t *testing.T) {
	more := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(tipHeader, strings.Repeat("1", 40))
		_, _ = io.WriteString(w, "PACK")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, " and more")
	}))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}}
	defer client.CloseIdleConnections()
	pack, _, err := pullHistory(context.Background(), client, "web-2", "")
	close(more)
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	if all, err := io.ReadAll(pack); string(all) != "PACK and more" || err != nil {
		t.Fatalf("%q, %v", all, err)
	}
}

// A pack that cannot be finished breaks off, so that it is not taken for a whole one.
func TestAPackThatBreaksOffIsNoWholePack(t *testing.T) {
	noise := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	o := newOrigin(t, "film.bin", string(noise))
	dir := t.TempDir()
	giver := newSource(t, o, dir)
	giver.syncs(t)
	packs, err := filepath.Glob(filepath.Join(dir, "git", "mirror", "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	data, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1 // in the middle of the film
	if err := errors.Join(os.Chmod(packs[0], 0o600), os.WriteFile(packs[0], data, 0o600)); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(historyServer(giver.repo, slog.New(slog.DiscardHandler)))
	defer server.Close()
	resp, err := http.Get(server.URL + "/v1/pack")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Fatalf("%d bytes of a broken pack came as a whole: %s", len(got), resp.Status)
	}
}

func TestPacksAreBoundedForEachHost(t *testing.T) {
	now := time.Now()
	use := &packUse{askers: map[string]*packAsker{}}
	for i := range fullPacksMax + 1 {
		if got := use.allow("host web-1", true, now) == 0; got != (i < fullPacksMax) {
			t.Errorf("whole history %d: %v", i, got)
		}
	}
	if use.allow("host web-2", true, now) != 0 || use.allow("host web-1", false, now) != 0 {
		t.Error("one host's use counts for another, or whole histories for what is new")
	}
	for i := range fullPacksNew + 1 {
		if got := use.allow("address 10.0.0.1", true, now) == 0; got != (i < fullPacksNew) {
			t.Errorf("whole history %d for an address: %v", i, got)
		}
	}
	use.spend("host web-2", packBudget)
	if use.allow("host web-2", false, now) != packWindow {
		t.Error("the budget of bytes does not hold")
	}
	for i := range packsMax + 1 {
		if got := use.allow("host web-3", false, now) == 0; got != (i < packsMax) {
			t.Fatalf("pack %d: %v", i, got)
		}
	}
	for i := range 2 * askersMax {
		use.allow(fmt.Sprint("host ", i), false, now)
	}
	if len(use.askers) > askersMax {
		t.Errorf("%d askers are remembered", len(use.askers))
	}
	if use.allow("host web-1", true, now.Add(packWindow)) != 0 {
		t.Error("a new window changes nothing")
	}
}

// A host whose starts failed comes again: the one peer it has serves it within a minute.
func TestAWholeHistoryMoreEachMinute(t *testing.T) {
	now := time.Now()
	use := &packUse{askers: map[string]*packAsker{}}
	for range fullPacksMax {
		use.allow("host web-1", true, now)
	}
	served := 0
	for at := time.Second; at < packWindow; at += time.Second {
		wait := use.allow("host web-1", true, now.Add(at))
		if wait == 0 {
			served++
		}
		if wait > fullPackPause || wait > packWindow-at {
			t.Fatalf("%s to wait after %s", wait, at)
		}
	}
	if want := int(packWindow/fullPackPause) - 1; served != want {
		t.Errorf("%d whole histories served, want %d", served, want)
	}
}

// Asking a host that has nothing yet costs nothing of what it gives once it has.
func TestOnlyPacksThatAreMadeCount(t *testing.T) {
	o := newOrigin(t)
	giver := newSource(t, o, t.TempDir())
	h := historyServer(giver.repo, slog.New(slog.DiscardHandler))
	for i := range fullPacksNew + 2 {
		if i == fullPacksNew+1 {
			giver.syncs(t)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/pack", nil))
		if want := map[bool]int{false: 404, true: 200}[i > fullPacksNew]; w.Code != want {
			t.Fatalf("request %d: %d %s", i, w.Code, w.Body)
		}
	}
}

func TestWholeHistoryIsRefusedAfterAWhile(t *testing.T) {
	o := newOrigin(t)
	repo, err := configrepo.New(configrepo.Options{Dir: filepath.Join(t.TempDir(), "git"), URLs: []string{o.dir}, Introduction: o.intro, AllowedSigners: o.allowed, AllowLocalPath: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	h := historyServer(func() *configrepo.Repo { return repo }, slog.New(slog.DiscardHandler))
	for i := range fullPacksNew + 1 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/pack", nil))
		if want := map[bool]int{true: 200, false: 429}[i < fullPacksNew]; w.Code != want {
			t.Fatalf("request %d: %d %s", i, w.Code, w.Body)
		}
	}
}
