package configrepo

import (
	"context"
	"errors"
	"io/fs"
)

// Repo is this host's copy of the config repository. Its methods may be called
// from several goroutines; Sync and Receive take turns.
type Repo struct {
	o Options
}

// New checks the options, makes Dir and reads the ratchet; it fetches nothing.
func New(o Options) (*Repo, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	return &Repo{o: o}, nil
}

var errNotYet = errors.New("not yet written")

// Sync asks the first mirror that answers for the tip, fetches, verifies, and
// moves the accepted commit. A refused tip is no error: see Outcome.Refused.
// The error is a *SyncError when no mirror could be used.
func (r *Repo) Sync(ctx context.Context) (Outcome, error) { return Outcome{}, errNotYet }

// Accepted is the commit this host may act on; false before the first.
func (r *Repo) Accepted() (Commit, bool) { return Commit{}, false }

// Tree gives the files of a commit, read-only and lazily; the commit must be
// the accepted one or an ancestor of it. Symbolic links and submodules show by
// mode (fs.ModeSymlink, fs.ModeIrregular) and cannot be opened.
func (r *Repo) Tree(id string) (fs.FS, error) { return nil, errNotYet }

// Commit describes a commit of the accepted history.
func (r *Repo) Commit(id string) (Commit, error) { return Commit{}, errNotYet }

// IsAncestor says whether commit a is b or an ancestor of it.
func (r *Repo) IsAncestor(a, b string) (bool, error) { return false, errNotYet }

// Log lists up to n commits of the accepted first-parent line, newest first.
func (r *Repo) Log(n int) ([]Commit, error) { return nil, errNotYet }

// DiffPaths lists the paths that differ between two commits, sorted.
func (r *Repo) DiffPaths(a, b string) ([]string, error) { return nil, errNotYet }

// Pack gives a peer that has accepted commit `have` ("" for none) everything
// up to this host's accepted commit; nil if the peer has it all.
func (r *Repo) Pack(have string) ([]byte, error) { return nil, errNotYet }

// Receive takes a peer's pack and tip and judges them as Sync does.
func (r *Repo) Receive(ctx context.Context, pack []byte, tip string) (Outcome, error) {
	return Outcome{}, errNotYet
}

// RaiseFloor makes Sync and Receive refuse tips that do not contain commit id,
// as learnt from raft or peers; it protects a host whose ratchet was lost.
func (r *Repo) RaiseFloor(id string) error { return errNotYet }

// ChildMain is the body of the hidden verb behind Options.Child: it reads one
// job from stdin, does it under a memory limit, and prints the result.
func ChildMain(args []string) int { return 1 }
