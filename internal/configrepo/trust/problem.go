package trust

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a file, with its place.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line"`   // from 1; 0 if the whole file is meant
	Column     int    `json:"column"` // from 1
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"`
}

// String is FILE:LINE:COLUMN: MESSAGE; SUGGESTION.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d:%d", p.Line, p.Column)
	}
	s += ": " + p.Message
	if p.Suggestion != "" {
		s += "; " + p.Suggestion
	}
	return s
}

// Problems is the error of Parse: everything that is wrong, in file order.
type Problems []Problem

// Error joins the problems into one line.
func (ps Problems) Error() string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = p.String()
	}
	return strings.Join(parts, "; ")
}

// suggest proposes the known word nearest to what was written.
func suggest(word string, known []string) string {
	best, at := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < at {
			best, at = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "known here: " + strings.Join(known, ", ")
}

// distance is Levenshtein's, for words of a few letters.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
