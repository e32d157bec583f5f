package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// Paths and values a host's own file need not repeat.
const (
	DefaultConfigFile     = "/etc/gitopsd/gitopsd.yaml"
	DefaultDataDir        = "/var/lib/gitopsd"
	DefaultSocket         = "/run/gitopsd/api.sock"
	DefaultListen         = "0.0.0.0:7946"
	DefaultBranch         = "main"
	DefaultPoll           = 20 * time.Second
	DefaultAllowedSigners = "/etc/gitopsd/allowed_signers"
	DefaultRegion         = "us-east-1"
	DefaultReleases       = 5
	DefaultLogBytes       = 64 << 20
)

// envPrefix begins the variables that beat the file: GITOPSD_DATA_DIR, GITOPSD_REPOSITORY_URLS, ...
const envPrefix = "GITOPSD_"

// Config is the host's own file, /etc/gitopsd/gitopsd.yaml: what this host is and how far it trusts git. All defaults are filled in.
type Config struct {
	Host            string // its name in the inventory
	DataDir         string
	Socket          string // unix socket of the API
	Listen          string // HOST:PORT
	Advertise       string // HOST:PORT others dial; "": the address in the inventory
	Join            []Join
	Repository      RepositoryConfig
	S3              S3Config
	HTTPS           HTTPSConfig
	DestinationRoot string // put before every destination and permission object; "/" by default
	Fence           FenceConfig
	Limits          LimitsConfig
	Retention       RetentionConfig
	Timing          string // standard | fast: how patient gossip and raft are; fast is for hosts on one machine or one switch
	Log             LogConfig
}

// Join is a peer to try before the inventory is known.
type Join struct {
	Name    string
	Address string // HOST:PORT
}

// RepositoryConfig says where the config repository is and which commit the host's trust begins with.
type RepositoryConfig struct {
	URLs           []string // mirrors in order; none on a host without a route to git
	Branch         string
	Poll           time.Duration
	AllowLocalPath bool   // file paths and file:// URLs, for development
	Introduction   string // full commit id
	AllowedSigners string // OpenSSH allowed_signers file: who signed the introduction
	Credentials    CredentialsConfig
}

// CredentialsConfig names files with what git asks for; at most one way is set, CAFile may go with https ones.
type CredentialsConfig struct {
	SSHKeyFile, KnownHostsFile string
	TokenFile                  string
	UsernameFile, PasswordFile string
	CAFile                     string
}

// S3Config is how this host reaches S3.
type S3Config struct {
	Enabled         bool     // false on a host without a route
	Endpoint        string   // "": AWS's own
	Fallbacks       []string // endpoints with the same objects, in order, for when Endpoint fails
	Region          string
	PathStyle       bool   // true by default when there is an endpoint
	CredentialsFile string // "": the SDK's credential chain
	Proxy           string // "": what the environment says; none; or a URL
}

// HTTPSConfig is how this host reaches URLs and forges.
type HTTPSConfig struct {
	Enabled bool   // false on a host without a route
	Proxy   string // "": what the environment says; none; or a URL
	Tokens  []TokenConfig
}

// TokenConfig is what the archives of a forge are asked for with.
type TokenConfig struct {
	Host string // HOST or HOST:PORT; github.com's archives come from api.github.com
	File string
}

// FenceConfig limits what git may ask of this host. An empty list is no limit; elements are glob patterns.
type FenceConfig struct {
	Users, Destinations, Origins, Groups []string
}

// LimitsConfig bounds what the host spends; 0 is no limit.
type LimitsConfig struct {
	Upload, Download int64 // bytes in a second
	Disk             int64 // bytes of bundles kept
}

// RetentionConfig bounds what is kept of each group beyond what runs, what ran well last and what is being deployed; 0 is no limit.
type RetentionConfig struct {
	Releases     int // revisions that are unpacked on this host
	ReleaseAge   time.Duration
	ReleaseBytes int64
	LogAge       time.Duration // of hooks' output
	LogBytes     int64
}

