package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// installer carries out one plan. Every step may run twice: what is done is
// read from the tree.
type installer struct {
	a       *Applier
	plan    *plan.Plan
	before  []plan.Attr
	archive string // the release's tree
}

// stage makes every new file beside its destination, complete with its
// attributes.
func (in *installer) stage(ctx context.Context) error {
	if err := in.fill(ctx); err != nil {
		return err
	}
	return in.sync()
}

// stagers is how many files are copied at a time: a small one is mostly system
// calls, and few processors are enough to keep a file system busy.
const stagers = 4

// fill makes directories and links in their order, and files on several
// processors as soon as their directories are there.
func (in *installer) fill(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	files := make(chan stagedFile, 64)
	var workers sync.WaitGroup
	var first sync.Once
	var failed error
	for range min(stagers, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			buf := make([]byte, smallBuf)
			for file := range files {
				// After a failure nothing more is begun.
				if err := file.write(in.archive, buf, ctx.Err() != nil); err != nil {
					first.Do(func() { failed = err })
					stop()
				}
			}
		})
	}
	err := in.walk(ctx, files)
	close(files)
	workers.Wait()
	if err := cmp.Or(failed, err); err != nil {
		return err
	}
	return notInterrupted(ctx)
}

func notInterrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return nil
}

// walk hands out all files of the plan, and makes what else is in it.
func (in *installer) walk(ctx context.Context, files chan<- stagedFile) error {
	var parent *openDir // of the last unit; many have the same
	var path string
	defer func() { parent.done() }()
	for i := range in.plan.Units {
		u := in.plan.Unit(i)
		if err := in.unstage(u); err != nil {
			return err
		}
		if dir := filepath.Dir(u.Stage); parent == nil || dir != path {
			parent.done()
			var err error
			if parent, err = openParent(dir); err != nil {
				return fmt.Errorf("cannot install %s: %w", u.Dest, err)
			}
			path = dir
		}
		if err := in.build(ctx, newStaging(u, parent), files); err != nil {
			return err
		}
	}
	return nil
}

// build makes one unit, but for the files it hands out.
func (in *installer) build(ctx context.Context, s *staging, files chan<- stagedFile) (err error) {
	defer func() {
		if err != nil {
			s.failed.Store(true)
		}
		err = cmp.Or(err, s.done())
	}()
	for j := range s.unit.Items {
		item := &s.unit.Items[j]
		if err := notInterrupted(ctx); err != nil {
			return err
		}
		err := in.a.opts.Disk.Step("stage", s.unit.Stage+s.rel(item))
		if err == nil {
			err = s.add(item, files)
		}
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", item.Path, err)
		}
	}
	return nil
}

// unstage removes what was built for a unit and is not in place.
func (in *installer) unstage(u *plan.Unit) error {
	if _, err := os.Lstat(u.Stage); isMissing(err) {
		return nil
	}
	if err := in.a.opts.Disk.Step("unstage", u.Stage); err != nil {
		return err
	}
	return removeTree(u.Stage)
}

// commit puts everything in place.
func (in *installer) commit() error {
	for i, c := range in.plan.Changes {
		if err := in.a.opts.Disk.Step("change", c.Path); err != nil {
			return err
		}
		if err := change(c.Path, c.New); err != nil {
			return fmt.Errorf("cannot set the attributes of %s: %w", in.plan.Changes[i].Path, err)
		}
	}
	for i := range in.plan.Removals {
		r := in.plan.Removal(i)
		if err := in.move("remove", r.Path, r.Saved); err != nil && !isMissing(err) {
			return fmt.Errorf("cannot remove %s: %w", r.Path, err)
		}
	}
	for i := range in.plan.Units {
		u := in.plan.Unit(i)
		if err := in.swap(u); err != nil {
			return fmt.Errorf("cannot put %s in place: %w", u.Dest, err)
		}
	}
	return in.sync()
}

