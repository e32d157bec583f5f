package bundle

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// Bounds of names, as Linux has them.
const (
	maxNameBytes      = 4095
	maxComponentBytes = 255
)

// maxDepth bounds the directories above an entry, as Install does: what is done to one of them is done by looking up all of those above it, and a
// name has room for two thousand.
const maxDepth = 256

const (
	defaultMaxBytes   = 256 << 30
	defaultMaxEntries = 1_000_000
	defaultMaxRatio   = 200
	ratioFreeBytes    = 2 << 30 // below this much output the ratio is not judged: sparse and empty files compress without end
)

// guard decides which entries of one archive are let through. It keeps 64-bit hashes instead of names, seeded anew for each archive, so
// that a million entries cost some 40 MiB at most; a chance collision would refuse an honest archive once in 10^7 such archives.
type guard struct {
	limits  Options
	stored  int64
	entries int
	bytes   int64
	seed    maphash.Seed
	seen    map[uint64]EntryType
}

func newGuard(stored int64, o Options) *guard {
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.MaxEntries <= 0 {
		o.MaxEntries = defaultMaxEntries
	}
	if o.MaxRatio <= 0 {
		o.MaxRatio = defaultMaxRatio
	}
	return &guard{limits: o, stored: stored, seed: maphash.MakeSeed(), seen: map[uint64]EntryType{}}
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

func (g *guard) count() error {
	if g.entries++; g.entries > g.limits.MaxEntries {
		return refuse("it has more than %d entries", g.limits.MaxEntries)
	}
	return nil
}

// admit cleans and judges an entry. keep is false for the archive's root, which is no entry of its own.
func (g *guard) admit(e *Entry) (keep bool, err error) {
	if keep, err = g.judge(e); !keep || err != nil {
		return false, err
	}
	return true, g.place(e)
}

// judge is admit but for what the entries before have to do with it.
func (g *guard) judge(e *Entry) (keep bool, err error) {
	if err := g.count(); err != nil {
		return false, err
	}
	raw := e.Name
	if e.Name, err = cleanName(raw); err != nil {
		return false, err
	}
	if e.Name == "" {
		if e.Type != Dir {
			return false, refuse("%.200q names the archive's root, but is a %s", raw, e.Type)
		}
		return false, nil
	}
	if strings.Count(e.Name, "/") > maxDepth {
		return false, refuse("%.200q is more than %d directories deep", e.Name, maxDepth)
	}
	if err := g.checkLink(e); err != nil {
		return false, err
	}
	return true, g.checkSize(e)
}

// place enters the name and refuses it where another entry stands in its way.
func (g *guard) place(e *Entry) error {
	key := maphash.String(g.seed, e.Name)
	if was, ok := g.seen[key]; ok && (was != Dir || e.Type != Dir) {
		return refuse("it has two entries named %.200q", e.Name)
	}
	for parent := parentOf(e.Name); parent != ""; parent = parentOf(parent) {
		key := maphash.String(g.seed, parent)
		if was, ok := g.seen[key]; ok {
			if was != Dir {
				return refuse("%.200q lies below %.200q, which is a %s", e.Name, parent, was)
			}
			break
		}
		g.seen[key] = Dir
		if err := g.count(); err != nil {
			return err
		}
	}
	g.seen[key] = e.Type
	return nil
}

func (g *guard) checkSize(e *Entry) error {
	if e.Size < 0 || e.Type != File && e.Size != 0 {
		return refuse("%.200q is a %s of %d bytes", e.Name, e.Type, e.Size)
	}
	if e.Size > g.limits.MaxBytes-g.bytes {
		return refuse("with %.200q it unpacks to more than %d bytes", e.Name, g.limits.MaxBytes)
	}
	g.bytes += e.Size
	return g.checkRatio()
}

func (g *guard) checkRatio() error {
	if g.bytes > ratioFreeBytes && g.bytes/g.limits.MaxRatio > g.stored {
		return refuse("%d bytes unpack to more than %d, over %d times as much: that is how a decompression bomb looks", g.stored, g.bytes, g.limits.MaxRatio)
	}
	return nil
}

func (g *guard) checkLink(e *Entry) error {
	switch e.Type {
	case Hardlink:
		target, err := cleanName(e.Link)
		if err != nil {
			return fmt.Errorf("%w (target of the hard link %.200q)", err, e.Name)
		}
		if was := g.seen[maphash.String(g.seed, target)]; was != File && was != Hardlink {
			return refuse("the hard link %.200q points to %.200q, which is no earlier file of the archive", e.Name, e.Link)
		}
		e.Link = target
	case Symlink:
		return g.checkSymlink(e)
	}
	return nil
}

func (g *guard) checkSymlink(e *Entry) error {
	if e.Link == "" || len(e.Link) > maxNameBytes || strings.ContainsRune(e.Link, 0) {
		return refuse("the symbolic link %.200q has an impossible target %.200q", e.Name, e.Link)
	}
	if g.limits.Links == LinksAny {
		return nil
	}
	if e.Link[0] == '/' {
		if g.limits.Links == LinksInside {
			return refuse("the symbolic link %.200q points to %.200q, outside of the archive", e.Name, e.Link)
		}
		return nil
	}
	depth := strings.Count(e.Name, "/")
	for part := range strings.SplitSeq(e.Link, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return refuse("the symbolic link %.200q points to %.200q, outside of the archive", e.Name, e.Link)
			}
		default:
			depth++
		}
	}
	return nil
}

// cleanName drops "." and empty components and refuses what could leave the directory it is joined to.
func cleanName(raw string) (string, error) {
	switch {
	case raw == "":
		return "", refuse("an entry has no name")
	case len(raw) > maxNameBytes:
		return "", refuse("a name of %d bytes is too long: %.100q...", len(raw), raw)
	case raw[0] == '/':
		return "", refuse("%.200q is an absolute name", raw)
	case strings.IndexByte(raw, 0) >= 0:
		return "", refuse("%.200q has a zero byte in its name", raw)
	}
	if isClean(raw) {
		return raw, nil
	}
	parts := make([]string, 0, 8)
	for part := range strings.SplitSeq(raw, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", refuse("%.200q climbs out with \"..\"", raw)
		case len(part) > maxComponentBytes:
			return "", refuse("%.200q has a component of %d bytes, Linux allows %d", raw, len(part), maxComponentBytes)
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), nil
}

// isClean is the quick test for names that need no work.
func isClean(raw string) bool {
	start := 0
	for i := 0; i <= len(raw); i++ {
		if i < len(raw) && raw[i] != '/' {
			continue
		}
		part := raw[start:i]
		if part == "" || part == "." || part == ".." || len(part) > maxComponentBytes {
			return false
		}
		start = i + 1
	}
	return true
}

func parentOf(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}
