// Package gossip knows which hosts are probably alive, and spreads small keyed
// facts between them. It carries facts without understanding them.
//
// It owns memberlist, which runs over streams of transport only: no UDP, no
// key of its own, no compression. The streams say who sent a packet, so no
// stranger takes part, and only hosts that Options.Allowed admits become
// members.
//
// Everything here is a hint. Any host of the inventory can say anything about
// any other, so nothing may be decided on a member's state or a fact alone;
// whoever acts must check with git, raft or the host itself.
//
// Facts are last-writer-wins per (host, key), ordered by the host's start and a
// sequence within it; a host that starts anew replaces all its earlier facts.
// They travel three ways: directly to every member of a small cluster (a few
// members of a large one) as soon as they are published, by memberlist's
// broadcasts, and in its periodic full exchanges, which also heal what the
// first two lost.
//
// memberlist forgets hosts that stayed dead and never dials them again; the
// rejoin loop here does, so partitions heal.
//
// memberlist knows hosts by name only: the addresses it passes around are a
// constant, the real ones travel in the metadata. So a host that comes back
// with another address needs no reclaim time and meets no address conflict.
//
// memberlist counts into go-metrics' global, which drops everything unless
// somebody sets a sink; nothing here does.
//
// Not promised: that Run's end waits for a probe that memberlist has under way
// (it ends by its own timer, within eight probe intervals), or that a fact
// arrives at all where partitions last.
package gossip
