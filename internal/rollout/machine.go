package rollout

import "time"

// Machine is the replicated state of one coordinator set: the clock, who leads,
// who is dead, and one independently stepped state a group. It satisfies
// consensus.Machine. It is not safe for concurrent use.
type Machine struct{ stopped error }

// NewMachine returns a Machine without groups.
func NewMachine() *Machine { return &Machine{} }

const notYet = "internal error: rollout is not written yet"

// Apply applies one command and answers with the JSON of a Response. from is the
// authenticated host that submitted it.
func (m *Machine) Apply(index, term uint64, from string, command []byte) []byte { panic(notYet) }

// Err tells why this replica has stopped: an entry of a version it does not
// know. A stopped machine applies nothing and makes no snapshots.
func (m *Machine) Err() error { return m.stopped }

// Snapshot returns the canonical bytes of the state: equal states, equal bytes.
func (m *Machine) Snapshot() ([]byte, error) { panic(notYet) }

// Restore replaces the state by a snapshot's.
func (m *Machine) Restore(snapshot []byte) error { panic(notYet) }

// Hash returns the hex SHA-256 of the snapshot.
func (m *Machine) Hash() (string, error) { panic(notYet) }

// Group returns a copy of one group's state by id, folder or unique name.
func (m *Machine) Group(group string) (GroupView, bool) { panic(notYet) }

// Groups returns copies of all groups, by folder.
func (m *Machine) Groups() []GroupView { panic(notYet) }

// History returns the last deployments of a group, newest first, at most 50.
func (m *Machine) History(group string) ([]DeploymentView, bool) { panic(notYet) }

// Assignments returns what the state wants of one host, by group id.
func (m *Machine) Assignments(host string) []Assignment { panic(notYet) }

// Dead returns the hosts recorded dead, sorted: the base for Liveness commands.
func (m *Machine) Dead() []string { panic(notYet) }

// Leader returns the host and term of the last Lead command.
func (m *Machine) Leader() (host string, term uint64) { panic(notYet) }

// Needs tells the leader what the state needs of it.
func (m *Machine) Needs() Needs { panic(notYet) }

// TargetNeeded returns t with Base filled in, and whether proposing it would
// change the group: the leader calls it for every group of its tip.
func (m *Machine) TargetNeeded(t Target) (Target, bool) { panic(notYet) }

// Clock returns the replicated clock.
func (m *Machine) Clock() time.Duration { panic(notYet) }

// FormatVersion is the newest version of commands, snapshots and member state
// that this code writes and understands.
const FormatVersion = 1

type kind byte

// Encode returns the bytes of a command. at is wall time, kept as data only.
// Texts beyond their bounds are cut.
func Encode(c Command, at time.Time) ([]byte, error) { panic(notYet) }

// Decode reads a command. It refuses unknown versions, types and keys, and
// anything beyond its bounds.
func Decode(b []byte) (c Command, at time.Time, err error) { panic(notYet) }

// NewMember returns the member machine of a host from what ActPersist last
// stored, nil at first.
func NewMember(host string, persisted []byte) (*Member, error) { panic(notYet) }

// Step takes one event. now is the host's monotonic time since the agent
// started. The actions are to be done in order.
func (m *Member) Step(ev MemberEvent, now time.Duration) []MemberAction { panic(notYet) }

// Deadline returns when EvTimer is due.
func (m *Member) Deadline() (time.Duration, bool) { panic(notYet) }

func (Lead) kind() kind     { return 1 }
func (Tick) kind() kind     { return 2 }
func (Liveness) kind() kind { return 3 }
func (Target) kind() kind   { return 4 }
func (Orphan) kind() kind   { return 5 }
func (Raise) kind() kind    { return 6 }
func (Operator) kind() kind { return 7 }
func (Hello) kind() kind    { return 16 }
func (Ready) kind() kind    { return 17 }
func (Answer) kind() kind   { return 18 }
func (Progress) kind() kind { return 19 }
func (Done) kind() kind     { return 20 }
func (Health) kind() kind   { return 21 }
