package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

func TestRefusalsAreToldWithinOneFact(t *testing.T) {
	commit := strings.Repeat("a1", 20)
	for _, sentence := range []string{"short", strings.Repeat("long ", 1000), strings.Repeat("\x00\"é", 500)} {
		told := tellRefusal(&configrepo.Refusal{Commit: commit, Reason: configrepo.ReasonUnsigned, Sentence: sentence})
		if len(told) > refusalBytesMax {
			t.Errorf("a refusal of %d bytes is told in %d, want at most %d", len(sentence), len(told), refusalBytesMax)
		}
		heard := heardRefusals(map[string][]byte{"web-2": told}, "web-1")
		got, ok := heard["web-2"]
		if !ok || got.Commit != commit || got.Reason != configrepo.ReasonUnsigned || got.Sentence == "" {
			t.Errorf("heard %+v, %v", got, ok)
		}
	}
	if told := tellRefusal(nil); told != nil {
		t.Errorf("taking a refusal back tells %q, want nothing", told)
	}
}

func TestHearsayIsBoundedAndChecked(t *testing.T) {
	commit := strings.Repeat("b2", 20)
	facts := map[string][]byte{
		"web-1": []byte(`{"v":1,"commit":"` + commit + `","reason":"Unsigned","sentence":"own"}`),
		"web-2": []byte(`{"v":2,"commit":"` + commit + `"}`),
		"web-3": []byte(`{"v":1,"commit":"--upload-pack=x"}`),
		"web-4": []byte(`not json`),
		"web-5": []byte(`{"v":1,"commit":"` + commit + `","reason":"Unsigned","sentence":"no signature"}`),
		"web-6": []byte(`{"v":1,"commit":"` + commit + `","reason":"\u001b]0;owned\u0007\u001b[2J","sentence":"x"}`),
		"web-7": []byte(`{"v":1,"commit":"` + commit + `","reason":"Invented","sentence":"x"}`),
		"web-8": []byte(`{"v":1,"commit":"` + commit + `","sentence":"x"}`),
		"web-9": []byte(`{"v":1,"commit":"` + commit + `","reason":"Rewound","sentence":"` + strings.Repeat("long ", 1000) + `"}`),
	}
	heard := heardRefusals(facts, "web-1")
	if len(heard) != 2 || heard["web-5"].Sentence != "no signature" || heard["web-9"].Reason != reasonRewound || len(heard["web-9"].Sentence) > refusalBytesMax {
		t.Errorf("heard %v, want web-5's and, bounded, web-9's", heard)
	}
}

func TestRefusalOfAnotherHostIsShownUntilTheCommitIsAccepted(t *testing.T) {
	f := newSource(t, newOrigin(t), t.TempDir())
	f.syncs(t)
	accepted, ok := f.source.repo().Accepted()
	if !ok {
		t.Fatal("nothing was accepted")
	}
	foreign := strings.Repeat("c3", 20)
	r := &reader{self: "web-1", source: f.source, repo: f.source.repo, heard: func() map[string]configrepo.Refusal {
		return map[string]configrepo.Refusal{"web-2": {Commit: foreign, Reason: configrepo.ReasonUnsigned, Sentence: "it is unsigned"},
			"web-3": {Commit: foreign, Reason: configrepo.ReasonUnsigned, Sentence: "it is unsigned"},
			"web-4": {Commit: accepted.ID, Reason: configrepo.ReasonUnsigned, Sentence: "a lie"}}
	}}
	if got := r.refusals(); len(got) != 1 || got[0].Host != "web-2" || got[0].Message != "it is unsigned" {
		t.Errorf("notices %+v, want one, told by web-2", got)
	}
	if why, refused := r.refusalOf(foreign); refused {
		t.Errorf("the foreign commit is refused because another host says so: %q", why)
	}
	if verified, a := r.awaitCommit(foreign); verified || a.Done || !strings.HasSuffix(a.Message, "; web-2 says: it is unsigned") {
		t.Errorf("waiting for the foreign commit: %v, %+v", verified, a)
	}
	if _, refused := r.refusalOf(accepted.ID); refused {
		t.Error("an accepted commit counts as refused because another host says so")
	}
}

