package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo/trust"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Keygen emulates the parts of ssh-keygen that git calls when gpg.format is
// ssh: -Y sign, verify, find-principals and check-novalidate. It returns the
// exit code. Not supported, and refused by name: agents (-U), passphrases,
// revocation lists that are not lists of plain public keys, certificates.
func Keygen(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	k := keygen{stdin: stdin, stdout: stdout, namespace: ""}
	err := k.parse(args)
	if err == nil {
		err = k.run()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "sshsign:", err)
	var u usageError
	if errors.As(err, &u) {
		return 2
	}
	return 255
}

type usageError string

func (e usageError) Error() string { return string(e) }

const (
	messageBytesMax = 64 << 20
	sigBytesMax     = 64 << 10
)

type keygen struct {
	stdin  io.Reader
	stdout io.Writer

	mode, namespace, file, principal, sig, revoked string
	at                                             time.Time
	rest                                           []string
}

func (k *keygen) parse(args []string) error {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			k.rest = append(k.rest, a)
			continue
		}
		flag, value := a[1], a[2:]
		switch flag {
		case 'U':
			return usageError("-U (a key held by ssh-agent) is not supported: set user.signingkey to a key file")
		case 'q', 'v':
			continue
		}
		if !strings.ContainsRune("YnfIsrO", rune(flag)) {
			return usageError(fmt.Sprintf("unknown option %s", a))
		}
		if value == "" {
			if i++; i >= len(args) {
				return usageError(fmt.Sprintf("%s needs a value", a))
			}
			value = args[i]
		}
		if err := k.set(flag, value); err != nil {
			return err
		}
	}
	return nil
}

func (k *keygen) set(flag byte, value string) error {
	switch flag {
	case 'Y':
		k.mode = value
	case 'n':
		k.namespace = value
	case 'f':
		k.file = value
	case 'I':
		k.principal = value
	case 's':
		k.sig = value
	case 'r':
		k.revoked = value
	case 'O':
		name, v, _ := strings.Cut(value, "=")
		switch name {
		case "verify-time":
			at, err := parseTime(v)
			if err != nil {
				return usageError(err.Error())
			}
			k.at = at
		case "hashalg":
			if v != "sha512" && v != "sha256" {
				return usageError("hashalg " + v + " is not supported")
			}
		case "print-pubkey":
		default:
			return usageError("unknown option -O" + name)
		}
	}
	return nil
}

