package gossip

import (
	"errors"
	"fmt"
)

// A member's metadata is a version byte and then entries of tag, length and
// bytes. Tags may be added; an unknown one is skipped.
const (
	metaVersion  = 1
	tagInstance  = 1
	tagVersion   = 2
	tagAddress   = 3
	textMax      = 64  // bytes of instance and agent version
	addressMax   = 255 // bytes of an address
	metaBytesMax = 512 // memberlist's own bound
)

type meta struct {
	instance, version, address string
}

func (m meta) encode() []byte {
	b := []byte{metaVersion}
	for _, entry := range []struct {
		tag  byte
		text string
	}{{tagInstance, m.instance}, {tagVersion, m.version}, {tagAddress, m.address}} {
		if entry.text != "" {
			b = append(b, entry.tag, byte(len(entry.text)))
			b = append(b, entry.text...)
		}
	}
	return b
}

func decodeMeta(b []byte) (meta, error) {
	if len(b) == 0 || len(b) > metaBytesMax {
		return meta{}, fmt.Errorf("metadata has %d bytes, want 1 to %d", len(b), metaBytesMax)
	}
	if b[0] != metaVersion {
		return meta{}, fmt.Errorf("metadata has version %d, this host speaks version %d", b[0], metaVersion)
	}
	var m meta
	for b = b[1:]; len(b) > 0; {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return meta{}, errors.New("metadata is cut short")
		}
		tag, text := b[0], string(b[2:2+int(b[1])])
		b = b[2+int(b[1]):]
		if !printable(text) {
			return meta{}, errors.New("metadata holds unprintable text")
		}
		switch tag {
		case tagInstance:
			m.instance = text
		case tagVersion:
			m.version = text
		case tagAddress:
			m.address = text
		}
	}
	if m.instance == "" || len(m.instance) > textMax || len(m.version) > textMax {
		return meta{}, errors.New("metadata lacks an instance, or its text is too long")
	}
	return m, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
