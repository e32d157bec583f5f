package plan

import "math/bits"

// Bits says which pieces somebody has: piece i is bit i%8 of byte i/8. Beyond its end nothing is had.
type Bits []byte

// NewBits returns room for n pieces, none of them set.
func NewBits(n int) Bits { return make(Bits, (n+7)/8) }

// Has says whether bit i is set.
func (b Bits) Has(i int) bool { return i >= 0 && i/8 < len(b) && b[i/8]&(1<<(i%8)) != 0 }

// Set sets bit i, if b has room for it.
func (b Bits) Set(i int) {
	if i >= 0 && i/8 < len(b) {
		b[i/8] |= 1 << (i % 8)
	}
}

// Clear clears bit i.
func (b Bits) Clear(i int) {
	if i >= 0 && i/8 < len(b) {
		b[i/8] &^= 1 << (i % 8)
	}
}

// Or sets every bit of other that b has room for.
func (b Bits) Or(other Bits) {
	for i := range min(len(b), len(other)) {
		b[i] |= other[i]
	}
}

// Count returns how many bits are set.
func (b Bits) Count() int {
	n := 0
	for _, c := range b {
		n += bits.OnesCount8(c)
	}
	return n
}

// words is a set of pieces that is scanned quickly.
type words []uint64

func newWords(n int) words { return make(words, (n+63)/64) }

func (w words) has(i int) bool { return w[i>>6]&(1<<(i&63)) != 0 }
func (w words) set(i int)      { w[i>>6] |= 1 << (i & 63) }
func (w words) clear(i int)    { w[i>>6] &^= 1 << (i & 63) }

// wordsOf takes over the first n bits.
func wordsOf(b Bits, n int) words {
	w := newWords(n)
	for k, c := range b[:min(len(b), (n+7)/8)] {
		w[k>>3] |= uint64(c) << (8 * (k & 7))
	}
	if n&63 != 0 {
		w[len(w)-1] &= 1<<(n&63) - 1
	}
	return w
}
