package demo

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/gitopsd/gitopsd/internal/status"
	"golang.org/x/term"
)

// screen is where the story is told: text that stays, and below it a table that changes in place on a terminal. Elsewhere the table's new lines are appended.
type screen struct {
	out     io.Writer
	size    func() (width, height int) // nil: not a terminal
	palette status.Palette

	mu    sync.Mutex // held while writing: two texts must not mix
	drawn []string
	rows  int // of the table on the terminal
	err   error
}

// newScreen draws on out.
func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return s
	}
	s.size = func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width < 20 || height < 5 {
			return 80, 24
		}
		return width, height
	}
	if os.Getenv("NO_COLOR") == "" {
		s.palette = status.ANSI()
	}
	return s
}

// live says whether the table changes in place.
func (s *screen) live() bool { return s.size != nil }

// say prints text that stays, above the table.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if text == "" {
		return
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	s.write(s.erase() + text + s.paint(s.drawn))
}

// show draws the table.
func (s *screen) show(g status.Group) {
	width, height := 0, 0
	if s.live() {
		width, height = s.size()
	}
	lines := frame(g, s.palette, width, height-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(lines, s.drawn) {
		return
	}
	if s.live() {
		s.write(s.erase() + s.paint(lines))
	} else if news := fresh(s.drawn, lines); len(news) > 0 {
		s.write(strings.Join(news, "\n") + "\n")
	}
	s.drawn = lines
}

// settle lets the table stay as it is; the next one begins below it. Where lines are appended, only what is new will be.
func (s *screen) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows = 0; s.live() {
		s.drawn = nil
	}
}

// failed is the first error of writing.
func (s *screen) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// erase moves to the table's first row and clears what is below.
func (s *screen) erase() string {
	if !s.live() || s.rows == 0 {
		return ""
	}
	rows := s.rows
	s.rows = 0
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", rows)
}

// paint draws the table's rows on a terminal.
func (s *screen) paint(lines []string) string {
	if !s.live() || len(lines) == 0 {
		return ""
	}
	s.rows = len(lines)
	return strings.Join(lines, "\n") + "\n"
}

func (s *screen) write(text string) {
	if s.err != nil {
		return
	}
	if _, err := io.WriteString(s.out, text); err != nil {
		s.err = fmt.Errorf("cannot tell the story: %w", err)
	}
}