// LogConfig is how the agent logs.
type LogConfig struct {
	Level  slog.Level
	Format string // text | json
}

// LoadConfig reads the host's own file. env is os.LookupEnv or a test's; nil reads no variables. The error names every problem with
// FILE:LINE:COLUMN, one a line.
func LoadConfig(path string, env func(string) (string, bool)) (Config, error) {
	src, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return Config{}, fmt.Errorf("cannot read the host's configuration %s: it does not exist; name another with --config, or begin with configs/gitopsd.yaml", path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the host's configuration: %w", err)
	}
	c, problems := ParseConfig(path, src, env)
	if err := strict.Explain(problems); err != nil {
		return Config{}, fmt.Errorf("cannot use the host's configuration: %w", err)
	}
	return c, nil
}

// readBounded reads a file that should be small.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, strict.MaxBytes+1))
}

// ParseConfig reads src, the content of file.
func ParseConfig(file string, src []byte, env func(string) (string, bool)) (Config, []strict.Problem) {
	c := Config{
		DataDir: DefaultDataDir, Socket: DefaultSocket, Listen: DefaultListen, DestinationRoot: "/",
		Repository: RepositoryConfig{Branch: DefaultBranch, Poll: DefaultPoll, AllowedSigners: DefaultAllowedSigners},
		S3:         S3Config{Enabled: true, Region: DefaultRegion}, HTTPS: HTTPSConfig{Enabled: true}, Timing: "standard",
		Retention: RetentionConfig{Releases: DefaultReleases, LogBytes: DefaultLogBytes},
		Log:       LogConfig{Level: slog.LevelInfo, Format: "text"},
	}
	var lookup strict.Env
	if env != nil {
		lookup = strict.Lookup(envPrefix, env)
	}
	doc, problems := strict.DecodeEnv(file, src, configTable(&c), lookup)
	if !doc.Has("s3.pathStyle") {
		c.S3.PathStyle = c.S3.Endpoint != ""
	}
	return c, append(problems, c.check(doc)...)
}

// ConfigSchema is the JSON Schema of the host's own file.
func ConfigSchema() map[string]any {
	return strict.Schema("gitopsd", "gitopsd: the host's own file", configTable(&Config{}))
}

// tenYears is the longest age that can be said.
const tenYears = 10 * 365 * 24 * time.Hour

