package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// ask sends one request to a handler.
func ask(t *testing.T, h http.Handler, method, target, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestEveryEndpointAnswers(t *testing.T) {
	f := &fakeSource{report: sample(), history: sampleHistory(), bundle: sampleDistribution(), awaited: Awaited{Done: true, State: "Succeeded"}, logs: "hello\n"}
	h := Handler(Options{Source: f, Write: true, Metrics: Metrics(f, "1.0")})
	for _, c := range []struct {
		method, target, body string
		code                 int
		asked, answer        string
	}{
		{"GET", "/v1/status", "", 200, "report ", `"host":"web-1"`},
		{"GET", "/v1/status?group=shop%2Fproduction%2Fwebsite", "", 200, "report shop/production/website", `"state":"HeldBack"`},
		{"GET", "/v1/history?group=w", "", 200, "history w", `"signers":["anna"]`},
		{"GET", "/v1/bundle?digest=sha256%3Abb", "", 200, "bundle sha256:bb", `"banned":[{"host":"web-3"`},
		{"GET", "/v1/logs?group=g&host=h&deployment=d&event=Install", "", 200, "logs g h d Install", "hello\n"},
		{"GET", "/v1/wait?group=g&commit=c", "", 200, "wait g c", `"done":true`},
		{"POST", "/v1/operate", `{"verb":"pause","group":"g","actor":"anna","reason":"lunch"}`, 200, "operate pause", `{"ok":true}`},
		{"POST", "/v1/operate", `{"verb":"pause","who":"anna"}`, 400, "", "unknown field"},
		{"POST", "/v1/operate", `{"verb":"pause","group":"g"}`, 400, "", `"cannot do the operation: it lacks actor (who asks)"`},
		{"POST", "/v1/operate", `{"verb":"pause"}`, 400, "", "it lacks group, actor"},
		{"POST", "/v1/operate", `{}`, 400, "", "it lacks verb, group, actor"},
		{"POST", "/v1/operate", `{"verb":"sync"}`, 200, "operate sync", `{"ok":true}`},
		{"POST", "/v1/operate", `{`, 400, "", "cannot read the operation"},
		{"POST", "/v1/operate", `{"verb":"` + strings.Repeat("x", requestBytesMax) + `"}`, 400, "", "too large"},
		{"GET", "/v1/operate", "", 405, "", ""},
		{"GET", "/healthz", "", 200, "", "ok\n"},
		{"GET", "/readyz", "", 200, "", "ready\n"},
		{"GET", "/metrics", "", 200, "report ", "gitopsd_ready 1"},
		{"GET", "/v2/status", "", 404, "", ""},
	} {
		f.asked = nil
		code, answer := ask(t, h, c.method, c.target, c.body)
		if asked := strings.Join(f.asked, ","); code != c.code || asked != c.asked || !strings.Contains(answer, c.answer) {
			t.Errorf("%s %s: %d, asked %q, answered %.200q; want %d %q %q", c.method, c.target, code, asked, answer, c.code, c.asked, c.answer)
		}
	}
	if len(f.ops) != 2 || f.ops[0] != (Operation{Verb: "pause", Group: "g", Actor: "anna", Reason: "lunch"}) {
		t.Errorf("operations %+v", f.ops)
	}
	f.ready = errors.New("no verified commit yet")
	if code, text := ask(t, h, "GET", "/readyz", ""); code != 503 || text != "not ready: no verified commit yet\n" {
		t.Errorf("readyz: %d %q", code, text)
	}
}

func TestHostsMayOnlyRead(t *testing.T) {
	f := &fakeSource{report: sample()}
	h := Handler(Options{Source: f})
	if code, _ := ask(t, h, "POST", "/v1/operate", `{"verb":"stop"}`); code != 404 {
		t.Errorf("operate answered %d", code)
	}
	if code, _ := ask(t, h, "GET", "/metrics", ""); code != 404 {
		t.Errorf("metrics answered %d", code)
	}
	if len(f.asked) != 0 {
		t.Errorf("asked %q", f.asked)
	}
}

func TestErrorsHaveCodes(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{&UnknownGroupError{"cannot find it"}, 404, codeUnknownGroup},
		{&UnknownBundleError{"cannot find it"}, 404, codeUnknownBundle},
		{fmt.Errorf("it: %w", &UnknownOutputError{"cannot find it"}), 404, codeUnknownOutput},
		{fmt.Errorf("%w: set web", ErrNoQuorum), 503, codeNoQuorum},
		{fmt.Errorf("%w: it is paused", ErrRefused), 409, codeRefused},
		{errors.New("something else"), 500, ""},
	} {
		f := &fakeSource{err: c.err}
		h := Handler(Options{Source: f, Write: true})
		for _, target := range []string{"/v1/status", "/v1/status?follow=1", "/v1/history", "/v1/logs", "/v1/wait", "/v1/operate"} {
			method, body := "GET", ""
			if target == "/v1/operate" {
				method, body = "POST", `{"verb":"stop","group":"g","actor":"anna"}`
			}
			code, answer := ask(t, h, method, target, body)
			var p problem
			if err := json.Unmarshal([]byte(answer), &p); err != nil || code != c.status || p.Code != c.code || p.Error != c.err.Error() {
				t.Errorf("%s with %v: %d %q", target, c.err, code, answer)
			}
		}
	}
}

func TestLogsCutShortAreNotAnError(t *testing.T) {
	f := &fakeSource{logs: "cut"}
	if code, text := ask(t, Handler(Options{Source: f}), "GET", "/v1/logs?group=g", ""); code != 200 || text != "cut" {
		t.Errorf("%d %q", code, text)
	}
}

