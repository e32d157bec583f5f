package configrepo

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"

	"github.com/gitopsd/gitopsd/internal/configrepo/trust"
	"github.com/go-git/go-git/v5/plumbing"
)

// Acceptance walks the first-parent line from the accepted commit to the tip.
// At each commit it asks: may those who signed this very tree (this commit and
// the commits right below it with the same tree) make the change from the last
// accepted state, under that state's policy? If so, this becomes the accepted
// state, with its own policy. The result is the same whether a host saw every
// push or only the last: DESIGN.md shows why judging only the whole change
// accepted..tip would not be.

// verifier judges commits of one handle.
type verifier struct {
	o        *objects
	g        *graph
	intro    plumbing.Hash
	allowed  *trust.AllowedSigners
	floor    plumbing.Hash // zero: none
	floorWhy string        // see RaiseFloor
	whole    bool          // the handle is on a new mirror, of which nothing is known to be complete
}

// checkpoint is an authorised state.
type checkpoint struct {
	c       *commit
	policy  *trust.Policy
	signers []string
}

// verdict is what became of a tip.
type verdict struct {
	at      checkpoint // the newest authorised state
	moved   bool
	refused *Refusal
}

// judge decides about tip; accepted is nil on a host that accepted nothing yet.
// Errors are about this disk or the pack, refusals about the commits.
func (v *verifier) judge(accepted *Commit, tip plumbing.Hash) (verdict, error) {
	tipCommit, err := v.o.commit(tip)
	if err != nil {
		return verdict{}, err
	}
	start, refusal, err := v.start(accepted, tipCommit)
	if err != nil || refusal != nil {
		return verdict{refused: refusal}, err
	}
	line, err := v.line(start.c.id, tip)
	if err != nil {
		return verdict{}, err
	}
	out, err := v.walk(start, line)
	if err != nil {
		return verdict{}, err
	}
	out.moved = accepted == nil || accepted.ID != out.at.c.id.String()
	if out.moved && !v.floor.IsZero() {
		above, err := v.aboveFloor(out.at.c.id)
		if err != nil {
			return verdict{}, err
		}
		if !above {
			return verdict{refused: refuse(tipCommit, ReasonBehind, "does not contain %s, %s", short(v.floor.String()), v.floorWhy)}, nil
		}
	}
	switch {
	case v.whole:
		err = v.complete(nil, out.at.c.id)
	case out.moved:
		err = v.complete(accepted, out.at.c.id)
	}
	return out, err
}

func (v *verifier) aboveFloor(id plumbing.Hash) (bool, error) {
	if !v.o.has(v.floor) {
		return false, nil
	}
	return v.g.isAncestor(v.o, v.floor, id)
}

// start finds the state from which to walk, or says why the tip is not on top.
func (v *verifier) start(accepted *Commit, tip *commit) (checkpoint, *Refusal, error) {
	if accepted == nil {
		return v.introduction(tip)
	}
	id, err := parseID(accepted.ID)
	if err != nil {
		return checkpoint{}, nil, err
	}
	base, err := v.o.commit(id)
	if err != nil {
		return checkpoint{}, nil, err
	}
	policy, err := v.policyAt(base)
	if err != nil {
		return checkpoint{}, nil, err
	}
	at := checkpoint{c: base, policy: policy, signers: accepted.Signers}
	if on, err := v.g.isAncestor(v.o, id, tip.id); err != nil || on {
		return at, nil, err
	}
	if behind, err := v.g.isAncestor(v.o, tip.id, id); err != nil || behind {
		return at, refuse(tip, ReasonBehind, "is older than the accepted %s; older commits return only by `git revert`", accepted.Short()), err
	}
	if name, err := v.signer(tip, policy); err == nil {
		return at, refuse(tip, ReasonForked, "signed by %s, does not descend from the accepted %s: two histories exist; a signed merge of both ends this", name, accepted.Short()), nil
	}
	return at, refuse(tip, ReasonNotDescendant, "does not descend from the accepted %s: the branch was rewritten; put it back on top of that commit", accepted.Short()), nil
}

