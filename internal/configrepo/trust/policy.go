package trust

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/crypto/ssh"
)

// FileName is where the policy lives in the config repository.
const FileName = "trust.yaml"

// Policy says who may change what. It never changes once made.
type Policy struct {
	// Version grows by one with each change; 0 before there is a trust.yaml.
	Version int
	// Rules in order; the first that matches a path governs it.
	Rules []Rule
	// KeyFiles are paths whose content is part of the policy, sorted.
	KeyFiles []string

	names []string                      // every signer, sorted
	ssh   map[string]string             // marshalled public key -> signer
	pgp   map[string]openpgp.EntityList // signer -> keys
}

// Rule is one entry of `rules`.
type Rule struct {
	Paths     []string
	Threshold int
	Signers   []string
	Line      int // of trust.yaml; 0 for the default policy
}

// String names the rule as a refusal shows it.
func (r Rule) String() string {
	paths := strings.Join(r.Paths, ", ")
	if len(paths) > 120 {
		paths = paths[:120] + "..."
	}
	if r.Line == 0 {
		return "allowed_signers (" + paths + ")"
	}
	return fmt.Sprintf("%s:%d (%s)", FileName, r.Line, paths)
}

// Default is the policy before there is a trust.yaml: whoever may sign the
// introduction may, alone, change anything.
func Default(allowed *AllowedSigners) (*Policy, error) {
	p := &Policy{ssh: map[string]string{}}
	for _, e := range allowed.Entries {
		if err := e.pinnable(); err != nil {
			return nil, Problems{{File: allowed.File, Line: e.Line, Column: 1, Message: err.Error()}}
		}
		if !e.AllowsNamespace(Namespace) {
			continue
		}
		key := string(e.Key.Marshal())
		if _, ok := p.ssh[key]; ok {
			continue
		}
		p.ssh[key] = e.Principals[0]
		p.names = append(p.names, e.Principals[0])
	}
	if len(p.names) == 0 {
		return nil, Problems{{File: allowed.File, Message: "it lists nobody whose signatures in git count", Suggestion: `namespaces must be left out, or match "git"`}}
	}
	slices.Sort(p.names)
	p.names = slices.Compact(p.names)
	p.Rules = []Rule{{Paths: []string{"**"}, Threshold: 1, Signers: p.names}}
	return p, nil
}

// Signers lists every signer's name, sorted.
func (p *Policy) Signers() []string { return slices.Clone(p.names) }

// Touches says whether a changed path is part of the policy itself.
func (p *Policy) Touches(path string) bool {
	if path == FileName {
		return true
	}
	_, found := slices.BinarySearch(p.KeyFiles, path)
	return found
}

// Rule finds the rule that governs a path.
func (p *Policy) Rule(path string) (Rule, bool) {
	for _, r := range p.Rules {
		for _, pattern := range r.Paths {
			if Match(pattern, path) {
				return r, true
			}
		}
	}
	return Rule{}, false
}

// Shortfall says which path kept a change from being authorised.
type Shortfall struct {
	Path    string
	Rule    string // "" if no rule governs the path
	Needed  int
	Counted []string // those of the signers whom the rule admits
	Admits  []string // whom the rule admits
}

// Judge decides whether distinct signers may together change the paths. A file
// that holds a signer's key needs what trust.yaml itself needs, as well as its
// own rule: else the lesser rule would let one signer become another.
func (p *Policy) Judge(paths, signers []string) *Shortfall {
	for _, path := range paths {
		if s := p.judge(path, path, signers); s != nil {
			return s
		}
		if path != FileName && p.Touches(path) {
			if s := p.judge(path, FileName, signers); s != nil {
				return s
			}
		}
	}
	return nil
}

func (p *Policy) judge(path, as string, signers []string) *Shortfall {
	rule, ok := p.Rule(as)
	if !ok {
		return &Shortfall{Path: path}
	}
	var counted []string
	for _, s := range signers {
		if slices.Contains(rule.Signers, s) && !slices.Contains(counted, s) {
			counted = append(counted, s)
		}
	}
	if len(counted) >= rule.Threshold {
		return nil
	}
	slices.Sort(counted)
	return &Shortfall{Path: path, Rule: rule.String(), Needed: rule.Threshold, Counted: counted, Admits: rule.Signers}
}

// ErrUnknownKey says that a signature is by a key that the policy does not list.
var ErrUnknownKey = errors.New("signed by a key that is not listed")

// Verify checks an armoured signature, SSH or OpenPGP, over payload and names
// its signer. The error is ErrUnknownKey (wrapped) if nobody owns the key.
func (p *Policy) Verify(payload, armored []byte) (string, error) {
	switch {
	case bytes.HasPrefix(armored, []byte("-----BEGIN SSH SIGNATURE-----")):
		key, err := VerifySSH(payload, armored)
		if err != nil {
			return "", err
		}
		if name, ok := p.ssh[string(key.Marshal())]; ok {
			return name, nil
		}
		return "", fmt.Errorf("%w: %s %s", ErrUnknownKey, key.Type(), ssh.FingerprintSHA256(key))
	case bytes.HasPrefix(armored, []byte("-----BEGIN PGP SIGNATURE-----")):
		return verifyPGP(p.pgp, payload, armored)
	case bytes.HasPrefix(armored, []byte("-----BEGIN SIGNED MESSAGE-----")):
		return "", errors.New("X.509 signatures are not supported: sign with SSH or OpenPGP")
	}
	return "", errors.New("the signature is neither SSH nor OpenPGP")
}
