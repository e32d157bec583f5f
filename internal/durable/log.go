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
)

// The append log: an 8-byte header, then records of length (4 bytes, little
// endian), checksum (4 bytes) and payload. The checksum is CRC-32C over the
// record's offset in the file (8 bytes), its length and its payload, so that
// neither stale nor misplaced bytes pass for a record.
const (
	logMagic      = "gitopsL"
	logVersion    = 1
	logHeaderSize = 8
	recordHeader  = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt tells that a log has a damaged record with whole ones after it,
// which no crash explains.
var ErrCorrupt = errors.New("corrupt log")

// Log is an append log. Its methods may be called from several goroutines.
type Log struct {
	mu     sync.Mutex
	disk   *Disk
	file   *os.File
	path   string
	max    int
	size   int64
	broken error
}

// OpenLog opens or makes the log at path and returns the records in it. A torn
// record at the end, the trace of a crash, is cut off; damage before the last
// record is ErrCorrupt. Records are from 1 to maxRecordBytes bytes.
func OpenLog(path string, maxRecordBytes int) (*Log, [][]byte, error) {
	return (*Disk)(nil).OpenLog(path, maxRecordBytes)
}

// OpenLog is like the function OpenLog, on this disk.
func (d *Disk) OpenLog(path string, maxRecordBytes int) (*Log, [][]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := d.WriteFile(path, logHeader(), 0o600); err != nil {
			return nil, nil, err
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open log: %w", err)
	}
	l := &Log{disk: d, file: f, path: path, max: maxRecordBytes}
	records, err := l.load()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("cannot open log %s: %w", path, err)
	}
	return l, records, nil
}

// ReadLog returns the records of the log at path without changing the file: a
// torn tail is left out, not cut. It serves readers beside the log's writer.
func ReadLog(path string, maxRecordBytes int) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read log: %w", err)
	}
	records, _, err := decodeLog(data, maxRecordBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read log %s: %w", path, err)
	}
	return records, nil
}

func logHeader() []byte { return append([]byte(logMagic), logVersion) }

func (l *Log) load() ([][]byte, error) {
	data, err := io.ReadAll(l.file)
	if err != nil {
		return nil, err
	}
	records, end, err := decodeLog(data, l.max)
	if err != nil {
		return nil, err
	}
	if end < int64(len(data)) {
		if err := l.truncate(end); err != nil {
			return nil, err
		}
	}
	l.size = end
	return records, nil
}

// decodeLog returns the whole records of a log and where they end.
func decodeLog(data []byte, max int) ([][]byte, int64, error) {
	if len(data) < logHeaderSize || string(data[:len(logMagic)]) != logMagic {
		return nil, 0, fmt.Errorf("%w: it does not begin with a log header", ErrCorrupt)
	}
	if v := data[len(logMagic)]; v != logVersion {
		return nil, 0, fmt.Errorf("format version %d is not known, only %d", v, logVersion)
	}
	var records [][]byte
	at := logHeaderSize
	for at < len(data) {
		record, ok := recordAt(data, at, max)
		if !ok {
			for later := at + 1; later < len(data); later++ {
				if _, ok := recordAt(data, later, max); ok {
					return nil, 0, fmt.Errorf("%w: the record at offset %d is damaged", ErrCorrupt, at)
				}
			}
			break
		}
		records = append(records, record)
		at += recordHeader + len(record)
	}
	return records, int64(at), nil
}

// recordAt returns the record that begins at offset at, if it is whole.
func recordAt(data []byte, at, max int) ([]byte, bool) {
	if len(data)-at < recordHeader {
		return nil, false
	}
	n := binary.LittleEndian.Uint32(data[at:])
	if n == 0 || int64(n) > int64(max) || int64(n) > int64(len(data)-at-recordHeader) {
		return nil, false
	}
	payload := data[at+recordHeader : at+recordHeader+int(n)]
	if recordSum(int64(at), payload) != binary.LittleEndian.Uint32(data[at+4:]) {
		return nil, false
	}
	return append([]byte(nil), payload...), true
}

func recordSum(at int64, payload []byte) uint32 {
	var head [12]byte
	binary.LittleEndian.PutUint64(head[:], uint64(at))
	binary.LittleEndian.PutUint32(head[8:], uint32(len(payload)))
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, payload)
}

// Append adds a record; when it returns nil the record survives a power cut.
// After an error the log takes no more records until it is opened anew, as what
// is on the disk is not known.
func (l *Log) Append(record []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return fmt.Errorf("cannot append to log %s: an earlier write failed: %w", l.path, l.broken)
	}
	if len(record) == 0 || len(record) > l.max {
		return fmt.Errorf("cannot append to log %s: a record has 1 to %d bytes, not %d", l.path, l.max, len(record))
	}
	if err := l.append(record); err != nil {
		l.broken = err
		return fmt.Errorf("cannot append to log %s: %w", l.path, err)
	}
	return nil
}

func (l *Log) append(record []byte) error {
	buf := make([]byte, recordHeader, recordHeader+len(record))
	binary.LittleEndian.PutUint32(buf, uint32(len(record)))
	binary.LittleEndian.PutUint32(buf[4:], recordSum(l.size, record))
	buf = append(buf, record...)
	if err := l.disk.Step("append", l.path); err != nil {
		if torn(err) {
			l.file.WriteAt(buf[:len(buf)/2], l.size)
		}
		return err
	}
	if _, err := l.file.WriteAt(buf, l.size); err != nil {
		return err
	}
	if err := l.disk.Step("sync", l.path); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	l.size += int64(len(buf))
	return nil
}

func (l *Log) truncate(size int64) error {
	if err := l.disk.Step("truncate", l.path); err != nil {
		return err
	}
	if err := l.file.Truncate(size); err != nil {
		return err
	}
	return l.file.Sync()
}

// Reset empties the log durably.
func (l *Log) Reset() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.truncate(logHeaderSize); err != nil {
		return fmt.Errorf("cannot empty log %s: %w", l.path, err)
	}
	l.size, l.broken = logHeaderSize, nil
	return nil
}

// SizeBytes returns the length of the log's file.
func (l *Log) SizeBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Path returns the log's file name, without its directory.
func (l *Log) Path() string { return filepath.Base(l.path) }

// Close closes the file; everything appended is durable already.
func (l *Log) Close() error { return l.file.Close() }
