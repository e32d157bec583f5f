package demo

import (
	"strings"
	"unicode/utf8"

	"github.com/gitopsd/gitopsd/internal/status"
)

// frame renders the group of a report as the lines of a table. With a width, lines are cut to it, so that redrawing in place can count on one row for each line;
// with a height, lines beyond it are left out.
func frame(g status.Group, p status.Palette, width, height int) []string {
	lines := strings.Split(strings.TrimRight(status.Table(g, p), "\n"), "\n")
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	if width > 0 {
		for i, line := range lines {
			lines[i] = cut(line, width)
		}
	}
	return lines
}

// cut shortens a line to so many columns and leaves escape sequences whole. Every character of the table is one column wide.
func cut(line string, width int) string {
	var b strings.Builder
	columns, painted := 0, false
	for i := 0; i < len(line); {
		if line[i] == 0x1b {
			end := i + 1
			for end < len(line) && line[end] != 'm' {
				end++
			}
			end = min(end+1, len(line))
			b.WriteString(line[i:end])
			i, painted = end, true
			continue
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		if columns == width {
			if painted {
				b.WriteString("\x1b[0m")
			}
			return b.String()
		}
		b.WriteString(line[i : i+size])
		columns++
		i += size
	}
	return b.String()
}

// fresh returns those of the lines that were not among the last ones: what a log of the table gains.
func fresh(last, lines []string) []string {
	seen := make(map[string]bool, len(last))
	for _, line := range last {
		seen[line] = true
	}
	var out []string
	for _, line := range lines {
		if !seen[line] && strings.TrimSpace(line) != "" {
			out = append(out, line)
		}
	}
	return out
}