// introduction verifies the pinned commit by the pinned signers.
func (v *verifier) introduction(tip *commit) (checkpoint, *Refusal, error) {
	bad := func(format string, a ...any) (checkpoint, *Refusal, error) {
		return checkpoint{}, refuse(tip, ReasonIntroduction, format, a...), nil
	}
	if !v.o.has(v.intro) {
		return bad("does not contain the pinned introduction %s; is this the right repository and branch?", short(v.intro.String()))
	}
	if on, err := v.g.isAncestor(v.o, v.intro, tip.id); err != nil {
		return checkpoint{}, nil, err
	} else if !on {
		return bad("does not descend from the pinned introduction %s; is this the right repository and branch?", short(v.intro.String()))
	}
	c, err := v.o.commit(v.intro)
	if err != nil {
		return checkpoint{}, nil, err
	}
	pinned, err := trust.Default(v.allowed)
	if err != nil {
		return checkpoint{}, nil, fmt.Errorf("cannot use allowedSigners: %w", err)
	}
	name, err := v.signer(c, pinned)
	if err != nil {
		return bad("descends from the pinned introduction %s, which is not signed by anyone in %s: %v", short(v.intro.String()), v.allowed.File, err)
	}
	policy, err := v.policyAt(c)
	var problems trust.Problems
	if errors.As(err, &problems) {
		return bad("descends from the introduction %s, whose trust.yaml cannot be used: %v", short(v.intro.String()), err)
	}
	return checkpoint{c: c, policy: policy, signers: []string{name}}, nil, err
}

// policyAt reads the policy of a state. trust.Problems if it is invalid.
func (v *verifier) policyAt(c *commit) (*trust.Policy, error) {
	e, ok, err := v.o.lookup(c.tree, trust.FileName)
	if err != nil {
		return nil, err
	}
	if !ok {
		p, err := trust.Default(v.allowed)
		if err != nil {
			return nil, fmt.Errorf("cannot use allowedSigners: %w", err)
		}
		return p, nil
	}
	src, err := v.policyFile(e)
	if err != nil {
		return nil, err
	}
	var fault error
	p, err := trust.Parse(src, func(path string) ([]byte, error) {
		e, ok, err := v.o.lookup(c.tree, path)
		if err != nil {
			fault = err
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%s is not in the repository", path)
		}
		return v.policyFile(e)
	})
	if fault != nil {
		return nil, fault
	}
	return p, err
}

func (v *verifier) policyFile(e entry) ([]byte, error) {
	if !modeOf(e).IsRegular() {
		return nil, trust.Problems{{File: e.name, Message: "it is not a regular file"}}
	}
	n, err := v.o.size(e.id)
	if err != nil {
		return nil, err
	}
	if n > max(trust.FileBytesMax, trust.KeyFileBytesMax) {
		return nil, trust.Problems{{File: e.name, Message: fmt.Sprintf("it has %d bytes, more than %d", n, trust.FileBytesMax)}}
	}
	return v.o.blob(e.id, n)
}

// line gives the first-parent commits that descend from base, oldest first. If
// base came in by another parent of a merge, the line begins at that merge.
func (v *verifier) line(base, tip plumbing.Hash) ([]plumbing.Hash, error) {
	var line []plumbing.Hash
	for id := tip; id != base; {
		if len(line) >= commitsMax {
			return nil, fmt.Errorf("more than %d commits since %s", commitsMax, base)
		}
		line = append(line, id)
		parents, err := v.g.of(v.o, id)
		if err != nil {
			return nil, err
		}
		if len(parents) == 0 {
			return v.above(base, line)
		}
		id = parents[0]
	}
	slices.Reverse(line)
	return line, nil
}

// above cuts a first-parent line, newest first, down to what descends from
// base, and turns it round. Whether a commit descends never changes back on the
// way up, so the place is found by halving.
func (v *verifier) above(base plumbing.Hash, line []plumbing.Hash) ([]plumbing.Hash, error) {
	var fault error
	n := sort.Search(len(line), func(i int) bool {
		on, err := v.g.isAncestor(v.o, base, line[i])
		fault = errors.Join(fault, err)
		return !on
	})
	line = line[:n]
	slices.Reverse(line)
	return line, fault
}

// walk moves from state to state along the line.
func (v *verifier) walk(at checkpoint, line []plumbing.Hash) (verdict, error) {
	out := verdict{at: at}
	var run []string // signers of the trailing commits with one tree
	var below *commit
	for _, id := range line {
		c, err := v.o.commit(id)
		if err != nil {
			return out, err
		}
		if below == nil || below.tree != c.tree {
			run = nil
		}
		name, err := v.signer(c, out.at.policy)
		if err == nil && !slices.Contains(run, name) {
			run = append(slices.Clone(run), name)
		}
		below = c
		if err != nil {
			out.refused = unsigned(c, err)
			continue
		}
		next, refused, err := v.step(out.at, c, run)
		if err != nil {
			return out, err
		}
		out.refused = refused
		if refused == nil {
			out.at, run, below = next, nil, nil
		}
	}
	return out, nil
}

