package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// Dial opens a connection of its own to host for the protocol alpn. It returns
// once the peer admitted us, and a *DialError otherwise. With HistoryALPN any
// key is accepted and the Peer's Known says whether it was host's.
func (t *Transport) Dial(ctx context.Context, host, alpn string) (net.Conn, error) {
	return t.dial(ctx, host, alpn)
}

func (t *Transport) dial(ctx context.Context, host, alpn string) (*Conn, error) {
	if !t.running() {
		return nil, &DialError{Host: host, Err: ErrClosed}
	}
	if alpn != HistoryALPN && len(t.dir.Keys(host)) == 0 {
		return nil, &DialError{Host: host, Err: ErrUnknownHost}
	}
	addrs := t.addresses(host)
	if len(addrs) == 0 {
		return nil, &DialError{Host: host, Err: ErrNoAddress}
	}
	var failed error
	for _, addr := range addrs {
		c, err := t.dialAddress(ctx, host, addr, alpn)
		if err == nil {
			return c, nil
		}
		err = &DialError{Host: host, Address: addr, Err: err}
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// addresses returns where host may be: what the inventory says, then what was
// heard.
func (t *Transport) addresses(host string) []string {
	var list []string
	if addr, ok := t.dir.Address(host); ok && addr != "" {
		list = append(list, addr)
	}
	t.mu.Lock()
	learned := t.learned[host]
	t.mu.Unlock()
	if learned != "" && !slices.Contains(list, learned) {
		list = append(list, learned)
	}
	return list
}

func (t *Transport) dialAddress(ctx context.Context, host, addr, alpn string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout+t.patience)
	defer cancel()
	tcpCtx, done := context.WithTimeout(ctx, connectTimeout)
	dial := t.dialTCP
	if t.isNear(host) {
		dial = t.dialNear
	}
	raw, err := dial(tcpCtx, "tcp", addr)
	done()
	if err != nil {
		return nil, trimOp(err)
	}
	c, err := t.greet(ctx, raw, host, alpn)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// greet does the handshake and waits for the acceptor's hello.
func (t *Transport) greet(ctx context.Context, raw net.Conn, host, alpn string) (*Conn, error) {
	deadline := time.Now().Add(t.patience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	tc := tls.Client(raw, t.clientTLS(host, alpn))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, cancelled(ctx, explainHandshake(err))
	}
	hello, err := readGreeting(tc)
	if err != nil {
		return nil, cancelled(ctx, explainHandshake(fmt.Errorf("no hello: %w", err)))
	}
	if err := hello.err(); err != nil {
		return nil, err
	}
	c, _, err := t.admit(tc, host, alpn, false)
	if err != nil {
		return nil, err
	}
	if !stop() { // ctx ended meanwhile and spoilt the deadline
		c.Close()
		return nil, ctx.Err()
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// cancelled says that the caller gave up, where that is why: the connection's deadline ends the handshake as well, and may be heard of first.
func cancelled(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return err
}

func (t *Transport) running() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state == stateRunning
}

// HTTPClient returns the client for the HTTP protocol alpn. The host part of a
// URL is a host's name in the inventory: http://web-1/v1/status. It knows no
// proxy, follows no redirect and sets no overall timeout: use the request's
// context.
func (t *Transport) HTTPClient(alpn string) *http.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.clients[alpn]; c != nil {
		return c
	}
	c := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				return t.dial(ctx, host, alpn)
			},
			DisableCompression:     true,
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    4,
			MaxConnsPerHost:        32,
			IdleConnTimeout:        time.Minute,
			ResponseHeaderTimeout:  time.Minute,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.clients[alpn] = c
	return c
}
