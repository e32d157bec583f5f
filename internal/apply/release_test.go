package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// TestWhoseFaultItIsThatABundleCannotBeUnpacked: what is called the bundle's fault fails the revision for all hosts.
func TestWhoseFaultItIsThatABundleCannotBeUnpacked(t *testing.T) {
	of := func(number syscall.Errno) error {
		return fmt.Errorf("cannot unpack archive: %w", &fs.PathError{Op: "create", Path: "f", Err: number})
	}
	for name, c := range map[string]struct {
		err  error
		host bool
	}{
		"too many open files":  {of(syscall.EMFILE), true},
		"a bad disk":           {of(syscall.EIO), true},
		"a read-only disk":     {of(syscall.EROFS), true},
		"no memory":            {of(syscall.ENOMEM), true},
		"a full disk":          {fmt.Errorf("x: %w", store.ErrNoSpace), true},
		"an archive that rots": {fmt.Errorf("x: %w", store.ErrMismatch), true},
		"the end of the agent": {fmt.Errorf("x: %w", context.Canceled), true},
		"a refused archive":    {fmt.Errorf("x: %w", bundle.ErrRefused), false},
		"a name too long":      {of(syscall.ENAMETOOLONG), false},
		"an archive cut short": {errors.New("unexpected EOF"), false},
	} {
		if got := ofThisHost(c.err); got != c.host {
			t.Errorf("%s: of this host alone: %v", name, got)
		}
	}
}
