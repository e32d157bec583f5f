package desired

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// TestNamesHaveBothBounds: how long a name may be is told apart from its form, and still binds.
func TestNamesHaveBothBounds(t *testing.T) {
	for name, c := range map[string]struct {
		form        *strict.Pattern
		prefix      string
		least, most int // letters beside the prefix
	}{
		"host name":   {hostNameForm, "", 1, 63},
		"set name":    {setNameForm, "", 1, 100},
		"group id":    {groupIDForm, "", 8, 64},
		"storage id":  {storageForm, "", 16, 16},
		"digest":      {digestForm, "sha256:", 64, 64},
		"unit":        {unitForm, "", 1, 255},
		"group name":  {groupNameForm, "", 1, 100},
		"header":      {headerForm, "", 1, 64},
		"DNS name":    {dnsForm, "", 1, 253},
		"bucket":      {bucketForm, "", 2, 255},
		"long commit": {commitForm, "", 64, 64},
		"commit":      {commitForm, strings.Repeat("0", 39), 1, 1},
		"repository":  {repositoryForm, "a/", 1, 100},
	} {
		for n, want := range map[int]bool{c.least - 1: false, c.least: true, c.most: true, c.most + 1: false} {
			if got := c.form.MatchString(c.prefix + strings.Repeat("a", n)); got != want {
				t.Errorf("%s of %d letters after %q: %v", name, n, c.prefix, got)
			}
		}
		if c.form.MatchString(c.prefix + strings.Repeat("a", c.least-1) + "\n") {
			t.Errorf("%s may end with a new line", name)
		}
	}
}
