package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// behindSocket serves f on a unix socket and returns a client of it.
func behindSocket(t *testing.T, f *fakeSource) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	h := newHandler(Options{Source: f, Write: true})
	h.pace = time.Millisecond
	s := &http.Server{Handler: h.routes()}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return NewClient("unix://" + path)
}

func TestClientBringsBackWhatWasServed(t *testing.T) {
	f := &fakeSource{report: sample(), history: sampleHistory(), bundle: sampleDistribution(), awaited: Awaited{Done: true, Code: 4, State: "Failed", Message: "why", Group: sample().Groups[0]}, logs: "out\n"}
	c, ctx := behindSocket(t, f), context.Background()
	if got, err := c.Report(ctx, ""); err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("report %+v %v", got, err)
	}
	if got, err := c.History(ctx, "g"); err != nil || !reflect.DeepEqual(got, sampleHistory()) {
		t.Errorf("history %+v %v", got, err)
	}
	if got, err := c.Bundle(ctx, "bb"); err != nil || !reflect.DeepEqual(got, sampleDistribution()) {
		t.Errorf("bundle %+v %v", got, err)
	}
	if got, err := c.Wait(ctx, "g", "c", true); err != nil || !reflect.DeepEqual(got, f.awaited) {
		t.Errorf("wait %+v %v", got, err)
	}
	var out bytes.Buffer
	if err := c.Logs(ctx, LogQuery{Group: "a/b", Host: "h", Deployment: "d", Event: "Install"}, &out); err != nil || out.String() != "out\n" {
		t.Errorf("logs %q %v", out.String(), err)
	}
	if err := c.Operate(ctx, Operation{Verb: "stop", Group: "g", Actor: "anna", Reason: "r"}); err != nil || len(f.ops) != 1 {
		t.Errorf("operate %v %v", f.ops, err)
	}
	stop := errors.New("enough")
	if err := c.Follow(ctx, "", func(r Report) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("follow %v", err)
	}
	want := []string{"report ", "history g", "bundle bb", "wait g c", "logs a/b h d Install", "operate stop", "report "}
	if !reflect.DeepEqual(f.asked, want) {
		t.Errorf("asked %q", f.asked)
	}
}

func TestClientTellsRefusalsApart(t *testing.T) {
	var unknown *UnknownGroupError
	for _, c := range []struct {
		err error
		is  func(error) bool
	}{
		{&UnknownGroupError{"cannot find it"}, func(err error) bool { return errors.As(err, &unknown) && unknown.Message == "cannot find it" }},
		{fmt.Errorf("%w: web", ErrNoQuorum), func(err error) bool { return errors.Is(err, ErrNoQuorum) && err.Error() == ErrNoQuorum.Error()+": web" }},
		{fmt.Errorf("%w: paused", ErrRefused), func(err error) bool { return errors.Is(err, ErrRefused) && err.Error() == "refused: paused" }},
		{errors.New("boom"), func(err error) bool { return err.Error() == "boom" }},
	} {
		client := behindSocket(t, &fakeSource{err: c.err})
		_, err := client.Report(context.Background(), "x")
		follow := client.Follow(context.Background(), "x", func(Report) error { return nil })
		if err == nil || !c.is(err) || !c.is(follow) {
			t.Errorf("%v came as %v and %v", c.err, err, follow)
		}
	}
}

func TestClientSaysThatNobodyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	_, err := NewClient(path).Report(context.Background(), "")
	if want := "cannot reach the agent at " + path + ": no such file or directory; is `gitopsd agent` running, and is this its socket? --addr or GITOPSD_ADDR name another"; !errors.Is(err, ErrUnreachable) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := behindSocket(t, &fakeSource{}).Report(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestHintIsForTheOwnSocketAlone: whether this host's agent runs is no question where another host was asked.
func TestHintIsForTheOwnSocketAlone(t *testing.T) {
	fails := func(err error) http.RoundTripper { return failing{err} }
	_, err := NewHTTPClient(&http.Client{Transport: fails(errors.New("no answer"))}, "web-2").Report(context.Background(), "")
	if !errors.Is(err, ErrUnreachable) || err.Error() != "cannot reach the agent at web-2: no answer" {
		t.Errorf("%v", err)
	}
	denied := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
	own := &Client{http: &http.Client{Transport: fails(denied)}, base: "http://agent", name: "/s", hint: socketHint}
	if _, err := own.Report(context.Background(), ""); err == nil || err.Error() != "cannot reach the agent at /s: permission denied; this user may not open the socket: run this as root, or as a member of the socket's group" {
		t.Errorf("%v", err)
	}
}

// failing is a network on which nothing arrives.
type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

func TestFollowEndsWithTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: Handler(Options{Source: &fakeSource{report: Report{Host: "web-1"}}})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	err = NewClient(path).Follow(context.Background(), "", func(Report) error { return s.Close() })
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "it left") {
		t.Errorf("%v", err)
	}
	<-done
}
