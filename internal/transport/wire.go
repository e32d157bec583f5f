package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The acceptor of every connection speaks first, with a hello; the acceptor of
// every stream answers its header with a reply. Both look the same:
//
//	4 bytes "gopd" | version | status | 2 bytes length | text
//
// and a stream begins with
//
//	version | 2 bytes protocol version | length of name | name
const (
	wireMagic     = "gopd"
	wireVersion   = 1 // of hello, reply and stream header
	greetingBytes = 8
	nameMax       = 64 // bytes of a protocol name
)

type status byte

const (
	statusOK       status = 0
	statusBusy     status = 1
	statusRefused  status = 2
	statusProtocol status = 3
)

type greeting struct {
	status status
	text   string
}

func (g greeting) append(b []byte) []byte {
	text := g.text
	if len(text) > messageMaxBytes {
		text = text[:messageMaxBytes]
	}
	b = append(b, wireMagic...)
	b = append(b, wireVersion, byte(g.status))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// readGreeting takes exactly one greeting from r.
func readGreeting(r io.Reader) (greeting, error) {
	var head [greetingBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return greeting{}, err
	}
	if string(head[:4]) != wireMagic {
		return greeting{}, errors.New("it does not speak gitopsd's protocol")
	}
	if head[4] != wireVersion {
		return greeting{}, fmt.Errorf("%w: it speaks wire version %d, this host version %d", ErrProtocol, head[4], wireVersion)
	}
	n := binary.BigEndian.Uint16(head[6:])
	if n > messageMaxBytes {
		return greeting{}, fmt.Errorf("its greeting of %d bytes is longer than %d", n, messageMaxBytes)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return greeting{}, err
	}
	return greeting{status: status(head[5]), text: strconvClean(text)}, nil
}

// err says why the peer refused, or nil.
func (g greeting) err() error {
	switch g.status {
	case statusOK:
		return nil
	case statusBusy:
		return fmt.Errorf("%w: %s", ErrBusy, g.text)
	case statusProtocol:
		return fmt.Errorf("%w: %s", ErrProtocol, g.text)
	default:
		return fmt.Errorf("%w: %s", ErrRefused, g.text)
	}
}

// strconvClean keeps a peer's words from writing control characters to a log.
func strconvClean(text []byte) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, string(text))
}

type streamHeader struct {
	name    string
	version uint16
}

func (h streamHeader) append(b []byte) []byte {
	b = append(b, wireVersion)
	b = binary.BigEndian.AppendUint16(b, h.version)
	b = append(b, byte(len(h.name)))
	return append(b, h.name...)
}

func (h streamHeader) String() string { return h.name + "/" + strconv.Itoa(int(h.version)) }

func readStreamHeader(r io.Reader) (streamHeader, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return streamHeader{}, err
	}
	if head[0] != wireVersion {
		return streamHeader{}, fmt.Errorf("stream header has version %d, this host speaks version %d", head[0], wireVersion)
	}
	if head[3] == 0 || head[3] > nameMax {
		return streamHeader{}, fmt.Errorf("protocol name of %d bytes, want 1 to %d", head[3], nameMax)
	}
	name := make([]byte, head[3])
	if _, err := io.ReadFull(r, name); err != nil {
		return streamHeader{}, err
	}
	h := streamHeader{name: string(name), version: binary.BigEndian.Uint16(head[1:])}
	if !validName(h.name) {
		return streamHeader{}, fmt.Errorf("protocol name %q has characters other than letters a-z, digits, dashes and dots", strconvClean(name))
	}
	return h, nil
}

// parseProtocol splits "raft/1".
func parseProtocol(proto string) (streamHeader, error) {
	name, number, ok := strings.Cut(proto, "/")
	version, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil || len(name) > nameMax || !validName(name) {
		return streamHeader{}, fmt.Errorf("stream protocol %q is not of the form NAME/VERSION", proto)
	}
	return streamHeader{name: name, version: uint16(version)}, nil
}

func validName(name string) bool {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' {
			return false
		}
	}
	return name != ""
}
