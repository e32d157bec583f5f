package transport

import (
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of tcp(7): how long sent data may stay
// unacknowledged before the connection is given up.
const tcpUserTimeout = 18

const unackedMax = 30 * time.Second

func tuneSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Best effort: without it the kernel gives up later.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unackedMax/time.Millisecond))
	})
}

// congestionOf returns the name of the socket's congestion control, "" where it cannot be told.
func congestionOf(c syscall.RawConn) (name string) {
	_ = c.Control(func(fd uintptr) {
		text, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err == nil {
			name = strings.TrimRight(text, "\x00")
		}
	})
	return name
}

// setCongestion is best effort: a kernel may not have it, or not let this process choose.
func setCongestion(c syscall.RawConn, name string) {
	_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name) })
}

func tcpKeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

func dialer(control func(network, address string, c syscall.RawConn) error) *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: tcpKeepAlive(), Control: control}
}
