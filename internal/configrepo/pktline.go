package configrepo

import (
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Kinds of packet lines, as in git's protocol-common.
type pktKind int

const (
	pktData  pktKind = iota
	pktFlush         // 0000
	pktDelim         // 0001
	pktEnd           // 0002
)

const pktBytesMax = 65520

// pktReader reads packet lines and never more than its budget.
type pktReader struct {
	r    io.Reader
	left int64 // bytes that may still be read
	buf  [pktBytesMax]byte
}

var errBudget = errors.New("the answer is longer than allowed")

// next gives the following packet; the bytes are valid until the next call.
func (p *pktReader) next() (pktKind, []byte, error) {
	if p.left < 4 {
		return 0, nil, errBudget
	}
	if _, err := io.ReadFull(p.r, p.buf[:4]); err != nil {
		return 0, nil, err
	}
	p.left -= 4
	n, err := strconv.ParseUint(string(p.buf[:4]), 16, 16)
	if err != nil {
		return 0, nil, fmt.Errorf("%q is not the length of a packet line", p.buf[:4])
	}
	switch n {
	case 0:
		return pktFlush, nil, nil
	case 1:
		return pktDelim, nil, nil
	case 2:
		return pktEnd, nil, nil
	case 3:
		return 0, nil, errors.New("a packet line of impossible length 3")
	}
	n -= 4
	if n > pktBytesMax {
		return 0, nil, fmt.Errorf("a packet line of %d bytes", n)
	}
	if int64(n) > p.left {
		return 0, nil, errBudget
	}
	p.left -= int64(n)
	if _, err := io.ReadFull(p.r, p.buf[:n]); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return pktData, p.buf[:n], nil
}

// pkt frames one line.
func pkt(format string, a ...any) string {
	s := fmt.Sprintf(format, a...)
	return fmt.Sprintf("%04x%s", len(s)+4, s)
}

const (
	flushPkt = "0000"
	delimPkt = "0001"
)
