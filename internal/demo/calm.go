package demo

import (
	"context"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// gapPatience is how long the table stays as it is while the group's set has no leader: leadership moves whenever the leader's own host is next.
const gapPatience = 2 * time.Second

// leaderless says whether a report comes from a moment without a leader.
func leaderless(r status.Report) bool {
	for _, n := range r.Notices {
		if n.Kind == "NoQuorum" {
			return true
		}
	}
	return len(r.Groups) == 1 && r.Groups[0].Deployment != nil && r.Groups[0].Deployment.Leader == ""
}

// calm passes reports on to show until ctx ends, but those of a moment without a leader only once it has lasted.
func calm(ctx context.Context, reports <-chan status.Report, show func(status.Group)) {
	var held *status.Report // the newest of a gap
	gap := time.NewTimer(gapPatience)
	defer gap.Stop()
	lasts, within := false, false // the gap is shown; there is one
	gap.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gap.C:
			lasts = true
			show(held.Groups[0])
		case r := <-reports:
			switch {
			case len(r.Groups) != 1:
			case !leaderless(r):
				gap.Stop()
				lasts, within = false, false
				show(r.Groups[0])
			case lasts:
				show(r.Groups[0])
			default:
				held = &r
				if !within {
					within = true
					gap.Reset(gapPatience)
				}
			}
		}
	}
}
