package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// answerBytesMax bounds one document read from an agent.
const answerBytesMax = 64 << 20

// ErrUnreachable says that no agent answered at the address.
var ErrUnreachable = errors.New("cannot reach the agent")

// Client asks an agent. Use NewClient for the unix socket and NewHTTPClient between hosts.
type Client struct {
	http *http.Client
	base string
	name string
	hint func(error) string // what a person may do who cannot reach the agent; nil between hosts
}

// NewClient talks to the agent behind a unix socket; address is a path or unix://PATH.
func NewClient(address string) *Client {
	path := strings.TrimPrefix(address, "unix://")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, base: "http://agent", name: path, hint: socketHint}
}

// NewHTTPClient talks to the agent of host through a client that dials hosts by name.
func NewHTTPClient(c *http.Client, host string) *Client {
	return &Client{http: c, base: "http://" + host, name: host}
}

// Report asks for one group, or for all when name is empty.
func (c *Client) Report(ctx context.Context, name string) (Report, error) {
	var r Report
	return r, c.get(ctx, "/v1/status", url.Values{"group": {name}}, &r)
}

// History asks for the deployments of one group.
func (c *Client) History(ctx context.Context, name string) (History, error) {
	var h History
	return h, c.get(ctx, "/v1/history", url.Values{"group": {name}}, &h)
}

// Wait reports how far the group is, with block when the wait is over or after 15 s.
func (c *Client) Wait(ctx context.Context, name, commit string, block bool) (Awaited, error) {
	return c.wait(ctx, name, commit, block, "")
}

// Await reports how far the group is as soon as the wait is over or its Progress is another than seen, and after 15 s at the latest.
func (c *Client) Await(ctx context.Context, name, commit, seen string) (Awaited, error) {
	return c.wait(ctx, name, commit, true, seen)
}

func (c *Client) wait(ctx context.Context, name, commit string, block bool, seen string) (Awaited, error) {
	var a Awaited
	q := url.Values{"group": {name}, "commit": {commit}}
	if block {
		q.Set("block", "1")
	}
	if seen != "" {
		q.Set("seen", seen)
	}
	return a, c.get(ctx, "/v1/wait", q, &a)
}

// Follow calls each with every report until the context ends, the agent leaves, or each fails.
func (c *Client) Follow(ctx context.Context, name string, each func(Report) error) error {
	body, err := c.open(ctx, "/v1/status", url.Values{"group": {name}, "follow": {"1"}})
	if err != nil {
		return err
	}
	defer body.Close()
	decoder := json.NewDecoder(body)
	for {
		var line struct {
			Report
			Error string `json:"error"`
		}
		if err := decoder.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w at %s: it left: %w", ErrUnreachable, c.name, err)
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
		if err := each(line.Report); err != nil {
			return err
		}
	}
}

// Logs copies hook output to w.
func (c *Client) Logs(ctx context.Context, q LogQuery, w io.Writer) error {
	body, err := c.open(ctx, "/v1/logs", url.Values{"group": {q.Group}, "host": {q.Host}, "deployment": {q.Deployment}, "event": {q.Event}})
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("cannot read hook output from %s: %w", c.name, err)
	}
	return nil
}

// Operate carries out a write.
func (c *Client) Operate(ctx context.Context, op Operation) error {
	body, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("cannot encode the operation: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/operate", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("cannot ask the agent at %s: %w", c.name, err)
	}
	answer, err := c.do(req)
	if err != nil {
		return err
	}
	return answer.Close()
}

func (c *Client) get(ctx context.Context, path string, q url.Values, into any) error {
	body, err := c.open(ctx, path, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, answerBytesMax)).Decode(into); err != nil {
		return fmt.Errorf("cannot read the answer of the agent at %s: %w", c.name, err)
	}
	return nil
}

func (c *Client) open(ctx context.Context, path string, q url.Values) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the agent at %s: %w", c.name, err)
	}
	return c.do(req)
}

// do sends a request and turns a refusal into an error that errors.Is and errors.As understand.
func (c *Client) do(req *http.Request) (io.ReadCloser, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if req.Context().Err() != nil {
			return nil, req.Context().Err()
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// refusal reads the body of an answer that is not 200.
func refusal(resp *http.Response) error {
	var p problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, requestBytesMax)).Decode(&p); err != nil || p.Error == "" {
		return fmt.Errorf("the agent answered %s", resp.Status)
	}
	switch p.Code {
	case codeUnknownGroup:
		return &UnknownGroupError{p.Error}
	case codeUnknownBundle:
		return &UnknownBundleError{p.Error}
	case codeUnknownOutput:
		return &UnknownOutputError{p.Error}
	case codeNoQuorum:
		return refusedError{p.Error, ErrNoQuorum}
	case codeRefused:
		return refusedError{p.Error, ErrRefused}
	}
	return errors.New(p.Error)
}

// refusedError is what an agent said, word by word, of a kind that errors.Is finds.
type refusedError struct {
	message string
	kind    error
}

func (e refusedError) Error() string { return e.message }

func (e refusedError) Unwrap() error { return e.kind }

// unreachable words that no agent answered, naming the address once.
func (c *Client) unreachable(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var op *net.OpError
	var call *os.SyscallError
	switch {
	case c.hint == nil || !errors.As(err, &op):
	case errors.As(op.Err, &call):
		err = call.Err
	case op.Err != nil:
		err = op.Err
	}
	switch {
	case c.hint != nil:
		return fmt.Errorf("%w at %s: %w; %s", ErrUnreachable, c.name, err, c.hint(err))
	case strings.Contains(err.Error(), c.name):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.name, err)
}

// socketHint says what may help somebody whose agent's socket does not answer.
func socketHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "this user may not open the socket: run this as root, or as a member of the socket's group"
	}
	return "is `gitopsd agent` running, and is this its socket? --addr or GITOPSD_ADDR name another"
}
