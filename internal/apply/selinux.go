package apply

import (
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// mergeContext puts the parts given into a context user:role:type[:range].
func mergeContext(old string, c *plan.Context) (string, error) {
	parts := strings.SplitN(strings.TrimRight(old, "\x00"), ":", 4)
	if len(parts) < 3 {
		return "", fmt.Errorf("the present one is %q, not user:role:type", old)
	}
	if c.User != "" {
		parts[0] = c.User
	}
	parts[2] = c.Type
	if c.Range != "" {
		parts = append(parts[:3], c.Range)
	}
	return strings.Join(parts, ":"), nil
}

// splitContext gives the parts of a context that can be set, nil if it is none.
func splitContext(label string) *plan.Context {
	parts := strings.SplitN(strings.TrimRight(label, "\x00"), ":", 4)
	if len(parts) < 3 {
		return nil
	}
	c := &plan.Context{User: parts[0], Type: parts[2]}
	if len(parts) == 4 {
		c.Range = parts[3]
	}
	return c
}
