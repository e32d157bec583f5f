package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// deploying answers `wait` as an agent does in the middle of a deployment: each answer in turn, the last one again and again.
func deploying(t *testing.T, answers ...status.Awaited) {
	t.Helper()
	var asked atomic.Int64
	answering(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(asked.Add(1))
		if n > len(answers) { // as the agent waits for another progress than the client has seen
			<-r.Context().Done()
			return
		}
		_ = json.NewEncoder(w).Encode(answers[n-1])
	}))
}

// progress is an answer with so many hosts done.
func progress(message string, done, pending int) status.Awaited {
	a := status.Awaited{State: "InProgress", Message: message}
	for range done {
		a.Group.Hosts = append(a.Group.Hosts, status.Host{Status: "Succeeded"})
	}
	for range pending {
		a.Group.Hosts = append(a.Group.Hosts, status.Host{Status: "Pending"})
	}
	return a
}

// TestWaitSaysWhatItWaitsFor: a line whenever the state or the hosts move on, and none for a message that only counts seconds.
func TestWaitSaysWhatItWaitsFor(t *testing.T) {
	end := status.Awaited{Done: true, Code: 5, State: "HeldBack", Message: "wants X, runs Y"}
	deploying(t, progress("wave 1", 0, 3), progress("wave 1, 9s", 0, 3), progress("wave 2", 2, 1), end)
	text, code := typed(t, "wait", "shop")
	want := "InProgress: of 3 hosts 3 Pending; wave 1\nInProgress: of 3 hosts 1 Pending, 2 Succeeded; wave 2\nHeldBack: wants X, runs Y\n"
	if code != codeRolledBack || !strings.HasPrefix(text, want) {
		t.Errorf("exit %d\n%s\nwant\n%s", code, text, want)
	}
}

func TestWaitThatGivesUpSaysHowFarItWas(t *testing.T) {
	deploying(t, progress("wave 2, web-3 in progress", 2, 1))
	text, code := typed(t, "wait", "shop", "--timeout", "1s")
	if code != codeTimeout || !strings.HasSuffix(text, "gave up after 1s: shop is still InProgress: of 3 hosts 1 Pending, 2 Succeeded; wave 2, web-3 in progress") {
		t.Errorf("exit %d\n%s", code, text)
	}
	lost := progress("coordinator set web has no leader", 2, 1)
	lost.Code = status.CodeNoQuorum
	deploying(t, lost)
	text, code = typed(t, "wait", "shop", "--timeout", "1s")
	if code != codeNoQuorum || !strings.HasSuffix(text, "still InProgress without a leader: of 3 hosts 1 Pending, 2 Succeeded; coordinator set web has no leader") {
		t.Errorf("exit %d\n%s", code, text)
	}
	deploying(t)
	text, code = typed(t, "wait", "shop", "--timeout", "1s")
	if code != codeTimeout || text != "gave up after 1s: shop: the agent has not answered" {
		t.Errorf("exit %d\n%s", code, text)
	}
}

// writes is called for each write.
type writes func()

func (w writes) Write(p []byte) (int, error) {
	w()
	return len(p), nil
}

func TestWaitThatIsInterruptedSaysHowFarItWas(t *testing.T) {
	deploying(t, progress("wave 1", 0, 1))
	ctx, cancel := context.WithCancel(t.Context())
	root := newRoot()
	root.SetArgs([]string{"wait", "shop"})
	defer cancel()
	root.SetErr(writes(func() { cancel() })) // once it has said what it waits for
	err := root.ExecuteContext(ctx)
	if err == nil || strings.Contains(err.Error(), "context") || !strings.HasPrefix(err.Error(), "interrupted: shop is InProgress: of 1 host 1 Pending") {
		t.Errorf("%v", err)
	}
}

func TestWaitSaysHowADurationIsWritten(t *testing.T) {
	for given, want := range map[string]string{"5": "write 5s", "soon": "10s, 5m or 2h"} {
		if text, code := typed(t, "wait", "shop", "--timeout", given); code != codeUsage || !strings.Contains(text, want) {
			t.Errorf("%s: exit %d, %s; want %s", given, code, text, want)
		}
	}
}
