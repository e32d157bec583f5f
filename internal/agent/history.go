package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// Bounds of the history protocol.
const (
	packsAtOnceMax = 4               // packs made and sent at a time
	packTimeout    = 2 * time.Minute // sending one
	packWindow     = 10 * time.Minute
	fullPacksMax   = 3           // whole histories for one host in a window
	fullPacksNew   = 30          // and for the hosts at one address whose keys are not known yet
	fullPackPause  = time.Minute // after which there is one more: there may be no other host to ask
	packsMax       = 600         // packs for one host in a window
	packBudget     = 1 << 30     // bytes for one host in a window
	askersMax      = 4096        // hosts whose use is remembered
	tipHeader      = "X-Gitopsd-Tip"
)

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// historyServer gives signed commits to whoever asks: they prove themselves. It is all that hosts with unknown keys may reach.
func historyServer(repo func() *configrepo.Repo, log *slog.Logger) http.Handler {
	slots := make(chan struct{}, packsAtOnceMax)
	use := &packUse{askers: map[string]*packAsker{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/pack", func(w http.ResponseWriter, r *http.Request) {
		have := r.URL.Query().Get("have")
		if have != "" && !commitPattern.MatchString(have) {
			http.Error(w, "have is not a commit id", http.StatusBadRequest)
			return
		}
		tip, ok := repo().Accepted()
		if !ok {
			http.Error(w, "this host has no verified commit yet", http.StatusNotFound)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			http.Error(w, "busy; try another host", http.StatusServiceUnavailable)
			return
		}
		// Last, as only packs that are made count: a host may have to ask often before there is one.
		asker := askerOf(r)
		if wait := use.allow(asker, have == "", time.Now()); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			http.Error(w, "too many packs; try another host, or this one later", http.StatusTooManyRequests)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(packTimeout))
		w.Header().Set(tipHeader, tip.ID)
		w.Header().Set("Content-Type", "application/octet-stream")
		n, err := repo().Pack(have, w)
		use.spend(asker, n)
		if err != nil {
			log.Debug("a pack could not be made or sent", "have", have, "bytes", n, "error", err)
			if n > 0 {
				panic(http.ErrAbortHandler) // cut off, so that nobody takes it for a whole pack
			}
			w.Header().Del(tipHeader)
			http.Error(w, "cannot make a pack", http.StatusInternalServerError)
		}
	})
	return mux
}

// askerOf names who asks: a host of the inventory, or an address, as an unknown key proves nothing.
func askerOf(r *http.Request) string {
	if peer, ok := transport.PeerFromContext(r.Context()); ok && peer.Known {
		return "host " + peer.Host
	}
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	return "address " + address
}

// packUse counts what each asker took in the current window.
type packUse struct {
	mu     sync.Mutex
	begun  time.Time
	askers map[string]*packAsker
}

type packAsker struct {
	full, all int
	lastFull  time.Time
	bytes     int64
}

// allow takes a request down and gives 0, or says how long it is until one may be answered.
func (u *packUse) allow(asker string, full bool, now time.Time) (wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.begun) >= packWindow {
		u.begun = now
		clear(u.askers)
	}
	rest := u.begun.Add(packWindow).Sub(now)
	a := u.askers[asker]
	if a == nil {
		if len(u.askers) >= askersMax {
			return rest
		}
		a = &packAsker{}
		u.askers[asker] = a
	}
	most := fullPacksMax
	if strings.HasPrefix(asker, "address ") {
		most = fullPacksNew
	}
	if a.all >= packsMax || a.bytes >= packBudget {
		return rest
	}
	if wait := a.lastFull.Add(fullPackPause).Sub(now); full && a.full >= most && wait > 0 {
		return min(wait, rest)
	}
	a.all++
	if full {
		a.full++
		a.lastFull = now
	}
	return 0
}

// spend takes the bytes of an answer down.
func (u *packUse) spend(asker string, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.askers[asker]; a != nil {
		a.bytes += n
	}
}

// pullHistory asks host for what it has beyond have. The pack is nil when that is nothing; else the caller reads and closes it.
func pullHistory(ctx context.Context, client *http.Client, host, have string) (pack io.ReadCloser, tip string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v1/pack?have="+have, nil)
	if err != nil {
		return nil, "", fmt.Errorf("cannot ask %s for commits: %w", host, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("cannot ask %s for commits: %w", host, err)
	}
	body := &peerPack{Reader: bufio.NewReader(resp.Body), Closer: resp.Body}
	defer func() {
		if pack == nil {
			body.Close()
		}
	}()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 256))
		return nil, "", fmt.Errorf("%s answered %s: %.200s", host, resp.Status, text)
	}
	tip = resp.Header.Get(tipHeader)
	if !commitPattern.MatchString(tip) {
		return nil, "", fmt.Errorf("%s named no tip", host)
	}
	switch _, err := body.Peek(1); {
	case err == io.EOF:
		return nil, tip, nil
	case err != nil:
		return nil, "", fmt.Errorf("cannot read the commits of %s: %w", host, err)
	}
	return body, tip, nil
}

// peerPack is a peer's pack while it arrives; how much of it is taken, the repository's limits say.
type peerPack struct {
	*bufio.Reader
	io.Closer
}
