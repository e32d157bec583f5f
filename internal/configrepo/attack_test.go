package configrepo

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

// Each attack happens on a host that has accepted `base`; the tip it makes must
// be refused for the reason given, and base must stay accepted.
func TestAttacksOnTheTip(t *testing.T) {
	type scene struct {
		*fixture
		base   string
		mallet *sign.Key
	}
	for name, attack := range map[string]struct {
		reason Reason
		do     func(s scene)
		says   string
	}{
		"unsigned": {ReasonUnsigned, func(s scene) { s.commit(nil, "x", "a", "2") }, "not signed"},
		"unsigned and empty": {ReasonUnsigned, func(s scene) {
			s.commit(nil, "x")
		}, "not signed"},
		"wrong key": {ReasonUnknownSigner, func(s scene) { s.commit(s.mallet, "x", "a", "2") }, "not listed"},
		"copied signer": {ReasonBadSignature, func(s scene) {
			s.change(sign.Change{Signer: stolen{s.anna}, Message: "x", Files: pairs([]string{"a", "2"})})
		}, "does not verify"},
		"not armoured": {ReasonBadSignature, func(s scene) {
			s.change(sign.Change{Signer: text("hello"), Message: "x", Files: pairs([]string{"a", "2"})})
		}, "neither SSH nor OpenPGP"},
		"x509":           {ReasonBadSignature, func(s scene) { s.change(sign.Change{Signer: text("-----BEGIN SIGNED MESSAGE-----"), Message: "x"}) }, "X.509"},
		"outside a rule": {ReasonUnauthorised, func(s scene) { s.commit(s.ci, "x", "shop/production/g", "2") }, "signed by ci"},
		"partly outside": {ReasonUnauthorised, func(s scene) { s.commit(s.ci, "x", "shop/staging/g", "2", "z", "1") }, "changes z"},
		"below threshold": {ReasonUnauthorised, func(s scene) {
			s.commit(s.anna, "x", "hosts/web-9.yaml", "publicKey: evil\n")
		}, "wants 2 of anna, bo"},
		"one signer twice": {ReasonUnauthorised, func(s scene) {
			s.commit(s.anna, "x", "hosts/web-9.yaml", "1")
			s.commit(s.anna, "again")
		}, "only anna signed"},
		"another tree in between": {ReasonUnauthorised, func(s scene) {
			s.commit(s.anna, "x", "hosts/web-9.yaml", "1")
			s.commit(s.bo, "y", "a", "3")
		}, "only bo signed"},
		"moved file": {ReasonUnauthorised, func(s scene) {
			s.commit(s.ci, "x", "a", "-", "shop/staging/a", "1")
		}, "changes a,"},
		"mode only": {ReasonUnauthorised, func(s scene) {
			s.change(sign.Change{Signer: s.ci, Message: "x", Files: pairs([]string{"a", "1"}), Modes: map[string]fs.FileMode{"a": 0o755}})
		}, "changes a,"},
		"trust by one": {ReasonUnauthorised, func(s scene) {
			s.commit(s.anna, "x", "trust.yaml", s.trust(2))
		}, "changes trust.yaml"},
		"trust by ci, folded into a branch": {ReasonUnauthorised, func(s scene) {
			side := s.change(sign.Change{Message: "evil", Aside: true, Files: pairs([]string{"trust.yaml", s.trust(2)})})
			s.change(sign.Change{Signer: s.ci, Message: "merge", Parents: []string{s.base, side}, Files: pairs([]string{"trust.yaml", s.trust(2)})})
		}, "changes trust.yaml"},
		"trust removed": {ReasonPolicy, func(s scene) {
			s.commit(s.anna, "x", "trust.yaml", "-")
			s.commit(s.bo, "approve")
		}, "removes trust.yaml"},
		"trust without a new version": {ReasonPolicy, func(s scene) {
			s.commit(s.anna, "x", "trust.yaml", s.trust(1)+"# changed\n")
			s.commit(s.bo, "approve")
		}, "must be 2"},
		"trust jumping a version": {ReasonPolicy, func(s scene) {
			s.commit(s.anna, "x", "trust.yaml", s.trust(3))
			s.commit(s.bo, "approve")
		}, "must be 2"},
		"trust broken": {ReasonPolicy, func(s scene) {
			s.commit(s.anna, "x", "trust.yaml", strings.Replace(s.trust(2), "threshold: 2", "treshold: 2", 1))
			s.commit(s.bo, "approve")
		}, "did you mean threshold?"},
		"trust as a link": {ReasonPolicy, func(s scene) {
			s.change(sign.Change{Signer: s.anna, Message: "x", Files: pairs([]string{"trust.yaml", "fleet.yaml"}), Modes: map[string]fs.FileMode{"trust.yaml": fs.ModeSymlink}})
			s.commit(s.bo, "approve")
		}, "not a regular file"},
		"replay of an old signed commit": {ReasonBehind, func(s scene) { s.reset(s.intro) }, "older than the accepted"},
		"force push, unsigned": {ReasonNotDescendant, func(s scene) {
			s.reset(s.change(sign.Change{Message: "x", Parents: []string{s.intro}, Aside: true, Files: pairs([]string{"a", "9"})}))
		}, "rewritten"},
		"force push, by an outsider": {ReasonNotDescendant, func(s scene) {
			s.reset(s.change(sign.Change{Signer: s.mallet, Message: "x", Parents: []string{s.intro}, Aside: true, Files: pairs([]string{"a", "9"})}))
		}, "rewritten"},
		"fork, signed": {ReasonForked, func(s scene) {
			s.reset(s.change(sign.Change{Signer: s.bo, Message: "x", Parents: []string{s.intro}, Aside: true, Files: pairs([]string{"a", "9"})}))
		}, "two histories"},
		"another history, signed": {ReasonForked, func(s scene) {
			s.reset(s.change(sign.Change{Signer: s.bo, Message: "x", Parents: []string{}, Aside: true, Files: pairs([]string{"a", "9"})}))
		}, "two histories"},
		"merge that drags an unauthorised tree": {ReasonUnauthorised, func(s scene) {
			side := s.change(sign.Change{Message: "evil", Parents: []string{s.intro}, Aside: true, Files: pairs([]string{"hosts/evil.yaml", "1"})})
			s.change(sign.Change{Signer: s.anna, Message: "merge", Parents: []string{side, s.base}, Files: pairs([]string{"a", "1"})})
		}, "hosts/evil.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			s := scene{fixture: f, base: f.commit(f.anna, "base", "a", "1"), mallet: newKey(t, "mallet")}
			r := f.open()
			wantAccepted(t, mustSync(t, r), s.base)
			attack.do(s)
			out := mustSync(t, r)
			wantRefused(t, out, attack.reason, s.base)
			if out.Moved || !strings.Contains(out.Refused.Sentence, attack.says) {
				t.Fatalf("moved %v: %s", out.Moved, out.Refused.Sentence)
			}
			if again := mustSync(t, r); again.Refused == nil || again.Fetched != 0 {
				t.Fatalf("the same tip again costs %d bytes", again.Fetched)
			}
			f.o.Dir = filepath.Join(t.TempDir(), "late")
			if attack.reason == ReasonUnauthorised || attack.reason == ReasonUnsigned || attack.reason == ReasonPolicy {
				// A host that sees all of it at once comes to the same end.
				late := mustSync(t, f.open())
				want := s.base
				if strings.HasPrefix(name, "merge") {
					want = s.intro // base is not on this tip's first-parent line
				}
				wantRefused(t, late, attack.reason, want)
			}
			// A commit on top by those who may ends it, if history allows.
			if attack.reason != ReasonUnauthorised && attack.reason != ReasonUnsigned && attack.reason != ReasonUnknownSigner && attack.reason != ReasonBadSignature {
				f.reset(s.base)
			}
			f.commit(f.anna, "repaired", "a", "5", "hosts/web-9.yaml", "-", "hosts/evil.yaml", "-", "trust.yaml", f.trust(1))
			end := f.commit(f.bo, "approved")
			out = mustSync(t, r)
			wantAccepted(t, out, end)
		})
	}
}

