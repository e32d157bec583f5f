package appspec

import "strings"

// The agent's YAML parser takes a tab for white space in fewer places than the library does: in a block, not where a key could begin
// (at the start of a line, even of an empty one or of a comment, and after a dash), and on the lines after a plain scalar not within its
// indentation. checkTabs applies that rule to a text that the library has parsed. It follows the structure just as far as it must.

// tabScanner walks over a text token by token.
type tabScanner struct {
	text    []rune
	next    int // index of the character ahead
	at      Position
	flow    int   // levels of [ and {
	keyMay  bool  // a key could begin here
	key     int   // column of the token that could be a key; 0: none
	indents []int // columns of the blocks around, outermost first
}

// checkTabs finds the first tab that the agent's parser refuses.
func checkTabs(text string) *Problem {
	if !strings.Contains(text, "\t") {
		return nil
	}
	s := &tabScanner{text: []rune(text), at: Position{1, 1}, keyMay: true}
	for s.next < len(s.text) {
		if p := s.token(); p != nil {
			return p
		}
	}
	return nil
}

// peek is the character n places ahead; 0 beyond the end.
func (s *tabScanner) peek(n int) rune {
	if s.next+n >= len(s.text) {
		return 0
	}
	return s.text[s.next+n]
}

// skip goes over n characters; a line break counts as one.
func (s *tabScanner) skip(n int) {
	for ; n > 0 && s.next < len(s.text); n-- {
		c := s.peek(0)
		if c == '\r' && s.peek(1) == '\n' {
			s.next++
		}
		s.next++
		s.at.Column++
		if isBreak(c) {
			s.at = Position{s.at.Line + 1, 1}
		}
	}
}

// skipUntil goes on to the next character for which stop holds, or to the end.
func (s *tabScanner) skipUntil(stop func(rune) bool) {
	for s.next < len(s.text) && !stop(s.peek(0)) {
		s.skip(1)
	}
}

func isBreak(c rune) bool {
	return c == '\n' || c == '\r' || c == 0x85 || c == 0x2028 || c == 0x2029
}
func isBlank(c rune) bool    { return c == ' ' || c == '\t' }
func isBlankEnd(c rune) bool { return c == 0 || isBlank(c) || isBreak(c) }
func isFlowMark(c rune) bool { return strings.ContainsRune(",[]{}", c) }

// indent is the column of the innermost block; 0 outside of all.
func (s *tabScanner) indent() int {
	if len(s.indents) == 0 {
		return 0
	}
	return s.indents[len(s.indents)-1]
}

// roll opens a block at column, unless one is open there.
func (s *tabScanner) roll(column int) {
	if s.flow == 0 && s.indent() < column {
		s.indents = append(s.indents, column)
	}
}

// token goes over one token, or over white space.
func (s *tabScanner) token() *Problem {
	c := s.peek(0)
	switch {
	case isBreak(c):
		s.keyMay = s.keyMay || s.flow == 0
		s.skip(1)
		return nil
	case c == '\t' && s.flow == 0 && s.keyMay:
		return &Problem{Position: s.at, Message: "found character that cannot start any token while scanning for the next token", Hint: "the line holds a tab: use blanks"}
	case isBlank(c):
		s.skip(1)
		return nil
	case c == '#':
		s.skipUntil(isBreak)
		return nil
	}
	for s.flow == 0 && s.indent() > s.at.Column {
		s.indents = s.indents[:len(s.indents)-1]
	}
	if s.at.Column == 1 && (c == '%' || s.isMarker()) {
		s.marker(c)
		return nil
	}
	return s.content(c)
}

// isMarker says whether a document marker stands ahead.
func (s *tabScanner) isMarker() bool {
	c := s.peek(0)
	return s.at.Column == 1 && (c == '-' || c == '.') && s.peek(1) == c && s.peek(2) == c && isBlankEnd(s.peek(3))
}

