package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

const maxRedirects = 5

// httpsOrigin is an archive behind a plain URL.
type httpsOrigin struct {
	location Location
	client   *http.Client
}

func openHTTPS(l Location, o Options) (Origin, error) {
	u, err := url.Parse(l.URL)
	if err != nil {
		return nil, errors.New("the URL is malformed")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && o.AllowHTTP) {
		return nil, fmt.Errorf("its scheme is %q; only https is possible", u.Scheme)
	}
	if u.Host == "" {
		return nil, errors.New("the URL has no host")
	}
	return &httpsOrigin{location: l, client: redirecting(o.Client, o.AllowHTTP)}, nil
}

// redirecting is a client that follows few redirects, and none away from https, even where plain http may be asked for.
func redirecting(with *http.Client, allowHTTP bool) *http.Client {
	client := *with
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if r.URL.Scheme != "https" && (!allowHTTP || via[len(via)-1].URL.Scheme == "https") {
			return errors.New("it redirects to a URL that is not https")
		}
		return nil
	}
	return &client
}

func (h *httpsOrigin) do(ctx context.Context, method, target, ranged, etag string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "gitopsd")
	if ranged != "" {
		request.Header.Set("Range", ranged)
	}
	if etag != "" {
		request.Header.Set("If-Match", etag)
	}
	response, err := h.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusPartialContent {
		_ = response.Body.Close()
		return nil, &statusError{code: response.StatusCode, text: response.Status}
	}
	return response, nil
}

// Size asks with HEAD, and with a range of one byte where the server does not do HEAD or does not tell.
func (h *httpsOrigin) Size(ctx context.Context) (int64, error) {
	response, err := h.do(ctx, http.MethodHead, h.location.URL, "", h.location.ETag)
	if err == nil {
		_ = response.Body.Close()
		if response.ContentLength >= 0 {
			return response.ContentLength, nil
		}
	} else if status := statusOf(err); status != http.StatusMethodNotAllowed && status != http.StatusNotImplemented {
		return 0, fail("ask for size of", h.location, err)
	}
	response, err = h.do(ctx, http.MethodGet, h.location.URL, "bytes=0-0", h.location.ETag)
	if err != nil {
		return 0, fail("ask for size of", h.location, err)
	}
	_ = response.Body.Close()
	size := response.ContentLength
	if response.StatusCode == http.StatusPartialContent {
		size = lengthOf(response.Header.Get("Content-Range"))
	}
	if size < 0 {
		return 0, &Error{Op: "ask for size of", Where: h.location.String(), Err: errors.New("the server does not tell it")}
	}
	return size, nil
}

func (h *httpsOrigin) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := checkRange(off, n); err != nil {
		return nil, fail("read", h.location, err)
	}
	response, err := h.do(ctx, http.MethodGet, h.location.URL, fmt.Sprintf("bytes=%d-%d", off, off+n-1), h.location.ETag)
	if err != nil {
		return nil, fail("read", h.location, err)
	}
	if err := checkContentRange(response.Header.Get("Content-Range"), response.StatusCode, response.ContentLength, off, n); err != nil {
		_ = response.Body.Close()
		return nil, permanent("read", h.location, err)
	}
	return &exactBody{body: response.Body, left: n, fail: func(err error) error { return fail("read", h.location, err) }}, nil
}

func (h *httpsOrigin) ReadIndex(ctx context.Context) ([]byte, error) {
	response, err := h.do(ctx, http.MethodGet, h.location.index().URL, "", "")
	if err == nil {
		data, err := readWhole(response.Body, bundle.MaxIndexBytes)
		return data, fail("read index of", h.location, err)
	}
	err = fail("read index of", h.location, err)
	if !NotFound(err) {
		return nil, err
	}
	if data, tailErr := tailIndex(ctx, h); tailErr != nil || data != nil {
		return data, tailErr
	}
	return nil, err
}

// permanent is for answers that will be the same next time.
func permanent(op string, l Location, err error) error {
	_, advice := judge(err)
	return &Error{Op: op, Where: l.String(), Err: err, Advice: advice}
}
