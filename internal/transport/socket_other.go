//go:build !linux

package transport

import (
	"net"
	"syscall"
	"time"
)

func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }

func tcpKeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

func congestionOf(syscall.RawConn) string { return "" }

func setCongestion(syscall.RawConn, string) {}

func dialer(control func(network, address string, c syscall.RawConn) error) *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: tcpKeepAlive(), Control: control}
}
