package appspec

// Event is the name of a lifecycle event, spelled as CodeDeploy spells it. Hooks of an appspec.yml may name any event; those that no
// kind of deployment has are run where they are asked for alone.
type Event string

// The lifecycle events of CodeDeploy on EC2 and on-premises hosts.
const (
	BeforeBlockTraffic Event = "BeforeBlockTraffic"
	BlockTraffic       Event = "BlockTraffic"
	AfterBlockTraffic  Event = "AfterBlockTraffic"
	ApplicationStop    Event = "ApplicationStop"
	DownloadBundle     Event = "DownloadBundle"
	BeforeInstall      Event = "BeforeInstall"
	Install            Event = "Install"
	AfterInstall       Event = "AfterInstall"
	ApplicationStart   Event = "ApplicationStart"
	ValidateService    Event = "ValidateService"
	BeforeAllowTraffic Event = "BeforeAllowTraffic"
	AllowTraffic       Event = "AllowTraffic"
	AfterAllowTraffic  Event = "AfterAllowTraffic"
)

// Kind is the part one host plays in a deployment; it decides which events the host goes through.
type Kind string

// The kinds. Rolling back an in-place deployment is an in-place deployment of the earlier revision, so it has no kind of its own.
const (
	InPlace                      Kind = "in-place"
	InPlaceWithLoadBalancer      Kind = "in-place-with-load-balancer"
	BlueGreenReplacement         Kind = "blue-green-replacement"
	BlueGreenOriginal            Kind = "blue-green-original"
	BlueGreenRollbackOriginal    Kind = "blue-green-rollback-original"
	BlueGreenRollbackReplacement Kind = "blue-green-rollback-replacement"
	Launch                       Kind = "launch"      // a new host of an autoscaled group behind a load balancer
	Termination                  Kind = "termination" // a host that is about to leave its group
)

// Kinds lists every kind of deployment.
func Kinds() []Kind {
	return []Kind{InPlace, InPlaceWithLoadBalancer, BlueGreenReplacement, BlueGreenOriginal, BlueGreenRollbackOriginal,
		BlueGreenRollbackReplacement, Launch, Termination}
}

// Order returns the events of a host in a deployment of this kind, in the order in which they run; nil for an unknown kind.
func Order(kind Kind) []Event {
	block := []Event{BeforeBlockTraffic, BlockTraffic, AfterBlockTraffic}
	install := []Event{ApplicationStop, DownloadBundle, BeforeInstall, Install, AfterInstall, ApplicationStart, ValidateService}
	allow := []Event{BeforeAllowTraffic, AllowTraffic, AfterAllowTraffic}
	switch kind {
	case InPlace:
		return install
	case InPlaceWithLoadBalancer:
		return append(append(block, install...), allow...)
	case BlueGreenReplacement, Launch:
		return append(install, allow...)
	case BlueGreenOriginal, BlueGreenRollbackReplacement:
		return block
	case BlueGreenRollbackOriginal:
		return allow
	case Termination:
		return append(block, ApplicationStop)
	}
	return nil
}

// Events lists every lifecycle event in the order of an in-place deployment behind a load balancer, which has them all.
func Events() []Event { return Order(InPlaceWithLoadBalancer) }

// Known says whether CodeDeploy has an event of this name.
func (e Event) Known() bool {
	for _, known := range Events() {
		if e == known {
			return true
		}
	}
	return false
}

// Scriptable says whether scripts of a hook of this name are run in some kind of deployment. Names that CodeDeploy does not know are not;
// they are where somebody lists them among the events to run.
func (e Event) Scriptable() bool { return e.Known() && !e.Own() }

// Own says whether the event belongs to the deployment itself, so that no script ever runs at it.
func (e Event) Own() bool {
	switch e {
	case DownloadBundle, Install, BlockTraffic, AllowTraffic:
		return true
	}
	return false
}

// FromPrevious says whether the scripts of this event come from the revision deployed before (the last successful one) and not from
// the one being deployed. It holds for every kind but a blue/green rollback, for which Event.From is exact.
func (e Event) FromPrevious() bool { return e.From(InPlace) == LastSuccessfulRevision }

// Revision says which revision's appspec.yml and scripts serve an event.
type Revision string

// The revisions an event is served from. A host that never had such a revision has no scripts for the event, which then succeeds at once.
const (
	CurrentRevision        Revision = "current"         // the revision being deployed
	LastSuccessfulRevision Revision = "last-successful" // the revision whose files were installed last
	MostRecentRevision     Revision = "most-recent"     // the revision whose bundle was downloaded last
)

// From says which revision serves the event in a deployment of the given kind.
func (e Event) From(kind Kind) Revision {
	rollback := kind == BlueGreenRollbackOriginal || kind == BlueGreenRollbackReplacement
	switch e {
	case BeforeBlockTraffic, AfterBlockTraffic:
		if rollback {
			return MostRecentRevision
		}
		return LastSuccessfulRevision
	case ApplicationStop:
		return LastSuccessfulRevision
	case BeforeAllowTraffic, AfterAllowTraffic:
		if rollback {
			return LastSuccessfulRevision
		}
	}
	return CurrentRevision
}
