package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/ssh"
)

// Bounds of a policy.
const (
	FileBytesMax    = 256 << 10 // trust.yaml
	KeyFileBytesMax = 256 << 10 // a signer's OpenPGP key file
	signersMax      = 1000
	rulesMax        = 1000
	patternsMax     = 1000 // in one rule
	problemsMax     = 50
)

// Parse reads trust.yaml strictly. read gives the content of a key file of the
// same commit. The error is Problems: everything wrong, with positions.
func Parse(src []byte, read func(path string) ([]byte, error)) (*Policy, error) {
	d := &parser{read: read, p: &Policy{ssh: map[string]string{}, pgp: map[string]openpgp.EntityList{}}}
	if root := d.document(src); root != nil {
		d.root(root)
	}
	if len(d.bad) > 0 {
		return nil, d.bad
	}
	slices.Sort(d.p.names)
	slices.Sort(d.p.KeyFiles)
	d.p.KeyFiles = slices.Compact(d.p.KeyFiles)
	return d.p, nil
}

type parser struct {
	p            *Policy
	read         func(string) ([]byte, error)
	bad          Problems
	fingerprints map[string]string
}

func (d *parser) add(n *yaml.Node, suggestion, format string, a ...any) {
	if len(d.bad) >= problemsMax {
		return
	}
	p := Problem{File: FileName, Line: 1, Column: 1, Message: fmt.Sprintf(format, a...), Suggestion: suggestion}
	if n != nil && n.Line > 0 {
		p.Line, p.Column = n.Line, n.Column
	}
	d.bad = append(d.bad, p)
}

func (d *parser) document(src []byte) *yaml.Node {
	if len(src) > FileBytesMax {
		d.add(nil, "", "the file has %d bytes, more than %d", len(src), FileBytesMax)
		return nil
	}
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(src))
	if err := dec.Decode(&doc); err != nil {
		d.syntax(err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		d.add(&second, "", "a second document begins here, and the file holds one")
		return nil
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		d.add(nil, "", "the file holds no document")
		return nil
	}
	return doc.Content[0]
}

func (d *parser) syntax(err error) {
	if errors.Is(err, io.EOF) {
		d.add(nil, "", "the file is empty")
		return
	}
	var load *yaml.LoadError
	if errors.As(err, &load) {
		d.add(&yaml.Node{Line: max(load.Mark.Line, 1), Column: max(load.Mark.Column, 1)}, "", "not YAML: %s", load.Message)
		return
	}
	d.add(nil, "", "not YAML: %v", err)
}

// fields checks that n is a mapping with only known, single keys.
func (d *parser) fields(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	pairs := d.mapping(n, what)
	out := map[string]*yaml.Node{}
	for _, kv := range pairs {
		if !slices.Contains(known, kv[0].Value) {
			d.add(kv[0], suggest(kv[0].Value, known), "unknown key %q in %s", kv[0].Value, what)
			continue
		}
		out[kv[0].Value] = kv[1]
	}
	return out
}

// mapping gives key and value nodes; aliases, tags and duplicates are refused.
func (d *parser) mapping(n *yaml.Node, what string) [][2]*yaml.Node {
	if !d.plain(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.add(n, "", "%s must be a mapping", what)
		return nil
	}
	seen := map[string]int{}
	var out [][2]*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if !d.plain(k) || !d.plain(v) {
			continue
		}
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			d.add(k, "", "a key of %s is not plain text", what)
			continue
		}
		if line, dup := seen[k.Value]; dup {
			d.add(k, "", "duplicate key %q, first in line %d", k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		out = append(out, [2]*yaml.Node{k, v})
	}
	return out
}

func (d *parser) plain(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.add(n, "write it out", "anchors and aliases are refused")
		return false
	}
	if n.Tag != "" && !strings.HasPrefix(n.Tag, "!!") {
		d.add(n, "leave the tag out", "custom tag %s", n.Tag)
		return false
	}
	return true
}

func (d *parser) text(n *yaml.Node, what string) (string, bool) {
	if !d.plain(n) {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		d.add(n, "", "%s must be text", what)
		return "", false
	}
	return n.Value, true
}

// count reads a plain decimal number from 1.
func (d *parser) count(n *yaml.Node, what string, limit int) (int, bool) {
	s, ok := d.text(n, what)
	if !ok {
		return 0, false
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < 1 || v > limit || strconv.Itoa(v) != s || n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		d.add(n, "", "%s must be a whole number from 1 to %d", what, limit)
		return 0, false
	}
	return v, true
}

func (d *parser) list(n *yaml.Node, what string, limit int) []*yaml.Node {
	if !d.plain(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.add(n, "", "%s must be a list with at least one entry", what)
		return nil
	}
	if len(n.Content) > limit {
		d.add(n, "", "%s has %d entries, more than %d", what, len(n.Content), limit)
		return nil
	}
	return n.Content
}

