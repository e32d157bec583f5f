package configrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
)

// Sync asks the first mirror that answers for the tip, fetches, verifies, and
// moves the accepted commit. A refused tip is no error (see Outcome.Refused);
// the other mirrors are then asked too, since one that is stale or hostile must
// not hide what another has. The error is a *SyncError when no mirror could be
// used, ErrNoMirrors when there is none.
func (r *Repo) Sync(ctx context.Context) (Outcome, error) {
	if err := r.take(ctx); err != nil {
		return Outcome{}, err
	}
	defer r.give()
	out := Outcome{}
	out.Accepted, _ = r.Accepted()
	if len(r.o.URLs) == 0 {
		return out, ErrNoMirrors
	}
	if err := r.tidy(); err != nil {
		return out, fmt.Errorf("cannot prepare the mirror: %w", err)
	}
	var failed SyncError
	answered := false
	for _, url := range r.o.URLs {
		got, err := r.syncFrom(ctx, url)
		if err != nil {
			if ctx.Err() != nil {
				return out, fmt.Errorf("cannot sync the config repository: %w", ctx.Err())
			}
			failed.Mirrors = append(failed.Mirrors, err)
			continue
		}
		out = r.merge(out, got, answered)
		answered = true
		if out.Refused == nil {
			break
		}
	}
	if !answered {
		return out, &failed
	}
	for _, m := range failed.Mirrors {
		r.o.Log.Warn("a mirror of the config repository cannot be used", "mirror", m.URL, "error", oneLine(m.Err.Error()))
	}
	return out, nil
}

func (r *Repo) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot sync the config repository: %w", ctx.Err())
	}
}

func (r *Repo) give() { <-r.turn }

// merge adds a further mirror's outcome to what earlier ones gave: an earlier
// refusal stands until what is accepted contains the refused commit.
func (r *Repo) merge(before, got Outcome, second bool) Outcome {
	if !second {
		return got
	}
	got.Moved = got.Moved || before.Moved
	got.Fetched += before.Fetched
	if before.Refused == nil {
		return got
	}
	if on, err := r.IsAncestor(before.Refused.Commit, got.Accepted.ID); err != nil || !on {
		got.Refused, got.Tip, got.Mirror = before.Refused, before.Tip, before.Mirror
	}
	return got
}

// syncFrom does a whole cycle with one mirror.
func (r *Repo) syncFrom(ctx context.Context, url string) (Outcome, *MirrorError) {
	rem, err := parseRemote(url, r.o.AllowLocalPath)
	if err != nil {
		return Outcome{}, &MirrorError{URL: url, Err: err, Permanent: true}
	}
	limited, cancel := context.WithTimeout(ctx, r.o.Limits.Timeout)
	defer cancel()
	out, err := r.cycle(limited, url, rem)
	if err == nil {
		out.Mirror = rem.name
		return out, nil
	}
	if ctx.Err() == nil && limited.Err() != nil {
		err = fmt.Errorf("no answer within %s", r.o.Limits.Timeout)
	}
	return out, &MirrorError{URL: rem.name, Err: err, Permanent: isPermanent(err)}
}

func (r *Repo) cycle(ctx context.Context, url string, rem remote) (Outcome, error) {
	up, err := connect(rem, r.o.Branch, r.o.Credentials, r.o.Limits)
	if err != nil {
		return Outcome{}, err
	}
	tip, err := up.tip(ctx)
	up.close()
	if err != nil {
		return Outcome{}, err
	}
	if tip.IsZero() {
		return Outcome{}, permanent("there is no branch %s", r.o.Branch)
	}
	healthy := r.healthy()
	if out, ok := r.nothingNew(tip); ok {
		return out, nil
	}
	return r.obtain(ctx, healthy, job{Kind: "fetch", Protocol: protocolOf(up), URL: url, Branch: r.o.Branch, AllowLocal: r.o.AllowLocalPath,
		Want: tip.String(), Credentials: r.o.Credentials, Limits: r.o.Limits}, tip)
}

// nothingNew answers for a tip that was judged before.
func (r *Repo) nothingNew(tip plumbing.Hash) (Outcome, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := tip.String()
	if r.accepted == nil || r.suspect {
		return Outcome{}, false
	}
	out := Outcome{Accepted: *r.accepted, Tip: id}
	if r.accepted.ID == id {
		return out, true
	}
	if k := r.refused; k != nil && k.tip == id && k.base == r.accepted.ID && k.floor == r.floor {
		out.Refused = k.refusal
		return out, true
	}
	return out, false
}

