package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

func sshKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func line(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }

func nothing(path string) ([]byte, error) { return nil, errors.New("no " + path) }

const (
	annaKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFPPXrpA5hfeV0xZ3dEBRIxdMm9wZbPJ0LQQ8MyELXQn"
	boKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGWXvcBRu5Zq5wkMjsfxgbQIxMQFPDyGDLHNIzwEN1Ab"
)

var good = fmt.Sprintf(`version: 3
signers:
  anna: {ssh: "%s"}
  bo: {ssh: "%s comment"}
rules:
  - {paths: [trust.yaml, "hosts/**"], threshold: 2, signers: [anna, bo]}
  - {paths: ["shop/staging/**"], signers: [bo]}
  - {paths: ["**"], threshold: 1, signers: [anna]}
`, annaKey, boKey)

func TestParse(t *testing.T) {
	p, err := Parse([]byte(good), nothing)
	if err != nil {
		t.Fatal(err)
	}
	if p.Version != 3 || !slices.Equal(p.Signers(), []string{"anna", "bo"}) || len(p.Rules) != 3 || p.Rules[1].Threshold != 1 || p.Rules[0].Line != 6 {
		t.Fatalf("%+v", p)
	}
	for _, c := range []struct {
		paths, signers string
		path           string // "" if authorised
	}{
		{"shop/staging/a", "bo", ""},
		{"shop/staging/a", "anna", "shop/staging/a"},
		{"shop/production/a", "anna", ""},
		{"shop/production/a", "bo", "shop/production/a"},
		{"shop/staging/a shop/production/a", "anna bo", ""},
		{"hosts/a.yaml", "anna", "hosts/a.yaml"},
		{"hosts/a.yaml", "anna anna", "hosts/a.yaml"},
		{"hosts/a.yaml", "anna bo", ""},
		{"trust.yaml", "bo", "trust.yaml"},
		{"", "", ""},
	} {
		s := p.Judge(strings.Fields(c.paths), strings.Fields(c.signers))
		if got := ""; s != nil {
			got = s.Path
			if got != c.path {
				t.Errorf("%+v: %+v", c, s)
			}
		} else if c.path != "" {
			t.Errorf("%+v is authorised", c)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	swap := func(old, new string) string {
		s := strings.Replace(good, old, new, 1)
		if s == good {
			t.Fatalf("%q is not in the sample", old)
		}
		return s
	}
	for want, src := range map[string]string{
		"trust.yaml:1:1: the file is empty": "",
		"must be a mapping":                 "- a\n",
		"trust.yaml:6:39: unknown key \"treshold\" in rule 1; did you mean threshold?": swap("threshold: 2", "treshold: 2"),
		"unknown key \"sginers\"":                                        swap("\nsigners:", "\nsginers:"),
		"signers is missing":                                             swap("\nsigners:", "\nsginers:"),
		"duplicate key \"bo\", first in line 4":                          swap("rules:", "  bo: {ssh: \""+boKey+"\"}\nrules:"),
		"bo has the key of anna":                                         swap(boKey, annaKey),
		"version must be a whole number":                                 swap("version: 3", "version: 0"),
		"version must be a whole number from 1":                          swap("version: 3", "version: \"3\""),
		"must be a whole number from 1 to":                               swap("version: 3", "version: 03"),
		"threshold 3 can never be reached":                               swap("threshold: 2", "threshold: 3"),
		"threshold must be":                                              swap("threshold: 2", "threshold: -1"),
		"signer \"ana\" is not listed under signers; did you mean anna?": swap("threshold: 2, signers: [anna", "threshold: 2, signers: [ana"),
		"signer \"bo\" appears twice":                                    swap("signers: [anna, bo]", "signers: [anna, bo, bo]"),
		"anchors and aliases are refused":                                swap("signers: [anna, bo]", "signers: &x [anna, bo]"),
		"a second document begins":                                       good + "---\na: b\n",
		"custom tag":                                                     swap("version: 3", "version: !x 3"),
		"** must stand alone":                                            swap("hosts/**", "hosts/**x"),
		"would match nothing: write \"hosts/**\"":                        swap("hosts/**", "hosts/"),
		"relative to the repository's root":                              swap("hosts/**", "/hosts/**"),
		"no rule governs trust.yaml":                                     strings.NewReplacer("trust.yaml, ", "", `paths: ["**"]`, `paths: ["*/**"]`).Replace(good),
		"cannot read the public key of anna":                             swap(annaKey, "ssh-ed25519 AAAA"),
		"RSA keys below 2048 bits are refused":                           swap(annaKey, shortRSA(t)),
		"has no key":                                                     swap(`{ssh: "`+annaKey+`"}`, "{}"),
		"is not a signer's name":                                         swap("anna:", "\"an na\":"),
		"paths must be a list":                                           swap(`["shop/staging/**"]`, `"shop/staging/**"`),
		"needs paths and signers":                                        swap(`{paths: ["shop/staging/**"], signers: [bo]}`, `{signers: [bo]}`),
		"cannot read the key file of anna: no keys/anna.asc":             swap(`ssh: "`+annaKey+`"`, "pgp: keys/anna.asc"),
		"is not a clean path":                                            swap(`ssh: "`+annaKey+`"`, "pgp: ../../etc/x"),
		"not YAML":                                                       "version: [1\n",
		"more than 262144":                                               good + "#" + strings.Repeat("x", FileBytesMax),
	} {
		_, err := Parse([]byte(src), nothing)
		var ps Problems
		if !errors.As(err, &ps) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
			continue
		}
		for _, p := range ps {
			if p.File != FileName || p.Line < 1 || p.Column < 1 {
				t.Errorf("no place: %+v", p)
			}
		}
	}
}

// shortRSA is a public key of 1024 bits; nobody has the private one.
func shortRSA(t *testing.T) string {
	t.Helper()
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	k, err := ssh.NewPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	return line(k)
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"**", "a", true}, {"**", "a/b/c", true}, {"a/**", "a/b", true}, {"a/**", "a/b/c", true}, {"a/**", "a", false},
		{"a/**", "ab", false}, {"*", "a", true}, {"*", "a/b", false}, {"*.yaml", "x.yaml", true}, {"*.yaml", "d/x.yaml", false},
		{"**/*.yaml", "x.yaml", true}, {"**/*.yaml", "a/b/x.yaml", true}, {"a/**/z", "a/z", true}, {"a/**/z", "a/b/c/z", true},
		{"a/**/z", "a/b/c/zz", false}, {"a/*/z", "a/b/z", true}, {"a/*/z", "a/b/c/z", false}, {"a?c", "abc", true}, {"[ab]/x", "b/x", true},
		{"trust.yaml", "trust.yaml", true}, {"trust.yaml", "x/trust.yaml", false}, {"**/a/**", "a/b", true}, {"**/a/**", "x/a/y", true}, {"**/a/**", "x/a", false},
	} {
		if got := Match(c.pattern, c.path); got != c.want {
			t.Errorf("%s on %s: %v", c.pattern, c.path, got)
		}
	}
	// Many ** must not cost exponential time.
	if Match(strings.Repeat("**/a/", 30)+"b", strings.Repeat("a/", 60)+"c") {
		t.Error("matched")
	}
}

