package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Source is what the API asks of the agent. Implementations answer for every group of the fleet, asking another host where this one does not follow the group.
type Source interface {
	// Report returns the state of the group that name means, or of all groups when it is empty.
	Report(ctx context.Context, name string) (Report, error)
	// History returns a group's deployments, newest first.
	History(ctx context.Context, name string) (History, error)
	// Bundle returns where a bundle is; digest is whole, or, for operators, the beginning of its digits.
	Bundle(ctx context.Context, digest string) (Distribution, error)
	// Logs copies hook output to w.
	Logs(ctx context.Context, q LogQuery, w io.Writer) error
	// Wait reports how far a group is with a commit, or with its newest when commit is empty.
	Wait(ctx context.Context, name, commit string) (Awaited, error)
	// Operate carries out a write.
	Operate(ctx context.Context, op Operation) error
	// Changed is closed at the next change of anything reported; ask again for the one after.
	Changed() <-chan struct{}
	// Ready is nil once the host has a verified commit, is in its inventory, and follows its coordinator sets; the error says what is missing.
	Ready() error
}

// Bounds of the API.
const (
	requestBytesMax = 64 << 10
	followInterval  = 200 * time.Millisecond // a follower is sent at most five documents a second
	heartbeat       = 15 * time.Second       // a follower is sent something at least so often, and a waiter answered
	patience        = 2 * heartbeat          // for a client to take what it is sent, or to send what it announced
	followersMax    = 128                    // followers and waiters at a time
)

// Options of a handler.
type Options struct {
	Source  Source
	Metrics http.Handler // served at /metrics
	// Write allows operations. The unix socket allows them to whoever may open it; between hosts only reads are served.
	Write bool
	Log   *slog.Logger
}

// Handler serves the API: GET /v1/status, /v1/history, /v1/bundle, /v1/logs, /v1/wait, POST /v1/operate, and /healthz, /readyz, /metrics.
func Handler(o Options) http.Handler { return newHandler(o).routes() }

func newHandler(o Options) handler {
	h := handler{Options: o, followers: make(chan struct{}, followersMax), pace: followInterval, beat: heartbeat}
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	return h
}

func (h handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.status)
	mux.HandleFunc("GET /v1/history", h.history)
	mux.HandleFunc("GET /v1/bundle", h.bundle)
	mux.HandleFunc("GET /v1/logs", h.logs)
	mux.HandleFunc("GET /v1/wait", h.wait)
	if h.Write {
		mux.HandleFunc("POST /v1/operate", h.operate)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", h.ready)
	if h.Metrics != nil {
		mux.Handle("GET /metrics", h.Metrics)
	}
	return http.MaxBytesHandler(mux, requestBytesMax)
}

type handler struct {
	Options
	followers chan struct{}
	pace      time.Duration // between two documents for one follower
	beat      time.Duration // heartbeat
}

// enter makes room for one more follower or waiter; otherwise it answers.
func (h handler) enter(w http.ResponseWriter) bool {
	select {
	case h.followers <- struct{}{}:
		return true
	default:
		h.fail(w, http.StatusServiceUnavailable, "too many clients follow this host; ask another one")
		return false
	}
}

func (h handler) leave() { <-h.followers }

// status answers once, or with follow=1 one JSON object a line for as long as the client stays.
func (h handler) status(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("group")
	if r.URL.Query().Get("follow") == "" {
		report, err := h.Source.Report(r.Context(), name)
		h.answer(w, report, err)
		return
	}
	if h.enter(w) {
		defer h.leave()
		h.follow(w, r, func(ctx context.Context) (any, error) { return h.Source.Report(ctx, name) })
	}
}

// follow sends what read returns now and whenever it has become something else, at most five times a second. A first question that cannot be answered is answered
// as any other.
func (h handler) follow(w http.ResponseWriter, r *http.Request, read func(context.Context) (any, error)) {
	control := http.NewResponseController(w)
	beat := time.NewTicker(h.beat)
	defer beat.Stop()
	var last []byte
	for due := true; ; {
		changed := h.Source.Changed()
		document, err := read(r.Context())
		switch {
		case err != nil && last == nil:
			h.answer(w, nil, err)
			return
		case err != nil:
			document = problem{Error: err.Error()}
		}
		line, encodeErr := json.Marshal(document)
		if encodeErr != nil {
			h.Log.Error("internal error: a document cannot be encoded", "error", encodeErr)
			return
		}
		if due || !bytes.Equal(line, last) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			_ = control.SetWriteDeadline(time.Now().Add(patience))
			if _, e := w.Write(append(line, '\n')); e != nil || control.Flush() != nil || err != nil {
				return
			}
			last = line
		}
		if due = h.idle(r.Context(), changed, beat.C); r.Context().Err() != nil {
			return
		}
	}
}