func (f *fixture) reset(id string) {
	f.t.Helper()
	if err := f.git.SetTip(id); err != nil {
		f.t.Fatal(err)
	}
}

// stolen signs something else than the commit.
type stolen struct{ k *sign.Key }

func (s stolen) Sign([]byte) ([]byte, error) { return s.k.Sign([]byte("something else")) }

type text string

func (s text) Sign([]byte) ([]byte, error) { return []byte(s), nil }

// In "repaired" above the first commit restores everything, so that nothing is
// left of what was refused; here an unsigned commit is vouched for instead.
func TestASignedCommitVouchesForUnsignedOnesBelow(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	mustSync(t, r)
	f.commit(nil, "unsigned", "a", "2")
	wantRefused(t, mustSync(t, r), ReasonUnsigned, f.intro)
	tip := f.commit(f.bo, "signed on top", "b", "3")
	out := mustSync(t, r)
	wantAccepted(t, out, tip)
	if !slices.Equal(out.Accepted.Signers, []string{"bo"}) {
		t.Fatal(out.Accepted.Signers)
	}
	tree, err := r.Tree(tip)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := fs.ReadFile(tree, "a"); string(data) != "2" {
		t.Fatalf("%q", data)
	}
}

func TestTwoSignersAndANewPolicy(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	mustSync(t, r)
	f.commit(f.anna, "host", "hosts/web-1.yaml", "1")
	wantRefused(t, mustSync(t, r), ReasonUnauthorised, f.intro)
	tip := f.commit(f.bo, "approve")
	out := mustSync(t, r)
	wantAccepted(t, out, tip)
	if !slices.Equal(out.Accepted.Signers, []string{"anna", "bo"}) {
		t.Fatal(out.Accepted.Signers)
	}
	// ci's key is exchanged; the old one counts until the change is approved.
	old := f.ci
	f.ci = newKey(t, "ci2")
	f.commit(f.anna, "rotate", "trust.yaml", f.trust(2))
	f.commit(f.bo, "approve")
	wantNext := f.commit(f.ci, "deploy", "shop/staging/g", "1")
	wantAccepted(t, mustSync(t, r), wantNext)
	f.commit(old, "deploy", "shop/staging/g", "2")
	wantRefused(t, mustSync(t, r), ReasonUnknownSigner, wantNext)
	// A host that was off all the time walks the policies one by one.
	wantRefused(t, mustSync(t, f.host("late")), ReasonUnknownSigner, wantNext)
}

