package swarm

import "time"

// Figures of how fast bytes come.
const (
	flowSlot  = 500 * time.Millisecond
	flowSlots = 10
)

// flow is how many bytes came in each of the last moments.
type flow struct {
	slots [flowSlots]int64
	last  int64 // number of the newest
}

// add counts bytes that come now.
func (f *flow) add(n int, now time.Duration) {
	f.turn(now)
	f.slots[f.last%flowSlots] += int64(n)
}

// rate is the bytes a second of the last five seconds, or of as many as there were.
func (f *flow) rate(now time.Duration) int64 {
	f.turn(now)
	var sum int64
	for _, n := range f.slots {
		sum += n
	}
	within := min(now, (flowSlots-1)*flowSlot+now%flowSlot)
	return int64(float64(sum) / max(within, flowSlot).Seconds())
}

// turn empties the moments that are over.
func (f *flow) turn(now time.Duration) {
	at := int64(now / flowSlot)
	for n := max(f.last+1, at-flowSlots+1); n <= at; n++ {
		f.slots[n%flowSlots] = 0
	}
	f.last = max(f.last, at)
}
