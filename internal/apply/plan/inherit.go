package plan

import (
	"bytes"
	"encoding/binary"
)

// What a directory leaves to what is made in it: the group of one with setgid, and its default list. A directory of ours that stays is as if
// made anew before the files of this deployment are, so they inherit what it will have, not what it has on the disk.

// noList is an access list that takes away what is there.
var noList = encodeACL(nil)

// setDefaults gives a target the attributes it has before permissions.
func (b *builder) setDefaults(t *target) {
	t.attr = Attr{UID: -1, GID: -1}
	up := b.targets[parent(t.place)]
	if up != nil {
		t.stale, t.staleLists = up.stale, up.staleLists
	}
	switch {
	case !t.dir:
		t.attr.Mode = t.node.Mode
		if b.in.Privileged {
			t.attr.UID, t.attr.GID = t.node.UID, t.node.GID
		}
		if t.staleLists && t.node.Kind == File {
			t.attr.Lists = &Lists{Access: withMode(b.bequest(t.place).Default, t.attr.Mode)}
		}
	case t.shared:
		n := b.in.Host.Lstat(t.path)
		t.attr.Mode, t.attr.UID, t.attr.GID = n.Mode, n.UID, n.GID
	case t.exists:
		t.attr = b.made(t.place)
		n, lists := b.in.Host.Lstat(t.path), b.in.Host.Lists(t.path)
		if !b.in.Privileged {
			t.attr.UID, t.attr.GID = n.UID, n.GID
		}
		t.staleLists = !bytes.Equal(lists.Default, t.attr.ACL().Default)
		t.stale = t.staleLists || (n.Mode|t.attr.Mode)&0o2000 != 0 && (n.Mode&0o2000 != t.attr.Mode&0o2000 || n.GID != t.attr.GID)
	case t.stale:
		t.attr = b.made(t.place)
		if t.staleLists {
			lists := t.attr.ACL()
			t.attr.Lists = &Lists{Access: withMode(lists.Default, t.attr.Mode), Default: lists.Default}
			if lists.Default == nil {
				t.attr.Lists.Default = noList
			}
		}
	default:
		t.attr.Mode, t.attr.Inherit = 0o777&^b.in.Umask, true
	}
}

// bequest is what the directory that a path is in leaves to it.
type bequest struct {
	GID     int    // -1: that of the process
	Default []byte // list, nil if there is none
}

func (b *builder) bequest(place string) bequest {
	dir := parent(place)
	mode, gid, list := uint32(0), -1, []byte(nil)
	if t := b.targets[dir]; t != nil && !t.shared {
		mode, gid, list = t.attr.Mode, t.attr.GID, t.attr.ACL().Default
	} else {
		n := b.in.Host.Lstat(dir)
		if n.Kind == Link && n.Real != "" {
			dir = n.Real
			n = b.in.Host.Lstat(dir)
		}
		mode, gid, list = n.Mode, n.GID, b.in.Host.Lists(dir).Default
	}
	if mode&0o2000 == 0 {
		gid = -1
	}
	if bytes.Equal(list, noList) {
		list = nil
	}
	return bequest{gid, list}
}

// made returns what a directory has when it was just made.
func (b *builder) made(place string) Attr {
	left := b.bequest(place)
	a := Attr{Mode: 0o777 &^ b.in.Umask, UID: -1, GID: -1}
	if left.Default != nil {
		a.Mode = shown(0o777, left.Default) // the umask does not count then
		a.Lists = &Lists{Access: left.Default, Default: left.Default}
		if len(left.Default) == minimal {
			a.Lists.Access = nil
		}
	}
	if b.in.Privileged {
		a.UID = b.in.UID
		if len(b.in.GIDs) > 0 {
			a.GID = b.in.GIDs[0]
		}
	}
	if left.GID >= 0 {
		a.Mode |= 0o2000
		a.GID = left.GID
	}
	return a
}

// minimal is the length in bytes of a list that says no more than a mode.
const minimal = 4 + 3*8

// withMode returns a list after chmod: the mode's bits are those of owner, mask or else group, and others. Of no list it makes one that says
// no more than the mode.
func withMode(list []byte, mode uint32) []byte {
	if list == nil {
		return encodeACL(complete(nil, uint16(mode>>6&7), uint16(mode>>3&7), uint16(mode&7)))
	}
	out := bytes.Clone(list)
	group := uint16(tagGroupObj)
	if maskOf(list) >= 0 {
		group = tagMask
	}
	for at := 4; at+8 <= len(out); at += 8 {
		switch binary.LittleEndian.Uint16(out[at:]) {
		case tagUserObj:
			binary.LittleEndian.PutUint16(out[at+2:], uint16(mode>>6&7))
		case group:
			binary.LittleEndian.PutUint16(out[at+2:], uint16(mode>>3&7))
		case tagOther:
			binary.LittleEndian.PutUint16(out[at+2:], uint16(mode&7))
		}
	}
	return out
}

// shown returns a mode as stat shows it beside a list, which decides all but the special bits.
func shown(mode uint32, list []byte) uint32 {
	mode &= 0o7000
	masked := maskOf(list) >= 0
	for at := 4; at+8 <= len(list); at += 8 {
		perm := uint32(binary.LittleEndian.Uint16(list[at+2:]))
		switch binary.LittleEndian.Uint16(list[at:]) {
		case tagUserObj:
			mode |= perm << 6
		case tagGroupObj:
			if !masked {
				mode |= perm << 3
			}
		case tagMask:
			mode |= perm << 3
		case tagOther:
			mode |= perm
		}
	}
	return mode
}

// maskOf returns where in a list the mask is, -1 if it has none.
func maskOf(list []byte) int {
	for at := 4; at+8 <= len(list); at += 8 {
		if binary.LittleEndian.Uint16(list[at:]) == tagMask {
			return at
		}
	}
	return -1
}

// settled returns lists as they are read back after they were set.
func (l Lists) settled() Lists {
	if len(l.Access) <= minimal {
		l.Access = nil
	}
	if bytes.Equal(l.Default, noList) {
		l.Default = nil
	}
	return l
}
