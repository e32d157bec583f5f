package agent

import (
	"strings"
	"testing"

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
