package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
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
	block, err := ssh.MarshalPrivateKey(key, "gitopsd")
	if err != nil {
		return nil, fmt.Errorf("cannot encode host key: %w", err)
	}
	if err := writeNewFile(path, pem.EncodeToMemory(block)); err != nil {
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
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		panic("internal error: " + err.Error()) // an ed25519 key always converts
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// Fingerprint returns the key's SHA256 fingerprint as ssh-keygen -l prints it.
func Fingerprint(key ed25519.PublicKey) string {
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		return "unknown"
	}
	return ssh.FingerprintSHA256(k)
}

// ParsePublicKey reads an OpenSSH public key line of type ssh-ed25519, with or
// without a comment.
func ParsePublicKey(line string) (ed25519.PublicKey, error) {
	if len(line) > keyLineMaxBytes {
		return nil, fmt.Errorf("cannot parse public key: longer than %d bytes", keyLineMaxBytes)
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, errors.New("cannot parse public key: want \"ssh-ed25519 AAAA...\"")
	}
	if len(options) > 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("cannot parse public key: want one key and nothing before or after it")
	}
	if key.Type() != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("cannot parse public key: type %s is not supported, use ssh-ed25519", key.Type())
	}
	holder, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil, errors.New("cannot parse public key: not a plain key")
	}
	public, ok := holder.CryptoPublicKey().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return nil, errors.New("cannot parse public key: not an ed25519 key")
	}
	return public, nil
}

func parseKey(data []byte) (ed25519.PrivateKey, error) {
	if len(data) > keyFileMaxBytes {
		return nil, fmt.Errorf("larger than %d bytes", keyFileMaxBytes)
	}
	raw, err := ssh.ParseRawPrivateKey(data)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		return nil, errors.New("it has a passphrase, which an agent cannot type")
	case err != nil:
		return nil, fmt.Errorf("not an OpenSSH private key (make one with: gitopsd host init): %w", err)
	}
	key, ok := raw.(*ed25519.PrivateKey)
	if !ok || len(*key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("it holds a %T, want an ed25519 key", raw)
	}
	// The file holds both halves; only the seed decides.
	if whole := ed25519.NewKeyFromSeed(key.Seed()); !whole.Equal(*key) {
		return nil, errors.New("it is damaged: its halves do not belong together")
	}
	return *key, nil
}
