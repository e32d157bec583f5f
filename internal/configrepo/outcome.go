package configrepo

import (
	"fmt"
	"strings"
	"time"
)

// Commit is what the rest of gitopsd needs to know of a commit.
type Commit struct {
	ID      string    `json:"id"` // 40 hex digits
	Tree    string    `json:"tree"`
	Parents []string  `json:"parents,omitempty"`
	Subject string    `json:"subject"`
	Author  string    `json:"author"` // NAME <EMAIL> as written; nobody vouches for it
	When    time.Time `json:"when"`   // committer's date as written; nobody vouches for it
	// Signers are the verified names that authorised this state, sorted; only
	// filled for commits that this host itself judged.
	Signers []string `json:"signers,omitempty"`
}

// Short is the id as people read it.
func (c Commit) Short() string { return short(c.ID) }

// Outcome says what one Sync or Receive came to.
type Outcome struct {
	Accepted Commit   // zero if nothing was ever accepted
	Moved    bool     // Accepted changed in this call
	Tip      string   // what the mirror or peer offered
	Mirror   string   // which mirror answered, without credentials; "" for Receive
	Refused  *Refusal // why Tip is not Accepted; nil if it is
	Fetched  int64    // bytes of packs that travelled
}

// Reason is the machine-readable part of a Refusal.
type Reason string

// The reasons for which a tip is refused.
const (
	ReasonUnsigned      Reason = "Unsigned"      // no signature at all
	ReasonBadSignature  Reason = "BadSignature"  // a signature that does not verify, or a form we do not accept
	ReasonUnknownSigner Reason = "UnknownSigner" // a good signature by a key that trust.yaml does not list
	ReasonUnauthorised  Reason = "Unauthorised"  // a known signer outside the rules of a changed path, or too few of them
	ReasonPolicy        Reason = "Policy"        // the change of trust.yaml is invalid
	ReasonNotDescendant Reason = "NotDescendant" // history was rewritten
	ReasonForked        Reason = "SourceForked"  // as NotDescendant, but signed: stop forward rollouts
	ReasonBehind        Reason = "Behind"        // an ancestor of what is accepted, or of a floor
	ReasonIntroduction  Reason = "Introduction"  // the pinned introduction is missing, or its signature is not the pinned one's
)

// Known says whether r is one of the reasons above: a host that tells its own may tell anything.
func (r Reason) Known() bool {
	switch r {
	case ReasonUnsigned, ReasonBadSignature, ReasonUnknownSigner, ReasonUnauthorised, ReasonPolicy, ReasonNotDescendant, ReasonForked, ReasonBehind, ReasonIntroduction:
		return true
	}
	return false
}

// Refusal explains why a tip was not accepted. The accepted commit stays; the
// next authorised commit on top of the tip is judged afresh.
type Refusal struct {
	Commit   string   `json:"commit"`
	Subject  string   `json:"subject,omitempty"`
	Reason   Reason   `json:"reason"`
	Path     string   `json:"path,omitempty"`    // first changed path that was not authorised
	Rule     string   `json:"rule,omitempty"`    // the rule of trust.yaml that governs it
	Needed   int      `json:"needed,omitempty"`  // distinct signers the rule asks for
	Signers  []string `json:"signers,omitempty"` // verified signers that were counted
	Sentence string   `json:"sentence"`          // for people: what happened and what to do
}

// Error makes a Refusal usable as an error.
func (r *Refusal) Error() string { return r.Sentence }

// MirrorError is one mirror's failure within a SyncError.
type MirrorError struct {
	URL string // without credentials
	Err error
	// Permanent tells wrong settings (credentials, address, limits) from
	// failures that retrying soon may cure.
	Permanent bool
}

// Error names the mirror.
func (e *MirrorError) Error() string { return e.URL + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *MirrorError) Unwrap() error { return e.Err }

// SyncError says that no mirror could be used; the accepted commit stays.
type SyncError struct{ Mirrors []*MirrorError }

// Error is one line that names every mirror.
func (e *SyncError) Error() string {
	parts := make([]string, len(e.Mirrors))
	for i, m := range e.Mirrors {
		parts[i] = oneLine(m.Error())
	}
	return "cannot sync the config repository: " + strings.Join(parts, "; ")
}

// Unwrap gives each mirror's error.
func (e *SyncError) Unwrap() []error {
	errs := make([]error, len(e.Mirrors))
	for i, m := range e.Mirrors {
		errs[i] = m
	}
	return errs
}

// Permanent says that no mirror can answer before somebody changes settings.
func (e *SyncError) Permanent() bool {
	for _, m := range e.Mirrors {
		if !m.Permanent {
			return false
		}
	}
	return len(e.Mirrors) > 0
}

// NotFoundError says that a commit or an object is not in this host's mirror.
type NotFoundError struct{ ID string }

// Error names the object.
func (e *NotFoundError) Error() string { return fmt.Sprintf("%s is not in the mirror", e.ID) }

func short(id string) string {
	if len(id) > 10 {
		return id[:10]
	}
	return id
}

// oneLine keeps a foreign message from breaking a log into pieces.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > 600 {
		s = s[:600] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return -1
		}
		return r
	}, s)
}
