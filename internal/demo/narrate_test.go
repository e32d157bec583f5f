package demo

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

func TestTraffic(t *testing.T) {
	moved := traffic{size: 1000 << 10, payload: 998 << 10, archives: 998 << 10, indexes: 100, holders: 5}
	if want := "998 KiB left S3 (and 100 B of index), 3.9 MiB came from peers: five hosts hold the bundle of 1000 KiB"; moved.sentence() != want {
		t.Errorf("got  %s\nwant %s", moved.sentence(), want)
	}
	alone := traffic{size: 10, payload: 9, archives: 9, holders: 1}
	if alone.peers() != 0 || alone.sentence() != "9 B left S3 (and 0 B of index): one host holds the bundle of 10 B" {
		t.Errorf("one host: %s", alone.sentence())
	}
	if got := (traffic{}).sentence(); got != "nothing left S3" {
		t.Errorf("nothing moved: %s", got)
	}
}

func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		plot  plot
		hosts int
		want  string
	}{
		{plot{target: "1", after: "1"}, 5, "   -> five ports serve release 1.\n   -> BYTES.\n"},
		{plot{target: "1", after: "1"}, 1, "   -> one port serves release 1.\n   -> BYTES.\n"},
		{plot{target: "3", after: "2"}, 12, "   -> 12 ports serve release 2 and only one host ever tried release 3.\n   -> BYTES.\n"},
		{plot{target: "2", after: "2", still: true}, 5, "   -> five ports served release 2 all the time.\n   -> BYTES.\n"},
	} {
		if got := outcome(c.plot, c.hosts, "BYTES"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestOneHostHasNoPeers(t *testing.T) {
	for _, text := range []string{opening("/d", 1, 1), totals(3, 10, 30, 0, 1)} {
		if strings.Contains(text, "peers") || strings.Contains(text, "each with") {
			t.Errorf("of one host: %s", text)
		}
	}
	if got := totals(3, 10, 30, 120, 5); !strings.Contains(got, "30 B left S3, 120 B came from peers; both") {
		t.Errorf("of five: %s", got)
	}
}

func TestFailedSaysWhere(t *testing.T) {
	g := website("Succeeded")
	if got := failed(g, nil); got != "" {
		t.Errorf("nothing failed: %q", got)
	}
	g.Failures = []status.Failure{{Deployment: "d-1", Host: "web-1", Event: status.Event{Event: "ValidateService", Diagnostics: &status.Diagnostics{Message: "hooks/validate.sh failed with exit code 1", LogTail: "asking\nit is \x1b[31mbad\n"}}}}
	waves := map[string]string{"d-1": inWave(&status.Deployment{Wave: 1, Waves: 2}), "d-2": inWave(&status.Deployment{Wave: 1, Waves: 1})}
	if want := "   -> Failed in wave 1 of 2 on web-1, ValidateService: hooks/validate.sh failed with exit code 1\n      it is ?[31mbad\n"; failed(g, waves) != want {
		t.Errorf("got  %q\nwant %q", failed(g, waves), want)
	}
	if g.Failures[0].Deployment = "d-2"; !strings.HasPrefix(failed(g, waves), "   -> Failed on web-1, ") {
		t.Errorf("with one wave: %q", failed(g, waves))
	}
}

func TestHintsAreShortCommandsOfOneLine(t *testing.T) {
	p := place{dir: "/tmp/it's a demo", sockets: "/tmp/it's a demo"}
	n := 0
	for i, h := range hints(p, "web-1", "http://127.0.0.1:1") {
		for _, line := range h.commands {
			n++
			if strings.Contains(line, "\n") || strings.Contains(line, "it's") || strings.Contains(line, `it'\''s a demo`) != (i == 0) {
				t.Errorf("%q is not one line, with the demo's folder quoted in the first alone", line)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d commands", n)
	}
}

func TestClosingSaysWhatBecomesOfTheFolder(t *testing.T) {
	if got := closing(place{dir: "/d", made: true}, nil, nil); !strings.Contains(got, "removes /d") {
		t.Errorf("own folder: %s", got)
	}
	if got := closing(place{dir: "/d"}, nil, nil); !strings.Contains(got, "leaves /d") {
		t.Errorf("the user's folder: %s", got)
	}
}
