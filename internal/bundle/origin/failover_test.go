package origin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"
)

// endpoint is an S3 endpoint with one answer, counting its requests.
type endpoint struct {
	*httptest.Server
	asked atomic.Int32
}

func newEndpoint(t *testing.T, answer http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.asked.Add(1); answer(w, r) }))
	t.Cleanup(e.Close)
	return e
}

func openAt(t *testing.T, endpoints ...*endpoint) *failover {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	client := NewClient(0)
	t.Cleanup(client.CloseIdleConnections)
	o := Options{Endpoint: endpoints[0].URL, PathStyle: true, Client: client}
	for _, e := range endpoints[1:] {
		o.Fallbacks = append(o.Fallbacks, e.URL)
	}
	return mustOpen(t, Location{Kind: S3, Bucket: "b", Key: "k"}, o).(*failover)
}

func serves(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestEndpointsAreAskedInOrderAndRestAfterAFailure(t *testing.T) {
	data := noise(1000)
	var down atomic.Bool
	first := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(503)
			return
		}
		serves(data)(w, r)
	})
	second := newEndpoint(t, serves(data))
	from := openAt(t, first, second)
	now := time.Unix(0, 0)
	from.now = func() time.Time { return now }
	read := func(wantFirst, wantSecond int32) {
		t.Helper()
		body, err := from.ReadRange(t.Context(), 10, 100)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		_ = body.Close()
		if a, b := first.asked.Swap(0), second.asked.Swap(0); err != nil || !bytes.Equal(got, data[10:110]) || a != wantFirst || b != wantSecond {
			t.Fatalf("%d bytes (%v), %d and %d requests, want %d and %d", len(got), err, a, b, wantFirst, wantSecond)
		}
	}
	read(1, 0)
	down.Store(true)
	read(1, 1)
	read(0, 1)
	now = now.Add(restAfter)
	read(1, 1)
	down.Store(false)
	now = now.Add(restAfter)
	read(1, 0)
	read(1, 0)
}

func TestABodyThatBreaksOffSendsTheNextReadElsewhere(t *testing.T) {
	data := noise(1000)
	first := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-99/1000")
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(206)
		_, _ = w.Write(data[:40])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	second := newEndpoint(t, serves(data))
	from := openAt(t, first, second)
	for _, want := range []int{40, 100} {
		body, err := from.ReadRange(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		_ = body.Close()
		if len(got) != want || (err == nil) != (want == 100) {
			t.Errorf("%d bytes (%v), want %d", len(got), err, want)
		}
	}
}

func TestAllEndpointsFailingSaysWhatEachSaid(t *testing.T) {
	_, err := openAt(t, newEndpoint(t, status(403)), newEndpoint(t, status(404))).ReadRange(t.Context(), 0, 1)
	if err == nil || Transient(err) || strings.Count(err.Error(), "http://127.0.0.1:") != 2 || strings.Count(err.Error(), "s3://b/k") != 1 {
		t.Errorf("%v", err)
	}
	_, err = openAt(t, newEndpoint(t, status(403)), newEndpoint(t, status(503))).Size(t.Context())
	if err == nil || !Transient(err) {
		t.Errorf("%v", err)
	}
	one := newEndpoint(t, status(503))
	from := openAt(t, one, newEndpoint(t, status(503)))
	_, _ = from.Size(t.Context())
	if _, err := from.Size(t.Context()); err == nil || one.asked.Load() != 2 {
		t.Errorf("endpoints that all rest are not asked: %d requests (%v)", one.asked.Load(), err)
	}
}

func TestAProxyOfItsOwn(t *testing.T) {
	data := noise(100)
	var auth, host string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth, host = r.Header.Get("Proxy-Authorization"), r.Host
		serves(data)(w, r)
	}))
	t.Cleanup(proxy.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	with := strings.Replace(proxy.URL, "http://", "http://user:"+secretKey+"@", 1)
	for name, l := range map[string]Location{"s3": {Kind: S3, Bucket: "b", Key: "k"}, "https": {Kind: Https, URL: "http://files.example.invalid/k"}} {
		auth, host = "", ""
		from := mustOpen(t, l, Options{Endpoint: "http://s3.example.invalid", PathStyle: true, Proxy: with, AllowHTTP: true})
		if size, err := from.Size(t.Context()); err != nil || size != 100 || auth == "" || !strings.HasSuffix(host, "example.invalid") {
			t.Errorf("%s: size %d (%v), authorization %t, host %q", name, size, err, auth != "", host)
		}
	}
	for _, bad := range []string{"proxy:3128", "ftp://user:" + secretKey + "@h", "http://user:" + secretKey + "@%zz"} {
		if _, err := Open(Location{Kind: Https, URL: "https://h/x"}, Options{Proxy: bad}); err == nil || strings.Contains(err.Error(), secretKey) {
			t.Errorf("%v", err)
		}
	}
	environment := reflect.ValueOf(http.ProxyFromEnvironment).Pointer()
	for name, client := range map[string]*http.Client{"no setting": withClient(t, Options{}), "push": NewClient(0)} {
		if proxy := client.Transport.(*http.Transport).Proxy; reflect.ValueOf(proxy).Pointer() != environment {
			t.Errorf("%s: HTTPS_PROXY and its like are not heeded", name)
		}
	}
	t.Setenv("HTTP_PROXY", proxy.URL)
	direct, err := Options{Proxy: NoProxy}.withClient()
	if err != nil || direct.Client.Transport.(*http.Transport).Proxy != nil {
		t.Errorf("a proxy although none is wanted (%v)", err)
	}
}