func (d *parser) root(n *yaml.Node) {
	f := d.fields(n, FileName, "version", "signers", "rules")
	for _, key := range []string{"version", "signers", "rules"} {
		if f[key] == nil && len(d.bad) < problemsMax {
			d.add(n, "", "%s is missing", key)
		}
	}
	if v := f["version"]; v != nil {
		d.p.Version, _ = d.count(v, "version", 1<<30)
	}
	if s := f["signers"]; s != nil {
		d.signers(s)
	}
	if r := f["rules"]; r != nil {
		for i, n := range d.list(r, "rules", rulesMax) {
			d.rule(n, i)
		}
		if _, ok := d.p.Rule(FileName); !ok && len(d.bad) == 0 {
			d.add(r, `end the list with a rule for "**"`, "no rule governs %s, so nobody could ever change it again", FileName)
		}
	}
}

func (d *parser) signers(n *yaml.Node) {
	pairs := d.mapping(n, "signers")
	if len(pairs) > signersMax {
		d.add(n, "", "%d signers are more than %d", len(pairs), signersMax)
		return
	}
	d.fingerprints = map[string]string{}
	for _, kv := range pairs {
		name := kv[0].Value
		if !validName(name) {
			d.add(kv[0], "use letters, digits, . _ - and @, up to 64", "%q is not a signer's name", name)
			continue
		}
		d.p.names = append(d.p.names, name)
		f := d.fields(kv[1], "signer "+name, "ssh", "pgp")
		if len(f) == 0 {
			d.add(kv[1], `write {ssh: "ssh-ed25519 AAAA..."} or {pgp: keys/NAME.asc}`, "signer %s has no key", name)
		}
		if k := f["ssh"]; k != nil {
			d.sshKey(k, name)
		}
		if k := f["pgp"]; k != nil {
			d.pgpKeys(k, name)
		}
	}
}

func (d *parser) sshKey(n *yaml.Node, name string) {
	text, ok := d.text(n, "ssh")
	if !ok {
		return
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		d.add(n, "paste the line that ssh-keygen wrote to the .pub file", "cannot read the public key of %s", name)
		return
	}
	if err := checkSSHKey(key); err != nil {
		d.add(n, "", "signer %s: %v", name, err)
		return
	}
	marshalled := string(key.Marshal())
	if other, dup := d.p.ssh[marshalled]; dup {
		d.add(n, "one key must not count for two signers", "%s has the key of %s", name, other)
		return
	}
	d.p.ssh[marshalled] = name
}

func (d *parser) pgpKeys(n *yaml.Node, name string) {
	file, ok := d.text(n, "pgp")
	if !ok {
		return
	}
	if path.Clean(file) != file || strings.HasPrefix(file, "/") || strings.HasPrefix(file, "..") || file == FileName || file == "." {
		d.add(n, "", "pgp: %q is not a clean path in the repository", file)
		return
	}
	d.p.KeyFiles = append(d.p.KeyFiles, file)
	src, err := d.read(file)
	if err != nil {
		d.add(n, "", "cannot read the key file of %s: %v", name, err)
		return
	}
	list, err := readKeys(src)
	if err != nil {
		d.add(n, "write it with gpg --export --armor", "cannot use %s: %v", file, err)
		return
	}
	for _, e := range list {
		fp := fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)
		if other, dup := d.fingerprints[fp]; dup {
			d.add(n, "one key must not count for two signers", "%s has the key of %s", name, other)
			return
		}
		d.fingerprints[fp] = name
	}
	d.p.pgp[name] = list
}

func readKeys(src []byte) (openpgp.EntityList, error) {
	if len(src) > KeyFileBytesMax {
		return nil, fmt.Errorf("%d bytes are more than %d", len(src), KeyFileBytesMax)
	}
	list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(src))
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("it holds no key")
	}
	for _, e := range list {
		if e.PrivateKey != nil {
			return nil, errors.New("it holds a private key")
		}
	}
	return list, nil
}

func (d *parser) rule(n *yaml.Node, i int) {
	what := "rule " + strconv.Itoa(i+1)
	f := d.fields(n, what, "paths", "threshold", "signers")
	r := Rule{Threshold: 1, Line: n.Line}
	if f["paths"] == nil || f["signers"] == nil {
		d.add(n, "", "%s needs paths and signers", what)
		return
	}
	for _, p := range d.list(f["paths"], "paths", patternsMax) {
		if s, ok := d.text(p, "a path"); ok {
			if err := checkGlob(s); err != nil {
				d.add(p, "", "%v", err)
			}
			r.Paths = append(r.Paths, s)
		}
	}
	for _, s := range d.list(f["signers"], "signers", signersMax) {
		name, ok := d.text(s, "a signer")
		if !ok {
			continue
		}
		if !slices.Contains(d.p.names, name) {
			d.add(s, suggest(name, d.p.names), "signer %q is not listed under signers", name)
		}
		if slices.Contains(r.Signers, name) {
			d.add(s, "", "signer %q appears twice", name)
			continue
		}
		r.Signers = append(r.Signers, name)
	}
	if t := f["threshold"]; t != nil {
		v, ok := d.count(t, "threshold", signersMax)
		if ok && v > len(r.Signers) {
			d.add(t, "lower it, or add signers", "threshold %d can never be reached by %d signers", v, len(r.Signers))
		}
		r.Threshold = v
	}
	d.p.Rules = append(d.p.Rules, r)
}

func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-@", r))
	})
}
