package bundle

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"
)

// Signatures and lengths of the zip format (APPNOTE.TXT 4.3).
const (
	zipLocalMagic   = 0x04034b50
	zipCentralMagic = 0x02014b50
	zipEndMagic     = 0x06054b50
	zipEnd64Magic   = 0x06064b50
	zipLoc64Magic   = 0x07064b50

	zipLocalBytes   = 30
	zipCentralBytes = 46
	zipEndBytes     = 22
	zipEnd64Bytes   = 56
	zipLoc64Bytes   = 20

	zipMadeByUnix = 3
	zipMadeByOSX  = 19
)

// zipSource reads a zip by its central directory, one record at a time: the standard library's reader holds all records at once, which
// lets ten million entries take gigabytes before anybody can count them.
type zipSource struct {
	archive io.ReaderAt
	size    int64
	base    int64  // bytes before the archive proper (a self-extractor's stub); added to every offset
	records uint64 // entries the end record promises
	seen    uint64
	central *bufio.Reader
	inflate io.ReadCloser
}

func openZip(r io.ReaderAt, size int64) (source, error) {
	end, at, err := findZipEnd(r, size)
	if err == errNoZipEnd && beginsAsZip(r) {
		err = fmt.Errorf("end of central directory signature not found: %w", ErrCutOff)
	}
	if err != nil {
		return nil, err
	}
	records, length, offset := uint64(binary.LittleEndian.Uint16(end[10:])), uint64(binary.LittleEndian.Uint32(end[12:])), uint64(binary.LittleEndian.Uint32(end[16:]))
	if records == 0xffff || length == 0xffffffff || offset == 0xffffffff {
		var found bool
		if records, length, offset, at, found, err = readZip64(r, at, records, length, offset); err != nil {
			return nil, err
		}
		if !found && (length == 0xffffffff || offset == 0xffffffff) {
			return nil, errors.New("its zip64 end record is missing")
		}
	}
	if length > uint64(at) || offset > uint64(at)-length {
		return nil, errors.New("its central directory lies outside of it")
	}
	s := &zipSource{archive: r, size: size, base: at - int64(length) - int64(offset), records: records}
	s.central = bufio.NewReaderSize(io.NewSectionReader(r, at-int64(length), int64(length)), 64<<10)
	return s, nil
}

var errNoZipEnd = errors.New("end of central directory signature not found: this is no zip archive, or it is cut off")

// beginsAsZip says whether a member stands at the very beginning.
func beginsAsZip(r io.ReaderAt) bool {
	var magic [4]byte
	n, _ := r.ReadAt(magic[:], 0)
	return n == len(magic) && binary.LittleEndian.Uint32(magic[:]) == zipLocalMagic
}

// findZipEnd looks for the end record from behind: a comment of up to 64 KiB may follow it.
func findZipEnd(r io.ReaderAt, size int64) (end []byte, at int64, err error) {
	tail := make([]byte, min(size, zipEndBytes+0xffff))
	if len(tail) < zipEndBytes {
		return nil, 0, errNoZipEnd
	}
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return nil, 0, err
	}
	for i := len(tail) - zipEndBytes; i >= 0; i-- {
		if binary.LittleEndian.Uint32(tail[i:]) != zipEndMagic {
			continue
		}
		if comment := int(binary.LittleEndian.Uint16(tail[i+20:])); i+zipEndBytes+comment <= len(tail) {
			return tail[i : i+zipEndBytes], size - int64(len(tail)-i), nil
		}
	}
	return nil, 0, errNoZipEnd
}

// readZip64 reads the end record of large archives, which stands before the classic one at at.
func readZip64(r io.ReaderAt, at int64, records, length, offset uint64) (uint64, uint64, uint64, int64, bool, error) {
	locator := make([]byte, zipLoc64Bytes)
	if at < zipLoc64Bytes+zipEnd64Bytes {
		return records, length, offset, at, false, nil
	}
	if _, err := r.ReadAt(locator, at-zipLoc64Bytes); err != nil {
		return 0, 0, 0, 0, false, err
	}
	if binary.LittleEndian.Uint32(locator) != zipLoc64Magic {
		return records, length, offset, at, false, nil
	}
	where := binary.LittleEndian.Uint64(locator[8:])
	if where > uint64(at-zipLoc64Bytes-zipEnd64Bytes) {
		return 0, 0, 0, 0, false, errors.New("its zip64 end record lies outside of it")
	}
	end := make([]byte, zipEnd64Bytes)
	if _, err := r.ReadAt(end, int64(where)); err != nil {
		return 0, 0, 0, 0, false, err
	}
	if binary.LittleEndian.Uint32(end) != zipEnd64Magic {
		return 0, 0, 0, 0, false, errors.New("its zip64 end record is damaged")
	}
	return binary.LittleEndian.Uint64(end[32:]), binary.LittleEndian.Uint64(end[40:]), binary.LittleEndian.Uint64(end[48:]), int64(where), true, nil
}

