package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A file of slots: a block whose first 8 bytes are a header and whose next 4 the
// bytes of a slot, then two slots. A slot is a sequence number (8 bytes), the
// payload's length (4), a checksum (4) and the payload; numbers are little
// endian. The checksum is CRC-32C over sequence, length and payload. The whole
// slot with the higher sequence number counts.
const (
	slotsMagic   = "gitopsP"
	slotsVersion = 1
	slotsBlock   = 4096
	slotHeader   = 16
	slotMin      = 64 << 10 // bytes of the smallest slot
	slotMax      = 64 << 20
)

// Slots keeps one value, like WriteFile, in space that it took when it was made:
// a new value goes over the older of two slots, so that neither a crash nor a
// full disk costs the value before it, and a full disk does not keep a new one
// from being written. It cannot tell a value that rotted on the disk from one
// whose writing was cut short: either way the value before it counts. Its methods
// may be called from several goroutines.
type Slots struct {
	mu    sync.Mutex
	disk  *Disk
	path  string
	file  *os.File
	size  int64 // of one slot
	seq   uint64
	newer int // the slot that counts, 0 or 1
}

// OpenSlots opens or makes the file of slots at path, with room for values of so
// many bytes, and returns the value in it; empty if none was written. A file that
// is not one of slots, as WriteFile leaves it, becomes one with its content as
// the value. Two damaged slots are ErrCorrupt.
func OpenSlots(path string, valueBytes int) (*Slots, []byte, error) {
	return (*Disk)(nil).OpenSlots(path, valueBytes)
}

// OpenSlots is like the function OpenSlots, on this disk.
func (d *Disk) OpenSlots(path string, valueBytes int) (*Slots, []byte, error) {
	s := &Slots{disk: d, path: path}
	value, err := s.load()
	if errors.Is(err, errNoSlots) || errors.Is(err, os.ErrNotExist) {
		err = s.make(value, slotSize(max(valueBytes, len(value))))
	}
	if err != nil {
		s.Close()
		return nil, nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return s, value, nil
}

// ReadSlots returns the value in the file of slots at path, for whoever only
// looks: it may be read while another process writes, and is never made.
func ReadSlots(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, slotsBlock+2*slotMax+1))
	if err != nil {
		return nil, err
	}
	value, _, _, _, err := decodeSlots(data)
	if err != nil && !errors.Is(err, errNoSlots) {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return value, nil
}

// errNoSlots tells that a file holds a plain value.
var errNoSlots = errors.New("not a file of slots")

// slotSize is the size of a slot with room for so many bytes.
func slotSize(valueBytes int) int64 {
	size := int64(slotMin)
	for size < int64(valueBytes)+slotHeader {
		size *= 2
	}
	return size
}

// load reads the value; with errNoSlots it is the plain content of the file.
func (s *Slots) load() ([]byte, error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, slotsBlock+2*slotMax+1))
	if err != nil {
		f.Close()
		return nil, err
	}
	value, size, seq, newer, err := decodeSlots(data)
	if err != nil {
		f.Close()
		return value, err
	}
	s.file, s.size, s.seq, s.newer = f, size, seq, newer
	return value, nil
}

// decodeSlots reads a file of slots: the value that counts, the size of a slot,
// and the value's sequence number and slot.
func decodeSlots(data []byte) (value []byte, size int64, seq uint64, newer int, err error) {
	if len(data) < slotsBlock || string(data[:len(slotsMagic)]) != slotsMagic {
		return data, 0, 0, 0, errNoSlots
	}
	if v := data[len(slotsMagic)]; v != slotsVersion {
		return nil, 0, 0, 0, fmt.Errorf("format version %d is not known, only %d", v, slotsVersion)
	}
	size = int64(binary.LittleEndian.Uint32(data[8:]))
	if size < slotMin || size > slotMax || int64(len(data)) != slotsBlock+2*size {
		return nil, 0, 0, 0, fmt.Errorf("%w: two slots of %d bytes do not make a file of %d", ErrCorrupt, size, len(data))
	}
	found := false
	for i := range 2 {
		at := slotsBlock + int64(i)*size
		v, n, ok := slotAt(data[at : at+size])
		if ok && (!found || n > seq) {
			value, seq, newer, found = v, n, i, true
		}
	}
	if !found {
		return nil, 0, 0, 0, fmt.Errorf("%w: neither of its slots is whole", ErrCorrupt)
	}
	return value, size, seq, newer, nil
}

