package configrepo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/gitopsd/gitopsd/internal/configrepo/trust"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/go-git/go-git/v5/plumbing"
)

// Repo is this host's copy of the config repository. Its methods may be called
// from several goroutines; Sync and Receive take turns.
type Repo struct {
	o       Options
	intro   plumbing.Hash
	allowed *trust.AllowedSigners
	graph   *graph
	turn    chan struct{} // held by the one Sync or Receive that runs

	mu       sync.Mutex
	accepted *Commit  // replaced, never changed in place
	handle   *objects // for readers; nil when the mirror has changed
	floor    plumbing.Hash
	floorWhy string
	refused  *refusedTip
	suspect  bool // look the mirror over before trusting it: new process, or damage seen

	rebuilt plumbing.Hash // tip for which the mirror was last refetched in vain; owned by the turn
}

// refusedTip lets a poll that finds the same tip again cost nothing.
type refusedTip struct {
	tip, base string
	floor     plumbing.Hash
	refusal   *Refusal
}

// ErrNoMirrors is returned by Sync on a host whose urls are empty.
var ErrNoMirrors = errors.New("this host has no urls: commits come from its peers")

// New checks the options, makes Dir and reads the ratchet; it fetches nothing.
func New(o Options) (*Repo, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	intro, err := parseID(o.Introduction)
	if err != nil {
		return nil, err
	}
	allowed, err := readAllowed(o.AllowedSigners)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	accepted, err := loadRatchet(o.Dir, o.Introduction)
	if err != nil {
		return nil, err
	}
	r := &Repo{o: o, intro: intro, allowed: allowed, graph: newGraph(), turn: make(chan struct{}, 1), accepted: accepted, suspect: true}
	if err := r.tidy(); err != nil {
		return nil, fmt.Errorf("cannot prepare the mirror: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(o.Dir, spoolPrefix+"*.pack"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot remove what a peer sent before: %w", err)
	}
	return r, nil
}

// Accepted is the commit this host may act on; false before the first.
func (r *Repo) Accepted() (Commit, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.accepted == nil {
		return Commit{}, false
	}
	return *r.accepted, true
}

// RaiseFloor makes Sync and Receive refuse tips that do not contain commit id,
// as learnt from raft or from this host's disk; it protects a host whose ratchet
// was lost. why is the rest of the refusal's sentence: how the commit is known and
// what to do. The floor lasts until the process ends.
func (r *Repo) RaiseFloor(id, why string) error {
	h, err := parseID(id)
	if err != nil {
		return fmt.Errorf("cannot raise the floor: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor, r.floorWhy = h, why
	return nil
}

// reader gives a handle on the mirror as it is now.
func (r *Repo) reader() *objects {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.handle == nil {
		r.handle = openObjects(r.mirrorDir(), false)
	}
	return r.handle
}

// forget makes the next reader open the mirror anew.
func (r *Repo) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle = nil
}

// reopen gives a handle that sees the mirror as it is now.
func (r *Repo) reopen() *objects {
	r.forget()
	return r.reader()
}

// hurt notes damage that a reader met; the next Sync looks the mirror over.
func (r *Repo) hurt(err error) {
	r.o.Log.Warn("the mirror of the config repository is damaged and will be fetched again", "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspect, r.handle = true, nil
}

// within checks that a commit belongs to the accepted history.
func (r *Repo) within(id string) (*objects, plumbing.Hash, error) {
	h, err := parseID(id)
	if err != nil {
		return nil, h, err
	}
	accepted, ok := r.Accepted()
	if !ok {
		return nil, h, &NotFoundError{ID: id}
	}
	o := r.reader()
	if accepted.ID == id {
		return o, h, nil
	}
	top, err := parseID(accepted.ID)
	if err != nil {
		return nil, h, err
	}
	on, err := r.graph.isAncestor(o, h, top)
	if err != nil {
		return nil, h, r.report(err)
	}
	if !on {
		return nil, h, &NotFoundError{ID: id}
	}
	return o, h, nil
}

// commitAt reads a commit of the accepted history; what is missing there is
// damage.
func (r *Repo) commitAt(id string) (*objects, *commit, error) {
	o, h, err := r.within(id)
	if err != nil {
		return nil, nil, err
	}
	c, err := o.commit(h)
	return o, c, r.report(err)
}

// report notes damage and gives the error back.
func (r *Repo) report(err error) error {
	if err != nil && damaged(err) {
		r.hurt(err)
	}
	return err
}

// Tree gives the files of a commit, read-only and lazily; the commit must be
// the accepted one or an ancestor of it. Symbolic links and submodules show by
// mode (fs.ModeSymlink, fs.ModeIrregular) and cannot be opened. Close gives
// back the pack files that are held open for it.
func (r *Repo) Tree(id string) (Tree, error) {
	_, c, err := r.commitAt(id)
	if err != nil {
		return nil, fmt.Errorf("cannot read commit %s: %w", short(id), err)
	}
	own := openObjects(r.mirrorDir(), true)
	t := &treeFS{o: own, own: own, root: c.tree, limit: r.o.Limits.FileBytes, reopen: r.reopen, when: c.describe(nil).When, hurt: r.hurt, trees: map[plumbing.Hash][]entry{}}
	return t, nil
}

// Commit describes a commit of the accepted history. Signers are filled for
// the accepted commit only.
func (r *Repo) Commit(id string) (Commit, error) {
	if c, ok := r.Accepted(); ok && c.ID == id {
		return c, nil
	}
	o, c, err := r.commitAt(id)
	if err != nil {
		return Commit{}, fmt.Errorf("cannot read commit %s: %w", short(id), err)
	}
	return c.describe(r.signersOf(o, c)), nil
}

// signersOf names who signed a commit of the accepted history itself, by the
// policy of that commit's own tree: for display, nothing hangs on it.
func (r *Repo) signersOf(o *objects, c *commit) []string {
	v := &verifier{o: o, g: r.graph, intro: r.intro, allowed: r.allowed}
	policy, err := v.policyAt(c)
	if err != nil {
		return nil
	}
	name, err := v.signer(c, policy)
	if err != nil {
		return nil
	}
	return []string{name}
}

// IsAncestor says whether commit a is b or an ancestor of it. A *NotFoundError
// says that b, or something below it, is not in this host's mirror.
func (r *Repo) IsAncestor(a, b string) (bool, error) {
	ids, err := parseIDs([]string{a, b})
	if err != nil {
		return false, err
	}
	return r.graph.isAncestor(r.reader(), ids[0], ids[1])
}

// Log lists up to n commits of the accepted first-parent line, newest first.
func (r *Repo) Log(n int) ([]Commit, error) {
	accepted, ok := r.Accepted()
	if !ok || n <= 0 {
		return nil, nil
	}
	out := []Commit{accepted}
	for at := accepted; len(out) < n && len(at.Parents) > 0; {
		o, c, err := r.commitAt(at.Parents[0])
		if err != nil {
			return out, fmt.Errorf("cannot read the log: %w", err)
		}
		at = c.describe(r.signersOf(o, c))
		out = append(out, at)
	}
	return out, nil
}

// DiffPaths lists the paths that differ between two commits, sorted.
func (r *Repo) DiffPaths(a, b string) ([]string, error) {
	var trees [2]plumbing.Hash
	var o *objects
	for i, id := range []string{a, b} {
		var c *commit
		var err error
		if o, c, err = r.commitAt(id); err != nil {
			return nil, fmt.Errorf("cannot compare commits: %w", err)
		}
		trees[i] = c.tree
	}
	return o.changedPaths(trees[0], trees[1])
}