func (s *zipSource) close() {
	if s.inflate != nil {
		_ = s.inflate.Close()
		s.inflate = nil
	}
}

// zipRecord is what a central directory record says about one member.
type zipRecord struct {
	madeBy, flags, method uint16
	date, time            uint16
	crc                   uint32
	stored, raw, offset   uint64
	attributes            uint32
	name                  string
	modified              time.Time
}

func (s *zipSource) next() (*Entry, bool, error) {
	// The directory is read to its end, not to the number of records promised: old tools write that number modulo 65,536, and entries
	// beyond it must not hide.
	if rest, err := s.central.Peek(4); err == io.EOF || len(rest) == 4 && binary.LittleEndian.Uint32(rest) != zipCentralMagic {
		if s.seen&0xffff != s.records&0xffff {
			return nil, false, fmt.Errorf("its central directory has %d entries, but says %d", s.seen, s.records)
		}
		return nil, false, io.EOF
	}
	s.seen++
	record, err := s.readRecord()
	if err != nil {
		return nil, false, err
	}
	e := &Entry{Name: record.name, UID: -1, GID: -1, ModTime: record.modified}
	if err := record.setType(e); err != nil {
		return nil, false, err
	}
	if e.Type == Dir {
		return e, false, nil
	}
	content, err := s.open(record)
	if err != nil {
		return nil, false, fmt.Errorf("%.200q: %w", record.name, err)
	}
	if e.Type == Symlink {
		if record.raw > maxNameBytes {
			return nil, false, refuse("the symbolic link %.200q has a target of %d bytes", record.name, record.raw)
		}
		target, err := io.ReadAll(content)
		e.Link = string(target)
		return e, false, err
	}
	if record.raw > MaxArchiveBytes {
		return nil, false, refuse("%.200q says it has %d bytes", record.name, record.raw)
	}
	e.Size, e.Content = int64(record.raw), content
	return e, false, nil
}

// setType reads type and mode as unzip does: those of a Unix packer are exact but for setuid, setgid and sticky; others are made up.
func (z zipRecord) setType(e *Entry) error {
	unix := z.attributes >> 16
	madeBy := z.madeBy >> 8
	if unix == 0 || madeBy != zipMadeByUnix && madeBy != zipMadeByOSX {
		e.Type, e.Mode, e.Umask = File, 0o666, true
		if strings.HasSuffix(z.name, "/") || z.attributes&0x10 != 0 {
			e.Type, e.Mode = Dir, 0o777
		} else if z.attributes&1 != 0 {
			e.Mode = 0o444
		}
		return nil
	}
	e.Mode = fs.FileMode(unix) & fs.ModePerm
	switch unix & 0xf000 {
	case 0x4000:
		e.Type = Dir
	case 0xa000:
		e.Type = Symlink
	case 0x8000, 0:
		e.Type = File
		if strings.HasSuffix(z.name, "/") {
			e.Type = Dir
		}
	default:
		return refuse("%.200q is a device, pipe or socket (Unix mode %#o)", z.name, unix)
	}
	return nil
}

