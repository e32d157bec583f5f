package origin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// The forges whose archives can be read. Gitea's API is Forgejo's too.
const (
	ForgeGitHub = "GitHub" // GitHub Enterprise; github.com has a kind of its own
	ForgeGitLab = "GitLab"
	ForgeGitea  = "Gitea"
)

// gitHubAPI is where github.com hands out archives.
const gitHubAPI = "https://api.github.com"

// TokenSource returns the token to show to a forge's HOST or HOST:PORT; "" for none.
type TokenSource func(host string) (string, error)

var (
	commitForm     = regexp.MustCompile(`^[0-9a-f]{40}$`)
	repositoryForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`)
)

// forge is an archive that a forge makes of a commit.
type forge struct {
	location Location
	target   *url.URL
	client   *http.Client
	token    TokenSource
}

func openForge(l Location, o Options) (Origin, error) {
	if !commitForm.MatchString(l.Commit) {
		return nil, fmt.Errorf("commit %.60q is no full commit id", l.Commit)
	}
	if l.Type != "" && l.Type != bundle.TypeTgz && l.Type != bundle.TypeZip {
		return nil, fmt.Errorf("forges make tgz and zip, no %s", l.Type)
	}
	var target *url.URL
	var err error
	if l.Kind == GitHub {
		if !repositoryForm.MatchString(l.Owner) {
			return nil, fmt.Errorf("repository %.100q is not OWNER/NAME", l.Owner)
		}
		target, err = url.Parse(gitHubAPI + "/repos/" + l.Owner + "/" + l.gitHubEnding())
	} else {
		target, err = l.archiveURL(o.AllowHTTP)
	}
	if err != nil {
		return nil, err
	}
	return &forge{location: l, target: target, client: redirecting(o.Client, target.Scheme == "http"), token: o.Token}, nil
}

// gitHubEnding is the end of GitHub's address for an archive.
func (l Location) gitHubEnding() string {
	if l.Type == bundle.TypeZip {
		return "zipball/" + l.Commit
	}
	return "tarball/" + l.Commit
}

// archiveURL turns a repository's address into that of its archive in the forge's API.
func (l Location) archiveURL(allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(l.URL)
	if err != nil {
		return nil, errors.New("the URL is malformed")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && allowHTTP) {
		return nil, fmt.Errorf("its scheme is %q; only https is possible", u.Scheme)
	}
	name := strings.Trim(strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), ".git"), "/")
	if u.Host == "" || strings.Count(name, "/") < 1 || path.Clean(name) != name {
		return nil, errors.New("the URL names no repository; write https://HOST/OWNER/NAME")
	}
	u.User, u.RawQuery, u.Fragment, u.RawPath = nil, "", "", ""
	ending := ".tar.gz"
	if l.Type == bundle.TypeZip {
		ending = ".zip"
	}
	base, repository := "", name // the forge may live below a path of its host
	if parts := strings.Split(name, "/"); l.Forge != ForgeGitLab && len(parts) > 2 {
		base, repository = "/"+strings.Join(parts[:len(parts)-2], "/"), strings.Join(parts[len(parts)-2:], "/")
	}
	switch l.Forge {
	case ForgeGitLab: // groups nest, so that all of the path is the project
		u.Path, u.RawPath = "/api/v4/projects/"+name+"/repository/archive"+ending, "/api/v4/projects/"+url.PathEscape(name)+"/repository/archive"+ending
		u.RawQuery = "sha=" + l.Commit
	case ForgeGitea:
		u.Path = base + "/api/v1/repos/" + repository + "/archive/" + l.Commit + ending
	case ForgeGitHub:
		if u.Path = base + "/api/v3/repos/" + repository + "/" + l.gitHubEnding(); u.Host == "github.com" {
			u.Host, u.Path = "api.github.com", "/repos/"+repository+"/"+l.gitHubEnding()
		}
	default:
		return nil, fmt.Errorf("forge %q is unknown; GitHub, GitLab and Gitea (Forgejo too) are possible", l.Forge)
	}
	return u, nil
}

// get asks for the archive. A token goes to the forge's own host alone, and never in the clear.
func (f *forge) get(ctx context.Context) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "gitopsd")
	if f.token != nil {
		token, err := f.token(f.target.Host)
		switch {
		case err != nil:
			return nil, err
		case token != "" && f.target.Scheme != "https":
			return nil, &Error{Op: "read", Where: f.location.String(), Err: errors.New("its URL is http, and a token is never sent in the clear"), Advice: "write https in group.yaml"}
		case token != "":
			request.Header.Set("Authorization", "Bearer "+token)
		}
	}
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	_ = response.Body.Close()
	return nil, f.refused(response)
}

// refused explains an answer that is no archive.
func (f *forge) refused(response *http.Response) error {
	e := &Error{Op: "read", Where: f.location.String(), Err: &statusError{code: response.StatusCode, text: response.Status}}
	limited := response.Header.Get("X-Ratelimit-Remaining") == "0" || response.Header.Get("Retry-After") != ""
	switch status := response.StatusCode; {
	case status == http.StatusTooManyRequests, status == http.StatusForbidden && limited:
		e.Transient, e.Advice = true, "the forge limits how often it may be asked; with a token in https.tokens of gitopsd.yaml it allows more"
	case status == http.StatusAccepted: // still being made
		e.Transient = true
	case status == http.StatusNotFound, status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Advice = "correct repository and commitId in group.yaml; a private one needs a token in https.tokens of gitopsd.yaml"
	default:
		e.Transient, e.Advice = judgeStatus(status)
	}
	return e
}

// errOther says that a forge made other bytes of a commit than the revision pins.
var errOther = errors.New("the forge made other bytes of this commit than git pins")

func (f *forge) other(format string, args ...any) error {
	return &Error{Op: "read", Where: f.location.String(), Err: fmt.Errorf("%w: %s", errOther, fmt.Sprintf(format, args...)),
		Advice: "forges may pack anew at any time: pin the new digest and size, or keep the archive with `gitopsd bundle push`"}
}

// Size is what the revision says; of one that does not, the archive is read through.
func (f *forge) Size(ctx context.Context) (int64, error) {
	response, err := f.get(ctx)
	if err != nil {
		return 0, fail("ask for size of", f.location, err)
	}
	defer response.Body.Close()
	switch {
	case f.location.Size > 0:
		return f.location.Size, nil
	case response.ContentLength >= 0:
		return response.ContentLength, nil
	}
	size, err := io.Copy(io.Discard, io.LimitReader(response.Body, bundle.MaxArchiveBytes))
	return size, fail("ask for size of", f.location, err)
}

// ReadRange reads the archive from its start, whatever off is. Only the whole of it can be held against the pinned digest.
func (f *forge) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := checkRange(off, n); err != nil {
		return nil, fail("read", f.location, err)
	}
	response, err := f.get(ctx)
	if err != nil {
		return nil, fail("read", f.location, err)
	}
	if size := f.location.Size; size > 0 && response.ContentLength >= 0 && response.ContentLength != size {
		_ = response.Body.Close()
		return nil, f.other("%d bytes instead of %d", response.ContentLength, size)
	}
	body := io.ReadCloser(&brokenBody{response.Body})
	if off == 0 && n == f.location.Size && f.location.Digest != "" {
		return &judgedBody{ReadCloser: body, forge: f, left: n, sum: sha256.New()}, nil
	}
	return wholeBody(f.location, body, off, n), nil
}

// ReadIndex finds none: bytes that are made on demand have no object beside them.
func (f *forge) ReadIndex(context.Context) ([]byte, error) { return nil, withoutIndex(f.location) }

// brokenBody tells a connection that ended early from an archive that did.
type brokenBody struct{ io.ReadCloser }

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %w", errBroken, err)
	}
	return n, err
}

// judgedBody yields a whole archive and fails at its end if it is another one than the commit pins: what was read last is
// handed out only after that.
type judgedBody struct {
	io.ReadCloser
	forge *forge
	left  int64
	sum   hash.Hash
	err   error
}

func (b *judgedBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.sum.Write(p[:n])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		if b.err = b.judge(); b.err != io.EOF {
			return 0, b.err
		}
	case err == io.EOF:
		b.err = b.forge.other("%d bytes fewer", b.left)
	case err != nil:
		b.err = fail("read", b.forge.location, err)
	}
	return n, b.err
}

// judge looks for bytes beyond the end, and at the digest.
func (b *judgedBody) judge() error {
	var more [1]byte
	if n, _ := io.ReadFull(b.ReadCloser, more[:]); n > 0 {
		return b.forge.other("more than %d bytes", b.forge.location.Size)
	}
	var sum [sha256.Size]byte
	b.sum.Sum(sum[:0])
	if got := bundle.DigestOf(sum); got != b.forge.location.Digest {
		return b.forge.other("%s instead of %s", got, b.forge.location.Digest)
	}
	return io.EOF
}