// idle waits for the pace and then for a change; due says that a heartbeat came first.
func (h handler) idle(ctx context.Context, changed <-chan struct{}, beat <-chan time.Time) (due bool) {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(h.pace):
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-beat:
		return true
	}
	return false
}

func (h handler) history(w http.ResponseWriter, r *http.Request) {
	history, err := h.Source.History(r.Context(), r.URL.Query().Get("group"))
	h.answer(w, history, err)
}

// wait answers once; with block=1 when the wait is over, when the progress is not the one that the client has seen, at most five times a second, or with a heartbeat.
func (h handler) wait(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if !h.enter(w) {
		return
	}
	defer h.leave()
	end, pace := time.NewTimer(h.beat), time.NewTimer(h.pace)
	defer end.Stop()
	defer pace.Stop()
	for paced := false; ; {
		changed := h.Source.Changed()
		awaited, err := h.Source.Wait(r.Context(), q.Get("group"), q.Get("commit"))
		news := q.Get("seen") != "" && q.Get("seen") != awaited.Progress()
		if err != nil || awaited.Done || q.Get("block") == "" || news && paced {
			h.answer(w, awaited, err)
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-pace.C:
			paced = true
		case <-end.C:
			h.answer(w, awaited, nil)
			return
		}
	}
}

func (h handler) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := &countingWriter{w: w, control: http.NewResponseController(w)}
	err := h.Source.Logs(r.Context(), LogQuery{Group: q.Get("group"), Host: q.Get("host"), Deployment: q.Get("deployment"), Event: q.Get("event")}, out)
	if err == nil {
		return
	}
	if out.n == 0 {
		h.answer(w, nil, err)
		return
	}
	h.Log.Warn("hook output was cut short", "error", err)
}

func (h handler) operate(w http.ResponseWriter, r *http.Request) {
	var op Operation
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&op); err != nil {
		h.fail(w, http.StatusBadRequest, "cannot read the operation: "+err.Error())
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if missing := op.missing(); len(missing) > 0 {
		h.fail(w, http.StatusBadRequest, "cannot do the operation: it lacks "+strings.Join(missing, ", "))
		return
	}
	if err := h.Source.Operate(r.Context(), op); err != nil {
		h.answer(w, nil, err)
		return
	}
	h.answer(w, map[string]bool{"ok": true}, nil)
}

func (h handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.Source.Ready(); err != nil {
		writeText(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	writeText(w, http.StatusOK, "ready")
}

// problem is the body of every refusal.
type problem struct {
	Error string `json:"error"`
	Code  string `json:"code,omitempty"`
}

// Problem codes that a client branches on.
const (
	codeUnknownGroup  = "unknown-group"
	codeUnknownBundle = "unknown-bundle"
	codeUnknownOutput = "unknown-output"
	codeNoQuorum      = "no-quorum"
	codeRefused       = "refused"
)

// Errors a Source returns for a client to branch on.
var (
	ErrNoQuorum = errors.New("the coordinator set has no leader")
	ErrRefused  = errors.New("refused")
)

func (h handler) answer(w http.ResponseWriter, document any, err error) {
	var unknown *UnknownGroupError
	var noBundle *UnknownBundleError
	var noOutput *UnknownOutputError
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		if e := json.NewEncoder(w).Encode(document); e != nil {
			h.Log.Debug("a client left before its answer", "error", e)
		}
	case errors.As(err, &unknown):
		h.failCode(w, http.StatusNotFound, codeUnknownGroup, err.Error())
	case errors.As(err, &noBundle):
		h.failCode(w, http.StatusNotFound, codeUnknownBundle, err.Error())
	case errors.As(err, &noOutput):
		h.failCode(w, http.StatusNotFound, codeUnknownOutput, err.Error())
	case errors.Is(err, ErrNoQuorum):
		h.failCode(w, http.StatusServiceUnavailable, codeNoQuorum, err.Error())
	case errors.Is(err, ErrRefused):
		h.failCode(w, http.StatusConflict, codeRefused, err.Error())
	default:
		h.fail(w, http.StatusInternalServerError, err.Error())
	}
}

func (h handler) fail(w http.ResponseWriter, status int, message string) {
	h.failCode(w, status, "", message)
}

func (h handler) failCode(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(problem{Error: message, Code: code}); err != nil {
		h.Log.Debug("a client left before its answer", "error", err)
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, strings.TrimRight(text, "\n")+"\n")
}

// countingWriter knows whether anything has been sent. Output may be long: what counts is that the client goes on taking it.
type countingWriter struct {
	w       io.Writer
	control *http.ResponseController
	n       int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	_ = c.control.SetWriteDeadline(time.Now().Add(patience))
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
