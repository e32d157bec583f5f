package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespace is what git's SSH signatures are made for.
const Namespace = "git"

const keyBytesMax = 64 << 10

// Signer makes the armoured signature of a commit.
type Signer interface {
	Sign(payload []byte) (armored []byte, err error)
}

// Key is an SSH private key that signs commits.
type Key struct{ signer ssh.Signer }

// GenerateKey makes a new ed25519 key in memory and its private key file's
// content, which the caller stores with mode 0600.
func GenerateKey(comment string) (*Key, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot generate a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot generate a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot generate a key: %w", err)
	}
	return &Key{signer}, pem.EncodeToMemory(block), nil
}

// FromPrivate wraps a key that is already at hand.
func FromPrivate(private ed25519.PrivateKey) (*Key, error) {
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, fmt.Errorf("cannot use the key: %w", err)
	}
	return &Key{signer}, nil
}

// LoadKey reads a private key file without passphrase; for NAME.pub it reads
// NAME, as ssh-keygen does.
func LoadKey(path string) (*Key, error) {
	path = strings.TrimSuffix(path, ".pub")
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the signing key: %w", err)
	}
	if info.Size() > keyBytesMax {
		return nil, fmt.Errorf("cannot read the signing key: %s has %d bytes", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the signing key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			return nil, fmt.Errorf("cannot read the signing key %s: it has a passphrase; use ssh-keygen for such keys", path)
		}
		return nil, fmt.Errorf("cannot read the signing key %s: %w", path, err)
	}
	return &Key{signer}, nil
}

// Sign makes an armoured SSH signature in namespace git.
func (k *Key) Sign(payload []byte) ([]byte, error) { return k.sign(payload, Namespace) }

func (k *Key) sign(payload []byte, namespace string) ([]byte, error) {
	sig, err := sshsig.Sign(bytes.NewReader(payload), k.signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return sshsig.Armor(sig), nil
}

// PublicLine is the public key as authorized_keys, trust.yaml and hosts/*.yaml
// write it: "ssh-ed25519 AAAA...", without comment.
func (k *Key) PublicLine() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))
}

// AllowedLine is the key's line for an allowed_signers file.
func (k *Key) AllowedLine(principal string) string {
	return principal + ` namespaces="` + Namespace + `" ` + k.PublicLine() + "\n"
}
