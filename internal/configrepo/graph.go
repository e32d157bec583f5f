package configrepo

import (
	"fmt"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
)

// graph remembers who is whose parent. Commits name their parents by content,
// so what it holds never becomes wrong; it is only ever emptied for size.
type graph struct {
	mu      sync.Mutex
	parents map[plumbing.Hash][]plumbing.Hash
	held    int // commits and parents in it: a commit may name a thousand
}

func newGraph() *graph { return &graph{parents: map[plumbing.Hash][]plumbing.Hash{}} }

func (g *graph) of(o *objects, id plumbing.Hash) ([]plumbing.Hash, error) {
	g.mu.Lock()
	p, ok := g.parents[id]
	g.mu.Unlock()
	if ok {
		return p, nil
	}
	c, err := o.commit(id)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held >= graphMax {
		g.parents, g.held = map[plumbing.Hash][]plumbing.Hash{}, 0
	}
	if _, ok := g.parents[id]; !ok {
		g.parents[id] = slices.Clip(c.parents)
		g.held += 1 + len(c.parents)
	}
	return c.parents, nil
}

// reach gives everything reachable from the tips, without passing `stop`.
func (g *graph) reach(o *objects, stop map[plumbing.Hash]bool, tips ...plumbing.Hash) (map[plumbing.Hash]bool, error) {
	seen := map[plumbing.Hash]bool{}
	var queue []plumbing.Hash
	add := func(ids []plumbing.Hash) {
		for _, id := range ids {
			if !seen[id] && !stop[id] {
				seen[id] = true
				queue = append(queue, id)
			}
		}
	}
	for add(tips); len(queue) > 0; {
		id := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if len(seen) > commitsMax {
			return nil, fmt.Errorf("history has more than %d commits", commitsMax)
		}
		parents, err := g.of(o, id)
		if err != nil {
			return nil, err
		}
		add(parents)
	}
	return seen, nil
}

// upwards lists everything reachable from tip without passing `stop`, each commit
// after its first parent.
func (g *graph) upwards(o *objects, stop map[plumbing.Hash]bool, tip plumbing.Hash) ([]plumbing.Hash, error) {
	var list []plumbing.Hash
	seen, queued := map[plumbing.Hash]bool{}, map[plumbing.Hash]bool{}
	queue := []plumbing.Hash{tip}
	for len(queue) > 0 {
		id := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		begin := len(list)
		for !seen[id] && !stop[id] {
			if len(list) >= commitsMax {
				return nil, fmt.Errorf("history has more than %d commits", commitsMax)
			}
			seen[id] = true
			list = append(list, id)
			parents, err := g.of(o, id)
			if err != nil {
				return nil, err
			}
			if len(parents) == 0 {
				break
			}
			for _, p := range parents[1:] {
				if !seen[p] && !stop[p] && !queued[p] {
					queued[p] = true
					queue = append(queue, p)
				}
			}
			id = parents[0]
		}
		slices.Reverse(list[begin:])
	}
	return list, nil
}

// isAncestor says whether a is b or an ancestor of it. It goes breadth first,
// so that a near ancestor is found near.
func (g *graph) isAncestor(o *objects, a, b plumbing.Hash) (bool, error) {
	seen := map[plumbing.Hash]bool{b: true}
	queue := []plumbing.Hash{b}
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		if id == a {
			return true, nil
		}
		parents, err := g.of(o, id)
		if err != nil {
			return false, err
		}
		for _, p := range parents {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
		if len(seen) > commitsMax {
			return false, fmt.Errorf("history has more than %d commits", commitsMax)
		}
	}
	return false, nil
}
