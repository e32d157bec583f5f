package appspec

// Position is a place in appspec.yml: line and column count from one, columns in characters. The zero Position means unknown.
type Position struct{ Line, Column int }

// OS is the operating system an appspec.yml is written for.
type OS string

// The operating systems CodeDeploy knows. Parse accepts Linux; Windows is recognised and refused by name.
const (
	Linux   OS = "linux"
	Windows OS = "windows"
)

// FileExistsBehavior says what Install does with a file that is already at a destination and that no earlier deployment put there.
type FileExistsBehavior string

// The behaviors; the empty one means that the deployment's own option decides (default Disallow).
const (
	Disallow  FileExistsBehavior = "DISALLOW"
	Overwrite FileExistsBehavior = "OVERWRITE"
	Retain    FileExistsBehavior = "RETAIN"
)

// DefaultTimeoutSeconds is the time limit of a script whose hook names none.
const DefaultTimeoutSeconds = 3600

// Spec is a checked appspec.yml.
type Spec struct {
	OS                 OS
	FileExistsBehavior FileExistsBehavior
	Files              []File
	Permissions        []Permission
	Hooks              map[Event][]Script // an event named without scripts is absent or empty

	version  *value
	unusable []Problem
}

// File is one element of `files`: what is copied from the bundle, and the directory it is copied to.
type File struct {
	Source      string // relative to the bundle's root, a leading slash is harmless; "/" or "." is the whole bundle
	Destination string // a directory, unless Source is one: then its contents land here
	Position    Position

	source, destination *value
}

// Permission is one element of `permissions`.
type Permission struct {
	Object   string    // a directory, or a file that the deployment copies
	Pattern  string    // "**" (default): all below Object; else a glob over Object's direct children in which only * is special
	Except   []string  // globs over direct children that are left alone
	Types    []string  // ObjectFile, ObjectDirectory; an empty list matches nothing
	Owner    string    // a user's name, empty: not changed
	Group    string    // a group's name, empty: not changed
	Mode     Mode      // empty: not changed
	ACLs     []ACE     // nil: not changed; empty but not nil: reset to the mode
	Context  *Context  // nil: not changed
	Unusable []Problem // Install fails on these as soon as the permission meets a path
	Position Position

	pattern, owner, group, types *value
	except                       []*value
}

// The object types of Permission.Types.
const (
	ObjectFile      = "file"
	ObjectDirectory = "directory"
)

// Context is the SELinux context of a permission.
type Context struct {
	User  string // SELinux user, the key is `name`; empty: none given
	Type  string
	Range *Range // nil: none given

	user, typ *value
}

// Script is one script of a hook.
type Script struct {
	Location       string // relative to the bundle's root; the whole string is the path, arguments are not split off
	TimeoutSeconds int64  // greater than zero
	RunAs          string // user's name; empty without HasRunAs: the agent's own user
	HasRunAs       bool   // `runas` was given; an empty one is given too and stands for root
	Sudo           bool
	Position       Position

	sudo, timeout *value
}

// Unusable lists what Parse accepts, because CodeDeploy's agent does, although Install is bound to fail on it: sources and destinations
// that are no paths. What fails only if a permission meets a path stands in Permission.Unusable.
func (s *Spec) Unusable() []Problem { return append([]Problem(nil), s.unusable...) }