// obtain gets a tip's objects and judges them: with what a healthy mirror
// lacks, or, if the mirror turns out to be damaged, everything from the start.
func (r *Repo) obtain(ctx context.Context, healthy bool, j job, tip plumbing.Hash) (Outcome, error) {
	if healthy {
		out, err := r.attempt(ctx, j, r.mirrorDir(), tip)
		if err == nil || !damaged(err) {
			return out, err
		}
		if j.Kind == "index" || r.rebuilt == tip {
			return out, fmt.Errorf("what was sent is incomplete: %w", err)
		}
		r.o.Log.Warn("fetching the config repository from the start", "reason", oneLine(err.Error()))
	}
	if err := os.RemoveAll(r.freshDir()); err != nil {
		return Outcome{}, err
	}
	if err := initMirror(r.freshDir(), r.o.Branch); err != nil {
		return Outcome{}, err
	}
	out, err := r.attempt(ctx, j, r.freshDir(), tip)
	if err != nil {
		if damaged(err) {
			if j.Kind == "fetch" {
				r.rebuilt = tip
			}
			err = fmt.Errorf("what was sent is incomplete: %w", err)
		}
		return out, err
	}
	return out, nil
}

// attempt runs the job against dir and judges the tip there.
func (r *Repo) attempt(ctx context.Context, j job, dir string, tip plumbing.Hash) (Outcome, error) {
	fresh := dir != r.mirrorDir()
	accepted, known := r.Accepted()
	if known && !fresh {
		j.Haves = r.haves(accepted)
	}
	j.Mirror = dir
	got, err := j.runIn(ctx, r.o.Child)
	if err != nil {
		_ = removeLeftovers(packDir(dir))
		return Outcome{}, err
	}
	out, err := r.judge(dir, tip)
	out.Fetched = got.Bytes
	var unsure *unsureError
	if !fresh && !errors.As(err, &unsure) && (err != nil || !out.Moved) {
		removePack(dir, got.Name)
		r.forget()
	}
	return out, err
}

// haves names what the other side need not send: the accepted commit, and some
// first-parent ancestors at doubling distance in case it knows only those.
func (r *Repo) haves(accepted Commit) []string {
	o := r.reader()
	out := []string{accepted.ID}
	at, err := parseID(accepted.ID)
	for step, next := 0, 1; err == nil && len(out) < 16; step++ {
		var parents []plumbing.Hash
		if parents, err = r.graph.of(o, at); err != nil || len(parents) == 0 {
			break
		}
		if at = parents[0]; step+1 == next {
			out = append(out, at.String())
			next *= 2
		}
	}
	return out
}

