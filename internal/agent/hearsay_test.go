package agent

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/configrepo"
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
	}
	heard := heardRefusals(facts, "web-1")
	if len(heard) != 1 || heard["web-5"].Sentence != "no signature" {
		t.Errorf("heard %v, want web-5's alone", heard)
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
	if why, refused := r.refusalOf(foreign); !refused || why != "it is unsigned" {
		t.Errorf("the foreign commit: %q, %v", why, refused)
	}
	if _, refused := r.refusalOf(accepted.ID); refused {
		t.Error("an accepted commit counts as refused because another host says so")
	}
}