// Hosts that poll at different moments must agree; see DESIGN.md.
func TestPollingSeldomComesToTheSameEnd(t *testing.T) {
	f := newFixture(t)
	often := f.open()
	mustSync(t, often)
	f.commit(f.ci, "staging", "shop/staging/g", "1")
	mustSync(t, often)
	f.commit(f.bo, "production", "shop/production/g", "1")
	last := mustSync(t, often)
	ci := f.commit(f.ci, "staging again", "shop/staging/g", "2")
	wantAccepted(t, mustSync(t, often), ci)
	f.commit(nil, "unsigned", "x", "1")
	seldom := mustSync(t, f.host("seldom"))
	wantRefused(t, seldom, ReasonUnsigned, ci)
	if !last.Moved || !seldom.Moved {
		t.Fatal("not moved")
	}
}

func TestAForkEndsWithASignedMerge(t *testing.T) {
	f := newFixture(t)
	a := f.commit(f.anna, "a", "a", "1")
	r := f.open()
	wantAccepted(t, mustSync(t, r), a)
	b := f.change(sign.Change{Signer: f.bo, Message: "b", Parents: []string{f.intro}, Aside: true, Files: pairs([]string{"b", "1"})})
	f.reset(b)
	wantRefused(t, mustSync(t, r), ReasonForked, a)
	for name, parents := range map[string][]string{"ours first": {a, b}, "theirs first": {b, a}} {
		t.Run(name, func(t *testing.T) {
			other := f.host(strings.ReplaceAll(name, " ", "-"))
			f.reset(a)
			wantAccepted(t, mustSync(t, other), a)
			m := f.change(sign.Change{Signer: f.bo, Message: "merge", Parents: parents, Aside: true, Files: pairs([]string{"a", "1", "b", "1"})})
			f.reset(m)
			wantAccepted(t, mustSync(t, other), m)
			if on, err := other.IsAncestor(a, m); err != nil || !on {
				t.Fatal(on, err)
			}
		})
	}
}

func TestTheIntroductionIsPinned(t *testing.T) {
	f := newFixture(t)
	second := f.commit(f.bo, "second", "a", "1")
	// Pinned to a commit that the pinned signers did not sign.
	f.o.Introduction = second
	out := mustSync(t, f.open())
	wantRefused(t, out, ReasonIntroduction, "")
	if !strings.Contains(out.Refused.Sentence, "not signed by anyone in") {
		t.Fatal(out.Refused.Sentence)
	}
	// Pinned to a commit of another repository.
	g := newFixture(t)
	g.o.Introduction = f.intro
	wantRefused(t, mustSync(t, g.open()), ReasonIntroduction, "")
	// The pin was changed under an existing ratchet.
	h := newFixture(t)
	mustSync(t, h.open())
	h.o.Introduction = f.intro
	if _, err := New(h.o); err == nil || !strings.Contains(err.Error(), "belongs to the introduction") {
		t.Fatal(err)
	}
}

func TestWithoutTrustFileThePinnedSignersDecide(t *testing.T) {
	f := newFixture(t)
	f.reset(f.change(sign.Change{Signer: f.anna, Message: "bare", Parents: []string{}, Aside: true, Files: pairs([]string{"fleet.yaml", "1"})}))
	tip, _ := f.git.Tip()
	f.o.Introduction = tip
	r := f.open()
	wantAccepted(t, mustSync(t, r), tip)
	f.commit(f.bo, "bo is nobody yet", "a", "1")
	wantRefused(t, mustSync(t, r), ReasonUnknownSigner, tip)
	next := f.commit(f.anna, "trust", "trust.yaml", f.trust(1))
	wantAccepted(t, mustSync(t, r), next)
	last := f.commit(f.bo, "now bo may", "a", "2")
	wantAccepted(t, mustSync(t, r), last)
}

