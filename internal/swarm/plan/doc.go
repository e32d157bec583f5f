// Package plan decides, without doing anything, who reads which piece of a bundle from where.
//
// Dealer belongs to one host a bundle, the leader of the group's coordinator set. It deals each missing piece to exactly one host that can reach the origin, as a
// lease over neighbouring pieces, handed out as hosts finish what they hold, so that a fast host reads more than a slow one. A lease ends when its pieces landed, when
// its holder no longer says that it holds it, or when it runs out; then the pieces are dealt again. A piece that landed is not dealt for a while, until every host should
// have heard of it; from then on the asker's own view counts, so that a piece whose only holder died is dealt once more. A dealer that starts in the middle learns from
// the requests what there is and what is being read.
//
// What left the origin is counted from what hosts say they read and from leases that ran out with their holder. It never passes the bundle's size by more than the
// budget; once that is spent, only a trickle is dealt, and the answer says so. While the origin answers nobody, one host at a time tries it. Little is dealt before the
// first pieces landed, and nothing to a host that is far behind while others ask.
//
// Neighbours draws whom a host listens to: everybody of a small site, two dozen of a large one, and, on a few gateways, hosts of other sites. Where nobody sees
// everybody, a piece is somewhere for the dealer as long as anyone who asks shows it.
//
// Picker belongs to every host: rarest piece first, from the least busy peer that has it, with as many neighbours as fit one request; of other sites and of peers that
// are much slower than most only what nobody else has; at the end pieces that are on their way for long are asked of a second peer. In a small swarm it leaves a piece to
// be passed on by others where its first holder would otherwise send more than they do (relay.go). Patience is what a host remembers of how a peer answered.
//
// The tests run all of it for a thousand and five thousand hosts in virtual time (sim_test.go).
//
// Not promised: that a host which lies to the dealer about what it has, reads or holds costs nothing. It can delay a piece for as long as a landed piece is
// not dealt, or spend budget; it cannot make anyone keep a wrong byte.
package plan
