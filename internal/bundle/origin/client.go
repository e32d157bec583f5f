package origin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// NoProxy as Options.Proxy connects directly, whatever the environment says.
const NoProxy = "none"

// How long a response may take to begin. With fallbacks, connecting, TLS and the answer together stay below what a reader of an
// origin waits in silence (20 s in swarm), so that the next endpoint is tried at all.
const (
	defaultTimeout  = 30 * time.Second
	failoverTimeout = 6 * time.Second
)

// withClient fills in the defaults.
func (o Options) withClient() (Options, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
		if len(o.Fallbacks) > 0 {
			o.Timeout = failoverTimeout
		}
	}
	if o.Client != nil {
		return o, nil
	}
	proxy, err := proxyOf(o.Proxy)
	if err == nil {
		o.Client = newClient(o.Timeout, proxy)
	}
	return o, err
}

// CheckProxy says whether Options.Proxy can have this value, without repeating it.
func CheckProxy(setting string) error {
	_, err := proxyOf(setting)
	return err
}

// proxyOf says which proxy a request takes. The message never holds the URL, which may carry a password.
func proxyOf(setting string) (func(*http.Request) (*url.URL, error), error) {
	switch setting {
	case "":
		return http.ProxyFromEnvironment, nil
	case NoProxy:
		return nil, nil
	}
	u, err := url.Parse(setting)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return nil, errors.New("the proxy is no http, https or socks5 URL, for example http://proxy.example.com:3128")
	}
	return http.ProxyURL(u), nil
}

// NewClient makes the HTTP client that origins use: proxies and AWS_CA_BUNDLE from the environment, bounded waits, no cookies. Share one.
func NewClient(timeout time.Duration) *http.Client {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	return newClient(timeout, http.ProxyFromEnvironment)
}

func newClient(timeout time.Duration, proxy func(*http.Request) (*url.URL, error)) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = proxy
	transport.DialContext = (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = timeout
	transport.TLSHandshakeTimeout = timeout
	transport.MaxIdleConnsPerHost = 8
	transport.IdleConnTimeout = 30 * time.Second
	transport.DisableCompression = true // an archive's bytes are counted and hashed as they are stored
	if pool := bundledRoots(); pool != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport}
}

// bundledRoots are the authorities that AWS_CA_BUNDLE adds to the system's. A file that cannot be read is reported by Open of kind S3,
// whose SDK reads it too.
func bundledRoots() *x509.CertPool {
	file := os.Getenv("AWS_CA_BUNDLE")
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(data)
	return pool
}
