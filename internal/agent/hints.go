package agent

import "sync"

// hintsMax bounds the hosts whose hints wait; polls make up for those that do not fit.
const hintsMax = 256

// hint says that host claims to have a commit this host should look at.
type hint struct{ host, tip string }

// hints keeps the newest hint of each host until it is looked at.
type hints struct {
	news wake

	mu   sync.Mutex
	tips map[string]string
}

func newHints() *hints { return &hints{news: newWake(), tips: map[string]string{}} }

// put takes a hint; it never blocks.
func (h *hints) put(host, tip string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.tips[host]; !ok && len(h.tips) >= hintsMax {
		return
	}
	h.tips[host] = tip
	h.news.Wake()
}

// take gives any hint; when more wait, news fires again.
func (h *hints) take() (hint, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for host, tip := range h.tips {
		delete(h.tips, host)
		if len(h.tips) > 0 {
			h.news.Wake()
		}
		return hint{host, tip}, true
	}
	return hint{}, false
}
