package transport

import (
	"net"
	"syscall"
	"time"
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

func tcpKeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

func dialer() *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: tcpKeepAlive(), Control: tuneSocket}
}
