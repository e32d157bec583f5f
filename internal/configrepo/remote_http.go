package configrepo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// httpUpstream speaks git's smart HTTP protocol.
type httpUpstream struct {
	base    *url.URL // after the redirects of the first request
	branch  string
	limits  Limits
	client  *http.Client
	user    string
	secret  string
	host    string // the only host that may see the secret
	version int    // protocol the server chose; -1 before it was asked
	moved   bool   // by a redirect
}

func newHTTPUpstream(r remote, branch string, c Credentials, l Limits) (upstream, error) {
	h := &httpUpstream{base: r.url, branch: branch, limits: l, host: r.url.Host, version: -1}
	if err := h.credentials(r, c); err != nil {
		return nil, err
	}
	pool, err := rootCAs(c.CAFile)
	if err != nil {
		return nil, err
	}
	h.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns:           1,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > 5:
				return permanent("more than 5 redirects")
			case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
				return permanent("the server redirects from https to %s", req.URL.Scheme)
			case req.Method != http.MethodGet:
				return permanent("the server redirects a request for a pack")
			case req.URL.Host != h.host:
				req.Header.Del("Authorization")
			}
			return nil
		},
	}
	return h, nil
}

// credentials reads what the files hold and refuses to send it in the clear.
func (h *httpUpstream) credentials(r remote, c Credentials) error {
	var err error
	read := func(path string) string {
		if path == "" || err != nil {
			return ""
		}
		var s string
		s, err = readSecret(path)
		return s
	}
	h.user, h.secret = r.user, ""
	if u := read(c.UsernameFile); u != "" {
		h.user = u
	}
	if h.secret = read(c.TokenFile); h.secret == "" {
		h.secret = read(c.PasswordFile)
	}
	if err != nil {
		return err
	}
	if h.secret == "" {
		return nil
	}
	if h.user == "" {
		h.user = "x-access-token"
	}
	if r.url.Scheme != "https" && !isLoopback(r.url.Hostname()) {
		return permanent("credentials are not sent over http: use https")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readSecret reads a small file without its trailing line break.
func readSecret(path string) (string, error) {
	data, err := readBounded(path, secretBytesMax)
	if err != nil {
		return "", &permanentError{fmt.Errorf("cannot read credentials: %w", err)}
	}
	s := strings.TrimRight(string(data), "\r\n")
	if s == "" || strings.ContainsAny(s, "\r\n\x00") {
		return "", permanent("credentials file %s must hold one line", path)
	}
	return s, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return data, nil
}

func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := readBounded(file, 1<<20)
	if err != nil {
		return nil, &permanentError{fmt.Errorf("cannot read caFile: %w", err)}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, permanent("caFile %s holds no PEM certificate", file)
	}
	return pool, nil
}

func (h *httpUpstream) close() { h.client.CloseIdleConnections() }

func (h *httpUpstream) do(ctx context.Context, method, path, body string, version int) (*http.Response, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, h.base.String()+path, r)
	if err != nil {
		return nil, &permanentError{err}
	}
	req.Header.Set("User-Agent", "git/2.0 (gitopsd)")
	if version == 2 {
		req.Header.Set("Git-Protocol", "version=2")
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		req.Header.Set("Accept", "application/x-git-upload-pack-result")
	}
	if h.secret != "" && req.URL.Host == h.host {
		req.SetBasicAuth(h.user, h.secret)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the mirror is named by the caller
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	resp.Body.Close()
	return nil, statusError(resp, h.secret != "")
}

// statusError says what a refused request means and what to do about it.
func statusError(resp *http.Response, sent bool) error {
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized && !sent:
		return permanent("the server asks for credentials (401): set tokenFile, or usernameFile and passwordFile")
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return permanent("the server refuses the credentials (%d)", code)
	case code == http.StatusNotFound:
		return permanent("the server knows no such repository (404), or hides it without credentials")
	case code == http.StatusTooManyRequests:
		return fmt.Errorf("the server asks to slow down (429, Retry-After %q)", oneLine(resp.Header.Get("Retry-After")))
	default:
		return fmt.Errorf("the server answers %d %s", code, http.StatusText(code))
	}
}

// tip asks the server's version first, which also settles redirects.
func (h *httpUpstream) tip(ctx context.Context) (plumbing.Hash, error) {
	const service = "/info/refs?service=git-upload-pack"
	resp, err := h.do(ctx, http.MethodGet, service, "", 2)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-git-upload-pack-advertisement" {
		return plumbing.ZeroHash, permanent("this is not a git repository over smart HTTP (it answers with %q)", oneLine(ct))
	}
	if final := resp.Request.URL; final.Host != h.base.Host || !strings.HasPrefix(final.String(), h.base.String()) {
		moved := *final
		moved.RawQuery = ""
		if !strings.HasSuffix(moved.Path, "/info/refs") {
			return plumbing.ZeroHash, permanent("the server redirects to %s, which is no git repository", oneLine(moved.Redacted()))
		}
		moved.Path = strings.TrimSuffix(moved.Path, "/info/refs")
		h.base, h.moved = &moved, true
	}
	p := &pktReader{r: resp.Body, left: h.limits.RefBytes}
	version, tip, err := readAdvertisement(p, h.branch)
	if err != nil {
		return tip, err
	}
	h.version = version
	if version != 2 {
		return tip, nil
	}
	answer, err := h.do(ctx, http.MethodPost, "/git-upload-pack", lsRefsRequest(h.branch), 2)
	if err != nil {
		return tip, err
	}
	defer answer.Body.Close()
	return readLsRefs(&pktReader{r: answer.Body, left: h.limits.RefBytes}, h.branch)
}

// fetch needs the version, so it asks for the tip if nobody did yet.
func (h *httpUpstream) fetch(ctx context.Context, want plumbing.Hash, haves []plumbing.Hash, sink io.Writer) error {
	if h.version < 0 {
		if _, err := h.tip(ctx); err != nil {
			return err
		}
	}
	resp, err := h.do(ctx, http.MethodPost, "/git-upload-pack", fetchRequest(h.version, want, haves), h.version)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Side band frames add 5 bytes to at most 65515: an eighth is ample.
	return readFetch(&pktReader{r: resp.Body, left: h.limits.PackBytes + h.limits.PackBytes/8 + 1<<20}, h.version, sink)
}

// protocolOf is the hint for job.Protocol.
func protocolOf(up upstream) int {
	if h, ok := up.(*httpUpstream); ok && !h.moved {
		return h.version + 1
	}
	return 0
}
