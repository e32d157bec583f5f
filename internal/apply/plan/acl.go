package plan

import (
	"encoding/binary"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// Tags of the kernel's ACL entries, in the order they are stored.
const (
	tagUserObj  = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20

	noID       = 0xffffffff
	aclVersion = 2
)

type aclEntry struct {
	tag  uint16
	perm uint16
	id   uint32
}

// acl makes the access and default lists of a path: the named entries, the
// owner's, group's and others' from the mode, the mask from the group's bits
// where a named entry needs one and none is given. A list that says no more
// than the mode is nil.
func (b *builder) acl(t *target, p *appspec.Permission) *Lists {
	u, g, o := uint16(t.attr.Mode>>6&7), uint16(t.attr.Mode>>3&7), uint16(t.attr.Mode&7)
	var base, def []aclEntry
	for _, a := range p.ACLs {
		e, ok := b.ace(a)
		if !ok {
			return nil
		}
		list := &base
		if a.Default {
			list = &def
		}
		same := func(other aclEntry) bool { return other.tag == e.tag && other.id == e.id }
		if i := slices.IndexFunc(*list, same); i >= 0 {
			b.warn("the access control list for %s names somebody twice; %s, the last one, counts", p.Object, a)
			(*list)[i] = e
			continue
		}
		*list = append(*list, e)
	}
	lists := &Lists{Access: encodeACL(complete(base, u, g, o))}
	if len(def) > 0 {
		lists.Default = encodeACL(complete(def, u, g, o))
	}
	return lists
}

func (b *builder) ace(a appspec.ACE) (aclEntry, bool) {
	e := aclEntry{id: noID}
	for i, set := range []bool{a.Execute, a.Write, a.Read} {
		if set {
			e.perm |= 1 << i
		}
	}
	lookup := b.in.Host.User
	switch a.Type {
	case appspec.ACEMask:
		e.tag = tagMask
	case appspec.ACEOther:
		e.tag = tagOther
	case appspec.ACEGroup:
		e.tag, lookup = tagGroupObj, b.in.Host.Group
	default:
		e.tag = tagUserObj
	}
	if a.Name == "" || e.tag == tagMask || e.tag == tagOther {
		return e, true
	}
	e.tag <<= 1
	id, ok := lookup(a.Name)
	if n, err := strconv.ParseUint(a.Name, 10, 31); !ok && err == nil {
		id, ok = int(n), true
	}
	if !ok {
		b.problem(Present, "%sthe access control list names the %s %s, who is not known on this host: Invalid argument near character 3", prefix, a.Type, a.Name)
		return e, false
	}
	e.id = uint32(id)
	return e, true
}

// complete adds the entries every list must have.
func complete(list []aclEntry, u, g, o uint16) []aclEntry {
	have := map[uint16]uint16{}
	named := false
	for _, e := range list {
		have[e.tag] = e.perm
		named = named || e.tag == tagUser || e.tag == tagGroup
	}
	for _, base := range []aclEntry{{tagUserObj, u, noID}, {tagGroupObj, g, noID}, {tagOther, o, noID}} {
		if _, ok := have[base.tag]; !ok {
			list = append(list, base)
			have[base.tag] = base.perm
		}
	}
	if _, ok := have[tagMask]; named && !ok {
		list = append(list, aclEntry{tagMask, have[tagGroupObj], noID})
	}
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].tag != list[j].tag {
			return list[i].tag < list[j].tag
		}
		return list[i].id < list[j].id
	})
	return list
}

// encodeACL gives the value of the kernel's extended attribute.
func encodeACL(list []aclEntry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range list {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out
}

// Shown returns the mode as stat shows it: where an access list has a mask, that
// stands in the group's place.
func (a Attr) Shown() uint32 {
	access := a.ACL().Access
	for at := 4; at+8 <= len(access); at += 8 {
		if binary.LittleEndian.Uint16(access[at:]) == tagMask {
			return a.Mode&^0o070 | uint32(binary.LittleEndian.Uint16(access[at+2:]))<<3
		}
	}
	return a.Mode
}

// rangeText writes an SELinux range as the kernel does: s0-s1:c0.c5,c7.
func rangeText(r *appspec.Range) string {
	if r == nil {
		return ""
	}
	text := "s" + r.Low
	if r.High != "" && r.High != r.Low {
		text += "-s" + r.High
	}
	var parts []string
	for i := 0; i < len(r.Categories); {
		j := i
		for j+1 < len(r.Categories) && r.Categories[j+1] == r.Categories[j]+1 {
			j++
		}
		part := "c" + strconv.Itoa(r.Categories[i])
		if j > i {
			part += ".c" + strconv.Itoa(r.Categories[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	if len(parts) > 0 {
		text += ":" + strings.Join(parts, ",")
	}
	return text
}
