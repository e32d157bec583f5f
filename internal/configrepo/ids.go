package configrepo

import (
	"encoding/hex"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
)

// parseID reads a full object id, lower-case hexadecimal.
func parseID(s string) (plumbing.Hash, error) {
	var h plumbing.Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("%q is not a commit id of 40 hexadecimal digits", s)
	}
	raw, err := hex.DecodeString(s)
	if err != nil || hex.EncodeToString(raw) != s {
		return h, fmt.Errorf("%q is not a commit id of 40 hexadecimal digits", s)
	}
	copy(h[:], raw)
	if h.IsZero() {
		return h, fmt.Errorf("%q is the null id", s)
	}
	return h, nil
}

func parseIDs(list []string) ([]plumbing.Hash, error) {
	out := make([]plumbing.Hash, len(list))
	for i, s := range list {
		h, err := parseID(s)
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}
