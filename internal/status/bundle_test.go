package status

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unicode"
)

func TestDistributionIsPrinted(t *testing.T) {
	var out strings.Builder
	if err := PrintDistribution(&out, sampleDistribution()); err != nil {
		t.Fatal(err)
	}
	golden(t, "distribution.txt", out.String())
	const evil = "a\x1b[2Jb\u202ec\x00d\r\nf"
	out.Reset()
	if err := PrintDistribution(&out, Distribution{Digest: evil, Groups: []string{evil}, Hosts: []BundleHost{
		{Name: evil, Site: evil, State: evil, Banned: []BannedPeer{{Host: evil, Why: evil}}}, {Name: evil, Site: evil, Error: evil}}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			t.Fatalf("%U in %q", r, out.String())
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines != 5 {
		t.Errorf("a line break makes %d lines", lines)
	}
}

func TestAnUnknownBundleIsToldFromOtherErrors(t *testing.T) {
	c := behindSocket(t, &fakeSource{err: &UnknownBundleError{"cannot find bundle 12: none is known"}})
	_, err := c.Bundle(context.Background(), "12")
	if unknown := (*UnknownBundleError)(nil); !errors.As(err, &unknown) || unknown.Message != "cannot find bundle 12: none is known" {
		t.Errorf("%v", err)
	}
}