// TestWaitForTheNewestTellsOfARefusedOne: without a commit, the newest is meant, and what ran before it is not its outcome.
func TestWaitForTheNewestTellsOfARefusedOne(t *testing.T) {
	f := newSource(t, newOrigin(t), t.TempDir())
	f.syncs(t)
	var heard map[string]configrepo.Refusal
	r := &reader{self: "web-1", source: f.source, repo: f.source.repo, heard: func() map[string]configrepo.Refusal { return heard }}
	group := status.Group{Group: "shop/web", State: rollout.StateSucceeded}
	if a, newer := r.newerThanHere(f.current(), group); newer {
		t.Errorf("nothing is newer: %+v", a)
	}
	for _, reason := range []configrepo.Reason{configrepo.ReasonUnsigned, configrepo.ReasonForked, reasonRewound} { // unsigned words of any member: told, never believed
		heard = map[string]configrepo.Refusal{"web-2": {Commit: strings.Repeat("c3", 20), Reason: reason, Sentence: "it is refused"}}
		if a, newer := r.newerThanHere(f.current(), group); newer {
			t.Errorf("what another host refuses as %s ends the wait: %+v", reason, a)
		}
		if got := r.withHearsay("3 of 3 succeeded", ""); got != "3 of 3 succeeded; web-2 says: it is refused" {
			t.Errorf("what another host refuses as %s is not told: %q", reason, got)
		}
	}
	heard["web-2"] = configrepo.Refusal{Commit: strings.Repeat("c3", 20), Reason: configrepo.ReasonBehind, Sentence: "the mirror lags"}
	if a, newer := r.newerThanHere(f.current(), group); newer || r.hearsay("") != "" {
		t.Errorf("a mirror that lags: %+v", a)
	}
	delete(heard, "web-2")
	f.refused = &configrepo.Refusal{Commit: strings.Repeat("d4", 20), Reason: configrepo.ReasonBehind, Sentence: "commit d4 lacks what ran here"}
	if a, newer := r.newerThanHere(f.current(), group); !newer || a.Code != waitRefused || !strings.HasPrefix(a.Message, "commit d4 lacks what ran here; ") {
		t.Errorf("a history without what ran here: %+v", a)
	}
	f.refused = &configrepo.Refusal{Commit: f.current().Commit.ID, Reason: configrepo.ReasonBehind, Sentence: "its mirror lags"}
	if a, newer := r.newerThanHere(f.current(), group); newer {
		t.Errorf("this host's mirror lags: %+v", a)
	}
	f.refused = &configrepo.Refusal{Commit: strings.Repeat("d4", 20), Sentence: "commit d4 is unsigned"}
	if a, newer := r.newerThanHere(f.current(), group); !newer || a.Code != waitRefused || !strings.HasPrefix(a.Message, "commit d4 is unsigned; ") {
		t.Errorf("what this host refuses: %+v", a)
	}
	held := *f.current()
	held.Held = "commit e5 is held"
	if a, newer := r.newerThanHere(&held, group); !newer || a.Code != waitRolledBack || !strings.HasPrefix(a.Message, "commit e5 is held; ") {
		t.Errorf("a commit that is held: %+v", a)
	}
}

// TestHearsayIsVerifiedForWhoeverWaits: a host with a route to git looks for itself instead of believing, and its own word ends the wait.
func TestHearsayIsVerifiedForWhoeverWaits(t *testing.T) {
	o := newOrigin(t)
	f := newSource(t, o, t.TempDir())
	f.syncs(t)
	unsigned := o.change(sign.Change{}, "hosts/web-1.yaml", hostFile(t, "role: web"))
	looks, stopped := 0, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(stopped)
		for {
			select {
			case answer := <-f.demands:
				looks++
				answer <- f.sync(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	r := &reader{self: "web-1", source: f.source, repo: f.source.repo, verify: f.verify, heard: func() map[string]configrepo.Refusal {
		return map[string]configrepo.Refusal{"web-2": {Commit: unsigned, Reason: configrepo.ReasonUnsigned, Sentence: "it is unsigned"}}
	}}
	for range 3 { // looked once: it may not be asked of git at every question
		if a, err := r.Wait(ctx, "shop/web", unsigned); err != nil || !a.Done || a.Code != waitRefused || strings.Contains(a.Message, "says") {
			t.Errorf("%+v %v", a, err)
		}
	}
	if a, err := r.Wait(ctx, "shop/web", strings.Repeat("c3", 20)); err != nil || a.Done {
		t.Errorf("another commit: %+v %v", a, err)
	}
	f.cfg.Repository.URLs, f.verified = nil, time.Time{}
	f.verify(ctx) // no route to git: nothing to look at
	cancel()
	<-stopped
	if looks != 1 {
		t.Errorf("looked %d times at git, want once", looks)
	}
}

// TestARefusalEndsWhenAPeerHandsOverWhatCameAfter: a host that polls seldom must not refuse for ever what has long been approved.
func TestARefusalEndsWhenAPeerHandsOverWhatCameAfter(t *testing.T) {
	o := newOrigin(t)
	f, peer := newSource(t, o, t.TempDir()), newSource(t, o, t.TempDir())
	f.syncs(t)
	unsigned := o.change(sign.Change{}, "hosts/web-1.yaml", hostFile(t, "role: web"))
	f.syncs(t)
	if refused := f.refusal(); refused == nil || refused.Commit != unsigned {
		t.Fatalf("refused %+v, want %s", refused, unsigned)
	}
	signed := o.commit("hosts/web-2.yaml", hostFile(t, "role: web"))
	peer.syncs(t)
	f.peer = peer.repo()
	if err := f.pullFrom(t.Context(), "web-2"); err != nil || f.current().Commit.ID != signed {
		t.Fatalf("at %s, %v, want %s", f.current().Commit.ID, err, signed)
	}
	if refused := f.refusal(); refused != nil || len(f.told) != 2 || f.told[1] != "" {
		t.Errorf("still refuses %+v, told %q", refused, f.told)
	}
}