func (s *tabScanner) marker(c rune) {
	s.keyMay, s.key = false, 0
	if c == '%' {
		s.skipUntil(isBreak)
		return
	}
	s.skip(3)
}

// content goes over an indicator or a scalar.
func (s *tabScanner) content(c rune) *Problem {
	apart := isBlankEnd(s.peek(1))
	switch {
	case c == '-' && apart:
		s.roll(s.at.Column)
		s.skip(1)
		s.keyMay, s.key = true, 0
	case c == '?' && (apart || s.flow > 0):
		s.roll(s.at.Column)
		s.skip(1)
		s.keyMay, s.key = s.flow == 0, 0
	case c == ':' && (apart || s.flow > 0):
		s.keyMay = s.flow == 0 && s.key == 0
		if s.key > 0 {
			s.roll(s.key)
		}
		s.skip(1)
		s.key = 0
	case c == ',' || c == ']' || c == '}':
		if c != ',' && s.flow > 0 {
			s.flow--
		}
		s.skip(1)
		s.keyMay = c == ','
	default:
		if s.keyMay && s.flow == 0 {
			s.key = s.at.Column
		}
		return s.node(c)
	}
	return nil
}

// node goes over what begins a node: a bracket, an anchor, an alias, a tag or a scalar.
func (s *tabScanner) node(c rune) *Problem {
	s.keyMay = false
	switch {
	case c == '[' || c == '{':
		s.flow++
		s.skip(1)
	case c == '&' || c == '*' || c == '!':
		s.skipUntil(func(c rune) bool { return isBlankEnd(c) || s.flow > 0 && isFlowMark(c) })
	case c == '"' || c == '\'':
		s.quoted(c)
	case (c == '|' || c == '>') && s.flow == 0:
		s.block()
	default:
		return s.plain()
	}
	return nil
}

// quoted goes over a scalar in quotes, in which every tab is fine.
func (s *tabScanner) quoted(quote rune) {
	s.skip(1)
	for s.next < len(s.text) {
		switch c := s.peek(0); {
		case c == '\\' && quote == '"':
			s.skip(2)
		case c == quote && quote == '\'' && s.peek(1) == quote:
			s.skip(2)
		case c == quote:
			s.skip(1)
			return
		default:
			s.skip(1)
		}
	}
}

// block goes over a block scalar: its head, and all lines that are empty or indented more than the block around.
func (s *tabScanner) block() {
	s.skipUntil(isBreak)
	s.skip(1)
	for s.next < len(s.text) {
		ahead := 0
		for s.peek(ahead) == ' ' {
			ahead++
		}
		if c := s.peek(ahead); !isBreak(c) && ahead < max(s.indent(), 1) {
			break
		}
		s.skipUntil(isBreak)
		s.skip(1)
	}
	s.keyMay = true
}

// plain goes over a plain scalar with the white space that follows it, which the agent's parser takes for a part of it at first.
func (s *tabScanner) plain() *Problem {
	broken := false
	for s.peek(0) != '#' && !s.isMarker() {
		start := s.next
		s.skipUntil(func(c rune) bool {
			return isBlankEnd(c) || c == ':' && isBlankEnd(s.peek(1)) || s.flow > 0 && (isFlowMark(c) || c == ':' && isFlowMark(s.peek(1)))
		})
		if s.next == start && !isBlank(s.peek(0)) && !isBreak(s.peek(0)) || !isBlankEnd(s.peek(0)) || s.peek(0) == 0 {
			break
		}
		for isBlank(s.peek(0)) || isBreak(s.peek(0)) {
			if broken && s.peek(0) == '\t' && s.at.Column <= s.indent() {
				return &Problem{Position: s.at, Message: "found a tab character that violates indentation while scanning a plain scalar", Hint: "use blanks"}
			}
			broken = broken || isBreak(s.peek(0))
			s.skip(1)
		}
		if s.flow == 0 && s.at.Column <= s.indent() {
			break
		}
	}
	s.keyMay = broken
	return nil
}