// server serves a handler that is in a hurry.
func server(t *testing.T, f *fakeSource, change func(*handler)) *httptest.Server {
	t.Helper()
	h := newHandler(Options{Source: f, Write: true})
	h.pace, h.beat = time.Millisecond, time.Hour
	if change != nil {
		change(&h)
	}
	s := httptest.NewServer(h.routes())
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return s
}

// open sends a request whose answer is read as it comes.
func open(t *testing.T, ctx context.Context, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestFollowSendsWhatChangedAndNothingElse(t *testing.T) {
	f := &fakeSource{report: Report{Host: "web-1", Commit: "a"}, reads: make(chan struct{}, 64)}
	s := server(t, f, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines := bufio.NewScanner(open(t, ctx, s.URL+"/v1/status?follow=1").Body)
	next := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the stream ended:", lines.Err())
		}
		var r Report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r.Commit
	}
	if got := next(); got != "a" {
		t.Fatalf("first %q", got)
	}
	<-f.reads
	for range 3 { // changes that change nothing of this report
		f.set(func() {})
		<-f.reads
	}
	f.set(func() { f.report.Commit = "b" })
	if got := next(); got != "b" {
		t.Fatalf("then %q", got)
	}
	f.set(func() { f.err = errors.New("it broke") })
	if !lines.Scan() || !strings.Contains(lines.Text(), `"error":"it broke"`) {
		t.Fatalf("the error reads %q", lines.Text())
	}
	if lines.Scan() {
		t.Fatalf("after the error: %q", lines.Text())
	}
}

func TestFollowBeatsTheHeart(t *testing.T) {
	f := &fakeSource{report: Report{Host: "web-1"}}
	s := server(t, f, func(h *handler) { h.beat = time.Millisecond })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines := bufio.NewScanner(open(t, ctx, s.URL+"/v1/status?follow=1").Body)
	for range 3 {
		if !lines.Scan() {
			t.Fatal("the stream ended:", lines.Err())
		}
	}
}

func TestWaitBlocksUntilTheEnd(t *testing.T) {
	f := &fakeSource{awaited: Awaited{State: "InProgress"}}
	s := server(t, f, nil)
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get(s.URL + "/v1/wait?group=g&block=1")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		answer <- string(text)
	}()
	until(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.asked) > 0 })
	f.set(func() {}) // not the end yet
	until(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.asked) > 1 })
	select {
	case text := <-answer:
		t.Fatalf("answered early: %s", text)
	default:
	}
	f.set(func() { f.awaited = Awaited{Done: true, Code: 5, State: "HeldBack"} })
	if text := <-answer; !strings.Contains(text, `"code":5`) {
		t.Fatalf("answered %s", text)
	}
}

// TestWaitAnswersANewProgress: the client sees each step, also one that came before it asked again, and nothing for times that move on.
func TestWaitAnswersANewProgress(t *testing.T) {
	with := func(message string, states ...string) Awaited {
		a := Awaited{State: "InProgress", Message: message}
		for _, s := range states {
			a.Group.Hosts = append(a.Group.Hosts, Host{Status: s})
		}
		return a
	}
	f := &fakeSource{awaited: with("9s left", "Pending", "Succeeded")}
	c := NewHTTPClient(http.DefaultClient, strings.TrimPrefix(server(t, f, nil).URL, "http://"))
	seen := f.awaited.Progress()
	if seen != "InProgress: of 2 hosts 1 Pending, 1 Succeeded" {
		t.Error(seen)
	}
	if a, err := c.Await(t.Context(), "g", "", "InProgress: of 2 hosts 2 Pending"); err != nil || a.Message != "9s left" {
		t.Errorf("what changed meanwhile: %+v %v", a, err)
	}
	answer := make(chan Awaited, 1)
	go func() {
		a, _ := c.Await(context.Background(), "g", "", seen)
		answer <- a
	}()
	until(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.asked) > 2 })
	f.set(func() { f.awaited = with("8s left", "Pending", "Succeeded") })
	f.set(func() { f.awaited = with("7s left", "Succeeded", "Succeeded") })
	if a := <-answer; a.Message != "7s left" {
		t.Errorf("answered %+v", a)
	}
}

func TestWaitAnswersAfterAHeartbeat(t *testing.T) {
	f := &fakeSource{awaited: Awaited{State: "InProgress"}}
	s := server(t, f, func(h *handler) { h.beat = time.Millisecond })
	resp := open(t, context.Background(), s.URL+"/v1/wait?group=g&block=1")
	text, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(text), `"done":false`) {
		t.Fatalf("%s %v", text, err)
	}
}

// until waits for a condition.
func until(t *testing.T, what func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !what() {
		if time.Now().After(deadline) {
			t.Fatal("the condition never came true")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestFollowersAreBounded(t *testing.T) {
	f := &fakeSource{report: Report{Host: "web-1"}, awaited: Awaited{State: "InProgress"}}
	s := server(t, f, func(h *handler) { h.followers = make(chan struct{}, 2) })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 2 {
		if resp := open(t, ctx, s.URL+"/v1/status?follow=1"); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
	}
	for _, target := range []string{"/v1/status?follow=1", "/v1/wait?group=g&block=1"} {
		if resp := open(t, ctx, s.URL+target); resp.StatusCode != 503 {
			t.Errorf("%s: %s", target, resp.Status)
		}
	}
	if resp := open(t, ctx, s.URL+"/v1/status"); resp.StatusCode != 200 {
		t.Errorf("a single question: %s", resp.Status)
	}
	cancel() // and there is room again
	until(t, func() bool { return open(t, context.Background(), s.URL+"/v1/wait?group=g").StatusCode == 200 })
}
