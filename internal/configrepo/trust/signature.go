package trust

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespace is what SSH signatures of git objects are made for.
const Namespace = "git"

const (
	signatureBytesMax = 64 << 10
	rsaBitsMin        = 2048
)

// ErrUnsigned says that a commit carries no signature.
var ErrUnsigned = errors.New("the commit is not signed")

// SplitCommit separates a raw commit object into what was signed and the
// armoured signature. Works on the bytes as stored: a decoded and re-encoded
// commit need not be what the signer saw. ErrUnsigned if there is none.
func SplitCommit(raw []byte) (payload, signature []byte, err error) {
	const one, other = "gpgsig ", "gpgsig-sha256 "
	payload = make([]byte, 0, len(raw))
	rest, inSignature := raw, false
	for len(rest) > 0 {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		if len(line) == 1 && line[0] == '\n' {
			payload = append(payload, rest...)
			break
		}
		rest = rest[len(line):]
		switch {
		case inSignature && line[0] == ' ':
			signature = append(signature, line[1:]...)
		case bytes.HasPrefix(line, []byte(one)):
			if signature != nil {
				return nil, nil, errors.New("the commit carries more than one signature")
			}
			inSignature = true
			signature = append(signature, line[len(one):]...)
		case bytes.HasPrefix(line, []byte(other)):
			return nil, nil, errors.New("the commit carries a sha256 signature, which is not supported")
		default:
			inSignature = false
			payload = append(payload, line...)
		}
	}
	if signature == nil {
		return nil, nil, ErrUnsigned
	}
	if len(signature) > signatureBytesMax {
		return nil, nil, fmt.Errorf("the signature of %d bytes is longer than %d", len(signature), signatureBytesMax)
	}
	return payload, signature, nil
}

// VerifySSH checks an armoured SSH signature in namespace git and returns the
// key that made it; whether that key is trusted is the caller's question.
func VerifySSH(payload, armored []byte) (ssh.PublicKey, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return nil, fmt.Errorf("cannot read the SSH signature: %w", err)
	}
	if err := checkSSHKey(sig.PublicKey); err != nil {
		return nil, err
	}
	if sig.Signature.Format == ssh.KeyAlgoRSA {
		return nil, errors.New("the SSH signature uses SHA-1")
	}
	if err := sshsig.Verify(bytes.NewReader(payload), sig, sig.PublicKey, sig.HashAlgorithm, Namespace); err != nil {
		return nil, fmt.Errorf("the SSH signature does not verify: %w", err)
	}
	return sig.PublicKey, nil
}

// checkSSHKey admits the algorithms that may authorise anything.
func checkSSHKey(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		ck, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("cannot read the RSA key")
		}
		if k, ok := ck.CryptoPublicKey().(*rsa.PublicKey); !ok || k.N.BitLen() < rsaBitsMin {
			return fmt.Errorf("RSA keys below %d bits are refused", rsaBitsMin)
		}
		return nil
	}
	return fmt.Errorf("keys of type %s are refused: use ed25519, ecdsa, their sk- forms, or RSA", key.Type())
}

// verifyPGP checks an armoured OpenPGP signature against every signer's keys.
// Expiry is judged at the signature's own time: the present is not consulted.
func verifyPGP(keys map[string]openpgp.EntityList, payload, armored []byte) (string, error) {
	raw, sig, err := readPGPSignature(armored)
	if err != nil {
		return "", err
	}
	config := &packet.Config{Time: func() time.Time { return sig.CreationTime }}
	for _, name := range sortedKeys(keys) {
		list := keys[name]
		if sig.IssuerKeyId == nil || len(list.KeysByIdUsage(*sig.IssuerKeyId, packet.KeyFlagSign)) == 0 {
			continue
		}
		for _, k := range list.KeysByIdUsage(*sig.IssuerKeyId, packet.KeyFlagSign) {
			if err := checkPGPKey(k.PublicKey); err != nil {
				return "", err
			}
		}
		if _, _, err := openpgp.VerifyDetachedSignature(list, bytes.NewReader(payload), bytes.NewReader(raw), config); err != nil {
			return "", fmt.Errorf("the OpenPGP signature does not verify: %w", err)
		}
		return name, nil
	}
	return "", fmt.Errorf("%w: OpenPGP %s", ErrUnknownKey, issuer(sig))
}

func issuer(sig *packet.Signature) string {
	if sig.IssuerKeyId == nil {
		return "without an issuer"
	}
	return fmt.Sprintf("%016X", *sig.IssuerKeyId)
}

// readPGPSignature admits exactly one binary signature with a strong hash.
func readPGPSignature(armored []byte) ([]byte, *packet.Signature, error) {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the OpenPGP signature: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(block.Body, signatureBytesMax+1))
	if err != nil || len(raw) > signatureBytesMax {
		return nil, nil, fmt.Errorf("cannot read the OpenPGP signature: too long or damaged (%v)", err)
	}
	packets := packet.NewReader(bytes.NewReader(raw))
	p, err := packets.Next()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the OpenPGP signature: %w", err)
	}
	sig, ok := p.(*packet.Signature)
	if !ok {
		return nil, nil, errors.New("the OpenPGP block holds something else than a signature")
	}
	if _, err := packets.Next(); err != io.EOF {
		return nil, nil, errors.New("the OpenPGP block holds more than one signature")
	}
	if sig.SigType != packet.SigTypeBinary {
		return nil, nil, errors.New("the OpenPGP signature is not over binary data")
	}
	if !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, sig.Hash) {
		return nil, nil, fmt.Errorf("the OpenPGP signature uses the refused hash %v", sig.Hash)
	}
	return raw, sig, nil
}

func checkPGPKey(key *packet.PublicKey) error {
	switch key.PubKeyAlgo {
	case packet.PubKeyAlgoEdDSA, packet.PubKeyAlgoEd25519, packet.PubKeyAlgoECDSA:
		return nil
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		if bits, err := key.BitLength(); err != nil || bits < rsaBitsMin {
			return fmt.Errorf("RSA keys below %d bits are refused", rsaBitsMin)
		}
		return nil
	}
	return fmt.Errorf("OpenPGP keys of algorithm %d are refused: use ed25519, ecdsa or RSA", key.PubKeyAlgo)
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
