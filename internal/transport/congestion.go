package transport

import (
	"crypto/tls"
	"syscall"
)

// nearCongestion is the congestion control of connections to hosts nearby: the kernel's own, unless an administrator chose another. BBR, which some choose for long
// ways, paces each connection by a rate that it measures. In a local network, where bundles go in short answers over many connections that share a link, there is
// hardly anything to measure, and the pacing costs an agent a tenth of its processor time.
const nearCongestion = "cubic"

// tuneNear prepares a socket to a host nearby, before it connects: the pacing of a connection that began with BBR does not end with it.
func (t *Transport) tuneNear(network, address string, c syscall.RawConn) error {
	if t.near != nil {
		setCongestion(c, t.congestion)
	}
	return tuneSocket(network, address, c)
}

// tuneListener makes accepted connections those of hosts nearby, until it is known whose they are.
func (t *Transport) tuneListener(network, address string, c syscall.RawConn) error {
	t.usual = congestionOf(c)
	return t.tuneNear(network, address, c)
}

// isNear says whether a host is nearby; who is not known is not.
func (t *Transport) isNear(host string) bool { return t.near != nil && host != "" && t.near(host) }

// settle gives an accepted connection of a host far away the congestion control that the kernel gives to any.
func (t *Transport) settle(tc *tls.Conn, peer Peer) {
	if t.near == nil || t.usual == "" || t.isNear(peer.Host) {
		return
	}
	if c, ok := tc.NetConn().(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			setCongestion(raw, t.usual)
		}
	}
}
