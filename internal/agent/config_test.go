package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

const smallest = `host: web-1
repository:
  urls: []
  introduction: 0123456789abcdef0123456789abcdef01234567
`

func TestConfigDefaults(t *testing.T) {
	c, problems := ParseConfig("gitopsd.yaml", []byte(smallest), nil)
	if err := strict.Explain(problems); err != nil {
		t.Fatal(err)
	}
	want := Config{Host: "web-1", DataDir: "/var/lib/gitopsd", Socket: "/run/gitopsd/api.sock", Listen: "0.0.0.0:7946", DestinationRoot: "/", Timing: "standard",
		Repository: RepositoryConfig{URLs: []string{}, Branch: "main", Poll: 20 * time.Second, Introduction: "0123456789abcdef0123456789abcdef01234567", AllowedSigners: "/etc/gitopsd/allowed_signers"},
		S3:         S3Config{Enabled: true, Region: "us-east-1"}, HTTPS: HTTPSConfig{Enabled: true}, Log: LogConfig{Level: slog.LevelInfo, Format: "text"},
		Retention: RetentionConfig{Releases: 5, LogBytes: 64 << 20}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestConfigWhole(t *testing.T) {
	c, problems := ParseConfig("gitopsd.yaml", []byte(`
host: web-1
dataDir: /data
socket: /data/api.sock
listen: 127.0.0.1:0
advertise: "[2001:db8::1]:7946"
join: [web-2/10.0.0.12:7946, "web-3/[2001:db8::3]:7946"]
repository:
  urls: [/srv/config.git, file:///srv/config.git, https://git.example.com/a.git, ssh://git@git.example.com/a.git, git@git.example.com:ops/a.git]
  branch: release/1.0
  poll: 200ms
  allowLocalPath: true
  introduction: 0123456789abcdef0123456789abcdef01234567
  allowedSigners: /data/signers
  credentials: {sshKeyFile: /k, knownHostsFile: /h, caFile: /ca}
s3: {endpoint: "http://127.0.0.1:9000", fallbacks: ["https://s3.two.example.com"], proxy: none}
https: {proxy: "http://user:word@proxy:3128", tokens: [{host: git.example.com, file: /data/token}]}
destinationRoot: /data/root
fence: {users: ["www-*"], destinations: [/srv/*]}
limits: {upload: 10MiB/s, disk: 20GiB}
retention: {releases: 9, releaseAge: 720h, releaseBytes: 1GiB, logAge: 24h, logBytes: 0}
log: {level: debug, format: json}
`), nil)
	if err := strict.Explain(problems); err != nil {
		t.Fatal(err)
	}
	if !c.S3.PathStyle || c.Join[1] != (Join{"web-3", "[2001:db8::3]:7946"}) || c.Limits != (LimitsConfig{Upload: 10 << 20, Disk: 20 << 30}) || c.Log.Level != slog.LevelDebug {
		t.Errorf("config = %+v", c)
	}
	if got, want := c.Retention.bounds(), (apply.Retention{ReleaseAge: 720 * time.Hour, ReleaseBytes: 1 << 30, LogAge: 24 * time.Hour, LogBytes: -1}); got != want || c.Retention.Releases != 9 {
		t.Errorf("%d releases and %+v are kept, want 9 and %+v", c.Retention.Releases, got, want)
	}
}

func TestConfigProblems(t *testing.T) {
	with := func(extra string) string { return smallest + extra }
	cases := []struct{ name, src, want string }{
		{"misspelt", with("lisen: x\n"), `gitopsd.yaml:5:1: unknown key "lisen" (did you mean listen?)`},
		{"host missing", strings.Replace(smallest, "host: web-1\n", "", 1), `key "host" is missing`},
		{"introduction short", strings.Replace(smallest, "0123456789abcdef0123456789abcdef01234567", "0123456", 1), "is not a full commit id"},
		{"local path", strings.Replace(smallest, "[]", "[/srv/config.git]", 1), "gitopsd.yaml:3:10: repository.urls: \"/srv/config.git\" is a local path (set allowLocalPath: true, only for development)"},
		{"password in a url", strings.Replace(smallest, "[]", "[\"https://u:p@git.example.com/a.git\"]", 1), "the URL holds credentials"},
		{"git protocol", strings.Replace(smallest, "[]", "[\"git://git.example.com/a.git\"]", 1), "is not a https, http or ssh URL"},
		{"advertise nowhere", with("advertise: 0.0.0.0:7946\n"), "is no address another host can dial"},
		{"relative folder", with("dataDir: data\n"), "is not an absolute path"},
		{"long socket", with("socket: /" + strings.Repeat("x", 120) + "\n"), "a unix socket's at most 100"},
		{"join without name", with("join: [\"10.0.0.1:7946\"]\n"), "is not NAME/ADDRESS"},
		{"join twice", with("join: [a/10.0.0.1:1, a/10.0.0.2:1]\n"), "join: a is there twice"},
		{"glob", with("fence: {users: [\"[a\"]}\n"), "is not a glob pattern"},
		{"level", with("log: {level: loud}\n"), "is not a level (write debug, info, warn or error)"},
		{"fallback", with("s3: {fallbacks: [s3.example.com]}\n"), "s3.fallbacks[0]: \"s3.example.com\" is not an http or https URL"},
		{"proxy", with("https: {proxy: \"http:/user:word\"}\n"), "https.proxy: the proxy is no http, https or socks5 URL"},
		{"token", with("https: {tokens: [{host: \"https://h\", file: /t}]}\n"), "HOST or HOST:PORT"},
		{"rate", with("limits: {upload: 10MiB}\n"), "want a rate"},
		{"too few releases", with("retention: {releases: 1}\n"), "1 is not between 2 and 1000"},
		{"endpoint", with("s3: {endpoint: s3.example.com}\n"), "is not an http or https URL"},
		{"two ways in", strings.Replace(smallest, "urls", "credentials: {tokenFile: /t, usernameFile: /u, passwordFile: /p}\n  urls", 1), "more than one way to log in"},
		{"half a way in", strings.Replace(smallest, "urls", "credentials: {sshKeyFile: /t}\n  urls", 1), "sshKeyFile and knownHostsFile go together"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, problems := ParseConfig("gitopsd.yaml", []byte(c.src), nil)
			if err := strict.Explain(problems); err == nil || !strings.Contains(err.Error(), c.want) || len(problems) != 1 {
				t.Errorf("error = %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestConfigProblemsHoldNoCredentials: they are logged.
func TestConfigProblemsHoldNoCredentials(t *testing.T) {
	for _, src := range []string{
		smallest + "s3: {endpoint: \"https://user:PASSWORD@s3.example.com\"}\n",
		smallest + "s3: {endpoint: \"https://s3.example.com/?token=PASSWORD\"}\n",
		smallest + "s3: {endpoint: \"https://user:PASSWORD@%zz\"}\n",
		smallest + "s3: {fallbacks: [\"ftp://user:PASSWORD@s3.example.com\"]}\n",
		smallest + "s3: {proxy: \"proxy:PASSWORD@h\"}\n",
		strings.Replace(smallest, "[]", "[\"git://user:PASSWORD@git.example.com/a.git\"]", 1),
		strings.Replace(smallest, "[]", "[\"https://user:PASSWORD@%zz/a.git\"]", 1),
		strings.Replace(smallest, "[]", "[\"file://user:PASSWORD@h/a.git\"]", 1),
	} {
		_, problems := ParseConfig("gitopsd.yaml", []byte(src), nil)
		if err := strict.Explain(problems); err == nil || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("%s: %v", src, err)
		}
	}
}

func TestConfigEnvironment(t *testing.T) {
	env := map[string]string{"GITOPSD_HOST": "web-9", "GITOPSD_REPOSITORY_URLS": "https://a.example.com/c.git, https://b.example.com/c.git",
		"GITOPSD_LIMITS_UPLOAD": "1MiB/s", "GITOPSD_S3_ENABLED": "false", "GITOPSD_LOG_LEVEL": "warn", "GITOPSD_ADDR": "/run/elsewhere.sock"}
	c, problems := ParseConfig("gitopsd.yaml", []byte(smallest), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err := strict.Explain(problems); err != nil {
		t.Fatal(err)
	}
	if c.Host != "web-9" || len(c.Repository.URLs) != 2 || c.Limits.Upload != 1<<20 || c.S3.Enabled || c.Log.Level != slog.LevelWarn {
		t.Errorf("config = %+v", c)
	}
}

func TestLoadConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gitopsd.yaml")
	if _, err := LoadConfig(path, nil); err == nil || !strings.Contains(err.Error(), "it does not exist") {
		t.Errorf("error = %v", err)
	}
	if err := os.WriteFile(path, []byte("host: web-1\nhots: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig(path, nil)
	if err == nil || !strings.Contains(err.Error(), "2 problems") || !strings.Contains(err.Error(), path+":2:1: unknown key") {
		t.Errorf("error = %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(smallest))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, problems := ParseConfig("gitopsd.yaml", src, nil)
		if len(problems) == 0 && (c.Host == "" || c.DataDir == "" || len(c.Repository.Introduction) < 40) {
			t.Errorf("accepted %+v", c)
		}
	})
}
