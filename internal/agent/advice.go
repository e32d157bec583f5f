package agent

import (
	"errors"
	"strings"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/status"
)

// stays is what becomes of a host that cannot follow the config repository.
const stays = "this host stays at the commit it has and tries again"

// advice says, by kind, what an operator may do about a notice whose own sentence tells only what is the case.
var advice = map[string]string{
	"SourceUnreachable": stays + ": let a mirror or a peer answer, or correct `repository` in its gitopsd.yaml",
	"CorruptPeer":       "nothing of that bundle is taken from that host; look after its disk and memory. The notice goes after a day, or when this agent is restarted",
	"WrongDigest":       "correct `digest:` in the group's commit; if that is right, look after that host",
	"WentBackAlone":     "bring a majority of the set's voters up, which then decides for all hosts",
	"JournalDamaged":    "look after this host's disk; `gitopsd why` tells whether the host is at the group's revision, and `gitopsd retry` tries again if not",
	"DeploymentOpen":    "mend what it says on this host",
}

// advised adds to a notice what to do, once. One of a kind of which the cause decides what to do has it already: the same up to the colon.
func advised(n status.Notice) status.Notice {
	what := advice[n.Kind]
	same, _, _ := strings.Cut(what, ": ")
	if what != "" && !strings.Contains(n.Message, same) {
		n.Message = strings.TrimSuffix(n.Message, ".") + "; " + what
	}
	return n
}

// ownError is a failure of this host, which no mirror and no peer can end.
type ownError struct{ error }

func (e ownError) Unwrap() error { return e.error }

// sourceAdvice says what to do about a config repository that cannot be followed for a reason of this host's own; "" where it is another.
func sourceAdvice(err error) string {
	var own ownError
	switch {
	case durable.IsFull(err):
		return stays + ": make room on its disk"
	case errors.As(err, &own):
		return stays
	}
	return ""
}
