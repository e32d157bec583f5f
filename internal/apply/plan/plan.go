package plan

import (
	"github.com/gitopsd/gitopsd/internal/appspec"
)

// Version of the plan's and the entries' encoding.
const Version = 1

// Host answers questions about the host's files. Paths are absolute, with the
// destination root before them.
type Host interface {
	// Lstat describes a path without following a link in its last element.
	Lstat(p string) Node
	// Names lists a directory.
	Names(p string) []string
	// Same tells whether the file at an entry's path still has the entry's content.
	Same(e Entry) bool
	// User and Group look up ids by name.
	User(name string) (id int, ok bool)
	Group(name string) (id int, ok bool)
	// SELinux tells whether contexts can be set.
	SELinux() bool
}

// Entry is one path an earlier deployment put in place.
type Entry struct {
	Path    string `json:"path"`
	Kind    Kind   `json:"kind"`
	Size    int64  `json:"size,omitempty"`
	MTimeNS int64  `json:"mtimeNs,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Target  string `json:"target,omitempty"`
	Attr    Attr   `json:"attr"`
}

// Attr is what Install sets on a path.
type Attr struct {
	Mode    uint32   `json:"mode"`
	Inherit bool     `json:"inherit,omitempty"` // a directory keeps the mode it is made with, which its parent may add to
	UID     int      `json:"uid"`               // -1: left as it comes
	GID     int      `json:"gid"`
	Access  []byte   `json:"access,omitempty"`  // system.posix_acl_access
	Default []byte   `json:"default,omitempty"` // system.posix_acl_default
	Context *Context `json:"context,omitempty"`
}

// Context is the part of an SELinux context that is set; empty parts are left.
type Context struct {
	User  string `json:"user,omitempty"`
	Type  string `json:"type"`
	Range string `json:"range,omitempty"`
}

// Owned is what one other group has in place on this host.
type Owned struct {
	GroupID     string
	Application string
	Live        bool // the host still belongs to the group
	Entries     []Entry
}

// Input is all a plan depends on.
type Input struct {
	Spec        *appspec.Spec
	Release     *Tree
	Host        Host
	Root        string // destinationRoot, absolute and clean
	WorkDir     string // what relative destinations are relative to
	Behavior    appspec.FileExistsBehavior
	Umask       uint32
	Privileged  bool  // may give files away
	UID         int   // of this process
	GIDs        []int // of this process, the primary one first
	Application string
	Tag         string // part of temporary names, unique to the deployment
	// ModTimeNS is given to every file written whose release node has no time
	// (MTimeNS 0); such a file of equal content is unchanged whatever its time.
	ModTimeNS int64
	Previous  []Entry
	Others    []Owned
}

// Class says when a problem is fatal.
type Class string

// The classes.
const (
	Invalid Class = "invalid" // the bundle is at fault on any host
	Claimed Class = "claimed" // a path belongs to another group
	Present Class = "present" // the host's files or users are in the way; a script might still change that
)

// Problem keeps Install from being done.
type Problem struct {
	Class   Class
	Message string
}

// Item is one path to be put in place.
type Item struct {
	Path    string `json:"path"`
	Kind    Kind   `json:"kind"`
	Source  string `json:"source,omitempty"` // in the release
	Target  string `json:"target,omitempty"` // of a link
	Size    int64  `json:"size,omitempty"`
	MTimeNS int64  `json:"mtimeNs,omitempty"`
	Attr    Attr   `json:"attr"`
}

// Unit is put in place by one rename: a file or link in a directory that
// exists, or a new directory with all below it.
type Unit struct {
	Dest  string `json:"dest"`
	Stage string `json:"stage"` // where it is built, beside Dest
	Saved string `json:"saved"` // where what was at Dest is kept until Install is done
	Old   Kind   `json:"old"`   // what was at Dest
	Items []Item `json:"items"` // the first is Dest itself; directories before what is in them
}

// Removal takes away what the previous revision had and this one has not.
type Removal struct {
	Path  string `json:"path"`
	Saved string `json:"saved"`
}

// Change sets attributes of a directory that exists.
type Change struct {
	Path string `json:"path"`
	New  Attr   `json:"new"`
}

// Kept is a path that is left although the previous revision put it there.
type Kept struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Plan is what Install does. Units, removals and changes are independent of
// each other's order.
type Plan struct {
	Version   int       `json:"version"`
	Units     []Unit    `json:"units"`
	Removals  []Removal `json:"removals"`
	Changes   []Change  `json:"changes"`
	Rmdir     []string  `json:"rmdir"` // emptied directories, deepest first; those that are not empty stay
	Kept      []Kept    `json:"kept"`
	Installed []Entry   `json:"installed"` // what is in place afterwards, sorted
	Adopted   []string  `json:"adopted"`   // groups whose files became ours
	Unchanged int       `json:"unchanged"`
	SizeBytes int64     `json:"sizeBytes"` // to be copied
	Warnings  []string  `json:"warnings"`
}

// Build makes the plan. With problems the plan is of no use.
func Build(in Input) (*Plan, []Problem) {
	b := &builder{
		in: in, plan: &Plan{Version: Version},
		targets: map[string]*target{}, retained: map[string]bool{},
		previous: map[string]Entry{}, others: map[string]int{},
		told: map[string]bool{},
	}
	if b.in.WorkDir == "" {
		b.in.WorkDir = "/"
	}
	b.indexOwners()
	b.behavior = appspec.Disallow
	if in.Behavior != "" {
		b.behavior = in.Behavior
	}
	if in.Spec.FileExistsBehavior != "" {
		b.behavior = in.Spec.FileExistsBehavior
	}
	for _, f := range in.Spec.Files {
		b.addSource(f)
	}
	b.adopt()
	b.judgeAll()
	b.setPermissions()
	if len(b.problems) > 0 {
		return b.plan, b.problems
	}
	b.layOut()
	b.clean()
	return b.plan, nil
}
