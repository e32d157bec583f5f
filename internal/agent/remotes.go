package agent

import (
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// remoteFresh is how long another host's answer serves everyone who asks: those who follow the status would otherwise ask it several times a second.
const remoteFresh = time.Second

// remotes keeps the last answer for each set that this host does not follow.
type remotes struct {
	mu      sync.Mutex
	answers map[string]remoteAnswer
}

type remoteAnswer struct {
	report status.Report
	why    string // there is no report
	at     time.Time
}

func newRemotes() *remotes { return &remotes{answers: map[string]remoteAnswer{}} }

// get returns the answer for a set, asking again when the last one is no longer fresh.
func (r *remotes) get(set string, now time.Time, ask func() (status.Report, string)) (status.Report, string) {
	r.mu.Lock()
	known, ok := r.answers[set]
	r.mu.Unlock()
	if ok && now.Sub(known.at) < remoteFresh {
		return known.report, known.why
	}
	report, why := ask()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= setsMax {
		clear(r.answers)
	}
	r.answers[set] = remoteAnswer{report, why, now}
	return report, why
}

// setsMax bounds the sets whose answers are kept.
const setsMax = 1024