// configTable lists the keys of the file, bound to c.
func configTable(c *Config) strict.Type {
	return strict.Object("What this host is, where its data lies, and how far it trusts git.",
		strict.Need("host", strict.String(&c.Host, desired.HostNameRule()), "this host's name in the inventory; never guessed from the hostname"),
		strict.May("dataDir", strict.String(&c.DataDir, desired.AbsoluteRule()), "git, raft, bundles, releases, journal"),
		strict.May("socket", strict.String(&c.Socket, desired.AbsoluteRule(), socketRule()), "unix socket for operators"),
		strict.May("listen", strict.String(&c.Listen, desired.ListenRule()), "HOST:PORT of the only TCP port"),
		strict.May("advertise", strict.String(&c.Advertise, desired.AddressRule()), "HOST:PORT others dial; by default the inventory's"),
		strict.May("join", strict.List(&c.Join, 0, 100, joinType), "NAME/ADDRESS of peers to try before the inventory is known"),
		strict.Need("repository", repositoryTable(&c.Repository), "the config repository"),
		strict.May("s3", strict.Object("",
			strict.May("enabled", strict.Bool(&c.S3.Enabled), "false on a host without a route to S3"),
			strict.May("endpoint", strict.String(&c.S3.Endpoint), "URL of the S3 service; empty for AWS"),
			strict.May("fallbacks", strict.List(&c.S3.Fallbacks, 0, 8, func(s *string) strict.Type { return strict.String(s, strict.Text(1024)) }), "endpoints with the same objects, tried in order while those before fail"),
			strict.May("region", strict.String(&c.S3.Region, strict.Text(64)), ""),
			strict.May("pathStyle", strict.Bool(&c.S3.PathStyle), "BUCKET in the path instead of the host name"),
			strict.May("credentialsFile", strict.String(&c.S3.CredentialsFile, fileRule()), "shared credentials file; empty for the credential chain"),
			strict.May("proxy", strict.String(&c.S3.Proxy), "URL; none; empty for what the environment says"),
		), "how this host reaches S3"),
		strict.May("https", httpsTable(&c.HTTPS), "how this host reaches URLs and forges"),
		strict.May("destinationRoot", strict.String(&c.DestinationRoot, desired.AbsoluteRule()), "put before every destination and permission object"),
		strict.May("fence", strict.Object("",
			strict.May("users", globs(&c.Fence.Users), "users hooks may run as"),
			strict.May("destinations", globs(&c.Fence.Destinations), "paths files may go to"),
			strict.May("origins", globs(&c.Fence.Origins), "buckets, URLs and directories bundles may come from"),
			strict.May("groups", globs(&c.Fence.Groups), "folders of groups this host takes part in"),
		), "limits above git; an empty list is no limit"),
		strict.May("limits", strict.Object("",
			strict.May("upload", strict.Rate(&c.Limits.Upload), "to peers; 0 for no limit"),
			strict.May("download", strict.Rate(&c.Limits.Download), "from peers and origins; 0 for no limit"),
			strict.May("disk", strict.Size(&c.Limits.Disk, 1<<50), "of bundles kept; 0 for no limit"),
		), ""),
		strict.May("retention", strict.Object("",
			strict.May("releases", strict.Int(&c.Retention.Releases, 2, 1000), "revisions of a group whose unpacked releases stay"),
			strict.May("releaseAge", strict.Duration(&c.Retention.ReleaseAge, 0, tenYears), "since a release was unpacked; 0 for no limit"),
			strict.May("releaseBytes", strict.Size(&c.Retention.ReleaseBytes, 1<<50), "of a group's releases; 0 for no limit"),
			strict.May("logAge", strict.Duration(&c.Retention.LogAge, 0, tenYears), "of hooks' output; 0 for no limit"),
			strict.May("logBytes", strict.Size(&c.Retention.LogBytes, 1<<50), "of a group's hooks' output; 0 for no limit"),
		), "what is kept of each group beyond what runs, what ran well last and what is being deployed"),
		strict.May("timing", strict.Enum(&c.Timing, "standard", "fast"), "how patient gossip and raft are; fast is for hosts on one machine or one switch"),
		strict.May("log", strict.Object("",
			strict.May("level", strict.Parsed(&c.Log.Level, "a level", "write debug, info, warn or error", map[string]any{"enum": []string{"debug", "info", "warn", "error"}}, parseLevel), ""),
			strict.May("format", strict.Enum(&c.Log.Format, "text", "json"), ""),
		), ""),
	)
}

