// Command summary reads `go test -json` on standard input, prints every failure in full and one line a package, names each skipped test with its reason, and
// closes with "N passed, N failed, N skipped". It exits 1 when a test or a package failed, or when none ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
	// ImportPath names the package of a build-output event.
	ImportPath string
}

// testKey names one test of one package.
type testKey struct{ pkg, test string }

// skip is a test that did not run.
type skip struct {
	testKey
	why string
}

// tally is what the stream has said so far.
type tally struct {
	output         map[testKey][]string // of tests that run or failed
	passed, failed []testKey
	skipped        []skip
	badPackages    []string
}

func main() {
	t := &tally{output: map[testKey][]string{}}
	if err := t.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "summary: cannot read the test stream:", err)
		os.Exit(1)
	}
	if !t.report(os.Stdout) {
		os.Exit(1)
	}
}

// read follows the stream and prints a line as each package ends.
func (t *tally) read(r io.Reader, w io.Writer) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<20), 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(w, lines.Text())
			continue
		}
		t.add(e, w)
	}
	return lines.Err()
}

// add takes one event.
func (t *tally) add(e event, w io.Writer) {
	key := testKey{e.Package, e.Test}
	switch e.Action {
	case "output":
		t.output[key] = append(t.output[key], e.Output)
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "build-fail":
		t.badPackages = append(t.badPackages, e.ImportPath)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.endPackage(e, w)
			return
		}
		t.endTest(e.Action, key)
	}
}

// endTest files a finished test and forgets the output of one that passed. One that could not run with the race detector and passed without it was not skipped.
func (t *tally) endTest(action string, key testKey) {
	switch action {
	case "pass":
		t.passed = append(t.passed, key)
		t.skipped = slices.DeleteFunc(t.skipped, func(s skip) bool { return s.testKey == key })
		delete(t.output, key)
	case "fail":
		t.failed = append(t.failed, key)
	case "skip":
		if !slices.ContainsFunc(t.skipped, func(s skip) bool { return s.testKey == key }) {
			t.skipped = append(t.skipped, skip{key, reason(t.output[key])})
		}
		delete(t.output, key)
	}
}

// endPackage prints the package's line.
func (t *tally) endPackage(e event, w io.Writer) {
	word := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "-"}[e.Action]
	fmt.Fprintf(w, "%-4s %s %.1fs\n", word, e.Package, e.Elapsed)
	if e.Action != "fail" {
		delete(t.output, testKey{e.Package, ""})
		return
	}
	t.badPackages = append(t.badPackages, e.Package)
	for _, key := range t.failed {
		t.printOutput(key, e.Package, w)
	}
	for _, key := range slices.SortedFunc(maps.Keys(t.output), func(a, b testKey) int { return -strings.Compare(a.test, b.test) }) { // what came after the last test ended is filed with that
		t.printOutput(key, e.Package, w)
	}
}

// printOutput prints what a test of the package printed, once.
func (t *tally) printOutput(key testKey, pkg string, w io.Writer) {
	if key.pkg == pkg {
		fmt.Fprint(w, strings.Join(t.output[key], ""))
		delete(t.output, key)
	}
}

// report prints the closing lines and says whether all is well.
func (t *tally) report(w io.Writer) bool {
	for _, s := range t.skipped {
		fmt.Fprintf(w, "skipped %s %s: %s\n", s.pkg, s.test, s.why)
	}
	sort.Slice(t.failed, func(i, j int) bool {
		return t.failed[i].pkg+t.failed[i].test < t.failed[j].pkg+t.failed[j].test
	})
	for _, key := range t.failed {
		fmt.Fprintf(w, "FAILED %s %s\n", key.pkg, key.test)
	}
	for _, pkg := range t.badPackages {
		fmt.Fprintf(w, "FAILED %s\n", pkg)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", len(t.passed), max(len(t.failed), len(t.badPackages)), len(t.skipped))
	return len(t.failed) == 0 && len(t.badPackages) == 0 && len(t.passed) > 0
}

// reason finds what a skipped test printed.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			return line
		}
	}
	return "no reason given"
}
