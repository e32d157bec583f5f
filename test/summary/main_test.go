package main

import (
	"io"
	"strings"
	"testing"
)

func TestATestThatRanAtLastWasNotSkipped(t *testing.T) {
	for later, want := range map[string]string{
		"pass": "1 passed, 0 failed, 0 skipped\n",
		"skip": "needs root\n0 passed, 0 failed, 1 skipped\n",
		"fail": "FAILED p TestX\n0 passed, 1 failed, 1 skipped\n",
	} {
		sum := tally{output: map[testKey][]string{}}
		sum.add(event{Action: "output", Package: "p", Test: "TestX", Output: "needs root\n"}, io.Discard)
		sum.add(event{Action: "skip", Package: "p", Test: "TestX"}, io.Discard)
		sum.add(event{Action: later, Package: "p", Test: "TestX"}, io.Discard)
		var out strings.Builder
		if ok := sum.report(&out); ok != (later == "pass") || !strings.HasSuffix(out.String(), want) {
			t.Errorf("skipped, then %s: %v %q", later, ok, out.String())
		}
	}
}

// A package may fail after its last test ended: what it says of that (a goroutine left behind, no time left, a panic) comes under the name of that test.
func TestWhyAPackageFailedIsPrinted(t *testing.T) {
	for _, last := range []string{"pass", "skip"} {
		sum := tally{output: map[testKey][]string{}}
		var out strings.Builder
		for _, e := range []event{
			{Action: "output", Test: "TestX", Output: "of the test\n"},
			{Action: last, Test: "TestX"},
			{Action: "output", Test: "TestX", Output: "goroutine left\n"},
			{Action: "output", Output: "FAIL\n"},
			{Action: "fail"},
		} {
			e.Package = "p"
			sum.add(e, &out)
		}
		if got := out.String(); got != "FAIL p 0.0s\ngoroutine left\nFAIL\n" || sum.report(io.Discard) {
			t.Errorf("after a %s: %q", last, got)
		}
	}
}
