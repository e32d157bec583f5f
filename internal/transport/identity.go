package transport

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	keyType         = "ssh-ed25519"
	keyMagic        = "openssh-key-v1\x00"
	keyPEMType      = "OPENSSH PRIVATE KEY"
	keyFileMaxBytes = 16 << 10
	keyLineMaxBytes = 4 << 10
	hostNameMax     = 128 // bytes of a host's name
	instanceMax     = 64  // bytes of an instance nonce
)

// Identity is who this process is to other hosts.
type Identity struct {
	// Host is this host's name in the inventory.
	Host string
	// Key proves it.
	Key ed25519.PrivateKey
	// Instance is random per start (NewInstance), so that two machines that
	// share a key can be told apart. At most 64 printable bytes.
	Instance string
}

// NewInstance returns a fresh instance nonce: 16 hex digits.
func NewInstance() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

func (id Identity) validate() error {
	if id.Host == "" || len(id.Host) > hostNameMax {
		return fmt.Errorf("host name must have 1 to %d bytes, not %d", hostNameMax, len(id.Host))
	}
	if len(id.Key) != ed25519.PrivateKeySize {
		return errors.New("key is not an ed25519 private key")
	}
	if !validInstance(id.Instance) {
		return fmt.Errorf("instance nonce must have 1 to %d printable bytes", instanceMax)
	}
	return nil
}

func validInstance(s string) bool {
	if s == "" || len(s) > instanceMax {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// GenerateKey makes a host key and writes it to path as an unencrypted OpenSSH
// private key with mode 0600. It refuses to replace a file that exists.
func GenerateKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot generate host key: %w", err)
	}
	if err := writeNewFile(path, marshalKey(key)); err != nil {
		return nil, fmt.Errorf("cannot write host key: %w", err)
	}
	return key, nil
}

// writeNewFile makes path appear whole or not at all, and never in place of
// another file.
func writeNewFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// LoadKey reads a host key that GenerateKey or ssh-keygen -t ed25519 wrote. It
// refuses a file that others may read, and one with a passphrase.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read host key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read host key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("cannot use host key %s: mode %04o lets others read it; run: chmod 600 %s", path, mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, keyFileMaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read host key: %w", err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use host key %s: %w", path, err)
	}
	return key, nil
}

// PublicKeyLine returns the public half of key as it stands in hosts/NAME.yaml:
// "ssh-ed25519 AAAA...", without a comment.
func PublicKeyLine(key ed25519.PrivateKey) string {
	return publicLine(key.Public().(ed25519.PublicKey))
}

func publicLine(key ed25519.PublicKey) string {
	return keyType + " " + base64.StdEncoding.EncodeToString(publicBlob(key))
}

// Fingerprint returns the key's SHA256 fingerprint as ssh-keygen -l prints it.
func Fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(publicBlob(key))
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// ParsePublicKey reads an OpenSSH public key line of type ssh-ed25519, with or
// without a comment.
func ParsePublicKey(line string) (ed25519.PublicKey, error) {
	if len(line) > keyLineMaxBytes {
		return nil, fmt.Errorf("cannot parse public key: longer than %d bytes", keyLineMaxBytes)
	}
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil, errors.New("cannot parse public key: want \"ssh-ed25519 AAAA...\"")
	}
	if fields[0] != keyType {
		return nil, fmt.Errorf("cannot parse public key: type %q is not supported, use ssh-ed25519", fields[0])
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, fmt.Errorf("cannot parse public key: %w", err)
	}
	key, err := parsePublicBlob(blob)
	if err != nil {
		return nil, fmt.Errorf("cannot parse public key: %w", err)
	}
	return key, nil
}

func publicBlob(key ed25519.PublicKey) []byte {
	return appendString(appendString(nil, []byte(keyType)), key)
}

func parsePublicBlob(blob []byte) (ed25519.PublicKey, error) {
	r := &sshReader{rest: blob}
	kind, key := r.string(), r.string()
	if r.failed || len(r.rest) != 0 || string(kind) != keyType || len(key) != ed25519.PublicKeySize {
		return nil, errors.New("not an ed25519 key")
	}
	return bytes.Clone(key), nil
}

// marshalKey writes the openssh-key-v1 container (PROTOCOL.key of OpenSSH).
func marshalKey(key ed25519.PrivateKey) []byte {
	var check [4]byte
	_, _ = rand.Read(check[:])
	public := key.Public().(ed25519.PublicKey)
	private := append(check[:], check[:]...)
	private = appendString(private, []byte(keyType))
	private = appendString(private, public)
	private = appendString(private, key)
	private = appendString(private, []byte("gitopsd"))
	for i := byte(1); len(private)%8 != 0; i++ {
		private = append(private, i)
	}
	out := []byte(keyMagic)
	out = appendString(out, []byte("none"))
	out = appendString(out, []byte("none"))
	out = appendString(out, nil)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = appendString(out, publicBlob(public))
	out = appendString(out, private)
	return pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: out})
}

func parseKey(data []byte) (ed25519.PrivateKey, error) {
	if len(data) > keyFileMaxBytes {
		return nil, fmt.Errorf("larger than %d bytes", keyFileMaxBytes)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != keyPEMType || !bytes.HasPrefix(block.Bytes, []byte(keyMagic)) {
		return nil, errors.New("not an OpenSSH private key; make one with: gitopsd host init")
	}
	r := &sshReader{rest: block.Bytes[len(keyMagic):]}
	cipher, kdf, _ := r.string(), r.string(), r.string()
	if r.failed {
		return nil, errors.New("OpenSSH private key is cut short")
	}
	if string(cipher) != "none" || string(kdf) != "none" {
		return nil, fmt.Errorf("it has a passphrase (cipher %q), which an agent cannot type", cipher)
	}
	if n := r.uint32(); n != 1 {
		return nil, fmt.Errorf("it holds %d keys, want 1", n)
	}
	public, err := parsePublicBlob(r.string())
	if err != nil {
		return nil, err
	}
	p := &sshReader{rest: r.string()}
	check1, check2 := p.uint32(), p.uint32()
	kind, inner, private := p.string(), p.string(), p.string()
	if r.failed || p.failed || check1 != check2 {
		return nil, errors.New("OpenSSH private key is damaged")
	}
	if string(kind) != keyType || len(private) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("key type %q is not supported, use ssh-ed25519", kind)
	}
	key := ed25519.NewKeyFromSeed(private[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(private)) || !public.Equal(key.Public()) || !bytes.Equal(inner, public) {
		return nil, errors.New("OpenSSH private key is damaged: its halves do not belong together")
	}
	return key, nil
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// sshReader takes the length-prefixed fields of SSH structures; after the
// first short field everything is empty and failed is set.
type sshReader struct {
	rest   []byte
	failed bool
}

func (r *sshReader) uint32() uint32 {
	if r.failed || len(r.rest) < 4 {
		r.failed = true
		return 0
	}
	n := binary.BigEndian.Uint32(r.rest)
	r.rest = r.rest[4:]
	return n
}

func (r *sshReader) string() []byte {
	n := r.uint32()
	if r.failed || uint64(n) > uint64(len(r.rest)) {
		r.failed = true
		return nil
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}