// step judges the change from an accepted state to a commit.
func (v *verifier) step(at checkpoint, c *commit, signers []string) (checkpoint, *Refusal, error) {
	signers = slices.Sorted(slices.Values(signers))
	paths, err := v.o.changedPaths(at.c.tree, c.tree)
	if err != nil {
		return at, nil, err
	}
	if s := at.policy.Judge(paths, signers); s != nil {
		return at, shortfallRefusal(c, s, signers), nil
	}
	next := checkpoint{c: c, policy: at.policy, signers: signers}
	if !slices.ContainsFunc(paths, at.policy.Touches) {
		return next, nil, nil
	}
	policy, err := v.policyAt(c)
	var problems trust.Problems
	switch {
	case errors.As(err, &problems):
		return at, refuse(c, ReasonPolicy, "changes who may sign what, but cannot be used: %v", err), nil
	case err != nil:
		return at, nil, err
	case policy.Version == 0:
		return at, refuse(c, ReasonPolicy, "removes trust.yaml; put it back"), nil
	case at.policy.Version > 0 && policy.Version != at.policy.Version+1:
		return at, refuse(c, ReasonPolicy, "changes who may sign what, so version in trust.yaml must be %d, one more than before, not %d", at.policy.Version+1, policy.Version), nil
	}
	next.policy = policy
	return next, nil, nil
}

// signer names who signed a commit under a policy.
func (v *verifier) signer(c *commit, policy *trust.Policy) (string, error) {
	payload, signature, err := trust.SplitCommit(c.raw)
	if err != nil {
		return "", err
	}
	return policy.Verify(payload, signature)
}

// complete reads everything that the move to id adds: all of its commits and
// trees, and that every file is there. Packs were hashed entry by entry when
// they came, so presence is enough for files.
func (v *verifier) complete(accepted *Commit, id plumbing.Hash) error {
	var haves []plumbing.Hash
	if accepted != nil {
		base, err := parseID(accepted.ID)
		if err != nil {
			return err
		}
		haves = append(haves, base)
	}
	return newObjects(v.o, v.g, haves, id, 1<<31, func(id plumbing.Hash, t plumbing.ObjectType) error {
		if t == plumbing.BlobObject && !v.o.has(id) {
			return &NotFoundError{ID: id.String()}
		}
		return nil
	})
}

// refuse builds a refusal whose sentence begins with the commit.
func refuse(c *commit, reason Reason, format string, a ...any) *Refusal {
	d := c.describe(nil)
	return &Refusal{Commit: d.ID, Subject: d.Subject, Reason: reason,
		Sentence: fmt.Sprintf("commit %s (%s) ", d.Short(), d.Subject) + fmt.Sprintf(format, a...)}
}

// unsigned turns the reason why a commit has no signer into a refusal.
func unsigned(c *commit, err error) *Refusal {
	switch {
	case errors.Is(err, trust.ErrUnsigned):
		return refuse(c, ReasonUnsigned, "is not signed; nothing changes until a signed commit is on top of it")
	case errors.Is(err, trust.ErrUnknownKey):
		return refuse(c, ReasonUnknownSigner, "is %s; nothing changes until a commit by a listed signer is on top of it", oneLine(err.Error()))
	}
	return refuse(c, ReasonBadSignature, "has an unacceptable signature: %s", oneLine(err.Error()))
}

// shortfallRefusal explains a shortfall with its numbers.
func shortfallRefusal(c *commit, s *trust.Shortfall, signers []string) *Refusal {
	var r *Refusal
	if s.Rule == "" {
		r = refuse(c, ReasonUnauthorised, "changes %s, which no rule of trust.yaml governs; end its rules with one for \"**\"", oneLine(s.Path))
	} else {
		who := strings.Join(s.Admits, ", ")
		have := "none of them signed"
		if len(s.Counted) > 0 {
			have = "only " + strings.Join(s.Counted, ", ") + " signed"
		}
		r = refuse(c, ReasonUnauthorised, "changes %s, for which %s wants %d of %s; %s this tree (signed by %s)", oneLine(s.Path), s.Rule, s.Needed, who, have, strings.Join(signers, ", "))
	}
	r.Path, r.Rule, r.Needed, r.Signers = s.Path, s.Rule, s.Needed, signers
	return r
}

// readAllowed reads and parses the pinned signers.
func readAllowed(path string) (*trust.AllowedSigners, error) {
	src, err := readBounded(path, signersBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &OptionsError{fmt.Errorf("cannot read allowedSigners: %w", err)}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read allowedSigners: %w", err)
	}
	a, err := trust.ParseAllowedSigners(path, bytes.TrimPrefix(src, []byte("\ufeff")))
	if err != nil {
		return nil, &OptionsError{fmt.Errorf("cannot read allowedSigners: %w", err)}
	}
	if _, err := trust.Default(a); err != nil {
		return nil, &OptionsError{fmt.Errorf("cannot use allowedSigners: %w", err)}
	}
	return a, nil
}
