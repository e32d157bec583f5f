package agent

import (
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
)

// reasonRewound is why a tip is refused that is older than what git offered before: the branch was pushed back. A mirror that lags is merely Behind.
const reasonRewound configrepo.Reason = "Rewound"

// rewoundAfter is how long git may offer an older commit than was accepted, perhaps from a peer, before that is no lag of mirrors any more.
const rewoundAfter = time.Minute

// rewinds is what tells a branch that went back from mirrors that lag. One goroutine owns it.
type rewinds struct {
	offered string    // the last tip of git's that was not refused
	behind  string    // the older one that it offers now
	since   time.Time // and since when
}

// judge looks at what git offered, and words the refusal of a branch that went back. accepted is where this host stays; older tells whether the first commit is an
// ancestor of the second.
func (w *rewinds) judge(o configrepo.Outcome, now time.Time, older func(commit, than string) bool) *configrepo.Refusal {
	r := o.Refused
	if r == nil {
		w.offered, w.behind = o.Tip, ""
		return nil
	}
	if r.Reason != configrepo.ReasonBehind || !older(r.Commit, o.Accepted.ID) {
		w.behind = ""
		return r
	}
	if w.behind != r.Commit {
		w.behind, w.since = r.Commit, now
	}
	what := "went back to"
	switch {
	case w.offered != "" && w.offered != r.Commit && older(r.Commit, w.offered):
	case now.Sub(w.since) >= rewoundAfter:
		what = "went back to, or every mirror still offers,"
	default:
		return r
	}
	told := *r
	told.Reason = reasonRewound
	told.Sentence = fmt.Sprintf("the repository %s commit %.10s; this host stays at %.10s, which came later: put the branch back on that, and undo changes by `git revert` on top of it", what, r.Commit, o.Accepted.ID)
	return &told
}