func httpsTable(h *HTTPSConfig) strict.Type {
	return strict.Object("",
		strict.May("enabled", strict.Bool(&h.Enabled), "false on a host without a route"),
		strict.May("proxy", strict.String(&h.Proxy), "URL; none; empty for what the environment says"),
		strict.May("tokens", strict.List(&h.Tokens, 0, 64, func(t *TokenConfig) strict.Type {
			return strict.Object("",
				strict.Need("host", strict.String(&t.Host, strict.Match(strict.NewPattern(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`, 1, 260), "HOST or HOST:PORT")), "of the forge"),
				strict.Need("file", strict.String(&t.File, desired.AbsoluteRule()), "with the token"),
			)
		}), "for archives of private repositories"),
	)
}

func repositoryTable(r *RepositoryConfig) strict.Type {
	return strict.Object("",
		strict.Need("urls", strict.List(&r.URLs, 0, 16, func(s *string) strict.Type { return strict.String(s, strict.Text(1024)) }), "mirrors in order; [] on a host without a route to git"),
		strict.May("branch", strict.String(&r.Branch, strict.Match(strict.NewPattern(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`, 1, 200), "a branch name")), ""),
		strict.May("poll", strict.Duration(&r.Poll, 100*time.Millisecond, 24*time.Hour), "how often to look for a new commit"),
		strict.May("allowLocalPath", strict.Bool(&r.AllowLocalPath), "file paths and file:// URLs, only for development"),
		strict.Need("introduction", strict.String(&r.Introduction, desired.CommitRule()), "the commit this host's trust begins with"),
		strict.May("allowedSigners", strict.String(&r.AllowedSigners, desired.AbsoluteRule()), "OpenSSH allowed_signers file: who signed the introduction"),
		strict.May("credentials", strict.Object("",
			strict.May("sshKeyFile", strict.String(&r.Credentials.SSHKeyFile, fileRule()), ""),
			strict.May("knownHostsFile", strict.String(&r.Credentials.KnownHostsFile, fileRule()), ""),
			strict.May("tokenFile", strict.String(&r.Credentials.TokenFile, fileRule()), ""),
			strict.May("usernameFile", strict.String(&r.Credentials.UsernameFile, fileRule()), ""),
			strict.May("passwordFile", strict.String(&r.Credentials.PasswordFile, fileRule()), ""),
			strict.May("caFile", strict.String(&r.Credentials.CAFile, fileRule()), "PEM bundle for https"),
		), "files, never the secrets themselves"),
	)
}

func joinType(j *Join) strict.Type {
	return strict.Parsed(j, "NAME/ADDRESS", "for example web-2/10.0.0.12:7946", map[string]any{"type": "string", "pattern": "^[^/]+/.+:[0-9]+$"}, func(text string) (Join, error) {
		name, address, ok := strings.Cut(text, "/")
		if message, _ := desired.HostNameRule().Test(name); !ok || message != "" {
			return Join{}, fmt.Errorf("%.100q is not NAME/ADDRESS", text)
		}
		return Join{name, address}, desired.CheckAddress(address, false)
	})
}

// bounds says the same to apply, for which no bound of output is negative.
func (r RetentionConfig) bounds() apply.Retention {
	logs := r.LogBytes
	if logs == 0 {
		logs = -1
	}
	return apply.Retention{ReleaseAge: r.ReleaseAge, ReleaseBytes: r.ReleaseBytes, LogAge: r.LogAge, LogBytes: logs}
}

// globs is a list of patterns for path.Match.
func globs(into *[]string) strict.Type {
	return strict.List(into, 0, 1000, func(s *string) strict.Type {
		return strict.String(s, strict.Text(1024), strict.Rule{Test: func(pattern string) (string, string) {
			if _, err := path.Match(pattern, ""); err != nil {
				return fmt.Sprintf("%.100q is not a glob pattern", pattern), "close every bracket"
			}
			return "", ""
		}})
	})
}

// fileRule is an absolute path, or nothing.
func fileRule() strict.Rule {
	return strict.Rule{Test: func(s string) (string, string) {
		if s == "" {
			return "", ""
		}
		return desired.AbsoluteRule().Test(s)
	}}
}

// socketRule keeps the path within what a unix socket's address can hold.
func socketRule() strict.Rule {
	const longest = 100
	return strict.Rule{Test: func(s string) (string, string) {
		if len(s) > longest {
			return fmt.Sprintf("the path has %d bytes, a unix socket's at most %d", len(s), longest), "choose a shorter folder"
		}
		return "", ""
	}, Schema: map[string]any{"maxLength": longest}}
}

func parseLevel(text string) (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[text]
	if !ok {
		return 0, fmt.Errorf("%.40q is not a level", text)
	}
	return level, nil
}

// check judges what one key alone cannot show.
func (c Config) check(doc *strict.Doc) []strict.Problem {
	var problems []strict.Problem
	names := map[string]bool{}
	for i, j := range c.Join {
		at := fmt.Sprintf("join[%d]", i)
		if j.Name != "" && names[j.Name] {
			problems = append(problems, doc.Problem(at, "keep one address", "join: %s is there twice", j.Name))
		}
		names[j.Name] = true
	}
	for i, u := range c.Repository.URLs {
		if message, suggestion := checkRepositoryURL(u, c.Repository.AllowLocalPath); message != "" {
			problems = append(problems, doc.Problem(fmt.Sprintf("repository.urls[%d]", i), suggestion, "repository.urls: %s", message))
		}
	}
	problems = append(problems, c.checkOrigins(doc)...)
	return append(problems, c.Repository.Credentials.check(doc)...)
}

// checkOrigins judges URLs. They may hold passwords, which are never repeated.
func (c Config) checkOrigins(doc *strict.Doc) (problems []strict.Problem) {
	endpoint := func(at, value string) {
		if u, err := url.Parse(value); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			problems = append(problems, doc.Problem(at, "for example https://s3.example.com", "%s: %.120q is not an http or https URL without credentials and query", at, origin.Redact(value)))
		}
	}
	if c.S3.Endpoint != "" {
		endpoint("s3.endpoint", c.S3.Endpoint)
	}
	for i, fallback := range c.S3.Fallbacks {
		endpoint(fmt.Sprintf("s3.fallbacks[%d]", i), fallback)
	}
	proxy := func(at, value string) {
		if err := origin.CheckProxy(value); err != nil {
			problems = append(problems, doc.Problem(at, "", "%s: %v", at, err))
		}
	}
	proxy("s3.proxy", c.S3.Proxy)
	proxy("https.proxy", c.HTTPS.Proxy)
	return problems
}

// check allows one way to prove who we are.
func (c CredentialsConfig) check(doc *strict.Doc) []strict.Problem {
	const at = "repository.credentials"
	ways := 0
	for _, set := range []bool{c.SSHKeyFile != "" || c.KnownHostsFile != "", c.TokenFile != "", c.UsernameFile != "" || c.PasswordFile != ""} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		return []strict.Problem{doc.Problem(at, "keep one of sshKeyFile with knownHostsFile, tokenFile, usernameFile with passwordFile", "%s: more than one way to log in", at)}
	case (c.SSHKeyFile == "") != (c.KnownHostsFile == ""):
		return []strict.Problem{doc.Problem(at, "ssh-keyscan writes a known_hosts file; check the key before you trust it", "%s: sshKeyFile and knownHostsFile go together", at)}
	case (c.UsernameFile == "") != (c.PasswordFile == ""):
		return []strict.Problem{doc.Problem(at, "", "%s: usernameFile and passwordFile go together", at)}
	}
	return nil
}

var scpForm = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^:].*$`)

// checkRepositoryURL says what is wrong with a mirror.
func checkRepositoryURL(text string, allowLocal bool) (message, suggestion string) {
	if scpForm.MatchString(text) {
		return "", ""
	}
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Sprintf("%.200q is not a URL", origin.Redact(text)), "for example https://git.example.com/ops/config.git"
	}
	_, password := u.User.Password()
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.User != nil, u.Scheme == "ssh" && password:
		return "the URL holds credentials", "put them into a file and name it in repository.credentials"
	case (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "ssh") && u.Host != "":
		return "", ""
	case u.Scheme == "file" || u.Scheme == "" && strings.HasPrefix(text, "/"):
		if !allowLocal {
			return fmt.Sprintf("%.200q is a local path", origin.Redact(text)), "set allowLocalPath: true, only for development"
		}
		return "", ""
	}
	return fmt.Sprintf("%.200q is not a https, http or ssh URL", origin.Redact(text)), "for example https://git.example.com/ops/config.git"
}
