package swarm

import (
	"slices"
	"sync"
)

// buffers are rooms for a piece. A host that sends and gets at the rate of its link would otherwise fill its heap some times a second.
type buffers struct{ pool sync.Pool }

func (b *buffers) take() []byte {
	if room, ok := b.pool.Get().(*[]byte); ok {
		return *room
	}
	return nil
}

func (b *buffers) give(room []byte) { b.pool.Put(&room) }

// sized returns room for n bytes, in buf where that has it.
func sized(buf []byte, n int64) []byte { return slices.Grow(buf[:0], int(n))[:n] }