// parseTime reads YYYYMMDD[HHMM[SS]][Z], local without the Z.
func parseTime(s string) (time.Time, error) {
	digits, utc := strings.CutSuffix(s, "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) == len(layout) {
			if t, err := time.ParseInLocation(layout, digits, zone); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time of the form YYYYMMDD[HHMM[SS]][Z]", s)
}

func (k *keygen) run() error {
	switch k.mode {
	case "sign":
		return k.signFiles()
	case "verify":
		return k.verify()
	case "find-principals":
		return k.findPrincipals()
	case "check-novalidate":
		_, err := k.good("")
		return err
	}
	return usageError(fmt.Sprintf("-Y %q is not supported: sign, verify, find-principals, check-novalidate", k.mode))
}

// signFiles signs each file into FILE.sig, or stdin to stdout.
func (k *keygen) signFiles() error {
	if k.file == "" || k.namespace == "" {
		return usageError("-Y sign needs -f KEY and -n NAMESPACE")
	}
	key, err := LoadKey(k.file)
	if err != nil {
		return err
	}
	if len(k.rest) == 0 {
		message, err := readAll(k.stdin, messageBytesMax)
		if err != nil {
			return err
		}
		armored, err := key.sign(message, k.namespace)
		if err != nil {
			return err
		}
		_, err = k.stdout.Write(armored)
		return err
	}
	for _, name := range k.rest {
		message, err := readFile(name, messageBytesMax)
		if err != nil {
			return err
		}
		armored, err := key.sign(message, k.namespace)
		if err != nil {
			return err
		}
		if err := os.WriteFile(name+".sig", armored, 0o600); err != nil {
			return fmt.Errorf("cannot write the signature: %w", err)
		}
	}
	return nil
}

// good verifies the signature over stdin and prints ssh-keygen's verdict.
func (k *keygen) good(principal string) (*sshsig.Signature, error) {
	sig, err := k.signature()
	if err != nil {
		return nil, err
	}
	if k.namespace == "" {
		return nil, usageError("-n NAMESPACE is missing")
	}
	message, err := readAll(k.stdin, messageBytesMax)
	if err != nil {
		return nil, err
	}
	if err := sshsig.Verify(bytes.NewReader(message), sig, sig.PublicKey, sig.HashAlgorithm, k.namespace); err != nil {
		return nil, fmt.Errorf("signature verification failed: %w", err)
	}
	who := ""
	if principal != "" {
		who = " for " + principal
	}
	fmt.Fprintf(k.stdout, "Good %q signature%s with %s key %s\n", k.namespace, who, keyName(sig.PublicKey), ssh.FingerprintSHA256(sig.PublicKey))
	return sig, nil
}

func (k *keygen) verify() error {
	if k.principal == "" {
		return usageError("-Y verify needs -I PRINCIPAL")
	}
	allowed, err := k.allowed()
	if err != nil {
		return err
	}
	sig, err := k.signature()
	if err != nil {
		return err
	}
	if err := k.checkRevoked(sig.PublicKey); err != nil {
		return err
	}
	if err := k.permits(allowed, sig.PublicKey); err != nil {
		return err
	}
	_, err = k.good(k.principal)
	return err
}

// permits says whether the principal's lines admit the key.
func (k *keygen) permits(allowed *trust.AllowedSigners, key ssh.PublicKey) error {
	why := fmt.Errorf("no line of %s admits this key for %s", k.file, k.principal)
	for _, e := range allowed.Entries {
		if !e.Matches(k.principal) || !sameKey(e.Key, key) {
			continue
		}
		switch {
		case e.CertAuthority:
			why = errors.New("cert-authority lines are not supported")
		case !e.AllowsNamespace(k.namespace):
			why = fmt.Errorf("the key of %s is not for namespace %q", k.principal, k.namespace)
		case !k.inTime(e):
			why = fmt.Errorf("the key of %s was not valid at the time", k.principal)
		default:
			return nil
		}
	}
	return why
}

func (k *keygen) findPrincipals() error {
	allowed, err := k.allowed()
	if err != nil {
		return err
	}
	sig, err := k.signature()
	if err != nil {
		return err
	}
	found := false
	for _, e := range allowed.Entries {
		if e.CertAuthority || !sameKey(e.Key, sig.PublicKey) || !e.AllowsNamespace(sig.Namespace) || !k.inTime(e) {
			continue
		}
		found = true
		fmt.Fprintln(k.stdout, strings.Join(e.Principals, ","))
	}
	if !found {
		return errors.New("no principal matched")
	}
	return nil
}

// inTime honours valid-after and valid-before at -Overify-time, else now.
func (k *keygen) inTime(e trust.AllowedSigner) bool {
	at := k.at
	if at.IsZero() {
		at = time.Now()
	}
	if e.ValidAfter != "" {
		if t, err := parseTime(e.ValidAfter); err != nil || at.Before(t) {
			return false
		}
	}
	if e.ValidBefore != "" {
		if t, err := parseTime(e.ValidBefore); err != nil || !at.Before(t) {
			return false
		}
	}
	return true
}

func (k *keygen) allowed() (*trust.AllowedSigners, error) {
	if k.file == "" {
		return nil, usageError("-f ALLOWED_SIGNERS is missing")
	}
	src, err := readFile(k.file, 1<<20)
	if err != nil {
		return nil, err
	}
	return trust.ParseAllowedSigners(k.file, src)
}

func (k *keygen) signature() (*sshsig.Signature, error) {
	if k.sig == "" {
		return nil, usageError("-s SIGNATURE is missing")
	}
	src, err := readFile(k.sig, sigBytesMax)
	if err != nil {
		return nil, err
	}
	sig, err := sshsig.Unarmor(src)
	if err != nil {
		return nil, fmt.Errorf("cannot read the signature: %w", err)
	}
	return sig, nil
}

// checkRevoked reads a list of plain public keys; what it cannot read revokes.
func (k *keygen) checkRevoked(key ssh.PublicKey) error {
	if k.revoked == "" {
		return nil
	}
	src, err := readFile(k.revoked, 1<<20)
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(src), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		bad, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return fmt.Errorf("%s: only plain public keys are supported in a revocation list", k.revoked)
		}
		if sameKey(bad, key) {
			return errors.New("the key is revoked")
		}
	}
	return nil
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// keyName is what ssh-keygen calls a kind of key.
func keyName(k ssh.PublicKey) string {
	switch k.Type() {
	case ssh.KeyAlgoED25519:
		return "ED25519"
	case ssh.KeyAlgoSKED25519:
		return "ED25519-SK"
	case ssh.KeyAlgoSKECDSA256:
		return "ECDSA-SK"
	case ssh.KeyAlgoRSA:
		return "RSA"
	}
	return "ECDSA"
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}
