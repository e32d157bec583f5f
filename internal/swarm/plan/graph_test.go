package plan

import (
	"fmt"
	"slices"
	"testing"
)

// drawn is the graph of a fleet.
func drawn(all []Host) map[string]Graph {
	graphs := map[string]Graph{}
	for _, h := range all {
		graphs[h.Name] = Neighbours(h, all, 7)
	}
	return graphs
}

func hostsOf(n, sites int) []Host {
	var all []Host
	for i := range n {
		all = append(all, Host{fmt.Sprintf("host-%04d", i), fmt.Sprint("site-", i%sites)})
	}
	return all
}

// reach counts the hosts that can be reached from one.
func reach(graphs map[string]Graph, from string) int {
	seen, next := map[string]bool{from: true}, []string{from}
	for len(next) > 0 {
		g := graphs[next[0]]
		next = next[1:]
		for _, host := range g.Near {
			if _, there := graphs[host]; there && !seen[host] {
				seen[host], next = true, append(next, host)
			}
		}
		for host := range g.Far {
			if _, there := graphs[host]; there && !seen[host] {
				seen[host], next = true, append(next, host)
			}
		}
	}
	return len(seen)
}

func TestTheGraphIsBoundedMutualAndOnePiece(t *testing.T) {
	for _, fleet := range []struct{ hosts, sites, degree, far int }{
		{1, 1, 0, 0}, {2, 1, 1, 0}, {MeshMax, 1, MeshMax - 1, 0}, {MeshMax + 1, 1, 2 * rings, 0}, {700, 1, 2 * rings, 0},
		{5, 3, 1, 4}, {900, 3, 2*rings + 2*(Gateways-1), 2 * Gateways}, {400, 200, 1, 2 * 2 * rings},
	} {
		all := hostsOf(fleet.hosts, fleet.sites)
		graphs := drawn(all)
		for name, g := range graphs {
			if len(g.Near) > fleet.degree || len(g.Far) > fleet.far || slices.Contains(g.Near, name) || !slices.IsSorted(g.Near) {
				t.Fatalf("%v: %s listens to %d near and %d far hosts: %v", fleet, name, len(g.Near), len(g.Far), g)
			}
			for _, other := range g.Near {
				if !slices.Contains(graphs[other].Near, name) {
					t.Fatalf("%v: %s listens to %s and is not listened to", fleet, name, other)
				}
			}
			for other := range g.Far {
				if _, back := graphs[other].Far[name]; !back {
					t.Fatalf("%v: %s listens to %s of another site and is not listened to", fleet, name, other)
				}
			}
		}
		if n := reach(graphs, all[0].Name); n != fleet.hosts {
			t.Errorf("%v: %d hosts are in one piece", fleet, n)
		}
	}
}

func TestADeadHostMovesOnlyItsNeighbours(t *testing.T) {
	all := hostsOf(300, 1)
	before := drawn(all)
	dead := all[17].Name
	after := drawn(slices.Delete(slices.Clone(all), 17, 18))
	moved := 0
	for name, g := range after {
		if slices.Contains(g.Near, dead) {
			t.Fatalf("%s listens to the dead", name)
		}
		if !slices.Equal(g.Near, before[name].Near) {
			moved++
		}
		if was := slices.Contains(before[name].Near, dead); !was && !slices.Equal(g.Near, before[name].Near) {
			t.Fatalf("%s has other neighbours and did not know the dead", name)
		}
	}
	if moved > 2*rings {
		t.Errorf("%d hosts have other neighbours", moved)
	}
}

// TestManyDeadBeforeAnybodyNoticed takes out a fifth of a fleet that nobody misses yet.
func TestManyDeadBeforeAnybodyNoticed(t *testing.T) {
	graphs := drawn(hostsOf(500, 1))
	for i := range 100 {
		delete(graphs, fmt.Sprintf("host-%04d", 5*i+1))
	}
	if n := reach(graphs, "host-0000"); n != 400 {
		t.Errorf("%d of 400 hosts are in one piece", n)
	}
}

func TestEachPieceBelongsToOneGatewayThatIsThere(t *testing.T) {
	for away := range uint16(1 << 4) {
		for piece := range 9 {
			var owners []int
			for slot := range 4 {
				if (Share{Slot: slot, Of: 4, Away: away}).Has(piece) && away&(1<<slot) == 0 {
					owners = append(owners, slot)
				}
			}
			switch {
			case away == 15 && len(owners) == 0:
			case len(owners) != 1:
				t.Errorf("away %04b: piece %d belongs to %v", away, piece, owners)
			case away&(1<<(piece%4)) == 0 && owners[0] != piece%4:
				t.Errorf("away %04b: piece %d went from its own gateway to %v", away, piece, owners)
			}
		}
	}
	if alone := (Share{}); !alone.Has(7) {
		t.Error("no shares, and a piece belongs to nobody")
	}
}

func TestGatewaysShareWhatTheyBring(t *testing.T) {
	slots := map[int]int{}
	for name, g := range drawn(hostsOf(200, 2)) {
		for other, share := range g.Far {
			if share.Of != Gateways || len(g.Out["site-0"])+len(g.Out["site-1"]) != Gateways {
				t.Errorf("%s brings %v from %s, gateways %v", name, share, other, g.Out)
			}
			slots[share.Slot]++
		}
	}
	for slot := range Gateways {
		if slots[slot] != 2*Gateways {
			t.Errorf("slots %v", slots)
			break
		}
	}
}
