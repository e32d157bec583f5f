package desired

import (
	"crypto/ed25519"
	"io/fs"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// Problem is one thing wrong with the tree: file, position, what is wrong and what to do. Warning marks the ones that leave the State usable.
type Problem = strict.Problem

// HostName is a host's name in the inventory: the file name of hosts/NAME.yaml.
type HostName string

// GroupID is a deployment group's identity for life, the `id` of its group.yaml.
type GroupID string

// State is everything one commit says. It is never changed after Load returned it.
type State struct {
	Fleet  Fleet
	Hosts  map[HostName]Host
	Sets   map[string]CoordinatorSet
	Groups []Group // sorted by folder
	Broken Broken  // what the commit names but could not be read
}

// Broken lists what a commit has but what could not be used because of a Problem. Whoever compares two States must not take it for removed.
type Broken struct {
	Fleet  bool       // fleet.yaml; Fleet is then the default one
	Hosts  []HostName // hosts/NAME.yaml
	Sets   []string   // coordinators/NAME.yaml
	Groups []string   // folders of groups
	IDs    []GroupID  // ids of those groups, where one could be read
}

// Any says whether anything could not be used.
func (b Broken) Any() bool {
	return b.Fleet || len(b.Hosts)+len(b.Sets)+len(b.Groups) > 0
}

// Fleet is fleet.yaml.
type Fleet struct {
	Name              string
	Sites             map[string]Site
	DeploymentConfigs map[string]DeploymentConfig
	AllowMassRemoval  string // commit id whose successor may remove many hosts or all groups; "" for none
}

// Site is one place with hosts of its own.
type Site struct {
	Origin string           // "shared" (the fleet reads the origin once) or "own" (once for this site)
	Links  map[string]int64 // bytes in a second of bundles towards other sites; none: no limit
}

// LinkRateMin is the least rate of a link, in bytes in a second: with less, pieces take longer than a host waits for them.
const LinkRateMin = 256 << 10

// DeploymentConfig is a named entry of fleet.yaml's deploymentConfigs, or a predefined one.
type DeploymentConfig struct {
	MinimumHealthy MinimumHealthy
	MaxUnavailable *Amount
	MaxFailures    *Amount
	MinSuccess     *Amount
	Zonal          *ZonalConfig
}

// Host is hosts/NAME.yaml.
type Host struct {
	Name    HostName
	Keys    []ed25519.PublicKey // one, or several during a rotation
	Storage string              // 16 hexadecimal digits
	Address string              // HOST:PORT, or "" when others cannot dial it
	Zone    string
	Site    string
	Tags    map[string]string
}

// CoordinatorSet is coordinators/NAME.yaml: the raft voters that decide when.
type CoordinatorSet struct {
	Name                 string
	Epoch                uint64
	Voters               []Voter // in the file's order; 1, 3, 5 or 7
	MaxActiveDeployments int     // deployments at a time in the set; 20 unless set
	MaxHostsInFlight     int     // hosts at a time between grant and verdict in the set; 0 for no limit
}

// Voter is one HOST/STORAGE.
type Voter struct {
	Host    HostName
	Storage string
}

// Group is one deployment group: a folder with a group.yaml.
type Group struct {
	ID              GroupID
	Folder          string // slash-separated, relative to the repository's root
	ApplicationName string
	Name            string // deploymentGroupName
	Coordinators    string // name of the CoordinatorSet
	Targets         Targets
	Members         []HostName // sorted
	Revision        Revision
	SpecHash        string // 64 hexadecimal digits; see SpecHash
	Overlay         []OverlayFile
	Policy          Policy
	Checks          []Check // the same as Policy.Checks
}

// Revision is where the bundle is and which bytes it must have.
type Revision struct {
	Type       string        // S3 | GitHub | Forge | Https | Directory | Repository
	Digest     bundle.Digest // of the archive, as sha256sum prints it; of a folder's deterministic tar
	Size       int64         // bytes; 0 when the file does not say
	Index      bundle.Digest // of the piece index; "" for none
	BundleType bundle.Type
	S3         *S3Location         `json:",omitempty"`
	GitHub     *GitHubLocation     `json:",omitempty"`
	Forge      *ForgeLocation      `json:",omitempty"`
	Https      *HttpsLocation      `json:",omitempty"`
	Directory  *DirectoryLocation  `json:",omitempty"`
	Repository *RepositoryLocation `json:",omitempty"`
}

// S3Location is CodeDeploy's s3Location.
type S3Location struct {
	Bucket, Key, Version, ETag string
}

// GitHubLocation is CodeDeploy's gitHubLocation.
type GitHubLocation struct {
	Repository string // OWNER/NAME
	Commit     string
}

// ForgeLocation is the archive a forge makes of a commit.
type ForgeLocation struct {
	Forge  string // GitHub | GitLab | Gitea
	URL    string // of the repository
	Commit string
}

// RepositoryLocation is a folder of the config repository, at the same commit.
type RepositoryLocation struct {
	Path string
	Tree fs.FS `json:"-"` // the folder; valid as long as the fs.FS given to Load
}

// HttpsLocation is an archive behind a URL (http is accepted too: the digest judges the bytes).
type HttpsLocation struct {
	URL string
}

// DirectoryLocation is an archive in a directory every reading host has mounted.
type DirectoryLocation struct {
	Path string // absolute
}

// OverlayFile is a file of the config repository that is laid over the bundle.
type OverlayFile struct {
	Path   string      // inside the bundle
	Mode   fs.FileMode // 0644 or 0755, as git knows no others
	Size   int64       // bytes
	SHA256 string      // 64 hexadecimal digits
	Source string      // path in the config repository

	Open func() (fs.File, error) `json:"-"` // the content; valid as long as the fs.FS given to Load
}

// Minimum healthy types. MostConcurrency exists only in CodeDeployDefault.OneAtATime: its value is the window itself.
const (
	HostCount       = "HOST_COUNT"
	FleetPercent    = "FLEET_PERCENT"
	MostConcurrency = "MOST_CONCURRENCY"
)

// MinimumHealthy is CodeDeploy's minimumHealthyHosts.
type MinimumHealthy struct {
	Type  string
	Value int // hosts, percent, or (MOST_CONCURRENCY) hosts at a time
}

// Amount is a number of hosts or a share of them: `3` or `25%`.
type Amount struct {
	Count   int
	Percent int  // 0 to 100
	IsShare bool // Percent counts, not Count
}

// ZonalConfig is CodeDeploy's zonalConfig.
type ZonalConfig struct {
	FirstZoneMonitor time.Duration // -1 when absent: then Monitor is meant
	Monitor          time.Duration
	MinimumPerZone   MinimumHealthy
}

// Wave is one step of a rollout. Exactly one of Hosts, Percent, Tag and Rest is set.
type Wave struct {
	Hosts   int           // this many hosts
	Percent int           // this share of the group, 1 to 100
	Tag     *TagMatch     // the hosts with this tag
	Rest    bool          // all that are left
	Bake    time.Duration // time to stay healthy before the next wave
}

// TagMatch matches tags: both set, Key alone (any value) or Value alone (any key).
type TagMatch struct {
	Key, Value string
	HasKey     bool
	HasValue   bool
}

// AutoRollback events.
const (
	OnDeploymentFailure = "DEPLOYMENT_FAILURE"
	OnStopOnAlarm       = "DEPLOYMENT_STOP_ON_ALARM"
	OnStopOnRequest     = "DEPLOYMENT_STOP_ON_REQUEST"
)

// AutoRollback is CodeDeploy's autoRollbackConfiguration.
type AutoRollback struct {
	Enabled bool
	Events  []string
}

// On says whether event rolls back.
func (a AutoRollback) On(event string) bool {
	for _, e := range a.Events {
		if a.Enabled && e == event {
			return true
		}
	}
	return false
}

// DeploymentStyle is CodeDeploy's deploymentStyle.
type DeploymentStyle struct {
	Type   string // IN_PLACE
	Option string // WITHOUT_TRAFFIC_CONTROL
}

// PolicyVersion is the version of Policy's JSON. It rises when a field gets another meaning.
const PolicyVersion = 1

// Policy is how a group may move from one revision to the next. It is frozen into a rollout's target and travels through raft as JSON, so it holds no
// pointer into the tree and every duration is nanoseconds.
type Policy struct {
	Version                int
	DeploymentConfigName   string // "" when minimumHealthyHosts was given instead
	MinimumHealthy         MinimumHealthy
	MaxUnavailable         *Amount      `json:",omitempty"` // a narrower window than minimum healthy allows
	MaxFailures            *Amount      `json:",omitempty"` // failed hosts that end the rollout are those beyond this
	MinSuccess             *Amount      `json:",omitempty"` // hosts that must succeed in the end; 100% allowed
	Zonal                  *ZonalConfig `json:",omitempty"`
	Waves                  []Wave       `json:",omitempty"` // none: one wave with all
	Unreachable            string       // skip | wait | fail
	MaxUnreachable         Amount
	Supersede              string // fast-forward | queue | cancel-and-rollback
	ApplicationStopFailure string // fail | continue | use-new
	AutoRollback           AutoRollback
	Checks                 []Check `json:",omitempty"`
	Attempt                int     // from 1; raised to try a quarantined revision again
	Suspend                bool
	Removed                bool
	Style                  DeploymentStyle
	FileExistsBehavior     string        // DISALLOW | OVERWRITE | RETAIN
	DeadAfter              time.Duration // silence after which a host counts as unreachable
	ReadyDeadline          time.Duration // how long hosts may take to report Ready before the others go ahead
	DeploymentDeadline     time.Duration // how long a whole deployment may take
}

// Check is one probe of a host's health. Exactly one of HTTP, TCP, Exec and Unit is set.
type Check struct {
	Name           string
	HTTP           *HTTPCheck `json:",omitempty"`
	TCP            *TCPCheck  `json:",omitempty"`
	Exec           *ExecCheck `json:",omitempty"`
	Unit           *UnitCheck `json:",omitempty"`
	Interval       time.Duration
	Timeout        time.Duration
	HealthyAfter   int           // passes in a row
	UnhealthyAfter int           // failures in a row
	Grace          time.Duration // failures this long after a start do not count
}

// HTTPCheck passes when a GET answers with Status.
type HTTPCheck struct {
	URL    string
	Status int               // 0: any of 200 to 399
	Body   string            `json:",omitempty"` // must occur in the first 64 KiB of the answer; "" for no matter
	Header map[string]string `json:",omitempty"`
}

// TCPCheck passes when a connection is accepted.
type TCPCheck struct {
	Address string // HOST:PORT
}

// ExecCheck passes when a program ends with status 0.
type ExecCheck struct {
	Command []string // argv, no shell; the program by absolute path
}

// UnitCheck passes when systemctl calls the unit active.
type UnitCheck struct {
	Name string
}
