package configrepo

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

// Options configure New. The names follow `repository` in gitopsd.yaml.
type Options struct {
	// Dir holds the mirror and the ratchet; it is made if missing, 0700.
	Dir string
	// URLs are the mirrors in order of preference: https, http, ssh (also
	// user@host:path) and, with AllowLocalPath, file:// and absolute paths.
	// Empty on a host without a route to git.
	URLs []string
	// Branch to follow; default "main".
	Branch string
	// Introduction is the full id of the commit at which trust starts.
	Introduction string
	// AllowedSigners is a file in OpenSSH's allowed_signers format: who may
	// have signed the introduction.
	AllowedSigners string
	// AllowLocalPath permits mirrors on this machine's disk; for development.
	AllowLocalPath bool
	// Credentials for all mirrors; files are read anew at each use.
	Credentials Credentials
	// Limits bound what a mirror or a peer can make this host do.
	Limits Limits
	// Child is the argv of a process that runs ChildMain, in which packs are
	// fetched and parsed. Empty: in this process, for tests only.
	Child []string
	// Log receives what an operator may want to know; nil discards.
	Log *slog.Logger
}

// Credentials name the files a mirror may need. Unused ones stay empty.
type Credentials struct {
	SSHKeyFile     string `json:"sshKeyFile,omitempty"`     // private key, OpenSSH or PEM, without a passphrase
	KnownHostsFile string `json:"knownHostsFile,omitempty"` // required for ssh mirrors
	TokenFile      string `json:"tokenFile,omitempty"`      // a forge's access token, sent as basic auth
	UsernameFile   string `json:"usernameFile,omitempty"`   // with PasswordFile, or to name the token's user
	PasswordFile   string `json:"passwordFile,omitempty"`
	CAFile         string `json:"caFile,omitempty"` // PEM; added to the system's roots
}

// Limits bound the work of one cycle. Zero means the default.
type Limits struct {
	PackBytes    int64         `json:"packBytes"`    // of one pack as it travels; default 256 MiB
	PackObjects  int64         `json:"packObjects"`  // in one pack; default 1 Mi
	ObjectBytes  int64         `json:"objectBytes"`  // of one object, inflated; default 64 MiB
	InflateBytes int64         `json:"inflateBytes"` // of all objects of one pack; default 4 GiB
	RefBytes     int64         `json:"refBytes"`     // of a mirror's list of refs; default 8 MiB
	FileBytes    int64         `json:"fileBytes"`    // of one file read through Tree; default 16 MiB
	MemoryBytes  int64         `json:"memoryBytes"`  // address space the child may add to what it starts with; default 1536 MiB
	Timeout      time.Duration `json:"timeout"`      // of one mirror's turn; default 2 min
	Packs        int           `json:"packs"`        // in the mirror before it is rewritten as one; default 100
}

// Bounds that are not for operators to choose.
const (
	commitBytesMax  = 1 << 20   // one commit object
	treeBytesMax    = 16 << 20  // one tree object
	treeDepthMax    = 64        // folders below one another
	nestedBytesMax  = 40 << 20  // trees on the way from the root to one folder, before and after a change: two of the largest and some
	commitsMax      = 1 << 20   // commits walked for one question
	graphMax        = 2 << 20   // commits and parents remembered
	pathsMax        = 1 << 20   // changed paths of one commit
	pathBytesMax    = 64 << 20  // all of these together
	secretBytesMax  = 64 << 10  // a credentials file
	signersBytesMax = 256 << 10 // allowed_signers
	urlsMax         = 16
)

func (l Limits) withDefaults() Limits {
	set := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.PackBytes, 256<<20)
	set(&l.PackObjects, 1<<20)
	set(&l.ObjectBytes, 64<<20)
	set(&l.InflateBytes, 4<<30)
	set(&l.RefBytes, 8<<20)
	set(&l.FileBytes, 16<<20)
	set(&l.MemoryBytes, 1536<<20)
	if l.Timeout <= 0 {
		l.Timeout = 2 * time.Minute
	}
	if l.Packs <= 0 {
		l.Packs = 100
	}
	return l
}

// OptionsError is New's error where a person must correct the options or allowed_signers, or the options do not fit Dir.
type OptionsError struct{ err error }

func (e *OptionsError) Error() string { return e.err.Error() }

// Unwrap gives what is wrong.
func (e *OptionsError) Unwrap() error { return e.err }

// check reports everything that is wrong with the options and fills defaults.
func (o *Options) check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !filepath.IsAbs(o.Dir) {
		bad("dataDir %q is not an absolute path", o.Dir)
	}
	if o.Branch == "" {
		o.Branch = "main"
	}
	if !validBranch(o.Branch) {
		bad("branch %q is not a valid branch name", o.Branch)
	}
	if _, err := parseID(o.Introduction); err != nil {
		bad("introduction: %w; pin the full id that `git rev-parse COMMIT` prints", err)
	}
	if o.AllowedSigners == "" {
		bad("allowedSigners is missing: name the file that lists who signed the introduction")
	}
	if len(o.URLs) > urlsMax {
		bad("%d urls are more than %d", len(o.URLs), urlsMax)
	}
	for _, u := range o.URLs {
		if _, err := parseRemote(u, o.AllowLocalPath); err != nil {
			bad("%w", err)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.withDefaults()
	if len(errs) > 0 {
		return &OptionsError{fmt.Errorf("cannot use repository settings: %w", errors.Join(errs...))}
	}
	return nil
}

// validBranch applies the part of git's rules for names that keeps a branch
// from being an option, a path out of refs/heads, or a revision expression.
func validBranch(name string) bool {
	if name == "" || len(name) > 255 || strings.HasPrefix(name, "-") || strings.HasSuffix(name, ".") {
		return false
	}
	if strings.ContainsAny(name, " ~^:?*[\\\x7f") || strings.Contains(name, "..") || strings.Contains(name, "@{") {
		return false
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return strings.IndexFunc(name, func(r rune) bool { return r < 0x20 }) < 0
}
