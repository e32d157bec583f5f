package plan

import "math/bits"

// Figures of how much is asked at a time.
const (
	PeerAsks    = 2   // requests under way to one peer
	RequestsMax = 8   // to all peers, one bundle, unless
	allMax      = 16  // there are no more of them than this: then one to each;
	fewPeers    = 4   // so many are asked twice at a time;
	deepFrom    = 200 // and from so many on there is one request less to all, and one less each time there are twice as many hosts,
	deepMin     = 4   // but so many at least
)

// Flows is how many requests a host has under way in an exchange with so many others, and of them to one; as many it serves at a time, and turns more away.
//
// In a small swarm every host reads its part of the origin and gives it to all others. One request to each keeps those streams equal: with several to one peer, some
// uplinks are full while others wait, and hosts that upload most get least, since what they ask for waits behind what they send. In a large swarm few are asked at
// a time: a piece that comes slowly from many places is passed on late. The more hosts it comes through, one after the other, the more that counts: with eight requests
// at a time it is eight times as long on each link. Fewer where it comes through few would only let links idle while the next piece is asked for.
func Flows(others int) (all, each int) {
	switch {
	case others >= deepFrom:
		return max(RequestsMax-bits.Len(uint(others/deepFrom)), deepMin), PeerAsks
	case others <= fewPeers || others > allMax:
		return RequestsMax, PeerAsks
	default:
		return max(RequestsMax, others), 1
	}
}
