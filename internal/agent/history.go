package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/gitopsd/gitopsd/internal/configrepo"
)

// Bounds of the history protocol.
const (
	packBytesMax   = 256 << 20 // one peer's pack
	packsAtOnceMax = 4         // packs made at a time
	tipHeader      = "X-Gitopsd-Tip"
)

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// historyServer gives signed commits to whoever asks: they prove themselves. It is all that hosts with unknown keys may reach.
func historyServer(repo func() *configrepo.Repo, log *slog.Logger) http.Handler {
	slots := make(chan struct{}, packsAtOnceMax)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/pack", func(w http.ResponseWriter, r *http.Request) {
		have := r.URL.Query().Get("have")
		if have != "" && !commitPattern.MatchString(have) {
			http.Error(w, "have is not a commit id", http.StatusBadRequest)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			http.Error(w, "busy; try another host", http.StatusServiceUnavailable)
			return
		}
		tip, ok := repo().Accepted()
		if !ok {
			http.Error(w, "this host has no verified commit yet", http.StatusNotFound)
			return
		}
		pack, err := repo().Pack(have)
		if err != nil {
			log.Debug("a pack could not be made", "have", have, "error", err)
			http.Error(w, "cannot make a pack", http.StatusInternalServerError)
			return
		}
		w.Header().Set(tipHeader, tip.ID)
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(pack)
	})
	return mux
}

// pullHistory asks host for what it has beyond have.
func pullHistory(ctx context.Context, client *http.Client, host, have string) (pack []byte, tip string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v1/pack?have="+have, nil)
	if err != nil {
		return nil, "", fmt.Errorf("cannot ask %s for commits: %w", host, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("cannot ask %s for commits: %w", host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 256))
		return nil, "", fmt.Errorf("%s answered %s: %.200s", host, resp.Status, text)
	}
	tip = resp.Header.Get(tipHeader)
	if !commitPattern.MatchString(tip) {
		return nil, "", fmt.Errorf("%s named no tip", host)
	}
	pack, err = io.ReadAll(io.LimitReader(resp.Body, packBytesMax+1))
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the commits of %s: %w", host, err)
	}
	if len(pack) > packBytesMax {
		return nil, "", fmt.Errorf("%s sent more than %d bytes of commits", host, packBytesMax)
	}
	return pack, tip, nil
}
