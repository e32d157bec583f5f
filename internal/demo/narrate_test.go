package demo

import (
	"strings"
	"testing"
)

func TestTraffic(t *testing.T) {
	moved := traffic{size: 1000 << 10, payload: 998 << 10, archives: 998 << 10, indexes: 100, holders: 5}
	if want := "998 KiB left S3 (and 100 B of index), 3.9 MiB came from peers: five hosts hold the bundle of 1000 KiB"; moved.sentence() != want {
		t.Errorf("got  %s\nwant %s", moved.sentence(), want)
	}
	alone := traffic{size: 10, payload: 9, archives: 9, holders: 1}
	if alone.peers() != 0 || !strings.Contains(alone.sentence(), "one host holds") {
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

func TestHintsAreCommandsOfOneLine(t *testing.T) {
	p := place{dir: "/tmp/it's a demo", sockets: "/tmp/it's a demo"}
	n := 0
	for _, h := range hints(p, "web-1", "http://127.0.0.1:1") {
		for _, line := range h.commands {
			n++
			if strings.Contains(line, "\n") || !strings.Contains(line, `it'\''s a demo`) {
				t.Errorf("%q is not one line with the demo's folder quoted", line)
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
