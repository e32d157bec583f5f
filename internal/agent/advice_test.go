package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/status"
)

// TestNoticesSayWhatToDo: those whose own sentence tells only what is the case get it added, once.
func TestNoticesSayWhatToDo(t *testing.T) {
	told := []status.Notice{{Kind: "SourceUnreachable", Message: "no answer."}, {Kind: "Unsigned", Message: "sign it"}, {Kind: "CorruptPeer", Message: "piece 3 is wrong"}}
	r := &reader{self: "web-1", source: &source{}, sets: &sets{}, extra: func() []status.Notice { return told }}
	for range 2 {
		told = r.notices()
	}
	for i, want := range []string{"piece 3 is wrong; nothing of that bundle is taken from that host; ", "no answer; this host stays at the commit it has and tries again: ", "sign it"} {
		if !strings.HasPrefix(told[i].Message, want) || strings.Count(told[i].Message, ": ") > 1 {
			t.Errorf("%q, want %q", told[i].Message, want)
		}
	}
}

// What this host itself is to blame for is not put down to its peers, and nobody is sent to look after mirrors for it.
func TestSourceSaysWhoseFailureItIs(t *testing.T) {
	o := newOrigin(t)
	peer := newSource(t, o, t.TempDir())
	peer.syncs(t)
	f := newSource(t, o, t.TempDir())
	f.cfg.Repository.URLs, f.peer, f.pulls = nil, peer.repo(), nil
	f.source.peers = func() []string { return []string{"web-2", "web-3"} }
	if err := os.WriteFile(f.effectiveFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.look(context.Background())
	mirrors := advice["SourceUnreachable"]
	all := f.notices()
	if len(all) != 1 || len(f.pulls) != 1 {
		t.Fatalf("notices %+v after pulls from %v", all, f.pulls)
	}
	if text := advised(all[0]).Message; !strings.HasPrefix(text, "cannot read which commit is in effect from ") || !strings.HasSuffix(text, "; "+stays) || strings.Contains(text, "web-2") {
		t.Errorf("a damaged file: %q", text)
	}
	f.peer = nil
	f.look(context.Background())
	if text := advised(f.notices()[0]).Message; text != "cannot get the config repository from a peer: web-2: nobody is there; web-3: nobody is there; "+mirrors {
		t.Errorf("peers that do not answer: %q", text)
	}
	f.fail(fmt.Errorf("cannot sync the config repository: /srv/config.git: write x: %w", unix.ENOSPC))
	if text := advised(f.notices()[0]).Message; !strings.HasSuffix(text, "no space left on device; "+stays+": make room on its disk") {
		t.Errorf("a full disk: %q", text)
	}
}
