package agent

import (
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
)

// advice says, by kind, what an operator may do about a notice whose own sentence tells only what is the case.
var advice = map[string]string{
	"SourceUnreachable": "this host stays at the commit it has and tries again: let a mirror or a peer answer, or correct `repository` in its gitopsd.yaml",
	"CorruptPeer":       "nothing of that bundle is taken from that host; look after its disk and memory. The notice goes after a day, or when this agent is restarted",
	"WrongDigest":       "correct `digest:` in the group's commit; if that is right, look after that host",
	"WentBackAlone":     "bring a majority of the set's voters up, which then decides for all hosts",
	"JournalDamaged":    "look after this host's disk; `gitopsd why` tells whether the host is at the group's revision, and `gitopsd retry` tries again if not",
	"DeploymentOpen":    "mend what it says on this host",
}

// advised adds to a notice what to do, once.
func advised(n status.Notice) status.Notice {
	if what := advice[n.Kind]; what != "" && !strings.Contains(n.Message, what) {
		n.Message = strings.TrimSuffix(n.Message, ".") + "; " + what
	}
	return n
}
