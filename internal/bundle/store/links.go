package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// links finds symbolic links that climb out of what was unpacked although their text does not: by way of another link, whose ".." counts
// from where that one leads, or because the folder they would stay below was stripped. Both can be told only when all is unpacked.
type links struct {
	winding bool // some link has ".." after a name
	toTop   bool // some link climbs up to the archive's root
}

func (l *links) note(e *bundle.Entry) {
	if path.IsAbs(e.Link) {
		return
	}
	depth, named := strings.Count(e.Name, "/"), false
	for part := range strings.SplitSeq(e.Link, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
			l.winding = l.winding || named
			l.toTop = l.toTop || depth <= 0
		default:
			depth++
			named = true
		}
	}
}

// check walks the tree if there is any reason to.
func (l *links) check(root *os.Root, stripped bool) error {
	if l.winding || l.toTop && stripped {
		return (&linkCheck{root: root, lookups: mostLookups}).below(".")
	}
	return nil
}

const (
	mostHops    = 40        // links that Linux follows in one path
	mostLookups = 5_000_000 // names looked up in one archive: seconds, and more than a million honest links need
)

type linkCheck struct {
	root    *os.Root
	lookups int // left
}

func (c *linkCheck) below(dir string) error {
	opened, err := c.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := opened.ReadDir(-1)
	if err = errors.Join(err, opened.Close()); err != nil {
		return err
	}
	for _, entry := range entries {
		name := path.Join(dir, entry.Name())
		switch {
		case entry.IsDir():
			err = c.below(name)
		case entry.Type() == fs.ModeSymlink:
			err = c.follow(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow follows a link one element at a time. What is absolute on the way leads where it likes, as such links may; what is missing is
// taken for a directory.
func (c *linkCheck) follow(name string) error {
	text, err := c.root.Readlink(name)
	if err != nil {
		return err
	}
	var at []string
	if dir := path.Dir(name); dir != "." {
		at = strings.Split(dir, "/")
	}
	target, hops := text, 0
	for rest := strings.Split(text, "/"); len(rest) > 0 && !path.IsAbs(text) && hops < mostHops; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return fmt.Errorf("%w: the symbolic link %.200q points to %.200q, by way of other links outside of the archive", bundle.ErrRefused, name, target)
			}
			at = at[:len(at)-1]
			continue
		}
		if c.lookups--; c.lookups < 0 {
			return fmt.Errorf("%w: its symbolic links lead through too many others", bundle.ErrRefused)
		}
		at = append(at, part)
		if text, err = c.root.Readlink(path.Join(at...)); err == nil {
			hops++
			at = at[:len(at)-1]
			rest = append(strings.Split(text, "/"), rest...)
		}
	}
	return nil
}
