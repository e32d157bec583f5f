package demo

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

func TestCalmHidesShortGapsWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		reports, ended := make(chan status.Report), make(chan struct{})
		var shown []string
		go func() {
			defer close(ended)
			calm(ctx, reports, func(g status.Group) { shown = append(shown, g.Why) })
		}()
		tell := func(why, leader string, notices ...status.Notice) {
			reports <- status.Report{Notices: notices, Groups: []status.Group{{Why: why, Deployment: &status.Deployment{Leader: leader}}}}
			synctest.Wait()
		}
		tell("one", "web-1")
		tell("gap", "")
		time.Sleep(gapPatience - time.Millisecond)
		tell("two", "web-2")
		time.Sleep(gapPatience)
		tell("long 1", "web-2", status.Notice{Kind: "NoQuorum"})
		tell("long 2", "")
		time.Sleep(gapPatience)
		synctest.Wait()
		tell("long 3", "")
		tell("three", "web-3")
		tell("gap", "")
		reports <- status.Report{}
		cancel()
		<-ended
		if want := []string{"one", "two", "long 2", "long 3", "three"}; !slices.Equal(shown, want) {
			t.Errorf("shown %q, want %q", shown, want)
		}
	})
}