// healthy looks the mirror over once a process, and after damage was seen: the
// accepted commit, all its folders, and that all its files are there.
func (r *Repo) healthy() bool {
	r.mu.Lock()
	suspect, accepted := r.suspect, r.accepted
	r.mu.Unlock()
	if !suspect || accepted == nil {
		return true
	}
	if err := r.inspectTree(accepted.ID); err != nil {
		r.o.Log.Warn("the mirror of the config repository is damaged", "error", oneLine(err.Error()))
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspect = false
	return true
}

func (r *Repo) inspectTree(id string) error {
	o := openObjects(r.mirrorDir(), true)
	defer o.Close()
	h, err := parseID(id)
	if err != nil {
		return err
	}
	c, err := o.commit(h)
	if err != nil {
		return err
	}
	return o.diffTrees(plumbing.ZeroHash, c.tree, func(_ string, _, e entry) error {
		if e.isTree() || isSubmodule(e) {
			return nil
		}
		return o.verify(e.id, plumbing.BlobObject, r.o.Limits.ObjectBytes)
	})
}

// judge verifies a tip whose objects are in dir and moves the ratchet.
func (r *Repo) judge(dir string, tip plumbing.Hash) (Outcome, error) {
	r.mu.Lock()
	accepted, floor, why := r.accepted, r.floor, r.floorWhy
	r.mu.Unlock()
	o := openObjects(dir, true)
	defer o.Close()
	v := &verifier{o: o, g: r.graph, intro: r.intro, allowed: r.allowed, floor: floor, floorWhy: why, whole: dir != r.mirrorDir()}
	verdict, err := v.judge(accepted, tip)
	out := Outcome{Tip: tip.String(), Refused: verdict.refused, Moved: verdict.moved}
	if accepted != nil {
		out.Accepted = *accepted
	}
	if err != nil {
		out.Moved = false
		return out, fmt.Errorf("cannot verify commit %s: %w", short(tip.String()), err)
	}
	if verdict.moved || v.whole && verdict.at.c != nil {
		if err := r.advance(dir, verdict.at, verdict.moved); err != nil {
			out.Moved = false
			return out, err
		}
		out.Accepted, _ = r.Accepted()
	}
	if out.Refused != nil {
		r.remember(out, floor)
	}
	return out, nil
}

// advance puts a rebuilt mirror in place and moves the ratchet, in this order:
// the ratchet must never name what is not on disk.
func (r *Repo) advance(dir string, at checkpoint, moved bool) error {
	if err := r.setRef(dir, at.c.id); err != nil {
		return err
	}
	if dir != r.mirrorDir() {
		if err := r.swap(); err != nil {
			return err
		}
	}
	c := at.c.describe(at.signers)
	if moved {
		if err := saveRatchet(r.o.Dir, r.o.Introduction, c); err != nil {
			return &unsureError{err}
		}
	}
	r.mu.Lock()
	if moved {
		r.accepted = &c
	}
	r.handle, r.suspect, r.refused = nil, false, nil
	r.mu.Unlock()
	if err := r.compact(at.c.id); err != nil {
		r.o.Log.Warn("cannot rewrite the mirror as one pack", "error", err)
	}
	return nil
}

// unsureError says that the ratchet may have moved on the disk: its pack was verified,
// and stays.
type unsureError struct{ err error }

func (e *unsureError) Error() string { return e.err.Error() }
func (e *unsureError) Unwrap() error { return e.err }

func (r *Repo) remember(out Outcome, floor plumbing.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.accepted == nil {
		return
	}
	r.refused = &refusedTip{tip: out.Tip, base: r.accepted.ID, floor: floor, refusal: out.Refused}
}

// Have is what to ask a peer's Pack for: the accepted commit, or "" when the
// mirror is missing or damaged and everything is needed.
func (r *Repo) Have() string {
	accepted, ok := r.Accepted()
	if !ok || !r.healthy() {
		return ""
	}
	return accepted.ID
}

// Pack writes for a peer that has accepted commit `have` ("" for none) everything
// up to this host's accepted commit, and says how many bytes that was; nothing if
// the peer has it all or has what this host lacks. An error after the first byte
// leaves a pack that nobody can use. Ask for it seldom with have "": that is the
// whole history.
func (r *Repo) Pack(have string, w io.Writer) (int64, error) {
	accepted, ok := r.Accepted()
	if !ok || accepted.ID == have {
		return 0, nil
	}
	tip, err := parseID(accepted.ID)
	if err != nil {
		return 0, err
	}
	o := openObjects(r.mirrorDir(), true)
	defer o.Close()
	var haves []plumbing.Hash
	if have != "" {
		h, err := parseID(have)
		if err != nil {
			return 0, fmt.Errorf("cannot make a pack: %w", err)
		}
		if on, err := r.graph.isAncestor(o, h, tip); err != nil || !on {
			return 0, err
		}
		haves = append(haves, h)
	}
	out := &cappedWriter{w: w, limit: r.o.Limits.PackBytes}
	if err := writePack(o, r.graph, haves, tip, r.o.Limits, out); err != nil {
		return out.n, fmt.Errorf("cannot make a pack from %s to %s: %w", short(have), accepted.Short(), err)
	}
	return out.n, nil
}

// Receive takes a peer's pack and tip and judges them as Sync does. The pack is
// read to a file in Dir before anything else happens. An error means that the pack
// is not what it should be, or cannot be used here; a refusal means that the
// commits are not authorised. Either way nothing of the pack is kept.
func (r *Repo) Receive(ctx context.Context, pack io.Reader, tip string) (Outcome, error) {
	id, err := parseID(tip)
	if err != nil {
		return Outcome{}, fmt.Errorf("cannot use a peer's pack: %w", err)
	}
	file, err := r.spool(pack)
	if err != nil {
		return Outcome{}, fmt.Errorf("cannot use a peer's pack: %w", err)
	}
	defer os.Remove(file)
	if err := r.take(ctx); err != nil {
		return Outcome{}, err
	}
	defer r.give()
	if err := r.tidy(); err != nil {
		return Outcome{}, fmt.Errorf("cannot prepare the mirror: %w", err)
	}
	healthy := r.healthy()
	if out, ok := r.nothingNew(id); ok {
		return out, nil
	}
	limited, cancel := context.WithTimeout(ctx, r.o.Limits.Timeout)
	defer cancel()
	out, err := r.obtain(limited, healthy, job{Kind: "index", File: file, Limits: r.o.Limits}, id)
	if err != nil {
		return out, fmt.Errorf("cannot use a peer's pack: %w", err)
	}
	return out, nil
}

const spoolPrefix = "peer-" // of packs while they come from peers

// spool keeps a peer's pack in a file, for the process that parses it.
func (r *Repo) spool(pack io.Reader) (file string, err error) {
	f, err := os.CreateTemp(r.o.Dir, spoolPrefix+"*.pack")
	if err != nil {
		return "", err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	b := &budget{w: f, limits: r.o.Limits}
	if _, err := io.Copy(b, pack); err != nil {
		return "", err
	}
	return f.Name(), nil
}
