package desired

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const keyType = "ssh-ed25519"

// ParsePublicKey reads one line in OpenSSH's form, `ssh-ed25519 AAAA... comment`. A host's identity is always ed25519: other kinds are refused by name.
func ParsePublicKey(line string) (ed25519.PublicKey, error) {
	fields := strings.Fields(line)
	if len(line) > 4096 || len(fields) < 2 || strings.ContainsAny(line, "\r\n") {
		return nil, errors.New("it is not one line of the form `ssh-ed25519 AAAA`")
	}
	if fields[0] != keyType {
		return nil, fmt.Errorf("its type is %.40q, a host's key is ssh-ed25519", fields[0])
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, errors.New("its second word is not base64")
	}
	kind, rest, ok := cutString(blob)
	key, rest, ok2 := cutString(rest)
	if !ok || !ok2 || string(kind) != keyType || len(key) != ed25519.PublicKeySize || len(rest) != 0 {
		return nil, errors.New("its second word does not hold an ed25519 key")
	}
	return ed25519.PublicKey(key), nil
}

// FormatPublicKey writes a key as ParsePublicKey reads it, without a comment.
func FormatPublicKey(key ed25519.PublicKey) string {
	blob := appendString(nil, []byte(keyType))
	blob = appendString(blob, key)
	return keyType + " " + base64.StdEncoding.EncodeToString(blob)
}

// cutString takes one length-prefixed string of the SSH wire format off data.
func cutString(data []byte) (value, rest []byte, ok bool) {
	if len(data) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(data)
	if uint64(n) > uint64(len(data)-4) {
		return nil, nil, false
	}
	return data[4 : 4+n], data[4+n:], true
}

func appendString(to, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(value))), value...)
}