func (in *installer) move(kind, from, to string) error {
	if err := in.a.opts.Disk.Step(kind, from); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// swap puts one unit in place and saves what was there.
func (in *installer) swap(u *plan.Unit) error {
	dir := u.Items[0].Kind == plan.Dir
	switch {
	case u.Old == plan.None:
		return in.place(u, renameNew)
	case u.Old == plan.Dir || dir:
		if err := in.move("save", u.Dest, u.Saved); err != nil && !isMissing(err) {
			return err
		}
	default:
		if err := in.save(u); err != nil && !isMissing(err) {
			return err
		}
	}
	return in.place(u, os.Rename)
}

// place gives what was built its name. Whoever owns the directory around it may
// have put something else there; what is seen to be of another kind is not placed.
func (in *installer) place(u *plan.Unit, rename func(from, to string) error) error {
	if err := in.a.opts.Disk.Step("place", u.Dest); err != nil {
		return err
	}
	n, _, err := statNode(u.Stage)
	if err != nil {
		return err
	}
	if n.Kind != u.Items[0].Kind {
		return fmt.Errorf("a %s was put in the place of the %s made at %s", n.Kind, u.Items[0].Kind, u.Stage)
	}
	return rename(u.Stage, u.Dest)
}

// save gives a file or link a second name, so that its own is never missing.
func (in *installer) save(u *plan.Unit) error {
	if err := in.a.opts.Disk.Step("save", u.Dest); err != nil {
		return err
	}
	if err := os.Remove(u.Saved); err != nil && !isMissing(err) {
		return err
	}
	if err := os.Link(u.Dest, u.Saved); err == nil || isMissing(err) {
		return err
	}
	return os.Rename(u.Dest, u.Saved)
}

// renameNew renames to a name that must not be taken.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if _, err := os.Lstat(to); err == nil {
			return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// change sets the attributes of a directory; anything else in its place is left alone.
func change(path string, a plan.Attr) error {
	fd, err := openPlain(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := dropACLs(fd, a); err != nil {
		return err
	}
	return setAttr(fd, a)
}

// undo restores what was there before. placed tells whether renames may have
// begun.
func (in *installer) undo(placed bool) error {
	if placed {
		for i := range in.plan.Units {
			u := in.plan.Unit(i)
			if err := in.restore(u); err != nil {
				return fmt.Errorf("cannot restore %s: %w", u.Dest, err)
			}
		}
		for i := range in.plan.Removals {
			r := in.plan.Removal(i)
			if err := in.move("restore", r.Saved, r.Path); err != nil && !isMissing(err) {
				return fmt.Errorf("cannot restore %s: %w", r.Path, err)
			}
		}
		for i, c := range in.plan.Changes {
			if err := in.a.opts.Disk.Step("restore", c.Path); err != nil {
				return err
			}
			err := change(c.Path, in.before[i])
			if isMissing(err) || errors.Is(err, unix.ELOOP) {
				in.a.log.Warn("cannot restore the attributes of a directory: it is gone", "path", c.Path, "error", err)
				continue
			}
			if err != nil {
				return fmt.Errorf("cannot restore the attributes of %s: %w", c.Path, err)
			}
		}
	}
	for i := range in.plan.Units {
		u := in.plan.Unit(i)
		if err := in.unstage(u); err != nil {
			return fmt.Errorf("cannot remove %s: %w", u.Stage, err)
		}
	}
	return in.sync()
}

// restore takes one unit back.
func (in *installer) restore(u *plan.Unit) error {
	saved, savedErr := os.Lstat(u.Saved)
	if savedErr != nil && !isMissing(savedErr) {
		return savedErr
	}
	if err := in.a.opts.Disk.Step("restore", u.Dest); err != nil {
		return err
	}
	if savedErr != nil { // nothing was saved: either nothing was there, or it is there still
		if u.Old != plan.None || exists(u.Stage) || !exists(u.Dest) {
			return nil
		}
		return os.Rename(u.Dest, u.Stage)
	}
	if dest, err := os.Lstat(u.Dest); err == nil {
		if os.SameFile(dest, saved) {
			return os.Remove(u.Saved)
		}
		if dest.IsDir() || saved.IsDir() {
			if err := os.Rename(u.Dest, u.Stage); err != nil {
				return err
			}
		}
	}
	return os.Rename(u.Saved, u.Dest)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// clean removes what was saved and the directories that became empty.
func (in *installer) clean() error {
	for i := range in.plan.Units {
		if err := in.discard(in.plan.Unit(i).Saved); err != nil {
			return err
		}
	}
	for i := range in.plan.Removals {
		if err := in.discard(in.plan.Removal(i).Saved); err != nil {
			return err
		}
	}
	for _, dir := range in.plan.Rmdir {
		if err := in.a.opts.Disk.Step("rmdir", dir); err != nil {
			return err
		}
		err := unix.Rmdir(dir)
		if errors.Is(err, unix.EROFS) { // as discard would: it may pass
			return fmt.Errorf("cannot remove the directory %s that the previous revision made: %w", dir, err)
		}
		if err != nil && !isMissing(err) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
			in.a.log.Warn("cannot remove a directory that the previous revision made", "path", dir, "error", err)
		}
	}
	return nil
}

// cleans tells whether clean has anything to do.
func (in *installer) cleans() bool {
	for i := range in.plan.Units {
		if in.plan.Units[i].Old != plan.None {
			return true
		}
	}
	return len(in.plan.Removals)+len(in.plan.Rmdir) > 0
}

func (in *installer) discard(saved string) error {
	if !exists(saved) {
		return nil
	}
	if err := in.a.opts.Disk.Step("discard", saved); err != nil {
		return err
	}
	if err := removeTree(saved); err != nil {
		return fmt.Errorf("cannot remove what an earlier revision left: %w", err)
	}
	return nil
}

// sync makes every destination's file system durable, each once.
func (in *installer) sync() error {
	done := map[uint64]bool{}
	for _, dir := range in.plan.Touched() {
		dir = topExisting(dir)
		dev, err := device(dir)
		if err != nil {
			return err
		}
		if done[dev] {
			continue
		}
		done[dev] = true
		if err := in.a.opts.Disk.SyncFS(dir); err != nil {
			return err
		}
	}
	return nil
}
