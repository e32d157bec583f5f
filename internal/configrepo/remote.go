package configrepo

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// remoteKind says by which road a mirror is reached.
type remoteKind int

const (
	remoteHTTP remoteKind = iota
	remoteSSH
	remoteLocal
)

// remote is a checked mirror URL.
type remote struct {
	kind remoteKind
	name string   // for people: never holds a credential
	url  *url.URL // http(s)
	user string   // ssh; also http user name in the URL
	host string   // ssh HOST:PORT
	path string   // ssh and local
}

// parseRemote reads a mirror URL; errors say what to write instead.
func parseRemote(raw string, allowLocal bool) (remote, error) {
	if raw == "" || len(raw) > 2048 || strings.ContainsFunc(raw, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return remote{}, fmt.Errorf("url %q is empty, too long or has control characters", raw)
	}
	if filepath.IsAbs(raw) {
		return localRemote(raw, raw, allowLocal)
	}
	if user, host, p, ok := scpLike(raw); ok {
		return sshRemote(raw, user, net.JoinHostPort(host, "22"), p)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return remote{}, fmt.Errorf("cannot read url: %w", err)
	}
	switch u.Scheme {
	case "http", "https":
		return httpRemote(u)
	case "ssh", "git+ssh", "ssh+git":
		if _, ok := u.User.Password(); ok {
			return remote{}, fmt.Errorf("url ssh://%s holds a password: use sshKeyFile", u.Host)
		}
		port := u.Port()
		if port == "" {
			port = "22"
		}
		return sshRemote(raw, u.User.Username(), net.JoinHostPort(u.Hostname(), port), u.Path)
	case "file":
		return localRemote(raw, u.Path, allowLocal)
	}
	return remote{}, fmt.Errorf("url %s has the unsupported scheme %q: use https, http, ssh or, with allowLocalPath, a path", u.Redacted(), u.Scheme)
}

func httpRemote(u *url.URL) (remote, error) {
	if u.Host == "" {
		return remote{}, fmt.Errorf("url %s names no host", u.Redacted())
	}
	if _, ok := u.User.Password(); ok {
		return remote{}, fmt.Errorf("url %s holds a password: put it into a file and name that under credentials", u.Redacted())
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return remote{}, fmt.Errorf("url %s has a query or fragment", u.Redacted())
	}
	user := u.User.Username()
	clean := *u
	clean.User = nil
	clean.Path = strings.TrimSuffix(clean.Path, "/")
	clean.RawPath = ""
	return remote{kind: remoteHTTP, name: clean.String(), url: &clean, user: user}, nil
}

func sshRemote(raw, user, host, p string) (remote, error) {
	if strings.HasPrefix(host, "-") || strings.HasPrefix(host, ":") || p == "" || p == "/" {
		return remote{}, fmt.Errorf("url %s names no host or no path", raw)
	}
	if user == "" {
		user = "git"
	}
	if strings.HasPrefix(p, "/~") {
		p = p[1:]
	}
	return remote{kind: remoteSSH, name: raw, user: user, host: host, path: p}, nil
}

func localRemote(raw, p string, allow bool) (remote, error) {
	if !allow {
		return remote{}, fmt.Errorf("url %s is a local path: set allowLocalPath: true (for development only)", raw)
	}
	if !filepath.IsAbs(p) {
		return remote{}, fmt.Errorf("url %s is not an absolute path", raw)
	}
	return remote{kind: remoteLocal, name: raw, path: path.Clean(p)}, nil
}

// scpLike recognises user@host:path, as git does: a colon before any slash.
func scpLike(raw string) (user, host, p string, ok bool) {
	if strings.Contains(raw, "://") {
		return "", "", "", false
	}
	before, after, found := strings.Cut(raw, ":")
	if !found || strings.Contains(before, "/") || before == "" {
		return "", "", "", false
	}
	host = before
	if at := strings.LastIndex(before, "@"); at >= 0 {
		user, host = before[:at], before[at+1:]
	}
	return user, host, after, host != "" && after != "" && after[0] != ':'
}
