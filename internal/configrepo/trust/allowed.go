package trust

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"
)

const allowedEntriesMax = 4096

// AllowedSigners is a parsed file in OpenSSH's allowed_signers format.
type AllowedSigners struct {
	File    string
	Entries []AllowedSigner
}

// AllowedSigner is one line of it.
type AllowedSigner struct {
	Principals    []string // names or patterns; at least one
	Namespaces    []string // patterns; empty means any
	CertAuthority bool
	ValidAfter    string // YYYYMMDD[HHMM[SS]][Z]; "" means always
	ValidBefore   string
	Key           ssh.PublicKey
	Line          int // from 1
}

// AllowsNamespace says whether signatures for a namespace count.
func (e AllowedSigner) AllowsNamespace(ns string) bool {
	return len(e.Namespaces) == 0 || matchList(e.Namespaces, ns)
}

// Matches says whether the line is for a principal.
func (e AllowedSigner) Matches(principal string) bool { return matchList(e.Principals, principal) }

// pinnable refuses what a host cannot honour for its pinned signers.
func (e AllowedSigner) pinnable() error {
	switch {
	case e.CertAuthority:
		return errors.New("cert-authority is not supported: list each signer's own key")
	case e.ValidAfter != "" || e.ValidBefore != "":
		return errors.New("valid-after and valid-before are not supported, as acceptance must not depend on a clock: remove the line to withdraw the key")
	}
	return checkSSHKey(e.Key)
}

// matchList is OpenSSH's: any pattern matches and no !pattern does.
func matchList(patterns []string, s string) bool {
	found := false
	for _, p := range patterns {
		if neg, ok := strings.CutPrefix(p, "!"); ok {
			if wildcard(neg, s) {
				return false
			}
		} else if wildcard(p, s) {
			found = true
		}
	}
	return found
}

// wildcard knows * and ?, which match any character, slashes too.
func wildcard(pattern, s string) bool {
	pattern = strings.NewReplacer("/", "\x00", "[", "\\[", "\\", "\\\\").Replace(pattern)
	ok, err := path.Match(pattern, strings.ReplaceAll(s, "/", "\x00"))
	return ok && err == nil
}

// ParseAllowedSigners reads the format of ssh-keygen(1), ALLOWED SIGNERS. The
// error names every bad line.
func ParseAllowedSigners(file string, src []byte) (*AllowedSigners, error) {
	a := &AllowedSigners{File: file}
	var bad Problems
	for i, line := range bytes.Split(src, []byte("\n")) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		if len(a.Entries) >= allowedEntriesMax {
			return nil, fmt.Errorf("%s has more than %d signers", file, allowedEntriesMax)
		}
		e, err := parseAllowedLine(text)
		if err != nil {
			bad = append(bad, problemAt(file, i+1, line, err))
			continue
		}
		e.Line = i + 1
		a.Entries = append(a.Entries, e)
	}
	if len(bad) > 0 {
		return nil, bad
	}
	if len(a.Entries) == 0 {
		return nil, Problems{{File: file, Message: "it lists no signer", Suggestion: `write lines of the form NAME namespaces="git" ssh-ed25519 AAAA`}}
	}
	return a, nil
}

var (
	errNoName  = errors.New("there is no name before the key")
	errPrivate = errors.New("this is a private key, which nobody else may have")
)

// problemAt gives what is wrong with a line its place, and says what to write where that is not plain.
func problemAt(file string, number int, line []byte, err error) Problem {
	p := Problem{File: file, Line: number, Column: 1 + len(line) - len(bytes.TrimLeft(line, " \t\r")), Message: err.Error()}
	switch err {
	case errNoName:
		p.Suggestion = "write NAME " + strings.Join(strings.Fields(string(line))[:1], "") + " AAAA..., with the signer's name as in trust.yaml"
	case errPrivate:
		p.Suggestion = "write NAME and the line in the key's .pub file"
	}
	return p
}

func parseAllowedLine(text string) (AllowedSigner, error) {
	var e AllowedSigner
	if strings.HasPrefix(text, "-----BEGIN ") && strings.HasSuffix(text, " PRIVATE KEY-----") {
		return e, errPrivate
	}
	if _, _, options, _, err := ssh.ParseAuthorizedKey([]byte(text)); err == nil && len(options) == 0 {
		return e, errNoName
	}
	principals, rest, err := field(text)
	if err != nil {
		return e, err
	}
	for _, p := range strings.Split(principals, ",") {
		if p == "" || p == "!" {
			return e, errors.New("a principal is empty")
		}
		e.Principals = append(e.Principals, p)
	}
	if strings.HasPrefix(e.Principals[0], "!") {
		return e, errors.New("the first principal must not be negated")
	}
	for {
		word, after, err := field(rest)
		if err != nil {
			return e, err
		}
		if word == "" {
			return e, errors.New("no public key: want NAME [options] KEYTYPE BASE64")
		}
		if isKeyType(word) {
			break
		}
		if err := e.option(word); err != nil {
			return e, err
		}
		rest = after
	}
	key, _, options, left, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil || len(options) > 0 || len(left) > 0 {
		return e, errors.New("cannot read the public key; paste the whole of it, as it stands in trust.yaml or in the .pub file")
	}
	e.Key = key
	return e, nil
}

func (e *AllowedSigner) option(words string) error {
	for _, opt := range splitOptions(words) {
		name, value, has := strings.Cut(opt, "=")
		value = strings.Trim(value, `"`)
		name = strings.ToLower(name)
		if has != (name != "cert-authority") {
			return fmt.Errorf("option %q: unknown, or its value is missing; write NAME ssh-ed25519 AAAA..., the key as in trust.yaml", opt)
		}
		switch name {
		case "cert-authority":
			e.CertAuthority = true
		case "namespaces":
			if value == "" {
				return errors.New("namespaces is empty")
			}
			e.Namespaces = append(e.Namespaces, strings.Split(value, ",")...)
		case "valid-after":
			e.ValidAfter = value
		case "valid-before":
			e.ValidBefore = value
		default:
			return fmt.Errorf("option %q is unknown: known are namespaces, cert-authority, valid-after, valid-before", opt)
		}
	}
	return nil
}

func isKeyType(word string) bool {
	return strings.HasPrefix(word, "ssh-") || strings.HasPrefix(word, "ecdsa-") || strings.HasPrefix(word, "sk-")
}

// field cuts the first blank-separated word; blanks within quotes belong to it.
func field(s string) (word, rest string, err error) {
	s = strings.TrimLeft(s, " \t")
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			quoted = !quoted
		case ' ', '\t':
			if !quoted {
				return unquote(s[:i]), strings.TrimLeft(s[i:], " \t"), nil
			}
		}
	}
	if quoted {
		return "", "", errors.New("a quote is not closed")
	}
	return unquote(s), "", nil
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// splitOptions cuts at commas outside quotes.
func splitOptions(s string) []string {
	var out []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			quoted = !quoted
		case ',':
			if !quoted {
				out = append(out, s[start:i])
				start = i + 1
			}
		}
	}
	return append(out, s[start:])
}
