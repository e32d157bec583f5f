package plan

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"strconv"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// Version of the plan's and the entries' encoding.
const Version = 2

// Host answers questions about the host's files. Paths are absolute, with the
// destination root before them.
type Host interface {
	// Lstat describes a path without following a link in its last element.
	Lstat(p string) Node
	// Names lists a directory.
	Names(p string) []string
	// Lists returns the access lists of a directory.
	Lists(p string) Lists
	// Same tells whether the file at an entry's path still has the entry's content.
	Same(e Entry) bool
	// User and Group look up ids by name.
	User(name string) (id int, ok bool)
	Group(name string) (id int, ok bool)
	// SELinux tells whether contexts can be set.
	SELinux() bool
}

// Entry is one path an earlier deployment put in place, spelled as its
// appspec.yml did: a link on the way may lead elsewhere by now.
type Entry struct {
	Path    string `json:"path"`
	Kind    Kind   `json:"kind"`
	Size    int64  `json:"size,omitempty"`
	MTimeNS int64  `json:"mtimeNs,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Target  string `json:"target,omitempty"`
	Source  string `json:"source,omitempty"` // in the release, of what a unit puts in place
	Attr    Attr   `json:"attr"`
	// Shared tells of a directory that it held somebody's files when a deployment met it. As for the agent, which could not remove it, it has been
	// theirs from then on; ours is but to remove it when it is empty.
	Shared bool `json:"shared,omitempty"`
}

// Attr is what Install sets on a path.
type Attr struct {
	Mode    uint32   `json:"mode"`
	Inherit bool     `json:"inherit,omitempty"` // a directory keeps the mode it is made with, which its parent may add to
	UID     int      `json:"uid"`               // -1: left as it comes
	GID     int      `json:"gid"`
	Lists   *Lists   `json:"lists,omitempty"`
	Context *Context `json:"context,omitempty"`
}

// Lists are the access lists of a path, as the kernel's extended attributes.
type Lists struct {
	Access  []byte `json:"access,omitempty"`  // system.posix_acl_access
	Default []byte `json:"default,omitempty"` // system.posix_acl_default
}

// ACL returns the access lists, empty ones if there are none.
func (a Attr) ACL() Lists {
	if a.Lists == nil {
		return Lists{}
	}
	return *a.Lists
}

func (l Lists) equal(m Lists) bool {
	l, m = l.settled(), m.settled()
	return bytes.Equal(l.Access, m.Access) && bytes.Equal(l.Default, m.Default)
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

// Unit is put in place by one rename: a file or link in a directory that
// exists, or a new directory with all below it.
type Unit struct {
	Dest  string  // where it is: its items are spelled as appspec.yml does
	Stage string  // where it is built, beside Dest
	Saved string  // where what was at Dest is kept until Install is done
	Old   Kind    // what was at Dest
	Items []Entry // the first is Dest itself; directories before what is in them
}

// Extent is what a plan holds of a unit; a plan may have very many.
type Extent struct {
	First int  `json:"first"` // where its items begin in Plan.Installed
	Count int  `json:"count"` // of its items
	Old   Kind `json:"old,omitempty"`
	// At is where the first item is, if links lead there. What has begun there ends there, whatever becomes of the links.
	At string `json:"at,omitempty"`
}

// Removal takes away what the previous revision had and this one has not.
type Removal struct {
	Path  string
	Saved string
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
// each other's order, and no link to a directory is on the way to any of them.
type Plan struct {
	Tag       string // part of temporary names
	Units     []Extent
	Removals  []string // paths
	Changes   []Change
	Rmdir     []string // emptied directories, deepest first; those that are not empty stay
	Kept      []Kept
	Installed []Entry  // what is in place afterwards
	Adopted   []string // groups whose files became ours
	Unchanged int
	SizeBytes int64 // to be copied
	Warnings  []string
}

// Unit makes the i-th unit.
func (p *Plan) Unit(i int) *Unit {
	x := p.Units[i]
	u := &Unit{Old: x.Old, Items: p.Installed[x.First : x.First+x.Count]}
	u.Dest = cmp.Or(x.At, u.Items[0].Path)
	u.Stage, u.Saved = p.beside(u.Dest, i, ".new"), p.beside(u.Dest, i, ".old")
	return u
}

// Removal makes the i-th removal.
func (p *Plan) Removal(i int) Removal {
	path := p.Removals[i]
	return Removal{Path: path, Saved: p.beside(path, len(p.Units)+i, ".old")}
}

// TempPrefix begins the name of everything Install keeps beside a destination
// for a while.
const TempPrefix = ".gitopsd-"

// beside makes the n-th temporary name beside a path.
func (p *Plan) beside(dest string, n int, end string) string {
	return path.Join(parent(dest), TempPrefix+p.Tag+"-"+strconv.Itoa(n)+end)
}

// Check tells what is wrong with a plan that was read back.
func (p *Plan) Check() error {
	for i, x := range p.Units {
		if x.First < 0 || x.Count < 1 || x.First > len(p.Installed)-x.Count {
			return fmt.Errorf("unit %d has items %d to %d of %d", i, x.First, x.First+x.Count, len(p.Installed))
		}
	}
	return nil
}

// Build makes the plan. With problems the plan is of no use.
func Build(in Input) (*Plan, []Problem) {
	b := &builder{
		in: in, plan: &Plan{Tag: in.Tag},
		places: newPlaces(in.Host), targets: map[string]*target{}, renamed: map[string]*target{}, known: map[*target]string{},
		previous: map[string]*Entry{}, others: map[string]int{}, theirs: map[string]bool{},
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
	if b.behavior != appspec.Disallow && b.behavior != appspec.Overwrite && b.behavior != appspec.Retain {
		b.warn("fileExistsBehavior %q is none of OVERWRITE, RETAIN and DISALLOW; a file that exists will be refused", b.behavior)
	}
	for _, f := range in.Spec.Files {
		b.addSource(f)
	}
	b.in.Release = nil // what is needed of it the targets have
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
