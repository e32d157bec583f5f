package apply

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// host answers the planner's questions about this host, each path once.
type host struct {
	nodes  map[string]plan.Node // but for files
	files  map[string]hostFile
	users  map[string]int
	groups map[string]int
	buf    []byte
}

// hostFile is what there is to know of a file; most paths are files.
type hostFile struct {
	size, mtimeNS int64
	mode          uint32
	uid, gid      uint32
}

func newHost() *host {
	return &host{nodes: map[string]plan.Node{}, files: map[string]hostFile{}, users: map[string]int{}, groups: map[string]int{}, buf: make([]byte, 64<<10)}
}

// Lstat implements plan.Host.
func (h *host) Lstat(p string) plan.Node {
	if f, ok := h.files[p]; ok {
		return plan.Node{Kind: plan.File, Mode: f.mode, UID: int(f.uid), GID: int(f.gid), Size: f.size, MTimeNS: f.mtimeNS}
	}
	if n, ok := h.nodes[p]; ok {
		return n
	}
	n, _, err := statNode(p)
	if n.Kind == plan.File {
		h.files[p] = hostFile{n.Size, n.MTimeNS, n.Mode, uint32(n.UID), uint32(n.GID)}
		return n
	}
	if err == nil && n.Kind == plan.Link {
		if n.Leads, n.Real = leads(p); n.Leads == plan.None {
			n.Real = wouldLead(p)
		}
	}
	h.nodes[p] = n
	return n
}

// wouldLead returns the path at which a file is made that is written through a link which leads nowhere, empty if none can be.
func wouldLead(link string) string {
	for range 40 { // as the kernel follows
		target, err := os.Readlink(link)
		if err != nil {
			return link // not there: the end
		}
		if !filepath.IsAbs(target) {
			target = filepath.Dir(link) + "/" + target // not cleaned: .. is the parent of where a link leads
		}
		dir, base := filepath.Split(target)
		if base == "" || base == "." || base == ".." {
			return ""
		}
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return ""
		}
		link = filepath.Join(dir, base)
	}
	return ""
}

// Names implements plan.Host.
func (h *host) Names(p string) []string {
	entries, err := os.ReadDir(p)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Lists implements plan.Host.
func (h *host) Lists(p string) plan.Lists {
	return plan.Lists{Access: h.list(p, xattrAccess), Default: h.list(p, xattrDefault)}
}

func (h *host) list(p, name string) []byte {
	n, err := unix.Lgetxattr(p, name, h.buf)
	if err != nil || n == 0 {
		return nil // no list, or a file system without
	}
	return bytes.Clone(h.buf[:n])
}

// Same implements plan.Host: size and time are trusted when both agree.
func (h *host) Same(e plan.Entry) bool {
	n := h.Lstat(e.Path)
	if n.Kind != plan.File || n.Size != e.Size {
		return false
	}
	if n.MTimeNS == e.MTimeNS {
		return true
	}
	sum, err := hashFile(e.Path, h.buf)
	return err == nil && sum == e.SHA256
}

// User implements plan.Host.
func (h *host) User(name string) (int, bool) {
	return lookup(h.users, name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

// Group implements plan.Host.
func (h *host) Group(name string) (int, bool) {
	return lookup(h.groups, name, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

func lookup(known map[string]int, name string, find func() (string, error)) (int, bool) {
	id, ok := known[name]
	if !ok {
		id = -1
		if text, err := find(); err == nil {
			if n, err := strconv.Atoi(text); err == nil {
				id = n
			}
		}
		known[name] = id
	}
	return id, id >= 0
}

// SELinux implements plan.Host.
func (h *host) SELinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// Extended attributes that hold access lists and contexts.
const (
	xattrAccess  = "system.posix_acl_access"
	xattrDefault = "system.posix_acl_default"
	xattrContext = "security.selinux"
)

// setAttr sets what the plan says about an open file or directory. The owner
// comes first, as changing it takes setuid and setgid away.
func setAttr(fd int, a plan.Attr) error {
	if a.UID >= 0 || a.GID >= 0 {
		if err := redo(func() error { return unix.Fchown(fd, a.UID, a.GID) }); err != nil {
			return os.NewSyscallError("chown", err)
		}
	}
	if !a.Inherit {
		if err := chmod(fd, a.Mode); err != nil {
			return err
		}
	}
	for _, acl := range []struct {
		name  string
		value []byte
	}{{xattrAccess, a.ACL().Access}, {xattrDefault, a.ACL().Default}} {
		if acl.value == nil {
			continue
		}
		if err := unix.Fsetxattr(fd, acl.name, acl.value, 0); err != nil {
			return fmt.Errorf("cannot set the access control list: %w", err)
		}
	}
	if a.Context != nil {
		return setContext(fd, a.Context)
	}
	return nil
}

// chmod takes the kernel's bits.
func chmod(fd int, mode uint32) error {
	return os.NewSyscallError("chmod", redo(func() error { return unix.Fchmod(fd, mode) }))
}

// dropACLs removes the access lists of an open directory that is to have none.
func dropACLs(fd int, a plan.Attr) error {
	for _, acl := range []struct {
		name  string
		value []byte
	}{{xattrAccess, a.ACL().Access}, {xattrDefault, a.ACL().Default}} {
		if acl.value != nil {
			continue
		}
		err := unix.Fremovexattr(fd, acl.name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("cannot remove the access control list: %w", err)
		}
	}
	return nil
}

// readAttr reads what setAttr can change, for undo.
func readAttr(path string) (plan.Attr, error) {
	n, _, err := statNode(path)
	if err != nil {
		return plan.Attr{}, err
	}
	a := plan.Attr{Mode: n.Mode, UID: n.UID, GID: n.GID}
	var lists plan.Lists
	if lists.Access, err = readXattr(path, xattrAccess); err != nil {
		return a, err
	}
	if lists.Default, err = readXattr(path, xattrDefault); err != nil {
		return a, err
	}
	if lists.Access != nil || lists.Default != nil {
		a.Lists = &lists
	}
	label, err := readXattr(path, xattrContext)
	if err == nil {
		a.Context = splitContext(string(label))
	}
	return a, err
}

func readXattr(path, name string) ([]byte, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(path, name, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read " + name + " of", Path: path, Err: err}
	}
	return buf[:n], nil
}

// setContext changes the given parts of an open file's SELinux context
// (user:role:type:range) and leaves the others as the policy made them.
func setContext(fd int, c *plan.Context) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(fd, xattrContext, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		n, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the SELinux context: %w", err)
	}
	text, err := mergeContext(string(buf[:n]), c)
	if err == nil {
		err = unix.Fsetxattr(fd, xattrContext, append([]byte(text), 0), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot set the SELinux context: %w", err)
	}
	return nil
}

// topExisting returns the nearest directory at or above a path that exists.
func topExisting(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}

// device returns the number of the file system a directory is on.
func device(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return st.Dev, nil
}
