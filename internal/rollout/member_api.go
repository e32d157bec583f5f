package rollout

// MemberEvent is something that happened on or to this host. The agent feeds
// them to Member.Step one at a time.
type MemberEvent interface{ memberEvent() }

// EvStarted is the first event after a start of the agent. Journals lists the
// deployments whose apply journal is open (Applier.Pending).
type EvStarted struct {
	Boot     string // the kernel's boot id
	Journals []OpenJournal
}

// OpenJournal is a deployment that this host began and did not finish. Stopped:
// ApplicationStop had begun.
type OpenJournal struct {
	Group      string
	Deployment string
	Stopped    bool
}

// EvSynced brings what the replicated state wants of this host now
// (Machine.Assignments), for the groups of one coordinator set. Feed it after
// every change of the set, and only with a state known to be current: on a
// voter or observer that hears a leader.
type EvSynced struct {
	Set         string
	Assignments []Assignment
}

// EvVerified answers ActVerify. OK: this host's own verified git yields
// SpecHash for the group at Commit, Commit is its tip or an ancestor of it, and
// not older than the last good release's. Wait: the commit is not here yet.
type EvVerified struct {
	Group, Commit, SpecHash string
	OK, Wait                bool
	Reason                  string
}

// EvBundle answers ActFetchBundle. Kind of a refusal is bytes or spec.
type EvBundle struct {
	Group, SpecHash string
	Refused         RefusalKind // "" = complete on this disk
	Reason          string
}

// EvPreflight answers ActPreflight. Kind of a refusal is spec or host.
type EvPreflight struct {
	Group, SpecHash string
	Refused         RefusalKind // "" = passed
	Reason          string
	LastGood        string // spec hash of the last good release on this disk
}

// EvStopping comes from apply right before ApplicationStop (or what comes first
// that changes anything). The answer holds ActPersist, then ActProceed or, when
// the grant has lapsed, ActAbort. Apply must wait for it.
type EvStopping struct{ Group, Deployment string }

// EvUpdate carries a lifecycle event's new status.
type EvUpdate struct {
	Group, Deployment string
	Event             EventRecord
}

// EvBytes carries how many bytes the bundle of a spec cost since a deployment
// of it last ended here.
type EvBytes struct {
	Group, SpecHash       string
	FromOrigin, FromPeers int64
}

// EvApplied is apply's or resume's result.
type EvApplied struct {
	Group, Deployment string
	Outcome           Outcome
	Event             string // that failed
	ExitCode          int
	ErrorCode         string
	Message           string
	Events            []EventRecord
}

// EvNoBytes says why nothing of a bundle comes while ActFetchBundle goes on. It
// is over with the next EvBytes that shows more, or with EvBundle.
type EvNoBytes struct {
	Group, SpecHash string
	Reason          string
}

// EvHealth is a new verdict of the group's checks for what runs now. Checks
// must have been started afresh after the last EvApplied.
type EvHealth struct {
	Group    string
	State    HealthState
	Evidence string
}

// EvInstalled tells what is installed for a group, at start, from the releases
// on disk: an adopted or hand-made state. Not needed after an EvApplied.
type EvInstalled struct {
	Group   string
	Running Spec
	Whole   bool
}

// EvLookAgain: something of this host's own has changed, its configuration for
// instance; what it refused it tries again at once, and why bytes could not be
// had it takes back until that is known anew.
type EvLookAgain struct{}

// EvTimer: time has passed. Feed it at Member.Deadline.
type EvTimer struct{}

func (EvStarted) memberEvent()   {}
func (EvSynced) memberEvent()    {}
func (EvVerified) memberEvent()  {}
func (EvBundle) memberEvent()    {}
func (EvPreflight) memberEvent() {}
func (EvStopping) memberEvent()  {}
func (EvUpdate) memberEvent()    {}
func (EvBytes) memberEvent()     {}
func (EvNoBytes) memberEvent()   {}
func (EvApplied) memberEvent()   {}
func (EvHealth) memberEvent()    {}
func (EvInstalled) memberEvent() {}
func (EvLookAgain) memberEvent() {}
func (EvTimer) memberEvent()     {}

// MemberAction is something the agent must do, in the order given. If an
// ActPersist fails, nothing after it may be done: the agent holds still until it
// succeeds, or stops.
type MemberAction interface{ memberAction() }

// ActPersist asks for State to be made durable before anything after it.
type ActPersist struct{ State []byte }

// ActVerify asks for this host's own git to be asked (EvVerified). It is asked
// again every few seconds while the answer was Wait.
type ActVerify struct {
	Group string
	Spec  Spec
}

// ActFetchBundle asks for the bundle of a verified spec (EvBundle). Asked again
// with backoff after a refusal for bytes.
type ActFetchBundle struct {
	Group string
	Spec  Spec
}

// ActPreflight asks for Applier.Preflight (EvPreflight).
type ActPreflight struct {
	Group string
	Spec  Spec
}

// ActStartApply starts the deployment of a grant. It must lead to EvStopping,
// EvUpdate and one EvApplied.
type ActStartApply struct{ Grant Grant }

// ActResumeApply decides over an open journal: Continue at the next step that
// was not started, or undo. It must lead to one EvApplied.
type ActResumeApply struct {
	Group, Deployment string
	Continue          bool
}

// ActProceed lets apply pass the point of no return.
type ActProceed struct{ Group, Deployment string }

// ActAbort tells apply that its grant has lapsed: change nothing, EvApplied with
// OutcomeLapsed.
type ActAbort struct{ Group, Deployment string }

// ActSubmit submits a command to the group's set. Losing it is harmless: it is
// made again until the replicated state shows it.
type ActSubmit struct {
	Group   string
	Command Command
}

// ActMarkGood: the group runs this spec well; so mark the release on this disk
// and never collect it.
type ActMarkGood struct {
	Group string
	Spec  Spec
}

func (ActPersist) memberAction()     {}
func (ActVerify) memberAction()      {}
func (ActFetchBundle) memberAction() {}
func (ActPreflight) memberAction()   {}
func (ActStartApply) memberAction()  {}
func (ActResumeApply) memberAction() {}
func (ActProceed) memberAction()     {}
func (ActAbort) memberAction()       {}
func (ActSubmit) memberAction()      {}
func (ActMarkGood) memberAction()    {}
