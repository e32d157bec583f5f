package trust

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

const segmentsMax = 64 // of a pattern or a path that is matched

// checkGlob refuses patterns that Match could not honour.
func checkGlob(pattern string) error {
	switch {
	case pattern == "":
		return errors.New("empty pattern")
	case strings.HasPrefix(pattern, "/"):
		return errors.New("patterns are relative to the repository's root: leave the first / out")
	case strings.HasSuffix(pattern, "/"):
		return fmt.Errorf("%q would match nothing: write %q", pattern, pattern+"**")
	case len(pattern) > 1024 || strings.Count(pattern, "/") >= segmentsMax:
		return errors.New("pattern is too long")
	}
	for _, seg := range strings.Split(pattern, "/") {
		switch {
		case seg == "" || seg == "." || seg == "..":
			return fmt.Errorf("pattern %q has an empty, . or .. segment", pattern)
		case strings.Contains(seg, "**") && seg != "**":
			return fmt.Errorf("%q: ** must stand alone between slashes", pattern)
		}
		if _, err := path.Match(seg, "x"); err != nil {
			return fmt.Errorf("%q: %w", pattern, err)
		}
	}
	return nil
}

// Match says whether a path of the repository matches a pattern: * and ? stay
// within a segment, [..] is a class, ** stands for any number of segments.
func Match(pattern, name string) bool {
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	// reach[j] says that the pattern's segments so far can end before ns[j].
	reach := make([]bool, len(ns)+1)
	reach[0] = true
	for i, p := range ps {
		next := make([]bool, len(ns)+1)
		if p == "**" {
			// The last ** of "a/**" wants something below a, not a itself.
			from := 0
			if i == len(ps)-1 {
				from = 1
			}
			open := false
			for j := range next {
				if j >= from && reach[j-from] {
					open = true
				}
				next[j] = open
			}
		} else {
			for j, n := range ns {
				if !reach[j] {
					continue
				}
				if ok, err := path.Match(p, n); ok && err == nil {
					next[j+1] = true
				}
			}
		}
		reach = next
	}
	return reach[len(ns)]
}
