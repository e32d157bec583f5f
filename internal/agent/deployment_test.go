package agent

import (
	"testing"

	"github.com/gitopsd/gitopsd/internal/apply"
)

func TestExitStatusIsReadFromTheSentence(t *testing.T) {
	for _, c := range []struct {
		code    int
		message string
		want    int
	}{
		{apply.CodeScriptFailed, "Script at specified location: hooks/validate.sh failed with exit code 7", 7},
		{apply.CodeScriptFailed, "Script at specified location: hooks/validate.sh run as user web failed with exit code 255", 255},
		{apply.CodeScriptFailed, "Script at specified location: hooks/validate.sh failed: killed by signal killed", 0},
		{apply.CodeTimedOut, "Script at specified location: hooks/validate.sh failed to complete in 60 seconds", 0},
	} {
		if got := exitStatus(&apply.Error{Code: c.code, Message: c.message}); got != c.want {
			t.Errorf("exitStatus(%q) = %d, want %d", c.message, got, c.want)
		}
	}
}
