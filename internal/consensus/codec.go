package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// All formats of this package are written with these few: unsigned varints, and
// byte strings after their length, so that no two lists of fields look alike.

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendString(b []byte, v string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// errShort is what a decoder says of input that ends early or is malformed.
var errShort = errors.New("message is cut or malformed")

// decoder reads fields one after the other; after the first error it yields
// zero values, and done reports that error.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.err != nil || n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes returns a part of the input, not a copy.
func (d *decoder) bytes(maxLen int) []byte {
	n := d.uint()
	if d.err != nil {
		return nil
	}
	if n > uint64(maxLen) {
		d.fail(fmt.Errorf("field of %d bytes, at most %d are allowed", n, maxLen))
		return nil
	}
	if n > uint64(len(d.b)) {
		d.fail(errShort)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string(maxLen int) string { return string(d.bytes(maxLen)) }

func (d *decoder) bool() bool {
	if d.err != nil || len(d.b) == 0 || d.b[0] > 1 {
		d.fail(errShort)
		return false
	}
	v := d.b[0] == 1
	d.b = d.b[1:]
	return v
}

// count reads the length of a list.
func (d *decoder) count(most int) int {
	n := d.uint()
	if n > uint64(most) {
		d.fail(fmt.Errorf("list of %d, at most %d are allowed", n, most))
		return 0
	}
	return int(n)
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// done reports the first error, or bytes that nothing asked for.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) > 0 {
		return fmt.Errorf("%d bytes too many", len(d.b))
	}
	return d.err
}

// writeFrame writes one message: its length in four bytes, then kind and body.
func writeFrame(w io.Writer, kind byte, body []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 5+len(body)), uint32(1+len(body)))
	b = append(b, kind)
	b = append(b, body...)
	_, err := w.Write(b)
	return err
}

// readFrame reads one message of at most maxLen bytes.
func readFrame(r io.Reader, maxLen int) (kind byte, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(maxLen) {
		return 0, nil, fmt.Errorf("message of %d bytes, 1 to %d are allowed", n, maxLen)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, err
	}
	return b[0], b[1:], nil
}
