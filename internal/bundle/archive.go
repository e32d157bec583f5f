package bundle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// Options bound what an archive may hold. Zero fields take the defaults.
type Options struct {
	MaxBytes   int64      // raw bytes of all files together; 0: 256 GiB
	MaxEntries int        // entries, directories that are only implied included; 0: 1,000,000
	MaxRatio   int64      // raw bytes a stored byte may become, once more than 2 GiB came out; 0: 200
	Links      LinkPolicy // which symbolic links are let through
}

// LinkPolicy says which symbolic links an archive may hold. None of them is ever followed while reading or unpacking.
type LinkPolicy int

const (
	// LinksDefault keeps absolute targets, as CodeDeploy's agent does and bundles rely on (shared storage), and refuses a relative
	// target that climbs out of the archive: while unpacked it would point into our own store, whose layout is nobody's interface.
	LinksDefault LinkPolicy = iota
	// LinksInside refuses absolute targets too.
	LinksInside
	// LinksAny keeps every target.
	LinksAny
)

// EntryType says what an entry becomes on disk.
type EntryType uint8

// Entry types; nothing else is let through.
const (
	File EntryType = iota + 1
	Dir
	Symlink
	Hardlink
)

// String names the type as refusals do.
func (t EntryType) String() string {
	switch t {
	case File:
		return "file"
	case Dir:
		return "directory"
	case Symlink:
		return "symbolic link"
	case Hardlink:
		return "hard link"
	}
	return fmt.Sprintf("entry type %d", uint8(t))
}

// Entry is one member of an archive.
type Entry struct {
	Name    string      // clean, relative, slash-separated, unique; bytes as in the archive, not necessarily UTF-8
	Type    EntryType   //
	Mode    fs.FileMode // permission, setuid, setgid and sticky bits only
	Umask   bool        // Mode was made up for a foreign system's entry: the umask is to be applied, as unzip does
	Link    string      // Symlink: the target verbatim. Hardlink: the clean Name of an earlier File
	ModTime time.Time   // zero if the archive keeps none
	UID     int         // numeric owner, -1 where the archive keeps none (zip)
	GID     int         //
	User    string      // owner's name, which tar prefers to the number when run by root; "" if not kept
	Group   string      //
	Size    int64       // bytes of a File, exact: Content ends there or fails
	Sparse  bool        // Content has holes that are worth keeping
	Content io.Reader   // of a File, valid until the next entry is read; nil otherwise
}

// ErrRefused is wrapped by every refusal of an archive's content, as opposed to a failure to read it.
var ErrRefused = errors.New("archive refused")

// ErrCutOff is wrapped by errors about an archive that ends before what it began does.
var ErrCutOff = errors.New("the archive ends early: it was cut off, or is damaged")

// endsEarly says of an end that came too early what it means.
func endsEarly(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrCutOff) {
		return ErrCutOff
	}
	return err
}

// content is a file's, whose errors say what an early end means.
type content struct{ of io.Reader }

func (c content) Read(p []byte) (int, error) {
	n, err := c.of.Read(p)
	if err != nil && err != io.EOF {
		err = endsEarly(err)
	}
	return n, err
}

// ErrStop ends a Walk early without an error.
var ErrStop = errors.New("stop walking")

// Walk reads an archive and calls fn for every entry in the archive's order. Zip needs r's random access, the tars read it front to back.
func Walk(r io.ReaderAt, size int64, t Type, o Options, fn func(*Entry) error) error {
	reader, err := Open(r, size, t, o)
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		entry, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = fn(entry)
		}
		if errors.Is(err, ErrStop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// source yields the members of one kind of archive as they are; Name and Link are not yet cleaned. skip says that an entry carries
// nothing to unpack.
type source interface {
	next() (entry *Entry, skip bool, err error)
	close()
}

// Reader yields the entries of an archive, once each, in the archive's order, under names that are safe to join to a directory.
//
// Refused, with the reason: absolute names and names with ".." (CodeDeploy's tar and unzip strip or refuse them, depending on the type
// and on which tool it falls back to; no honest packer makes them), names with NUL or longer than a Linux path, or more than 256 directories deep, a second entry of the
// same name unless both are directories, an entry below a file or symbolic link, a hard link to anything but an earlier file of the
// archive, a relative symbolic link that climbs out of the archive, devices, pipes and sockets, encrypted members, and archives that
// unpack to more than Options allows. Let through: "./" prefixes and doubled slashes (cleaned), names that are not UTF-8, absolute
// symbolic links (LinkPolicy), gzip, bzip2 or zstd compression under any of the tar types, as tar finds it out by itself.
type Reader struct {
	source source
	guard  *guard
	err    error
}

// Open begins to read an archive of the given type and size.
func Open(r io.ReaderAt, size int64, t Type, o Options) (*Reader, error) {
	g := newGuard(size, o)
	var src source
	var err error
	switch t {
	case TypeZip:
		src, err = openZip(r, size)
	case TypeTar, TypeTgz, TypeTarZst:
		src, err = openTar(io.NewSectionReader(r, 0, size))
	default:
		err = errors.New("it is no archive type")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s archive: %w", t, endsEarly(err))
	}
	return &Reader{source: src, guard: g}, nil
}

// Next returns the next entry, or io.EOF after the last. After an error it returns that error again.
func (r *Reader) Next() (*Entry, error) {
	for r.err == nil {
		entry, skip, err := r.source.next()
		if err == io.EOF {
			r.err = io.EOF
			break
		}
		if err != nil {
			r.err = fmt.Errorf("cannot read archive after %d entries: %w", r.guard.entries, endsEarly(err))
			break
		}
		if skip {
			r.err = r.guard.count()
			continue
		}
		keep, err := r.guard.admit(entry)
		if err != nil {
			r.err = err
			break
		}
		if keep {
			if entry.Content != nil {
				entry.Content = content{entry.Content}
			}
			return entry, nil
		}
	}
	return nil, r.err
}

// Close releases the decoder's memory; the archive itself stays the caller's.
func (r *Reader) Close() {
	r.source.close()
	if r.err == nil {
		r.err = errors.New("cannot read archive: its reader is closed")
	}
}
