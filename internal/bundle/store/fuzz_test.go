package store

import (
	"testing"
)

// FuzzHave: whatever stands in a bitmap's file, no bit beyond the last piece is set.
func FuzzHave(f *testing.F) {
	_, ref := sample(f, 1)
	x := ref.Index
	all := NewBitmap(x.Len())
	for i := range x.Len() {
		all.Set(i)
	}
	f.Add(encodeHave(x, all))
	f.Add(encodeHave(x, NewBitmap(x.Len())))
	f.Add([]byte(haveMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		have := decodeHave(x, data)
		if len(have) != len(all) || have.Count() > x.Len() {
			t.Fatalf("%d bytes with %d bits for %d pieces", len(have), have.Count(), x.Len())
		}
	})
}
