package store

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestWhatComesInOrderIsHashedAsItComes: once the last piece is here, nothing but the index behind the pieces is left to be hashed.
func TestWhatComesInOrderIsHashedAsItComes(t *testing.T) {
	archive, ref := sample(t, 1)
	n := ref.Index.Len()
	for name, write := range map[string]struct {
		order  func([]int)
		hashed int // pieces, at least, once all are here
	}{
		"in order":       {func([]int) {}, n},
		"the first last": {slices.Reverse[[]int], n},
		"in any order": {func(all []int) {
			rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
		}, 1},
		"after one was lost": {func([]int) {}, 0},
	} {
		s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
		p := begin(t, s, ref)
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		write.order(all)
		for k, i := range all {
			if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
				t.Fatal(err)
			}
			if name == "after one was lost" && k == n-2 {
				p.forget(ref.Index, 0)
				if p.front.next != 0 {
					t.Errorf("%s: %d pieces still count as hashed", name, p.front.next)
				}
				all[n-1] = 0
				if err := p.Write(n-1, pieceOf(archive, ref.Index, n-1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if p.front.next < write.hashed {
			t.Errorf("%s: %d pieces of %d are hashed, expected %d", name, p.front.next, n, write.hashed)
		}
		if err := p.Finish(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAWrongFrontCondemnsNothing: what is on disk decides.
func TestAWrongFrontCondemnsNothing(t *testing.T) {
	archive, ref := sample(t, 1)
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	p := begin(t, s, ref)
	for i := range ref.Index.Len() {
		if err := p.Write(i, pieceOf(archive, ref.Index, i)); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			p.front.sum.Write([]byte("what was never there"))
		}
	}
	if err := p.Finish(t.Context()); err != nil {
		t.Error(err)
	}
}
