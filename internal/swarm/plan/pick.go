package plan

// PeerRunMax is how many bytes a host asks of a peer at once.
const PeerRunMax = 256 << 10

// Peer is what a host knows of another in one swarm.
type Peer struct {
	Host string
	Have Bits
	Busy int // requests under way to it
	Load int // bytes asked of it lately, in any unit; the lesser is preferred
}

// Want is what a host may ask of a peer now.
type Want struct {
	Host  string
	From  int // first piece
	Count int // neighbouring pieces
}

// Pick chooses the rarest missing piece that some peer below its limit has, the least busy of those peers, and as many neighbours as fit one request. missing and
// flying speak of this host; turn breaks ties, so that hosts that start together do not all ask for the same. ok is false when nothing can be asked now.
func Pick(sizes []int64, missing func(i int) bool, flying func(i int) bool, peers []Peer, perPeer, turn int) (w Want, ok bool) {
	rarity := make([]int, len(sizes))
	for _, p := range peers {
		for i := range sizes {
			if p.Have.Has(i) {
				rarity[i]++
			}
		}
	}
	best, bestPeer := -1, -1
	for k := range sizes {
		i := (k + turn) % len(sizes)
		if rarity[i] == 0 || !missing(i) || flying(i) || best >= 0 && rarity[i] >= rarity[best] {
			continue
		}
		if p := leastBusy(peers, i, perPeer, turn); p >= 0 {
			best, bestPeer = i, p
		}
	}
	if best < 0 {
		return Want{}, false
	}
	w = Want{Host: peers[bestPeer].Host, From: best, Count: 1}
	size := sizes[best]
	for i := best + 1; i < len(sizes) && missing(i) && !flying(i) && peers[bestPeer].Have.Has(i) && size+sizes[i] <= PeerRunMax; i++ {
		w.Count, size = w.Count+1, size+sizes[i]
	}
	return w, true
}

// leastBusy finds the peer to ask for piece i, or -1.
func leastBusy(peers []Peer, i, perPeer, turn int) int {
	best := -1
	for k := range peers {
		j := (k + turn) % len(peers)
		p := peers[j]
		if !p.Have.Has(i) || p.Busy >= perPeer {
			continue
		}
		if best < 0 || p.Busy < peers[best].Busy || p.Busy == peers[best].Busy && p.Load < peers[best].Load {
			best = j
		}
	}
	return best
}
