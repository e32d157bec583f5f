package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

// digestPrefix is the only algorithm there is; a second one would get a prefix of its own.
const digestPrefix = "sha256:"

// Digest names bytes by content: "sha256:" and 64 lower-case hexadecimal digits, as sha256sum prints them. The zero value names nothing.
type Digest string

// ParseDigest accepts the one spelling of a digest and says what is wrong with any other.
func ParseDigest(s string) (Digest, error) {
	hexed, found := strings.CutPrefix(s, digestPrefix)
	if !found {
		return "", fmt.Errorf("cannot parse digest %.80q: it must begin with %q (take what sha256sum prints and put that before it)", s, digestPrefix)
	}
	if len(hexed) != 2*sha256.Size {
		return "", fmt.Errorf("cannot parse digest %.80q: it has %d hexadecimal digits, not %d", s, len(hexed), 2*sha256.Size)
	}
	for _, c := range []byte(hexed) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("cannot parse digest %.80q: %q is not a lower-case hexadecimal digit", s, c)
		}
	}
	return Digest(s), nil
}

// DigestOf is the digest of a sha256 sum.
func DigestOf(sum [sha256.Size]byte) Digest {
	return Digest(digestPrefix + hex.EncodeToString(sum[:]))
}

// DigestBytes is the digest of data.
func DigestBytes(data []byte) Digest { return DigestOf(sha256.Sum256(data)) }

// Sum returns the 32 bytes behind the digest; ok is false if d is not a digest that ParseDigest accepts.
func (d Digest) Sum() (sum [sha256.Size]byte, ok bool) {
	if _, err := ParseDigest(string(d)); err != nil {
		return sum, false
	}
	n, err := hex.Decode(sum[:], []byte(d[len(digestPrefix):]))
	return sum, err == nil && n == sha256.Size
}

// Hex returns the 64 digits without the prefix, fit for a file name; "" if d is not a digest.
func (d Digest) Hex() string {
	if _, err := ParseDigest(string(d)); err != nil {
		return ""
	}
	return string(d[len(digestPrefix):])
}

// Short returns the first 12 digits, for people.
func (d Digest) Short() string {
	hexed := strings.TrimPrefix(string(d), digestPrefix)
	return hexed[:min(12, len(hexed))]
}

// Type says how a bundle's bytes are to be read. The names are CodeDeploy's bundleType, plus tar.zst.
type Type string

// The types a revision may have.
const (
	TypeTarZst    Type = "tar.zst"
	TypeZip       Type = "zip"
	TypeTgz       Type = "tgz"
	TypeTar       Type = "tar"
	TypeDirectory Type = "directory"
)

// ParseType accepts a type's name as group.yaml writes it.
func ParseType(s string) (Type, error) {
	switch t := Type(s); t {
	case TypeTarZst, TypeZip, TypeTgz, TypeTar, TypeDirectory:
		return t, nil
	}
	return "", fmt.Errorf("cannot use bundle type %.40q: write tar.zst, zip, tgz, tar or directory", s)
}

// TypeOfName guesses a type from a file or key name; ok is false if the name tells nothing.
func TypeOfName(name string) (Type, bool) {
	base := strings.ToLower(path.Base(name))
	suffixes := []struct {
		suffix string
		t      Type
	}{{".tar.zst", TypeTarZst}, {".tzst", TypeTarZst}, {".tar.gz", TypeTgz}, {".tgz", TypeTgz}, {".tar", TypeTar}, {".zip", TypeZip}}
	for _, s := range suffixes {
		if strings.HasSuffix(base, s.suffix) {
			return s.t, true
		}
	}
	return "", false
}

// Ref names one bundle as a commit pins it.
type Ref struct {
	Digest Digest // of the whole archive file
	Size   int64  // bytes of the archive file
	Type   Type
	Index  *Index // how it is cut; nil while only its digest is known
}

// Check says what is wrong with a reference, and whether its index speaks of an archive of that size and type.
func (r Ref) Check() error {
	if _, err := ParseDigest(string(r.Digest)); err != nil {
		return err
	}
	if r.Size <= 0 || r.Size > MaxArchiveBytes {
		return fmt.Errorf("cannot use bundle %s: its size %d is not between 1 and %d bytes", r.Digest.Short(), r.Size, int64(MaxArchiveBytes))
	}
	if t, err := ParseType(string(r.Type)); err != nil || t == TypeDirectory {
		return fmt.Errorf("cannot use bundle %s: type %q is no archive type", r.Digest.Short(), r.Type)
	}
	if r.Index == nil {
		return nil
	}
	if got := r.Index.ArchiveSize(); got != r.Size {
		return fmt.Errorf("cannot use bundle %s: its index speaks of an archive of %d bytes, the revision of %d", r.Digest.Short(), got, r.Size)
	}
	if r.Index.Framed() && r.Type != TypeTarZst {
		return fmt.Errorf("cannot use bundle %s: its index lists zstd frames, but its type is %s", r.Digest.Short(), r.Type)
	}
	return nil
}
