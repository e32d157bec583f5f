package desired

// Bounds of a config repository. Each is far above what a fleet of thousands needs and low enough that no commit can exhaust a host.
const (
	maxEntries      = 200_000  // files and folders in the tree
	maxDepth        = 24       // folders inside one another
	maxHosts        = 20_000   // hosts/*.yaml
	maxSets         = 1_000    // coordinators/*.yaml
	maxGroups       = 5_000    // folders with a group.yaml
	maxProblems     = 1_000    // problems reported; the rest is counted
	maxGuesses      = 200_000  // names compared to suggest what was meant
	maxOverlayFiles = 4_096    // overlay files of one group
	maxOverlayFile  = 16 << 20 // bytes of one overlay file
	maxOverlayBytes = 64 << 20 // bytes of all overlay files of one group

	maxTags     = 100 // tags of a host
	maxTagKey   = 128 // bytes, as CodeDeploy
	maxTagValue = 256 // bytes, as CodeDeploy
	maxTagSets  = 32  // sets of one selector
	maxTagSet   = 100 // matches of one set
	maxWaves    = 64
	maxChecks   = 32
	maxKeys     = 8 // public keys of one host during a rotation
)
