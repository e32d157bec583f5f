package apply

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// Files that hold something of every path of a bundle are written and read a
// line at a time, so that what is in memory does not grow with them: a header,
// one record a line, and the number of records, which shows that none is missing.

// recordLineMax bounds one line in bytes: two paths and two access lists.
const recordLineMax = 1 << 20

// recordsMax bounds a file of records in bytes: a million paths, each of the longest.
const recordsMax = 16 << 30

// lastLine ends a file of records.
type lastLine struct {
	Records *int `json:"records"`
}

// recordWriter writes the lines of one file.
type recordWriter struct {
	buf  *bufio.Writer
	json *json.Encoder
	n    int
}

func (w *recordWriter) put(v any) error {
	w.n++
	return w.json.Encode(v)
}

// writeRecords writes a file as Disk.WriteFile does, line by line. each puts the
// records.
func (a *Applier) writeRecords(path string, header any, each func(*recordWriter) error) (err error) {
	disk, dir := a.opts.Disk, filepath.Dir(path)
	if err := disk.Step("create", path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, tempName)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			if !errors.Is(err, durable.ErrCut) {
				os.Remove(f.Name())
			}
			err = fmt.Errorf("cannot write %s: %w", path, err)
		}
	}()
	if err := disk.Step("write", path); err != nil {
		return err
	}
	w := &recordWriter{buf: bufio.NewWriterSize(f, 64<<10)}
	w.json = json.NewEncoder(w.buf)
	w.json.SetEscapeHTML(false)
	if err := w.json.Encode(header); err != nil {
		return err
	}
	if err := each(w); err != nil {
		return err
	}
	if err := w.json.Encode(lastLine{&w.n}); err != nil {
		return err
	}
	if err := errors.Join(w.buf.Flush(), f.Chmod(0o600)); err != nil {
		return err
	}
	if err := disk.Step("sync", path); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return disk.Rename(f.Name(), path)
}

// tempName is the pattern of what durable.IsTemp knows for a temporary file.
const tempName = ".durable-*"

// recordReader reads the lines of one file.
type recordReader struct {
	path  string
	file  *os.File
	lines *bufio.Scanner
	held  []byte // a line read and not yet known to be the last
	n     int
	err   error
}

// openRecords opens what writeRecords wrote and reads its header; fs.ErrNotExist
// if it is not there. A header of another version is refused, whatever follows it.
func openRecords(path string, version int, header any) (*recordReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	r := &recordReader{path: path, file: f, lines: bufio.NewScanner(f)}
	r.lines.Buffer(make([]byte, 0, 16<<10), recordLineMax)
	if err := r.open(version, header); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func (r *recordReader) open(version int, header any) error {
	info, err := r.file.Stat()
	if err != nil {
		return fmt.Errorf("cannot read state: %w", err)
	}
	if info.Size() > recordsMax {
		return fmt.Errorf("cannot read %s: its %d bytes are more than %d", r.path, info.Size(), int64(recordsMax))
	}
	line, ok := r.line()
	if !ok {
		return r.broken(io.ErrUnexpectedEOF)
	}
	var found struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(line, &found); err != nil {
		return r.broken(err)
	}
	if found.Version != version {
		return fmt.Errorf("cannot read %s: format version %d is not known, only %d", r.path, found.Version, version)
	}
	if err := json.Unmarshal(line, header); err != nil {
		return r.broken(err)
	}
	if line, ok := r.line(); ok {
		r.held = append([]byte(nil), line...)
	}
	return nil
}

func (r *recordReader) line() ([]byte, bool) {
	if r.lines.Scan() {
		return r.lines.Bytes(), true
	}
	return nil, false
}

func (r *recordReader) broken(err error) error {
	return fmt.Errorf("cannot read %s: %w: %w", r.path, errDamaged, errors.Join(r.lines.Err(), err))
}

// next reads a record into v; false after the last one or where the file is
// damaged, which close tells.
func (r *recordReader) next(v any) bool {
	if r.err != nil || r.held == nil {
		return false
	}
	line, more := r.line()
	if !more {
		return false
	}
	if err := json.Unmarshal(r.held, v); err != nil {
		r.err = fmt.Errorf("record %d: %w", r.n+1, err)
		return false
	}
	r.held = append(r.held[:0], line...)
	r.n++
	return true
}

// close ends reading. It is an error that the file is damaged, if it was read to
// its end.
func (r *recordReader) close() error {
	defer r.file.Close()
	if err := errors.Join(r.err, r.lines.Err()); err != nil {
		return r.broken(err)
	}
	var last lastLine
	if err := json.Unmarshal(r.held, &last); err != nil || last.Records == nil || *last.Records != r.n {
		return r.broken(fmt.Errorf("it ends after %d records without saying so", r.n))
	}
	return nil
}

// readRecords reads a whole file; each is called with every record.
func readRecords[T any](path string, version int, header any, each func(T)) error {
	r, err := openRecords(path, version, header)
	if err != nil {
		return err
	}
	for {
		var v T
		if !r.next(&v) {
			return r.close()
		}
		each(v)
	}
}

// readHeader reads the header alone.
func readHeader(path string, version int, header any) error {
	r, err := openRecords(path, version, header)
	if err != nil {
		return err
	}
	return r.file.Close()
}

// missing tells that a state file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// plain makes a name text: JSON has no place for bytes that are not UTF-8. As no
// name has a NUL, one with the byte's two digits after it stands for such a byte.
func plain(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&b, "\x00%02x", name[0])
		} else {
			b.WriteString(name[:size])
		}
		name = name[size:]
	}
	return b.String()
}

// verbatim undoes plain.
func verbatim(text string) string {
	if !strings.Contains(text, "\x00") {
		return text
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "\x00")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if len(rest) >= 2 {
			if n, err := strconv.ParseUint(rest[:2], 16, 8); err == nil {
				b.WriteByte(byte(n))
				rest = rest[2:]
			}
		}
		text = rest
	}
}

func plainEntry(e plan.Entry) plan.Entry {
	e.Path, e.Target, e.Source = plain(e.Path), plain(e.Target), plain(e.Source)
	return e
}

func verbatimEntry(e plan.Entry) plan.Entry {
	e.Path, e.Target, e.Source = verbatim(e.Path), verbatim(e.Target), verbatim(e.Source)
	return e
}
