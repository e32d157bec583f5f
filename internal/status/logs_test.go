package status

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestOneDocumentHoldsSoMuchOutput: it is kept in memory until it is whole.
func TestOneDocumentHoldsSoMuchOutput(t *testing.T) {
	var kept bytes.Buffer
	w := &boundedWriter{w: &kept, left: 5}
	for text, want := range map[string]error{"abc": nil, "abcdef": errTooMuchOutput} {
		kept.Reset()
		w.left = 5
		if _, err := w.Write([]byte(text)); !errors.Is(err, want) || want == nil && kept.String() != text {
			t.Errorf("%s: %v, kept %q", text, err, kept.String())
		}
	}
	f := &fakeSource{report: sample(), logs: strings.Repeat("x", logsBytesMax/2)}
	s := server(t, f, nil)
	c := NewHTTPClient(s.Client(), strings.TrimPrefix(s.URL, "http://"))
	if _, err := c.Outputs(t.Context(), LogQuery{Group: "website"}); err != errTooMuchOutput {
		t.Errorf("three hosts with half of it each: %v", err)
	}
	f.logs = "few"
	if got, err := c.Outputs(t.Context(), LogQuery{Group: "website"}); err != nil || len(got.Hosts) != 3 || got.Hosts[2].Output != "few" {
		t.Errorf("%+v, %v", got, err)
	}
}