func TestAllowedSigners(t *testing.T) {
	src := `# comment
anna@example.com,anna ` + annaKey + ` some comment
"bo smith" namespaces="git,file" ` + boKey + `
`
	a, err := ParseAllowedSigners("f", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Entries) != 2 || a.Entries[1].Principals[0] != "bo smith" || !slices.Equal(a.Entries[1].Namespaces, []string{"git", "file"}) || a.Entries[1].Line != 3 {
		t.Fatalf("%+v", a.Entries)
	}
	if !a.Entries[0].Matches("anna") || a.Entries[0].Matches("ann") || !a.Entries[0].AllowsNamespace("x") || a.Entries[1].AllowsNamespace("x") {
		t.Fatal("matching")
	}
	p, err := Default(a)
	if err != nil || !slices.Equal(p.Signers(), []string{"anna@example.com", "bo smith"}) {
		t.Fatal(p, err)
	}
	for want, src := range map[string]string{
		"cert-authority is not supported": "a cert-authority " + annaKey,
		"valid-after and valid-before":    `a valid-before="20300101" ` + annaKey,
		"lists nobody":                    `a namespaces="file" ` + annaKey,
	} {
		a, err := ParseAllowedSigners("f", []byte(src))
		if err == nil {
			_, err = Default(a)
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "f") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for want, src := range map[string]string{
		"lists no signer": "# nothing\n", "f:1:1: no public key": "a\n", "option \"colour=red\"": "a colour=red " + annaKey,
		"cannot read the public key": "a ssh-ed25519 AAAA", "a quote is not closed": `a namespaces="git ` + annaKey, "its value is missing": "a namespaces " + annaKey,
		"a principal is empty": "a,,b " + annaKey, "must not be negated": "!a " + annaKey,
		"f:2:3: there is no name before the key; write NAME ssh-ed25519 AAAA...": "# ours\n  " + annaKey + " anna@laptop\n",
		"f:1:1: this is a private key, which nobody else may have; write NAME":   "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n",
	} {
		if _, err := ParseAllowedSigners("f", []byte(src)); err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, new(Problems)) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func armored(t *testing.T, signer ssh.Signer, payload, namespace string) []byte {
	t.Helper()
	s, err := sshsig.Sign(strings.NewReader(payload), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return sshsig.Armor(s)
}

func TestVerifySSH(t *testing.T) {
	k := sshKey(t)
	if key, err := VerifySSH([]byte("x"), armored(t, k, "x", "git")); err != nil || line(key) != line(k.PublicKey()) {
		t.Fatal(err)
	}
	if _, err := VerifySSH([]byte("y"), armored(t, k, "x", "git")); err == nil {
		t.Fatal("another payload")
	}
	if _, err := VerifySSH([]byte("x"), armored(t, k, "x", "file")); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Fatal(err)
	}
}

func pgpEntity(t *testing.T, c *packet.Config) (*openpgp.Entity, []byte) {
	t.Helper()
	e, err := openpgp.NewEntity("Bo", "", "bo@example.com", c)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return e, b.Bytes()
}

func TestVerifyPGP(t *testing.T) {
	then := func() time.Time { return time.Unix(1_600_000_000, 0) }
	for name, c := range map[string]*packet.Config{
		"rsa": {RSABits: 2048, Algorithm: packet.PubKeyAlgoRSA, Time: then, DefaultHash: crypto.SHA256},
		// The key expired long ago: acceptance must not depend on today.
		"eddsa": {Algorithm: packet.PubKeyAlgoEdDSA, Time: then, KeyLifetimeSecs: 3600, DefaultHash: crypto.SHA512},
	} {
		t.Run(name, func(t *testing.T) {
			e, public := pgpEntity(t, c)
			src := strings.Replace(good, `bo: {ssh: "`+boKey+` comment"}`, "bo: {pgp: keys/bo.asc}", 1)
			p, err := Parse([]byte(src), func(path string) ([]byte, error) {
				if path != "keys/bo.asc" {
					return nothing(path)
				}
				return public, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var sig bytes.Buffer
			if err := openpgp.ArmoredDetachSign(&sig, e, strings.NewReader("payload"), c); err != nil {
				t.Fatal(err)
			}
			if who, err := p.Verify([]byte("payload"), sig.Bytes()); err != nil || who != "bo" {
				t.Fatal(who, err)
			}
			if _, err := p.Verify([]byte("another"), sig.Bytes()); err == nil {
				t.Fatal("another payload verifies")
			}
			stranger, _ := pgpEntity(t, c)
			sig.Reset()
			if err := openpgp.ArmoredDetachSign(&sig, stranger, strings.NewReader("payload"), c); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Verify([]byte("payload"), sig.Bytes()); !errors.Is(err, ErrUnknownKey) {
				t.Fatal(err)
			}
			// A key file is part of the policy: both rules must be met.
			if !p.Touches("keys/bo.asc") || p.Touches("keys/x.asc") {
				t.Fatal(p.KeyFiles)
			}
			if s := p.Judge([]string{"keys/bo.asc"}, []string{"anna"}); s == nil || s.Needed != 2 {
				t.Fatal("one signer may exchange another's key")
			}
		})
	}
}

func TestSplitCommit(t *testing.T) {
	head, body := "tree 1\nauthor a\ncommitter b\n", "\nsubject\n\ngpgsig not a header\n x\n"
	raw := head + "gpgsig -----BEGIN\n line two\n \n -----END\n" + body
	payload, sig, err := SplitCommit([]byte(raw))
	if err != nil || string(payload) != head+body || string(sig) != "-----BEGIN\nline two\n\n-----END\n" {
		t.Fatalf("%q %q %v", payload, sig, err)
	}
	if _, _, err := SplitCommit([]byte(head + body)); !errors.Is(err, ErrUnsigned) {
		t.Fatal(err)
	}
	if _, _, err := SplitCommit([]byte(head + "gpgsig a\ngpgsig b\n" + body)); err == nil {
		t.Fatal("two signatures")
	}
	if _, _, err := SplitCommit([]byte(head + "gpgsig-sha256 a\n" + body)); err == nil {
		t.Fatal("sha256 signature")
	}
	if _, _, err := SplitCommit([]byte(head + "gpgsig " + strings.Repeat("x", signatureBytesMax+1) + "\n" + body)); err == nil {
		t.Fatal("endless signature")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("version: 1\nsigners: {a: {pgp: x}}\nrules: []\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := Parse(src, func(string) ([]byte, error) { return src, nil })
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("%v", err)
			}
			return
		}
		if s := p.Judge([]string{FileName, "a/b"}, nil); s == nil {
			t.Fatal("nobody may change anything")
		}
		if p.Version < 1 || len(p.Rules) == 0 {
			t.Fatalf("%+v", p)
		}
	})
}

func FuzzAllowedSigners(f *testing.F) {
	f.Add([]byte("anna namespaces=\"git\" " + annaKey + "\n"))
	f.Add([]byte("a,b cert-authority,valid-before=\"1\" " + boKey + "\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		a, err := ParseAllowedSigners("f", src)
		if err != nil {
			return
		}
		for _, e := range a.Entries {
			if len(e.Principals) == 0 || e.Key == nil || e.Line < 1 {
				t.Fatalf("%+v", e)
			}
			e.Matches("anna")
		}
		_, _ = Default(a)
	})
}

func FuzzSplitCommit(f *testing.F) {
	f.Add([]byte("tree 1\nauthor a\ngpgsig x\n y\n\nbody\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		payload, sig, err := SplitCommit(raw)
		if err == nil && (len(payload)+len(sig) > len(raw) || len(sig) == 0) {
			t.Fatalf("%q %q", payload, sig)
		}
		p := &Policy{}
		if err == nil {
			if who, err := p.Verify(payload, sig); err == nil {
				t.Fatalf("an empty policy trusts %q", who)
			}
		}
	})
}
