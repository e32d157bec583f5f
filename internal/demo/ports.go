package demo

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

// Ports the demo chooses from: above those of servers, below those the kernel gives to outgoing connections, which would take a port while its application restarts.
const (
	portLowest    = 10240
	portHighest   = 32767
	portAttempts  = 2000
	portRangeFile = "/proc/sys/net/ipv4/ip_local_port_range"
)

// reservation holds ports until their users start.
type reservation struct{ listeners []net.Listener }

// reservePorts finds n free ports on loopback and holds them.
func reservePorts(n int) (*reservation, error) {
	r := &reservation{}
	low, high := portRange(kernelPorts())
	for range portAttempts {
		if len(r.listeners) == n {
			return r, nil
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(low+rand.IntN(high-low+1)))
		if err == nil {
			r.listeners = append(r.listeners, l)
		}
	}
	r.release()
	return nil, fmt.Errorf("cannot find %d free ports on 127.0.0.1 between %d and %d", n, low, high)
}

// kernelPorts is the range of ports the kernel chooses from itself; "" when it cannot be read.
func kernelPorts() string {
	text, err := os.ReadFile(portRangeFile)
	if err != nil {
		return ""
	}
	return string(text)
}

// portRange is where to look, given the kernel's own range.
func portRange(kernel string) (low, high int) {
	low, high = portLowest, portHighest
	if fields := strings.Fields(kernel); len(fields) == 2 {
		if n, err := strconv.Atoi(fields[0]); err == nil && n > portLowest+1000 {
			high = min(high, n-1)
		}
	}
	return low, high
}

// port is the i-th.
func (r *reservation) port(i int) int { return r.listeners[i].Addr().(*net.TCPAddr).Port }

// release gives the ports up for their users.
func (r *reservation) release() {
	for _, l := range r.listeners {
		_ = l.Close()
	}
}