func withClient(t *testing.T, o Options) *http.Client {
	t.Helper()
	filled, err := o.withClient()
	if err != nil {
		t.Fatal(err)
	}
	return filled.Client
}

// TestNothingSecretIsEverLogged lets everything fail that can and reads the log: credentials of S3, of a proxy, of URLs, a forge's token.
func TestNothingSecretIsEverLogged(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	redirects := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://user:"+secretKey+"@"+dead+"/x?token="+secretKey, http.StatusFound)
	})
	credentials := t.TempDir() + "/credentials"
	if err := os.WriteFile(credentials, []byte("[default]\naws_access_key_id=AKIDEXAMPLE\naws_secret_access_key="+secretKey+"\naws_session_token="+secretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	note := func(err error) {
		if err == nil {
			t.Error("nothing failed")
			return
		}
		logger.Warn("failed", "error", err, "detail", fmt.Sprintf("%+v %#v", err, err))
		for ; err != nil; err = errors.Unwrap(err) {
			var known *Error
			if errors.As(err, &known) {
				logger.Warn("inner", "error", known)
			}
		}
	}
	endpoints := []string{"http://" + dead, redirects.URL}
	for _, code := range []int{400, 401, 403, 404, 407, 412, 500, 503} {
		endpoints = append(endpoints, newEndpoint(t, status(code)).URL)
	}
	for _, endpoint := range endpoints {
		for _, proxy := range []string{NoProxy, "http://user:" + secretKey + "@" + dead, strings.Replace(endpoint, "http://", "http://user:"+secretKey+"@", 1)} {
			o := Options{Endpoint: endpoint, Fallbacks: []string{endpoint}, PathStyle: true, CredentialsFile: credentials, Proxy: proxy, AllowHTTP: true, Token: tokenFor, Timeout: 5 * time.Second}
			for _, l := range []Location{
				{Kind: S3, Bucket: "b", Key: "k"},
				{Kind: Https, URL: strings.Replace(endpoint, "http://", "http://user:"+secretKey+"@", 1) + "/x?token=" + secretKey},
				{Kind: Forge, Forge: ForgeGitea, URL: strings.Replace(endpoint, "http://", "http://user:"+secretKey+"@", 1) + "/o/n?token=" + secretKey, Commit: commitOf("x")},
				{Kind: Forge, Forge: ForgeGitLab, URL: strings.Replace(endpoint, "http://", "https://", 1) + "/o/n", Commit: commitOf("x")},
			} {
				from := mustOpen(t, l, o)
				_, err := from.Size(t.Context())
				note(err)
				_, err = from.ReadRange(t.Context(), 0, 10)
				note(err)
				_, err = from.ReadIndex(t.Context())
				note(err)
			}
		}
	}
	note(Put(t.Context(), Location{Kind: S3, Bucket: "b", Key: "k"}, Options{Endpoint: endpoints[2], PathStyle: true, CredentialsFile: credentials, Proxy: NoProxy}, bytes.NewReader(nil), 0, nil))
	for _, endpoint := range []string{"ftp://user:" + secretKey + "@h", "http://user:" + secretKey + "@%zz", "http://user:" + secretKey + "@h ost", "https://user:" + secretKey + "@h:port",
		"http://" + dead + "/?token=" + secretKey, "https://user:" + secretKey + "@"} {
		_, err = Open(Location{Kind: S3, Bucket: "b", Key: "k"}, Options{Endpoint: endpoint})
		note(err)
		t.Setenv("AWS_ENDPOINT_URL_S3", endpoint)
		_, err = Open(Location{Kind: S3, Bucket: "b", Key: "k"}, Options{})
		note(err)
	}
	for _, text := range []string{"ftp://user:" + secretKey + "@h/x", "HTTPS://user:" + secretKey + "@h/x?token=" + secretKey, "s3://?token=" + secretKey, "http:/user:" + secretKey + "@h/x"} {
		_, err = Parse(text)
		note(err)
	}
	_, err = Open(Location{Kind: Https, URL: "https://user:" + secretKey + "@%zz"}, Options{})
	note(err)
	_, err = Open(Location{Kind: Repository, Path: "x", Tree: fstest.MapFS{}}, Options{})
	if err != nil {
		note(err)
	}
	if lines := strings.Split(log.String(), "\n"); len(lines) < 100 {
		t.Errorf("only %d lines were logged", len(lines))
	}
	for line := range strings.SplitSeq(log.String(), "\n") {
		if strings.Contains(line, secretKey) {
			t.Fatalf("a secret in %s", line)
		}
	}
}
