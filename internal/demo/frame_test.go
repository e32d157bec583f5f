package demo

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gitopsd/gitopsd/internal/status"
	"pgregory.net/rapid"
)

func TestCutLeavesColoursWhole(t *testing.T) {
	for _, c := range []struct {
		line  string
		width int
		want  string
	}{
		{"short", 10, "short"},
		{"exactly", 7, "exactly"},
		{"too long", 3, "too"},
		{"✔ ✖ ▸", 3, "✔ ✖"},
		{"\x1b[32mgreen\x1b[0m", 5, "\x1b[32mgreen\x1b[0m"},
		{"\x1b[32mgreen\x1b[0m apple", 3, "\x1b[32mgre\x1b[0m"},
		{"\x1b[32", 3, "\x1b[32"},
	} {
		if got := cut(c.line, c.width); got != c.want {
			t.Errorf("cut(%q, %d) is %q, want %q", c.line, c.width, got, c.want)
		}
	}
}

func TestCutNeverExceedsTheWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line, width := rapid.StringMatching(`[a-z✔ ]{0,30}`).Draw(t, "line"), rapid.IntRange(0, 20).Draw(t, "width")
		if got := utf8.RuneCountInString(cut(line, width)); got > width {
			t.Fatalf("%d columns, at most %d", got, width)
		}
	})
}

func TestFreshLines(t *testing.T) {
	got := fresh([]string{"a", "b 1", "c"}, []string{"a", "b 2", "", "c", "d"})
	if want := []string{"b 2", "d"}; !slices.Equal(got, want) {
		t.Errorf("fresh lines %q, want %q", got, want)
	}
}

// website is a report's group in which hosts have a status each.
func website(statuses ...string) status.Group {
	g := status.Group{Group: groupFolder, Name: groupName, State: "InProgress"}
	for i, s := range statuses {
		g.Hosts = append(g.Hosts, status.Host{Name: hostName(i), Status: s, Health: "healthy"})
	}
	return g
}

func TestFrameFitsTheTerminal(t *testing.T) {
	lines := frame(website("Pending", "Pending", "Pending"), status.Palette{}, 20, 4)
	if len(lines) != 4 {
		t.Errorf("%d lines, want 4", len(lines))
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) > 20 {
			t.Errorf("%q is wider than 20 columns", line)
		}
	}
}

func TestScreenAppendsWhatIsNew(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.say("begin")
	s.show(website("Pending", "Pending"))
	out.Reset()
	s.show(website("Pending", "Succeeded"))
	s.show(website("Pending", "Succeeded"))
	s.say("")
	s.settle()
	s.show(website("Pending", "Succeeded"))
	s.say("end")
	text := out.String()
	if strings.Contains(text, "\x1b") || strings.Contains(text, "web-1") || strings.Count(text, "web-2") != 1 || !strings.HasSuffix(text, "end\n") {
		t.Errorf("appended %q", text)
	}
}

func TestScreenRedrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.size = func() (int, int) { return 80, 24 }
	s.show(website("Pending"))
	rows := strings.Count(out.String(), "\n")
	out.Reset()
	s.show(website("Succeeded"))
	if up := "\x1b[" + string(rune('0'+rows)) + "A\r\x1b[J"; !strings.HasPrefix(out.String(), up) || !strings.Contains(out.String(), "web-1") {
		t.Errorf("redrew %q, want it to begin with %q", out.String(), up)
	}
	out.Reset()
	s.say("text")
	if text := out.String(); strings.Index(text, "text\n") > strings.Index(text, "web-1") {
		t.Errorf("text belongs above the table: %q", text)
	}
	s.settle()
	out.Reset()
	s.say("later")
	if out.String() != "later\n" {
		t.Errorf("after the table has settled, text is written as %q", out.String())
	}
}

// broken is a pipe nobody reads.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("nobody listens") }

func TestScreenKeepsItsError(t *testing.T) {
	s := newScreen(broken{})
	s.say("anybody?")
	if err := s.failed(); err == nil || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("error %v", err)
	}
}