func (s *zipSource) readRecord() (z zipRecord, err error) {
	var fixed [zipCentralBytes]byte
	if _, err := io.ReadFull(s.central, fixed[:]); err != nil {
		return z, fmt.Errorf("its central directory ends early: %w", noEOF(err))
	}
	le := binary.LittleEndian
	if le.Uint32(fixed[:]) != zipCentralMagic {
		return z, errors.New("its central directory is damaged")
	}
	z.madeBy, z.flags, z.method, z.time, z.date = le.Uint16(fixed[4:]), le.Uint16(fixed[8:]), le.Uint16(fixed[10:]), le.Uint16(fixed[12:]), le.Uint16(fixed[14:])
	z.crc, z.stored, z.raw = le.Uint32(fixed[16:]), uint64(le.Uint32(fixed[20:])), uint64(le.Uint32(fixed[24:]))
	z.attributes, z.offset = le.Uint32(fixed[38:]), uint64(le.Uint32(fixed[42:]))
	nameLen, extraLen, commentLen := int(le.Uint16(fixed[28:])), int(le.Uint16(fixed[30:])), int(le.Uint16(fixed[32:]))
	variable := make([]byte, nameLen+extraLen)
	if _, err := io.ReadFull(s.central, variable); err != nil {
		return z, fmt.Errorf("its central directory ends early: %w", noEOF(err))
	}
	if _, err := s.central.Discard(commentLen); err != nil {
		return z, fmt.Errorf("its central directory ends early: %w", noEOF(err))
	}
	z.name = string(variable[:nameLen])
	if z.madeBy>>8 == 0 && !strings.Contains(z.name, "/") {
		z.name = strings.ReplaceAll(z.name, `\`, "/") // made by a DOS or Windows tool that broke the rules, as unzip mends it
	}
	z.modified = dosTime(z.date, z.time)
	return z, z.readExtra(variable[nameLen:])
}

// readExtra takes sizes over 4 GiB and times in UTC from the extra fields.
func (z *zipRecord) readExtra(extra []byte) error {
	le := binary.LittleEndian
	for len(extra) >= 4 {
		tag, size := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if size > len(extra)-4 {
			return nil // unzip warns of a damaged extra field and goes on
		}
		field := extra[4 : 4+size]
		extra = extra[4+size:]
		switch {
		case tag == 0x0001:
			for _, v := range []*uint64{&z.raw, &z.stored, &z.offset} {
				if *v != 0xffffffff {
					continue
				}
				if len(field) < 8 {
					return fmt.Errorf("%.200q: its zip64 sizes are missing", z.name)
				}
				*v, field = le.Uint64(field), field[8:]
			}
		case tag == 0x5455 && len(field) >= 5 && field[0]&1 != 0:
			z.modified = time.Unix(int64(int32(le.Uint32(field[1:]))), 0)
		}
	}
	return nil
}

// dosTime reads the zone-less two-second time of the format, as UTC.
func dosTime(date, clock uint16) time.Time {
	return time.Date(int(date>>9)+1980, time.Month(date>>5&0xf), int(date&0x1f), int(clock>>11), int(clock>>5&0x3f), int(clock&0x1f)*2, 0, time.UTC)
}

// open finds a member's data behind its local header and returns its content, bounded and checked.
func (s *zipSource) open(z zipRecord) (io.Reader, error) {
	if z.flags&1 != 0 {
		return nil, refuse("it is encrypted")
	}
	if z.offset > uint64(s.size) || z.stored > uint64(s.size) {
		return nil, errors.New("its data lies outside of the archive")
	}
	at := s.base + int64(z.offset)
	var local [zipLocalBytes]byte
	if _, err := s.archive.ReadAt(local[:], at); err != nil {
		return nil, fmt.Errorf("its local header cannot be read: %w", noEOF(err))
	}
	if binary.LittleEndian.Uint32(local[:]) != zipLocalMagic {
		return nil, errors.New("its local header is damaged")
	}
	start := at + zipLocalBytes + int64(binary.LittleEndian.Uint16(local[26:])) + int64(binary.LittleEndian.Uint16(local[28:]))
	if start+int64(z.stored) > s.size {
		return nil, errors.New("its data lies outside of the archive")
	}
	stored := bufio.NewReaderSize(io.NewSectionReader(s.archive, start, int64(z.stored)), int(min(z.stored+16, 64<<10)))
	content := &zipContent{left: z.raw, want: z.crc, sum: crc32.NewIEEE()}
	switch z.method {
	case 0:
		if z.raw != z.stored {
			return nil, errors.New("it is stored, but its two sizes differ")
		}
		content.r = stored
	case 8:
		if s.inflate == nil {
			s.inflate = flate.NewReader(stored)
		} else if err := s.inflate.(flate.Resetter).Reset(stored, nil); err != nil {
			return nil, err
		}
		content.r = s.inflate
	default:
		return nil, fmt.Errorf("compression method %d is not supported; pack it with deflate", z.method)
	}
	if z.raw == 0 && z.crc == 0 {
		content.r = bytes.NewReader(nil)
	}
	return content, nil
}

// zipContent yields exactly as many bytes as the directory promised, with the promised checksum.
type zipContent struct {
	r    io.Reader
	left uint64
	want uint32
	sum  hash.Hash32
	done bool
}

func (c *zipContent) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, c.finish()
	}
	if uint64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= uint64(n)
	c.sum.Write(p[:n])
	if err == io.EOF && c.left == 0 {
		err = nil
	}
	return n, noEOF(err)
}

func (c *zipContent) finish() error {
	if c.done {
		return io.EOF
	}
	var one [1]byte
	if n, _ := io.ReadFull(c.r, one[:]); n > 0 {
		return refuse("a member has more bytes than the directory says")
	}
	if got := c.sum.Sum32(); got != c.want {
		return fmt.Errorf("a member is damaged: checksum %08x, expected %08x", got, c.want)
	}
	c.done = true
	return io.EOF
}

// noEOF turns an end that comes too early into an error that no loop takes for the regular end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