// slotAt reads one slot, if it is whole.
func slotAt(slot []byte) (value []byte, seq uint64, ok bool) {
	seq = binary.LittleEndian.Uint64(slot)
	n := int64(binary.LittleEndian.Uint32(slot[8:]))
	if seq == 0 || n > int64(len(slot)-slotHeader) {
		return nil, 0, false
	}
	value = slot[slotHeader : slotHeader+n]
	return append([]byte(nil), value...), seq, slotSum(slot[:12], value) == binary.LittleEndian.Uint32(slot[12:])
}

func slotSum(head, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, value)
}

func encodeSlot(seq uint64, value []byte) []byte {
	buf := make([]byte, slotHeader, slotHeader+len(value))
	binary.LittleEndian.PutUint64(buf, seq)
	binary.LittleEndian.PutUint32(buf[8:], uint32(len(value)))
	binary.LittleEndian.PutUint32(buf[12:], slotSum(buf[:12], value))
	return append(buf, value...)
}

// make replaces the file by one with the value, slots of so many bytes, and all
// its space taken.
func (s *Slots) make(value []byte, size int64) error {
	if size > slotMax {
		return fmt.Errorf("a value of %d bytes is more than %d", len(value), slotMax-slotHeader)
	}
	data := make([]byte, slotsBlock+2*size) // zeros are written, so that nothing is left to allocate
	copy(data, append([]byte(slotsMagic), slotsVersion))
	binary.LittleEndian.PutUint32(data[8:], uint32(size))
	copy(data[slotsBlock:], encodeSlot(s.seq+1, value))
	if err := s.disk.WriteFile(s.path, data, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.Close()
	s.file, s.size, s.seq, s.newer = f, size, s.seq+1, 0
	return nil
}

// Write replaces the value; when it returns nil the value survives a power cut.
// After an error the value before it or this one counts, and Write may be tried
// again. A value with no room in a slot takes more space.
func (s *Slots) Write(value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size := slotSize(len(value)); size > s.size {
		return s.make(value, size)
	}
	buf := encodeSlot(s.seq+1, value)
	at := slotsBlock + int64(1-s.newer)*s.size
	if err := s.disk.Step("write", s.path); err != nil {
		if torn(err) {
			s.file.WriteAt(buf[:len(buf)/2], at)
		}
		return fmt.Errorf("cannot write %s: %w", s.path, err)
	}
	if _, err := s.file.WriteAt(buf, at); err != nil {
		return fmt.Errorf("cannot write %s: %w", s.path, err)
	}
	if err := s.disk.Step("sync", s.path); err != nil {
		return fmt.Errorf("cannot write %s: %w", s.path, err)
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", s.path, err)
	}
	s.seq, s.newer = s.seq+1, 1-s.newer
	return nil
}

// Close closes the file; what was written is durable already.
func (s *Slots) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// IsFull tells whether an error says that the disk, or the user's share of it,
// is full: what could not be written may be written later.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// Reserve takes space on the disk for so many bytes of a file beyond what is in
// it, without changing its length, so that they can be written when the disk is
// full. A file system that cannot do that is no error: then nothing is reserved.
func Reserve(f *os.File, bytes int64) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot reserve space: %w", err)
	}
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, info.Size(), bytes)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("cannot reserve %d bytes for %s: %w", bytes, filepath.Base(f.Name()), err)
	}
	return nil
}

// Reserve takes space on the disk for so many bytes of records to come.
func (l *Log) Reserve(bytes int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.disk.Step("reserve", l.path); err != nil {
		return fmt.Errorf("cannot reserve space for log %s: %w", l.path, err)
	}
	return Reserve(l.file, bytes)
}

// Trim gives back the space that Reserve took and no record used. Where that
// fails nothing is lost but the space. A file that is cut to the length it has
// loses what lies behind its end; a hole there is one that ext4 does not make.
func (l *Log) Trim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := l.file.Stat(); err == nil {
		_ = l.file.Truncate(info.Size())
	}
}