func TestALostMirrorIsFetchedAgainAndTheRatchetStays(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"deleted": os.RemoveAll,
		"packs deleted": func(dir string) error {
			return os.RemoveAll(filepath.Join(dir, "objects"))
		},
		"pack overwritten": func(dir string) error {
			list, err := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
			if err != nil || len(list) == 0 {
				return errors.New("no pack")
			}
			for _, p := range list {
				info, _ := os.Stat(p)
				if err := errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, make([]byte, info.Size()), 0o600)); err != nil {
					return err
				}
			}
			return nil
		},
		"pack truncated": func(dir string) error {
			list, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
			for _, p := range list {
				if err := errors.Join(os.Chmod(p, 0o600), os.Truncate(p, 40)); err != nil {
					return err
				}
			}
			return nil
		},
		"index garbage": func(dir string) error {
			list, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
			for _, p := range list {
				if err := errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, []byte("garbage"), 0o600)); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		for _, restart := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t)
				base := f.commit(f.anna, "base", "a", "1")
				r := f.open()
				wantAccepted(t, mustSync(t, r), base)
				if err := damage(r.mirrorDir()); err != nil {
					t.Fatal(err)
				}
				if restart {
					r = f.open()
				} else if tree, err := r.Tree(base); err == nil {
					if _, err := fs.ReadFile(tree, "a"); err == nil {
						t.Fatal("read from a damaged mirror")
					}
				}
				if c, ok := r.Accepted(); !ok || c.ID != base {
					t.Fatalf("the ratchet moved: %+v", c)
				}
				f.reset(f.intro)
				if out, err := r.Sync(context.Background()); err == nil && (out.Accepted.ID != base || out.Refused == nil) {
					t.Fatalf("an older commit came back: %+v", out)
				}
				f.reset(base)
				next := f.commit(f.bo, "next", "b", "1")
				wantAccepted(t, mustSync(t, r), next)
				tree, err := r.Tree(next)
				if err != nil {
					t.Fatal(err)
				}
				if data, err := fs.ReadFile(tree, "a"); err != nil || string(data) != "1" {
					t.Fatal(string(data), err)
				}
			})
		}
	}
}

func TestADeletedRatchetIsGuardedByTheFloor(t *testing.T) {
	f := newFixture(t)
	base := f.commit(f.anna, "base", "a", "1")
	r := f.open()
	wantAccepted(t, mustSync(t, r), base)
	if err := os.Remove(ratchetPath(f.o.Dir)); err != nil {
		t.Fatal(err)
	}
	r = f.open()
	if err := r.RaiseFloor(base, "which the fleet has run"); err != nil {
		t.Fatal(err)
	}
	f.reset(f.intro) // a replay of an old, well-signed tip
	out := mustSync(t, r)
	wantRefused(t, out, ReasonBehind, "")
	if want := "does not contain " + base[:10] + ", which the fleet has run"; !strings.HasSuffix(out.Refused.Sentence, want) {
		t.Errorf("%q, want %q", out.Refused.Sentence, want)
	}
	f.reset(base)
	wantAccepted(t, mustSync(t, r), base)
	if err := os.WriteFile(ratchetPath(f.o.Dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(f.o); err == nil || !strings.Contains(err.Error(), "ratchet") {
		t.Fatal(err)
	}
}

// Where the disk fails while the ratchet moves, it may have moved: what it would name
// must stay.
func TestARatchetThatMayHaveMovedKeepsItsPack(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	mustSync(t, r)
	tip := f.commit(f.anna, "next", "a", "1")
	path := ratchetPath(f.o.Dir)
	if err := errors.Join(os.Rename(path, path+".away"), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sync(context.Background()); err == nil {
		t.Fatal("the ratchet moved")
	}
	id, err := parseID(tip)
	if err != nil {
		t.Fatal(err)
	}
	if !openObjects(r.mirrorDir(), false).has(id) {
		t.Error("the commit is gone")
	}
	if err := errors.Join(os.RemoveAll(path), os.Rename(path+".away", path)); err != nil {
		t.Fatal(err)
	}
	wantAccepted(t, mustSync(t, r), tip)
	wantAccepted(t, mustSync(t, f.open()), tip)
}

func TestLeftoversAreRemoved(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	mustSync(t, r)
	packs := packDir(r.mirrorDir())
	for _, name := range []string{"incoming-123", "tmp_pack_9", "pack-" + strings.Repeat("0", 40) + ".idx"} {
		if err := os.WriteFile(filepath.Join(packs, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustSync(t, r)
	list, _ := os.ReadDir(packs)
	if len(list) != 2 {
		t.Fatalf("%v", list)
	}
}
