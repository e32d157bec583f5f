package store

import "math/bits"

// Bitmap has one bit a piece: piece i is bit i%8 of byte i/8. It is also what peers exchange.
type Bitmap []byte

// NewBitmap returns an empty bitmap for n pieces.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+7)/8) }

// Has reports whether piece i is set; a piece outside of the bitmap is not.
func (b Bitmap) Has(i int) bool { return i >= 0 && i/8 < len(b) && b[i/8]&(1<<(i%8)) != 0 }

// Set sets piece i, which must be inside the bitmap.
func (b Bitmap) Set(i int) { b[i/8] |= 1 << (i % 8) }

// Clear clears piece i, which must be inside the bitmap.
func (b Bitmap) Clear(i int) { b[i/8] &^= 1 << (i % 8) }

// Count returns the number of pieces set.
func (b Bitmap) Count() int {
	n := 0
	for _, c := range b {
		n += bits.OnesCount8(c)
	}
	return n
}
