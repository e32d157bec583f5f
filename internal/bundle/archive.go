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
	MaxEntries int        // 0: 1,000,000
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

// Entry is one member of an archive.
type Entry struct {
	Name    string      // clean, relative, slash-separated, unique; bytes as in the archive, not necessarily UTF-8
	Type    EntryType   //
	Mode    fs.FileMode // permission, setuid, setgid and sticky bits only
	Link    string      // Symlink: the target verbatim. Hardlink: the clean Name of an earlier File
	ModTime time.Time   //
	UID     int         // numeric owner, -1 where the archive keeps none (zip)
	GID     int         //
	Size    int64       // bytes of a File, exact: Content ends there or fails
	Content io.Reader   // of a File, valid until the next entry is read; nil otherwise
}

// ErrRefused is wrapped by every refusal of an archive's content, as opposed to a failure to read it.
var ErrRefused = errors.New("archive refused")

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

// Reader yields the entries of an archive.
type Reader struct{}

// Open begins to read an archive of the given type and size.
func Open(r io.ReaderAt, size int64, t Type, o Options) (*Reader, error) {
	return nil, fmt.Errorf("cannot read %s archive: %w", t, errors.ErrUnsupported)
}

// Next returns the next entry, or io.EOF after the last.
func (r *Reader) Next() (*Entry, error) { return nil, errors.ErrUnsupported }

// Close releases the decoder's memory; the archive itself stays the caller's.
func (r *Reader) Close() {}
