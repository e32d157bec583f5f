// Package transport gives a host its identity and carries everything that
// moves between hosts over one TCP port.
//
// It owns the host's ed25519 key, TLS 1.3 in both directions with the keys of
// the inventory pinned (no certificate authority, dates ignored, no session
// tickets), the split of the port by ALPN, a pool of yamux sessions for small
// messages, and connections of their own for bytes and HTTP.
//
// Guarantees: the Peer of a connection or stream is the host whose key the
// Directory names at the time of the handshake, and Sweep closes what the
// Directory no longer names. A dialled connection counts only once the peer's
// hello arrived: in TLS 1.3 a refused client learns of it no sooner. Every
// number of handshakes, connections, sessions, streams and bytes of header is
// bounded by a name in limits.go, and every wait of its own has a timeout; how
// long a handler or a request's body may take is for its owner to bound.
//
// A host that is not in the Directory reaches nothing but HistoryALPN, where
// its Peer has Known false; the same holds for a dialled host, so what comes
// over that protocol must prove itself.
//
// Clones. Every start of an agent has an instance nonce, which its certificate
// carries. Of two instances that present one key, the one seen first later is
// taken for the current one (a host that restarts must get back in at once):
// connections of the older one are closed, and when an instance that was
// replaced shows up again it is refused and reported as EventClone, for then
// two machines hold one key and a person has to decide.
//
// Not promised: ordering between streams, delivery, or that a peer is honest
// about anything but its name.
package transport
